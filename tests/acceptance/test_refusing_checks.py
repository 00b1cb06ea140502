"""Constraints that held when a row was written, and would refuse it now."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from comparison import assert_same, databases, load_statements, take_picture, value
from conftest import Workbench
from journals import captured
from pgkeep.postgres.server import ScratchServer

# What holds depends on the session, as it does on the clock, and needs no waiting.
LIMIT = "coalesce(nullif(current_setting('test.most', true), '')::int, 0)"
WIDE = "SET test.most = 100"
RULED = (
    WIDE,
    f"CREATE TABLE ruled (id int PRIMARY KEY, v int CONSTRAINT within CHECK (v <= {LIMIT}))",
    "COMMENT ON CONSTRAINT within ON ruled IS 'it''s a limit'",
    "INSERT INTO ruled SELECT n, n FROM generate_series(1, 50) n",
)
ODD = (
    *RULED,
    f'CREATE TABLE "par""ted" (id int, v int, CONSTRAINT "in ""side" CHECK (v <= {LIMIT}))'
    " PARTITION BY RANGE (id)",
    'CREATE TABLE first PARTITION OF "par""ted" FOR VALUES FROM (0) TO (10)',
    'CREATE TABLE rest PARTITION OF "par""ted" DEFAULT',
    'INSERT INTO "par""ted" SELECT n, n FROM generate_series(1, 20) n',
    f"CREATE TABLE old (v int CONSTRAINT low CHECK (v <= {LIMIT}))",
    "CREATE TABLE child (more int, CONSTRAINT positive CHECK (v + more > 0)) INHERITS (old)",
    f"CREATE TABLE own (CONSTRAINT low CHECK (v <= {LIMIT})) INHERITS (old)",
    "INSERT INTO old VALUES (1)",
    "INSERT INTO child VALUES (2, 3)",
    "INSERT INTO own VALUES (4)",
    f"CREATE DOMAIN small AS int CONSTRAINT within CHECK (VALUE <= {LIMIT})",
    "CREATE DOMAIN smaller AS small CHECK (VALUE < 1000)",
    "COMMENT ON CONSTRAINT within ON DOMAIN small IS 'of a domain'",
    "CREATE TABLE of_domain (a smaller, b small)",
    "INSERT INTO of_domain VALUES (3, 4)",
)
KNOWN = (
    "CREATE TABLE kinds (id int PRIMARY KEY)",
    "INSERT INTO kinds SELECT generate_series(1, 5)",
    "CREATE FUNCTION known(int) RETURNS bool LANGUAGE sql STABLE"
    " AS 'SELECT EXISTS (SELECT FROM public.kinds WHERE id = $1)'",
    "CREATE TABLE items (id int PRIMARY KEY, kind int CHECK (known(kind)))",
    "INSERT INTO items SELECT n, n % 5 + 1 FROM generate_series(1, 3000) n",
)
NOT_VALID = (
    "SELECT array_agg(conname::text ORDER BY conname) FROM pg_constraint WHERE NOT convalidated"
)


def test_a_check_that_asks_another_table_is_made_once_that_is_full(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    source, target = new_database(), new_database()
    load_statements(source, KNOWN)
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    workbench.pgkeep("restore", "shop", "--target", target, "--jobs", "1")
    assert_same(take_picture(source), take_picture(target))
    assert value(target, NOT_VALID) is None


def test_rows_that_break_their_check_by_now_come_back_and_are_told(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    source, target = new_database(), new_database()
    load_statements(source, ODD)
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    done = workbench.pgkeep("restore", "shop", "--target", target, expect=3)
    told = " ".join(done.out.split())
    for what in (
        "check within of table public.ruled",
        'check in "side of table public."par""ted"',
        "check low of table public.old",
        "check within of domain public.small",
    ):
        assert f"refused {what}: rows of the source break it" in told
    before, after = take_picture(source), take_picture(target)
    assert after.rows == before.rows
    assert value(target, NOT_VALID) == sorted(
        ['in "side', 'in "side', 'in "side', "low", "low", "low", "within", "within"]
    )
    assert value(target, "SELECT count(*) FROM pg_description WHERE description = 'of a domain'")
    assert value(target, "SELECT count(*) FROM pg_description WHERE description = 'it''s a limit'")
    # With what they hold again, a validation finds nothing, and all is as it was.
    load_statements(
        target,
        (WIDE, "ALTER TABLE ruled VALIDATE CONSTRAINT within",
         'ALTER TABLE "par""ted" VALIDATE CONSTRAINT "in ""side"',
         "ALTER TABLE old VALIDATE CONSTRAINT low",
         "ALTER DOMAIN small VALIDATE CONSTRAINT within"),
    )  # fmt: skip
    assert value(target, NOT_VALID) is None


def test_what_differs_besides_is_still_found(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    """A table that is there already keeps its constraints, whoever made them."""
    source, target = new_database(), new_database()
    load_statements(source, RULED)
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    workbench.pgkeep("restore", "shop", "--target", target, "--schema-only")
    failed = workbench.pgkeep("restore", "shop", "--target", target, "--data-only", expect=1)
    assert 'violates check constraint "within"' in failed.err
    assert value(target, "SELECT count(*) FROM pg_constraint WHERE conname = 'within'") == 1
    assert value(target, "SELECT count(*) FROM ruled") == 0


def test_a_domain_within_arrays_and_composites_is_told_and_ends_nothing(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    """There the server does not look whether rows break it, even if they do not."""
    source, target = new_database(), new_database()
    load_statements(
        source,
        (*KNOWN,
         "CREATE DOMAIN kind AS int CONSTRAINT is_known CHECK (known(VALUE))",
         "CREATE DOMAIN several AS kind[]",
         "CREATE TYPE two AS (a kind, b int)",
         "CREATE TABLE early (a kind[], b several, c two)",
         "INSERT INTO early VALUES ('{1,2}', '{3}', '(4,5)')"),
    )  # fmt: skip
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    done = workbench.pgkeep("restore", "shop", "--target", target, "--jobs", "1", expect=3)
    told = " ".join(done.out.split())
    assert "refused check is_known of domain public.kind: the server cannot look" in told
    assert take_picture(target).rows == take_picture(source).rows
    assert value(target, NOT_VALID) == ["is_known"]


def test_constraints_of_a_live_database_are_let_be(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    """Its rows count on them, and they are not the restore's to take away."""
    live = new_database()
    load_statements(live, ODD)
    workbench.init(live)
    workbench.pgkeep("backup", "shop")
    oids = "SELECT array_agg((oid, conname) ORDER BY oid) FROM pg_constraint WHERE contype = 'c'"
    load_statements(live, ("DROP TABLE first",))
    before = value(live, oids)
    for options in (
        ("--table", "of_domain", "--into-schema", "recovered"),  # its domain is the live one
        ("--table", "first"),  # its partitioned table is
    ):
        failed = workbench.pgkeep("restore", "shop", "--target", live, *options, expect=1)
        assert "violates check constraint" in failed.err
        assert "had before stays as it is" in " ".join(failed.err.split())
        load_statements(
            live, ("DROP SCHEMA IF EXISTS recovered CASCADE", "DROP TABLE IF EXISTS first")
        )
        assert value(live, oids) == before
    assert value(live, NOT_VALID) is None


