"""The whole disaster procedure, step by step, each done once: what was done is remembered.

    stop the application · keep what is left · make a new database · restore and prove ·
    ask what must hold · start the application

Planning is apart from doing: the plan can be printed, and a crash or a failure at any step leaves
a note from which the same command goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

import psycopg

from pgkeep.errors import ConfigurationError, RestoreFailed, TargetNotReady
from pgkeep.events import Noticed, Reporter, StageBegan, StageEnded
from pgkeep.model import BackupId, DatabaseProperties, quote_identifier
from pgkeep.postgres import catalog
from pgkeep.postgres.address import Address
from pgkeep.postgres.session import Connection, connect, translated
from pgkeep.postgres.statements import literal
from pgkeep.recovery.target import MARK
from pgkeep.repository.evidence import Step
from pgkeep.repository.hostkeys import write_private

_MAINTENANCE = ("postgres", "template1")


class StepName(StrEnum):
    """The steps in their order."""

    STOP = "stop the application"
    KEEP = "keep what is left"
    MAKE = "make a new database"
    RESTORE = "restore and prove"
    ASK = "ask what must hold"
    START = "start the application"


class Keeping(StrEnum):
    """What becomes of the old database."""

    RENAME = "rename"
    BACK_UP = "back up"
    FORGET = "forget"
    LEAVE = "leave"
    """It is elsewhere, and nothing here touches it."""


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """All that is decided before anything is done."""

    database: str
    backup: BackupId
    moment: str
    """In words."""
    source: Address
    target: Address
    keeping: Keeping
    old_name: str
    """What the old database is called afterwards, if it is renamed."""
    makes_target: bool
    stop: Sequence[Sequence[str]]
    start: Sequence[Sequence[str]]
    hook_seconds: float
    checks: int
    expected: timedelta | None
    """How long the restore takes, by the last drills."""
    loses: timedelta
    """From the moment until now."""

    @property
    def steps(self) -> tuple[StepName, ...]:
        """Those that there is something to do in."""
        wanted = {
            StepName.STOP: bool(self.stop),
            StepName.KEEP: self.keeping is not Keeping.LEAVE,
            StepName.MAKE: self.makes_target,
            StepName.RESTORE: True,
            StepName.ASK: bool(self.checks),
            StepName.START: bool(self.start),
        }
        return tuple(step for step, is_wanted in wanted.items() if is_wanted)


def describe(plan: RecoveryPlan) -> Iterator[str]:
    """The plan in words."""
    yield f"recover {plan.database} to {plan.moment}, from backup {plan.backup}"
    yield f"  what happened since then is lost: {_in_words(plan.loses)}"
    if plan.expected is not None:
        yield f"  the restore takes about {_in_words(plan.expected)}, by the last drills"
    for number, step in enumerate(plan.steps, 1):
        yield f"{number}. {step}: {_what(plan, step)}"


def _what(plan: RecoveryPlan, step: StepName) -> str:
    match step:
        case StepName.STOP:
            return "; ".join(" ".join(command) for command in plan.stop)
        case StepName.START:
            return "; ".join(" ".join(command) for command in plan.start)
        case StepName.KEEP:
            return {
                Keeping.RENAME: f"{plan.source} becomes {plan.old_name}",
                Keeping.BACK_UP: f"a last backup of {plan.source}",
                Keeping.FORGET: f"{plan.source} is DROPPED",
                Keeping.LEAVE: "",
            }[plan.keeping]
        case StepName.ASK:
            return f"{plan.checks} checks"
        case _:
            return str(plan.target)


def _in_words(span: timedelta) -> str:
    seconds = round(span.total_seconds())
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"


# --- what was done --------------------------------------------------------------------------------


@dataclass(slots=True)
class Progress:
    """Which steps of a recovery are done, in a file, so that a second try goes on from there."""

    path: Path
    began: datetime
    moment: str
    backup: str
    old_name: str
    done: dict[str, float] = field(default_factory=dict)
    """Seconds that each step took."""
    attempts: int = 0

    @classmethod
    def load(cls, path: Path) -> Progress | None:
        """What an unfinished recovery left; None if there is none."""
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            found = json.loads(text)
            return cls(
                path,
                datetime.fromisoformat(found["began"]),
                found["moment"],
                found["backup"],
                found["old_name"],
                {str(name): float(seconds) for name, seconds in found["done"].items()},
                int(found["attempts"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ConfigurationError(
                f"the note of an unfinished recovery, {str(path)!r}, cannot be read",
                hint="Look which steps were done, delete the file, and begin anew.",
            ) from exc

    def save(self) -> None:
        """Durably, before the next step begins."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        document = {
            "began": self.began.astimezone(UTC).isoformat(),
            "moment": self.moment,
            "backup": self.backup,
            "old_name": self.old_name,
            "done": self.done,
            "attempts": self.attempts,
        }
        write_private(self.path, json.dumps(document, indent=2).encode())

    def finish(self) -> None:
        """Nothing is unfinished any more."""
        self.path.unlink(missing_ok=True)


Action = Callable[[], None]


def carry_out(
    plan: RecoveryPlan,
    actions: Mapping[StepName, Action],
    progress: Progress,
    reporter: Reporter,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Step, ...]:
    """Do every step that is not done yet. An error ends it; what was done stays noted."""
    progress.attempts += 1
    progress.save()
    for step in plan.steps:
        if step in progress.done:
            reporter.report(Noticed(f"done before: {step}"))
            continue
        reporter.report(StageBegan(step))
        began = clock()
        actions[step]()
        progress.done[step] = round(clock() - began, 3)
        progress.save()
        reporter.report(StageEnded(step, _what(plan, step)))
    return tuple(Step(step, progress.done[step]) for step in plan.steps)


