"""What a target has by now: its tables, sequences, columns and extensions."""

from __future__ import annotations

from pgkeep.model import TableName
from pgkeep.postgres.session import Connection


def tables(connection: Connection) -> frozenset[TableName]:
    """Tables and partitioned tables, in all schemas."""
    return _relations(connection, ["r", "p"])


def sequences(connection: Connection) -> frozenset[TableName]:
    """Sequences, in all schemas."""
    return _relations(connection, ["S"])


def _relations(connection: Connection, kinds: list[str]) -> frozenset[TableName]:
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
        "  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind::text = ANY (%s)",
        (kinds,),
    ).fetchall()
    return frozenset(TableName(schema, name) for schema, name in rows)


def columns(connection: Connection, name: TableName) -> dict[str, bool]:
    """A table's columns, and whether rows can be put into each; empty if it is not there."""
    rows = connection.execute(
        "SELECT a.attname::text, a.attgenerated = ''"
        "  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid"
        "  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped",
        (name.schema, name.name),
    ).fetchall()
    return dict(rows)


def extensions(connection: Connection) -> dict[str, str]:
    """Name and version of each extension."""
    rows = connection.execute("SELECT extname, extversion FROM pg_catalog.pg_extension").fetchall()
    return dict(rows)


def available_extensions(connection: Connection) -> frozenset[str]:
    """The names of those that could be made."""
    rows = connection.execute("SELECT name FROM pg_catalog.pg_available_extensions").fetchall()
    return frozenset(name for (name,) in rows)


def schemas(connection: Connection) -> frozenset[str]:
    """The names of all schemas."""
    rows = connection.execute("SELECT nspname FROM pg_catalog.pg_namespace").fetchall()
    return frozenset(name for (name,) in rows)


def current_role(connection: Connection) -> str:
    """Whose rights count: SET ROLE may have changed it since the login."""
    row = connection.execute("SELECT current_user::text").fetchone()
    assert row is not None
    return str(row[0])
