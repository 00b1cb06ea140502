"""Back to any moment: what a transaction said of all tables when it committed is what is restored.

For a long run: PGKEEP_TEST_TRANSACTIONS=5000 pytest tests/acceptance/test_point_in_time.py
The name of a test has its seed, which PGKEEP_TEST_SEED sets.
"""

from __future__ import annotations

import json
import os
import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from comparison import assert_same, databases, load_statements, take_picture, value
from conftest import Outcome, Workbench
from journals import DDL_TRIGGER, TestJournal, captured
from pgkeep.cli.context import Context
from pgkeep.events import Silent
from pgkeep.postgres.address import Address
from pgkeep.postgres.server import ScratchServer
from pgkeep.recovery.journey import choose_journey
from pgkeep.recovery.moment import AtTransaction
from pgkeep.recovery.onward import Onward, quiet_session
from pgkeep.recovery.replay import Replayer, replay
from pgkeep.recovery.target import insistent_triggers_off
from pgkeep.repository.repository import open_contents
from workload import Commit, Workload, picture

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
def history(workbench: Workbench, server: ScratchServer, seed: int) -> Iterator[History]:
    with databases(server, "pitr_source", "pitr_target") as (source, target):
        workbench.init(source)
        workload = Workload(source, random.Random(seed))
        workload.prepare()
        with captured(workbench, source, "pitr") as journal:
            try:
                yield History(server, workbench, source, target, journal, workload, [])
            finally:
                workload.close()


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
    names = [table.name for table in way.contents.tables]
    with quiet_session(address) as connection, insistent_triggers_off(connection, names):
        onward = Onward(connection, way.contents, Silent(), owners=True)
        replayer = Stepping(onward.writer, onward.describe, onward.run_change, Silent())
        replayer.look(history, chosen)
        done = replay(way.journey, replayer)
        onward.set_sequences(done.sequences)
    assert_as_it_was(history.target, last)
    return replayer.looked


@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", [SEED])
def test_every_moment_comes_back_as_it_was(history: History, seed: int) -> None:
    """Several backups, some with transactions open; from each to many moments, at random."""
    choose = random.Random(seed)
    workload, journal = history.workload, history.journal
    for _ in range(3):
        if choose.random() < 0.7:
            workload.open_side()
        history.back_up()
        for _ in range(5):
            workload.run(TRANSACTIONS // 15)
            if choose.random() < 0.8:
                journal.cut()
    workload.close_side()
    journal.cut()
    commits = workload.commits
    looked = 0
    for backup, n in history.backups:
        rest = range(n + 1, len(commits) + 1)
        looked += replay_looking(history, backup, set(choose.sample(rest, len(rest) // 2)))
    assert looked > TRANSACTIONS // 2
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


# --- schema changes -----------------------------------------------------------------------------

SHOP = (
    "CREATE TABLE items (id integer PRIMARY KEY, name text, price numeric)",
    "CREATE TABLE notes (what text)",
    "INSERT INTO items SELECT n, 'item ' || n, n FROM generate_series(1, 100) n",
    "CREATE TYPE size AS ENUM ('s', 'm')",
    *DDL_TRIGGER,
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
            if statement.split()[0] in ("CREATE", "ALTER"):
                self.journal.publish()

    def restore(self, *options: str, expect: int = 0) -> Outcome:
        return self.workbench.pgkeep(
            "restore", "shop", "--target", self.target, *options, expect=expect
        )


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


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE items ALTER COLUMN price TYPE float8",
        "ALTER TABLE items ADD COLUMN seen timestamptz DEFAULT now()",
        "CREATE TABLE copied AS SELECT * FROM items",
        "DO $$ BEGIN ALTER TABLE items DROP COLUMN price; END $$",
        "CREATE TABLE one (id integer); CREATE TABLE two (id integer)",
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
    load_statements(shop.source, ("ALTER EVENT TRIGGER pgkeep_told DISABLE",))
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
    load_statements(shop.source, ("ALTER EVENT TRIGGER pgkeep_told DISABLE",))
    shop.workbench.pgkeep("backup", "shop")
    shop.run(change, "UPDATE items SET name = 'x'")
    shop.journal.cut()
    failed = shop.restore("--to-last-reachable", expect=1)
    assert "is not the same in the journal and in the backup" in failed.err
