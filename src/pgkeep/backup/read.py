"""Reading: parts, counts, schema and roles, side by side within one exported snapshot.

A part that was stored before is first asked whether it changed (`examine`); if not, it is used
again, but for a few that are read all the same, to compare. Threads are enough: the work is done in
C that lets other threads run, and in the readers' own processes; docs/decisions.md has the
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
from dataclasses import dataclass
from math import ceil
from typing import Any

from pgkeep.backup.examine import Connecting, Examination, PartProgress, by_table, what_is_read
from pgkeep.backup.plan import BackupPlan, PartRead
from pgkeep.backup.source import Source
from pgkeep.errors import (
    CountMismatch,
    PermissionMissing,
    ProgramFailed,
    SnapshotHeldTooLong,
)
from pgkeep.events import Noticed, Progressed, Reporter, StageBegan, StageEnded, counted
from pgkeep.model import NotKept, Part, SealedStream, TableContents, TableName
from pgkeep.pacing import Pace
from pgkeep.postgres import catalog
from pgkeep.postgres.dumping import Runs, dump_roles, dump_schema
from pgkeep.repository.objects import StreamWriter

STAGE = "reading"


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
    text = f"{counted(rows, 'row')} in {counted(len(reading.tables), 'table')}"
    if reading.parts_reused:
        parts = reading.parts_reused + reading.parts_read
        text += f"; {reading.parts_reused} of {parts} parts had not changed"
    return text


class _Work:
    """The futures of one reading, and for each what follows when it is done."""

    def __init__(
        self, source: Source, plan: BackupPlan, options: ReadOptions, reporter: Reporter
    ) -> None:
        self._source = source
        self._plan = plan
        self._options = options
        self._reporter = reporter
        self._readers = options.connecting.readers(source.snapshot)
        self._runs = Runs()
        self._aborted = threading.Event()
        self._pace = Pace(options.read_limit, sleep=self._aborted.wait)
        self._executor: Executor = ThreadPoolExecutor(
            options.jobs + 1, thread_name_prefix="pgkeep-read"
        )
        self._deadline = time.monotonic() + options.max_seconds
        self._parts = [PartProgress(part) for part in plan.parts]
        self._by_table = by_table(self._parts)
        self._examination = Examination(
            source,
            self._readers,
            self._executor,
            jobs=options.jobs,
            changed=lambda part: self._read([part]),
        )
        self._schema: Future[bytes] | None = None
        self._roles: Future[tuple[bytes, str]] | None = None
        self._sample: list[PartProgress] = []
        self._differing: list[TableName] = []

    # --- phases -------------------------------------------------------------------------------

    def begin(self) -> None:
        """The questions whether parts changed, schema and roles, and what must be read anyway."""
        for table in self._plan.tables:
            self._examination.begin(table, self._parts_of(table))
        if self._plan.kind.has_schema:
            self._dump_definitions()
        self._read(part for part in self._parts if part.planned.previous is None)
        asked = [part for part in self._parts if part.planned.previous is not None]
        self._sample = _sample(asked, self._options.verify_share)
        self._read(self._sample)  # before it is known whether they changed: nothing waits for it

    def follow(self) -> None:
        """Until every table is examined; what changed is read, all else is used again."""
        self._examination.follow(self._wait)

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

    def _parts_of(self, table: catalog.Relation) -> list[PartProgress]:
        return self._by_table.get(table.name, [])

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

    def _read(self, parts: Iterable[PartProgress]) -> None:
        for part in parts:
            if part.read is None:
                part.read = self._executor.submit(self._read_part, part.planned)

    def _read_part(self, planned: PartRead) -> Part:
        known = planned.previous.text if planned.previous else None
        writer, rows = self._options.new_writer(known), 0
        with self._readers.lend(what_is_read(planned)) as reader:
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

    def _wait(
        self, futures: Sequence[Future[Any] | None], until: str = FIRST_EXCEPTION
    ) -> set[Future[Any]]:
        """Until all are done, or one. The first error is raised, and so is running out of time."""
        present = [future for future in futures if future is not None]
        left = max(self._deadline - time.monotonic(), 0)
        done, pending = wait(present, timeout=left, return_when=until)
        self._options.connecting.raise_first(done)
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
        of_tables = [one for one in self._parts if one.read is not None and one.planned.table]
        return Reading(
            schema_archive=schema,
            roles_script=roles,
            tables=tuple(
                _table(
                    relation,
                    _in_order(by_table[relation.name]),
                    self._examination.counts[relation.name].result().rows,
                    self._source.keys.keys.get(relation.oid, ""),
                )
                for relation in self._plan.tables
            ),
            large_object_parts=_in_order(by_table.get(None, [])),
            not_kept=(NotKept("the server's roles as SQL", problem),) if problem else (),
            parts_read=len(read),
            parts_reused=len(self._parts) - len(read),
            rows_read=sum(one.result.rows for one in of_tables),
            bytes_read=sum(part.text.plain_bytes for part in read),
            differing=tuple(self._differing),
        )


def _sample(parts: Sequence[PartProgress], share: float) -> list[PartProgress]:
    """A share of the parts at random, at least one, unless the share is nothing."""
    if not parts or not share:
        return []
    return random.sample(parts, ceil(len(parts) * share))


def _roles(connecting: Connecting, runs: Runs) -> tuple[bytes, str]:
    """The roles as SQL, or nothing and why."""
    try:
        return dump_roles(connecting.programs, connecting.address, runs=runs), ""
    except (ProgramFailed, PermissionMissing) as exc:
        return b"", exc.message


def _in_order(parts: list[PartProgress]) -> tuple[Part, ...]:
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