@pytest.fixture
def urls(server: ScratchServer) -> Iterator[tuple[str, str]]:
    with databases(server, "checks_source", "checks_target") as (source, target):
        yield source, target


def test_a_replay_goes_on_past_a_check_that_refuses(
    workbench: Workbench, urls: tuple[str, str]
) -> None:
    source, target = urls
    workbench.init(source)
    load_statements(source, RULED[:-1])
    with captured(workbench, source, "checks") as journal:
        workbench.pgkeep("backup", "shop")
        load_statements(
            source,
            (WIDE, "INSERT INTO ruled SELECT n, n FROM generate_series(1, 40) n",
             "UPDATE ruled SET v = v + 1",
             "ALTER TABLE ruled RENAME CONSTRAINT within TO inside",
             "INSERT INTO ruled SELECT n, 60 FROM generate_series(60, 90) n",
             "CREATE TABLE other (id int PRIMARY KEY)",
             "UPDATE ruled SET v = 61, id = id + 1000 WHERE v = 60"),
        )  # fmt: skip
        journal.cut()
        wanted = take_picture(source).rows
        done = workbench.pgkeep(
            "restore", "shop", "--target", target, "--to-last-reachable", expect=3
        )
        assert "check inside of table public.ruled" in " ".join(done.out.split())
        assert take_picture(target).rows == wanted
        assert value(target, NOT_VALID) == ["inside"]


def test_a_replay_that_takes_the_refused_rows_away_leaves_nothing_to_tell(
    workbench: Workbench, urls: tuple[str, str]
) -> None:
    source, target = urls
    workbench.init(source)
    load_statements(source, RULED)
    with captured(workbench, source, "checks") as journal:
        workbench.pgkeep("backup", "shop")
        load_statements(
            source, (WIDE, "UPDATE ruled SET v = 9", "DELETE FROM ruled WHERE id > 10",
                     "UPDATE ruled SET v = -v")
        )  # fmt: skip
        journal.cut()
        workbench.pgkeep("restore", "shop", "--target", target, "--to-last-reachable")
        without = ("--no-publications",)
        assert_same(
            take_picture(source, dump_options=without), take_picture(target, dump_options=without)
        )
