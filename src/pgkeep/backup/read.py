"""Reading: parts, counts, schema and roles, side by side within one exported snapshot.

Threads are enough. The work is done in C that lets other threads run (compression, sealing,
hashing) and in the readers' own processes (psql); docs/decisions.md has the measurements.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pgkeep.backup.plan import BackupPlan, PartRead
from pgkeep.backup.source import Source
from pgkeep.errors import (
    ConnectionLost,
    CountMismatch,
    PermissionMissing,
    PgkeepError,
    ProgramFailed,
    SnapshotHeldTooLong,
    TableChanged,
)
from pgkeep.events import Progressed, Reporter, StageBegan, StageEnded
from pgkeep.model import NotKept, Part, TableContents, TableName
from pgkeep.postgres import catalog
from pgkeep.postgres.address import Address
from pgkeep.postgres.copying import CopyReader
from pgkeep.postgres.dumping import Runs, dump_roles, dump_schema
from pgkeep.postgres.programs import Programs
from pgkeep.repository.objects import StreamWriter

STAGE = "reading"


@dataclass(frozen=True, slots=True)
class Reading:
    """All that was read: streams are stored already."""

    schema_archive: bytes
    roles_script: bytes
    tables: tuple[TableContents, ...]
    large_object_parts: tuple[Part, ...]
    not_kept: tuple[NotKept, ...]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read. `new_writer` gives a fresh stream into the repositories."""

    programs: Programs
    address: Address
    jobs: int
    lock_timeout_seconds: float
    max_seconds: float
    new_writer: Callable[[], StreamWriter]


def read_all(source: Source, plan: BackupPlan, options: ReadOptions, reporter: Reporter) -> Reading:
    """Read everything in the plan. The first error ends all readers and is raised."""
    reporter.report(StageBegan(STAGE, plan.estimated_bytes, plan.estimated_rows))
    readers = _Readers(options, source.snapshot)
    executor = ThreadPoolExecutor(options.jobs + 1, thread_name_prefix="pgkeep-read")
    try:
        work = _submit(executor, readers, source, plan, options, reporter)
        _wait_for_all(work.everything, options.max_seconds)
        reading = _gather(plan, work)
    except BaseException:
        readers.abort()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        readers.close()
    rows = sum(table.rows for table in reading.tables)
    reporter.report(StageEnded(STAGE, f"{rows:,} rows in {len(reading.tables)} tables"))
    return reading


@dataclass(slots=True)
class _Work:
    schema: Future[bytes] | None = None
    roles: Future[tuple[bytes, str]] | None = None
    parts: list[tuple[PartRead, Future[Part]]] = field(default_factory=list)
    counts: dict[TableName, Future[int]] = field(default_factory=dict)

    @property
    def everything(self) -> list[Future[object]]:
        found: list[Future[object]] = [
            *(future for future in (self.schema, self.roles) if future is not None),  # type: ignore[list-item]
            *(future for _, future in self.parts),  # type: ignore[list-item]
            *self.counts.values(),  # type: ignore[list-item]
        ]
        return found


def _submit(
    executor: Executor,
    readers: _Readers,
    source: Source,
    plan: BackupPlan,
    options: ReadOptions,
    reporter: Reporter,
) -> _Work:
    work = _Work()
    if plan.kind.has_schema:
        work.schema = executor.submit(
            dump_schema,
            options.programs,
            options.address,
            snapshot=source.snapshot,
            lock_timeout_seconds=options.lock_timeout_seconds,
            runs=readers.runs,
        )
        work.roles = executor.submit(_roles, options, readers.runs)
    for part in plan.parts:
        future = executor.submit(_read_part, readers, part, options.new_writer, reporter)
        work.parts.append((part, future))
    for table in plan.tables:
        work.counts[table.name] = executor.submit(_count, readers, table)
    return work


def _read_part(
    readers: _Readers,
    part: PartRead,
    new_writer: Callable[[], StreamWriter],
    reporter: Reporter,
) -> Part:
    writer, rows = new_writer(), 0
    with _naming(_what(part)), readers.borrow() as lease:
        for piece in lease.reader.read(part.query):
            writer.write(piece)
            reporter.report(Progressed(STAGE, len(piece), lease.reader.lines - rows))
            rows = lease.reader.lines
    return Part(part.first_page, part.end_page, rows, writer.close())


