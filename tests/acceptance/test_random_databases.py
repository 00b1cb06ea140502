"""Random databases go out and come back; compared by pgkeep's proof, and without it.

For a long run: PGKEEP_TEST_EXAMPLES=500 pytest tests/acceptance/test_random_databases.py
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from psycopg import sql

from comparison import assert_same, databases, load_statements, take_picture
from conftest import Workbench
from pgkeep.postgres.server import ScratchServer
from schemas import RandomDatabase, random_database

EXAMPLES = int(os.environ.get("PGKEEP_TEST_EXAMPLES", "0"))
SMALLEST_PART_PAGES = 16

# Tables whose rows can be there twice.
_WITHOUT_KEYS = """
    SELECT n.nspname, c.relname, pg_relation_size(c.oid) > 0,
           ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0
                    AND NOT attisdropped AND attgenerated = '' ORDER BY attnum)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND NOT c.relispartition AND n.nspname !~ '^(pg_|information_schema)'
       AND NOT EXISTS (SELECT FROM pg_index i
                        WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion))
     ORDER BY c.oid"""

_MATVIEWS = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid"""


def _begin_anew(workbench: Workbench) -> None:
    """No repository, and a host that does not miss one."""
    for folder in (workbench.repository, workbench.state / "repositories"):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(("major", "examples"), [(17, 30), (18, 15)])
