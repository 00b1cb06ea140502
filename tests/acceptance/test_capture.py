"""Capture on real servers: every committed transaction once, in order; the application unharmed.

The truth is what is read back from the segments with the operator's key, compared with what the
workload knows it has committed: each transaction inserts a row with a running number.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from conftest import WHEELS, Workbench
from failures import MAIN, configure, finished, proxy_to, run_sql, start, told, wait_until
from journal import JournalReader
from pgkeep.capture import setup
from pgkeep.postgres import pgoutput
from pgkeep.postgres.address import Address
from pgkeep.postgres.programs import choose_server
from pgkeep.postgres.server import ScratchServer
from pgkeep.postgres.session import connect
from pgkeep.postgres.slot import Slot

NewDatabase = Callable[[], str]
TICKS = "CREATE TABLE ticks (n bigint PRIMARY KEY, worker integer, note text)"
QUICK = (
    "[capture]",
    "backups = false",
    "poll_seconds = 0.05",
    "heartbeat_seconds = 1",
)


@pytest.fixture(params=WHEELS)
def any_server(
    request: pytest.FixtureRequest, servers: Callable[[int], ScratchServer]
) -> ScratchServer:
    return servers(request.param)


@pytest.fixture
def source(any_server: ScratchServer) -> Iterator[str]:
    """An empty database on either version; its slots go with it."""
    name = f"capture_{os.getpid()}_{time.monotonic_ns()}"
    any_server.create_database(name)
    yield any_server.url(name)
    with psycopg.connect(any_server.url(), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = %s"
            " AND active_pid IS NOT NULL",
            (name,),
        )
        for _ in range(100):
            with suppress(psycopg.errors.ObjectInUse):
                connection.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                    " WHERE database = %s",
                    (name,),
                )
                break
            time.sleep(0.05)
    any_server.drop_database(name)


@pytest.fixture
def reader(workbench: Workbench) -> JournalReader:
    return JournalReader(workbench)


def ready(workbench: Workbench, source: str, *lines: str) -> None:
    """A table of ticks, and a capture that has begun."""
    run_sql(source, TICKS)
    workbench.init(source)
    configure(workbench, *QUICK, *lines)
    capture(workbench)


def capture(workbench: Workbench, *, expect: int | None = 0) -> dict[str, object]:
    """Keep what is waiting."""
    outcome = workbench.pgkeep("capture", "shop", "--once", "--json", expect=expect)
    return dict(outcome.document) if outcome.out else {}  # type: ignore[call-overload]


def segments(workbench: Workbench) -> list[Path]:
    return list(workbench.repository.glob("shop/journal/*/*"))


def numbers(reader: JournalReader) -> list[int]:
    """The running numbers of the newest run, in commit order."""
    return [
        int(bytes(row[0]))  # type: ignore[arg-type]
        for transaction in reader.newest()
        for row in transaction.rows("public.ticks")
    ]


def tick(source: str, first: int, last: int) -> None:
    with psycopg.connect(source, autocommit=True) as connection:
        for n in range(first, last + 1):
            connection.execute("INSERT INTO ticks VALUES (%s)", (n,))


# --- killed at every step -------------------------------------------------------------------------

# Every statement, sync and rename is a step. Transactions are larger than segments and than looks.
SMALL_PIECES = """
from pgkeep.capture import capture, segments
segments.pack.__kwdefaults__["limit_bytes"] = 3000
capture._MESSAGES_AT_ONCE = 40
"""
DIE_AT_STEP = (
    """
import os, signal, sys, psycopg
from pgkeep.cli.main import main
"""
    + SMALL_PIECES
    + """
def dying(real):
    def call(*arguments, **options):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call
for line in sys.stdin:
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    left = int(line)
    os.fsync, os.rename = dying(os.fsync), dying(os.rename)
    psycopg.Connection.execute = dying(psycopg.Connection.execute)
    psycopg.Cursor.copy = dying(psycopg.Cursor.copy)
    os.dup2(2, 1)
    try:
        main()
    except SystemExit as exit:
        os._exit(int(exit.code))