def _count(readers: _Readers, table: catalog.Relation) -> int:
    with _naming(f"table {table.name}"), readers.borrow() as lease:
        text = b"".join(
            bytes(piece)
            for piece in lease.reader.read(catalog.count_query(table.name, table.condition))
        )
    return int(text)


def _roles(options: ReadOptions, runs: Runs) -> tuple[bytes, str]:
    """The roles as SQL, or nothing and why."""
    try:
        return dump_roles(options.programs, options.address, runs=runs), ""
    except (ProgramFailed, PermissionMissing) as exc:
        return b"", exc.message


def _wait_for_all(futures: Sequence[Future[object]], max_seconds: float) -> None:
    done, pending = wait(futures, timeout=max_seconds, return_when=FIRST_EXCEPTION)
    errors = [error for future in done if (error := future.exception()) is not None]
    if errors:
        # The cause comes before what it made of the others.
        raise min(errors, key=lambda error: isinstance(error, ConnectionLost))
    if pending:
        raise SnapshotHeldTooLong(
            f"the backup was not done after {max_seconds / 3600:.1f} h, and its snapshot holds back"
            " the source's vacuum",
            hint="Raise backup.max_snapshot_hours, or give the backup more jobs.",
        )


def _gather(plan: BackupPlan, work: _Work) -> Reading:
    schema = work.schema.result() if work.schema else b""
    roles, roles_problem = work.roles.result() if work.roles else (b"", "")
    not_kept = (NotKept("the server's roles as SQL", roles_problem),) if roles_problem else ()
    by_table: dict[TableName | None, list[tuple[int, Part]]] = {}
    for planned, future in work.parts:
        name = planned.table.name if planned.table else None
        by_table.setdefault(name, []).append((planned.index, future.result()))
    tables = tuple(
        _table(relation, _in_order(by_table[relation.name]), work.counts[relation.name].result())
        for relation in plan.tables
    )
    return Reading(schema, roles, tables, _in_order(by_table.get(None, [])), not_kept)


def _in_order(parts: list[tuple[int, Part]]) -> tuple[Part, ...]:
    return tuple(part for _, part in sorted(parts, key=lambda item: item[0]))


def _table(relation: catalog.Relation, parts: tuple[Part, ...], counted: int) -> TableContents:
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
    )


def _what(part: PartRead) -> str:
    return f"table {part.table.name}" if part.table else "large objects"


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """The server does not say on which table a lock was waited for."""
    try:
        yield
    except TableChanged as exc:
        raise TableChanged(f"{what}: {exc.message}", hint=exc.hint) from exc


class _Readers:
    """psql sessions on one snapshot, made when needed, lent to one thread at a time."""

    def __init__(self, options: ReadOptions, snapshot: str) -> None:
        self._options = options
        self._snapshot = snapshot
        self._idle: queue.SimpleQueue[CopyReader] = queue.SimpleQueue()
        self._all: list[CopyReader] = []
        self._aborted = False
        self.runs = Runs()

    def borrow(self) -> _Lease:
        if self._aborted:
            raise ConnectionLost("the backup was ended")
        try:
            return _Lease(self._idle, self._idle.get_nowait())
        except queue.Empty:
            reader = CopyReader(
                self._options.programs,
                self._options.address,
                snapshot=self._snapshot,
                lock_timeout_seconds=self._options.lock_timeout_seconds,
            )
            self._all.append(reader)
            return _Lease(self._idle, reader)

    def abort(self) -> None:
        self._aborted = True
        self.runs.end()
        for reader in self._all:
            reader.abort()

    def close(self) -> None:
        for reader in self._all:
            with suppress(PgkeepError):
                reader.close()


@dataclass(slots=True)
class _Lease:
    """A reader, given back when the block ends well; one that failed is not used again."""

    _home: queue.SimpleQueue[CopyReader]
    reader: CopyReader

    def __enter__(self) -> _Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._home.put(self.reader)
