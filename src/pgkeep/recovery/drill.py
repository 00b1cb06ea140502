"""A drill: restore on a scratch server, compare, ask, measure, and take it all away again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from pgkeep.errors import PgkeepError, ProgramMissing
from pgkeep.events import Noticed, Reporter, StageBegan, StageEnded
from pgkeep.model import quote_identifier
from pgkeep.postgres.address import Address
from pgkeep.postgres.archive import Archive, leave_out_extensions, read_archive
from pgkeep.postgres.identity import server_version
from pgkeep.postgres.programs import Programs, choose_server, find_programs
from pgkeep.postgres.server import ScratchServer
from pgkeep.postgres.session import connect, translated
from pgkeep.postgres.statements import literal
from pgkeep.recovery.checks import Check, check_indexes, run_checks
from pgkeep.recovery.files import Sample, check_files
from pgkeep.recovery.fill import CRITICAL
from pgkeep.recovery.request import RestoreRequest, RestoreResult
from pgkeep.recovery.restore import COUNTED_SINCE, restore, schema_archive
from pgkeep.recovery.timed import Timed
from pgkeep.repository.evidence import CheckResult, Details, NotCovered, Outcome, Step

SERVER, CHECKS = "starting", "asking"


@dataclass(frozen=True, slots=True)
class DrillRequest:
    """What to restore (its target is set here), what to ask then, and where."""

    restore: RestoreRequest
    checks: tuple[Check, ...]
    server: Address | None = None
    """A server to make a database on; None: a scratch server of the source's version is started."""
    bin_dirs: tuple[Path, ...] = ()
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What came of it."""

    server: str
    steps: tuple[Step, ...]
    restored: RestoreResult | None
    details: Details

    @property
    def outcome(self) -> Outcome:
        details = self.details
        failed = details.problem or details.differences or any(not c.passed for c in details.checks)
        if failed or self.restored is None:
            return Outcome.FAILED
        return Outcome.PARTIAL if details.not_covered else Outcome.PASSED

    @property
    def first_difference(self) -> str:
        """What to say first of a drill that failed."""
        details = self.details
        checks = [f"check {one.name!r}: {one.found}" for one in details.checks if not one.passed]
        return next(iter((*filter(None, [details.problem]), *details.differences, *checks)), "")

    @property
    def seconds(self) -> float:
        """All steps together; when the critical tables are back is a moment within another."""
        return sum(step.seconds for step in self.steps if step.name != CRITICAL)


def drill(request: DrillRequest, reporter: Reporter) -> DrillResult:
    """Restore, compare and ask. Whatever fails is in the result; nothing is left behind."""
    timed = Timed(reporter, request.clock, COUNTED_SINCE)
    run = _Drill(request, timed)
    try:
        with _target(request, timed) as (address, server):
            run.server = server
            run.restore(address)
            run.ask(address)
    except PgkeepError as exc:
        run.problem = exc.message
    return run.result()


class _Drill:
    """One drill under way."""

    def __init__(self, request: DrillRequest, reporter: Timed) -> None:
        self._request = request
        self._reporter = reporter
        self._restored: RestoreResult | None = None
        self._not_covered: list[NotCovered] = []
        self._checks: list[CheckResult] = []
        self.server = ""
        self.problem = ""

    def restore(self, address: Address) -> None:
        """Everything that this server can have, and a note of what it cannot."""
        request = replace(self._request.restore, target=address)
        archive_bytes = schema_archive(request, request.scope)
        missing: tuple[str, ...] = ()
        if archive_bytes:
            archive = read_archive(archive_bytes)
            missing = tuple(self._unavailable(address, archive))
            if missing:
                self._not_covered += _left_out(archive, missing)
        journey = request.journey
        if missing and journey is not None:
            self._not_covered.append(
                NotCovered(f"the changes up to {journey.moment}", f"they need {', '.join(missing)}")
            )
            journey = None
        scope = replace(request.scope, without_extensions=missing)
        self._restored = restore(replace(request, scope=scope, journey=journey), self._reporter)
        if self._restored.replayed is not None:
            self._not_covered += [
                NotCovered(one.what, one.why) for one in self._restored.replayed.not_exact
            ]
        self._not_covered += [
            NotCovered(text, "it was not compared") for text in self._restored.proof.not_compared
        ]
        known = {one.what for one in self._not_covered}
        self._not_covered += [
            NotCovered(one.what, one.reason)
            for one in self._restored.refused
            if one.what not in known
        ]
        self._not_covered += [
            NotCovered(text, "this server has nothing for it") for text in self._restored.remarks
        ]

    def ask(self, address: Address) -> None:
        """The user's checks, and the indexes."""
        self._reporter.report(StageBegan(CHECKS))
        with closing(connect(address)) as connection, translated(address):
            self._checks += run_checks(connection, self._request.checks)
            request = self._request.restore
            if files := check_files(request.contents, request.sealed, Sample()):
                self._checks.append(files)
            indexes = check_indexes(connection)
        if indexes is None:
            reason = "the server has no extension amcheck"
            self._not_covered.append(NotCovered("the inside of indexes", reason))
        else:
            self._checks.append(indexes)
        failed = sum(not one.passed for one in self._checks)
        summary = f"{len(self._checks)} checks, {failed} failed"
        self._reporter.report(StageEnded(CHECKS, summary))

    def result(self) -> DrillResult:
        restored = self._restored
        differences = restored.proof.differences if restored else ()
        lost = tuple(f"{one.what}: {one.reason}" for one in restored.lost) if restored else ()
        details = Details(
            self.problem, (*differences, *lost), tuple(self._not_covered), tuple(self._checks)
        )
        return DrillResult(self.server, tuple(self._reporter.steps), restored, details)

    def _unavailable(self, address: Address, archive: Archive) -> Iterator[str]:
        """Extensions of the source that cannot be made here, each tried where it does no harm."""
        wanted = [entry.tag for entry in archive.entries if entry.kind == "EXTENSION"]
        if not wanted:
            return
        with _another_database(address) as probe, closing(connect(probe)) as connection:
            for name in wanted:
                try:
                    statement = f"CREATE EXTENSION IF NOT EXISTS {quote_identifier(name)} CASCADE"
                    connection.execute(statement.encode())
                except psycopg.Error as exc:
                    reason = (exc.diag.message_primary or str(exc)).splitlines()[0]
                    self._not_covered.append(NotCovered(f"extension {name}", reason))
                    self._reporter.report(
                        Noticed(f"extension {name} cannot be made here: {reason}")
                    )
                    yield name