"""
)


@contextmanager
def dying(workbench: Workbench) -> Iterator[Callable[[int], int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", DIE_AT_STEP, "capture", "shop", "--once", "--config",
         str(workbench.config)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout

    def run(step: int) -> int:
        assert process.stdin
        assert process.stdout
        process.stdin.write(f"{step}\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield run
    process.stdin.close()
    process.wait(timeout=30)
    process.stdout.close()


def wait_until_nobody_captures(source: str) -> None:
    def nobody() -> bool:
        with psycopg.connect(source) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgkeep'"
                " AND datname = current_database()"
            ).fetchone()
        return row == (0,)

    wait_until(nobody, "a session of a killed capture is left", seconds=30)


def test_killed_at_every_step_no_transaction_is_lost_or_doubled(
    workbench: Workbench, source: str, reader: JournalReader
) -> None:
    ready(workbench, source)
    n, kills, step = 0, 0, 1
    with dying(workbench) as die_at, psycopg.connect(source) as writer:
        while True:
            for size in (1, 70, 1):  # the middle one is several segments, and more than a look
                rows = [(n + one,) for one in range(1, size + 1)]
                writer.cursor().executemany("INSERT INTO ticks VALUES (%s)", rows)
                writer.commit()
                n += size
            code = die_at(step)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            kills, step = kills + 1, step + 2
            wait_until_nobody_captures(source)
    assert kills > 20
    capture(workbench)
    assert numbers(reader) == list(range(1, n + 1))
    assert len({run.chain for run in reader.runs}) == 1


def test_killed_at_random_while_four_write_nothing_is_lost_or_doubled(
    workbench: Workbench, source: str, reader: JournalReader
) -> None:
    ready(workbench, source)
    committed: dict[int, list[int]] = {}
    ended = threading.Event()

    def write(worker: int) -> None:
        mine = committed.setdefault(worker, [])
        shuffled = random.Random(worker)
        with psycopg.connect(source) as connection:
            n = worker * 1_000_000
            while not ended.is_set():
                size = shuffled.choice((1, 1, 3, 60))
                for _ in range(size):
                    n += 1
                    connection.execute("INSERT INTO ticks VALUES (%s, %s)", (n, worker))
                if shuffled.random() < 0.2:
                    connection.execute("SAVEPOINT s")
                    connection.execute("INSERT INTO ticks VALUES (%s, -1)", (n + 500_000,))
                    connection.execute("ROLLBACK TO s")
                if shuffled.random() < 0.1:
                    connection.rollback()
                    n -= size
                    continue
                connection.commit()
                mine += range(n - size + 1, n + 1)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    luck = random.Random(4711)
    for _ in range(4):
        before = len(segments(workbench))
        process = start(workbench, "capture", "shop", "--quiet", code=SMALL_PIECES + MAIN)
        wait_until(lambda: len(segments(workbench)) > before, "a segment is kept")  # noqa: B023
        time.sleep(luck.random() / 2)
        process.kill()
        finished(process)
    ended.set()
    for thread in threads:
        thread.join()
    wait_until_nobody_captures(source)
    capture(workbench)
    found = numbers(reader)
    assert len(reader.runs[-1].segments) > 10
    for worker, expected in committed.items():
        assert [n for n in found if n // 1_000_000 == worker] == expected
    assert len(found) == sum(map(len, committed.values()))
    positions = [transaction.commit_lsn for transaction in reader.newest()]
    assert positions == sorted(set(positions))


# --- the application goes on ----------------------------------------------------------------------


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
    "in a DO block": "DO $$ BEGIN ALTER TABLE t DROP CONSTRAINT t_pkey; UPDATE t SET v = 'x'; END $$",
    "identity nothing": "ALTER TABLE t REPLICA IDENTITY NOTHING; UPDATE t SET v = 'x'",
    "identity index dropped": "CREATE UNIQUE INDEX i ON t (id);"
    " ALTER TABLE t REPLICA IDENTITY USING INDEX i; UPDATE t SET v = 'y'; DROP INDEX i;"
    " UPDATE t SET v = 'x'",
    "key column dropped": "ALTER TABLE t DROP COLUMN id; UPDATE t SET v = 'x'",
    "type of a key column dropped": "CREATE DOMAIN d AS int; CREATE TABLE k (id d PRIMARY KEY, v text);"
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
    " UPDATE p SET v = 'y'; ALTER TABLE p DROP CONSTRAINT p_pkey; UPDATE p SET v = 'x'; DELETE FROM p",
    "partition detached": "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);"
    " CREATE TABLE p1 (id int NOT NULL, v text); INSERT INTO p1 VALUES (1);"
    " ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (9); UPDATE p SET v = 'x';"
    " ALTER TABLE p DETACH PARTITION p1; UPDATE p1 SET v = 'y';"
    " ALTER TABLE p1 DROP CONSTRAINT p1_pkey; UPDATE p1 SET v = 'z'",
    "unlogged and back": "ALTER TABLE t SET UNLOGGED; UPDATE t SET v = 'x'; ALTER TABLE t SET LOGGED;"
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
        "ALTER PUBLICATION pgkeep_changes_1 DROP TABLE t",  # by hand
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
