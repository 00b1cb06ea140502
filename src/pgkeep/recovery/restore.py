"""A restore from begin to end: check, define, load and index, finish, prove."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace

from pgkeep.errors import (
    ConnectionLost,
    DamagedObject,
    DatabaseError,
    ObjectMissing,
    PgkeepError,
    ProgramFailed,
    ProofFailed,
    RestoreFailed,
    UsageError,
)
from pgkeep.events import Noticed, Reporter, StageBegan, StageEnded, counted
from pgkeep.model import Part, StoredObject, TableName
from pgkeep.postgres.address import Address
from pgkeep.postgres.archive import Archive, Entry, read_archive
from pgkeep.postgres.capturing import definitions_without_capture, rows_without_capture
from pgkeep.postgres.dumping import dump_schema
from pgkeep.postgres.selection import Selection, left_out_of
from pgkeep.postgres.session import Connection, connect, lost_since, server_major, translated
from pgkeep.postgres.statements import DROP_PUBLIC
from pgkeep.recovery import proof, target
from pgkeep.recovery.beside import define_beside, wholes_beside
from pgkeep.recovery.fill import CRITICAL, Filled, fill
from pgkeep.recovery.journey import Journey
from pgkeep.recovery.landing import Landing, Run
from pgkeep.recovery.moment import AtTime
from pgkeep.recovery.onward import Only, existing, go_on, refuse_loud_target
from pgkeep.recovery.places import find_landing
from pgkeep.recovery.plan import RestorePlan, Scope, check_scope, plan_restore
from pgkeep.recovery.refusing import RefusingChecks
from pgkeep.recovery.request import Lost, RestoreRequest, RestoreResult

CHECKING, DEFINING, FINISHING, SETTLING = "checking", "defining", "finishing", "settling"
COUNTED_SINCE = {CRITICAL: CHECKING}
"""When the critical tables are back counts from the beginning of the restore."""


def restore(request: RestoreRequest, reporter: Reporter) -> RestoreResult:
    """Restore and prove. A failure leaves the target marked as incomplete.

    What differs or is lost is in the result; `raise_unless_proven` makes an error of it.
    """
    scope = check_scope(request.scope, request.manifest.kind)
    _refuse_replay_of_rows_alone(request, scope)
    where, scope = _only_after_replay(request, scope)
    request, archive, archive_bytes = _opened(request, scope)
    plan = plan_restore(request.contents, archive, scope)
    missing = _check_objects(request, plan, reporter)
    with closing(connect(request.target)) as connection, translated(request.target):
        programs = request.choose_client(
            max(server_major(connection), _dump_major(archive)), need_tls=request.target.needs_tls
        )
        landing = find_landing(connection, programs, request, scope, archive)
        plan = landing.adapt(plan)
        if archive is not None and scope.tables and plan.selection is not None:
            landing.remarks += _left_out(archive, plan.selection)
        _check_target(connection, request, scope, plan, landing, archive)
        run = Run(
            request, scope, plan, archive, archive_bytes, programs, connection, reporter, landing,
            RefusingChecks.of_a_restore_into(connection),
        )  # fmt: skip
        whole = _has_the_target_for_itself(request, scope)
        mark = target.Mark.put(connection, request.contents, request.now()) if whole else None
        with _told_that_it_is_incomplete(request.target, whole=whole), translated(request.target):
            run, roles = _define(run)
            with _triggers_quiet(run):
                filled = fill(run, missing)
            result = _finish(run, filled, roles)
            if where:
                _leave_only(run, where)
            if mark is not None and not result.lost and result.proof.holds:
                if request.when_proven is not None:
                    request.when_proven(result)
                mark.take_off()
    return result


def _left_out(archive: Archive, selection: Selection) -> list[str]:
    """What chosen tables had and do not get back, in words."""
    return [
        f"left out: {entry.kind.lower()} {' '.join(entry.tag.split())}"
        + (", since not all of its tables are chosen" if entry.kind == "FK CONSTRAINT" else "")
        for entry in left_out_of(archive, selection)
    ]


def _refuse_replay_of_rows_alone(request: RestoreRequest, scope: Scope) -> None:
    whole = scope.schema and scope.data and not scope.tables and scope.into_schema is None
    apart = bool(scope.tables) and (scope.into_schema is not None or (scope.schema and scope.data))
    if request.journey is None or apart or (whole and not request.allow_occupied):
        return
    raise UsageError(
        "to a moment go a whole database into an empty one, or tables that are not there yet",
        hint="Use --table, with --into-schema to have it beside the live one.",
    )


def _only_after_replay(request: RestoreRequest, scope: Scope) -> tuple[str, Scope]:
    """Which rows are wanted is known at the moment: all are restored and replayed before."""
    if request.journey is None:
        return "", scope
    return scope.where, replace(scope, where="")


def _triggers_quiet(run: Run) -> AbstractContextManager[None]:
    """Rows alone go into tables that have their triggers already."""
    if run.scope.schema:
        return nullcontext()
    names = [table.load_name for table in run.plan.tables]
    return target.insistent_triggers_off(run.connection, names)


def _has_the_target_for_itself(request: RestoreRequest, scope: Scope) -> bool:
    """Whether the target held nothing: a live database is never marked, nor called incomplete."""
    return scope.schema and scope.into_schema is None and not request.allow_occupied


@contextmanager
def _told_that_it_is_incomplete(target: Address, *, whole: bool) -> Iterator[None]:
    """An error from here on leaves something in the target: its hint says so."""
    try:
        yield
    except PgkeepError as first:
        exc = lost_since(first, target)
        assert isinstance(exc, PgkeepError)
        state = (
            "The target is incomplete: drop it and create it again before the next try."
            if whole
            else "What was restored so far is in the target."
        )
        exc.hint = state if isinstance(exc, ConnectionLost) else f"{exc.hint} {state}"
        raise exc from first.__cause__


def plan_only(request: RestoreRequest) -> RestorePlan:
    """What `restore` would do, from the backup alone."""
    scope = check_scope(request.scope, request.manifest.kind)
    request, archive, _ = _opened(request, scope)
    return plan_restore(request.contents, archive, scope)


def _opened(request: RestoreRequest, scope: Scope) -> tuple[RestoreRequest, Archive | None, bytes]:
    """The definitions, read and as they are stored, without what capture made in the source: it is
    of no use in another database."""
    archive_bytes = schema_archive(request, scope)
    archive = definitions_without_capture(read_archive(archive_bytes)) if archive_bytes else None
    contents = rows_without_capture(request.contents)
    return replace(request, contents=contents), archive, archive_bytes


def describe_plan(request: RestoreRequest, plan: RestorePlan) -> Iterator[str]:
    """The plan in words."""
    point = request.contents.point
    yield f"restore backup {request.manifest.backup}, as of {point.taken:%Y-%m-%d %H:%M:%S} UTC"
    yield f"  from {request.sealed.source.url}"
    yield f"  into {request.target}"
    if request.scope.schema:
        yield f"1. make {len(plan.before)} definitions (schemas, types, functions, tables)"
    yield f"2. load {plan.rows:,} rows ({plan.text_bytes:,} bytes) into {len(plan.tables)} tables:"
    for table in plan.tables:
        indexes = f", then {len(table.indexes)} indexes" if table.indexes else ""
        yield f"     {table.name}: {table.source.rows:,} rows{indexes}"
    large = len(plan.large_objects.owners)
    yield f"3. set {len(plan.sequences)} sequences, make {large} large objects"
    yield f"4. make {len(plan.after) + len(plan.guards)} definitions (keys, triggers, policies)"
    yield f"   fill {len(plan.matviews)} materialized views, analyze"
    yield "5. prove: read all rows back, compare rows, definitions and sequences"
    if request.journey is not None:
        yield from _describe_journey(request.journey)


def _describe_journey(journey: Journey) -> Iterator[str]:
    survey, segments = journey.survey, journey.route.segments
    yield (
        f"6. replay {counted(survey.changes, 'change')} of"
        f" {counted(survey.transactions, 'transaction')} up to {journey.moment}"
    )
    yield (
        f"     from {counted(len(segments), 'segment')} of the journal"
        f" ({journey.route.size_bytes:,} bytes), {segments[0].start} to {segments[-1].end}"
    )
    if survey.schema_changes:
        yield f"     with {survey.schema_changes} schema changes"
    if survey.last is not None:
        yield f"     the last is transaction {survey.last.xid} of {AtTime(survey.last.committed)}"
    if journey.shortfall:
        yield f"     and no further: {journey.shortfall}"


def raise_unless_proven(result: RestoreResult) -> None:
    """`ProofFailed` or `RestoreFailed` when the target is not what was backed up."""
    if result.lost:
        names = ", ".join(f"{item.what} ({item.reason})" for item in result.lost)
        raise RestoreFailed(
            f"restored without what is damaged in the repository: {names}",
            hint="All the rest is restored"
            + (" and proven" if result.proof.holds else ", and what differs is told above")
            + ". Try another backup or another copy.",
        )
    if not result.proof.holds:
        first, *others = result.proof.differences
        more = f" (and {len(others)} more)" if others else ""
        raise ProofFailed(
            f"the target differs from the backup: {first}{more}",
            hint="The target is marked as incomplete. Run with --json to see every difference.",
        )


def schema_archive(request: RestoreRequest, scope: Scope) -> bytes:
    """The archive of the backup's definitions, opened; empty where none is needed or kept."""
    schema = request.contents.schema
    if schema is None or not (scope.schema or scope.tables):
        return b""
    try:
        return b"".join(request.sealed.open(schema))
    except (DamagedObject, ObjectMissing) as exc:
        raise type(exc)(
            f"{exc.message}; it belongs to the definitions of all tables",
            hint="Use another copy or backup; --data-only restores the rows alone, into tables"
            " that are there.",
        ) from exc


