"""Messages of a slot become segments: packed as they come, cut where they grow too large."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pgkeep.model import Lsn, SequenceValue, TableName
from pgkeep.postgres import pgoutput
from pgkeep.postgres.ddl import PREFIX, ChangeReader, Treatment, treatment
from pgkeep.postgres.slot import RawMessage
from pgkeep.repository.journal import FrameKind, encode_frame

# A segment is sealed and stored in one piece: so much is in memory, twice.
SEGMENT_BYTES = 8 << 20

_CHANGES = b"IUDT"
_BEGIN, _COMMIT, _MESSAGE = pgoutput.BEGIN[0], pgoutput.COMMIT[0], pgoutput.MESSAGE[0]


@dataclass(slots=True)
class Stretch:
    """What one segment will hold, while it grows."""

    begins_whole: bool = True
    ends_whole: bool = True
    body: bytearray = field(default_factory=bytearray)
    end: Lsn | None = None
    """Where the last whole transaction in it ends; None if it has none."""
    first_commit: datetime | None = None
    last_commit: datetime | None = None
    transactions: int = 0
    changes: int = 0
    schema_changes: int = 0
    barriers: int = 0
    changes_of_schema: ChangeReader = field(default_factory=ChangeReader)
    """Of the transaction under way, which may have begun in the stretch before."""

    def add(self, message: RawMessage, own_prefix: bytes) -> None:
        """Take a message, and note what the head has to say.

        Of what others write with pg_logical_emit_message nothing is kept: ours have a prefix that
        nobody else knows, which gives way to a plain one. Outside of transactions a message comes
        between them, and is only something to move past.
        """
        data = message.data
        kind = data[0]
        if kind in _CHANGES:
            self.changes += 1
        elif kind == _BEGIN:
            self.ends_whole = False
            self.changes_of_schema = ChangeReader()
        elif kind == _COMMIT:
            self._commit(data)
        elif kind == _MESSAGE:
            if not pgoutput.is_transactional(data):
                self.end = Lsn(max(message.lsn, self.end or 0))
                return
            if pgoutput.message_prefix(data) != own_prefix:
                return
            data = pgoutput.with_prefix(data, PREFIX.encode())
            self._change_schema(pgoutput.content(data))
        self.body += encode_frame(FrameKind.MESSAGE, message.lsn, message.xid, data)

    def add_sequences(self, values: Sequence[SequenceValue]) -> None:
        """Take where sequences stand at the end of this stretch."""
        document = [[v.name.schema, v.name.name, v.last_value, v.is_called] for v in values]
        self.body += encode_frame(FrameKind.SEQUENCES, 0, 0, json.dumps(document).encode())

    def add_partly(self, tables: Sequence[TableName]) -> None:
        """Say of which tables this holds no updates and deletes."""
        document = [[table.schema, table.name] for table in tables]
        self.body += encode_frame(FrameKind.PARTLY, 0, 0, json.dumps(document).encode())

    def _change_schema(self, content: bytes) -> None:
        self.schema_changes += 1
        change = self.changes_of_schema.take(content)
        self.barriers += treatment(change) is Treatment.STOP

    def _commit(self, data: bytes) -> None:
        untold = self.changes_of_schema.untold()
        self.barriers += untold is not None and treatment(untold) is Treatment.STOP
        end, committed = pgoutput.commit_end(data)
        self.end, self.last_commit = Lsn(end), committed
        self.ends_whole = True
        self.first_commit = self.first_commit or committed
        self.transactions += 1


def pack(
    messages: Iterable[RawMessage], own_prefix: bytes, *, limit_bytes: int = SEGMENT_BYTES
) -> Iterator[Stretch]:
    """Stretches of at most about `limit_bytes`, as the messages come; none if nothing comes.

    The last one ends whole, since a slot gives whole transactions.
    """
    stretch = Stretch()
    for message in messages:
        if len(stretch.body) >= limit_bytes:
            yield stretch
            stretch = Stretch(
                begins_whole=stretch.ends_whole,
                ends_whole=stretch.ends_whole,
                changes_of_schema=stretch.changes_of_schema,
            )
        stretch.add(message, own_prefix)
    if stretch.body or stretch.end is not None:
        yield stretch


class SequenceWatch:
    """Which sequences moved since they were looked at last."""

    def __init__(self, look: Callable[[], Sequence[SequenceValue]]) -> None:
        self._look = look
        self._known: dict[TableName, SequenceValue] = {}

    def moved(self) -> tuple[SequenceValue, ...]:
        """Those that stand elsewhere than when `keep` was told; at first, all."""
        return tuple(value for value in self._look() if self._known.get(value.name) != value)

    def keep(self, values: Sequence[SequenceValue]) -> None:
        """These are kept: only what moves from here on is of interest."""
        self._known.update({value.name: value for value in values})
