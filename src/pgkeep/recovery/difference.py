"""Rows that were restored beside a live table, held against it: missing, changed, new.

Everything is asked in the database where both are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pgkeep.errors import TargetNotReady
from pgkeep.model import TableName, quote_identifier
from pgkeep.postgres.session import Connection
from pgkeep.recovery.beside import Origin, origins

_KEYS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Column:
    """A column of both tables that can be written (not generated)."""

    name: str
    equal: str = ""
    """Of a key's column: its own type's equality. The search path may not find that by name."""
    is_always_identity: bool = False
    """INSERT may set it, and UPDATE may not."""

    @property
    def sql(self) -> str:
        return quote_identifier(self.name)


@dataclass(frozen=True, slots=True)
class TablePair:
    """A live table and the one beside it, with the columns that both have."""

    live: TableName
    restored: TableName
    key: tuple[Column, ...]
    """The primary key's columns; none where there is no such key in both."""
    columns: tuple[Column, ...]
    only_live: tuple[str, ...]
    only_restored: tuple[str, ...]
    is_partitioned: bool
    """The live one."""
    condition: str = ""
    """If just some rows were restored: which."""

    @property
    def live_rows(self) -> str:
        """The live table in a query. What inherits from it has rows of its own; partitions are
        the table. Of the restored one just its partitions inherit."""
        return self.live.sql if self.is_partitioned else f"ONLY {self.live.sql}"

    @property
    def has_key(self) -> bool:
        return bool(self.key)

    @property
    def values(self) -> tuple[Column, ...]:
        """The columns outside of the key."""
        names = {column.name for column in self.key}
        return tuple(column for column in self.columns if column.name not in names)


@dataclass(frozen=True, slots=True)
class TableDifference:
    """How many rows differ, and the keys of some."""

    pair: TablePair
    restored_rows: int
    live_rows: int
    missing: int
    """In the restored table, not in the live one."""
    changed: int
    """In both, by their key, but not the same. None without a key."""
    new: int
    """In the live table, not in the restored one; not asked if just some rows were restored."""
    missing_keys: tuple[str, ...]
    changed_keys: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        return not (self.missing or self.changed or self.new)


@dataclass(frozen=True, slots=True)
class Pairs:
    """What can be compared, and what was restored from tables that are gone."""

    found: tuple[TablePair, ...]
    gone: tuple[TableName, ...]


def pair_tables(connection: Connection, names: Sequence[TableName], schema: str) -> Pairs:
    """Tables with those that were restored from them under `schema`; no names means all there.

    `TargetNotReady` if there is nothing to compare, or a table that is named is not there.
    """
    beside = origins(connection, schema)
    wanted = {origin.live: origin for origin in beside}
    if names:
        by_default = {name: Origin(TableName(schema, name.name), name) for name in names}
        wanted = {name: wanted.get(name, by_default[name]) for name in names}
    if not wanted:
        raise TargetNotReady(
            f"there is no table in schema {schema!r} to compare with a live one",
            hint=f"Restore some first: pgkeep restore --table ... --into-schema {schema}.",
        )
    gone = () if names else tuple(name for name in wanted if not _columns(connection, name))
    return Pairs(
        tuple(_pair(connection, one) for name, one in wanted.items() if name not in gone), gone
    )


def compare(connection: Connection, pair: TablePair) -> TableDifference:
    """Count the differences, and show the first keys of each kind."""
    missing, changed, new = missing_rows(pair), changed_rows(pair), _new_rows(pair)
    return TableDifference(
        pair,
        _count(connection, f"FROM {pair.restored.sql}"),
        _count(connection, f"FROM {pair.live_rows}"),
        _count(connection, missing),
        _count(connection, changed) if pair.has_key else 0,
        0 if pair.condition else _count(connection, new),
        _some_keys(connection, pair, missing),
        _some_keys(connection, pair, changed) if pair.has_key else (),
    )


# --- clauses --------------------------------------------------------------------------------------


def missing_rows(pair: TablePair) -> str:
    """FROM and WHERE of the rows, as `r`, that the live table lacks."""
    return _rows_of_one_alone(pair, "r", pair.restored.sql, "l", pair.live_rows)


def changed_rows(pair: TablePair) -> str:
    """FROM and WHERE of the rows that both have, as `r` and `l`, with other values."""
    return (
        f"FROM {pair.restored.sql} AS r JOIN {pair.live_rows} AS l ON {same_key(pair)}"
        f" WHERE {differs(pair)}"
    )


def _new_rows(pair: TablePair) -> str:
    return _rows_of_one_alone(pair, "l", pair.live_rows, "r", pair.restored.sql)


