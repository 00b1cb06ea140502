"""Replaying the journal into a restored database, up to exactly where a survey has said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from pgkeep.errors import JournalInvalid, ReplayFailed
from pgkeep.events import Progressed, Reporter
from pgkeep.model import Lsn, Segment, SequenceValue, TableName
from pgkeep.postgres import ddl, pgoutput
from pgkeep.postgres.concern import Treat
from pgkeep.postgres.pgoutput import Begin, LogicalMessage, Relation, Truncate
from pgkeep.recovery.apply import Batch, Writer
from pgkeep.recovery.journey import Journey
from pgkeep.recovery.netting import RowChange
from pgkeep.recovery.survey import UNREADABLE
from pgkeep.recovery.tables import TargetTable
from pgkeep.repository.journal import Frame, FrameKind

STAGE = "replaying"

BATCH_CHANGES = 20_000
BATCH_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class SequenceSamples:
    """Where sequences stood, last before the moment and first after it.

    Where one was not set back in between, it stood between the two.
    """

    before: Mapping[TableName, SequenceValue]
    after: Mapping[TableName, SequenceValue]
    set_back: frozenset[TableName]
    """Tables that were emptied after the moment, their sequences with them."""
    is_whole: bool
    """Whether the journal goes far enough to tell all that are at or past the moment."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was applied, and where the sequences stood then or soon after."""

    transactions: int
    changes: int
    schema_changes: int
    tables: frozenset[TableName]
    sequences: SequenceSamples
    partly: frozenset[TableName]
    """Tables of which the journal has no updates and deletes."""


class Replayer:
    """Takes the messages of the journal in their order, and hands batches on to be written.

    One batch is written by a thread while the next one is collected.
    """

    def __init__(
        self,
        writer: Writer,
        describe: Callable[[Relation], TargetTable | None],
        run_change: Callable[[ddl.SchemaChange], None],
        reporter: Reporter,
        treat: Treat = ddl.treatment,
    ) -> None:
        """`describe` finds the table for a relation's changes, or None for one to pass over."""
        self._treat = treat
        self._writer = writer
        self._describe = describe
        self._run_change = run_change
        self._reporter = reporter
        self._relations: dict[int, Relation] = {}
        self._tables: dict[int, TargetTable | None] = {}
        self._changed: set[TableName] = set()
        self._batch = Batch()
        self._reader = ddl.ChangeReader()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pgkeep-replay")
        self._writing: Future[None] | None = None
        self.transactions = 0
        self.last_xid = 0
        self.changes = 0
        self.schema_changes = 0

    @property
    def changed_tables(self) -> frozenset[TableName]:
        return frozenset(self._changed)

    def know(self, relation: Relation) -> None:
        """Take what a table looks like from here on."""
        if self._relations.get(relation.oid) != relation:
            self._relations[relation.oid] = relation
            self._tables.pop(relation.oid, None)

    def name_of(self, oid: int) -> TableName | None:
        """What a table is called, if the journal has told so far."""
        relation = self._relations.get(oid)
        return None if relation is None else relation.name

    def take(self, data: bytes) -> None:
        """One message of a transaction that is to be applied."""
        message = pgoutput.parse(data)
        if isinstance(message, RowChange):
            self._take_change(message, len(data))
        elif isinstance(message, Relation):
            self.know(message)
        elif isinstance(message, Truncate):
            self._truncate(message)
        elif isinstance(message, LogicalMessage) and message.prefix == ddl.PREFIX:
            self._change_schema(self._reader.take(message.content))

    def end_transaction(self, xid: int) -> None:
        """A transaction is whole; the next may be collected with it."""
        self.transactions += 1
        self.last_xid = xid
        self._reader = ddl.ChangeReader()

    def flush(self) -> None:
        """Begin to write what was collected, when all before is written."""
        batch, self._batch = self._batch, Batch()
        self._wait()
        if batch.queues or batch.truncated:
            self._writing = self._thread.submit(self._write, batch)

    def settle(self) -> None:
        """Everything that was taken is in the target."""
        self.flush()
        self._wait()

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, batch: Batch) -> None:
        self._writer.write(batch)
        self._reporter.report(Progressed(STAGE, batch.bytes, batch.changes))

    def _take_change(self, change: RowChange, size: int) -> None:
        table = self._table(change.relation)
        if table is None:
            return
        batch = self._batch
        batch.add(table, change, size)
        self.changes += 1
        if batch.changes >= BATCH_CHANGES or batch.bytes >= BATCH_BYTES:
            self.flush()

    def _table(self, oid: int) -> TargetTable | None:
        try:
            return self._tables[oid]
        except KeyError:
            pass
        relation = self._relations.get(oid)
        if relation is None:
            raise JournalInvalid(
                f"the journal has a change of table {oid}, of which it tells nothing"
            )
        self.settle()  # the connection is needed for questions
        table = self._tables[oid] = self._describe(relation)
        if table is not None:
            self._changed.add(table.name)
        return table

    def _truncate(self, message: Truncate) -> None:
        found = [self._table(oid) for oid in message.relations]
        tables = {table.name: table for table in found if table is not None}
        for name, table in tables.items():
            emptied = sum(one is not None and one.name == name for one in found)
            if emptied < table.stands_for:
                raise ReplayFailed(
                    f"some partitions of {name} were emptied, and its rows lie in others here"
                )
        self.changes += 1
        self._batch.truncated = tuple(tables.values())
        self.flush()

    def _change_schema(self, change: ddl.SchemaChange) -> None:
        """Several events may tell of one statement; the first of them counts."""
        if change.number != 1 or self._treat(change) is not ddl.Treatment.RUN:
            return
        self.settle()
        self._run_change(change)
        self.schema_changes += 1
        self._tables.clear()


