"""Parts of a backup, other targets than an empty one, and roles with fewer rights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from comparison import (
    Picture,
    assert_same,
    databases,
    dump_definitions,
    load_statements,
    take_picture,
    value,
)
from conftest import Workbench
from pgkeep.demo import story
from pgkeep.postgres.server import ScratchServer

OWNER, READER, LODGER = "scopes_owner", "scopes_reader", "scopes_lodger"

LIBRARY = (
    f"CREATE ROLE {OWNER} NOLOGIN",
    f"CREATE ROLE {READER} NOLOGIN CONNECTION LIMIT 7",
    f"GRANT {READER} TO {OWNER}",
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')",
    "CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text)",
    "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$"
    "BEGIN INSERT INTO log (what) VALUES (TG_OP || ' ' || TG_TABLE_NAME);"
    " NEW.body := NEW.body || ' (stamped)'; RETURN NEW; END$$",
    "CREATE TABLE notes (id serial PRIMARY KEY, mood mood NOT NULL DEFAULT 'ok',"
    " body text NOT NULL, length integer GENERATED ALWAYS AS (length(body)) STORED)",
    "INSERT INTO notes (mood, body) SELECT (enum_range(NULL::mood))[1 + n % 3], 'note ' || n"
    " FROM generate_series(1, 500) AS n",
    "CREATE INDEX notes_mood ON notes (mood, id DESC) WHERE mood <> 'sad'",
    "CREATE TRIGGER notes_stamp BEFORE INSERT OR UPDATE ON notes"
    " FOR EACH ROW EXECUTE FUNCTION stamp()",
    "COMMENT ON TABLE notes IS 'with a trigger, an enum, a serial'",
    "CREATE TABLE authors (id integer PRIMARY KEY, name text NOT NULL, favourite integer)",
    "CREATE TABLE books (id integer PRIMARY KEY, author integer NOT NULL REFERENCES authors,"
    " title text, sequel integer REFERENCES books)",
    "INSERT INTO authors SELECT n, 'author ' || n FROM generate_series(1, 50) AS n",
    "INSERT INTO books SELECT n, 1 + n % 50, 'book ' || n, CASE WHEN n < 200 THEN n + 1 END"
    " FROM generate_series(200, 1, -1) AS n",
    "UPDATE authors SET favourite = id * 2",
    "ALTER TABLE authors ADD CONSTRAINT favourite FOREIGN KEY (favourite) REFERENCES books",
    "CREATE TABLE events (id integer, day date NOT NULL, PRIMARY KEY (id, day))"
    " PARTITION BY RANGE (day)",
    "CREATE TABLE events_old PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2024-01-01')",
    "CREATE TABLE events_new PARTITION OF events FOR VALUES FROM ('2024-01-01') TO (MAXVALUE)",
    "INSERT INTO events SELECT n, date '2023-12-01' + n FROM generate_series(1, 90) AS n",
    "CREATE SEQUENCE counter INCREMENT 5",
    "SELECT setval('counter', 4711, false)",
    "CREATE SEQUENCE untouched START 9",
    "CREATE SEQUENCE backwards INCREMENT -1 CYCLE",
    "SELECT setval('backwards', -3)",
    "CREATE VIEW happy AS SELECT * FROM notes WHERE mood = 'happy'",
    "CREATE MATERIALIZED VIEW moods AS SELECT mood, count(*) FROM notes GROUP BY mood",
    "SELECT lo_from_bytea(5001, 'the first')",
    "SELECT lo_from_bytea(5002, '')",
    "COMMENT ON LARGE OBJECT 5001 IS 'it''s \\ the first'",
    f"ALTER LARGE OBJECT 5001 OWNER TO {OWNER}",
    f"SET ROLE {OWNER}",
    f"GRANT SELECT ON LARGE OBJECT 5001 TO {READER} WITH GRANT OPTION",
    "RESET ROLE",
    "GRANT SELECT, UPDATE ON LARGE OBJECT 5002 TO PUBLIC",
    f"ALTER TABLE notes OWNER TO {OWNER}",
    f"GRANT SELECT ON notes, books TO {READER}",
    f"GRANT USAGE ON TYPE mood TO {READER}",
    f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT SELECT ON TABLES TO {READER}",
)


@contextmanager
def cleared_of_roles(server: ScratchServer) -> Iterator[None]:
    """Roles belong to a server: gone before and after, once their databases are."""
    load_statements(server.url(), (f"DROP ROLE IF EXISTS {OWNER}, {READER}",))
    try:
        yield
    finally:
        load_statements(server.url(), (f"DROP ROLE IF EXISTS {OWNER}, {READER}",))


@pytest.fixture
def library(server: ScratchServer) -> Iterator[str]:
    with cleared_of_roles(server), databases(server, "scopes_library") as (url,):
        load_statements(url, LIBRARY)
        yield url


@pytest.fixture
def target(server: ScratchServer, library: str) -> Iterator[str]:
    with databases(server, "scopes_target") as (url,):
        yield url


@pytest.fixture
def backed_up(workbench: Workbench, library: str) -> Workbench:
    workbench.init(library)
    workbench.pgkeep("backup", "shop")
    return workbench


def test_a_whole_restore_brings_sequences_large_objects_and_grants(
    backed_up: Workbench, library: str, target: str
) -> None:
    backed_up.pgkeep("restore", "shop", "--target", target)
    restored = take_picture(target)
    assert_same(take_picture(library), restored)
    assert restored.sequences["public.counter"] == (4711, False)
    assert restored.sequences["public.untouched"] == (9, False)
    assert restored.sequences["public.backwards"] == (-3, True)
    first, second = restored.large_objects
    assert first[1] == OWNER
    assert f"{OWNER}/{READER}/SELECT/t" in first[2]
    assert first[3] == "it's \\ the first"
    assert {"postgres/PUBLIC/SELECT/f", "postgres/PUBLIC/UPDATE/f"} < set(second[2])


# --- definitions alone, rows alone ------------------------------------------------------------


def test_schema_only_brings_all_definitions_and_no_row(
    backed_up: Workbench, library: str, target: str
) -> None:
    backed_up.pgkeep("restore", "shop", "--target", target, "--schema-only")
    assert dump_definitions(target) == dump_definitions(library)
    restored = take_picture(target)
    assert restored.row_count == 0
    assert restored.large_objects == []


def test_data_only_fills_a_schema_whose_triggers_do_not_fire(
    backed_up: Workbench, library: str, target: str
) -> None:
    """The stamp would change each note, and circular foreign keys let no order of tables pass."""
    backed_up.pgkeep("restore", "shop", "--target", target, "--schema-only")
    filled = backed_up.pgkeep("restore", "shop", "--target", target, "--data-only")
    assert "proven" in filled.out
    assert_same(take_picture(library), take_picture(target))
    orphans = "SELECT count(*) FROM books WHERE author NOT IN (SELECT id FROM authors)"
    assert value(target, orphans) == 0
    assert value(target, "SELECT count(*) FROM pg_trigger WHERE tgenabled <> 'O'") == 0


def test_a_schema_backup_and_a_data_backup_make_one_whole(
    workbench: Workbench, library: str, target: str
) -> None:
    workbench.init(library)
    workbench.pgkeep("backup", "shop", "--kind", "schema")
    workbench.pgkeep("backup", "shop", "--kind", "data")
    workbench.pgkeep("restore", "shop", "--target", target, "--schema-only")
    workbench.pgkeep("restore", "shop", "--target", target, "--data-only")
    assert_same(take_picture(library), take_picture(target))


def test_data_only_refuses_tables_that_hold_rows(
    backed_up: Workbench, library: str, target: str
) -> None:
    backed_up.pgkeep("restore", "shop", "--target", target)
    before = take_picture(target)
    again = backed_up.pgkeep("restore", "shop", "--target", target, "--data-only", expect=1)
    assert "holds rows already" in again.err
    assert_same(before, take_picture(target))


# --- chosen tables ----------------------------------------------------------------------------


def assert_same_tables(source: str, target: str, *tables: str) -> None:
    before, after = take_picture(source), take_picture(target)
    for table in tables:
        assert after.rows[table] == before.rows[table], table
        options = ("-t", table)
        assert dump_definitions(target, 17, *options) == dump_definitions(source, 17, *options)


def test_a_table_brings_its_enum_serial_and_trigger_function(
    backed_up: Workbench, library: str, target: str
) -> None:
    backed_up.pgkeep("restore", "shop", "--target", target, "--table", "notes")
    assert_same_tables(library, target, "public.notes")
    restored = take_picture(target)
    assert restored.sequences == {"public.notes_id_seq": (500, True)}
    # The function's own body names a table, of which the server knows nothing.
    load_statements(target, ("CREATE TABLE log (id serial, what text)",))
    insert = "INSERT INTO notes (mood, body) VALUES ('happy', 'new') RETURNING id || body"
    assert value(target, insert) == "501new (stamped)"


def test_a_partitioned_table_brings_its_partitions(
    backed_up: Workbench, library: str, target: str
) -> None:
    backed_up.pgkeep("restore", "shop", "--target", target, "--table", "events")
    tables = ("public.events_old", "public.events_new")
    assert_same_tables(library, target, *tables)
    assert set(take_picture(target).rows) == set(tables)
    assert value(target, "SELECT count(*) FROM events") == 90


def test_tables_that_refer_to_each_other_keep_their_foreign_keys(
    backed_up: Workbench, library: str, target: str
) -> None:
    chosen = ("--table", "books", "--table", "public.authors")
    backed_up.pgkeep("restore", "shop", "--target", target, *chosen)
    assert_same_tables(library, target, "public.books", "public.authors")
    assert value(target, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'") == 3


def test_foreign_keys_to_tables_that_are_not_chosen_are_named(
    backed_up: Workbench, target: str
) -> None:
    out = backed_up.pgkeep("restore", "shop", "--target", target, "--table", "books").out
    assert "left out: fk constraint books books_author_fkey" in out
    assert "since not all of its tables are chosen" in out
    assert "books_sequel_fkey" not in out


def test_tables_are_put_beside_what_the_target_holds(
    backed_up: Workbench, library: str, target: str
) -> None:
    held = (
        "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')",
        "CREATE TABLE log (mine text)",
        "INSERT INTO log VALUES ('keep')",
        "CREATE SCHEMA other",
        "CREATE TABLE other.notes AS SELECT 1 AS one",
        "CREATE SEQUENCE counter",
        "SELECT nextval('counter')",
    )
    load_statements(target, held)
    chosen = ("--table", "notes", "--table", "events")
    backed_up.pgkeep("restore", "shop", "--target", target, *chosen)
    before, after = take_picture(library), take_picture(target)
    for table in ("public.notes", "public.events_old", "public.events_new"):
        assert after.rows[table] == before.rows[table]
    assert after.rows["public.log"] == [b"keep"]
    assert after.rows["other.notes"] == [b"1"]
    assert after.sequences["public.counter"] == (1, True)


def test_a_table_that_is_there_already_is_not_touched(
    backed_up: Workbench, library: str, target: str
) -> None:
    load_statements(target, ("CREATE TABLE notes (mine text)",))
    before = take_picture(target)
    refused = backed_up.pgkeep("restore", "shop", "--target", target, "--table", "notes", expect=1)
    assert "notes is in the target already" in refused.err
    assert_same(before, take_picture(target))


def test_tables_come_back_under_another_schema_of_the_live_database(
    backed_up: Workbench, library: str
) -> None:
    load_statements(library, ("DELETE FROM notes WHERE id > 100", "TRUNCATE events"))
    before = take_picture(library)
    names = ("notes", "events", "books")
    chosen = [option for name in names for option in ("--table", name)]
    backed_up.pgkeep("restore", "shop", "--target", library, *chosen, "--into-schema", "rescue")
    after = take_picture(library)
    assert value(library, "SELECT count(*) FROM rescue.notes") == 500
    assert value(library, "SELECT count(*) FROM rescue.notes WHERE length = length(body)") == 500
    rescued = {name: rows for name, rows in after.rows.items() if name.startswith("rescue.")}
    assert sum(map(len, rescued.values())) == 500 + 90 + 200
    assert {n: rows for n, rows in after.rows.items() if n not in rescued} == before.rows
    assert after.sequences == before.sequences
    assert dump_definitions(library, 17, "-N", "rescue") == before.definitions


# --- other targets, other roles ---------------------------------------------------------------


def without_owners(picture: Picture) -> Picture:
    contents = [(oid, *rest) for oid, _, _, *rest in picture.large_objects]
    return dataclasses.replace(picture, large_objects=contents)


def test_an_ordinary_role_restores_what_becomes_its_own(
    backed_up: Workbench, library: str, server: ScratchServer
) -> None:
    load_statements(
        server.url(),
        (f"DROP ROLE IF EXISTS {LODGER}", f"CREATE ROLE {LODGER} LOGIN PASSWORD 'lodger'"),
    )
    options = ("--no-owner", "--no-privileges")
    with databases(server, "scopes_lodging") as (admin_url,):
        load_statements(admin_url, (f"ALTER DATABASE scopes_lodging OWNER TO {LODGER}",))
        url = admin_url.replace(f"postgres:{server.password}@", f"{LODGER}:lodger@")
        backed_up.pgkeep("restore", "shop", "--target", url, *options)
        dump_options = ("--no-owner", "--no-privileges")
        assert_same(
            without_owners(take_picture(library, dump_options=dump_options)),
            without_owners(take_picture(url, dump_options=dump_options)),
        )
        strangers = (
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            f" AND relowner <> '{LODGER}'::regrole"
        )
        assert value(url, strangers) == 0
        assert value(url, "SELECT count(*) FROM pg_class WHERE relname = 'notes'") == 1
        assert value(url, "SELECT count(*) FROM pg_default_acl") == 0
    load_statements(server.url(), (f"DROP ROLE {LODGER}",))


def test_roles_that_the_target_server_lacks_are_made_and_told(
    backed_up: Workbench, library: str, servers: Callable[[int], ScratchServer]
) -> None:
    other = servers(18)
    with cleared_of_roles(other), databases(other, "scopes_elsewhere") as (url,):
        restored = backed_up.pgkeep("restore", "shop", "--target", url, "--json")
        document = restored.document
        assert isinstance(document, dict)
        assert sorted(document["created_roles"]) == [OWNER, READER]
        assert "created the roles" in restored.err
        assert_same(take_picture(library, dump_major=18), take_picture(url, dump_major=18))
        limit = f"SELECT rolconnlimit FROM pg_roles WHERE rolname = '{READER}' AND NOT rolcanlogin"
        assert value(url, limit) == 7
        assert value(url, f"SELECT pg_has_role('{OWNER}', '{READER}', 'MEMBER')") is True


def test_a_whole_restore_goes_beside_other_things_if_told_to(
    backed_up: Workbench, library: str, target: str
) -> None:
    load_statements(
        target, ("CREATE TABLE mine AS SELECT 1 AS one", "SELECT lo_from_bytea(77, 'mine')")
    )
    refused = backed_up.pgkeep("restore", "shop", "--target", target, expect=1)
    assert "is not empty" in refused.err
    backed_up.pgkeep("restore", "shop", "--target", target, "--allow-non-empty")
    restored = take_picture(target, dump_options=("-T", "mine"))
    assert restored.rows.pop("public.mine") == [b"1"]
    assert [row for row in restored.large_objects if row[0] == 77] == restored.large_objects[:1]
    del restored.large_objects[0]
    assert_same(take_picture(library, dump_options=("-T", "mine")), restored)


@pytest.mark.parametrize(
    "options",
    [(), ("--schema-only",), ("--table", "notes"), ("--allow-non-empty",)],
    ids=["whole", "schema-only", "table", "beside"],
)
def test_a_dry_run_touches_nothing(
    backed_up: Workbench, target: str, options: tuple[str, ...]
) -> None:
    if options == ("--allow-non-empty",):
        load_statements(target, ("CREATE TABLE mine AS SELECT 1 AS one",))
    before = take_picture(target)
    comment = "SELECT shobj_description(oid, 'pg_database') FROM pg_database"
    comment += " WHERE datname = current_database()"
    planned = backed_up.pgkeep("restore", "shop", "--target", target, "--dry-run", *options)
    assert "public.notes: 500 rows" in planned.out or "--schema-only" in options
    assert_same(before, take_picture(target))
    assert value(target, comment) is None


def test_schema_then_rows_brings_the_shop_back_triggers_that_always_fire_included(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    source, target = new_database(), new_database()
    story.run_script(source, "shop.sql")
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    workbench.pgkeep("restore", "shop", "--target", target, "--schema-only")
    workbench.pgkeep("restore", "shop", "--target", target, "--data-only")
    assert_same(take_picture(source), take_picture(target))
