"""A logical replication slot, read with plain SQL: look, then move on once all is kept.

Nothing here uses the replication protocol, so it works through a session pooler as well.
https://www.postgresql.org/docs/17/functions-admin.html#FUNCTIONS-REPLICATION
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString, TypeVar, cast

import psycopg

from pgkeep.errors import SlotLost
from pgkeep.model import Lsn
from pgkeep.postgres.session import Connection
from pgkeep.postgres.statements import literal

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER_BYTES = len(_SIGNATURE) + 8
_ROW = struct.Struct(">hiQiIiQi")
_END = struct.Struct(">iQi")
_NO_MORE = b"\xff\xff"

# A position at the beginning of a page of WAL lies behind the page's header, or before it.
_WAL_PAGE_BYTES = 8192
LONGEST_PAGE_HEADER_BYTES = 40
_PATIENCE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Position:
    """How far the server has got: everything that committed before `lsn` can be read from a slot
    now, and `at` is the server's clock just before that was so."""

    at: datetime
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class SlotState:
    """What the server says of a slot. Sizes are bytes of WAL."""

    confirmed: Lsn
    retained_bytes: int
    """What it keeps from being removed."""
    safe_bytes: int | None
    """What may still be written before the server gives it up; None: no limit."""
    lost: bool
    active_pid: int | None
    plugin: str = "pgoutput"

    @property
    def limit_bytes(self) -> int | None:
        """How much it may retain in all, as far as the server limits it."""
        return None if self.safe_bytes is None else self.retained_bytes + max(self.safe_bytes, 0)


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message of the output plugin as the slot gives it."""

    lsn: int
    xid: int
    data: bytes


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line of `test_decoding`. Of a BEGIN, also where its transaction ends, and that line."""

    lsn: int
    xid: int
    data: bytes
    end_lsn: int = 0
    end: bytes = b""


# Whether a role `r` may use slots. RDS lends that to members of a role of its own.
MAY_REPLICATE: LiteralString = """(r.rolsuper OR r.rolreplication OR EXISTS (
        SELECT FROM pg_catalog.pg_roles g WHERE g.rolname = 'rds_replication'
           AND pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER')))"""

Row = TypeVar("Row")


