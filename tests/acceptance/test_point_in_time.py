"""Back to any moment: what a transaction said of all tables when it committed is what is restored.

For a long run: PGKEEP_TEST_TRANSACTIONS=5000 pytest tests/acceptance/test_point_in_time.py
A test that fails prints its seed, which PGKEEP_TEST_SEED sets.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from comparison import assert_same, databases, load_statements, take_picture, value
from conftest import Outcome, Workbench
from journals import TestJournal, captured
from pgkeep.capture.segments import pack
from pgkeep.cli.context import Context
from pgkeep.errors import StoreUnavailable
from pgkeep.events import Silent
from pgkeep.model import Lsn
from pgkeep.postgres.address import Address
from pgkeep.postgres.server import ScratchServer
from pgkeep.recovery.journey import choose_journey
from pgkeep.recovery.moment import AtTransaction
from pgkeep.recovery.onward import Onward, quiet_session
from pgkeep.recovery.refusing import RefusingChecks
from pgkeep.recovery.replay import Replayer, replay
from pgkeep.repository import journal_upkeep
from pgkeep.repository.journal_copies import JournalCopies
from pgkeep.repository.repository import open_contents
from workload import Commit, Workload, picture, table_digest

TRANSACTIONS = int(os.environ.get("PGKEEP_TEST_TRANSACTIONS", "300"))
SEED = int(os.environ.get("PGKEEP_TEST_SEED", "0")) or secrets.randbits(32)


@dataclass
class History:
    """A database with a past: backups, a journal, and what each transaction has said."""

    server: ScratchServer
    workbench: Workbench
    source: str
    target: str
    journal: TestJournal
    workload: Workload
    backups: list[tuple[str, int]]
    """Each with how many transactions it was taken after."""

    def back_up(self) -> None:
        done = self.workbench.pgkeep("backup", "shop", "--json").document
        assert isinstance(done, dict)
        self.backups.append((done["backup"], len(self.workload.commits)))


@pytest.fixture
def history(
    workbench: Workbench,
    servers: Callable[[int], ScratchServer],
    major: int,
    seed: int,
    *,
    few_rights: bool,
) -> Iterator[History]:
    server = servers(major)
    with databases(server, "pitr_source", "pitr_target", "pitr_alone") as (source, target, _):
        workbench.init(source)
        workload = Workload(source, random.Random(seed))
        with closing(workload):
            workload.prepare()
            capturing = as_few(server, source) if few_rights else source
            with captured(workbench, source, "pitr", capturing=capturing) as journal:
                yield History(server, workbench, source, target, journal, workload, [])


def as_few(server: ScratchServer, url: str) -> str:
    """The database for a role that may read everything, and nothing else but use slots."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        if not connection.execute("SELECT FROM pg_roles WHERE rolname = 'few'").fetchall():
            connection.execute("CREATE ROLE few LOGIN REPLICATION PASSWORD 'few'")
            connection.execute("GRANT pg_read_all_data TO few")
    return url.replace(f"postgres:{server.password}@", "few:few@")


def assert_as_it_was(url: str, commit: Commit, *, sequences: bool = True) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            b"SELECT n, digest, counter FROM public.moments ORDER BY n DESC LIMIT 1"
        ).fetchone()
        assert row is not None
        assert row[0] == commit.n
        assert picture(connection).splitlines() == row[1].splitlines()
        if not sequences:  # they are set at the end of a replay
            return
        found = connection.execute(b"SELECT last_value FROM public.counter").fetchone()
        assert found is not None
        assert found[0] >= row[2]


def restore(history: History, *options: str, expect: int = 3) -> dict[str, Any]:
    """Through the command line, into an emptied target."""
    history.server.drop_database("pitr_target")
    history.server.create_database("pitr_target")
    out = history.workbench.pgkeep(
        "restore", "shop", "--json", "--target", history.target, *options, expect=expect
    )
    document = json.loads(out.out)
    assert isinstance(document, dict)
    return document


class Stepping(Replayer):
    """Looks at the target after some of the transactions, as if each were the moment."""

    def look(self, history: History, chosen: set[int]) -> Stepping:
        self.target = history.target
        self.by_xid = {commit.xid: commit for commit in history.workload.commits}
        self.chosen = chosen
        self.looked = 0
        return self

    def end_transaction(self, xid: int) -> None:
        super().end_transaction(xid)
        commit = self.by_xid.get(xid)
        if commit is not None and commit.n in self.chosen:
            self.settle()
            assert_as_it_was(self.target, commit, sequences=False)
            self.looked += 1


def replay_looking(history: History, backup: str, chosen: set[int]) -> int:
    """Restore a backup, replay all that came since, and look at the chosen moments on the way."""
    document = restore(history, "--backup", backup, expect=0)
    assert document["proven"]
    context = Context(history.workbench.config, as_json=True, quiet=True)
    (found,) = context.find_all(
        "shop", lambda listing: [one for one in listing.backups if one.backup == backup]
    )
    last = history.workload.commits[-1]
    way = choose_journey(
        [found],
        lambda one: open_contents(one.source, one.manifest, [context.epoch_identity(one)]),
        context.journal_reader("shop"),
        AtTransaction(last.xid),
    )
    address = Address.parse(history.target)
    with quiet_session(address) as connection:
        onward = Onward(connection, way.contents, Silent(), owners=True, refusing=RefusingChecks())
        replayer = Stepping(onward.writer, onward.describe, onward.run_change, Silent())
        replayer.look(history, chosen)
        with onward.triggers_off():
            done = replay(way.journey, replayer)
        onward.set_sequences(done.sequences)
    assert_as_it_was(history.target, last)
    return replayer.looked