def _rows_of_one_alone(pair: TablePair, ours: str, our: str, theirs: str, their: str) -> str:
    if pair.has_key:
        return (
            f"FROM {our} AS {ours} WHERE NOT EXISTS"
            f" (SELECT FROM {their} AS {theirs} WHERE {same_key(pair)})"
        )
    # Without a key the same row may be there more than once: it counts how often.
    text = _as_text("x", pair.columns)
    return (
        f"FROM (SELECT x.*, {text} AS pgkeep_text,"
        f" pg_catalog.row_number() OVER (PARTITION BY {text}) AS pgkeep_number"
        f" FROM {our} AS x) AS {ours}"
        f" LEFT JOIN (SELECT {text} AS pgkeep_text, pg_catalog.count(*) AS pgkeep_count"
        f" FROM {their} AS x GROUP BY 1) AS {theirs}"
        f" ON {theirs}.pgkeep_text OPERATOR(pg_catalog.=) {ours}.pgkeep_text"
        f" WHERE {ours}.pgkeep_number OPERATOR(pg_catalog.>)"
        f" COALESCE({theirs}.pgkeep_count, 0)"
    )


def same_key(pair: TablePair) -> str:
    """Whether `l` and `r` have the same key."""
    return " AND ".join(f"l.{one.sql} {one.equal} r.{one.sql}" for one in pair.key)


def differs(pair: TablePair) -> str:
    """By their text, as backups compare: some types have no equality, and -0 is not 0."""
    if not pair.values:
        return "false"
    return f"{_as_text('l', pair.values)} IS DISTINCT FROM {_as_text('r', pair.values)}"


def _as_text(alias: str, columns: Sequence[Column]) -> str:
    return "ROW(" + ", ".join(f"{alias}.{one.sql}" for one in columns) + ")::pg_catalog.text"


# --- questions ------------------------------------------------------------------------------------


def _count(connection: Connection, clause: str) -> int:
    row = connection.execute(f"SELECT pg_catalog.count(*) {clause}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def _some_keys(connection: Connection, pair: TablePair, clause: str) -> tuple[str, ...]:
    text = _as_text("r", pair.key or pair.columns)
    rows = connection.execute(
        f"SELECT {text} {clause} ORDER BY 1 LIMIT {_KEYS_SHOWN}".encode()
    ).fetchall()
    return tuple(row[0] for row in rows)


def _pair(connection: Connection, origin: Origin) -> TablePair:
    columns = {name: _columns(connection, name) for name in (origin.live, origin.restored)}
    for name, found in columns.items():
        if not found:
            raise TargetNotReady(f"there is no table {name} in this database")
    live, restored = columns[origin.live], columns[origin.restored]
    writable = {
        name: Column(name, is_always_identity=live[name] == _ALWAYS_IDENTITY)
        for name in restored
        if name in live and live[name] != _GENERATED
    }
    key = {name: equal for name, equal in _key(connection, origin.live) if equal}
    has_key = key.keys() <= writable.keys()
    return TablePair(
        origin.live,
        origin.restored,
        tuple(Column(name, equal) for name, equal in key.items()) if has_key else (),
        tuple(writable.values()),
        tuple(name for name in live if name not in restored),
        tuple(name for name in restored if name not in live),
        _is_partitioned(connection, origin.live),
        origin.condition,
    )


def _is_partitioned(connection: Connection, table: TableName) -> bool:
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_partitioned_table"
        " WHERE partrelid = pg_catalog.to_regclass(%s))",
        (table.sql,),
    ).fetchone()
    return bool(row and row[0])


_GENERATED, _ALWAYS_IDENTITY = "generated", "always identity"


def _columns(connection: Connection, table: TableName) -> dict[str, str]:
    """The columns in order, and what is special about each."""
    rows = connection.execute(
        "SELECT a.attname::text, CASE WHEN a.attgenerated <> '' THEN %s"
        "       WHEN a.attidentity = 'a' THEN %s ELSE '' END"
        "  FROM pg_catalog.pg_attribute a"
        "  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid"
        "  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')"
        "   AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        (_GENERATED, _ALWAYS_IDENTITY, table.schema, table.name),
    ).fetchall()
    return dict(rows)


def _key(connection: Connection, table: TableName) -> Iterator[tuple[str, str]]:
    """The primary key's columns, and the equality of each."""
    rows = connection.execute(
        "SELECT a.attname::text, pg_catalog.quote_ident(s.nspname), o.oprname::text"
        "  FROM pg_catalog.pg_index i"
        "  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid"
        "  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " CROSS JOIN LATERAL pg_catalog.generate_series(0, i.indnkeyatts - 1) k"
        "  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[k]"
        "  JOIN pg_catalog.pg_opclass p ON p.oid = i.indclass[k]"
        "  JOIN pg_catalog.pg_am m ON m.oid = p.opcmethod AND m.amname = 'btree'"
        "  JOIN pg_catalog.pg_amop e ON e.amopfamily = p.opcfamily AND e.amopstrategy = 3"
        "   AND e.amoplefttype = p.opcintype AND e.amoprighttype = p.opcintype"
        "  JOIN pg_catalog.pg_operator o ON o.oid = e.amopopr"
        "  JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace"
        " WHERE n.nspname = %s AND c.relname = %s AND i.indisprimary ORDER BY k",
        (table.schema, table.name),
    ).fetchall()
    for name, schema, operator in rows:
        yield name, f"OPERATOR({schema}.{operator})"
