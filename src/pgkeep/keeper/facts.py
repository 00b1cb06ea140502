"""What the keeper knows of a database and of the repositories, as its commands' JSON tells it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pgkeep.model import Kind, Tier


@dataclass(frozen=True, slots=True)
class BackupFact:
    """A backup, by its public manifest."""

    backup: str
    kind: Kind
    tier: Tier
    started: datetime
    seconds: float = 0
    rows: int = 0
    text_bytes: int = 0
    stored_bytes: int = 0
    read_bytes: int = 0
    added_bytes: int = 0
    parts_read: int = 0
    parts_reused: int = 0
    repositories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DrillFact:
    """A restore that was made to prove something."""

    backup: str
    started: datetime
    outcome: str
    seconds: float = 0
    rows: int = 0

    @property
    def has_passed(self) -> bool:
        return self.outcome != "failed"


@dataclass(frozen=True, slots=True)
class SlotFact:
    """The replication slot, as the server says."""

    bytes: int
    limit_bytes: int | None
    is_lost: bool


@dataclass(frozen=True, slots=True)
class PlatformFact:
    """The platform's own backups, where it was asked."""

    pitr: bool
    newest: datetime | None
    """The newest whole one, or the end of what point-in-time recovery reaches."""
    failed: datetime | None
    """When the newest one was made, if that has failed."""
    problem: str = ""
    """Why the platform gave no answer."""


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """All that is known of one database."""

    name: str
    backups: tuple[BackupFact, ...] = ()
    """Newest first."""
    drills: tuple[DrillFact, ...] = ()
    """Newest first."""
    window: tuple[datetime, datetime] | None = None
    """The newest stretch of which every second can be restored."""
    loss_window: timedelta | None = None
    """What would be lost now; None if no change was ever captured."""
    slot: SlotFact | None = None
    server_problem: str = ""
    problems: tuple[str, ...] = ()
    """What is wrong with files in the repositories."""
    segments_lacking: Mapping[str, int] = field(default_factory=dict)
    rows_before: Mapping[str, int] | None = None
    """Rows by table in the full backup before the newest one, where both could be opened."""
    rows_now: Mapping[str, int] | None = None
    platform: PlatformFact | None = None

    @property
    def full_backups(self) -> tuple[BackupFact, ...]:
        return tuple(one for one in self.backups if one.kind is Kind.FULL)

    @property
    def backups_with_rows(self) -> tuple[BackupFact, ...]:
        return tuple(one for one in self.backups if one.kind.has_data)


@dataclass(frozen=True, slots=True)
class DiskFact:
    """A disk of this machine that pgkeep writes to."""

    path: str
    free_bytes: int
    total_bytes: int


def parse_status(
    document: Mapping[str, Any], backups: Iterable[Mapping[str, Any]]
) -> DatabaseFacts:
    """The facts of one database, of `pgkeep status --json` and `pgkeep list --json`."""
    name = document["database"]
    windows = [(_moment(one["from"]), _moment(one["to"])) for one in document["windows"]]
    loss, slot = document["loss_window_seconds"], document["slot"]
    return DatabaseFacts(
        name=name,
        backups=tuple(_backup(one) for one in backups if one["database"] == name),
        drills=tuple(
            DrillFact(
                one["backup"], _moment(one["started"]), one["outcome"], one["seconds"], one["rows"]
            )
            for one in document["drills"]
        ),
        window=max(windows, key=lambda one: one[1]) if windows else None,
        loss_window=None if loss is None else timedelta(seconds=loss),
        slot=None if slot is None else SlotFact(slot["bytes"], slot["limit_bytes"], slot["lost"]),
        server_problem=document["server"] or "",
        problems=tuple(document["problems"]),
        segments_lacking=dict(document["segments_lacking"]),
    )


def parse_platform(document: Mapping[str, Any]) -> PlatformFact:
    """Of `pgkeep list --platform --json`."""
    backups = [(_moment(one["made"]), one["status"]) for one in document["backups"]]
    whole = [made for made, status in backups if status == "COMPLETED"]
    if document["latest"]:
        whole.append(_moment(document["latest"]))
    newest = max(backups, default=None)
    failed = newest[0] if newest and newest[1] == "FAILED" else None
    return PlatformFact(document["pitr"], max(whole, default=None), failed)


def parse_tables(document: Mapping[str, Any]) -> dict[str, int]:
    """Rows by table, of `pgkeep show --json`."""
    return {f"{one['schema']}.{one['table']}": one["rows"] for one in document["tables"]}


def _backup(document: Mapping[str, Any]) -> BackupFact:
    return BackupFact(
        backup=document["backup"],
        kind=Kind(document["kind"]),
        tier=Tier(document["tier"]),
        started=_moment(document["started"]),
        seconds=document["seconds"],
        rows=document["rows"],
        text_bytes=document["bytes_of_text"],
        stored_bytes=document["bytes_of_backup"],
        read_bytes=document["bytes_read"],
        added_bytes=document["bytes_stored"],
        parts_read=document["parts_read"],
        parts_reused=document["parts_reused"],
        repositories=tuple(document["repositories"]),
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
