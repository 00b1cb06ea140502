"""Reading: parts, counts, schema and roles, side by side within one exported snapshot.

A part that was stored before is first asked whether it changed; if not, it is used again, but for
a few that are read all the same, to compare. Each table goes through its questions on its own: what
is known to have changed is read while others are still asked. Threads are enough: the work is done
in C that lets other threads run, and in the readers' own processes; docs/decisions.md has the
measurements.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any

from pgkeep.backup.plan import BackupPlan, PartRead
from pgkeep.backup.source import Source
from pgkeep.errors import (
    ConnectionLost,
    CountMismatch,
    PermissionMissing,
    ProgramFailed,
    SnapshotHeldTooLong,
)
from pgkeep.events import Noticed, Progressed, Reporter, StageBegan, StageEnded
from pgkeep.model import NotKept, Part, SealedStream, TableContents, TableName
from pgkeep.pacing import Pace
from pgkeep.postgres import catalog
from pgkeep.postgres.address import Address
from pgkeep.postgres.copying import CopyReader
from pgkeep.postgres.dependence import unchanged_query
from pgkeep.postgres.dumping import Runs, dump_roles, dump_schema
from pgkeep.postgres.programs import Programs
from pgkeep.postgres.readers import Readers, Started
from pgkeep.postgres.session import lost_since
from pgkeep.repository.objects import StreamWriter

STAGE = "reading"

# Ranges that one question is about: the way to the server may be long.
_RANGES_IN_A_QUESTION = 16

_ALONE = "SET max_parallel_workers_per_gather = 0"
_IN_PARALLEL = "RESET max_parallel_workers_per_gather"

# A table of so many ranges is first asked about a few: if it changed, they tell as a rule, and one
# pass over the whole of it, which would tell no more, is spared half of its work.
_RANGES_WORTH_A_PROBE = 16
_RANGES_IN_A_PROBE = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """All that was read or is used again: streams are stored already."""

    schema_archive: bytes
    roles_script: bytes
    tables: tuple[TableContents, ...]
    large_object_parts: tuple[Part, ...]
    not_kept: tuple[NotKept, ...]
    parts_read: int
    parts_reused: int
    rows_read: int
    bytes_read: int
    differing: tuple[TableName, ...]
    """Tables of which a part that should not have changed had; all was read again then."""


@dataclass(frozen=True, slots=True)
class Connecting:
    """How to reach the source."""

    programs: Programs
    address: Address
    lock_timeout_seconds: float


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read. `new_writer` gives a fresh stream into the repositories.

    It is given what was stored for the same range before, which need not be stored once more.
    `on_difference` is called, before anything more is read, when a stored part is found wrong.
    """

    connecting: Connecting
    jobs: int
    read_limit: int | None
    """Bytes of rows per second, over all readers together."""
    max_seconds: float
    verify_share: float
    new_writer: Callable[[SealedStream | None], StreamWriter]
    on_difference: Callable[[], None]
    on_stored: Callable[[TableName, str, Part], None] = lambda *_: None
    """Told of each part of a table that was read and stored, and of the table's key."""


def read_all(source: Source, plan: BackupPlan, options: ReadOptions, reporter: Reporter) -> Reading:
    """Read everything in the plan. The first error ends all readers and is raised."""
    reporter.report(StageBegan(STAGE, plan.estimated_bytes, plan.estimated_rows))
    work = _Work(source, plan, options, reporter)
    try:
        work.begin()
        work.follow()
        work.compare_some_that_did_not()
        reading = work.gather()
    except BaseException:
        work.abort()
        raise
    finally:
        work.end()
    reporter.report(StageEnded(STAGE, _summary(reading)))
    return reading


def _summary(reading: Reading) -> str:
    rows = sum(table.rows for table in reading.tables)
    text = f"{rows:,} rows in {len(reading.tables)} tables"
    if reading.parts_reused:
        parts = reading.parts_reused + reading.parts_read
        text += f"; {reading.parts_reused} of {parts} parts had not changed"
    return text


@dataclass(slots=True)
class _Progress:
    """One part under way: how it was decided, and what came of it."""

    planned: PartRead
    read: Future[Part] | None = None
    reused: Part | None = None

    @property
    def result(self) -> Part:
        if self.read is not None:
            return self.read.result()
        assert self.reused is not None
        return self.reused