@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", [SEED])
@pytest.mark.parametrize(
    ("major", "transactions", "few_rights"),
    [
        (17, TRANSACTIONS, False),
        (18, TRANSACTIONS // 2, False),
        (17, TRANSACTIONS // 2, True),
        (18, TRANSACTIONS // 2, True),
    ],
)
def test_every_moment_comes_back_as_it_was(history: History, transactions: int, seed: int) -> None:
    """Several backups, some with transactions open; from each to many moments, at random."""
    sys.stderr.write(f"PGKEEP_TEST_SEED={seed}\n")
    choose = random.Random(seed)
    workload, journal = history.workload, history.journal
    for _ in range(3):
        if choose.random() < 0.7:
            workload.open_side()
            workload.run(4, closing=False)  # so that the one that is open is older than others
        history.back_up()
        for _ in range(5):
            workload.run(transactions // 15)
            if choose.random() < 0.8:
                journal.cut()
    workload.close_side()
    journal.cut()
    commits = workload.commits
    looked = 0
    for backup, n in history.backups:
        rest = range(n + 1, len(commits) + 1)
        looked += replay_looking(history, backup, set(choose.sample(rest, len(rest) // 2)))
    assert looked > transactions // 2
    for _ in range(5):
        commit = choose.choice(commits[history.backups[0][1] + 1 :])
        how = choose.choice(("time", "lsn", "xid", "before"))
        if how == "before":
            following = commits[commit.n] if commit.n < len(commits) else None
            options = (
                ["--before-transaction", str(following.xid)] if following else ["--to", commit.lsn]
            )
        else:
            moment = {"time": commit.after.isoformat(), "lsn": commit.lsn, "xid": str(commit.xid)}
            options = ["--to", moment[how]]
        document = restore(history, *options)
        assert document["proven"]
        assert_as_it_was(history.target, commit)


# --- some tables ----------------------------------------------------------------------------------

SINGLE = (
    "public.plain", "public.whole", 'public."Größe ""x"" %s"', "public.by_index", "public.numbered",
    "public.renumbered", "public.hens", "public.audited", "public.deferred", "public.floats",
    "public.kinds", "public.only_key",
)  # fmt: skip


@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", [SEED])
@pytest.mark.parametrize(("major", "few_rights"), [(17, False), (18, True)])
def test_a_table_comes_back_as_it_was_at_any_moment(history: History, seed: int) -> None:
    """Alone into an empty database, and beside what is there under another schema."""
    sys.stderr.write(f"PGKEEP_TEST_SEED={seed}\n")
    choose = random.Random(seed)
    history.back_up()
    history.workload.run(80)
    history.workload.close_side()
    history.journal.cut()
    said = digests(history)
    restore(history, expect=0)
    _, before = history.backups[0]
    for number in range(8):
        commit = choose.choice(history.workload.commits[before:])
        table = choose.choice((*SINGLE, "public.days", "public.moods"))
        options = ["--table", table, "--to", str(commit.xid)]
        if table in SINGLE and choose.random() < 0.6:
            schema = f"recovered_{number}"
            arguments = [*options, "--into-schema", schema, "--target", history.target]
            done = history.workbench.pgkeep("restore", "shop", *arguments, expect=None)
            table_there = table.replace("public.", f"{schema}.")
            assert done.code in (0, 3), done
            assert digest_of(history.target, table_there) == said[commit.n][table], commit
        else:
            done_there = restore_alone(history, *options)
            assert done_there["proven"]
            alone = history.target.replace("pitr_target", "pitr_alone")
            assert digest_of(alone, table) == said[commit.n][table], commit


def restore_alone(history: History, *options: str) -> dict[str, Any]:
    history.server.drop_database("pitr_alone")
    history.server.create_database("pitr_alone")
    alone = history.target.replace("pitr_target", "pitr_alone")
    out = history.workbench.pgkeep(
        "restore", "shop", "--json", "--target", alone, *options, expect=None
    )
    assert out.code in (0, 3), out
    document = json.loads(out.out)
    assert isinstance(document, dict)
    return document


def digests(history: History) -> dict[int, dict[str, str]]:
    """What each transaction has said of each table."""
    with psycopg.connect(history.source) as connection:
        rows = connection.execute("SELECT n, digest FROM public.moments").fetchall()
    return {n: dict(line.rsplit(" ", 1) for line in text.splitlines()) for n, text in rows}


def digest_of(url: str, table: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        return table_digest(connection, table)


# --- schema changes -----------------------------------------------------------------------------

SHOP = (
    "CREATE TABLE items (id integer PRIMARY KEY, name text, price numeric)",
    "CREATE TABLE notes (what text)",
    "INSERT INTO items SELECT n, 'item ' || n, n FROM generate_series(1, 100) n",
    "CREATE TYPE size AS ENUM ('s', 'm')",
)

# Each is one transaction; rows come between, so that order counts.
PLAIN_CHANGES = (
    "ALTER TABLE items ADD COLUMN stock integer DEFAULT 7 NOT NULL",
    "UPDATE items SET stock = id WHERE id % 2 = 0",
    "ALTER TABLE items RENAME COLUMN name TO title",
    "INSERT INTO items VALUES (101, 'new', 1, 1)",
    "UPDATE items SET title = upper(title), id = id + 1000 WHERE id > 90",
    "ALTER TABLE items DROP COLUMN price",
    "INSERT INTO items VALUES (102, 'newer', 2)",
    "CREATE TABLE orders (id bigserial PRIMARY KEY, item integer REFERENCES items, d date)",
    "INSERT INTO orders (item, d) VALUES (102, '2024-01-01')",
    "CREATE INDEX CONCURRENTLY orders_d ON orders (d)",
    "CREATE SCHEMA archive",
    "CREATE TABLE archive.old (id integer PRIMARY KEY, day date) PARTITION BY RANGE (id)",
    "CREATE TABLE archive.old_1 PARTITION OF archive.old FOR VALUES FROM (0) TO (100)",
    "INSERT INTO archive.old SELECT n, '2020-01-01' FROM generate_series(1, 20) n",
    "ALTER TYPE size ADD VALUE 'l'",
    "ALTER TABLE orders ADD COLUMN size size DEFAULT 'l'",
    "COMMENT ON TABLE orders IS 'it''s; $$ new'",
    "GRANT SELECT ON orders TO PUBLIC",
    "CREATE VIEW dear AS SELECT * FROM items WHERE stock > 50",
    "CREATE FUNCTION twice(a integer) RETURNS integer LANGUAGE sql AS $f$ SELECT a * 2; $f$",
    "ALTER TABLE items RENAME TO goods",
    "DELETE FROM goods WHERE id < 50 AND id % 2 = 1",
    "UPDATE goods SET stock = stock + 1",
    "DROP TABLE notes",
    "CREATE TEMPORARY TABLE passing AS SELECT 1",
    "CREATE TABLE notes (id integer PRIMARY KEY)",
    "INSERT INTO notes VALUES (1)",
)


@pytest.fixture
def shop(workbench: Workbench, server: ScratchServer) -> Iterator[Shop]:
    with databases(server, "pitr_source", "pitr_target") as (source, target):
        workbench.init(source)
        load_statements(source, SHOP)
        with captured(workbench, source, "pitr") as journal:
            yield Shop(server, workbench, source, target, journal)


@dataclass
class Shop:
    """A small database whose schema changes."""

    server: ScratchServer
    workbench: Workbench
    source: str
    target: str
    journal: TestJournal

    def run(self, *statements: str) -> None:
        for statement in statements:
            load_statements(self.source, (statement,))

    def restore(self, *options: str, expect: int = 0) -> Outcome:
        return self.workbench.pgkeep(
            "restore", "shop", "--target", self.target, *options, expect=expect
        )


def test_show_and_status_say_which_moments_can_be_reached(shop: Shop) -> None:
    pgkeep = shop.workbench.pgkeep
    pgkeep("backup", "shop")
    time.sleep(1)  # windows are told to the second
    shop.run("UPDATE items SET price = 2")
    shop.journal.cut()
    shown: Any = pgkeep("show", "shop", "--json").document
    (status,) = json.loads(pgkeep("status", "--json", "--offline", expect=None).out)
    for key in ("windows", "gaps", "moments", "covered"):
        assert shown[key] == status[key]
    assert len(shown["windows"]) == 1
    assert 0 <= shown["loss_window_seconds"] < 60
    printed = pgkeep("show", "shop").out
    assert "every second 20" in printed
    assert "loss window" in printed


def test_plain_schema_changes_are_replayed_between_the_rows(shop: Shop) -> None:
    shop.workbench.pgkeep("backup", "shop")
    shop.run(*PLAIN_CHANGES)
    shop.journal.cut()
    shop.restore("--to-last-reachable")
    without = ("--no-publications",)
    assert_same(
        take_picture(shop.source, dump_options=without),
        take_picture(shop.target, dump_options=without),
    )


MIGRATION = """
    BEGIN;
    -- as many tools send a file: all at once
    CREATE TYPE colour AS ENUM ('red', 'green');
    CREATE TABLE paints (id serial PRIMARY KEY, colour colour DEFAULT 'red', item integer);
    ALTER TABLE items ADD COLUMN colour colour DEFAULT 'green', DROP COLUMN price;
    ALTER TABLE paints ADD FOREIGN KEY (item) REFERENCES items;
    CREATE INDEX ON paints (colour);
    DROP TABLE notes;
    CREATE FUNCTION same(a integer) RETURNS integer LANGUAGE sql AS 'SELECT a; ';
    CREATE VIEW green AS SELECT * FROM items WHERE colour = 'green';
    ALTER TABLE paints ENABLE ROW LEVEL SECURITY;
    CREATE POLICY all_of_them ON paints USING (true);
    COMMENT ON TABLE paints IS 'new; and wet';
    COMMIT;
"""


@pytest.mark.parametrize(
    "text", [MIGRATION, MIGRATION.replace("BEGIN;", "").replace("COMMIT;", "")]
)
def test_a_migration_that_was_sent_as_one_text_is_done_again(shop: Shop, text: str) -> None:
    shop.workbench.pgkeep("backup", "shop")
    shop.run("UPDATE items SET price = price + 1", text,
             "INSERT INTO paints (item) SELECT id FROM items", "DELETE FROM paints WHERE id < 5",
             text.replace("paints", "more").replace("colour", "tone").replace("green", "grey")
             .replace("DROP COLUMN price", "DROP COLUMN colour CASCADE").replace("same", "other")
             .replace("DROP TABLE notes", "DROP TABLE paints"))  # fmt: skip
    shop.journal.cut()
    shop.restore("--to-last-reachable")
    without = ("--no-publications",)
    assert_same(
        take_picture(shop.source, dump_options=without),
        take_picture(shop.target, dump_options=without),
    )


@pytest.mark.parametrize(
    ("before", "text"),
    [
        # The temporary table hides the one that is restored.
        ("CREATE TEMPORARY TABLE notes (id integer)", "DROP TABLE notes; CREATE TABLE x (y text)"),
        ("CREATE TEMPORARY TABLE notes (id integer)", "CREATE TABLE x (y text); DROP TABLE notes"),
        # It names the database, which is called otherwise where it is restored.
        ("SELECT", "GRANT CONNECT ON DATABASE pitr_source TO PUBLIC; CREATE TABLE x (y text)"),
        # What somebody's own event trigger did is not in the text.
        ("SELECT", "CREATE TABLE x (y text); CREATE TABLE z (y text); ALTER TABLE x ADD n text"),
    ],
)
def test_a_text_that_did_not_do_just_what_it_says_stops_the_replay(
    shop: Shop, before: str, text: str
) -> None:
    shop.run(
        "CREATE FUNCTION secure() RETURNS event_trigger LANGUAGE plpgsql AS $$"
        " DECLARE made text; BEGIN FOR made IN SELECT object_identity"
        " FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'public.x' LOOP"
        " EXECUTE 'ALTER TABLE ' || made || ' ENABLE ROW LEVEL SECURITY'; END LOOP; END $$",
        "CREATE EVENT TRIGGER secure ON ddl_command_end WHEN TAG IN ('CREATE TABLE')"
        " EXECUTE FUNCTION secure()",
    )
    shop.workbench.pgkeep("backup", "shop")
    rows = take_picture(shop.source).rows
    with psycopg.connect(shop.source, autocommit=True) as connection:
        connection.execute(before.encode())
        connection.execute(text.encode())
    shop.journal.cut()
    assert "a schema change (" in shop.restore("--to-last-reachable", expect=3).out
    assert take_picture(shop.target).rows == rows


def test_a_function_may_name_what_is_made_after_it(shop: Shop) -> None:
    """As in a file of pg_dump."""
    shop.workbench.pgkeep("backup", "shop")
    with psycopg.connect(shop.source, autocommit=True) as connection:
        connection.execute("SET check_function_bodies = off")
        connection.execute(
            "CREATE FUNCTION sum_of_it() RETURNS bigint LANGUAGE sql AS 'SELECT sum(n) FROM later'"
        )
        connection.execute("CREATE TABLE later (n integer PRIMARY KEY)")
    shop.run("INSERT INTO later VALUES (7)")
    shop.journal.cut()
    shop.restore("--to-last-reachable", expect=3)
    assert value(shop.target, "SELECT public.sum_of_it()") == 7


OF_OTHERS = (
    "CREATE TABLE copied AS SELECT * FROM notes",
    "ALTER TABLE copied RENAME TO other",
    "ALTER TABLE notes ADD COLUMN seen timestamptz DEFAULT now()",
    "DO $$ BEGIN CREATE TABLE made AS SELECT 1 AS one; END $$",
    "CREATE TABLE one (id integer); CREATE TABLE two (id integer)",
    "DROP TABLE one, two",
    "CREATE VIEW v AS SELECT 1; DROP VIEW v",
    "CREATE SEQUENCE s; ALTER SEQUENCE s OWNED BY other.what",
    "CREATE TYPE fresh AS (a int)",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION f()",
)


def test_schema_changes_of_others_do_not_stop_the_replay_of_a_table(shop: Shop) -> None:
    shop.workbench.pgkeep("backup", "shop")
    for number, statement in enumerate(OF_OTHERS):
        shop.run(f"UPDATE items SET price = price + {number}, name = name || 'x'", statement)
    shop.journal.cut()
    wanted = take_picture(shop.source).rows["public.items"]
    shop.restore("--to-last-reachable", "--table", "public.items")
    assert take_picture(shop.target).rows == {"public.items": wanted}
    shop.restore("--to-last-reachable", "--table", "public.items", "--into-schema", "recovered",
                 "--where", "id % 10 = 0")  # fmt: skip
    ids = value(shop.target, "SELECT array_agg(id ORDER BY id) FROM recovered.items")
    assert ids == list(range(10, 101, 10))
    shop.workbench.pgkeep("diff", "--target", shop.target)  # rows left out are none that differ
    assert value(shop.target, "SELECT sum(price) FROM recovered.items") == (
        value(shop.source, "SELECT sum(price) FROM items WHERE id % 10 = 0")
    )


def test_a_table_beside_the_live_ones_leaves_those_and_their_sequences_alone(shop: Shop) -> None:
    """What somebody deleted a while ago, next to what there is now, in the live database."""
    shop.run("CREATE SEQUENCE counter", "CREATE TABLE log (n integer PRIMARY KEY)",
             "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS"
             " 'BEGIN INSERT INTO log SELECT count(*) + 1 FROM log; RETURN NULL; END'",
             "CREATE TRIGGER noted AFTER INSERT ON notes EXECUTE FUNCTION noted()",
             "ALTER TABLE notes ENABLE ALWAYS TRIGGER noted",
             "SELECT nextval('counter') FROM generate_series(1, 7)")  # fmt: skip
    shop.workbench.pgkeep("backup", "shop")
    shop.run("INSERT INTO items VALUES (500, 'new', 1)")
    shop.journal.cut()
    then = shop.journal.end_lsn
    shop.run("DELETE FROM items WHERE id > 50", "SELECT nextval('counter')")
    shop.journal.cut()
    before = take_picture(shop.source)
    shop.workbench.pgkeep("restore", "shop", "--target", shop.source, "--to", str(then),
                          "--table", "public.items", "--into-schema", "recovered")  # fmt: skip
    after = take_picture(shop.source)
    assert len(after.rows.pop("recovered.items")) == 101
    assert after.rows == before.rows
    assert after.sequences == before.sequences
    assert value(shop.source, "SELECT tgenabled FROM pg_trigger WHERE tgname = 'noted'") == "A"
    missing = shop.workbench.pgkeep("diff", "--target", shop.source, "--table", "public.items",
                                    expect=3)  # fmt: skip
    assert "51" in missing.out


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE items RENAME TO things",
        "ALTER TABLE items ALTER COLUMN price TYPE float8",
        "ALTER TYPE size ADD VALUE 'l'",
        "DO $$ BEGIN EXECUTE 'ALTER TABLE it' || 'ems RENAME TO things'; END $$",
        "DROP TABLE items",
    ],
)
def test_a_schema_change_of_the_table_stops_its_replay(shop: Shop, change: str) -> None:
    shop.workbench.pgkeep("backup", "shop")
    shop.run("UPDATE items SET name = 'before'")
    before = take_picture(shop.source).rows["public.items"]
    shop.run(change)
    shop.journal.cut()
    for more in ((), ("--into-schema", "recovered")):
        stopped = shop.restore(
            "--to", str(shop.journal.end_lsn), "--table", "public.items", *more, expect=1
        )
        assert "[E073] a schema change (" in stopped.err
    shop.restore("--to-last-reachable", "--table", "public.items")
    assert take_picture(shop.target).rows["public.items"] == before


PARTED = (
    "CREATE SCHEMA parts",
    "CREATE TABLE parted (id integer PRIMARY KEY) PARTITION BY RANGE (id)",
    "CREATE TABLE parts.low PARTITION OF parted FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE middle PARTITION OF parted FOR VALUES FROM (10) TO (90) PARTITION BY RANGE (id)",
    "CREATE TABLE parts.fair PARTITION OF middle FOR VALUES FROM (10) TO (50)",
    "INSERT INTO parted SELECT generate_series(1, 30)",
    "CREATE FUNCTION double(integer) RETURNS integer IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2'",
    "ALTER TABLE items ADD twice integer GENERATED ALWAYS AS (double(id)) STORED",
    "CREATE TYPE parts.kind AS ENUM ('a')",
    "ALTER TABLE items ADD kind parts.kind DEFAULT 'a'",
    "CREATE FUNCTION grow() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE"
    " 'CREATE TABLE parts.last PARTI' || 'TION OF parted FOR VALUES FROM (90) TO (99)'; END $$",
)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("public.parted", "DROP TABLE parts.low"),
        ("public.parted", "DROP SCHEMA parts CASCADE"),
        (
            "public.parted",
            "CREATE TABLE parts.dear PARTITION OF middle FOR VALUES FROM (50) TO (90)",
        ),
        ("public.parted", "SELECT grow()"),
        ("public.parted", "ALTER TABLE parts.low ADD CHECK (id < 10)"),
        ("public.items", "DROP FUNCTION double CASCADE"),
        ("public.items", "DROP SCHEMA parts CASCADE"),
    ],
)
def test_what_changes_a_partition_or_a_column_from_afar_stops_the_replay_of_a_table(
    shop: Shop, table: str, change: str
) -> None:
    shop.run(*PARTED)
    shop.workbench.pgkeep("backup", "shop")
    shop.run("INSERT INTO parted VALUES (31)", "CREATE TABLE other (id integer PRIMARY KEY)",
             change)  # fmt: skip
    shop.journal.cut()
    told = shop.workbench.pgkeep(
        "restore", "shop", "--target", shop.target, "--to-last-reachable", "--table", table,
        expect=None,
    )  # fmt: skip
    assert "a schema change (" in told.out
    count = value(shop.target, f"SELECT count(*) FROM {table}")
    assert count == (100 if table == "public.items" else 31)


def test_a_table_with_a_quote_in_its_name_is_not_mixed_with_its_successor(shop: Shop) -> None:
    make = 'CREATE TABLE "a""b" (id integer PRIMARY KEY)'
    shop.run(make, 'INSERT INTO "a""b" SELECT generate_series(1, 5)')
    shop.workbench.pgkeep("backup", "shop")
    shop.run('DROP TABLE "a""b"', make, 'INSERT INTO "a""b" VALUES (100)')
    shop.journal.cut()
    end = str(shop.journal.end_lsn)
    stopped = shop.restore("--to", end, "--table", 'public."a""b"', expect=1)
    assert "[E073] a schema change (DROP TABLE" in stopped.err


def test_a_column_that_a_function_generates_is_named_where_its_table_goes_alone(
    shop: Shop,
) -> None:
    makes = "CREATE OR REPLACE FUNCTION tax(n int) RETURNS int IMMUTABLE LANGUAGE sql AS"
    shop.run(f"{makes} 'SELECT n * 2'",
             "CREATE TABLE taxed (id int PRIMARY KEY,"
             " tax int GENERATED ALWAYS AS (tax(id)) STORED)")  # fmt: skip
    shop.workbench.pgkeep("backup", "shop")
    shop.run(f"{makes} 'SELECT n * 3'", "INSERT INTO taxed VALUES (10)")
    shop.journal.cut()
    told = "column 'tax' is generated by a function, which is as in the backup"
    alone = shop.restore("--to-last-reachable", "--table", "public.taxed", expect=3)
    assert told in " ".join((alone.out + alone.err).split())
    items = shop.restore("--to-last-reachable", "--table", "public.items", "--into-schema", "x")
    assert told not in " ".join((items.out + items.err).split())


@pytest.mark.parametrize(
    "changes",
    [
        ("ALTER TABLE items RENAME TO things", "UPDATE things SET name = 'x'"),
        ("DROP TABLE items", "CREATE TABLE items (id integer PRIMARY KEY, name text, price"
         " numeric)", "INSERT INTO items VALUES (1, 'other', 1)"),
    ],
)  # fmt: skip
def test_a_name_that_means_another_table_stops_its_replay(
    shop: Shop, changes: tuple[str, ...]
) -> None:
    """Also where nothing told of the change."""
    for name in ("pgkeep_command", "pgkeep_drop"):
        load_statements(shop.source, (f"ALTER EVENT TRIGGER {name} DISABLE",))
    shop.workbench.pgkeep("backup", "shop")
    shop.run(*changes)
    shop.journal.cut()
    for more in ((), ("--into-schema", "recovered")):
        failed = shop.restore("--to-last-reachable", "--table", "public.items", *more, expect=1)
        assert "[E074] table public.items " in failed.err


def test_a_column_that_was_added_to_the_table_comes_along(shop: Shop) -> None:
    shop.workbench.pgkeep("backup", "shop")
    shop.run("ALTER TABLE items ADD COLUMN stock integer DEFAULT 7", "UPDATE items SET stock = id")
    shop.journal.cut()
    shop.restore("--to-last-reachable", "--table", "public.items")
    assert (
        take_picture(shop.target).rows["public.items"]
        == (take_picture(shop.source).rows["public.items"])
    )
    stopped = shop.restore("--to", str(shop.journal.end_lsn), "--table", "public.items",
                           "--into-schema", "recovered", expect=1)  # fmt: skip
    assert "[E073]" in stopped.err


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE items ALTER COLUMN price TYPE float8",
        "ALTER TABLE items ADD COLUMN seen timestamptz DEFAULT now()",
        "CREATE TABLE copied AS SELECT * FROM items",
        "DO $$ BEGIN ALTER TABLE items DROP COLUMN price; END $$",
        "CREATE TABLE one (id integer); INSERT INTO one VALUES (1); ALTER TABLE one ADD n text",
    ],
)
def test_other_schema_changes_stop_the_replay_before_their_transaction(
    shop: Shop, change: str
) -> None:
    shop.workbench.pgkeep("backup", "shop")
    shop.run("UPDATE items SET name = 'before'")
    before = take_picture(shop.source)
    load_statements(shop.source, (f"INSERT INTO items VALUES (1000, 'in vain', 0); {change}",))
    shop.run("DELETE FROM items")
    shop.journal.cut()
    stopped = shop.restore("--to", str(shop.journal.end_lsn), expect=1)
    assert "[E073] a schema change (" in stopped.err
    assert "that cannot be replayed lies between LSN" in stopped.err
    assert value(shop.target, "SELECT count(*) FROM pg_class WHERE relname = 'items'") == 0
    reached = shop.restore("--to", str(shop.journal.end_lsn), "--to-last-reachable", expect=3)
    assert "short of LSN" in reached.out
    assert take_picture(shop.target).rows == before.rows


def test_a_table_that_nobody_told_of_stops_the_replay(shop: Shop) -> None:
    """As where no event trigger can be."""
    load_statements(shop.source, ("ALTER EVENT TRIGGER pgkeep_command DISABLE",))
    shop.workbench.pgkeep("backup", "shop")
    shop.run("CREATE TABLE untold (id integer PRIMARY KEY)", "INSERT INTO untold VALUES (1)")
    shop.journal.cut()
    failed = shop.restore("--to-last-reachable", expect=1)
    assert "[E074] the journal has rows of table public.untold, which is not in" in failed.err
    assert "The target is incomplete" in failed.err


@pytest.mark.parametrize(
    "change", ["ALTER TABLE items ADD more text", "ALTER TABLE items ALTER price TYPE text"]
)
def test_a_column_that_nobody_told_of_stops_the_replay(shop: Shop, change: str) -> None:
    for name in ("pgkeep_command", "pgkeep_rewrite"):
        load_statements(shop.source, (f"ALTER EVENT TRIGGER {name} DISABLE",))
    shop.workbench.pgkeep("backup", "shop")
    shop.run(change, "UPDATE items SET name = 'x'")
    shop.journal.cut()
    failed = shop.restore("--to-last-reachable", expect=1)
    assert "is not the same in the journal and in the backup" in failed.err


EQUAL_KEYS = (
    "CREATE EXTENSION citext",
    "CREATE TABLE ci (k citext PRIMARY KEY, v text)",
    "CREATE TABLE nu (k numeric PRIMARY KEY, v text)",
    "CREATE TABLE fl (k float8 PRIMARY KEY, v text)",
    "INSERT INTO ci VALUES ('A', '1'), ('b', '2'), ('C', '3'), ('D', '4')",
    "INSERT INTO nu VALUES (1.0, '1'), (2, '2'), (3.00, '3'), ('NaN', '4')",
    "INSERT INTO fl VALUES ('-0', '1'), (1, '2'), ('NaN', '3')",
)
CHANGES_OF_EQUAL_KEYS = (
    "UPDATE ci SET k = 'a', v = 'x' WHERE k = 'A'",
    "UPDATE ci SET v = 'y' WHERE k = 'a'",
    "UPDATE ci SET k = lower(k::text)::citext, v = v || 'z'",
    "DELETE FROM ci WHERE k = 'B'; INSERT INTO ci VALUES ('B', 'again')",
    "UPDATE nu SET k = 1.00 WHERE k = 1",
    "UPDATE nu SET k = 2.000, v = v || 'x' WHERE k = 2",
    "DELETE FROM nu WHERE k = 3; INSERT INTO nu VALUES (3, 'again')",
    "UPDATE nu SET v = 'none' WHERE k = 'NaN'",
    "UPDATE fl SET k = '0', v = 'x' WHERE k = 0",
    "UPDATE fl SET v = v || 'n'",
)


@pytest.mark.parametrize("single", [True, False])
def test_keys_that_are_equal_and_not_the_same_are_kept_as_they_were(
    shop: Shop, *, single: bool
) -> None:
    """One by one, and many in one batch."""
    shop.run(*EQUAL_KEYS)
    shop.workbench.pgkeep("backup", "shop")
    for statement in CHANGES_OF_EQUAL_KEYS:
        shop.run(statement)
        if single:
            shop.journal.cut()
    shop.run(*(f"INSERT INTO {table} SELECT n, 'many' FROM generate_series(100, 200) n"
               for table in ("nu", "fl")))  # fmt: skip
    shop.journal.cut()
    shop.restore("--to-last-reachable", expect=3)  # notes has no key
    assert take_picture(shop.source).rows == take_picture(shop.target).rows


def test_what_is_emptied_and_filled_in_one_transaction_comes_back(shop: Shop) -> None:
    shop.run("CREATE TABLE more (id integer PRIMARY KEY, item integer REFERENCES items)")
    shop.run("INSERT INTO more SELECT n, n FROM generate_series(1, 100) n")
    shop.workbench.pgkeep("backup", "shop")
    shop.run(
        "BEGIN; DELETE FROM more WHERE id > 50; UPDATE more SET id = id + 1000;"
        " INSERT INTO more VALUES (7, 7); TRUNCATE more; INSERT INTO more VALUES (8, 8);"
        " DELETE FROM items WHERE id > 90; COMMIT",
        "BEGIN; INSERT INTO more VALUES (9, 9); SAVEPOINT a; TRUNCATE items CASCADE; ROLLBACK TO a;"
        " UPDATE more SET item = 10 WHERE id = 9; COMMIT",
        "BEGIN; TRUNCATE items RESTART IDENTITY CASCADE; INSERT INTO items VALUES (1, 'one', 1);"
        " INSERT INTO more VALUES (1, 1); DELETE FROM more; INSERT INTO more VALUES (2, 1); COMMIT",
    )
    shop.journal.cut()
    shop.restore("--to-last-reachable", expect=3)  # notes has no key
    assert take_picture(shop.source).rows == take_picture(shop.target).rows


# --- what is refused, and what is told ----------------------------------------------------------


def test_a_moment_that_cannot_be_reached_is_refused_before_anything_is_touched(shop: Shop) -> None:
    before = value(shop.source, "SELECT now()::text || ' UTC'")
    shop.workbench.pgkeep("backup", "shop")
    shop.run("UPDATE items SET price = 0")
    name = shop.journal.cut()
    later = name.covered + timedelta(hours=1)
    assert "[E001]" in shop.restore("--to", "2026-01-15 12:00", expect=2).err
    early = shop.restore("--to", str(before).replace("+00 UTC", "+00"), expect=1)
    assert "[E073] there is no full backup that leads to" in early.err
    late = shop.restore("--to", later.isoformat(), expect=1)
    assert "[E073] the journal after backup" in late.err
    assert "is the last moment that can be reached" in late.err
    lost = shop.restore("--to", "4000000", expect=1)
    assert "[E073] transaction 4000000 is not in the journal" in lost.err
    beyond = shop.restore("--to", "FF/0", expect=1)
    assert "[E073] the journal after backup" in beyond.err
    last = late.err.split("--to '")[1].split("'")[0]
    assert "replayed" in shop.restore("--to", last, expect=3).out


def test_a_gap_in_the_journal_is_never_crossed(shop: Shop) -> None:
    shop.workbench.pgkeep("backup", "shop")
    names = []
    for price in range(1, 5):
        shop.run(f"UPDATE items SET price = {price}")
        names.append(shop.journal.cut())
    shop.journal.store.delete(names[2].path)
    assert "[E073]" in shop.restore("--to", str(names[3].end), expect=1).err
    shop.restore("--to", str(names[1].end), expect=3)
    assert value(shop.target, "SELECT max(price) FROM items") == 2


def test_a_backup_without_a_journal_is_said_to_lead_nowhere(shop: Shop) -> None:
    shop.workbench.pgkeep("backup", "shop")
    name = shop.journal.cut()
    for one in shop.journal.names:
        shop.journal.store.delete(one.path)
    failed = shop.restore("--to", (name.covered + timedelta(seconds=1)).isoformat(), expect=1)
    assert "[E073] no journal leads on from backup" in failed.err
    assert "Restore it as it is" in failed.err


def test_what_is_read_of_the_objects_leaves_the_journal_its_own_share(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.workbench.pgkeep("backup", "shop")
    newest = shop.workbench.repository / shop.journal.cut().path
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    shop.workbench.pgkeep("verify", expect=1)  # the newest are always read
    monkeypatch.setattr(journal_upkeep, "_ALWAYS_READ", 0)
    shop.workbench.pgkeep("verify")
    told = shop.workbench.pgkeep("verify", "--read", "1B", expect=1)
    assert "1 object read" in told.out
    assert "is damaged" in told.out


def test_a_stretch_that_nobody_signed_hides_none_that_leads_to_the_moment(shop: Shop) -> None:
    shop.workbench.pgkeep("backup", "shop")
    shop.run("UPDATE items SET price = 7")
    last = shop.journal.cut()
    first = shop.journal.names[0]
    forged = replace(first, chain="f" * 16, digest="f" * 16)
    later = timedelta(days=1)
    for name in (
        forged,
        replace(forged, sequence=2, end=Lsn(last.end + 1000), covered=last.covered + later,
                previous="f" * 16, digest="e" * 16),
    ):  # fmt: skip
        shop.journal.store.put(name.path, b"forged")
    shop.restore("--to-last-reachable", expect=3)
    assert value(shop.target, "SELECT max(price) FROM items") == 7


@pytest.mark.parametrize("harmed", [2, 3])
@pytest.mark.parametrize("harm", [lambda data: data[:40], lambda data: data[:-1] + b"x"])
def test_what_comes_before_a_harmed_segment_can_be_reached(
    shop: Shop, harmed: int, harm: Callable[[bytes], bytes]
) -> None:
    shop.run("CREATE SEQUENCE counted")
    shop.workbench.pgkeep("backup", "shop")
    names, xids = [], []
    for price in range(1, 5):
        shop.run(f"UPDATE items SET price = {price}", "SELECT nextval('counted')")
        xids.append(value(shop.source, "SELECT max(xmin::text::int8) FROM items"))
        names.append(shop.journal.cut())
    segment = shop.workbench.repository / names[harmed].path
    segment.write_bytes(harm(segment.read_bytes()))
    failed = shop.restore("--to", str(xids[harmed]), expect=1)
    assert "--to-last-reachable restores to just before it" in failed.err
    for options, price in (
        (("--to", str(xids[harmed - 1])), harmed),
        (("--before-transaction", str(xids[harmed - 1])), harmed - 1),
        (("--to-last-reachable",), harmed),
        (("--to", str(xids[harmed]), "--to-last-reachable"), harmed),
    ):
        shop.server.drop_database("pitr_target")
        shop.server.create_database("pitr_target")
        out = shop.restore(*options, expect=3).out
        assert (names[harmed].path in out) == ("--to-last-reachable" in options)
        assert value(shop.target, "SELECT max(price) FROM items") == price


@pytest.mark.parametrize(
    "options",
    [
        ("--schema-only",),
        ("--data-only",),
        ("--table", "items", "--data-only"),
        ("--allow-non-empty",),
        ("--go-on-after-damage",),
        ("--before-transaction", "1000"),
    ],
)
def test_rows_alone_and_what_is_there_already_do_not_go_to_a_moment(
    workbench: Workbench, options: tuple[str, ...]
) -> None:
    workbench.init("postgresql://nobody@127.0.0.1:1/none")
    given = ("--target", "postgresql://nobody@127.0.0.1:1/none", "--to", "1000")
    refused = workbench.pgkeep("restore", "shop", *given, *options, expect=2)
    assert "[E001]" in refused.err


def test_a_role_that_cannot_keep_triggers_quiet_is_refused(shop: Shop) -> None:
    shop.workbench.pgkeep("backup", "shop")
    shop.journal.cut()
    load_statements(
        shop.server.url(),
        (
            "DROP ROLE IF EXISTS pitr_weak",
            "CREATE ROLE pitr_weak LOGIN PASSWORD 'x'",
            "ALTER DATABASE pitr_target OWNER TO pitr_weak",
        ),
    )
    weak = shop.target.replace(f"postgres:{shop.server.password}@", "pitr_weak:x@")
    refused = shop.workbench.pgkeep(
        "restore", "shop", "--target", weak, "--to-last-reachable", expect=1
    )
    assert "[E040] the role may not set session_replication_role" in refused.err
    assert value(shop.target, "SELECT count(*) FROM pg_class WHERE relname = 'items'") == 0
    assert value(shop.target, "SELECT shobj_description(oid, 'pg_database') IS NULL"
                              " FROM pg_database WHERE datname = 'pitr_target'")  # fmt: skip


def test_the_plan_of_a_replay_is_shown(shop: Shop) -> None:
    shop.workbench.pgkeep("backup", "shop")
    shop.run("UPDATE items SET price = 0", "ALTER TABLE items ADD more text")
    shop.journal.cut()
    shown = shop.restore("--to-last-reachable", "--dry-run").out
    assert "6. replay 100 changes of" in shown
    assert "up to the end of the journal" in shown
    assert "from 3 segments of the journal (" in shown
    assert "with 1 schema changes" in shown
    assert value(shop.target, "SELECT count(*) FROM pg_class WHERE relname = 'items'") == 0


def test_a_segment_that_is_damaged_in_one_repository_comes_from_another(
    shop: Shop, tmp_path: Path
) -> None:
    shop.workbench.pgkeep("backup", "shop")
    shop.run("UPDATE items SET price = 0")
    name = shop.journal.cut()
    second = tmp_path / "second"
    shutil.copytree(shop.workbench.repository, second)
    damaged = shop.workbench.repository / name.path
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    failed = shop.restore("--to", str(name.end), expect=1)
    assert "[E053]" in failed.err
    both = [shop.workbench.repository.as_uri(), second.as_uri()]
    options = [word for url in both for word in ("--repository", url)]
    shop.restore("--to-last-reachable", *options, expect=3)
    assert value(shop.target, "SELECT max(price) FROM items") == 0


def test_large_batches_are_written_as_they_come(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One transaction that is larger than a batch may be: nobody waits for its end."""
    monkeypatch.setattr("pgkeep.recovery.replay.BATCH_CHANGES", 100)
    shop.workbench.pgkeep("backup", "shop")
    shop.run(
        "INSERT INTO items SELECT n, n, n FROM generate_series(101, 2000) n",
        "DO $$ BEGIN UPDATE items SET price = price + 1; DELETE FROM items WHERE id % 3 = 0;"
        " UPDATE items SET id = id + 100000 WHERE id % 5 = 0; UPDATE items SET name = 'x'; END $$",
    )
    shop.journal.cut()
    shop.restore("--to-last-reachable", expect=3)
    assert take_picture(shop.source).rows == take_picture(shop.target).rows


def test_schema_changes_that_nobody_made_are_not_replayed(shop: Shop) -> None:
    """Any role may write logical messages: ours are known by what only capture can read."""
    shop.workbench.pgkeep("backup", "shop")
    forged = json.dumps(
        {"version": 1, "event": "ddl_command_end", "tag": "CREATE TABLE", "role": "postgres",
         "query": "CREATE TABLE forged (a int)", "search_path": "public", "objects": []}
    )  # fmt: skip
    with psycopg.connect(shop.source, autocommit=True) as connection:
        connection.execute("CREATE ROLE pitr_forger")
        connection.execute("SET ROLE pitr_forger")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM pgkeep.token")
        connection.execute("SELECT pg_logical_emit_message(true, 'pgkeep.ddl', %s)", (forged,))
        connection.execute("SELECT pg_logical_emit_message(true, 'pgkeep.ddl.', %s)", (forged,))
        connection.execute("RESET ROLE")
        connection.execute("DROP ROLE pitr_forger")
    shop.run("DELETE FROM items WHERE id > 10")
    shop.journal.cut()
    shop.restore("--to-last-reachable", expect=3)
    assert value(shop.target, "SELECT count(*) FROM items") == 10
    assert value(shop.target, "SELECT count(*) FROM pg_class WHERE relname = 'forged'") == 0


def test_any_second_of_the_window_that_status_shows_can_be_drilled(shop: Shop) -> None:
    shop.workbench.pgkeep("backup", "shop")
    for change in PLAIN_CHANGES[:6]:
        shop.run(change)
        time.sleep(0.5)
    shop.journal.cut()
    (status,) = json.loads(shop.workbench.pgkeep("status", "--offline", "--json").out)
    assert len(status["windows"]) == 1
    for _ in range(3):
        drilled = shop.workbench.pgkeep("drill", "shop", "--random-moment", "--json", expect=3)
        document = drilled.document
        assert isinstance(document, dict)
        assert document["outcome"] == "partial", "notes has no primary key"
        assert document["moment"]
        assert document["differences"] == []


@pytest.mark.parametrize(
    ("table", "before", "after"),
    [
        (
            "items",
            (),
            (
                "ALTER TABLE items DROP CONSTRAINT items_pkey",
                "UPDATE items SET price = 0",
                "ALTER TABLE items ADD PRIMARY KEY (id)",
            ),
        ),
        (
            "late",
            ("CREATE TABLE late (id integer)", "INSERT INTO late VALUES (1)"),
            (
                "UPDATE late SET id = 2",
                "ALTER TABLE late ADD PRIMARY KEY (id)",
                "ALTER TABLE late RENAME TO later",
                "ALTER TABLE later RENAME TO late",
            ),
        ),
        (
            "doubled",
            (
                "CREATE TABLE doubled (v integer, g integer GENERATED ALWAYS AS (v * 2) STORED)",
                "ALTER TABLE doubled REPLICA IDENTITY FULL",
                "INSERT INTO doubled VALUES (1)",
            ),
            ("UPDATE doubled SET v = 3",),
        ),
        (
            "derived",
            (
                "CREATE TABLE derived (v integer,"
                " g integer GENERATED ALWAYS AS (v * 2) STORED PRIMARY KEY)",
                "INSERT INTO derived VALUES (1)",
            ),
            ("DELETE FROM derived",),
        ),
    ],
)
def test_a_table_that_has_lacked_an_identity_at_any_time_is_named(
    shop: Shop, table: str, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    """Also if it has one at the moment: what was changed without is not in the journal."""
    shop.run("DROP TABLE notes", *before)
    shop.workbench.pgkeep("backup", "shop")
    shop.run(*after)
    shop.journal.cut()
    told = shop.restore("--to-last-reachable", expect=3).out
    assert f"table public.{table}: no replica identity" in told


def test_a_transaction_of_many_segments_that_was_cut_short_is_applied_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments from within it lead nowhere, and capture begins again before it."""
    shop.workbench.pgkeep("backup", "shop")
    shop.journal.cut()
    shop.run("INSERT INTO notes SELECT n::text FROM generate_series(1, 100) n")
    monkeypatch.setattr("pgkeep.capture.capture.pack", partial(pack, limit_bytes=500))
    put = JournalCopies.put
    stored: list[str] = []

    def put_some(copies: JournalCopies, path: str, *rest: Any) -> None:
        if len(stored) == 4:
            raise StoreUnavailable("killed in between")
        stored.append(path)
        put(copies, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(JournalCopies, "put", put_some)
        with pytest.raises(StoreUnavailable):
            shop.journal.cut()
    ours = "datname = current_database() AND pid <> pg_backend_pid()"
    value(
        shop.source, f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {ours}"
    )
    with captured(shop.workbench, shop.source, "pitr"):
        shop.restore("--to-last-reachable", expect=3)
    assert value(shop.target, "SELECT count(*) FROM notes") == 100


def test_a_sequence_that_is_set_back_after_the_moment_gives_no_value_twice(shop: Shop) -> None:
    shop.run(
        "CREATE TABLE lines (id serial PRIMARY KEY, up bigint)", "CREATE SEQUENCE small MAXVALUE 9"
    )
    shop.workbench.pgkeep("backup", "shop")
    shop.run("INSERT INTO lines SELECT nextval('lines_id_seq'), n FROM generate_series(1, 50) n")
    moment = value(shop.source, "SELECT pg_current_wal_insert_lsn()::text")
    shop.run(
        "TRUNCATE lines RESTART IDENTITY",
        "ALTER SEQUENCE small MAXVALUE 90",
        "SELECT setval('small', 80)",
    )
    shop.journal.cut()
    told = shop.restore("--to", str(moment), expect=3).out
    assert "sequence public.lines_id_seq: was set back" in told
    assert "sequence public.small: was given other bounds" in told
    assert value(shop.target, "SELECT max(id) FROM lines") == 50
    assert value(shop.target, "SELECT nextval('lines_id_seq')") == 51


def test_sequences_are_found_beyond_the_segment_of_the_moment(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several segments that one look at the slot gives, the last one tells of them."""
    shop.run("CREATE TABLE lines (id serial PRIMARY KEY)")
    shop.workbench.pgkeep("backup", "shop")
    shop.journal.cut()
    monkeypatch.setattr("pgkeep.capture.capture.pack", partial(pack, limit_bytes=1))
    shop.run("INSERT INTO lines DEFAULT VALUES", "INSERT INTO lines DEFAULT VALUES")
    moment = value(shop.source, "SELECT pg_current_wal_insert_lsn()::text")
    shop.run("INSERT INTO lines DEFAULT VALUES")
    shop.journal.cut()
    shop.restore("--to", str(moment), expect=3)
    assert value(shop.target, "SELECT max(id) FROM lines") == 2
    assert value(shop.target, "SELECT nextval('lines_id_seq') >= 3")


@pytest.mark.parametrize(
    ("before", "change", "state"),
    [
        ((), "ALTER TABLE items ENABLE ALWAYS TRIGGER note", "A"),
        (
            ("ALTER TABLE items ENABLE ALWAYS TRIGGER note",),
            "ALTER TABLE items DISABLE TRIGGER note",
            "D",
        ),
        (("ALTER TABLE items ENABLE ALWAYS TRIGGER note",), "DROP TRIGGER note ON items", None),
    ],
)
def test_triggers_that_are_changed_on_the_way_stay_quiet(
    shop: Shop, before: tuple[str, ...], change: str, state: str | None
) -> None:
    shop.run(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.notes VALUES (TG_OP); RETURN NEW; END $$",
        "CREATE TRIGGER note AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION note()",
        *before,
    )
    shop.workbench.pgkeep("backup", "shop")
    shop.run(change, "INSERT INTO items VALUES (1000, 'new', 1)")
    shop.journal.cut()
    shop.restore("--to-last-reachable", expect=3)
    assert take_picture(shop.source).rows == take_picture(shop.target).rows
    kept = "SELECT max(tgenabled::text) FROM pg_trigger WHERE tgname = 'note'"
    assert value(shop.target, kept) == state


def test_constants_of_a_schema_change_mean_what_they_meant(shop: Shop) -> None:
    shop.workbench.pgkeep("backup", "shop")
    load_statements(
        shop.source,
        (
            "SET TimeZone = 'America/New_York'",
            "SET DateStyle = 'SQL, DMY'",
            "ALTER TABLE items ADD at timestamptz DEFAULT '2024-01-01 12:00'",
            "ALTER TABLE items ADD d date DEFAULT '01/02/2024'",
        ),
    )
    shop.run("INSERT INTO items VALUES (1000, 'new', 1)")
    shop.journal.cut()
    shop.restore("--to-last-reachable", expect=3)
    assert take_picture(shop.source).rows == take_picture(shop.target).rows


def test_a_default_that_a_domain_works_out_anew_is_named(shop: Shop) -> None:
    shop.run("CREATE DOMAIN stamp AS timestamptz DEFAULT now()")
    shop.workbench.pgkeep("backup", "shop")
    shop.run("ALTER TABLE items ADD at stamp")
    shop.journal.cut()
    told = shop.restore("--to-last-reachable", expect=3).out
    assert "table public.items: column 'at' was added with its domain's default" in told


@pytest.mark.parametrize(
    "attempt",
    [
        "SELECT pgkeep.publish('items'::regclass, pubname, false) FROM pg_publication",
        "SELECT pgkeep.emit('sql_drop', 'DROP TABLE', 'postgres', '', '[]')",
        "SELECT pgkeep.on_start() /* SET UNLOGGED items */",
    ],
)
def test_whoever_may_connect_can_not_end_the_capture_of_a_table(shop: Shop, attempt: str) -> None:
    role = ("DROP ROLE IF EXISTS pitr_anyone", "CREATE ROLE pitr_anyone")
    load_statements(shop.source, role)
    with psycopg.connect(shop.source, autocommit=True) as connection:
        connection.execute("SET ROLE pitr_anyone")
        with pytest.raises((errors.InsufficientPrivilege, errors.FeatureNotSupported)):
            connection.execute(attempt.encode())


def test_a_table_that_cannot_be_published_yet_is_told_in_the_journal(
    workbench: Workbench, server: ScratchServer
) -> None:
    """Somebody holds a lock on it, as VACUUM does: what is changed until then is missing."""
    with databases(server, "pitr_source", "pitr_target") as (source, target):
        workbench.init(source)
        load_statements(source, SHOP)
        with psycopg.connect(source) as other:
            other.execute("LOCK TABLE items IN SHARE UPDATE EXCLUSIVE MODE")
            with captured(workbench, source, "pitr") as journal:
                workbench.pgkeep("backup", "shop")
                load_statements(source, ("UPDATE items SET price = 7",))
                journal.capture.look_after()
                journal.cut()
                out = workbench.pgkeep(
                    "restore", "shop", "--target", target, "--to-last-reachable", expect=3
                ).out
                assert "short of the end of the journal" in out


def test_a_role_s_own_schema_is_meant_also_where_another_role_restores(shop: Shop) -> None:
    load_statements(
        shop.source,
        ("DROP ROLE IF EXISTS pitr_alice", "CREATE ROLE pitr_alice", "CREATE SCHEMA pitr_alice"),
    )
    try:
        shop.run("GRANT ALL ON SCHEMA pitr_alice TO pitr_alice")
        shop.workbench.pgkeep("backup", "shop")
        load_statements(
            shop.source, ("SET ROLE pitr_alice", "CREATE TABLE mine (id integer PRIMARY KEY)")
        )
        shop.journal.cut()
        shop.restore("--to-last-reachable", "--no-owner", expect=3)
        assert value(shop.target, "SELECT to_regclass('pitr_alice.mine') IS NOT NULL")
    finally:
        for url in (shop.source, shop.target):
            load_statements(url, ("DROP OWNED BY pitr_alice CASCADE",))
        load_statements(shop.source, ("DROP ROLE pitr_alice",))