# --- single steps ---------------------------------------------------------------------------------


def run_hooks(commands: Sequence[Sequence[str]], seconds: float, facts: Mapping[str, str]) -> None:
    """Run the user's commands, in order. `RestoreFailed` for the first that fails.

    They get what they may want to know as variables `PGKEEP_...`, and no secret.
    """
    environment = {**os.environ, **facts}
    for command in commands:
        what = " ".join(command)
        try:
            done = subprocess.run(
                command, env=environment, timeout=seconds, check=False, capture_output=True
            )
        except subprocess.TimeoutExpired as exc:
            raise RestoreFailed(
                f"the command {what!r} was not done after {seconds:g} s",
                hint="Do by hand what it was to do, take it out of the configuration, and run"
                " pgkeep recover again: it goes on from here.",
            ) from exc
        except (OSError, ValueError) as exc:
            raise RestoreFailed(
                f"the command {what!r} cannot be run: {exc}",
                hint="Correct it in the configuration, and run pgkeep recover again.",
            ) from exc
        if done.returncode:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-300:]
            raise RestoreFailed(
                f"the command {what!r} ended with {done.returncode}: {said or 'it said nothing'}",
                hint="Do by hand what it was to do, or correct it, and run pgkeep recover again:"
                " it goes on from here.",
            )


def rename_database(source: Address, new_name: str, slot: str) -> None:
    """Put the old database out of the way. Who is connected is cut off.

    A slot of ours goes first: it would hold WAL for a database that nobody captures any more.
    """
    old = quote_identifier(source.database)
    with _maintenance(source) as connection:
        if not _exists(connection, source.database):
            return
        _drop_slots(connection, source.database, slot)
        connection.execute(f"ALTER DATABASE {old} WITH ALLOW_CONNECTIONS false".encode())
        _cut_off(connection, source.database)
        connection.execute(f"ALTER DATABASE {old} RENAME TO {quote_identifier(new_name)}".encode())
        connection.execute(
            f"ALTER DATABASE {quote_identifier(new_name)} WITH ALLOW_CONNECTIONS true".encode()
        )


def drop_database(source: Address, slot: str) -> None:
    """Drop a database, whoever is connected; it is no error if it is not there."""
    with _maintenance(source) as connection:
        _drop_slots(connection, source.database, slot)
        connection.execute(
            f"DROP DATABASE IF EXISTS {quote_identifier(source.database)} WITH (FORCE)".encode()
        )


def make_database(target: Address, like: DatabaseProperties) -> None:
    """An empty database with the encoding and, where the server has it, the locale of the source.

    One that is there and empty will do; one that an earlier try has left incomplete is dropped
    first; any other is an error.
    """
    name = quote_identifier(target.database)
    with _maintenance(target) as connection:
        if _exists(connection, target.database):
            if not _is_incomplete(connection, target.database):
                if _is_empty(target):
                    return
                raise TargetNotReady(
                    f"there is a database {target.database!r} already",
                    hint="Rename or drop it, or recover into another one with --target.",
                )
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        base = f"CREATE DATABASE {name} TEMPLATE template0 ENCODING {literal(like.encoding)}"
        locale = f" LC_COLLATE {literal(like.collate)} LC_CTYPE {literal(like.ctype)}"
        try:
            connection.execute(f"{base}{locale}".encode())
        except (psycopg.errors.WrongObjectType, psycopg.errors.InvalidParameterValue):
            connection.execute(base.encode())  # a locale that this server does not have


@contextmanager
def _maintenance(address: Address) -> Iterator[Connection]:
    """A session on the same server, in a database that is not the one to be changed."""
    name = next(name for name in _MAINTENANCE if name != address.database)
    elsewhere = address.with_database(name)
    with closing(connect(elsewhere)) as connection, translated(elsewhere):
        yield connection


def _exists(connection: Connection, name: str) -> bool:
    query = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = %s)"
    row = connection.execute(query, (name,)).fetchone()
    return bool(row and row[0])


def _is_incomplete(connection: Connection, name: str) -> bool:
    row = connection.execute(
        "SELECT pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database"
        " WHERE datname = %s",
        (name,),
    ).fetchone()
    return bool(row and (row[0] or "").startswith(MARK))


def _is_empty(address: Address) -> bool:
    with closing(connect(address)) as connection, translated(address):
        return not catalog.occupants(connection)


def _cut_off(connection: Connection, name: str) -> None:
    connection.execute(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity"
        " WHERE datname = %s AND pid <> pg_catalog.pg_backend_pid()",
        (name,),
    )
    for _ in range(100):  # they end in their own time
        row = connection.execute(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE datname = %s)", (name,)
        ).fetchone()
        if not row or not row[0]:
            return
        time.sleep(0.1)


def _drop_slots(connection: Connection, database: str, slot: str) -> None:
    connection.execute(
        "SELECT pg_catalog.pg_terminate_backend(active_pid)"
        "  FROM pg_catalog.pg_replication_slots"
        " WHERE slot_name = %s AND database = %s AND active_pid IS NOT NULL",
        (slot, database),
    )
    for _ in range(50):
        try:
            connection.execute(
                "SELECT pg_catalog.pg_drop_replication_slot(slot_name)"
                "  FROM pg_catalog.pg_replication_slots WHERE slot_name = %s AND database = %s",
                (slot, database),
            )
        except psycopg.errors.ObjectInUse:
            time.sleep(0.1)
        else:
            return