def _dump_major(archive: Archive | None) -> int:
    return int(archive.dump_version.split(".")[0].split("beta")[0]) if archive else 0


def _check_objects(
    request: RestoreRequest, plan: RestorePlan, reporter: Reporter
) -> tuple[Lost, ...]:
    """Every object that will be needed must be there with its size, before anything is touched."""
    reporter.report(StageBegan(CHECKING))
    found: dict[str, Lost] = {}
    for what, part in _named_parts(plan):
        for item in part.text.objects:
            if problem := _absence(request, item):
                found.setdefault(what, Lost(what, problem))
    lost = tuple(found.values())
    if lost and not request.go_on_after_damage:
        first = lost[0]
        tables = ", ".join(sorted(found))
        raise DamagedObject(
            f"{first.reason}; it belongs to {first.what}"
            + (f" (damaged in all: {tables})" if len(lost) > 1 else ""),
            hint="Nothing was touched. Use another copy or backup, or restore all the rest with"
            " --go-on-after-damage.",
        )
    summary = f"lost: {', '.join(sorted(found))}" if lost else "every stored object is there"
    reporter.report(StageEnded(CHECKING, summary))
    return lost


def _absence(request: RestoreRequest, item: StoredObject) -> str:
    try:
        request.sealed.source.check_presence(item)
    except (DamagedObject, ObjectMissing) as exc:
        return exc.message
    return ""


