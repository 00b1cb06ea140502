"""Batches of changes into real tables, and what happens when they do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from comparison import load_statements
from pgkeep.errors import ReplayFailed
from pgkeep.model import TableName
from pgkeep.postgres.address import Address
from pgkeep.postgres.pgoutput import (
    UNCHANGED,
    Delete,
    Insert,
    Relation,
    RelationColumn,
    Update,
    Value,
)
from pgkeep.recovery.apply import Batch, Writer
from pgkeep.recovery.netting import RowChange
from pgkeep.recovery.onward import quiet_session
from pgkeep.recovery.refusing import RefusingChecks
from pgkeep.recovery.tables import TargetTable, describe_table

MANY = range(100)


@pytest.fixture
def connection(new_database: Callable[[], str]) -> Iterator[psycopg.Connection]:
    url = new_database()
    load_statements(
        url,
        (
            "CREATE TABLE keyed (id integer PRIMARY KEY, v text, u integer UNIQUE)",
            "INSERT INTO keyed SELECT n, 'v' || n, n FROM generate_series(0, 99) n",
            "CREATE TABLE whole (a integer, j json)",
            "ALTER TABLE whole REPLICA IDENTITY FULL",
            "INSERT INTO whole SELECT n % 3, '{}' FROM generate_series(0, 8) n",
        ),
    )
    with quiet_session(Address.parse(url)) as connection:
        yield connection


def describe(connection: psycopg.Connection, name: str, *columns: str, full: bool = False,
             key: int = 1) -> TargetTable:  # fmt: skip
    types = {"id": 23, "a": 23, "v": 25, "u": 23, "j": 114}
    listed = tuple(
        RelationColumn(column, types[column], -1, full or at < key)
        for at, column in enumerate(columns)
    )
    relation = Relation(1, TableName("public", name), "f" if full else "d", listed)
    found = describe_table(connection, relation, name=relation.name, stands_for=0, number=1)
    assert found is not None
    return found


@pytest.fixture
def keyed(connection: psycopg.Connection) -> TargetTable:
    return describe(connection, "keyed", "id", "v", "u")


@pytest.fixture
def write(connection: psycopg.Connection) -> Callable[..., None]:
    writer = Writer(connection, RefusingChecks())

    def write(table: TargetTable, *changes: RowChange) -> None:
        batch = Batch()
        for change in changes:
            batch.add(table, change, 1)
        writer.write(batch)

    return write


def insert(*row: Value) -> Insert:
    return Insert(1, list(row))


def update(*row: Value, old: tuple[Value, ...] | None = None) -> Update:
    return Update(1, list(old) if old else None, True, list(row))


def delete(*row: Value) -> Delete:
    return Delete(1, list(row), True)


def text(number: int) -> bytes:
    return str(number).encode()


def rows(connection: psycopg.Connection, query: str) -> list[tuple[object, ...]]:
    return connection.execute(query.encode()).fetchall()


def touches() -> list[RowChange]:
    """Enough changes that they are not done one by one."""
    return [update(text(n), b"touched", UNCHANGED) for n in MANY]


def test_a_batch_is_written(
    connection: psycopg.Connection, keyed: TargetTable, write: Callable[..., None]
) -> None:
    write(keyed, *touches(), delete(b"7", None, None), insert(b"7", None, b"7"),
          delete(b"8", None, None), insert(b"1000", b"new", b"1000"))  # fmt: skip
    found = rows(connection, "SELECT v, count(*), sum(u) FROM public.keyed GROUP BY v ORDER BY v")
    assert found == [("new", 1, 1000), ("touched", 98, 4950 - 7 - 8), (None, 1, 7)]
    write(keyed, *(delete(text(n), None, None) for n in MANY if n != 8))
    assert rows(connection, "SELECT id FROM public.keyed") == [(1000,)]


def test_rows_that_change_places_in_a_unique_index_are_written_in_their_order(
    connection: psycopg.Connection, keyed: TargetTable, write: Callable[..., None]
) -> None:
    write(
        keyed,
        *touches(),
        update(b"1", b"x", b"-1"),
        update(b"2", b"x", b"1"),
        update(b"1", b"x", b"2"),
    )
    assert rows(connection, "SELECT id, u FROM public.keyed WHERE v = 'x' ORDER BY 1") == [
        (1, 2),
        (2, 1),
    ]
    assert rows(connection, "SELECT count(*) FROM public.keyed WHERE v = 'touched'") == [(98,)]


@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (update(b"5000", b"x", b"5000"), "the row that was updated is not there: id = 5000"),
        (delete(b"5000", None, None), "the row that was deleted is not there: id = 5000"),
        (insert(b"5", b"x", b"5000"), "duplicate key value violates unique constraint"),
        (update(b"5001", b"x", b"1", old=(b"5000", None, None)), "is not there: id = 5000"),
        (insert(b"one", b"x", b"5000"), "invalid input syntax for type integer"),
    ],
)
def test_a_change_that_does_not_fit_names_its_table_and_key(
    connection: psycopg.Connection,
    keyed: TargetTable,
    write: Callable[..., None],
    change: RowChange,
    words: str,
    many: bool,
) -> None:
    with pytest.raises(ReplayFailed, match=r"table public\.keyed: ") as error:
        write(keyed, *(touches() if many else ()), change)
    assert words in error.value.message
    assert rows(connection, "SELECT count(*) FROM public.keyed WHERE v = 'touched'") == [(0,)]


def test_of_equal_rows_only_one_goes(
    connection: psycopg.Connection, write: Callable[..., None]
) -> None:
    whole = describe(connection, "whole", "a", "j", full=True)
    write(whole, delete(b"0", b"{}"), delete(b"1", b"{}"), delete(b"1", b"{}"),
          update(b"9", b"{}", old=(b"2", b"{}")))  # fmt: skip
    found = rows(connection, "SELECT a, count(*) FROM public.whole GROUP BY a ORDER BY a")
    assert found == [(0, 2), (1, 1), (2, 2), (9, 1)]
    with pytest.raises(ReplayFailed, match="2 of 3 rows that were changed or deleted"):
        write(whole, delete(b"1", b"{}"), delete(b"1", b"{}"), delete(b"0", b"{ }"))


def test_changes_without_anything_to_tell_rows_apart_are_refused(
    connection: psycopg.Connection, write: Callable[..., None]
) -> None:
    table = describe(connection, "keyed", "id", "v", "u", key=0)
    with pytest.raises(ReplayFailed, match="nothing tells apart"):
        write(table, delete(b"1", None, None))


def test_other_columns_than_the_target_has_are_refused(connection: psycopg.Connection) -> None:
    for columns in (("id", "v"), ("id", "v", "u", "a"), ("id", "u", "j")):
        with pytest.raises(ReplayFailed, match="is not the same in the journal and in the backup"):
            describe(connection, "keyed", *columns)
