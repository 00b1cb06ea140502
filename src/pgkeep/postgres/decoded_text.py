"""What the output plugin `test_decoding` writes, line by line: bytes in, records out, no I/O.

It needs no publication, and no right but REPLICATION. Its text names tables and columns as a
statement would; `contrib/test_decoding/test_decoding.c` in PostgreSQL's source is its description.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from pgkeep.errors import JournalInvalid
from pgkeep.model import TableName
from pgkeep.postgres.pgoutput import UNCHANGED, Value

PLUGIN = "test_decoding"


@dataclass(frozen=True, slots=True)
class Began:
    """A transaction begins. All of its lines come before its `Committed`."""

    xid: int


@dataclass(frozen=True, slots=True)
class Committed:
    """The transaction is whole."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Told:
    """What `pg_logical_emit_message` wrote, undivided: a prefix may look like a message itself."""

    transactional: bool
    text: bytes
    """`prefix, sz: n content:` and the content."""

    def content(self, prefix: bytes) -> bytes | None:
        """What was said under this very prefix; None if it was said under another."""
        head = re.compile(re.escape(prefix) + rb", sz: (\d+) content:", re.DOTALL)
        match = head.match(self.text)
        if match is None or int(match[1]) != len(self.text) - match.end():
            return None
        return self.text[match.end() :]


@dataclass(frozen=True, slots=True)
class NamedValue:
    """A column, its type as format_type(oid, NULL) has it, and its value."""

    name: str
    type: str
    value: Value


@dataclass(frozen=True, slots=True)
class RowLine:
    """An INSERT, UPDATE or DELETE. `old` are the columns of the identity that are not null.

    Of a table without an identity, an UPDATE has only `new`, and a DELETE nothing at all.
    """

    action: str
    table: TableName
    old: tuple[NamedValue, ...] | None
    new: tuple[NamedValue, ...] | None


@dataclass(frozen=True, slots=True)
class TruncateLine:
    """Tables that were emptied by one statement."""

    tables: tuple[TableName, ...]
    cascade: bool
    restart_sequences: bool


Line = Began | Committed | Told | RowLine | TruncateLine

_NAME = rb'(?:[a-z_][a-z0-9_]*|"(?:[^"]|"")+")'
_TABLE = re.compile(rb"(%b)\.(%b)" % (_NAME, _NAME))
_COLUMN = re.compile(
    rb"""\ ?(%b)\[((?:[^"\[\]]|"(?:[^"]|"")*"|\[\])*)\]:
         (?:'([^']*(?:''[^']*)*)' | B'([01]*)' | ([^\s']+))(?=\ |\Z)"""
    % _NAME,
    re.VERBOSE,
)
_COMMIT = re.compile(rb"COMMIT \d+ \(at ([^)]+)\)\Z")
_MESSAGE = re.compile(rb"message: transactional: ([01]) prefix: (.*)\Z", re.DOTALL)
_NOTHING = b" (no-tuple-data)"
_OLD, _NEW = b" old-key:", b" new-tuple:"


def parse(data: bytes) -> Line:
    """One line; `JournalInvalid` for what this plugin does not write."""
    try:
        if data.startswith(b"table "):
            return _change(data)
        if data.startswith(b"BEGIN "):
            return Began(int(data[6:]))
        if match := _COMMIT.match(data):
            return Committed(datetime.fromisoformat(match[1].decode()))
        if match := _MESSAGE.match(data):
            return Told(match[1] == b"1", match[2])
    except ValueError as exc:
        raise _broken(data) from exc
    raise _broken(data)


def _broken(data: bytes) -> JournalInvalid:
    """What it says is somebody's data: only how it begins is told."""
    return JournalInvalid(f"the slot gave a line that cannot be read: {data.split(b' ')[0][:20]!r}")


def _change(data: bytes) -> RowLine | TruncateLine:
    tables, at = [], 6
    while True:
        match = _TABLE.match(data, at)
        if match is None:
            raise _broken(data)
        tables.append(TableName(_unquoted(match[1]), _unquoted(match[2])))
        at = match.end()
        if data[at : at + 2] != b", ":
            break
        at += 2
    action, colon, rest = data[at + 2 :].partition(b":")
    if data[at : at + 2] != b": " or not colon:
        raise _broken(data)
    if action == b"TRUNCATE":
        words = rest.split()
        return TruncateLine(tuple(tables), b"cascade" in words, b"restart_seqs" in words)
    if len(tables) != 1 or action not in (b"INSERT", b"UPDATE", b"DELETE"):
        raise _broken(data)
    return _row(data, action.decode(), tables[0], rest)


def _row(data: bytes, action: str, table: TableName, rest: bytes) -> RowLine:
    if rest == _NOTHING:
        return RowLine(action, table, None, None)
    if action == "DELETE":
        old, at = _columns(rest, 0)
        new = None
    elif action == "UPDATE" and rest.startswith(_OLD):
        old, at = _columns(rest, len(_OLD))
        if not rest.startswith(_NEW, at):
            raise _broken(data)
        new, at = _columns(rest, at + len(_NEW))
    else:
        old = None
        new, at = _columns(rest, 0)
    if at != len(rest):
        raise _broken(data)
    return RowLine(action, table, old, new)


def _columns(data: bytes, at: int) -> tuple[tuple[NamedValue, ...], int]:
    found = []
    while match := _COLUMN.match(data, at):
        name, kind, quoted, bits, plain = match.groups()
        value: Value
        if quoted is not None:
            value = quoted.replace(b"''", b"'")
        elif bits is not None:
            value = bits
        else:
            value = _plain(kind, plain)
        found.append(NamedValue(_unquoted(name), kind.decode(), value))
        at = match.end()
    return tuple(found), at


def _plain(kind: bytes, text: bytes) -> Value:
    if text == b"null":
        return None
    if text == b"unchanged-toast-datum":
        return UNCHANGED
    if kind == b"boolean":
        return {b"true": b"t", b"false": b"f"}[text] if text in (b"true", b"false") else text
    return text


def _unquoted(name: bytes) -> str:
    return (name[1:-1].replace(b'""', b'"') if name.startswith(b'"') else name).decode()