@pytest.mark.timeout(0)
def test_a_random_database_comes_back_equal(
    workbench: Workbench, servers: Callable[[int], ScratchServer], major: int, examples: int
) -> None:
    server = servers(major)
    workbench.init(server.url("random_source"))
    with workbench.config.open("a") as config:
        config.write(f"[backup]\npart_pages = {SMALLEST_PART_PAGES}\n")

    @settings(
        max_examples=EXAMPLES or examples,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(database=random_database(), copies=st.sampled_from([0, 0, 500]))
    def round_trip(database: RandomDatabase, copies: int) -> None:
        note(database.description)
        for statement in database.statements:
            note(f"{statement};")
        _begin_anew(workbench)
        with databases(server, "random_source", "random_target") as (source, target):
            load_statements(source, database.statements)
            multiply_rows(source, copies)
            workbench.pgkeep("backup", "shop")
            restored = workbench.pgkeep("restore", "shop", "--target", target)
            assert "proven" in restored.out
            assert_same(
                take_picture(source, dump_major=major), take_picture(target, dump_major=major)
            )

    round_trip()


def multiply_rows(url: str, copies: int) -> None:
    """Let tables grow until they are read in several parts."""
    if not copies:
        return
    with psycopg.connect(url, autocommit=True) as connection:
        for schema, name, has_rows, columns in connection.execute(_WITHOUT_KEYS).fetchall():
            if not has_rows:
                continue
            listed = sql.SQL(", ").join(map(sql.Identifier, columns))
            into = sql.SQL("({})").format(listed) if columns else sql.SQL("")
            connection.execute(
                sql.SQL(
                    "INSERT INTO {table} {into} OVERRIDING SYSTEM VALUE"
                    " SELECT {listed} FROM ONLY {table}, generate_series(1, {copies})"
                ).format(
                    table=sql.Identifier(schema, name),
                    into=into,
                    listed=listed,
                    copies=sql.Literal(copies),
                )
            )
    refresh(url)


# --- and their histories ----------------------------------------------------------------------

Connection = psycopg.Connection[tuple[Any, ...]]
Step = tuple[str, int, int, str]
CHANGES = (
    "UPDATE {table} SET {column} = DEFAULT WHERE {some}",
    "UPDATE {table} SET {column} = (SELECT {column} FROM ONLY {table}"
    " ORDER BY hashtext(ctid::text) LIMIT 1) WHERE {some}",
    "DELETE FROM {table} WHERE {some}",
    "INSERT INTO {table} {into} OVERRIDING SYSTEM VALUE SELECT {listed} FROM ONLY {table}"
    " WHERE {some}",
    "SELECT FROM ONLY {table} WHERE {some} FOR UPDATE",
    "TRUNCATE {table}",
    "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS pgkeep_extra int DEFAULT 7",
    "ALTER TABLE {table} ALTER COLUMN {column} TYPE text USING {column}::text",
)
MAINTENANCE = ("VACUUM", "VACUUM FREEZE", "VACUUM FULL {table}", "ANALYZE {table}")
_TABLES = """
    SELECT n.nspname, c.relname,
           ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0
                    AND NOT attisdropped AND attgenerated = '' ORDER BY attnum)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND n.nspname !~ '^(pg_|information_schema)' ORDER BY c.oid"""
_ENUM_VALUES = """
    SELECT n.nspname, t.typname, e.enumlabel FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid
      JOIN pg_namespace n ON n.oid = t.typnamespace ORDER BY e.oid"""


def steps(*templates: str) -> st.SearchStrategy[Step]:
    """A statement, which table and column it is for, one row of how many, and its end."""
    endings = st.sampled_from(("plain", "released", "undone"))
    return st.tuples(st.sampled_from(templates), st.integers(0, 50), st.integers(2, 7), endings)


ROWS_ONLY = steps(*CHANGES[:5])  # what changes a table altogether would keep a backup waiting
STEPS = steps(*CHANGES[:5], *CHANGES)
TRANSACTIONS = st.one_of(
    st.tuples(st.lists(STEPS, min_size=1, max_size=4), st.sampled_from(("COMMIT", "ROLLBACK"))),
    st.tuples(st.sampled_from(MAINTENANCE), st.integers(0, 50)),
    st.tuples(st.just("rename a value"), st.integers(0, 50)),
)
Transaction = tuple[list[Step], str] | tuple[str, int]


@pytest.mark.timeout(0)
def test_any_history_of_a_random_database_is_backed_up_right(
    workbench: Workbench, servers: Callable[[int], ScratchServer]
) -> None:
    """Transactions of which some fail, are undone in part or whole, or stay open over a backup."""
    server = servers(17)
    workbench.init(server.url("random_source"))
    with workbench.config.open("a") as config:
        config.write(f"[backup]\npart_pages = {SMALLEST_PART_PAGES}\nverify_share = 0\n")

    @settings(
        max_examples=EXAMPLES or 8,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(
        database=random_database(),
        copies=st.sampled_from([0, 500]),
        over_a_backup=st.lists(ROWS_ONLY, max_size=2),
        history=st.lists(st.lists(TRANSACTIONS, max_size=5), min_size=1, max_size=3),
    )
    def live(
        database: RandomDatabase,
        copies: int,
        over_a_backup: list[Step],
        history: list[list[Transaction]],
    ) -> None:
        note(database.description)
        for statement in database.statements:
            note(f"{statement};")
        _begin_anew(workbench)
        with databases(server, "random_source", "random_target") as (source, target):
            load_statements(source, database.statements)
            multiply_rows(source, copies)
            with psycopg.connect(source) as open_meanwhile:
                change_rows(open_meanwhile, over_a_backup)
                workbench.pgkeep("backup", "shop")
                with suppress(psycopg.Error):  # a constraint that was deferred
                    open_meanwhile.commit()
            for transactions in history:
                for transaction in transactions:
                    perform(source, transaction)
                refresh(source)
                workbench.pgkeep("backup", "shop")
                workbench.pgkeep("restore", "shop", "--target", target)
                assert_same(
                    take_picture(source, dump_major=17), take_picture(target, dump_major=17)
                )
                server.drop_database("random_target")
                server.create_database("random_target")

    live()


def refresh(url: str) -> None:
    """Fill the materialized views as a restore will."""
    with psycopg.connect(url, autocommit=True) as connection:
        for schema, name in connection.execute(_MATVIEWS).fetchall():
            view = sql.Identifier(schema, name)
            connection.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(view))


def perform(url: str, transaction: Transaction) -> None:
    """One transaction, or one statement that must stand alone; refused is as good as undone."""
    with psycopg.connect(url, autocommit=True) as connection, suppress(psycopg.Error):
        if isinstance(transaction[0], list):
            connection.execute("BEGIN")
            change_rows(connection, transaction[0])
            connection.execute(sql.SQL(str(transaction[1])))
        elif transaction[0] in MAINTENANCE:
            maintain(connection, transaction[0], int(transaction[1]))
        else:
            rename_a_value(connection, int(transaction[1]))


def change_rows(connection: Connection, steps: list[Step]) -> None:
    """Change some rows. What a constraint, trigger or type forbids is undone, and that is fine."""
    for template, which, of_so_many, ending in steps:
        tables = connection.execute(_TABLES).fetchall()
        if not tables:
            return
        schema, name, columns = tables[which % len(tables)]
        if not columns and "{column}" in template:
            continue
        names = [sql.Identifier(str(column)) for column in columns]
        statement = sql.SQL(template).format(
            table=sql.Identifier(str(schema), str(name)),
            column=names[which % len(names)] if names else sql.SQL(""),
            into=sql.SQL("({})").format(sql.SQL(", ").join(names)) if names else sql.SQL(""),
            listed=sql.SQL(", ").join(names),
            some=sql.SQL("abs(hashtext(ctid::text)) % {} = 0").format(of_so_many),
        )
        note(f"{statement.as_string()}; -- {ending}")
        connection.execute("SAVEPOINT step")
        try:
            connection.execute(statement)
        except psycopg.Error as exc:
            note(f"-- refused: {exc}")
            connection.execute("ROLLBACK TO step")
            continue
        if ending == "undone":
            connection.execute("ROLLBACK TO step")
        elif ending == "released":
            connection.execute("RELEASE step")


def maintain(connection: Connection, template: str, which: int) -> None:
    tables = connection.execute(_TABLES).fetchall()
    if tables:
        schema, name, _ = tables[which % len(tables)]
        table = sql.Identifier(str(schema), str(name))
        connection.execute(sql.SQL(template).format(table=table))


def rename_a_value(connection: Connection, which: int) -> None:
    values = connection.execute(_ENUM_VALUES).fetchall()
    if values:
        schema, name, label = map(str, values[which % len(values)])
        connection.execute(
            sql.SQL("ALTER TYPE {} RENAME VALUE {} TO {}").format(
                sql.Identifier(schema, name), label, f"{label[:8]}{which}"
            )
        )
