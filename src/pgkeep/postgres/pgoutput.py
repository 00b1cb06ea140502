"""What the output plugin `pgoutput` writes, message by message: bytes in, records out, no I/O.

The format: https://www.postgresql.org/docs/17/protocol-logicalrep-message-formats.html, with
protocol version 1 (whole transactions, in the order in which they committed) and values as text.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

from pgkeep.errors import JournalInvalid
from pgkeep.model import TableName

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)

BEGIN, COMMIT, RELATION, MESSAGE = b"B", b"C", b"R", b"M"
INSERT, UPDATE, DELETE, TRUNCATE = b"I", b"U", b"D", b"T"


class Unchanged(Enum):
    """A large value (TOAST) that an update left as it was, and that the server did not send."""

    VALUE = "unchanged"


UNCHANGED: Final = Unchanged.VALUE

Value = bytes | None | Unchanged
"""A column's text in the server's encoding, NULL, or `UNCHANGED`."""


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction follows. All of its changes come before its `Commit`."""

    commit_lsn: int
    committed: datetime
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The transaction is whole. `end_lsn` is where the next one may begin."""

    commit_lsn: int
    end_lsn: int
    committed: datetime


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """One column as the changes that follow have it."""

    name: str
    type_oid: int
    type_modifier: int
    is_key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """What a table looked like for the changes that follow."""

    oid: int
    name: TableName
    identity: str
    """REPLICA IDENTITY: d(efault), n(othing), f(ull) or i(ndex)."""
    columns: tuple[RelationColumn, ...]


@dataclass(frozen=True, slots=True)
class Insert:
    """A new row."""

    relation: int
    new: list[Value]


@dataclass(frozen=True, slots=True)
class Update:
    """A row's new values. `old` is there if its key changed, or with REPLICA IDENTITY FULL.

    `old_is_key`: only the key columns of `old` have values.
    """

    relation: int
    old: list[Value] | None
    old_is_key: bool
    new: list[Value]


@dataclass(frozen=True, slots=True)
class Delete:
    """A row that is gone, by its key or by all of its values."""

    relation: int
    old: list[Value]
    old_is_key: bool


@dataclass(frozen=True, slots=True)
class Truncate:
    """Tables that were emptied by one statement."""

    relations: tuple[int, ...]
    cascade: bool
    restart_sequences: bool


@dataclass(frozen=True, slots=True)
class LogicalMessage:
    """What `pg_logical_emit_message` wrote."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


Change = Insert | Update | Delete | Truncate
Message = Begin | Commit | Relation | Change | LogicalMessage

_BEGIN = struct.Struct(">QqI")
_COMMIT = struct.Struct(">BQQq")
_OID = struct.Struct(">I")
_SHORT = struct.Struct(">H")
_COLUMN = struct.Struct(">Ii")


def parse(data: bytes) -> Message | None:
    """One message; None for a kind that says nothing of rows (type, origin)."""
    try:
        parser = _PARSERS.get(data[:1])
        if parser is None and data[:1] not in (b"O", b"Y"):
            raise JournalInvalid(f"the journal holds a message of unknown kind {data[:1]!r}")
        return parser(data) if parser else None
    except (struct.error, IndexError, ValueError, OverflowError) as exc:
        raise JournalInvalid(f"the journal holds a broken message of kind {data[:1]!r}") from exc


def commit_end(data: bytes) -> tuple[int, datetime]:
    """Of a commit message, where it ends and when it was: all that capture has to know."""
    _, _, end_lsn, committed = _COMMIT.unpack_from(data, 1)
    return end_lsn, _moment(committed)


def message_prefix(data: bytes) -> bytes:
    """Of a logical message, its prefix."""
    return data[10 : data.index(b"\0", 10)]


def is_transactional(data: bytes) -> bool:
    """Of a logical message, whether it is part of a transaction, or stands between two."""
    return bool(data[1] & 1)


def content(data: bytes) -> bytes:
    """Of a logical message, what it says."""
    return data[data.index(b"\0", 10) + 5 :]


