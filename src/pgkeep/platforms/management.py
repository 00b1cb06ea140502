"""Supabase's Management API: what a project is, its own backups, and restores in place.

The shapes are those of its OpenAPI description (supabase/cli, packages/api/src/generated). Only
calls that may be made twice are tried again, and none after a refused token.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

from pgkeep.errors import PlatformRefused, PlatformUnreachable
from pgkeep.networks import is_this_machine

API = "https://api.supabase.com"
READY = "ACTIVE_HEALTHY"
_ATTEMPTS = 4
_SECONDS = 30
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Project:
    """A project as the API tells of it."""

    ref: str
    name: str
    status: str
    region: str
    host: str
    version: str

    @property
    def is_ready(self) -> bool:
        """Whether it can be connected to."""
        return self.status == READY


@dataclass(frozen=True, slots=True)
class PlatformBackup:
    """One of the platform's own backups."""

    id: int
    made: datetime
    status: str
    is_physical: bool

    @property
    def is_complete(self) -> bool:
        return self.status == "COMPLETED"


@dataclass(frozen=True, slots=True)
class PlatformBackups:
    """All of them, and how far back every second can be reached."""

    pitr: bool
    backups: tuple[PlatformBackup, ...]
    """Newest first."""
    earliest: datetime | None
    latest: datetime | None


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """A named moment to go back to."""

    name: str
    status: str
    completed: datetime | None


@dataclass(frozen=True, slots=True)
class Login:
    """A role that the platform made for a while."""

    role: str
    password: str = field(repr=False)
    seconds: int


@dataclass(frozen=True, slots=True)
class PoolerAddress:
    """Where the session pooler of a project is."""

    host: str
    user: str
    database: str


class Management:
    """The API, with one token. `sleep` is for tests."""

    def __init__(
        self, token: str, *, api: str = API, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        parts = urlsplit(api)
        if parts.scheme != "https" and not is_this_machine(parts.hostname or ""):
            raise PlatformRefused(f"{api!r} is not https://, and the token would go there readable")
        self._token = token
        self._api = api.rstrip("/")
        self._sleep = sleep

    def project(self, ref: str) -> Project:
        """What it is and how it is."""
        found = self._get(f"/v1/projects/{quote(ref)}")
        database = found.get("database") or {}
        return Project(
            ref, found.get("name", ""), found.get("status", ""), found.get("region", ""),
            database.get("host", ""), str(database.get("version", "")),
        )  # fmt: skip

    def backups(self, ref: str) -> PlatformBackups:
        """Its own backups."""
        found = self._get(f"/v1/projects/{quote(ref)}/database/backups")
        listed = [
            PlatformBackup(
                one["id"], _moment(one["inserted_at"]), one["status"], one["is_physical_backup"]
            )
            for one in found.get("backups", ())
        ]
        physical = found.get("physical_backup_data") or {}
        return PlatformBackups(
            bool(found.get("pitr_enabled")),
            tuple(sorted(listed, key=lambda one: one.made, reverse=True)),
            _unix(physical.get("earliest_physical_backup_date_unix")),
            _unix(physical.get("latest_physical_backup_date_unix")),
        )

    def restore_points(self, ref: str) -> tuple[RestorePoint, ...]:
        """Its restore points."""
        found = self._get(f"/v1/projects/{quote(ref)}/database/backups/restore-point")
        listed = found if isinstance(found, list) else [found] if found.get("name") else []
        return tuple(map(_restore_point, listed))

    def make_restore_point(self, ref: str, name: str) -> RestorePoint:
        """Name this moment."""
        path = f"/v1/projects/{quote(ref)}/database/backups/restore-point"
        return _restore_point(self._post(path, {"name": name}))

    def restore_to(self, ref: str, moment: datetime) -> None:
        """Begin a restore in place, to a second."""
        path = f"/v1/projects/{quote(ref)}/database/backups/restore-pitr"
        self._post(path, {"recovery_time_target_unix": int(moment.timestamp())})

    def restore_backup(self, ref: str, number: int) -> None:
        """Begin a restore in place, of one of its daily backups."""
        self._post(f"/v1/projects/{quote(ref)}/database/backups/restore", {"id": number})

    def undo_to(self, ref: str, name: str) -> None:
        """Begin a restore in place, to a restore point."""
        self._post(f"/v1/projects/{quote(ref)}/database/backups/undo", {"name": name})

    def login(self, ref: str, *, read_only: bool) -> Login:
        """A temporary role: once logged in, it may become `postgres`."""
        path = f"/v1/projects/{quote(ref)}/cli/login-role"
        found = self._post(path, {"read_only": read_only})
        return Login(found["role"], found["password"], int(found["ttl_seconds"]))

    def pooler(self, ref: str) -> PoolerAddress | None:
        """The pooler of the primary, whose name cannot be guessed."""
        found = self._get(f"/v1/projects/{quote(ref)}/config/database/pooler")
        for one in found if isinstance(found, list) else [found]:
            if one.get("database_type", "PRIMARY") == "PRIMARY" and one.get("db_host"):
                return PoolerAddress(one["db_host"], one["db_user"], one["db_name"])
        return None

    # --- the wire ---------------------------------------------------------------------------------

    def _get(self, path: str) -> Any:
        for attempt in range(_ATTEMPTS):
            try:
                return self._call("GET", path, None)
            except PlatformUnreachable as exc:
                if attempt + 1 == _ATTEMPTS:
                    raise
                self._sleep(min(exc.again_after or 2.0**attempt, _LONGEST_PAUSE))
        raise AssertionError

    def _post(self, path: str, document: Mapping[str, object]) -> Any:
        """Once: whether it was heard is not known where no answer came."""
        return self._call("POST", path, document)

    def _call(self, method: str, path: str, document: Mapping[str, object] | None) -> Any:
        request = urllib.request.Request(  # noqa: S310  (https, or this machine: see __init__)
            self._api + path,
            method=method,
            data=None if document is None else json.dumps(document).encode(),
            headers={
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/json",
                "Accept": "application/json",
                "User-Agent": "pgkeep",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as exc:
            raise _refusal(exc.code, exc.read(), dict(exc.headers.items()), path) from None
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "reason", None) or exc
            raise PlatformUnreachable(f"{self._api} does not answer: {reason}") from None


def _refusal(
    code: int, body: bytes, headers: Mapping[str, str], path: str
) -> PlatformRefused | PlatformUnreachable:
    try:
        said = json.loads(body).get("message", "")
    except (ValueError, AttributeError):
        said = ""
    what = f"Supabase answers {code} to {path}{f': {said}' if said else ''}"
    if code == 429 or code >= 500:
        waits = {name.lower(): value for name, value in headers.items()}
        again = waits.get("retry-after") or waits.get("x-ratelimit-reset") or ""
        return PlatformUnreachable(
            what, hint="Try again later.", again_after=float(again) if again.isdigit() else None
        )
    hints = {
        401: "The token is not valid: make one under Account, Access Tokens.",
        402: "The project's plan does not include it.",
        403: "The token's owner may not do this in the project's organization.",
        404: "Is the project's reference right? It is in the address of its dashboard.",
    }
    return PlatformRefused(what, hint=hints.get(code, ""))


def _restore_point(found: Mapping[str, Any]) -> RestorePoint:
    completed = found.get("completed_on")
    return RestorePoint(found["name"], found["status"], _moment(completed) if completed else None)


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _unix(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