def replay(journey: Journey, replayer: Replayer) -> Replayed:
    """Apply every transaction of the journey that the backup does not show.

    The replayer's target must be as the backup has it, with triggers and foreign keys quiet.
    """
    stream = _Stream(journey, replayer)
    for head, frames in journey.reader.read(journey.route.segments):
        stream.take_segment(head, frames)
        if stream.ended and head.ends_whole:
            break
    replayer.settle()
    if not stream.is_sampled:
        stream.look_further(journey)
    if replayer.transactions != journey.survey.transactions:
        raise JournalInvalid("the journal changed between two looks at it")
    return Replayed(
        replayer.transactions,
        replayer.changes,
        replayer.schema_changes,
        replayer.changed_tables,
        stream.sequences,
        frozenset(stream.partly),
    )


class _Stream:
    """Which messages belong to transactions that are to be applied."""

    def __init__(self, journey: Journey, replayer: Replayer) -> None:
        self._snapshot = journey.snapshot
        self._before = journey.survey.before_lsn
        self._backup_lsn = Lsn.parse(journey.point.lsn)
        self._replayer = replayer
        self._applies = False
        self._before_it: dict[TableName, SequenceValue] = {}
        self._after_it: dict[TableName, SequenceValue] = {}
        self._set_back: set[TableName] = set()
        self._xid = 0
        self.partly: set[TableName] = set()
        self.ended = False
        self.sequence = 0
        """The number of the segment that was taken last."""
        self.is_sampled = False
        """Whether sequences were looked at after all that this segment has."""

    @property
    def sequences(self) -> SequenceSamples:
        return SequenceSamples(
            self._before_it, self._after_it, frozenset(self._set_back), self.is_sampled
        )

    def look_further(self, journey: Journey) -> None:
        """Beyond the end, for where the sequences stood, as far as that can be read."""
        self.ended = True
        with suppress(*UNREADABLE):
            for head, frames in journey.reader.read(journey.route.after(self.sequence)):
                self.take_segment(head, frames)
                if self.is_sampled:
                    return

    def take_segment(self, head: Segment, frames: Iterator[Frame]) -> None:
        take, end = self._replayer.take, head.end
        self.sequence, self.is_sampled = head.sequence, _ends_a_look(head)
        for frame in frames:
            data = frame.data
            if frame.kind != FrameKind.MESSAGE:
                # What was sampled before the backup, the backup knows better.
                if frame.kind == FrameKind.SEQUENCES and end > self._backup_lsn:
                    self._sample(data)
                if frame.kind == FrameKind.PARTLY and end > self._backup_lsn:
                    self.partly.update(parse_tables(data))
            elif self.ended:
                self._take_from_beyond(data)
            elif data[:1] == pgoutput.BEGIN:
                self._begin(data)
            elif data[:1] == pgoutput.COMMIT:
                if self._applies:
                    self._replayer.end_transaction(self._xid)
                self._applies = False
            elif self._applies:
                take(data)
            elif data[:1] == pgoutput.RELATION:
                self._know(data)

    def _know(self, data: bytes) -> None:
        relation = pgoutput.parse(data)
        assert isinstance(relation, Relation)
        self._replayer.know(relation)

    def _take_from_beyond(self, data: bytes) -> None:
        """Of what came after the moment, only what tells of sequences counts."""
        if data[:1] == pgoutput.RELATION:
            self._know(data)
        elif data[:1] == pgoutput.TRUNCATE:
            self._note_set_back(data)

    def _begin(self, data: bytes) -> None:
        begin = pgoutput.parse(data)
        assert isinstance(begin, Begin)
        self._xid = begin.xid
        self.ended = self._before is not None and begin.commit_lsn >= self._before
        self._applies = not self.ended and not self._snapshot.shows(begin.xid)

    def _note_set_back(self, data: bytes) -> None:
        message = pgoutput.parse(data)
        assert isinstance(message, Truncate)
        if message.restart_sequences:
            names = (self._replayer.name_of(oid) for oid in message.relations)
            self._set_back.update(name for name in names if name is not None)

    def _sample(self, data: bytes) -> None:
        known = self._after_it if self.ended else self._before_it
        for value in parse_sequences(data):
            known[value.name] = value


def _ends_a_look(head: Segment) -> bool:
    """Whether capture sampled the sequences for it: of several segments that one look at the slot
    gave, only for the last, which covers more than its last commit."""
    return head.ends_whole and head.covered != head.last_commit


def parse_tables(data: bytes) -> Sequence[TableName]:
    """The tables that a frame names."""
    try:
        return [TableName(str(schema), str(name)) for schema, name in json.loads(data)]
    except (ValueError, TypeError) as exc:
        raise JournalInvalid("the journal holds a list of tables that cannot be read") from exc


def parse_sequences(data: bytes) -> Sequence[SequenceValue]:
    """Where sequences stood, out of a frame."""
    try:
        return [
            SequenceValue(TableName(str(schema), str(name)), int(last_value), bool(is_called))
            for schema, name, last_value, is_called in json.loads(data)
        ]
    except (ValueError, TypeError) as exc:
        raise JournalInvalid("the journal holds a sample of sequences that cannot be read") from exc
