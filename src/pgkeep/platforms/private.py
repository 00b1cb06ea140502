"""What a project keeps apart: secrets of the vault, jobs of cron, verifiers of passwords.

Read in the backup's snapshot, held in memory alone, and sealed to the operators' keys: the host
that makes backups cannot open them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pgkeep.errors import ManifestInvalid
from pgkeep.model import Hosting, NotKept, TableName
from pgkeep.platforms.supabase import CRON, VAULT, may_read
from pgkeep.postgres.session import Connection
from pgkeep.records import JsonForm

Record = TypeVar("Record")

_DECRYPTED = TableName(VAULT, "decrypted_secrets")
_JOBS = TableName(CRON, "job")


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret of the vault, in clear. Never printed: its text is not in its repr."""

    id: str
    name: str | None
    description: str
    text: str

    def __repr__(self) -> str:
        return f"Secret({self.id!r}, {self.name!r})"


@dataclass(frozen=True, slots=True)
class Job:
    """A job of pg_cron. Its command may hold a key: it is not in its repr."""

    id: int
    name: str | None
    schedule: str
    command: str
    database: str
    username: str
    active: bool

    def __repr__(self) -> str:
        return f"Job({self.id!r}, {self.name!r})"

    @property
    def label(self) -> str:
        return repr(self.name) if self.name else f"number {self.id}"


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server checks a role's password by (SCRAM): not the password."""

    role: str
    verifier: str

    def __repr__(self) -> str:
        return f"Verifier({self.role!r})"


@dataclass(frozen=True, slots=True)
class Private:
    """All of them, and what could not be read."""

    secrets: tuple[Secret, ...] = ()
    jobs: tuple[Job, ...] = ()
    passwords: tuple[Verifier, ...] = ()
    not_kept: tuple[NotKept, ...] = ()


NOTHING_PRIVATE = Private()

_SECRETS = JsonForm(tuple[Secret, ...])
_JOB_LIST = JsonForm(tuple[Job, ...])
_VERIFIERS = JsonForm(tuple[Verifier, ...])


def read_private(connection: Connection, hosting: Hosting, *, passwords: bool) -> Private:
    """What this role may read of it; verifiers only on request."""
    names = {name for name, _, _ in hosting.extensions}
    missing: list[NotKept] = []
    secrets = _read_secrets(connection, missing) if "supabase_vault" in names else ()
    jobs = _read_jobs(connection, missing) if "pg_cron" in names else ()
    verifiers = _read_verifiers(connection, hosting, missing) if passwords else ()
    return Private(secrets, jobs, verifiers, tuple(missing))


def _read_secrets(connection: Connection, missing: list[NotKept]) -> tuple[Secret, ...]:
    if not may_read(connection, _DECRYPTED):
        missing.append(NotKept("secrets of the vault", f"this role may not read {_DECRYPTED}"))
        return ()
    rows = connection.execute(
        "SELECT id::text, name, COALESCE(description, ''), decrypted_secret"
        f"  FROM {_DECRYPTED.sql} ORDER BY created_at, id".encode()
    ).fetchall()
    missing += [
        NotKept(f"secret {name or number!r} of the vault", "the server could not decrypt it")
        for number, name, _, text in rows
        if text is None
    ]
    return tuple(Secret(*row) for row in rows if row[3] is not None)


def _read_jobs(connection: Connection, missing: list[NotKept]) -> tuple[Job, ...]:
    if not may_read(connection, _JOBS):
        missing.append(NotKept("jobs of cron", f"this role may not read {_JOBS}"))
        return ()
    rows = connection.execute(
        "SELECT jobid::int8, jobname::text, schedule, command, database, username, active"
        f"  FROM {_JOBS.sql} ORDER BY jobid".encode()
    ).fetchall()
    return tuple(Job(*row) for row in rows)


def _read_verifiers(
    connection: Connection, hosting: Hosting, missing: list[NotKept]
) -> tuple[Verifier, ...]:
    """Of users' roles that log in; those of the platform and `postgres` are the project's own."""
    if not may_read(connection, TableName("pg_catalog", "pg_authid")):
        missing.append(NotKept("verifiers of passwords", "this role may not read pg_authid"))
        return ()
    hidden = [*hosting.roles, "postgres", "anon", "authenticated", "service_role"]
    rows: Sequence[tuple[Any, ...]] = connection.execute(
        "SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolpassword IS NOT NULL"
        "   AND rolcanlogin AND rolname !~ '^(pg_|cli_login_)' AND rolname <> ALL (%s) ORDER BY 1",
        (hidden,),
    ).fetchall()
    return tuple(Verifier(*row) for row in rows)


def dump_secrets(secrets: tuple[Secret, ...]) -> bytes:
    """As JSON, to be sealed at once."""
    return _SECRETS.dump(secrets)


def dump_jobs(jobs: tuple[Job, ...]) -> bytes:
    """As JSON, to be sealed at once."""
    return _JOB_LIST.dump(jobs)


def dump_verifiers(verifiers: tuple[Verifier, ...]) -> bytes:
    """As JSON, to be sealed at once."""
    return _VERIFIERS.dump(verifiers)


def load_secrets(data: bytes) -> tuple[Secret, ...]:
    """From a backup; `ManifestInvalid` without a word of what they say."""
    return _load(_SECRETS, data, "secrets")


def load_jobs(data: bytes) -> tuple[Job, ...]:
    """From a backup; `ManifestInvalid` without a word of what they say."""
    return _load(_JOB_LIST, data, "jobs")


def load_verifiers(data: bytes) -> tuple[Verifier, ...]:
    """From a backup; `ManifestInvalid` without a word of what they say."""
    return _load(_VERIFIERS, data, "verifiers")


def _load(adapter: JsonForm[Record], data: bytes, what: str) -> Record:
    try:
        return adapter.load(data)
    except ValueError:
        # Without its cause, which would repeat what is in there.
        raise ManifestInvalid(
            f"the sealed {what} of the backup are not valid",
            hint="The file is damaged, or was not written by pgkeep.",
        ) from None
