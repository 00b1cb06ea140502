"""The databases that other tests back up do load: otherwise those tests would prove nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from psycopg import sql

from pgkeep.postgres.server import ScratchServer
from schemas import (
    EDGE_DATABASES,
    SCALARS,
    Kind,
    RandomDatabase,
    array_of,
    literal,
    random_database,
)

SCRATCH = "schemas"


@pytest.fixture(scope="module")
def database_url(servers: Callable[[int], ScratchServer]) -> Iterator[str]:
    """An empty database; the tests empty it themselves, again and again."""
    server = servers(17)
    server.create_database(SCRATCH)
    yield server.url(SCRATCH)
    server.drop_database(SCRATCH)


@pytest.fixture(scope="module")
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def empty(connection: psycopg.Connection) -> None:
    schemas = connection.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_|^information_schema$'"
    ).fetchall()
    for (schema,) in schemas:
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
    connection.execute("CREATE SCHEMA public")
    connection.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")


def load(connection: psycopg.Connection, statements: tuple[str, ...]) -> None:
    empty(connection)
    for statement in statements:
        connection.execute(statement.encode())


def number(connection: psycopg.Connection, query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


@settings(
    max_examples=25,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(database=random_database())
def test_a_random_database_loads(connection: psycopg.Connection, database: RandomDatabase) -> None:
    note(database.description)
    for statement in database.statements:
        note(statement)
    load(connection, database.statements)
    created = sum(
        " TABLE " in s.split("(")[0] and s.startswith("CREATE") for s in database.statements
    )
    tables = number(
        connection,
        "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p')"
        " AND relnamespace::regnamespace::text !~ '^(pg_|information_schema)'",
    )
    assert 1 <= tables <= created


@pytest.mark.parametrize("kind", SCALARS, ids=lambda kind: kind.sql)
def test_every_value_of_a_type_is_stored(connection: psycopg.Connection, kind: Kind) -> None:
    array = array_of(kind)

    @settings(max_examples=15, deadline=None, database=None)
    @given(value=kind.values, values=array.values)
    def store(value: str, values: str) -> None:
        row = f"({literal(value)}, {literal(values)})"
        connection.execute(f"INSERT INTO one_type VALUES {row}".encode())

    load(connection, (f"CREATE TABLE one_type (value {kind.sql}, elements {array.sql})",))
    store()
    assert number(connection, "SELECT count(*) FROM one_type") > 0


EDGES_HOLD = {
    "column limit": (
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'widest'::regclass AND attnum > 0",
        1600,
    ),
    "wide rows": ("SELECT min(octet_length(body)) FROM wide", 8 * 2**20),
    "zero columns": ("SELECT count(*) FROM nothing", 4),
    "only dropped columns": ("SELECT count(*) FROM emptied", 8),
    "nasty names": ("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^n+$'", 2),
    "many small tables": ("SELECT count(*) FROM pg_class WHERE relname ~ '^small_...$'", 150),
    "floats": ("SELECT count(*) FROM floats", 35),
    "deep partitions": ("SELECT count(*) FROM pg_partition_tree('deep') WHERE isleaf", 10),
    "enum hash partitions": ("SELECT count(*) FROM moods", 40),
    "large objects": ("SELECT octet_length(lo_get(800002))", 6_000_002),
}


@pytest.mark.parametrize("name", EDGE_DATABASES)
def test_an_edge_database_loads(connection: psycopg.Connection, name: str) -> None:
    query, expected = EDGES_HOLD[name]
    load(connection, EDGE_DATABASES[name])
    assert number(connection, query) == expected


@given(st.sampled_from(sorted(EDGE_DATABASES)))
def test_no_statement_holds_a_nul(name: str) -> None:
    assert not any("\0" in statement for statement in EDGE_DATABASES[name])
