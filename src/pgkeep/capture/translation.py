"""What `test_decoding` tells becomes what `pgoutput` would have told: so the journal has one form,
and a replay need not know how its changes were captured. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pgkeep.capture.shapes import Shapes, TableShape
from pgkeep.errors import JournalInvalid, SchemaChangedUnseen
from pgkeep.model import TableName
from pgkeep.postgres.decoded_text import (
    Began,
    Committed,
    NamedValue,
    RowLine,
    Told,
    TruncateLine,
    parse,
)
from pgkeep.postgres.pgoutput import (
    Begin,
    Change,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Truncate,
    Update,
    Value,
)
from pgkeep.postgres.pgoutput_writing import encode
from pgkeep.postgres.slot import RawLine, RawMessage


class Translator:
    """Translates what one look gives. Make one for each, as the server tells of tables anew."""

    def __init__(self, shapes: Shapes, prefix: bytes, shows: Callable[[int], bool]) -> None:
        """`shows`: whether the shapes are those that a transaction has left behind."""
        self._shapes = shapes
        self._prefix = prefix
        self._shows = shows
        self._told: set[TableName] = set()
        self._begin: Begin | None = None
        self._is_told = False
        self.lines = 0
        self.held_back_at: int | None = None
        """Where a transaction ends that the shapes are not known to fit. It and all that committed
        after it are left for the next look."""

    def translate(self, lines: Iterable[RawLine]) -> Iterator[RawMessage]:
        """The messages. `SchemaChangedUnseen` for a row that does not look like its table."""
        for raw in lines:
            self.lines += 1
            if (
                self.held_back_at is None
            ):  # what was asked for has to be read to its end all the same
                yield from (
                    RawMessage(raw.lsn, raw.xid, encode(message)) for message in self._take(raw)
                )

    def _take(self, raw: RawLine) -> Iterator[Message]:
        line = parse(raw.data)
        if isinstance(line, Began):
            self._take_begin(line, raw)
        elif isinstance(line, Committed):
            yield self._commit(raw)
        elif isinstance(line, Told):
            yield from self._told_message(line, raw)
        else:
            changes = list(self._changes(line))
            if changes:
                yield from self._begun()
                yield from changes

    def _take_begin(self, line: Began, raw: RawLine) -> None:
        if not self._shows(line.xid):
            self.held_back_at = raw.end_lsn
            return
        end = parse(raw.end)
        if not isinstance(end, Committed):
            raise JournalInvalid(f"the slot gave transaction {line.xid} without its end")
        # Where the record of the commit begins is not told. Just before its end will do: it lies
        # behind all that committed before.
        self._begin = Begin(raw.end_lsn - 1, end.at, line.xid)
        self._is_told = False

    def _begun(self) -> Iterator[Message]:
        """Of a transaction of which nothing is kept, not even the beginning is."""
        if not self._is_told and self._begin is not None:
            self._is_told = True
            yield self._begin

    def _commit(self, raw: RawLine) -> Message:
        begin, self._begin = self._begin, None
        if begin is None or not self._is_told:
            return LogicalMessage(False, raw.lsn, "", b"")  # only something to move past
        return Commit(begin.commit_lsn, raw.lsn, begin.committed)

    def _told_message(self, line: Told, raw: RawLine) -> Iterator[Message]:
        if not line.transactional:
            yield LogicalMessage(False, raw.lsn, "", b"")
            return
        content = line.content(self._prefix)
        if content is not None:
            yield from self._begun()
            yield LogicalMessage(True, raw.lsn, self._prefix.decode(), content)

    def _changes(self, line: RowLine | TruncateLine) -> Iterator[Message]:
        if isinstance(line, TruncateLine):
            found = [shape for name in line.tables if (shape := self._shape(name)) is not None]
            if found:
                for shape in found:
                    yield from self._relation(shape)
                oids = tuple(shape.relation.oid for shape in found)
                yield Truncate(oids, line.cascade, line.restart_sequences)
            return
        shape = self._shape(line.table)
        if shape is not None and (line.action == "INSERT" or shape.has_identity):
            yield from self._relation(shape)
            yield _row(line, shape)

    def _shape(self, name: TableName) -> TableShape | None:
        try:
            return self._shapes[name]
        except KeyError:
            raise _is_other(name) from None

    def _relation(self, shape: TableShape) -> Iterator[Message]:
        name = shape.relation.name
        if name not in self._told:
            self._told.add(name)
            yield shape.relation


def _is_other(name: TableName) -> SchemaChangedUnseen:
    return SchemaChangedUnseen(f"table {name} is not what it was when its rows were changed")


def _row(line: RowLine, shape: TableShape) -> Change:
    oid = shape.relation.oid
    if line.action == "DELETE":
        return Delete(oid, _old(line.old, shape), not shape.is_full)
    if line.new is None or tuple((one.name, one.type) for one in line.new) != shape.columns:
        raise _is_other(shape.relation.name)
    values = {one.name: one.value for one in line.new}
    new = [values[column.name] for column in shape.relation.columns]
    if line.action == "INSERT":
        return Insert(oid, new)
    if line.old is None:
        if shape.is_full:
            raise _is_other(shape.relation.name)
        return Update(oid, None, False, new)
    return Update(oid, _old(line.old, shape), not shape.is_full, new)


def _old(old: tuple[NamedValue, ...] | None, shape: TableShape) -> list[Value]:
    """The old row: of a key all columns are there, of a whole row those that are not null."""
    values = {one.name: one.value for one in old or ()}
    keys = {column.name for column in shape.relation.columns if column.is_key}
    known = set(shape.columns)
    fits = values.keys() <= keys if shape.is_full else values.keys() == keys
    if old is None or not fits or any((one.name, one.type) not in known for one in old):
        raise _is_other(shape.relation.name)
    return [values.get(column.name) for column in shape.relation.columns]
