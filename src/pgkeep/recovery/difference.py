"""Rows that were restored beside a live table, held against it: missing, changed, new.

Everything is asked in the database where both are; what puts rows back is SQL for a person to read
and run. Tables come in an order in which no row needs one that comes later (foreign keys).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from pgkeep.errors import TargetNotReady
from pgkeep.model import TableName, quote_identifier
from pgkeep.postgres.session import Connection

_KEYS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class TablePair:
    """A live table and the one beside it, with the columns that both have."""

    live: TableName
    restored: TableName
    key: tuple[str, ...]
    """The primary key's columns, or, without one, all columns."""
    has_key: bool
    columns: tuple[str, ...]
    """Columns that both have and that can be written (not generated)."""
    only_live: tuple[str, ...]
    only_restored: tuple[str, ...]


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
    """In the live table, not in the restored one."""
    missing_keys: tuple[str, ...]
    changed_keys: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        return not (self.missing or self.changed or self.new)


def pair_tables(
    connection: Connection, names: Sequence[TableName], schema: str
) -> tuple[TablePair, ...]:
    """The tables with those of the same name under `schema`; no names means all that are there.

    `TargetNotReady` if one of a pair is missing.
    """
    wanted = tuple(names) or tuple(_all_beside(connection, schema))
    if not wanted:
        raise TargetNotReady(
            f"there is no table in schema {schema!r} to compare with a live one",
            hint=f"Restore some first: pgkeep restore --table ... --into-schema {schema}.",
        )
    return tuple(_pair(connection, name, TableName(schema, name.name)) for name in wanted)


def compare(connection: Connection, pair: TablePair) -> TableDifference:
    """Count the differences, and show the first keys of each kind."""
    missing, changed, new = _missing(pair), _changed(pair), _new(pair)
    return TableDifference(
        pair,
        _count(connection, f"SELECT FROM {pair.restored.sql}"),
        _count(connection, f"SELECT FROM {pair.live.sql}"),
        _count(connection, f"SELECT {missing}"),
        _count(connection, f"SELECT {changed}") if pair.has_key else 0,
        _count(connection, f"SELECT {new}"),
        _some_keys(connection, pair, missing),
        _some_keys(connection, pair, changed) if pair.has_key else (),
    )


def in_order(connection: Connection, pairs: Sequence[TablePair]) -> tuple[TablePair, ...]:
    """Parents before children. Tables that refer to each other in a circle keep their order."""
    by_name = {pair.live: pair for pair in pairs}
    parents = _parents(connection, tuple(by_name))
    try:
        order = tuple(TopologicalSorter(parents).static_order())
    except CycleError:
        order = tuple(by_name)
    return tuple(by_name[name] for name in order)


def statements(differences: Sequence[TableDifference], *, changed: bool) -> Iterator[str]:
    """SQL that puts missing rows back, and with `changed` the old values of changed ones too."""
    yield "BEGIN;"
    yield "SET CONSTRAINTS ALL DEFERRED;"
    for one in differences:
        pair = one.pair
        names = ", ".join(map(quote_identifier, pair.columns))
        if one.missing:
            yield f"-- {one.missing:,} rows that {pair.live} lacks"
            yield (
                f"INSERT INTO {pair.live.sql} ({names}) OVERRIDING SYSTEM VALUE\n"
                f"SELECT {', '.join(f'r.{quote_identifier(name)}' for name in pair.columns)}"
                f" {_missing(pair)};"
            )
        values = [name for name in pair.columns if name not in pair.key]
        if changed and one.changed and values:
            yield f"-- {one.changed:,} rows of {pair.live} that have other values now"
            assignments = ", ".join(
                f"{quote_identifier(name)} = r.{quote_identifier(name)}" for name in values
            )
            yield (
                f"UPDATE {pair.live.sql} AS l SET {assignments}\n  FROM {pair.restored.sql} AS r"
                f"\n WHERE {_same_key(pair)} AND {_differs(pair)};"
            )
    yield "COMMIT;"


# --- clauses --------------------------------------------------------------------------------------


def _missing(pair: TablePair) -> str:
    return (
        f"FROM {pair.restored.sql} AS r WHERE NOT EXISTS"
        f" (SELECT FROM {pair.live.sql} AS l WHERE {_same_key(pair)})"
    )


def _new(pair: TablePair) -> str:
    return (
        f"FROM {pair.live.sql} AS l WHERE NOT EXISTS"
        f" (SELECT FROM {pair.restored.sql} AS r WHERE {_same_key(pair)})"
    )


def _changed(pair: TablePair) -> str:
    return (
        f"FROM {pair.restored.sql} AS r JOIN {pair.live.sql} AS l ON {_same_key(pair)}"
        f" WHERE {_differs(pair)}"
    )


