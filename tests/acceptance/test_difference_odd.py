"""Putting rows back where it is not easy: circles, triggers, identities, partitions, odd types."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import pytest

from comparison import load_statements
from conftest import Workbench
from pgkeep.postgres.server import ScratchServer

NewDatabase = Callable[[], str]
Rows = list[tuple[object, ...]]


@dataclass(frozen=True)
class Shop:
    """A live database with a backup of how it was."""

    workbench: Workbench
    url: str

    def restore(self, *tables: str, into: str = "recovered", where: str = "") -> str:
        options = [part for name in tables for part in ("--table", name)]
        options += ["--where", where] if where else []
        restore = ("restore", "shop", "--target", self.url, "--into-schema", into)
        return self.workbench.pgkeep(*restore, *options).out

    def diff(self, *options: str) -> dict[str, tuple[int, int, int]]:
        """Per live table: missing, changed, new."""
        outcome = self.workbench.pgkeep("diff", "--target", self.url, "--json", *options,
                                        expect=None)  # fmt: skip
        assert outcome.code in (0, 3), outcome
        document = outcome.document
        assert isinstance(document, list)
        return {
            f"{one['schema']}.{one['table']}": (one["missing"], one["changed"], one["new"])
            for one in document
        }

    def put_back(self, *options: str, url: str = "") -> str:
        """Write the SQL, run it as psql would, and give it."""
        path = self.workbench.folder / "back.sql"
        self.workbench.pgkeep("diff", "--target", self.url, "--sql", str(path), *options, expect=3)
        text = path.read_text()
        with psycopg.connect(url or self.url, autocommit=True) as connection:
            connection.execute(text.encode())
        return text

    def rows(self, query: str) -> Rows:
        with psycopg.connect(self.url) as connection:
            return connection.execute(query.encode()).fetchall()


@pytest.fixture
def shop(workbench: Workbench, new_database: NewDatabase) -> Callable[..., Shop]:
    """A function that makes one by statements, backs it up, and lets an accident happen."""

    def make(before: tuple[str, ...], accident: tuple[str, ...]) -> Shop:
        url = new_database()
        load_statements(url, before)
        workbench.init(url)
        workbench.pgkeep("backup", "shop")
        load_statements(url, accident)
        return Shop(workbench, url)

    return make


def test_tables_that_refer_to_each_other_in_a_circle(shop: Callable[..., Shop]) -> None:
    there = shop(
        ("CREATE TABLE a_child (id int PRIMARY KEY, team int NOT NULL)",
         "CREATE TABLE team (id int PRIMARY KEY, head int NOT NULL)",
         "CREATE TABLE person (id int PRIMARY KEY, team int NOT NULL, boss int REFERENCES person)",
         "INSERT INTO team VALUES (1, 10), (2, 20)",
         "INSERT INTO person VALUES (10, 1, NULL), (11, 1, 10), (20, 2, 11)",
         "INSERT INTO a_child VALUES (7, 2)",
         "ALTER TABLE a_child ADD CONSTRAINT in_team FOREIGN KEY (team) REFERENCES team",
         "ALTER TABLE team ADD CONSTRAINT head FOREIGN KEY (head) REFERENCES person",
         "ALTER TABLE person ADD CONSTRAINT member FOREIGN KEY (team) REFERENCES team"),
        ("TRUNCATE a_child, team, person",),
    )  # fmt: skip
    shape = ("SELECT conname, condeferrable, condeferred, convalidated, pg_get_constraintdef(oid)"
             " FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace"
             " ORDER BY 1")  # fmt: skip
    before = there.rows(shape)
    there.restore("a_child", "team", "person")
    there.put_back()
    assert set(there.diff().values()) == {(0, 0, 0)}
    assert there.rows(shape) == before, "constraints are as they were"


def test_a_circle_does_not_hide_an_unknown_parent(shop: Callable[..., Shop]) -> None:
    """What must fail fails, and then nothing has changed."""
    there = shop(
        ("CREATE TABLE team (id int PRIMARY KEY, head int)",
         "CREATE TABLE person (id int PRIMARY KEY, team int REFERENCES team)",
         "INSERT INTO team VALUES (1, 10)", "INSERT INTO person VALUES (10, 1)",
         "ALTER TABLE team ADD CONSTRAINT head FOREIGN KEY (head) REFERENCES person"),
        ("TRUNCATE team, person",),
    )  # fmt: skip
    there.restore("team")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        there.put_back()
    assert there.rows("SELECT * FROM team") == []


def test_rows_that_are_there_twice_come_back_as_often(shop: Callable[..., Shop]) -> None:
    there = shop(
        ("CREATE TABLE log (what text, at int)",
         "INSERT INTO log VALUES ('a', 1), ('a', 1), ('a', 1), ('b', 2), (NULL, NULL)"),
        ("DELETE FROM log WHERE ctid IN (SELECT ctid FROM log WHERE what = 'a' LIMIT 2)",
         "DELETE FROM log WHERE what IS NULL", "INSERT INTO log VALUES ('b', 2)"),
    )  # fmt: skip
    there.restore("log")
    assert there.diff() == {"public.log": (3, 0, 1)}
    there.put_back()
    counted = "SELECT what, count(*) FROM log GROUP BY 1 ORDER BY 1"
    assert there.rows(counted) == [("a", 3), ("b", 2), (None, 1)]


@pytest.mark.parametrize("schema", ["public", "extensions"])
def test_keys_are_the_same_where_their_own_type_says_so(
    shop: Callable[..., Shop], schema: str
) -> None:
    there = shop(
        ("CREATE SCHEMA IF NOT EXISTS extensions", f"CREATE EXTENSION citext SCHEMA {schema}",
         f"CREATE EXTENSION ltree SCHEMA {schema}",
         f"CREATE TABLE users (mail {schema}.citext PRIMARY KEY, name text)",
         f"CREATE TABLE places (path {schema}.ltree PRIMARY KEY, name text)",
         "INSERT INTO users VALUES ('Ada@example.com', 'Ada'), ('Bob@example.com', 'Bob')",
         "INSERT INTO places VALUES ('a.b', 'x'), ('a.c', 'y')"),
        ("UPDATE users SET mail = 'ada@example.com', name = 'ada' WHERE name = 'Ada'",
         "DELETE FROM users WHERE name = 'Bob'", "DELETE FROM places WHERE name = 'y'"),
    )  # fmt: skip
    there.restore("users", "places")
    assert there.diff() == {"public.users": (1, 1, 0), "public.places": (1, 0, 0)}
    there.put_back("--with-changed")
    assert there.diff() == {"public.users": (0, 0, 0), "public.places": (0, 0, 0)}


def test_an_identity_outside_of_the_key_comes_back(shop: Callable[..., Shop]) -> None:
    there = shop(
        ("CREATE TABLE t (k text PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v text)",
         "INSERT INTO t (k, v) VALUES ('a', 'x'), ('b', 'y')"),
        ("UPDATE t SET v = 'changed' WHERE k = 'a'", "DELETE FROM t WHERE k = 'b'"),
    )  # fmt: skip
    there.restore("t")
    there.put_back("--with-changed")
    assert there.rows("SELECT k, n, v FROM t ORDER BY 1") == [("a", 1, "x"), ("b", 2, "y")]


def test_sequences_go_on_behind_the_rows_that_came_back(shop: Callable[..., Shop]) -> None:
    there = shop(
        ("CREATE TABLE t (id serial PRIMARY KEY, n int GENERATED BY DEFAULT AS IDENTITY)",
         "INSERT INTO t DEFAULT VALUES", "INSERT INTO t DEFAULT VALUES",
         "INSERT INTO t DEFAULT VALUES",
         "CREATE TABLE ahead (id serial PRIMARY KEY)", "INSERT INTO ahead DEFAULT VALUES",
         "SELECT setval('ahead_id_seq', 100)"),
        ("TRUNCATE t RESTART IDENTITY", "DELETE FROM ahead"),
    )  # fmt: skip
    there.restore("t", "ahead")
    there.put_back()
    load_statements(there.url, ("INSERT INTO t DEFAULT VALUES", "INSERT INTO ahead DEFAULT VALUES"))
    assert there.rows("SELECT max(id), max(n) FROM t") == [(4, 4)]
    assert there.rows("SELECT max(id) FROM ahead") == [(101,)]


TRIGGER = """
    CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN
        NEW.stamped := 'by a trigger';
        INSERT INTO public.audit VALUES (NEW.id);
        RETURN NEW;
    END $$
