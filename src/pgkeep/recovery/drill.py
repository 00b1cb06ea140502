"""A drill: restore on a scratch server, compare, ask, measure, and take it all away again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from pgkeep.errors import PgkeepError, RestoreFailed
from pgkeep.events import Noticed, Reporter, StageBegan, StageEnded
from pgkeep.model import quote_identifier
from pgkeep.postgres.address import Address
from pgkeep.postgres.archive import Archive, read_archive
from pgkeep.postgres.selection import leave_out_extensions
from pgkeep.postgres.session import connect, translated
from pgkeep.recovery.checks import Check, check_indexes, run_checks
from pgkeep.recovery.drill_places import Place, drill_place
from pgkeep.recovery.files import Sample, check_files
from pgkeep.recovery.fill import CRITICAL
from pgkeep.recovery.foreign_keys import check_foreign_keys
from pgkeep.recovery.hooks import Hooks
from pgkeep.recovery.objectives import APPLICATION
from pgkeep.recovery.request import RestoreRequest, RestoreResult
from pgkeep.recovery.restore import COUNTED_SINCE, restore, schema_archive
from pgkeep.recovery.role_needs import in_need_of
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
    application: tuple[tuple[str, ...], ...] = ()
    """Commands that start the application against the database, and end once it answers."""
    application_seconds: float = 300
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
        timed.report(StageBegan(SERVER))
        contents = request.restore.contents
        with drill_place(contents, request.server, request.bin_dirs, timed) as place:
            run.server = place.server
            timed.report(StageEnded(SERVER, place.server))
            run.restore(place)
            run.ask(place.address)
            run.start_application(place.address)
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

    def restore(self, place: Place) -> None:
        """Everything that this server can have, and a note of what it cannot."""
        request = replace(self._request.restore, target=place.address)
        archive_bytes = schema_archive(request, request.scope)
        missing: tuple[str, ...] = ()
        roles = tuple(name for name, _ in place.refused_roles)
        if archive_bytes:
            archive = read_archive(archive_bytes)
            missing = tuple(self._unavailable(place, archive))
            if missing:
                self._not_covered += _left_out(archive, missing)
            if roles:
                self._not_covered += _without_roles(archive, place.refused_roles)
        journey = request.journey
        if missing and journey is not None:
            self._not_covered.append(
                NotCovered(f"the changes up to {journey.moment}", f"they need {', '.join(missing)}")
            )
            journey = None
        scope = replace(request.scope, without_extensions=missing, without_roles=roles)
        request = replace(
            request, scope=scope, journey=journey, owners=not roles, privileges=not roles
        )
        self._restored = restore(request, self._reporter)
        self._not_covered += _not_compared(self._restored, self._not_covered)

    def ask(self, address: Address) -> None:
        """The user's checks, and the indexes."""
        self._reporter.report(StageBegan(CHECKS))
        self._checks += run_checks(address, self._request.checks)
        with closing(connect(address)) as connection, translated(address):
            request = self._request.restore
            if files := check_files(request.contents, request.sealed, Sample()):
                self._checks.append(files)
            replayed = self._restored is not None and self._restored.replayed is not None
            keys, unsure = check_foreign_keys(connection, row_by_row=replayed)
            self._checks.append(keys)
            self._not_covered += unsure
            indexes = check_indexes(connection)
        if indexes is None:
            reason = "the server has no extension amcheck"
            self._not_covered.append(NotCovered("the inside of indexes", reason))
        else:
            self._checks.append(indexes)
        failed = sum(not one.passed for one in self._checks)
        summary = f"{len(self._checks)} checks, {failed} failed"
        self._reporter.report(StageEnded(CHECKS, summary))

    def start_application(self, address: Address) -> None:
        """Last, since it may write. It ends with the drill."""
        request = self._request
        if not request.application:
            return
        self._reporter.report(StageBegan(APPLICATION))
        hooks = Hooks(
            request.application_seconds,
            {"PGKEEP_DRILL_URL": address.url,
             "PGKEEP_DATABASE": request.restore.manifest.database},
            [address.parameters.get("password", "")],
            again="run the drill again",
            leaves_running=False,
        )  # fmt: skip
        try:
            hooks.run(request.application)
        except RestoreFailed as exc:
            self._checks.append(CheckResult(APPLICATION, False, exc.message))
            return
        self._reporter.report(StageEnded(APPLICATION, "it answers"))
        self._checks.append(CheckResult(APPLICATION, True, "it answers"))

    def result(self) -> DrillResult:
        restored = self._restored
        differences = restored.proof.differences if restored else ()
        lost = tuple(f"{one.what}: {one.reason}" for one in restored.lost) if restored else ()
        details = Details(
            self.problem, (*differences, *lost), tuple(self._not_covered), tuple(self._checks)
        )
        return DrillResult(self.server, tuple(self._reporter.steps), restored, details)

    def _unavailable(self, place: Place, archive: Archive) -> Iterator[str]:
        """Extensions of the source that cannot be made here, each tried where it does no harm."""
        wanted = [entry.tag for entry in archive.entries if entry.kind == "EXTENSION"]
        if not wanted:
            return
        with place.another() as probe, closing(connect(probe)) as connection:
            connection.execute("SET search_path = public")  # most need a schema to be made in
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


def _without_roles(archive: Archive, refused: Sequence[tuple[str, str]]) -> Iterator[NotCovered]:
    """What falls away with roles that cannot be made: owners and grants, and what is for one."""
    for name, reason in refused:
        yield NotCovered(f"role {name}", reason)
        needy = {entry.dump_id for entry in in_need_of(archive, [name])}
        for entry in archive.entries:
            what = f"{entry.kind.lower()} {_full_name(entry.namespace, entry.tag)}"
            if entry.dump_id in needy:
                yield NotCovered(what, f"needs role {name}")
            elif entry.owner == name and entry.kind not in _BELONG_TO_OTHERS:
                yield NotCovered(f"the owner of {what}", f"it is role {name}")
    names = ", ".join(name for name, _ in refused)
    yield NotCovered("owners and privileges", f"none was restored, without role {names}")


_BELONG_TO_OTHERS = frozenset(("ACL", "COMMENT", "CONSTRAINT", "DEFAULT", "FK CONSTRAINT", "INDEX",
                               "SEQUENCE OWNED BY", "TRIGGER", "POLICY"))  # fmt: skip


def _not_compared(result: RestoreResult, known: Sequence[NotCovered]) -> list[NotCovered]:
    """What a restore could not prove, or was refused, and is not known yet."""
    replayed = result.replayed.not_exact if result.replayed else ()
    names = {one.what for one in known}
    return [
        *(NotCovered(one.what, one.why) for one in replayed),
        *(NotCovered(text, "it was not compared") for text in result.proof.not_compared),
        *(NotCovered(one.what, one.reason) for one in result.refused if one.what not in names),
        *(NotCovered(text, "this server has nothing for it") for text in result.remarks),
    ]


def _full_name(namespace: str, tag: str) -> str:
    return f"{namespace}.{tag}" if namespace else tag
