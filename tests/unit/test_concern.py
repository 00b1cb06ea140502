"""Which schema changes concern some tables: what cannot be told apart does."""

from __future__ import annotations

import pytest

from pgkeep.model import TableName
from pgkeep.postgres.concern import OfSomeTables, concerns
from pgkeep.postgres.ddl import ChangedObject, SchemaChange, Treatment

ITEMS = TableName("public", "items")


def change(tag: str, query: str, *objects: tuple[str, str], **more: object) -> SchemaChange:
    return SchemaChange(
        tag,
        query,
        objects=tuple(ChangedObject(kind, "public", identity) for kind, identity in objects),
        event="ddl_command_end",
        **more,  # type: ignore[arg-type]
    )


NOT = (
    change("CREATE TABLE", "CREATE TABLE orders (id int)", ("table", "public.orders")),
    change("ALTER TABLE", "ALTER TABLE items_old ADD x int", ("table", "public.items_old")),
    change("ALTER TABLE", "ALTER TABLE orders RENAME TO bills", ("table", "public.bills")),
    change(
        "DROP TABLE",
        "DROP TABLE orders",
        ("table", "public.orders"),
        ("table constraint", "orders_pkey on public.orders"),
        ("toast table", "x"),
        ("type", "public.orders[]"),
    ),
    change("CREATE FUNCTION", "CREATE FUNCTION f() ...", ("function", "public.f()")),
    change("CREATE TYPE", "CREATE TYPE size AS ENUM ('s')", ("type", "public.size")),
    change("GRANT", "GRANT SELECT ON orders TO reader"),
    change("CREATE INDEX", "CREATE INDEX ON orders (id)", ("index", "public.orders_id_idx")),
    change("CREATE POLICY", "CREATE POLICY p ON orders", ("policy", "p on public.orders")),
    change(
        "CREATE TABLE",
        "CREATE TABLE a (id int); CREATE TABLE b (id int)",
        ("table", "public.a"),
        nested=True,
    ),
)
DOES = (
    change("ALTER TABLE", "ALTER TABLE items ADD x int", ("table", "public.items")),
    change("ALTER TABLE", 'ALTER TABLE "ITEMS" ADD x int', ("table", 'public."ITEMS"')),
    change("ALTER TABLE", "ALTER TABLE items RENAME TO things", ("table", "public.things")),
    change("DROP TABLE", "DROP TABLE orders CASCADE", ("table constraint", "x on public.items")),
    change("ALTER TABLE", r'ALTER TABLE U&"it\0065ms" RENAME TO gone', ("table", "public.gone")),
    change("ALTER TABLE", "SELECT migrate()", ("table", "public.things"), nested=True),
    change("ALTER SCHEMA", "ALTER SCHEMA public RENAME TO old", ("schema", "old")),
    change("ALTER TYPE", "ALTER TYPE size ADD VALUE 'l'", ("type", "public.size")),
    change("ALTER DOMAIN", "ALTER DOMAIN d ADD CHECK (true)", ("type", "public.d")),
    change("ALTER EXTENSION", "ALTER EXTENSION citext UPDATE", ("extension", "citext")),
    change("CREATE TABLE", "CREATE TABLE p PARTITION OF items", ("table", "public.p")),
    change("ALTER TABLE", "DO $$ ... $$", nested=True),
    SchemaChange("", "", event="noticed"),
)


@pytest.mark.parametrize("one", NOT, ids=str)
def test_what_has_nothing_to_do_with_a_table_is_passed_over(one: SchemaChange) -> None:
    assert not concerns(one, [ITEMS])
    assert OfSomeTables([ITEMS], renamed=False)(one) is Treatment.IGNORE


@pytest.mark.parametrize("one", DOES, ids=str)
def test_what_may_have_to_do_with_it_is_not(one: SchemaChange) -> None:
    assert concerns(one, [ITEMS])
    assert OfSomeTables([ITEMS], renamed=True)(one) is Treatment.STOP


@pytest.mark.parametrize(
    "query",
    ['ALTER TABLE "a""b" ALTER n TYPE numeric(9, 0)', 'DROP TABLE "a""b"', "SELECT migrate()"],
)
def test_a_quote_within_a_name_hides_no_change_of_its_table(query: str) -> None:
    table = TableName("public", 'a"b')
    one = change("DROP TABLE", query, ("table", 'public."a""b"'))
    assert concerns(one, [table])
    assert concerns(change("DROP TABLE", query, ("table", table.sql)), [table])


def test_a_plain_change_of_the_table_is_done_again_where_it_has_its_name() -> None:
    adds = change("ALTER TABLE", "ALTER TABLE items ADD x int", ("table", "public.items"))
    assert OfSomeTables([ITEMS], renamed=False)(adds) is Treatment.RUN
    for query in ("ALTER TABLE items RENAME TO things", "ALTER TABLE items ATTACH PARTITION p"):
        other = change("ALTER TABLE", query, ("table", "public.items"))
        assert OfSomeTables([ITEMS], renamed=False)(other) is Treatment.STOP


def test_what_needs_something_that_was_passed_over_stops() -> None:
    makes = change("CREATE TYPE", "CREATE TYPE size AS ENUM ('s')", ("type", "public.size"))
    odd = change("CREATE FUNCTION", "...", ("function", 'public."a ""b"(integer)'))
    adds = [
        change("ALTER TABLE", f"ALTER TABLE items {what}", ("table", "public.items"))
        for what in ("ADD x public.size", 'ADD x text CHECK ("a ""b"(1))', "ADD sizes text")
    ]
    before, after = OfSomeTables([ITEMS], renamed=False), OfSomeTables([ITEMS], renamed=False)
    assert [after(one) for one in (makes, odd)] == [Treatment.IGNORE] * 2
    assert [before(one) for one in adds] == [Treatment.RUN] * 3
    assert [after(one) for one in adds] == [Treatment.STOP, Treatment.STOP, Treatment.RUN]


def test_a_text_of_many_statements_stops_where_it_names_the_table() -> None:
    query = "CREATE TYPE size AS ENUM ('s'); ALTER TABLE items ADD x size"
    first = change("CREATE TYPE", query, ("type", "public.size"))
    assert OfSomeTables([ITEMS], renamed=False)(first) is Treatment.STOP
    other = [TableName("public", "orders")]
    assert OfSomeTables(other, renamed=False)(first) is Treatment.IGNORE
    second = change("ALTER TABLE", query, ("table", "public.items"), nested=True, continues=True)
    assert OfSomeTables([ITEMS], renamed=False)(second) is Treatment.STOP
