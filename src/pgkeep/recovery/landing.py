"""What is special about the place that is restored into; on a server of one's own, nothing.

A restore goes through the same steps everywhere. Where a platform has its say, some steps do more,
and what the platform refuses is collected, with what it means, while the rest goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import psycopg

from pgkeep.errors import PgkeepError
from pgkeep.events import Reporter
from pgkeep.model import TableName, quote_identifier
from pgkeep.postgres.archive import Archive, Entry, use_list
from pgkeep.postgres.dumping import run_script, run_script_through, script_from_archive
from pgkeep.postgres.programs import Programs
from pgkeep.postgres.selection import Selection
from pgkeep.postgres.session import Connection, server_major
from pgkeep.postgres.statements import database_grants, database_settings, refresh
from pgkeep.recovery import target
from pgkeep.recovery.plan import RestorePlan, Scope, TableRestore
from pgkeep.recovery.refusals import Refused, meaning_of, named
from pgkeep.recovery.refusing import RefusingChecks
from pgkeep.recovery.request import RestoreRequest

_ENTRY = re.compile(rb"^-- TOC entry (\d+) \(", re.M)


@dataclass(frozen=True, slots=True)
class Run:
    """One restore under way: what all its steps need. `connection` is the coordinator's."""

    request: RestoreRequest
    scope: Scope
    plan: RestorePlan
    archive: Archive | None
    archive_bytes: bytes
    programs: Programs
    connection: Connection
    reporter: Reporter
    landing: Landing
    """What is special about the target."""
    refusing: RefusingChecks


@dataclass(frozen=True, slots=True)
class Expectation:
    """Which definitions the target must have; None: all. Does it hold others besides?"""

    selection: Selection | None
    more_in_target: bool


class Landing:
    """A server of one's own: every statement must succeed."""

    is_managed = False

    def __init__(self) -> None:
        self.refused: list[Refused] = []
        self.remarks: list[str] = []

    # --- before anything is written -------------------------------------------------------------

    def adapt(self, plan: RestorePlan) -> RestorePlan:
        """The plan as this place can have it."""
        return plan

    def refuse_occupied(self, connection: Connection, database: str) -> None:
        """`TargetNotEmpty` if there is anything of a user's."""
        target.refuse_occupied(connection, database)

    # --- the steps, in their order ----------------------------------------------------------------

    def create_roles(self, run: Run) -> tuple[str, ...]:
        """The roles that the definitions name and the server lacks; the names of those made."""
        return target.create_missing_roles(run.connection, run.request.contents)

    def prepare(self, run: Run) -> RestorePlan:
        """What has to be there before the definitions; the plan as it can be carried out then."""
        return run.plan

    def make(self, run: Run, entries: Iterable[Entry]) -> None:
        """Make entries of the archive. The first that fails ends the restore."""
        if script := _script(run, entries):
            run_script(run.programs, run.request.target, script)

    def defined(self, run: Run) -> RestorePlan:
        """What comes between the definitions and the rows; the plan for the rows."""
        return run.plan

    def settings(self, run: Run) -> tuple[str, ...]:
        """For the sessions that load rows."""
        # Rows alone go into tables whose triggers and foreign keys are there: keep those quiet.
        return target.quiet_settings(run.connection) if not run.scope.schema else ()

    def refuse_rows(self, _table: TableRestore, _error: PgkeepError, /) -> bool:
        """Whether the rows of a table may be refused, and the others go on."""
        return False

    def filled(self, run: Run) -> None:
        """What comes between the rows and the definitions that wait for them."""

    def set_database(self, run: Run) -> None:
        """The settings of the database, those of roles in it, and who may do what with it."""
        for statement in _database_settings(run):
            run.connection.execute(statement.encode())
        for statement in _database_grants(run):
            try:
                run.connection.execute(statement.encode())
            except psycopg.errors.InsufficientPrivilege as exc:  # it is not the role's own
                reason = exc.diag.message_primary or str(exc)
                self.remarks.append(f"not done: {statement}: {reason}")

    def refresh(self, run: Run, view: TableName) -> None:
        """Fill a materialized view."""
        run.connection.execute(refresh(view).encode())

    def settle(self, run: Run) -> None:
        """What comes last."""

    def expects(self, run: Run) -> Expectation:
        """What the definitions are compared with at the end."""
        return Expectation(run.plan.selection, more_in_target=run.request.allow_occupied)