def with_prefix(data: bytes, prefix: bytes) -> bytes:
    """A logical message with another prefix."""
    return data[:10] + prefix + data[data.index(b"\0", 10) :]


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1


def _begin(data: bytes) -> Begin:
    _must_end(data, 1 + _BEGIN.size)
    lsn, committed, xid = _BEGIN.unpack_from(data, 1)
    return Begin(lsn, _moment(committed), xid)


def _commit(data: bytes) -> Commit:
    _must_end(data, 1 + _COMMIT.size)
    _, lsn, end_lsn, committed = _COMMIT.unpack_from(data, 1)
    return Commit(lsn, end_lsn, _moment(committed))


def _relation(data: bytes) -> Relation:
    (oid,) = _OID.unpack_from(data, 1)
    schema, at = _text(data, 5)
    name, at = _text(data, at)
    identity = chr(data[at])
    (count,) = _SHORT.unpack_from(data, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        is_key = bool(data[at] & 1)
        column, at = _text(data, at + 1)
        type_oid, modifier = _COLUMN.unpack_from(data, at)
        at += _COLUMN.size
        columns.append(RelationColumn(column, type_oid, modifier, is_key))
    _must_end(data, at)
    # An empty schema stands for pg_catalog.
    return Relation(oid, TableName(schema or "pg_catalog", name), identity, tuple(columns))


def _tuple(data: bytes, at: int) -> tuple[list[Value], int]:
    values: list[Value] = []
    (count,) = _SHORT.unpack_from(data, at)
    for _ in range(count):
        kind = data[at + 2]
        if kind == 0x74:  # t: text
            end = at + 7 + int.from_bytes(data[at + 3 : at + 7])
            if end > len(data):
                raise ValueError("value is cut off")
            values.append(data[at + 7 : end])
            at = end - 2
        elif kind == 0x6E:  # n: NULL
            values.append(None)
            at += 1
        elif kind == 0x75:  # u: unchanged
            values.append(UNCHANGED)
            at += 1
        else:
            raise ValueError(f"unknown kind of value {kind}")
    return values, at + 2


def _last_tuple(data: bytes, at: int) -> list[Value]:
    values, end = _tuple(data, at)
    _must_end(data, end)
    return values


def _must_end(data: bytes, end: int) -> None:
    if end != len(data):
        raise ValueError("message is longer or shorter than it says")


def _insert(data: bytes) -> Insert:
    return Insert(int.from_bytes(data[1:5]), _last_tuple(data, 6))


def _update(data: bytes) -> Update:
    relation, kind = int.from_bytes(data[1:5]), data[5:6]
    if kind == b"N":
        return Update(relation, None, False, _last_tuple(data, 6))
    old, at = _tuple(data, 6)
    return Update(relation, old, kind == b"K", _last_tuple(data, at + 1))


def _delete(data: bytes) -> Delete:
    return Delete(int.from_bytes(data[1:5]), _last_tuple(data, 6), data[5:6] == b"K")


def _truncate(data: bytes) -> Truncate:
    (count,) = _OID.unpack_from(data, 1)
    options = data[5]
    _must_end(data, 6 + 4 * count)
    relations = struct.unpack_from(f">{count}I", data, 6)
    return Truncate(relations, bool(options & 1), bool(options & 2))


def _message(data: bytes) -> LogicalMessage:
    lsn = int.from_bytes(data[2:10])
    prefix, at = _text(data, 10)
    (size,) = _OID.unpack_from(data, at)
    _must_end(data, at + 4 + size)
    return LogicalMessage(bool(data[1]), lsn, prefix, data[at + 4 : at + 4 + size])


_PARSERS: dict[bytes, Callable[[bytes], Message]] = {
    BEGIN: _begin,
    COMMIT: _commit,
    RELATION: _relation,
    INSERT: _insert,
    UPDATE: _update,
    DELETE: _delete,
    TRUNCATE: _truncate,
    MESSAGE: _message,
}
