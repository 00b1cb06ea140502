"""What capture makes in a database never ends, delays or changes a statement of the application."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

import psycopg
import pytest

from conftest import WHEELS
from failures import run_sql
from pgkeep.capture import setup
from pgkeep.postgres.address import Address
from pgkeep.postgres.server import ScratchServer
from pgkeep.postgres.session import connect
from pgkeep.postgres.slot import Slot


def published(source: str) -> set[str]:
    """The tables whose updates and deletes are published."""
    with psycopg.connect(source) as connection:
        rows = connection.execute(
            "SELECT prrelid::regclass::text FROM pg_publication_rel r"
            " JOIN pg_publication p ON p.oid = prpubid WHERE pubname LIKE 'pgkeep%'"
        ).fetchall()
    return {row[0] for row in rows}


KEY_LOST = {
    "in the same transaction": "BEGIN; ALTER TABLE t DROP CONSTRAINT t_pkey; UPDATE t SET v = 'x';"
    " DELETE FROM t; COMMIT",
    "in a DO block": "DO $$ BEGIN ALTER TABLE t DROP CONSTRAINT t_pkey; UPDATE t SET v = 'x'; END"
    " $$",
    "identity nothing": "ALTER TABLE t REPLICA IDENTITY NOTHING; UPDATE t SET v = 'x'",
    "identity index dropped": "CREATE UNIQUE INDEX i ON t (id);"
    " ALTER TABLE t REPLICA IDENTITY USING INDEX i; UPDATE t SET v = 'y'; DROP INDEX i;"
    " UPDATE t SET v = 'x'",
    "key column dropped": "ALTER TABLE t DROP COLUMN id; UPDATE t SET v = 'x'",
    "type of a key column dropped": "CREATE DOMAIN d AS int;"
    " CREATE TABLE k (id d PRIMARY KEY, v text);"
    " INSERT INTO k VALUES (1); DROP DOMAIN d CASCADE; UPDATE k SET v = 'x'",
    "deferrable key": "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id)"
    " DEFERRABLE; UPDATE t SET v = 'x'",
    "no key at all": "CREATE TABLE n (v text); INSERT INTO n VALUES (1); UPDATE n SET v = 2;"
    " DELETE FROM n",
    "generated column in the key": "CREATE TABLE g (a int, b int GENERATED ALWAYS AS (a * 2) STORED"
    " PRIMARY KEY, v text); INSERT INTO g VALUES (1); UPDATE g SET v = 2; DELETE FROM g",
    "full identity with a generated column": "CREATE TABLE f (a int, b int GENERATED ALWAYS AS"
    " (a * 2) STORED); ALTER TABLE f REPLICA IDENTITY FULL; INSERT INTO f VALUES (1);"
    " UPDATE f SET a = 2; DELETE FROM f",
    "parent loses the key": "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);"
    " CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9); INSERT INTO p VALUES (1);"
    " UPDATE p SET v = 'y'; ALTER TABLE p DROP CONSTRAINT p_pkey; UPDATE p SET v = 'x';"
    " DELETE FROM p",
    "partition detached": "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);"
    " CREATE TABLE p1 (id int NOT NULL, v text); INSERT INTO p1 VALUES (1);"
    " ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (9); UPDATE p SET v = 'x';"
    " ALTER TABLE p DETACH PARTITION p1; UPDATE p1 SET v = 'y';"
    " ALTER TABLE p1 DROP CONSTRAINT p1_pkey; UPDATE p1 SET v = 'z'",
    "unlogged and back": "ALTER TABLE t SET UNLOGGED; UPDATE t SET v = 'x';"
    " ALTER TABLE t SET LOGGED;"
    " UPDATE t SET v = 'y'; ALTER TABLE t DROP CONSTRAINT t_pkey; UPDATE t SET v = 'z'",
    "inheritance": "CREATE TABLE c (PRIMARY KEY (id)) INHERITS (t); INSERT INTO c VALUES (2);"
    " UPDATE t SET v = 'x'; ALTER TABLE t DROP COLUMN id CASCADE; UPDATE t SET v = 'y'",
    "quoted names": 'CREATE SCHEMA "S %.I"; CREATE TABLE "S %.I"."T""t" (id int PRIMARY KEY);'
    ' INSERT INTO "S %.I"."T""t" VALUES (1); UPDATE "S %.I"."T""t" SET id = 2;'
    ' ALTER TABLE "S %.I"."T""t" DROP CONSTRAINT "T""t_pkey"; UPDATE "S %.I"."T""t" SET id = 3',
    "typed table": "CREATE TYPE ty AS (a int, b int); CREATE TABLE tt OF ty (PRIMARY KEY (a));"
    " INSERT INTO tt VALUES (1, 1); ALTER TYPE ty DROP ATTRIBUTE a CASCADE; UPDATE tt SET b = 2",
}  # fmt: skip


@pytest.mark.parametrize("case", KEY_LOST)
def test_statements_go_on_working_when_a_table_has_no_key_or_loses_it(
    case: str, captured_server: CapturedServer
) -> None:
    captured_server.anew()
    run_sql(captured_server.url, KEY_LOST[case])
    captured_server.assert_in_step()


def test_a_table_is_published_from_its_first_update_on(captured_server: CapturedServer) -> None:
    captured_server.anew()
    run_sql(
        captured_server.url,
        "BEGIN; CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);"
        " UPDATE a SET id = 2; COMMIT",
        "SELECT 1 AS id INTO b",
        "ALTER TABLE b ADD PRIMARY KEY (id)",
        "CREATE TABLE c AS SELECT 1 AS id",
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)",
        "CREATE TABLE q (id int) PARTITION BY RANGE (id);"
        "CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (9);"
        "ALTER TABLE q ADD PRIMARY KEY (id)",
        "CREATE SCHEMA s CREATE TABLE e (id int PRIMARY KEY)",
        "DO $$ BEGIN EXECUTE (SELECT format('ALTER PUBLICATION %I DROP TABLE t', pubname)"
        " FROM pg_publication_tables WHERE tablename = 't' AND pubname <> 'pgkeep_rows'); END $$",
    )
    assert published(captured_server.url) >= {"a", "b", "p1", "q1", "s.e", "t"}
    captured_server.assert_in_step()


@dataclass(slots=True)
class CapturedServer:
    """A database in which capture is set up, made anew from a template."""

    server: ScratchServer
    template: str
    name: str = ""

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    def anew(self) -> None:
        self.drop()
        self.name = f"app_{time.monotonic_ns()}"
        self.server.create_database(self.name, template=self.template)

    def drop(self) -> None:
        if self.name:
            self.server.drop_database(self.name)

    def assert_in_step(self) -> None:
        with psycopg.connect(self.url) as connection:
            assert connection.execute("SELECT pgkeep.keep_in_step()").fetchone() == ([],)


@pytest.fixture(scope="module", params=WHEELS)
def captured_server(
    request: pytest.FixtureRequest, servers: Callable[[int], ScratchServer]
) -> Iterator[CapturedServer]:
    server = servers(request.param)
    name = f"template_{time.monotonic_ns()}"
    server.create_database(name)
    address = Address.parse(server.url(name))
    with closing(connect(address)) as connection:
        slot = Slot(connection, "none", setup.PUBLICATIONS)
        setup.make_ready(connection, setup.look(connection, slot))
        connection.execute(
            "CREATE TABLE public.t (id int PRIMARY KEY, v text); INSERT INTO public.t VALUES (1)"
        )
    one = CapturedServer(server, name)
    yield one
    one.drop()
    server.drop_database(name)


def test_concurrent_migrations_neither_wait_for_each_other_nor_deadlock(
    captured_server: CapturedServer,
) -> None:
    captured_server.anew()
    url = captured_server.url
    with ExitStack() as stack:
        sessions = [stack.enter_context(psycopg.connect(url)) for _ in range(8)]
        for number, session in enumerate(sessions):
            session.execute("SET lock_timeout = '5s'")
            begun = time.monotonic()
            session.execute(f"CREATE TABLE m{number} (id int PRIMARY KEY)".encode())
            assert time.monotonic() - begun < 5
        with psycopg.connect(url) as late:  # finds no publication that is free, and says so
            late.execute("CREATE TABLE late (id int PRIMARY KEY)")
            late.execute("INSERT INTO late VALUES (1); UPDATE late SET id = 2")
        for session in sessions:
            session.commit()
    assert published(url) == {"t", *(f"m{number}" for number in range(8))}
    run_sql(url, "SELECT pgkeep.keep_in_step()")
    assert "late" in published(url)


def test_a_table_that_cannot_leave_its_publication_can_be_updated_all_the_same(
    captured_server: CapturedServer,
) -> None:
    """Open migrations hold every publication, and a table loses its key: the last resort."""
    captured_server.anew()
    with ExitStack() as stack:
        for number in range(8):
            other = stack.enter_context(closing(psycopg.connect(captured_server.url)))
            other.execute(f"CREATE TABLE migration_{number} (id int PRIMARY KEY)".encode())
        run_sql(
            captured_server.url,
            "ALTER TABLE t DROP CONSTRAINT t_pkey; UPDATE t SET v = 'x'; DELETE FROM t",
        )
    with psycopg.connect(captured_server.url) as connection:
        row = connection.execute("SELECT relreplident FROM pg_class WHERE relname = 't'").fetchone()
    assert row == ("f",)


def test_a_role_with_few_rights_and_a_hostile_path_changes_the_schema(
    captured_server: CapturedServer,
) -> None:
    captured_server.anew()
    role = f"few_{time.monotonic_ns()}"
    run_sql(
        captured_server.url,
        f"CREATE ROLE {role}; CREATE SCHEMA evil AUTHORIZATION {role}; GRANT ALL ON SCHEMA public"
        f" TO {role}",
    )
    with psycopg.connect(captured_server.url) as session:
        session.execute(f"SET ROLE {role}".encode())
        session.execute(
            "CREATE FUNCTION evil.hit() RETURNS boolean LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE 'hijacked'; END $$;"
            "CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS"
            " 'SELECT evil.hit()::text';"
            "CREATE FUNCTION evil.current_query() RETURNS text LANGUAGE sql AS"
            " 'SELECT evil.hit()::text';"
            "CREATE FUNCTION evil.eq(name, name) RETURNS boolean LANGUAGE sql AS"
            " 'SELECT evil.hit()';"
            "CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = name, RIGHTARG = name);"
            "CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS"
            " 'SELECT evil.hit()';"
            "CREATE OPERATOR evil.= (FUNCTION = evil.eq, LEFTARG = text, RIGHTARG = text);"
            "CREATE DOMAIN evil.text AS int; CREATE DOMAIN evil.oid AS int;"
            "SET search_path = evil, public, pg_catalog"
        )
        session.execute("CREATE TABLE public.mine (id int4 PRIMARY KEY); DROP TABLE public.mine;"
                        "CREATE TABLE public.mine (id int4 PRIMARY KEY)")  # fmt: skip
    assert "mine" in published(captured_server.url)
    with psycopg.connect(captured_server.url, autocommit=True) as session:
        session.execute(f"SET ROLE {role}".encode())
        for call in (
            "pgkeep.publish('public.t'::regclass, NULL, true)",
            "pgkeep.publish('public.t'::regclass, 'pgkeep_changes_1', false)",
            "pgkeep.emit('ddl_command_end', '', 'postgres', '', '[]')",
            "pgkeep.record('ddl_command_end', '', 'postgres', '')",
            "pgkeep.step_aside() /* unlogged t */",
        ):
            with pytest.raises(psycopg.Error):
                session.execute(f"SELECT {call}".encode())
    assert "t" in published(captured_server.url)
    run_sql(captured_server.url, f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize(
    "harm",
    [
        "DROP PUBLICATION pgkeep_rows",
        "DROP PUBLICATION pgkeep_changes_1",
        "DROP FUNCTION pgkeep.record",
        "DROP FUNCTION pgkeep.keep_in_step",
        "REVOKE ALL ON SCHEMA pgkeep FROM PUBLIC",
        "DROP SCHEMA pgkeep CASCADE",
    ],
)
def test_what_is_broken_by_hand_never_ends_a_statement(
    harm: str, captured_server: CapturedServer
) -> None:
    captured_server.anew()
    run_sql(
        captured_server.url,
        harm,
        "CREATE TABLE a (id int PRIMARY KEY)",
        "INSERT INTO a VALUES (1)",
        "UPDATE a SET id = 2",
        "CREATE INDEX CONCURRENTLY i ON a (id)",
        "CREATE EXTENSION IF NOT EXISTS pg_trgm",
        "ALTER TABLE a ADD v text",
        "DROP TABLE a",
    )