def _same_key(pair: TablePair) -> str:
    if not pair.has_key:
        return _as_text("l", pair.key) + " = " + _as_text("r", pair.key)
    names = map(quote_identifier, pair.key)
    return " AND ".join(f"l.{name} = r.{name}" for name in names)


def _differs(pair: TablePair) -> str:
    """By their text, as backups compare: some types have no equality, and -0 is not 0."""
    values = [name for name in pair.columns if name not in pair.key]
    if not values:
        return "false"
    return f"{_as_text('l', values)} IS DISTINCT FROM {_as_text('r', values)}"


def _as_text(alias: str, names: Sequence[str]) -> str:
    return "ROW(" + ", ".join(f"{alias}.{quote_identifier(name)}" for name in names) + ")::text"


# --- questions ------------------------------------------------------------------------------------


def _count(connection: Connection, query: str) -> int:
    row = connection.execute(f"SELECT pg_catalog.count(*) FROM ({query}) q".encode()).fetchone()
    assert row is not None
    return int(row[0])


def _some_keys(connection: Connection, pair: TablePair, clause: str) -> tuple[str, ...]:
    alias = "l" if clause.startswith(f"FROM {pair.live.sql} ") else "r"
    rows = connection.execute(
        f"SELECT {_as_text(alias, pair.key)} {clause} ORDER BY 1 LIMIT {_KEYS_SHOWN}".encode()
    ).fetchall()
    return tuple(row[0] for row in rows)


def _all_beside(connection: Connection, schema: str) -> list[TableName]:
    """Live tables that have one of the same name under the schema; `public` where several do."""
    rows = connection.execute(
        "SELECT DISTINCT ON (c.relname) n.nspname, c.relname"
        "  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        "  JOIN pg_catalog.pg_class r ON r.relname = c.relname AND r.relkind = 'r'"
        "  JOIN pg_catalog.pg_namespace s ON s.oid = r.relnamespace AND s.nspname = %s"
        " WHERE c.relkind IN ('r', 'p') AND n.nspname <> s.nspname"
        "   AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        " ORDER BY c.relname, n.nspname <> 'public', n.nspname",
        (schema,),
    ).fetchall()
    return [TableName(*row) for row in rows]


def _pair(connection: Connection, live: TableName, restored: TableName) -> TablePair:
    columns = {name: _columns(connection, name) for name in (live, restored)}
    for name, found in columns.items():
        if not found:
            raise TargetNotReady(f"there is no table {name} in this database")
    both = [name for name in columns[restored] if name in columns[live]]
    writable = tuple(name for name in both if not columns[live][name])
    key = tuple(_key(connection, live))
    has_key = bool(key) and set(key) <= set(writable)
    return TablePair(
        live,
        restored,
        key if has_key else writable,
        has_key,
        writable,
        tuple(name for name in columns[live] if name not in columns[restored]),
        tuple(name for name in columns[restored] if name not in columns[live]),
    )


def _columns(connection: Connection, table: TableName) -> dict[str, bool]:
    """The columns in order, and whether each is generated."""
    rows = connection.execute(
        "SELECT a.attname::text, a.attgenerated <> '' FROM pg_catalog.pg_attribute a"
        "  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid"
        "  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')"
        "   AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        (table.schema, table.name),
    ).fetchall()
    return dict(rows)


def _key(connection: Connection, table: TableName) -> Iterator[str]:
    rows = connection.execute(
        "SELECT a.attname::text FROM pg_catalog.pg_index i"
        "  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid"
        "  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k(attnum, place)"
        "  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum"
        " WHERE n.nspname = %s AND c.relname = %s AND i.indisprimary"
        "   AND k.place <= i.indnkeyatts ORDER BY k.place",
        (table.schema, table.name),
    ).fetchall()
    yield from (row[0] for row in rows)


def _parents(
    connection: Connection, names: Sequence[TableName]
) -> Mapping[TableName, set[TableName]]:
    """For each table, those among the others that its foreign keys refer to."""
    parents: dict[TableName, set[TableName]] = {name: set() for name in names}
    rows = connection.execute(
        "SELECT n.nspname, c.relname, m.nspname, d.relname FROM pg_catalog.pg_constraint k"
        "  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid"
        "  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        "  JOIN pg_catalog.pg_class d ON d.oid = k.confrelid"
        "  JOIN pg_catalog.pg_namespace m ON m.oid = d.relnamespace WHERE k.contype = 'f'"
    ).fetchall()
    for schema, name, parent_schema, parent_name in rows:
        child, parent = TableName(schema, name), TableName(parent_schema, parent_name)
        if child in parents and parent in parents and child != parent:
            parents[child].add(parent)
    return parents