def _named_parts(plan: RestorePlan) -> Iterator[tuple[str, Part]]:
    for table in plan.tables:
        for part in table.source.parts:
            yield f"table {table.source.name}", part
    for part in plan.large_objects.parts:
        yield "large objects", part


def _check_target(
    connection: Connection,
    request: RestoreRequest,
    scope: Scope,
    plan: RestorePlan,
    landing: Landing,
    archive: Archive | None,
) -> None:
    target.check_encoding(connection, request.contents)
    if scope.into_schema is not None:
        wholes = wholes_beside(scope.into_schema, plan.tables, archive)
        target.refuse_existing(connection, [*(table.name for table in plan.tables), *wholes])
    elif not scope.schema:
        target.refuse_unfit_tables(connection, plan)
        target.refuse_live_triggers(connection, plan)
    elif request.allow_occupied:
        target.refuse_existing(connection, [table.name for table in plan.tables])
    else:
        landing.refuse_occupied(connection, request.target.database)
    if request.journey is not None:
        refuse_loud_target(connection)


def _define(run: Run) -> tuple[Run, tuple[str, ...]]:
    """Roles, schemas, types, functions, tables: everything that has to be there before rows.

    Returns the rest of the restore as the target can have it, and the roles that were made.
    """
    run.reporter.report(StageBegan(DEFINING))
    made: tuple[str, ...] = ()
    if run.scope.into_schema is not None:
        _define_beside(run, run.scope.into_schema)
    if run.archive is not None and run.scope.schema:
        if run.request.owners or run.request.privileges:
            made = run.landing.create_roles(run)
        has_public = run.request.contents.database.has_public or run.landing.is_managed
        if run.plan.whole and not has_public:
            run.connection.execute(DROP_PUBLIC.encode())
        run = replace(run, plan=run.landing.prepare(run))
        run.landing.make(run, _not_there_yet(run, run.plan.before))
    run = replace(run, plan=run.landing.defined(run))
    if made:
        run.reporter.report(
            Noticed(
                f"created the roles {', '.join(made)}, which the server lacked",
                "They have no passwords: set those of roles that log in.",
            )
        )
    run.reporter.report(StageEnded(DEFINING, f"{len(run.plan.before)} definitions"))
    return run, made


