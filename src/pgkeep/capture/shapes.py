"""What tables look like, and whether they still look so: for capture without event triggers.

A line of `test_decoding` does not say which columns are a table's key, nor when that changes. So
the catalog is asked before each look at the slot, and a look keeps just the transactions that the
catalog's snapshot shows: as long as nothing is other than before, none of them changed a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import LiteralString

from pgkeep.model import TableName
from pgkeep.postgres.pgoutput import Relation, RelationColumn
from pgkeep.postgres.replica_identity import HAS_IDENTITY
from pgkeep.postgres.session import Connection

_XIDS = 1 << 32

_KEPT: LiteralString = """c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384
       AND c.relnamespace NOT IN (SELECT oid FROM pg_catalog.pg_namespace
             WHERE nspname IN ('pg_catalog', 'information_schema', 'pgkeep'))"""

_TABLES: LiteralString = f"""
    SELECT c.oid::int8 AS oid, n.nspname::text, c.relname::text, c.relreplident::text,
           {HAS_IDENTITY} AS has_identity,
           a.attname::text, pg_catalog.format_type(a.atttypid, NULL) AS type, a.atttypid::int8,
           a.atttypmod, a.attgenerated <> '' AS generated, a.attnum,
           EXISTS (SELECT FROM pg_catalog.pg_index i
                    WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey)
                      AND CASE c.relreplident WHEN 'd' THEN i.indisprimary
                                              WHEN 'i' THEN i.indisreplident ELSE false END)
           AS is_key
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_attribute a
        ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE {_KEPT}"""

# Of all that `_TABLES` is made of, catalog by catalog: to put it together for each column takes
# five times as long. Sums do not depend on the order of rows. Labels and attributes of types are
# part of what the text of a row means.
_FINGERPRINT: LiteralString = f"""
    SELECT pg_catalog.md5(pg_catalog.concat_ws(' ',
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', c.oid,
                n.nspname, c.relname, c.relreplident), 0))
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE {_KEPT}),
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', a.attrelid,
                a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated), 0))
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        WHERE {_KEPT} AND a.attnum > 0 AND NOT a.attisdropped),
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', i.indrelid,
                i.indkey, i.indisprimary, i.indisreplident, i.indisvalid, i.indisunique,
                i.indimmediate), 0))
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
        WHERE {_KEPT} AND (i.indisprimary OR i.indisreplident)),
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', t.oid,
                n.nspname, t.typname), 0))
         FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
        WHERE t.oid >= 16384 AND t.oid IN (
              SELECT a.atttypid FROM pg_catalog.pg_attribute a
                JOIN pg_catalog.pg_class c ON c.oid = a.attrelid WHERE {_KEPT})),
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(e::text, 0)) FROM pg_catalog.pg_enum e),
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', a.attrelid,
                a.attnum, a.attname, a.atttypid, a.atttypmod, a.attisdropped), 0))
         FROM pg_catalog.pg_attribute a
         JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind = 'c'
        WHERE c.oid >= 16384))),
      pg_catalog.pg_current_snapshot()::text"""

# TRUNCATE names a partitioned table as well as its partitions, which are what has rows.
_NOT_KEPT: LiteralString = """
    SELECT n.nspname::text, c.relname::text
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('m', 'p') OR c.relkind = 'r'
       AND (c.oid < 16384 OR n.nspname IN ('pg_catalog', 'information_schema', 'pgkeep'))"""


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table as the catalog has it."""

    relation: Relation
    """As pgoutput would tell of it: without generated columns."""
    columns: tuple[tuple[str, str], ...]
    """Names and types of all columns, in the order in which a line has them."""
    has_identity: bool

    @property
    def is_full(self) -> bool:
        return self.relation.identity == "f"


@dataclass(frozen=True, slots=True)
class CatalogLook:
    """What the catalog was like, and which transactions had committed by then."""

    fingerprint: str
    xmax: int
    running: frozenset[int]

    def shows(self, xid: int) -> bool:
        """Whether a transaction, by the lower half of its id, had committed for all to see."""
        distance = (xid - self.xmax) % _XIDS
        return distance >= _XIDS // 2 and self.xmax + distance - _XIDS not in self.running


Shapes = Mapping[TableName, TableShape | None]
"""By name; None for what has rows that nobody keeps, such as a materialized view."""


def look(connection: Connection) -> CatalogLook:
    """Whether anything is other than before, in one statement and so with one snapshot."""
    row = connection.execute(_FINGERPRINT).fetchone()
    assert row is not None
    fingerprint, snapshot = row
    _, xmax, running = str(snapshot).split(":")
    return CatalogLook(
        str(fingerprint), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid)
    )


def load(connection: Connection) -> tuple[str, Shapes]:
    """All tables, and the fingerprint that tells of the same moment."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        fingerprint = look(connection).fingerprint
        rows = connection.execute(_TABLES + " ORDER BY oid, a.attnum").fetchall()
        others = connection.execute(_NOT_KEPT).fetchall()
    found: dict[TableName, TableShape | None] = {TableName(*one): None for one in others}
    for _, group in groupby(rows, key=lambda row: row[0]):
        shape = _shape(list(group))
        found[shape.relation.name] = shape
    return fingerprint, found


def _shape(rows: list[tuple[object, ...]]) -> TableShape:
    oid, schema, name, identity, has_identity, *_ = rows[0]
    columns = [row for row in rows if row[5] is not None]
    return TableShape(
        Relation(
            int(str(oid)),
            TableName(str(schema), str(name)),
            str(identity),
            tuple(
                RelationColumn(
                    str(row[5]), int(str(row[7])), int(str(row[8])),
                    is_key=bool(row[11]) or identity == "f",
                )
                for row in columns
                if not row[9]
            ),
        ),
        tuple((str(row[5]), str(row[6])) for row in columns),
        bool(has_identity),
    )  # fmt: skip
