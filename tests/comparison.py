"""What a database holds, seen without pgkeep: pg_dump's words and COPY's text, to compare."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from pgkeep.postgres.programs import choose_client
from pgkeep.postgres.server import ScratchServer

# What capture makes in a source is no part of what is restored; a test of its own looks for it.
_NOT_OURS = "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgkeep')"
_OF_CAPTURE = r"(?ms)^(CREATE|ALTER) (EVENT TRIGGER|PUBLICATION) pgkeep_.*?;\n"

_TABLES = f"""
    SELECT n.nspname, c.relname, c.relkind::text, c.relispopulated
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE {_NOT_OURS} AND c.relkind IN ('r', 'm')
     ORDER BY 1, 2"""

_ROOTS = f"""
    SELECT n.nspname, c.relname, c.relkind::text, c.relispopulated
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE {_NOT_OURS} AND c.relkind IN ('r', 'm', 'p') AND NOT c.relispartition
     ORDER BY 1, 2"""

_SEQUENCES = f"""
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE {_NOT_OURS} AND c.relkind = 'S' ORDER BY 1, 2"""

_LARGE_OBJECTS = """
    SELECT oid, pg_get_userbyid(lomowner)::text,
           ARRAY(SELECT format('%s/%s/%s/%s', pg_get_userbyid(a.grantor),
                               CASE a.grantee WHEN 0 THEN 'PUBLIC'
                               ELSE pg_get_userbyid(a.grantee)::text END,
                               a.privilege_type, a.is_grantable)
                   FROM aclexplode(lomacl) AS a ORDER BY 1),
           obj_description(oid, 'pg_largeobject'), octet_length(lo_get(oid)), md5(lo_get(oid))
      FROM pg_largeobject_metadata ORDER BY oid"""

# What the text of a value depends on. A database may have settings of its own.
_SETTINGS = (
    "row_security = off",
    "extra_float_digits = 1",
    "DateStyle = ISO",
    "IntervalStyle = postgres",
    "TimeZone = 'UTC'",
    "bytea_output = hex",
    "xmlbinary = base64",
    "lc_monetary = 'C'",
    "quote_all_identifiers = off",
    "search_path = ''",
)


@dataclass(frozen=True)
class Picture:
    """All that a database holds. Two pictures are equal if the databases are."""

    definitions: str
    rows: dict[str, list[bytes]]
    """Of each table and materialized view: its lines of COPY text, sorted."""
    unfilled: list[str]
    """Materialized views WITH NO DATA."""
    sequences: dict[str, TupleRow]
    large_objects: list[TupleRow]

    @property
    def row_count(self) -> int:
        return sum(map(len, self.rows.values()))


def take_picture(
    url: str,
    *,
    dump_major: int = 17,
    through_roots: bool = False,
    dump_options: tuple[str, ...] = (),
) -> Picture:
    """Look at everything. `through_roots`: a partitioned table's rows, in whatever partition."""
    with psycopg.connect(url) as connection:
        for setting in _SETTINGS:
            connection.execute(f"SET {setting}".encode())
        tables = connection.execute((_ROOTS if through_roots else _TABLES).encode()).fetchall()
        return Picture(
            definitions=dump_definitions(url, dump_major, *dump_options),
            rows={
                f"{schema}.{name}": _sorted_rows(connection, schema, name, kind)
                for schema, name, kind, populated in tables
                if populated
            },
            unfilled=[f"{schema}.{name}" for schema, name, _, populated in tables if not populated],
            sequences={f"{s}.{n}": _sequence(connection, s, n) for s, n in _sequences(connection)},
            large_objects=connection.execute(_LARGE_OBJECTS.encode()).fetchall(),
        )


def assert_same(source: Picture, target: Picture) -> None:
    """Equal in all, with a message that stays short when millions of rows differ."""
    assert source.rows.keys() == target.rows.keys()
    for table, lines in source.rows.items():
        others = target.rows[table]
        assert len(lines) == len(others), table
        first = next((pair for pair in zip(lines, others, strict=True) if pair[0] != pair[1]), None)
        assert first is None, f"{table}: {first}"
    for part in fields(Picture):
        if part.name != "rows":
            assert getattr(source, part.name) == getattr(target, part.name), part.name


def dump_definitions(url: str, major: int = 17, *options: str) -> str:
    """`pg_dump --schema-only` without comments, empty lines and psql's restricted mode."""
    program = choose_client(major, need_tls=False).path("pg_dump")
    command: list[str | Path] = [
        program, "--schema-only", "--exclude-schema=pgkeep", *options, "-d", url
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    lines = re.sub(_OF_CAPTURE, "", done.stdout.decode()).split("\n")
    return "\n".join(line for line in lines if not re.match(r"--|\\(un)?restrict |$", line))


def load_statements(url: str, statements: tuple[str, ...]) -> None:
    """Run statements, each on its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def load_file(url: str, path: Path) -> None:
    """Run a file of SQL."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(path.read_bytes())


def value(url: str, query: str) -> object:
    """What a query answers: the first column of its first row."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@contextmanager
def databases(server: ScratchServer, *names: str) -> Iterator[list[str]]:
    """Empty databases with these names, for as long as the block runs; their URLs."""
    try:
        for name in names:
            server.drop_database(name)
            server.create_database(name)
        yield [server.url(name) for name in names]
    finally:
        for name in names:
            server.drop_database(name)


def _sorted_rows(connection: psycopg.Connection, schema: str, name: str, kind: str) -> list[bytes]:
    table = sql.Identifier(schema, name)
    only = sql.SQL("" if kind == "p" else "ONLY ")
    query = sql.SQL("COPY (SELECT * FROM {}{}) TO STDOUT").format(only, table)
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        text = b"".join(bytes(piece) for piece in copy)
    return sorted(text.split(b"\n")[:-1])


def _sequences(connection: psycopg.Connection) -> list[TupleRow]:
    return connection.execute(_SEQUENCES.encode()).fetchall()


def _sequence(connection: psycopg.Connection, schema: str, name: str) -> TupleRow:
    query = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(schema, name))
    row = connection.execute(query).fetchone()
    assert row is not None
    return row