class _Work:
    """The futures of one reading, and for each what follows when it is done."""

    def __init__(
        self, source: Source, plan: BackupPlan, options: ReadOptions, reporter: Reporter
    ) -> None:
        self._source = source
        self._plan = plan
        self._options = options
        self._reporter = reporter
        self._readers = Readers(self._new_reader)
        self._runs = Runs()
        self._aborted = threading.Event()
        self._pace = Pace(options.read_limit, sleep=self._aborted.wait)
        self._executor: Executor = ThreadPoolExecutor(
            options.jobs + 1, thread_name_prefix="pgkeep-read"
        )
        self._deadline = time.monotonic() + options.max_seconds
        self._parts = [_Progress(part) for part in plan.parts]
        self._by_table: dict[TableName | None, list[_Progress]] = {}
        for part in self._parts:
            name = part.planned.table.name if part.planned.table else None
            self._by_table.setdefault(name, []).append(part)
        self._counts: dict[TableName, Future[Counted]] = {}
        self._followed_by: dict[Future[Any], Callable[[], None]] = {}
        self._schema: Future[bytes] | None = None
        self._roles: Future[tuple[bytes, str]] | None = None
        self._sample: list[_Progress] = []
        self._differing: list[TableName] = []

    # --- phases -------------------------------------------------------------------------------

    def begin(self) -> None:
        """The questions whether parts changed, schema and roles, and what must be read anyway."""
        for table in self._plan.tables:
            self._examine(table, self._parts_of(table))
        if self._plan.kind.has_schema:
            self._dump_definitions()
        self._read(part for part in self._parts if part.planned.previous is None)
        asked = [part for part in self._parts if part.planned.previous is not None]
        self._sample = _sample(asked, self._options.verify_share)
        self._read(self._sample)  # before it is known whether they changed: nothing waits for it

    def follow(self) -> None:
        """Until every table is examined: of those that changed, ask which parts did, and read them.

        All others are used again.
        """
        while self._followed_by:
            for future in self._wait(list(self._followed_by), FIRST_COMPLETED):
                self._followed_by.pop(future)()

    def compare_some_that_did_not(self) -> None:
        """Trust, but verify: if one differs all the same, nothing is used again."""
        unchanged = [part for part in self._parts if part.reused is not None]
        sample = [part for part in self._sample if part.reused is not None]
        if not sample:  # chance chose only parts that had changed
            sample = _sample(unchanged, self._options.verify_share)
            self._read(sample)
        self._wait([part.read for part in self._parts])
        for part in sample:
            before = part.planned.previous
            if before is not None and part.result.text.blake3 != before.text.blake3:
                assert part.planned.table is not None
                self._differing.append(part.planned.table.name)
        if self._differing:
            self._options.on_difference()
            names = ", ".join(sorted({str(name) for name in self._differing}))
            self._reporter.report(
                Noticed(
                    f"rows of {names} differ from what was stored, though nothing shows a change",
                    "Everything is read again now, so this backup is right; earlier ones may not"
                    " be. Look for corruption (pg_amcheck), and please report it.",
                )
            )
            self._read(part for part in unchanged if part.read is None)
        self._wait([part.read for part in self._parts])
        self._wait([self._schema, self._roles])

    def abort(self) -> None:
        self._aborted.set()
        self._runs.end()
        self._readers.abort()

    def end(self) -> None:
        self._executor.shutdown(cancel_futures=True)
        self._readers.close()

    def _new_reader(self, started: Started) -> CopyReader:
        connecting = self._options.connecting
        return CopyReader(
            connecting.programs,
            connecting.address,
            snapshot=self._source.snapshot,
            lock_timeout_seconds=connecting.lock_timeout_seconds,
            on_started=started,
        )

    def _parts_of(self, table: catalog.Relation) -> list[_Progress]:
        return self._by_table.get(table.name, [])

    # --- what changed -------------------------------------------------------------------------

    def _examine(self, table: catalog.Relation, parts: Sequence[_Progress]) -> None:
        """Count a table, and find out which of its parts are as they were."""
        asked = sorted(
            (part for part in parts if part.planned.previous is not None),
            key=lambda part: part.planned.index,
        )
        if len(asked) < len(parts) or not asked:  # it grew, so it changed
            self._count(table, None)
            self._ask(asked)
        elif len(asked) < _RANGES_WORTH_A_PROBE:
            self._ask_whole(table, asked)
        else:
            self._probe(table, asked)

    def _probe(self, table: catalog.Relation, asked: Sequence[_Progress]) -> None:
        """Ask the last range, where new rows go, and some others: which way is shorter?"""
        some = [*random.sample(asked[:-1], _RANGES_IN_A_PROBE - 1), asked[-1]]
        answers = self._executor.submit(_are_unchanged, self._readers, [p.planned for p in some])

        def go_on() -> None:
            if all(answers.result()):
                self._ask_whole(table, asked)
            else:
                self._count(table, None)
                self._take(some, answers.result())
                self._ask([part for part in asked if part not in some])

        self._followed_by[answers] = go_on

    def _ask_whole(self, table: catalog.Relation, asked: Sequence[_Progress]) -> None:
        """Whether anything changed in a table, in one pass; if so, in which parts."""
        counted = self._count(table, min(part.horizon for part in _stored(asked)))

        def go_on() -> None:
            if _is_unchanged(counted.result(), asked):
                self._take(asked, [True] * len(asked))
            else:
                self._ask(asked)

        self._followed_by[counted] = go_on

    def _ask(self, asked: Sequence[_Progress]) -> None:
        """Which of these parts changed, some at a time."""
        several = min(ceil(len(asked) / (4 * self._options.jobs)), _RANGES_IN_A_QUESTION)
        for start in range(0, len(asked), max(several, 1)):
            some = asked[start : start + several]
            planned = [part.planned for part in some]
            answers = self._executor.submit(_are_unchanged, self._readers, planned)
            self._followed_by[answers] = partial(self._take_answers, some, answers)

    def _take_answers(self, parts: Sequence[_Progress], answers: Future[list[bool]]) -> None:
        self._take(parts, answers.result())

    def _take(self, parts: Sequence[_Progress], unchanged: Sequence[bool]) -> None:
        """Use again what is as it was, and read the rest."""
        for part, same in zip(parts, unchanged, strict=True):
            if same:
                part.reused = self._same_as_before(part.planned)
            elif part.read is None:
                self._read([part])

    def _count(self, table: catalog.Relation, horizon: int | None) -> Future[Counted]:
        counted = self._executor.submit(_count, self._readers, table, horizon)
        self._counts[table.name] = counted
        return counted

    # --- steps --------------------------------------------------------------------------------

    def _dump_definitions(self) -> None:
        connecting = self._options.connecting
        self._schema = self._executor.submit(
            dump_schema,
            connecting.programs,
            connecting.address,
            snapshot=self._source.snapshot,
            lock_timeout_seconds=connecting.lock_timeout_seconds,
            leave_out=self._source.not_to_dump,
            runs=self._runs,
        )
        self._roles = self._executor.submit(_roles, connecting, self._runs)

    def _read(self, parts: Iterable[_Progress]) -> None:
        for part in parts:
            part.read = self._executor.submit(self._read_part, part.planned)

    def _read_part(self, planned: PartRead) -> Part:
        known = planned.previous.text if planned.previous else None
        writer, rows = self._options.new_writer(known), 0
        with self._readers.lend(_what(planned)) as reader:
            for piece in reader.read(planned.query):
                writer.write(piece)
                self._reporter.report(Progressed(STAGE, len(piece), reader.lines - rows))
                rows = reader.lines
                # psql and the server wait meanwhile, as they do when the store is slow.
                self._pace.wait_after(len(piece))
        text = writer.close()
        horizon = self._source.point.horizon
        part = Part(planned.first_page, planned.end_page, rows, text, horizon)
        if planned.table is not None:
            key = self._source.keys.keys.get(planned.table.oid, "")
            self._options.on_stored(planned.table.name, key, part)
        return part

    def _same_as_before(self, planned: PartRead) -> Part:
        """The earlier part under today's range; what was seen to be the same is as new."""
        assert planned.previous is not None
        return replace(
            planned.previous,
            first_page=planned.first_page,
            end_page=planned.end_page,
            horizon=self._source.point.horizon,
        )

    def _wait(
        self, futures: Sequence[Future[Any] | None], until: str = FIRST_EXCEPTION
    ) -> set[Future[Any]]:
        """Until all are done, or one. The first error is raised, and so is running out of time."""
        present = [future for future in futures if future is not None]
        left = max(self._deadline - time.monotonic(), 0)
        done, pending = wait(present, timeout=left, return_when=until)
        errors = [error for future in done if (error := future.exception()) is not None]
        if errors:
            # The cause comes before what it made of the others.
            known = [lost_since(error, self._options.connecting.address) for error in errors]
            raise min(known, key=lambda error: isinstance(error, ConnectionLost))
        if pending and not (done and until == FIRST_COMPLETED):
            raise SnapshotHeldTooLong(
                f"the backup was not done after {self._options.max_seconds / 3600:.1f} h, and its"
                " snapshot holds back the source's vacuum",
                hint="Raise backup.max_snapshot_hours or backup.read_limit, or give the backup more"
                " jobs. The next one goes on where this one was.",
            )
        return done

    # --- result -------------------------------------------------------------------------------

    def gather(self) -> Reading:
        """Put parts to their tables, in order, and hold each table against its count."""
        schema = self._schema.result() if self._schema else b""
        roles, problem = self._roles.result() if self._roles else (b"", "")
        by_table = self._by_table
        read = [part.result for part in self._parts if part.read is not None]
        return Reading(
            schema_archive=schema,
            roles_script=roles,
            tables=tuple(
                _table(
                    relation,
                    _in_order(by_table[relation.name]),
                    self._counts[relation.name].result().rows,
                    self._source.keys.keys.get(relation.oid, ""),
                )
                for relation in self._plan.tables
            ),
            large_object_parts=_in_order(by_table.get(None, [])),
            not_kept=(NotKept("the server's roles as SQL", problem),) if problem else (),
            parts_read=len(read),
            parts_reused=len(self._parts) - len(read),
            rows_read=sum(part.rows for part in read),
            bytes_read=sum(part.text.plain_bytes for part in read),
            differing=tuple(self._differing),
        )


