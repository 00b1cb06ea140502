"""Filling the target: rows in, indexes as soon as a table is full, rows read back for the proof.

An index takes longest (three quarters of a restore, measured), so it begins the moment that its
table is full, while other tables still load; reading back fills what time is left.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from pgkeep.errors import ConnectionLost, DamagedObject, DatabaseError, PgkeepError, ProgramFailed
from pgkeep.events import Reporter, StageBegan, StageEnded
from pgkeep.model import Part, TableName
from pgkeep.postgres import catalog
from pgkeep.postgres.archive import Entry, use_list
from pgkeep.postgres.copying import CopyReader
from pgkeep.postgres.dumping import Runs, run_script, script_from_archive
from pgkeep.postgres.readers import Readers, Started
from pgkeep.postgres.selection import ForeignKey, foreign_keys
from pgkeep.postgres.session import server_major
from pgkeep.recovery import load, proof
from pgkeep.recovery.digest import Digest, RowDigest, RowSum, TextDigest
from pgkeep.recovery.landing import Run
from pgkeep.recovery.load import TargetSessions
from pgkeep.recovery.plan import TableRestore
from pgkeep.recovery.proof import TableProof
from pgkeep.recovery.references import References
from pgkeep.recovery.request import Lost
from pgkeep.recovery.schedule import Task, Urgency, run_tasks

CRITICAL = "critical"
_CRITICAL, _OTHERS = 0, 1

LARGE_OBJECTS = TableName("pg_catalog", "pg_largeobject")

# A smaller table is written as fast either way.
_WORTH_FREEZING = 8 << 20

# Neither from the middle on, beside somebody else's scan, nor by several processes.
_IN_ORDER = ("SET synchronize_seqscans = off", "SET max_parallel_workers_per_gather = 0")

# What is worth being read back by several sessions at once.
_LARGE_BYTES = 64 << 20

# More memory makes index builds faster, but a small server must not be driven out of its own:
# shared_buffers tells how large it is.
_INDEX_MEMORY = """
    SELECT pg_catalog.set_config('maintenance_work_mem', GREATEST(
        pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem')),
        LEAST(pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers')) / 2, 1 << 29)
    ) / 1024 || 'kB', false);
"""


@dataclass(frozen=True, slots=True)
class Filled:
    """The tables as stored and as read back, the ones that were analyzed, what is lost, and which
    of the definitions that come after the rows are there (dump ids)."""

    tables: tuple[TableProof, ...]
    analyzed: frozenset[TableName]
    lost: tuple[Lost, ...]
    made: frozenset[int]


def fill(run: Run, missing: tuple[Lost, ...]) -> Filled:
    """Load, index and read back everything in the plan."""
    run.reporter.report(StageBegan(load.STAGE, run.plan.text_bytes, run.plan.rows))
    filling = _Filling(run, list(missing))
    try:
        run_tasks(filling.first_tasks(), workers=run.request.jobs, on_error=filling.abort)
        filling.set_sequences_and_objects()
    finally:
        filling.close()
    run.reporter.report(StageEnded(load.STAGE, f"{run.plan.rows:,} rows"))
    return filling.result()


@dataclass(slots=True)
class _Table:
    """A table under way."""

    plan: TableRestore
    indexes_left: int
    restored: RowSum = field(default_factory=RowSum)
    stretches_left: int = 1
    """Of its pages, to be read back."""

    @property
    def rank(self) -> int:
        return _CRITICAL if self.plan.is_critical else _OTHERS


class _Critical:
    """When the critical tables are back: full, with their indexes, and read back."""

    def __init__(self, tables: Iterable[TableRestore], reporter: Reporter) -> None:
        # Twice, if it has indexes: once these are made, and once it was read back.
        self._tables = [table for table in tables if table.is_critical]
        self._left = sum(2 if table.indexes else 1 for table in self._tables)
        self._reporter = reporter
        self._lock = threading.Lock()

    def begin(self) -> None:
        if self._left:
            self._reporter.report(StageBegan(CRITICAL))

    def done(self, table: TableRestore) -> None:
        if not table.is_critical:
            return
        with self._lock:
            self._left -= 1
            if self._left:
                return
        rows = sum(one.source.rows for one in self._tables)
        summary = f"{rows:,} rows in {len(self._tables)} critical tables are back"
        self._reporter.report(StageEnded(CRITICAL, summary))


@dataclass(slots=True)
class _Group:
    """Tables that are full at the same moment: one, or all that are loaded through one root."""

    name: TableName
    tables: list[_Table]
    parts_left: int
    is_in_order: bool = False
    """The rows stand as they were sent."""
    damaged: bool = False
    stored: RowSum = field(default_factory=RowSum)

    @property
    def proof(self) -> TableProof:
        restored = sum((table.restored for table in self.tables), RowSum())
        return TableProof(self.name, self.stored, restored)


def _is_constraint(index: Entry) -> bool:
    return index.kind == "CONSTRAINT"


def _foreign_keys(run: Run) -> Iterator[ForeignKey]:
    """Those that need not wait for the end: no statement of a whole restore may fail anyway."""
    if run.archive is None or not run.plan.whole or run.landing.is_managed:
        return
    if run.request.allow_occupied:  # some may be there
        return
    large = {(t.name.schema, t.name.name) for t in run.plan.tables if t.is_large}
    late = {entry.dump_id for entry in run.plan.after}
    built = {index.dump_id for table in run.plan.tables for index in table.indexes}
    for key in foreign_keys(run.archive, large):
        needs = tuple(need for need in key.needs if need.dump_id not in built)
        if key.entry.dump_id in late and late.issuperset(need.dump_id for need in needs):
            yield replace(key, needs=needs)


def _groups(tables: Iterable[TableRestore]) -> list[_Group]:
    found: dict[TableName, _Group] = {}
    for table in tables:
        group = found.setdefault(table.load_name, _Group(table.load_name, [], 0))
        group.tables.append(_Table(table, len(table.indexes)))
        group.parts_left += len(table.source.parts)
    return list(found.values())


class _Filling:
    def __init__(self, run: Run, lost: list[Lost]) -> None:
        self._run = run
        self._lost = lost
        self._seed = secrets.randbits(64)
        self._lock = threading.Lock()
        self._runs = Runs()
        self._analyzed: set[TableName] = set()
        self._sessions = TargetSessions(run.request.target, run.landing.settings(run))
        self._readers = Readers(self._new_reader)
        self._groups = _groups(run.plan.tables)
        self._critical = _Critical(run.plan.tables, run.reporter)
        names = [table.plan.name for group in self._groups for table in group.tables]
        self._references = References(_foreign_keys(run), names)
        self._objects: tuple[RowSum, RowSum] | None = None

    def first_tasks(self) -> Iterator[Task]:
        self._critical.begin()
        total = sum(table.weight for table in self._run.plan.tables)
        for group in self._groups:
            if self._is_for_one_session(group, total):
                (table,) = group.tables
                run = partial(self._load_frozen, group, table)
                yield Task(table.rank, Urgency.LOAD, -table.plan.weight, run)
            else:
                yield from self._parts(group)
        if self._run.plan.large_objects.parts:
            yield Task(_OTHERS, Urgency.LOAD, 0, self._load_large_objects)

    def _is_for_one_session(self, group: _Group, total: int) -> bool:
        """Whether a table may be truncated, and does not keep the others waiting at the end.

        One that has more to do than a session's share decides when all is done: it goes first,
        loaded by all sessions, so that its indexes can begin.
        """
        run, plan = self._run, group.tables[0].plan
        is_ours = run.scope.schema and not plan.is_managed and not plan.source.condition
        is_alone = len(group.tables) == 1 and group.name == plan.name
        is_worth_it = plan.source.text_bytes >= _WORTH_FREEZING
        is_worth_it = is_worth_it and plan.weight * run.request.jobs <= total
        return is_ours and is_alone and is_worth_it and not plan.where and not plan.is_critical

    def _parts(self, group: _Group) -> Iterator[Task]:
        """Part by part, by as many sessions as there are."""
        for table in group.tables:
            for part in table.plan.source.parts:
                run = partial(self._load, group, table, part)
                yield Task(table.rank, Urgency.LOAD, -table.plan.weight, run)

    def abort(self) -> None:
        self._runs.end()
        self._sessions.abort()
        self._readers.abort()

    def close(self) -> None:
        self._readers.abort()  # they hold nothing that has to be ended in order
        self._sessions.close()

    def set_sequences_and_objects(self) -> None:
        load.set_sequences(self._sessions, self._run.plan.sequences)
        if any(item.what == "large objects" for item in self._lost):
            return  # some are not there
        load.set_large_object_properties(
            self._sessions,
            self._run.plan.large_objects,
            owners=self._run.request.owners,
            privileges=self._run.request.privileges,
        )

    def result(self) -> Filled:
        whole = [one for one in self._groups if not one.damaged and not one.tables[0].plan.where]
        tables = [group.proof for group in whole]
        if self._objects is not None:
            tables.append(TableProof(LARGE_OBJECTS, *self._objects))
        return Filled(
            tuple(tables), frozenset(self._analyzed), tuple(self._lost), self._references.made
        )

    def _new_reader(self, started: Started) -> CopyReader:
        # A primary key that is being made locks readers out for as long as it takes.
        return CopyReader(
            self._run.programs,
            self._run.request.target,
            lock_timeout_seconds=0,
            on_started=started,
            settings=_IN_ORDER,
        )

    @contextmanager
    def _reading(self) -> Iterator[CopyReader]:
        """A session in a snapshot of its own, which ends with the block and frees its locks."""
        with self._readers.lend("the target") as reader:
            reader.execute(["COMMIT", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"])
            yield reader
            reader.execute(["COMMIT"])  # or its lock would keep a primary key waiting for ever

    # --- tasks: each returns those that can begin once it is done -------------------------------

    def _load_frozen(self, group: _Group, table: _Table) -> Iterable[Task]:
        run = self._run
        try:
            group.stored = load.load_frozen(
                self._sessions, run.request.sealed, table.plan, self._seed, run.reporter
            )
        except ConnectionLost:
            raise
        except PgkeepError:  # nothing of it is there: part by part it is told, or got round
            return self._parts(group)
        group.is_in_order = True
        return self._once_full(group, table)

    def _load(self, group: _Group, table: _Table, part: Part) -> Iterable[Task]:
        run = self._run
        try:
            stored = load.load_part(
                self._sessions, run.request.sealed, table.plan, part, self._seed, run.reporter,
                run.refusing,
            )  # fmt: skip
        except PgkeepError as exc:
            stored, group.damaged = RowSum(), True
            if load.is_damage(exc) or not run.landing.refuse_rows(table.plan, exc):
                self._note_damage(f"table {table.plan.source.name}", exc)
        with self._lock:
            group.stored += stored
            group.parts_left -= 1
            if group.parts_left:
                return ()
        return [task for table in group.tables for task in self._once_full(group, table)]

    def _once_full(self, group: _Group, table: _Table) -> Iterator[Task]:
        keys = [entry for entry in table.plan.indexes if _is_constraint(entry)]
        yield from self._constraints(group, table, keys)

    def _constraints(
        self, group: _Group, table: _Table, entries: Sequence[Entry]
    ) -> Iterator[Task]:
        """Keys, one after the other; then other indexes side by side, and the comparison.

        To add a key locks everybody out: with it under way, whatever else this table needs would
        only wait, and keep a thread from another table.
        """
        if entries:
            build = partial(self._build, table, entries[0])
            then = partial(self._constraints, group, table, entries[1:])
            yield self._index_task(table, entries[0], lambda: [*build(), *then()])
            return
        for entry in table.plan.indexes:
            if not _is_constraint(entry):
                yield self._index_task(table, entry, partial(self._build, table, entry))
        if not table.indexes_left:
            yield from self._completed(table)
        if table.plan.where:
            return
        size = table.plan.source.text_bytes
        compare = self._compare_in_order if group.is_in_order else self._compare
        yield Task(table.rank, Urgency.COMPARE, -size, partial(compare, group, table))

    def _index_task(self, table: _Table, entry: Entry, run: Callable[[], Iterable[Task]]) -> Task:
        return Task(table.rank, Urgency.INDEX, -table.plan.index_weight(entry), run)

    def _build(self, table: _Table, entry: Entry) -> Iterable[Task]:
        self._make([entry])
        with self._lock:
            table.indexes_left -= 1
            if table.indexes_left:
                return ()
        self._critical.done(table.plan)
        return (Task(table.rank, Urgency.FINISH, 0, partial(self._analyze, table)),)

    def _make(self, entries: Sequence[Entry]) -> None:
        """Make entries of the archive, all or none."""
        run = self._run
        script = script_from_archive(
            run.programs,
            run.archive_bytes,
            run.request.archive_options,
            use_list=use_list(entries),
            for_major=server_major(run.connection),
        )
        run_script(
            run.programs,
            run.request.target,
            _INDEX_MEMORY.encode() + script,
            single=len(entries) > 1,
            runs=self._runs,
        )

    def _analyze(self, table: _Table) -> Iterable[Task]:
        with self._sessions.borrow() as connection:
            connection.execute(f"ANALYZE {table.plan.name.sql}".encode())
        self._analyzed.add(table.plan.name)
        return self._completed(table)

    def _completed(self, table: _Table) -> list[Task]:
        """The foreign keys that can be made now that a table has its rows and indexes."""
        with self._lock:
            return self._key_tasks(self._references.complete(table.plan.name))

    def _key_tasks(self, keys: Iterable[ForeignKey]) -> list[Task]:
        return [Task(_OTHERS, Urgency.INDEX, 0, partial(self._refer, key)) for key in keys]

    def _refer(self, key: ForeignKey) -> Iterable[Task]:
        """Make a foreign key. If it cannot be, it is tried once more, and told, at the end."""
        with self._lock:
            entries = self._references.entries(key)
        try:
            self._make(entries)
        except ConnectionLost:
            raise
        except (DatabaseError, ProgramFailed):
            entries = []
        with self._lock:
            return self._key_tasks(self._references.end(key, entries))

    def _compare_in_order(self, group: _Group, table: _Table) -> Iterable[Task]:
        """Read a table back as one text."""
        found = self._read(table, (0, None), TextDigest(self._seed))
        if found == group.stored:
            table.restored = found
            self._critical.done(table.plan)
            return ()
        # Other rows, or the same ones in another order: one by one, it does not matter.
        group.stored = load.digest_of_rows(self._run.request.sealed, table.plan, self._seed)
        return self._compare(group, table)

    def _compare(self, _: _Group, table: _Table) -> Iterable[Task]:
        """Read a table back; a large one in stretches side by side, for it may be the last one."""
        stretches = self._stretches(table.plan)
        if len(stretches) == 1:
            return self._read_back(table, stretches[0])
        table.stretches_left = len(stretches)
        size = table.plan.source.text_bytes // len(stretches)
        return [
            Task(table.rank, Urgency.COMPARE, -size, partial(self._read_back, table, pages))
            for pages in stretches
        ]

    def _stretches(self, plan: TableRestore) -> list[tuple[int, int | None]]:
        """Heap pages, from the first to before the end; the whole is (0, None)."""
        jobs = self._run.request.jobs
        if len(plan.source.parts) == 1 or plan.source.text_bytes < _LARGE_BYTES or jobs == 1:
            return [(0, None)]
        with self._sessions.borrow() as connection:
            row = connection.execute(
                "SELECT pg_catalog.pg_relation_size(%s::pg_catalog.regclass)", (plan.name.sql,)
            ).fetchone()
        pages = row[0] // catalog.PAGE_BYTES if row else 0
        starts = [pages * number // jobs for number in range(jobs)]
        return list(zip(starts, [*starts[1:], None], strict=True))

    def _read_back(self, table: _Table, pages: tuple[int, int | None]) -> Iterable[Task]:
        found = self._read(table, pages, RowDigest(self._seed))
        with self._lock:
            table.restored += found
            table.stretches_left -= 1
            if table.stretches_left:
                return ()
        self._critical.done(table.plan)
        return ()

    def _read(self, table: _Table, pages: tuple[int, int | None], digest: Digest) -> RowSum:
        with self._reading() as reader:
            return proof.read_back(reader, table.plan, pages, digest, self._run.reporter)

    def _load_large_objects(self) -> Iterable[Task]:
        run, objects = self._run, self._run.plan.large_objects
        try:
            stored = load.load_large_objects(
                self._sessions, run.request.sealed, objects, self._seed, run.reporter
            )
        except PgkeepError as exc:
            self._note_damage("large objects", exc)
            return ()
        compare = partial(self._read_back_large_objects, stored)
        return (Task(_OTHERS, Urgency.COMPARE, 0, compare),)

    def _read_back_large_objects(self, stored: RowSum) -> Iterable[Task]:
        run = self._run
        with self._reading() as reader:
            restored = proof.read_back_large_objects(
                reader, run.plan.large_objects, self._seed, run.reporter
            )
        self._objects = (stored, restored)
        return ()

    def _note_damage(self, what: str, error: PgkeepError) -> None:
        """Remember what is lost and go on, or raise an error that names what it belongs to."""
        if not load.is_damage(error):
            raise error
        if not self._run.request.go_on_after_damage:
            raise DamagedObject(
                f"{error.message}; it belongs to {what}",
                hint="Use another copy or backup, or restore all the rest with"
                " --go-on-after-damage.",
            ) from error
        with self._lock:
            if all(item.what != what for item in self._lost):
                self._lost.append(Lost(what, error.message))
