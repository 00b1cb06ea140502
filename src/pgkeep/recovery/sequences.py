"""Where a sequence in the target stands, and where it must stand so that no value comes twice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import LiteralString

from pgkeep.model import SequenceValue, TableName, quote_identifier
from pgkeep.postgres.session import Connection

_SEQUENCE: LiteralString = """
    SELECT s.seqincrement, s.seqmin, s.seqmax, n.nspname, t.relname, a.attname
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace m ON m.oid = c.relnamespace
      JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
      LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
       AND d.objid = c.oid AND d.refclassid = d.classid AND d.refobjsubid > 0
       AND d.deptype IN ('a', 'i')
      LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
      LEFT JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
      LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
     WHERE m.nspname = %s AND c.relname = %s"""


@dataclass(frozen=True, slots=True)
class SequenceState:
    """A sequence as it is in the target, and the column that it is for."""

    value: SequenceValue
    increment: int
    lowest: int
    highest: int
    table: TableName | None
    column: str

    def is_farther(self, one: SequenceValue, other: SequenceValue) -> bool:
        """Whether one gives values that lie beyond those of the other."""
        sign = 1 if self.increment > 0 else -1
        return (sign * one.last_value, one.is_called) > (sign * other.last_value, other.is_called)

    def within_bounds(self, value: SequenceValue) -> SequenceValue:
        """The nearest value that the sequence can have."""
        nearest = min(max(value.last_value, self.lowest), self.highest)
        return replace(value, last_value=nearest)

    def past_its_column(self, connection: Connection, value: SequenceValue) -> SequenceValue:
        """The value, or the farthest one that is in the column, if that lies beyond it."""
        if self.table is None:
            return value
        farthest = "max" if self.increment > 0 else "min"
        row = connection.execute(
            f"SELECT pg_catalog.{farthest}({quote_identifier(self.column)}::pg_catalog.numeric)"
            f" FROM {self.table.sql}".encode()
        ).fetchone()
        if not row or row[0] is None:
            return value
        there = SequenceValue(value.name, int(row[0]), True)
        is_possible = there == self.within_bounds(there)
        return there if is_possible and self.is_farther(there, value) else value


def sequence_state(connection: Connection, name: TableName) -> SequenceState | None:
    """A sequence of the target; None if there is none of that name."""
    row = connection.execute(_SEQUENCE, (name.schema, name.name)).fetchone()
    if row is None:
        return None
    increment, lowest, highest, schema, table, column = row
    now = connection.execute(f"SELECT last_value, is_called FROM {name.sql}".encode()).fetchone()
    assert now is not None
    return SequenceState(
        SequenceValue(name, *now),
        increment,
        lowest,
        highest,
        TableName(schema, table) if table is not None else None,
        column or "",
    )
