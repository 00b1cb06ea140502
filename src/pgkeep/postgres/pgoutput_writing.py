"""Messages as `pgoutput` would have written them: the other way round of `pgoutput.parse`.

So that what another output plugin tells is kept, and replayed, as if it came from that one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import singledispatch

from pgkeep.postgres.pgoutput import (
    UNCHANGED,
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Relation,
    Truncate,
    Update,
    Value,
)

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@singledispatch
def encode(message: Message) -> bytes:
    """The message in protocol version 1, values as text."""
    raise TypeError(f"no message: {message!r}")


@encode.register
def _begin(message: Begin) -> bytes:
    moment = _microseconds(message.committed)
    return b"B" + struct.pack(">QqI", message.commit_lsn, moment, message.xid)


@encode.register
def _commit(message: Commit) -> bytes:
    moment = _microseconds(message.committed)
    return b"C" + struct.pack(">BQQq", 0, message.commit_lsn, message.end_lsn, moment)


@encode.register
def _relation(message: Relation) -> bytes:
    columns = b"".join(
        bytes([one.is_key]) + _text(one.name) + struct.pack(">Ii", one.type_oid, one.type_modifier)
        for one in message.columns
    )
    name = _text(message.name.schema) + _text(message.name.name)
    count = struct.pack(">H", len(message.columns))
    return b"R" + _oid(message.oid) + name + message.identity.encode() + count + columns


@encode.register
def _insert(message: Insert) -> bytes:
    return b"I" + _oid(message.relation) + b"N" + _tuple(message.new)


@encode.register
def _update(message: Update) -> bytes:
    old = b""
    if message.old is not None:
        old = (b"K" if message.old_is_key else b"O") + _tuple(message.old)
    return b"U" + _oid(message.relation) + old + b"N" + _tuple(message.new)


@encode.register
def _delete(message: Delete) -> bytes:
    kind = b"K" if message.old_is_key else b"O"
    return b"D" + _oid(message.relation) + kind + _tuple(message.old)


@encode.register
def _truncate(message: Truncate) -> bytes:
    options = message.cascade | message.restart_sequences << 1
    count = len(message.relations)
    return b"T" + struct.pack(f">IB{count}I", count, options, *message.relations)


@encode.register
def _message(message: LogicalMessage) -> bytes:
    head = struct.pack(">BQ", message.transactional, message.lsn)
    return b"M" + head + _text(message.prefix) + _oid(len(message.content)) + message.content


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _text(text: str) -> bytes:
    return text.encode() + b"\0"


def _oid(number: int) -> bytes:
    return struct.pack(">I", number)


def _tuple(values: Sequence[Value]) -> bytes:
    return struct.pack(">H", len(values)) + b"".join(map(_value, values))


def _value(value: Value) -> bytes:
    if value is None:
        return b"n"
    if value is UNCHANGED:
        return b"u"
    return b"t" + _oid(len(value)) + value
