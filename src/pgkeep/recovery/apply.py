"""Changes into the target, many at once.

With triggers and foreign keys quiet, changes of different tables do not touch each other, so each
table has a queue of its own, and all are written out together. Each batch is one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Dumper

from pgkeep.errors import ReplayFailed
from pgkeep.postgres.copytext import copy_line
from pgkeep.postgres.pgoutput import UNCHANGED, Delete, Insert, Update, Value
from pgkeep.postgres.session import Connection
from pgkeep.recovery.netting import (
    Net,
    Row,
    RowChange,
    merged,
    net_by_key,
    net_by_row,
)
from pgkeep.recovery.refusing import RefusingChecks
from pgkeep.recovery.tables import TargetTable

# For fewer changes than these, a stage is not worth its statements.
_FEW = 8
_COPY_BYTES = 1 << 20


@dataclass(slots=True)
class Queue:
    """The changes of one table, in their order."""

    table: TargetTable
    changes: list[RowChange] = field(default_factory=list)
    only_inserts: bool = True


@dataclass(slots=True)
class Batch:
    """Changes to be written together; then tables to be emptied."""

    queues: dict[TargetTable, Queue] = field(default_factory=dict)
    truncated: tuple[TargetTable, ...] = ()
    changes: int = 0
    bytes: int = 0

    def add(self, table: TargetTable, change: RowChange, size: int) -> None:
        queue = self.queues.get(table)
        if queue is None:
            queue = self.queues[table] = Queue(table)
        queue.changes.append(change)
        if queue.only_inserts and not isinstance(change, Insert):
            queue.only_inserts = False
        self.changes += 1
        self.bytes += size


class _Text(bytes):
    """A value's text in the server's encoding, whose type the server finds out."""

    __slots__ = ()


class _TextDumper(Dumper):
    oid = 0

    def dump(self, obj: _Text) -> Buffer | None:
        return bytes(obj)


class _Diverged(Exception):
    """A statement met another number of rows than the changes name."""


class Writer:
    """Writes batches through one connection. Not for several threads at once."""

    def __init__(self, connection: Connection, refusing: RefusingChecks) -> None:
        connection.adapters.register_dumper(_Text, _TextDumper)
        connection.prepare_threshold = 2
        self._connection = connection
        self._refusing = refusing
        self._cursor = psycopg.RawCursor(connection)
        self._staged: set[str] = set()

    def write(self, batch: Batch) -> None:
        """One transaction. `ReplayFailed` names the table whose changes do not fit."""
        staged = frozenset(self._staged)
        while True:
            try:
                self._write(batch)
            except ReplayFailed as exc:
                self._staged = set(staged)  # what was made since then is taken back
                refused = exc.__cause__
                if not isinstance(refused, psycopg.errors.CheckViolation):
                    raise
                if not self._refusing.take_away(self._connection, refused):
                    raise
            else:
                return

    def _write(self, batch: Batch) -> None:
        with self._connection.transaction():
            for queue in batch.queues.values():
                with _named(queue.table):
                    self._write_queue(queue)
            if batch.truncated:
                self._truncate(batch.truncated)

    def drop_stages(self) -> None:
        """Nothing of ours may stand in the way of a change of the schema."""
        for stage in self._staged:
            self._execute(f"DROP TABLE pg_temp.{stage}")
        self._staged.clear()

    def _write_queue(self, queue: Queue) -> None:
        table, changes = queue.table, queue.changes
        if queue.only_inserts:
            self._copy(table.copy, [one.new for one in changes if isinstance(one, Insert)])
        elif table.full:
            self._write_whole_rows(table, changes)
        elif not table.key:
            raise ReplayFailed("rows were changed or deleted that nothing tells apart")
        elif len(changes) < _FEW:
            self._write_one_by_one(table, changes)
        else:
            self._write_net(table, changes)

    # --- many at once -----------------------------------------------------------------------

    def _write_net(self, table: TargetTable, changes: Sequence[RowChange]) -> None:
        net = net_by_key(changes, table.key)
        if net is None:
            self._write_one_by_one(table, changes)
            return
        self._stage(table, _staged_lines(net) if net.deletes or net.updates else None)
        try:
            with self._connection.transaction():
                self._write_staged(table, net)
        except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation, _Diverged):
            # Rows may have had to make room for one another on the way; and one by one tells
            # which change does not fit.
            self._write_one_by_one(table, changes)
        if net.deletes or net.updates:
            self._execute(table.empty_stage)

    def _write_staged(self, table: TargetTable, net: Net) -> None:
        if net.deletes:
            self._execute_for(len(net.deletes), table.delete_staged)
        for number, (unchanged, rows) in enumerate(net.updates.items(), 1):
            statement = table.update_staged(number, unchanged)
            if statement is not None:
                self._execute_for(len(rows), statement)
        if net.inserts:
            self._copy(table.copy, net.inserts)

    def _write_whole_rows(self, table: TargetTable, changes: Sequence[RowChange]) -> None:
        go, come = net_by_row(changes)
        if go:
            lines = (copy_line([str(n).encode(), *_texts(row)]) for row, n in go.items())
            self._stage(table, lines)
            wanted = sum(go.values())
            found = self._execute(table.delete_staged_whole)
            if found != wanted:
                raise ReplayFailed(
                    f"{wanted - found} of {wanted} rows that were changed or deleted are not there"
                )
            self._execute(table.empty_stage)
        if come:
            self._copy(table.copy, come)

    def _stage(self, table: TargetTable, lines: Iterable[bytes] | None) -> None:
        if lines is None:
            return
        if table.stage not in self._staged:
            self._execute(table.create_stage)
            self._staged.add(table.stage)
        self._copy_pieces(table.copy_stage, lines)

    def _copy(self, statement: str, rows: Sequence[Row]) -> None:
        self._copy_pieces(statement, (copy_line(_texts(row)) for row in rows))

    def _copy_pieces(self, statement: str, pieces: Iterable[bytes]) -> None:
        with self._connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            held, size = [], 0
            for piece in pieces:
                held.append(piece)
                size += len(piece)
                if size >= _COPY_BYTES:
                    copy.write(b"".join(held))
                    held, size = [], 0
            copy.write(b"".join(held))

    # --- one by one -------------------------------------------------------------------------

    def _write_one_by_one(self, table: TargetTable, changes: Sequence[RowChange]) -> None:
        for change in changes:
            if isinstance(change, Insert):
                self._execute(table.insert_one, change.new)
            elif isinstance(change, Delete):
                values = [change.old[at] for at in table.key]
                self._one(table, "deleted", table.delete_one, values, values)
            else:
                self._update_one(table, merged(change))

    def _update_one(self, table: TargetTable, change: Update) -> None:
        new = change.new
        update = table.update_one(tuple([at for at, one in enumerate(new) if one is UNCHANGED]))
        if update.statement is not None:
            before = change.old or new
            key = [before[at] for at in table.key]
            values = [*key, *(new[at] for at in update.given)]
            self._one(table, "updated", update.statement, values, key)

    def _one(
        self, table: TargetTable, what: str, statement: str, values: Row, key: Sequence[Value]
    ) -> None:
        if self._execute(statement, values) != 1:
            names = (table.columns[at].name for at in table.key)
            told = ", ".join(
                f"{name} = {_shown(value)}" for name, value in zip(names, key, strict=True)
            )
            raise ReplayFailed(f"the row that was {what} is not there: {told}")

    # --- statements -------------------------------------------------------------------------

    def _truncate(self, tables: Sequence[TargetTable]) -> None:
        """All together: foreign keys between them allow nothing else."""
        names = ", ".join(table.sql for table in tables)
        try:
            with self._connection.transaction():
                self._execute(f"TRUNCATE {names}")
        except psycopg.errors.FeatureNotSupported:  # another table refers to one of them
            for table in tables:
                self._execute(f"DELETE FROM {table.sql}")

    def _execute(self, statement: str, values: Sequence[Value] | None = None) -> int:
        parameters = None
        if values is not None:
            parameters = [_Text(one) if isinstance(one, bytes) else None for one in values]
        self._cursor.execute(statement.encode(), parameters)
        return self._cursor.rowcount

    def _execute_for(self, rows: int, statement: str) -> None:
        if self._execute(statement) != rows:
            raise _Diverged


def _staged_lines(net: Net) -> Iterator[bytes]:
    """Rows to delete under number 0, updates under those of their patterns."""
    for row in net.deletes:
        yield copy_line([b"0", *_texts(row)])
    for number, rows in enumerate(net.updates.values(), 1):
        prefix = str(number).encode()
        for row in rows:
            yield copy_line([prefix, *_texts(row)])


def _texts(row: Iterable[Value]) -> list[bytes | None]:
    """NULL stands for what was not sent too: no statement reads it."""
    return [None if value is UNCHANGED else value for value in row]


def _shown(value: Value) -> str:
    return value.decode("utf-8", "replace")[:80] if isinstance(value, bytes) else "NULL"


@contextmanager
def _named(table: TargetTable) -> Iterator[None]:
    """Says to which table an error belongs."""
    try:
        yield
    except ReplayFailed as exc:
        raise ReplayFailed(f"table {table.name}: {exc.message}") from exc
    except (psycopg.IntegrityError, psycopg.DataError, psycopg.ProgrammingError) as exc:
        text = (exc.diag.message_primary or str(exc)).splitlines()[0]
        raise ReplayFailed(f"table {table.name}: {text}") from exc