class Slot:
    """One slot of the database that a connection leads to."""

    def __init__(self, connection: Connection, name: str, publications: Sequence[str]) -> None:
        self._connection = connection
        self.name = name
        self._publications = tuple(publications)
        self._position: Position | None = None

    def now(self) -> datetime:
        """The server's clock."""
        row = self._connection.execute("SELECT pg_catalog.clock_timestamp()").fetchone()
        assert row is not None
        return cast(datetime, row[0])

    def position(self) -> Position:
        """See `Position`. The clock is read first.

        A transaction with synchronous_commit = off has committed for all to see before its WAL is
        flushed, and only then a slot gives it: so this waits until what was written by then is. If
        that takes long, it answers with the position before.
        """
        row = self._connection.execute(
            "SELECT pg_catalog.clock_timestamp(), pg_catalog.pg_current_wal_insert_lsn()::text"
        ).fetchone()
        assert row is not None
        found = Position(row[0], _before_page_header(Lsn.parse(row[1])))
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._flushed() < found.lsn:
            if time.monotonic() > deadline and self._position is not None:
                return self._position
            time.sleep(0.01)
        self._position = found
        return found

    def _flushed(self) -> Lsn:
        row = self._connection.execute(
            "SELECT pg_catalog.pg_current_wal_flush_lsn()::text"
        ).fetchone()
        assert row is not None
        return Lsn.parse(row[0])

    def state(self) -> SlotState | None:
        """What the server says of it; None if there is no such slot in this database."""
        row = self._connection.execute(
            "SELECT confirmed_flush_lsn::text,"
            "       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::int8,"
            "       safe_wal_size, wal_status, active_pid, plugin"
            "  FROM pg_catalog.pg_replication_slots"
            " WHERE slot_name = %s AND database = pg_catalog.current_database()",
            (self.name,),
        ).fetchone()
        if row is None:
            return None
        confirmed, retained, safe, status, pid, plugin = row
        lost = status == "lost" or confirmed is None or retained is None
        return SlotState(Lsn.parse(confirmed or "0/0"), retained or 0, safe, lost, pid, plugin)

    def create(self, plugin: str = "pgoutput") -> Lsn:
        """Make it; from the returned position on it gives everything.

        Waits for all transactions that have written something to end.
        """
        row = self._connection.execute(
            "SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot(%s, %s)",
            (self.name, plugin),
        ).fetchone()
        assert row is not None
        return Lsn.parse(row[0])

    def drop(self) -> None:
        """Remove it. It is no error if it is not there."""
        self._connection.execute(
            "SELECT pg_catalog.pg_drop_replication_slot(slot_name)"
            "  FROM pg_catalog.pg_replication_slots"
            " WHERE slot_name = %s AND database = pg_catalog.current_database()",
            (self.name,),
        )

    def peek(self, up_to_changes: int, *, since: Lsn) -> Iterator[RawMessage]:
        """Messages of whole transactions since the confirmed position, in commit order.

        Stops after the transaction with which there are so many. Read as a stream, in memory
        bounded by one message; the server keeps what does not fit there on its disk. `SlotLost`
        before the first message if the slot was moved past `since`: the server has gathered all
        messages before it gives the first, and what it says of the slot then is from after that.
        """
        query = (
            "COPY (SELECT lsn, xid, COALESCE((SELECT confirmed_flush_lsn"
            f" FROM pg_catalog.pg_replication_slots WHERE slot_name = {literal(self.name)}),"
            " 'FFFFFFFF/FFFFFFFF'), data FROM pg_catalog.pg_logical_slot_peek_binary_changes("
            f"{literal(self.name)}, NULL, {up_to_changes}, 'proto_version', '1', 'messages',"
            f" 'true', 'publication_names', {literal(_list(self._publications))}))"
            " TO STDOUT (FORMAT binary)"
        )
        for confirmed, message in self._copied(query, _rows):
            if confirmed > since:
                raise self.moved(since, Lsn(confirmed))
            yield message

    def peek_text(self, up_to_changes: int, *, since: Lsn) -> Iterator[RawLine]:
        """As `peek`, of a slot with `test_decoding`, which needs no publication.

        That tells only at its end when a transaction committed. So the server, which has gathered
        all lines anyway, looks there for each beginning.
        """
        query = (
            "COPY (WITH got AS MATERIALIZED (SELECT lsn, xid, data,"
            " pg_catalog.row_number() OVER () AS n FROM"
            f" pg_catalog.pg_logical_slot_peek_binary_changes({literal(self.name)}, NULL,"
            f" {up_to_changes}, 'include-xids', 'on', 'include-timestamp', 'on')),"
            " slot AS MATERIALIZED (SELECT (SELECT confirmed_flush_lsn"
            f" FROM pg_catalog.pg_replication_slots WHERE slot_name = {literal(self.name)})"
            " AS confirmed FROM (SELECT count(*) FROM got) counted),"
            " ends AS MATERIALIZED (SELECT xid, lsn, data FROM got"
            "  WHERE pg_catalog.substr(data, 1, 7) = 'COMMIT ')"
            " SELECT g.lsn, g.xid, COALESCE(s.confirmed, 'FFFFFFFF/FFFFFFFF'), g.data,"
            " COALESCE(e.lsn, '0/0'), COALESCE(e.data, '') FROM got g CROSS JOIN slot s"
            " LEFT JOIN ends e ON e.xid = g.xid AND pg_catalog.substr(g.data, 1, 6) = 'BEGIN '"
            " ORDER BY g.n) TO STDOUT (FORMAT binary)"
        )
        for confirmed, line in self._copied(query, _lines):
            if confirmed > since:
                raise self.moved(since, Lsn(confirmed))
            yield line

    def _copied(
        self, query: str, rows: Callable[[psycopg.Copy], Iterator[tuple[int, Row]]]
    ) -> Iterator[tuple[int, Row]]:
        try:
            with self._connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
                yield from rows(copy)
        except psycopg.errors.UndefinedObject as exc:
            self.drop()  # without its publication it cannot be read past this, ever
            raise self._unreadable(exc) from exc
        except psycopg.errors.ObjectNotInPrerequisiteState as exc:
            raise self._unreadable(exc) from exc

    def moved(self, since: Lsn, to: Lsn) -> SlotLost:
        """What to raise if somebody else has read changes from it."""
        return SlotLost(
            f"slot {self.name!r} was moved from {since} to {to} by somebody else, who has the"
            " changes between"
        )

    def _unreadable(self, error: psycopg.Error) -> SlotLost:
        message = error.diag.message_primary or str(error)
        return SlotLost(f"slot {self.name!r} cannot be read: {message}")

    def advance(self, to: Lsn) -> None:
        """What committed before `to` is not given again, and its WAL may go."""
        self._connection.execute(
            "SELECT pg_catalog.pg_replication_slot_advance(%s, %s::pg_catalog.pg_lsn)::text",
            (self.name, str(to)),
        )


def _before_page_header(lsn: Lsn) -> Lsn:
    """Where the WAL before it ends, which is what a flush reaches."""
    offset = lsn % _WAL_PAGE_BYTES
    return Lsn(lsn - offset) if offset <= LONGEST_PAGE_HEADER_BYTES else lsn


def _rows(copy: Iterator[bytes] | psycopg.Copy) -> Iterator[tuple[int, RawMessage]]:
    """Rows (pg_lsn, xid, pg_lsn, bytea) out of COPY's binary format; one piece is one row."""
    for data in _pieces(copy):
        _, _, lsn, _, xid, _, confirmed, _ = _ROW.unpack_from(data)
        yield confirmed, RawMessage(lsn, xid, data[_ROW.size :])


def _lines(copy: Iterator[bytes] | psycopg.Copy) -> Iterator[tuple[int, RawLine]]:
    """The same, and behind it the end of the transaction (pg_lsn, bytea)."""
    for data in _pieces(copy):
        _, _, lsn, _, xid, _, confirmed, size = _ROW.unpack_from(data)
        at = _ROW.size + size
        _, end_lsn, _ = _END.unpack_from(data, at)
        text = data[_ROW.size : at]
        yield confirmed, RawLine(lsn, xid, text, end_lsn, data[at + _END.size :])


def _pieces(copy: Iterator[bytes] | psycopg.Copy) -> Iterator[bytes]:
    for piece in copy:
        data = bytes(piece)
        if data.startswith(_SIGNATURE):
            data = data[_HEADER_BYTES:]
        if data and data != _NO_MORE:
            yield data


def _list(publications: Sequence[str]) -> str:
    return ",".join('"' + name.replace('"', '""') + '"' for name in publications)