"""


def with_triggers(shop: Callable[..., Shop]) -> Shop:
    return shop(
        ("CREATE TABLE audit (id int)",
         "CREATE TABLE t (id int PRIMARY KEY, stamped text)",
         "INSERT INTO t VALUES (1, 'as it was'), (2, 'as it was')", TRIGGER,
         "CREATE TRIGGER one BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION stamp()",
         "CREATE TRIGGER always BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION stamp()",
         "CREATE TRIGGER off BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION stamp()",
         "ALTER TABLE t ENABLE ALWAYS TRIGGER always", "ALTER TABLE t DISABLE TRIGGER off"),
        ("DELETE FROM t",),
    )  # fmt: skip


def test_rows_come_back_as_they_were_whatever_triggers_would_do(shop: Callable[..., Shop]) -> None:
    there = with_triggers(shop)
    there.restore("t")
    states = "SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
    before = there.rows(states)
    there.put_back()
    assert there.rows("SELECT DISTINCT stamped FROM t") == [("as it was",)]
    assert there.rows("SELECT * FROM audit") == []
    assert there.rows(states) == before


def test_triggers_act_if_they_are_asked_to(shop: Callable[..., Shop]) -> None:
    there = with_triggers(shop)
    there.restore("t")
    there.put_back("--with-triggers")
    assert there.rows("SELECT DISTINCT stamped FROM t") == [("by a trigger",)]


def test_a_partitioned_table_comes_back_through_its_root(shop: Callable[..., Shop]) -> None:
    there = shop(
        ("CREATE TABLE sales (id int, day int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
         "CREATE TABLE sales_1 PARTITION OF sales FOR VALUES FROM (1) TO (10)",
         "CREATE TABLE sales_2 PARTITION OF sales FOR VALUES FROM (10) TO (20)",
         "INSERT INTO sales SELECT g, g FROM generate_series(1, 19) g"),
        ("DELETE FROM sales WHERE id IN (3, 15)",
         "DROP TABLE sales_2",
         "CREATE TABLE sales_new PARTITION OF sales FOR VALUES FROM (10) TO (20)",
         "INSERT INTO sales_new SELECT g, g FROM generate_series(10, 14) g"),
    )  # fmt: skip
    there.restore("sales")
    assert there.diff() == {"public.sales": (6, 0, 0)}
    there.put_back()
    assert there.diff() == {"public.sales": (0, 0, 0)}
    assert there.rows("SELECT count(*) FROM sales_new") == [(10,)]


def test_rows_of_tables_that_inherit_are_their_own(shop: Callable[..., Shop]) -> None:
    there = shop(
        ("CREATE TABLE parent (id int PRIMARY KEY, v int)",
         "CREATE TABLE child (more int, PRIMARY KEY (id)) INHERITS (parent)",
         "INSERT INTO parent SELECT g, g FROM generate_series(1, 9) g",
         "INSERT INTO child SELECT g, -g FROM generate_series(5, 12) g"),
        ("DELETE FROM ONLY parent WHERE id IN (1, 5)", "UPDATE ONLY parent SET v = 0 WHERE id = 6"),
    )  # fmt: skip
    wanted = there.rows("SELECT id, v FROM child ORDER BY 1")
    there.restore("parent", "child")
    assert there.diff() == {"public.child": (0, 0, 0), "public.parent": (2, 1, 0)}
    there.put_back("--with-changed")
    assert there.rows("SELECT id, v FROM ONLY parent ORDER BY 1") == [(g, g) for g in range(1, 10)]
    assert there.rows("SELECT id, v FROM child ORDER BY 1") == wanted


def test_each_table_is_compared_with_the_one_that_it_comes_from(shop: Callable[..., Shop]) -> None:
    there = shop(
        ("CREATE SCHEMA sales", "CREATE TABLE orders (id int PRIMARY KEY)",
         "CREATE TABLE sales.orders (id int PRIMARY KEY)",
         "INSERT INTO orders VALUES (1), (2), (3)", "INSERT INTO sales.orders VALUES (7), (8)"),
        ("DELETE FROM sales.orders WHERE id = 8",),
    )  # fmt: skip
    there.restore("sales.orders")
    assert there.diff() == {"sales.orders": (1, 0, 0)}
    there.put_back()
    assert there.rows("SELECT id FROM orders ORDER BY 1") == [(1,), (2,), (3,)]


def test_rows_that_were_not_restored_do_not_count_as_new(shop: Callable[..., Shop]) -> None:
    there = shop(
        ("CREATE TABLE t (id int PRIMARY KEY, v int)",
         "INSERT INTO t SELECT g, g FROM generate_series(1, 100) g"),
        ("DELETE FROM t WHERE id IN (5, 50)", "UPDATE t SET v = 0 WHERE id = 6",
         "INSERT INTO t VALUES (9, 9) ON CONFLICT DO NOTHING"),
    )  # fmt: skip
    there.restore("t", where="id < 10")
    assert there.diff() == {"public.t": (1, 1, 0)}
    shown = there.workbench.pgkeep("diff", "--target", there.url, expect=3).out
    assert "id < 10" in shown


def test_a_live_table_that_is_gone_is_told_of(shop: Callable[..., Shop]) -> None:
    there = shop(
        ("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE gone (id int PRIMARY KEY)",
         "INSERT INTO t VALUES (1)"),
        ("DROP TABLE gone",),
    )  # fmt: skip
    there.restore("t", "gone")
    outcome = there.workbench.pgkeep("diff", "--target", there.url, expect=3)
    assert "public.gone is not there any more" in " ".join(outcome.err.split())
    assert "pgkeep restore --table public.gone" in " ".join(outcome.err.split())


def test_a_name_with_a_line_of_its_own_is_no_statement(shop: Callable[..., Shop]) -> None:
    name = '"t\nDROP TABLE precious; --"'
    there = shop(
        (f"CREATE TABLE {name} (id int PRIMARY KEY)", f"INSERT INTO {name} VALUES (1)",
         "CREATE TABLE precious (id int)"),
        (f"DELETE FROM {name}",),
    )  # fmt: skip
    there.restore(name)
    there.put_back()
    assert there.rows("SELECT to_regclass('precious')::text") == [("precious",)]
    assert set(there.diff().values()) == {(0, 0, 0)}


def test_rows_that_a_policy_hides_are_not_taken_for_missing(shop: Callable[..., Shop]) -> None:
    there = shop(
        ("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)",
         "CREATE ROLE diff_clerk LOGIN PASSWORD 'x'", "GRANT ALL ON t TO diff_clerk",
         "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
         "CREATE POLICY few ON t USING (id = 1)"),
        ("DELETE FROM t WHERE id = 2",),
    )  # fmt: skip
    try:
        there.restore("t")
        load_statements(there.url, ("GRANT USAGE ON SCHEMA recovered TO diff_clerk",
                                    "GRANT SELECT ON recovered.t TO diff_clerk"))  # fmt: skip
        clerk = re.sub(r"://[^@]+@", "://diff_clerk:x@", there.url)
        refused = there.workbench.pgkeep("diff", "--target", clerk, expect=1)
        assert "row-level security" in refused.err
        path = there.workbench.folder / "back.sql"
        there.workbench.pgkeep("diff", "--target", there.url, "--sql", str(path), expect=3)
        with (
            psycopg.connect(clerk, autocommit=True) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(path.read_bytes())
        there.put_back()
        assert there.rows("SELECT id FROM t ORDER BY 1") == [(1,), (2,)]
    finally:
        load_statements(there.url, ("DROP OWNED BY diff_clerk", "DROP ROLE diff_clerk"))


def test_rows_that_break_a_constraint_that_is_not_valid_come_back(
    shop: Callable[..., Shop],
) -> None:
    there = shop(
        ("CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1, -1), (2, 2)",
         "ALTER TABLE t ADD CONSTRAINT positive CHECK (v > 0) NOT VALID"),
        ("DELETE FROM t WHERE id = 2",),
    )  # fmt: skip
    there.restore("t")
    assert there.rows("SELECT * FROM recovered.t ORDER BY 1") == [(1, -1), (2, 2)]
    there.put_back()
    assert there.diff() == {"public.t": (0, 0, 0)}


def test_a_row_without_what_must_not_be_missing_from_now_on_comes_back(
    workbench: Workbench, servers: Callable[[int], ScratchServer]
) -> None:
    """Since PostgreSQL 18 NOT NULL may be NOT VALID."""
    server = servers(18)
    server.create_database("not_null")
    url = server.url("not_null")
    try:
        load_statements(
            url,
            ("CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1, NULL)",
             "ALTER TABLE t ADD CONSTRAINT later NOT NULL v NOT VALID"),
        )  # fmt: skip
        workbench.init(url)
        workbench.pgkeep("backup", "shop")
        there = Shop(workbench, url)
        there.restore("t")
        assert there.diff() == {"public.t": (0, 0, 0)}
    finally:
        server.drop_database("not_null")


def test_triggers_of_a_partition_are_off_too(shop: Callable[..., Shop]) -> None:
    there = shop(
        ("CREATE TABLE audit (id int)", TRIGGER.replace("NEW.stamped := 'by a trigger';", ""),
         "CREATE TABLE sales (id int PRIMARY KEY) PARTITION BY RANGE (id)",
         "CREATE TABLE sales_1 PARTITION OF sales FOR VALUES FROM (1) TO (10)",
         "INSERT INTO sales VALUES (1), (2)",
         "CREATE TRIGGER whole BEFORE INSERT ON sales FOR EACH ROW EXECUTE FUNCTION stamp()",
         "CREATE TRIGGER part BEFORE INSERT ON sales_1 FOR EACH ROW EXECUTE FUNCTION stamp()"),
        ("DELETE FROM sales",),
    )  # fmt: skip
    states = "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger ORDER BY 1, 2"
    before = there.rows(states)
    there.restore("sales")
    there.put_back()
    assert there.rows("SELECT count(*) FROM sales") == [(2,)]
    assert there.rows("SELECT count(*) FROM audit") == [(0,)]
    assert there.rows(states) == before