def _sample(parts: Sequence[_Progress], share: float) -> list[_Progress]:
    """A share of the parts at random, at least one, unless the share is nothing."""
    if not parts or not share:
        return []
    return random.sample(parts, ceil(len(parts) * share))


@dataclass(frozen=True, slots=True)
class Counted:
    """Rows, and how many of them may be younger than an earlier snapshot (None: not asked)."""

    rows: int
    young: int | None


def _count(readers: Readers, table: catalog.Relation, horizon: int | None) -> Counted:
    """Count a table without any range; with a horizon, its young rows in the same pass.

    That pass is what everything waits for, and may use several processes of the server; a plain
    count goes on beside the reading, and takes a third more of its processors with them.
    """
    what = f"table {table.name}"
    if horizon is None:
        (rows,) = _values(readers, what, catalog.count_query(table.name, table.condition))
        return Counted(rows, None)
    query = unchanged_query(table.name.sql, horizon)
    rows, young = _values(readers, what, query, in_parallel=True)
    return Counted(rows, young)


def _stored(parts: Sequence[_Progress]) -> list[Part]:
    """What earlier backups stored for parts."""
    return [part.planned.previous for part in parts if part.planned.previous is not None]


def _is_unchanged(counted: Counted, parts: Sequence[_Progress]) -> bool:
    """Whether a whole table is as it was: no young row, and as many as its parts had."""
    return counted.young == 0 and counted.rows == sum(part.rows for part in _stored(parts))