def _left_out(archive: Archive, missing: Sequence[str]) -> list[NotCovered]:
    """What falls away with extensions, in words."""
    left = leave_out_extensions(archive, missing).entries
    names = ", ".join(missing)
    return [
        NotCovered(
            f"{entry.kind.lower()} {_full_name(entry.namespace, entry.tag)}", f"needs {names}"
        )
        for entry in archive.entries
        if entry.dump_id not in left and entry.kind not in ("EXTENSION", "COMMENT", "ACL")
    ]


def _full_name(namespace: str, tag: str) -> str:
    return f"{namespace}.{tag}" if namespace else tag


# --- where ----------------------------------------------------------------------------------------


@contextmanager
def _target(request: DrillRequest, reporter: Reporter) -> Iterator[tuple[Address, str]]:
    """An empty database like the source's, and what server it is on; gone when the block ends."""
    reporter.report(StageBegan(SERVER))
    with _server(request) as (there, label), _another_database(there, request.restore) as address:
        reporter.report(StageEnded(SERVER, label))
        yield address, label


@contextmanager
def _server(request: DrillRequest) -> Iterator[tuple[Address, str]]:
    if request.server is not None:
        with closing(connect(request.server)) as connection:
            version = server_version(connection)
        yield request.server, f"PostgreSQL {version} at {request.server}"
        return
    programs = _programs(request)
    with _scratch(programs) as server:
        yield Address.parse(server.url()), f"PostgreSQL {programs.version}, scratch"


def _scratch(programs: Programs) -> AbstractContextManager[ScratchServer]:
    return ScratchServer.start(programs)


def _programs(request: DrillRequest) -> Programs:
    """Of the source's major version, or a newer one: an older server cannot have it all."""
    major = int(request.restore.contents.point.server_version.split(".")[0].split(" ")[0])
    try:
        return choose_server(major, request.bin_dirs)
    except ProgramMissing:
        newer = [one for one in find_programs(request.bin_dirs) if one.has_server]
        majors = sorted(one.major for one in newer if one.major > major)
        if not majors:
            raise
        return choose_server(majors[0], request.bin_dirs)


@contextmanager
def _another_database(address: Address, like: RestoreRequest | None = None) -> Iterator[Address]:
    name = f"pgkeep_drill_{secrets.token_hex(6)}"
    encoding = like.contents.database.encoding if like else "UTF8"
    with closing(connect(address)) as connection, translated(address):
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING {literal(encoding)}"
            f"{_locale(encoding)}".encode()
        )
    try:
        yield address.with_database(name)
    finally:
        with closing(connect(address)) as connection, translated(address):
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())


def _locale(encoding: str) -> str:
    """Encodings other than UTF8 fit the locale C on any server."""
    return "" if encoding == "UTF8" else " LOCALE 'C'"