def _define_beside(run: Run, schema: str) -> None:
    # Which rows will be there in the end is said at once, also if a replay comes before that.
    tables = [replace(one, where=run.request.scope.where) for one in run.plan.tables]
    backup = str(run.request.manifest.backup)
    for statement in define_beside(schema, tables, run.archive, backup):
        run.connection.execute(statement.encode())


def _not_there_yet(run: Run, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """For chosen tables in a database that holds other things: leave out what it has already."""
    if not entries or not run.request.allow_occupied:
        return entries
    there = read_archive(dump_schema(run.programs, run.request.target))
    known = {(entry.kind, entry.namespace, entry.tag) for entry in there.entries}
    return tuple(e for e in entries if (e.kind, e.namespace, e.tag) not in known)


def _finish(run: Run, filled: Filled, roles: tuple[str, ...]) -> RestoreResult:
    """The rest of the definitions and the proof; with a moment to go on to, the journal too."""
    lost = (*filled.lost, *_complete(run, filled))
    replayed = None
    if run.request.journey is None:
        _settle(run, filled.analyzed)
        proven = _prove(run, filled)
    else:
        # What is replayed goes beyond the backup, so that is proven before.
        proven = _prove(run, filled)
        if proven.holds and not lost:
            replayed = go_on(
                run.request.target,
                run.request.contents,
                run.request.journey,
                run.reporter,
                owners=run.request.owners,
                only=_only(run),
                refusing=run.refusing,
            )
        _settle(run, filled.analyzed - (replayed.tables if replayed else frozenset()))
    return RestoreResult(
        proven,
        roles,
        lost,
        run.plan.matviews,
        replayed,
        (*run.landing.refused, *run.refusing.refused),
        tuple(run.landing.remarks),
    )


def _only(run: Run) -> Only | None:
    """The tables to replay, where it is not the whole database."""
    if run.plan.whole:
        return None
    tables = {table.source.name: table.load_name for table in run.plan.tables}
    entries = run.archive.entries if run.archive is not None else ()
    names = {e.oid: TableName(e.namespace, e.tag) for e in entries if e.kind == "TABLE"}
    oids = {oid: name for oid, name in names.items() if name in tables}
    return Only(tables, oids, frozenset(value.name for value in run.plan.sequences))


def _leave_only(run: Run, where: str) -> None:
    for table in run.plan.tables:
        run.connection.execute(f"DELETE FROM {table.name.sql} WHERE ({where}) IS NOT TRUE".encode())


def _complete(run: Run, filled: Filled) -> tuple[Lost, ...]:
    """What has to wait for all rows: foreign keys, triggers, policies.

    Returns what could not be made since rows that it needs are lost.
    """
    run.reporter.report(StageBegan(FINISHING))
    run.refusing.settle(run.connection)
    run.landing.filled(run)
    left = tuple(entry for entry in run.plan.after if entry.dump_id not in filled.made)
    late = _not_there_yet(run, left)
    lost = tuple(_make_what_can_be(run, late)) if filled.lost else ()
    if not filled.lost:
        run.landing.make(run, late)
    run.reporter.report(StageEnded(FINISHING, f"{len(run.plan.after)} definitions"))
    return lost


def _settle(run: Run, analyzed: frozenset[TableName]) -> None:
    """What has to wait until nothing is written any more; event triggers last of all."""
    run.reporter.report(StageBegan(SETTLING))
    for view in run.plan.matviews:
        run.landing.refresh(run, view)
    if run.plan.whole and run.request.privileges:
        run.landing.set_database(run)
    there = existing(run.connection, "r")
    names = {table.name for table in run.plan.tables} & there - analyzed
    rest = [name.sql for name in sorted(names)]
    for start in range(0, len(rest), 500):
        run.connection.execute(f"ANALYZE {', '.join(rest[start : start + 500])}".encode())
    run.landing.make(run, _not_there_yet(run, run.plan.guards))
    run.landing.settle(run)
    run.reporter.report(StageEnded(SETTLING, f"{counted(len(run.plan.matviews), 'view')} filled"))


def _make_what_can_be(run: Run, entries: Iterable[Entry]) -> Iterator[Lost]:
    """One by one: a foreign key to a row that is lost cannot be made, and the next one may."""
    for entry in entries:
        try:
            run.landing.make(run, [entry])
        except (DatabaseError, ProgramFailed) as exc:
            yield Lost(f"{entry.kind.lower()} {entry.tag}", exc.message)


def _prove(run: Run, filled: Filled) -> proof.Proof:
    """Compare what was read back while filling, and the definitions and sequences now."""
    run.reporter.report(StageBegan(proof.STAGE))
    differences = [
        *proof.compare_tables(filled.tables),
        *proof.compare_sequences(run.connection, run.plan.sequences),
    ]
    definitions, not_compared = 0, [f"rows of table {name}, which was only needed to exist"
                                    for name in run.plan.left_empty]  # fmt: skip
    if run.archive is not None and run.scope.schema and run.scope.into_schema is None:
        expected = run.landing.expects(run)
        differences += proof.compare_definitions(
            _made_so_far(run, run.archive),
            read_archive(dump_schema(run.programs, run.request.target)),
            expected.selection,
            owners=run.request.owners,
            privileges=run.request.privileges,
            more_in_target=expected.more_in_target,
            explained=run.refusing.explains,
        )
        definitions = run.plan.definitions
        not_compared += run.refusing.not_compared
        if run.request.journey is not None:
            definitions -= len(run.plan.guards)
    elif run.scope.into_schema is not None:
        not_compared.append(
            "definitions: under another schema there are only columns, defaults and own constraints"
        )
    not_compared += [
        f"rows of table {table.name}: just those with {table.where}"
        for table in run.plan.tables
        if table.where
    ]
    result = proof.Proof(
        filled.tables, len(run.plan.sequences), definitions, tuple(differences), tuple(not_compared)
    )
    run.reporter.report(StageEnded(proof.STAGE, f"{result.rows:,} rows read back and compared"))
    return result


def _made_so_far(run: Run, archive: Archive) -> Archive:
    """Event triggers are made after the proof where a replay comes between."""
    if run.request.journey is None:
        return archive
    entries = tuple(entry for entry in archive.entries if not entry.is_event_trigger)
    return replace(archive, entries=entries)