class Forbearing(Landing):
    """A place where some statements are refused: they are noted, and the rest goes on."""

    is_managed = True

    def __init__(self) -> None:
        super().__init__()
        self.refused_entries: set[int] = set()
        """Entries of the archive of which some statement was refused."""

    def refuse(self, what: str, reason: str, meaning: str) -> None:
        """Note it, once."""
        refused = Refused(what, reason, meaning)
        if refused not in self.refused:
            self.refused.append(refused)

    def attempt(
        self,
        connection: Connection,
        statement: str,
        what: str,
        meaning: str,
        values: Sequence[object] | None = None,
    ) -> bool:
        """Run a statement, or note that it was refused."""
        try:
            connection.execute(statement.encode(), values)
        except psycopg.OperationalError:
            if connection.closed or connection.broken:
                raise
            self.refuse(what, "the server gave up", meaning)
        except psycopg.Error as exc:
            self.refuse(what, (exc.diag.message_primary or str(exc)).splitlines()[0], meaning)
        else:
            return True
        return False

    def is_of_no_account(self, _entry: Entry, _message: str, /) -> bool:
        """Whether a refusal changes nothing."""
        return False

    def set_database(self, run: Run) -> None:
        for statement in (*_database_settings(run), *_database_grants(run)):
            self.attempt(
                run.connection, statement, f"setting: {statement}", "It is as the platform has it."
            )

    def refresh(self, run: Run, view: TableName) -> None:
        what = f"filling materialized view {view}"
        self.attempt(run.connection, refresh(view), what, "It is empty, or not there.")

    def make(self, run: Run, entries: Iterable[Entry]) -> None:
        """Make entries of the archive, and note those that are refused."""
        chosen = {entry.dump_id: entry for entry in entries}
        if not (script := _script(run, chosen.values(), "--verbose")):
            return
        starts = [(match.start(), int(match[1])) for match in _ENTRY.finditer(script)]
        for failed in run_script_through(run.programs, run.request.target, script):
            entry = chosen.get(_entry_at(script, starts, failed.line))
            if entry is not None and self.is_of_no_account(entry, failed.message):
                continue
            if entry is not None:
                self.refused_entries.add(entry.dump_id)
            what = named(entry) if entry else f"line {failed.line} of the definitions"
            self.refuse(what, failed.message, meaning_of(entry, failed.message))


def _database_settings(run: Run) -> Iterator[str]:
    name = quote_identifier(run.request.target.database)
    return database_settings(run.request.contents.database, name)


def _database_grants(run: Run) -> Iterator[str]:
    name = quote_identifier(run.request.target.database)
    return database_grants(run.request.contents.database, name)


def _script(run: Run, entries: Iterable[Entry], *arguments: str) -> bytes:
    listed = use_list(entries)
    if not listed:
        return b""
    return script_from_archive(
        run.programs,
        run.archive_bytes,
        [*run.request.archive_options, *arguments],
        use_list=listed,
        for_major=server_major(run.connection),
    )


def _entry_at(script: bytes, starts: Sequence[tuple[int, int]], line: int) -> int:
    """The entry that a statement belongs to which ends in a line of the script; 0 for none."""
    end = -1
    for _ in range(line):
        found = script.find(b"\n", end + 1)
        end = found if found >= 0 else len(script)
    return next((number for start, number in reversed(starts) if start < end), 0)