def _are_unchanged(readers: Readers, parts: Sequence[PartRead]) -> list[bool]:
    """Part by part, whether it has as many rows as before and none that is younger."""
    queries = [
        f"SELECT {number}, q.* FROM ({part.unchanged}) q" for number, part in enumerate(parts)
    ]
    values = iter(_values(readers, _what(parts[0]), " UNION ALL ".join(queries)))
    answers = [False] * len(parts)
    for number, rows, young in zip(values, values, values, strict=True):
        before = parts[number].previous
        answers[number] = before is not None and rows == before.rows and young == 0
    return answers


def _what(part: PartRead) -> str:
    return f"table {part.table.name}" if part.table else "large objects"


def _values(readers: Readers, what: str, query: str, *, in_parallel: bool = False) -> list[int]:
    """The integers in a query's rows, one row after the other."""
    with readers.lend(what) as reader:
        reader.execute([_IN_PARALLEL if in_parallel else _ALONE])
        text = b"".join(bytes(piece) for piece in reader.read(query))
    return [int(value) for value in text.split()]


def _roles(connecting: Connecting, runs: Runs) -> tuple[bytes, str]:
    """The roles as SQL, or nothing and why."""
    try:
        return dump_roles(connecting.programs, connecting.address, runs=runs), ""
    except (ProgramFailed, PermissionMissing) as exc:
        return b"", exc.message


def _in_order(parts: list[_Progress]) -> tuple[Part, ...]:
    return tuple(part.result for part in sorted(parts, key=lambda part: part.planned.index))


def _table(
    relation: catalog.Relation, parts: tuple[Part, ...], counted: int, key: str
) -> TableContents:
    rows = sum(part.rows for part in parts)
    if rows != counted:
        raise CountMismatch(
            f"table {relation.name}: its {len(parts)} parts have {rows} rows, but the same snapshot"
            f" counts {counted}",
            hint="An index or the table may be corrupt: run pg_amcheck on it.",
        )
    return TableContents(
        name=relation.name,
        columns=relation.columns,
        rows=rows,
        heap_bytes=relation.heap_bytes,
        parts=parts,
        condition=relation.condition,
        constraints=relation.constraints,
        unlogged=relation.unlogged,
        load_into=relation.load_into,
        key=key,
    )
