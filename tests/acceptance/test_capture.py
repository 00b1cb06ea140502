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
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from conftest import WHEELS, Workbench
from failures import MAIN, configure, finished, proxy_to, run_sql, start, told, wait_until
from journal import JournalReader
from pgkeep.capture.follow import Listener, follow
from pgkeep.capture.setup import LOCK_CLASS
from pgkeep.cli.commands.capture import capture_request
from pgkeep.cli.context import Context
from pgkeep.events import Noticed, Silent
from pgkeep.postgres import pgoutput
from pgkeep.postgres.programs import choose_server
from pgkeep.postgres.server import ScratchServer
from pgkeep.repository import journal_copies
from pgkeep.stores import LocalStore

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
        connection.execute("SET synchronous_commit = on")  # a slot gives what is flushed
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


# A slot with publications and event triggers, and one that needs neither.
EITHER_WAY = pytest.mark.parametrize("plugin", ["pgoutput", "test_decoding"])


@EITHER_WAY
def test_killed_at_every_step_no_transaction_is_lost_or_doubled(
    workbench: Workbench, source: str, reader: JournalReader, plugin: str
) -> None:
    ready(workbench, source, f'plugin = "{plugin}"')
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
            kills, step = kills + 1, step + 3
            wait_until_nobody_captures(source)
    assert kills > 15
    capture(workbench)
    assert numbers(reader) == list(range(1, n + 1))
    assert len({run.chain for run in reader.runs}) == 1


@EITHER_WAY
def test_killed_at_random_while_four_write_nothing_is_lost_or_doubled(
    workbench: Workbench, source: str, reader: JournalReader, plugin: str
) -> None:
    ready(workbench, source, f'plugin = "{plugin}"')
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


# --- what nights bring ----------------------------------------------------------------------------


def taken_by_others(plugin: str, up_to: str) -> str:
    """What reads changes out of the slot, so that they are not given again."""
    options = ", 'proto_version', '1', 'publication_names', 'pgkeep_rows'"
    return (
        f"pg_logical_slot_get_binary_changes('pgkeep_shop', NULL, {up_to}"
        f"{options if plugin == 'pgoutput' else ''})"
    )


@EITHER_WAY
def test_another_consumer_of_the_slot_leaves_a_gap_that_is_shown(
    workbench: Workbench, source: str, reader: JournalReader, plugin: str
) -> None:
    ready(workbench, source, f'plugin = "{plugin}"')
    tick(source, 1, 3)
    run_sql(source, f"SELECT count(*) FROM {taken_by_others(plugin, 'NULL')}")
    tick(source, 4, 5)
    assert capture(workbench)["new_chain"] is True
    tick(source, 6, 6)
    capture(workbench)
    # Without event triggers a new chain leaves out what tables may have been altered in.
    assert numbers(reader) == ([4, 5, 6] if plugin == "pgoutput" else [6])
    assert len({run.chain for run in reader.runs}) == 2


STOLEN = """
import psycopg
from pgkeep.postgres.slot import Slot
real = Slot.peek
def stolen(self, *arguments, **options):
    global real
    look, Slot.peek = real, real
    with psycopg.connect(URL, autocommit=True) as thief:
        thief.execute("SELECT count(*) FROM " + TAKEN)
    return look(self, *arguments, **options)
Slot.peek = stolen
"""


@EITHER_WAY
def test_what_is_stolen_just_before_a_look_leaves_a_gap(
    workbench: Workbench, source: str, reader: JournalReader, plugin: str
) -> None:
    ready(workbench, source, f'plugin = "{plugin}"')
    tick(source, 1, 3)
    peek = "peek" if plugin == "pgoutput" else "peek_text"
    code = f"URL, TAKEN = {source!r}, {taken_by_others(plugin, '1')!r}\n{STOLEN}{MAIN}"
    code = code.replace("Slot.peek", f"Slot.{peek}")
    outcome = finished(start(workbench, "capture", "shop", "--once", "--json", code=code))
    assert "by somebody else" in outcome.err
    assert numbers(reader) == ([2, 3] if plugin == "pgoutput" else [])
    assert len({run.chain for run in reader.runs}) == 2


@pytest.mark.parametrize("name", ["pgkeep_rows", "pgkeep_changes_1"])
def test_a_dropped_publication_leaves_a_gap_and_capture_goes_on(
    name: str, workbench: Workbench, source: str, reader: JournalReader
) -> None:
    ready(workbench, source)
    tick(source, 1, 2)
    capture(workbench)
    run_sql(source, f"DROP PUBLICATION {name}")
    tick(source, 3, 4)
    assert capture(workbench)["new_chain"] is True
    tick(source, 5, 6)
    capture(workbench)
    assert numbers(reader) == [5, 6]


def test_a_publication_dropped_while_capture_runs_leaves_a_gap(
    workbench: Workbench, source: str, reader: JournalReader
) -> None:
    ready(workbench, source)
    process = start(workbench, "capture", "shop")
    tick(source, 1, 2)
    wait_until(lambda: numbers(reader) == [1, 2], "the first are kept")
    run_sql(source, "DROP PUBLICATION pgkeep_rows")
    tick(source, 3, 4)
    wait_until(lambda: len({run.chain for run in reader.runs}) == 2, "a new chain")
    tick(source, 5, 6)
    wait_until(lambda: numbers(reader)[-2:] == [5, 6], "the next are kept")
    process.send_signal(signal.SIGINT)
    outcome = finished(process)
    assert outcome.err.count("A new slot is made") < 4, outcome.err


def test_a_dropped_slot_and_dropped_triggers_are_made_anew(
    workbench: Workbench, source: str, reader: JournalReader
) -> None:
    ready(workbench, source)
    run_sql(
        source,
        "DROP EVENT TRIGGER pgkeep_command",
        "ALTER EVENT TRIGGER pgkeep_drop DISABLE",
        "SELECT pg_drop_replication_slot('pgkeep_shop')",
    )
    tick(source, 1, 1)
    assert capture(workbench)["new_chain"] is True
    tick(source, 2, 2)
    run_sql(source, "CREATE TABLE seen (id int PRIMARY KEY)")
    assert capture(workbench)["schema_changes"] == 1
    assert numbers(reader) == [2]


def test_a_slow_repository_makes_no_look_wait_for_longer(
    workbench: Workbench, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is lost at most is the time to store a segment, not five times that."""
    ready(workbench, source)
    put = LocalStore.put

    def slow(store: LocalStore, name: str, data: bytes) -> None:
        time.sleep(1)
        put(store, name, data)

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        tick(source, len(pauses), len(pauses))
        if len(pauses) == 3:
            raise KeyboardInterrupt

    pauses: list[float] = []
    monkeypatch.setattr(LocalStore, "put", slow)
    request = capture_request(Context(workbench.config, as_json=True, quiet=True), "shop")
    listener = Listener(lambda _: None, lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        follow(request, listener, Silent(), poll_seconds=0.05, sleep=sleep)
    assert len(segments(workbench)) >= 3
    assert max(pauses) < 3, "four times what storing takes, and more, would be no share of reading"


def test_a_repository_that_falls_behind_is_told_once_and_when_it_has_caught_up(
    workbench: Workbench, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = workbench.folder / "second"
    ready(workbench, source, "[repositories.second]", f'url = "file://{second}"')
    monkeypatch.setattr(journal_copies, "_PAUSE_SECONDS", 0)
    told: list[str] = []

    class Reporter:
        def report(self, event: object) -> None:
            if isinstance(event, Noticed) and "repository 'second'" in event.message:
                told.append(event.message)

    looks = iter(range(1, 1000))

    def sleep(_seconds: float) -> None:
        tick(source, look := next(looks), look)
        if look == 1:
            second.rename(second.with_name("away"))
            second.write_text("no folder")
        elif look == 4:
            second.unlink()
            second.with_name("away").rename(second)
        elif len(told) == 2 or look > 200:
            raise KeyboardInterrupt

    request = capture_request(Context(workbench.config, as_json=True, quiet=True), "shop")
    with pytest.raises(KeyboardInterrupt):
        follow(request, Listener(lambda _: None, lambda _: None), Reporter(),
               poll_seconds=0.05, sleep=sleep)  # fmt: skip
    assert [text.partition(":")[0] for text in told] == [
        "repository 'second' is behind with the journal",
        "repository 'second' has caught up with the journal",
    ]


@EITHER_WAY
def test_with_the_repository_down_the_slot_stays_and_past_its_limit_it_goes(
    workbench: Workbench, source: str, reader: JournalReader, plugin: str
) -> None:
    ready(workbench, source, 'slot_limit = "3MB"', f'plugin = "{plugin}"')
    tick(source, 1, 1)
    hidden = workbench.repository.with_name("away")
    workbench.repository.rename(hidden)
    workbench.repository.write_text("no folder")
    told(workbench.pgkeep("capture", "shop", "--once", expect=1), "E055")
    tick(source, 2, 2)
    workbench.repository.unlink()
    hidden.rename(workbench.repository)
    capture(workbench)
    assert numbers(reader) == [1, 2]
    workbench.repository.rename(hidden)
    workbench.repository.write_text("no folder")
    run_sql(source, "INSERT INTO ticks SELECT n, 1, md5(n::text) FROM"
            " generate_series(3, 60000) n")  # fmt: skip
    outcome = workbench.pgkeep("capture", "shop", "--once", expect=1)
    assert "was dropped so that the server's disk does not fill" in outcome.err
    with psycopg.connect(source) as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
        ).fetchone() == (0,)
    workbench.repository.unlink()
    hidden.rename(workbench.repository)
    assert capture(workbench)["new_chain"] is True
    assert len({run.chain for run in reader.runs}) == 2


def test_two_captures_at_once(workbench: Workbench, source: str) -> None:
    ready(workbench, source)
    process = start(workbench, "capture", "shop")
    try:
        wait_until(lambda: sessions(source) == 1, "the first captures")
        told(workbench.pgkeep("capture", "shop", "--once", expect=1), "E070")
    finally:
        process.kill()
        finished(process)


def sessions(source: str) -> int:
    with psycopg.connect(source) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone()
    return int(row[0]) if row else 0


@EITHER_WAY
def test_what_applications_write_into_the_wal_does_not_end_a_chain(
    workbench: Workbench, source: str, reader: JournalReader, plugin: str
) -> None:
    ready(workbench, source, f'plugin = "{plugin}"')
    for n in range(1, 4):
        tick(source, n, n)
        run_sql(
            source,
            "SELECT pg_logical_emit_message(false, 'outbox', 'x') FROM generate_series(1, 100)",
            "SELECT pg_logical_emit_message(true, 'outbox', 'x')",
        )
        assert capture(workbench)["new_chain"] is False
    assert numbers(reader) == [1, 2, 3]
    assert len(reader.runs) == 1
    assert all(not transaction.messages for transaction in reader.newest())


@EITHER_WAY
def test_transactions_of_every_kind(
    workbench: Workbench, source: str, reader: JournalReader, plugin: str
) -> None:
    ready(workbench, source, f'plugin = "{plugin}"')
    run_sql(
        source,
        "BEGIN; INSERT INTO ticks VALUES (1); SAVEPOINT a; INSERT INTO ticks VALUES (90);"
        " ROLLBACK TO a; INSERT INTO ticks VALUES (2); COMMIT",
        "BEGIN; INSERT INTO ticks VALUES (91); ROLLBACK",
        "SET synchronous_commit = off; INSERT INTO ticks VALUES (3)",
        "UPDATE ticks SET n = 30 WHERE n = 3; DELETE FROM ticks WHERE n = 2",
        "BEGIN; INSERT INTO ticks VALUES (4); TRUNCATE ticks; INSERT INTO ticks VALUES (5); COMMIT",
    )
    with psycopg.connect(source) as open_one:
        open_one.execute("INSERT INTO ticks VALUES (6)")
        tick(source, 7, 7)
        capture(workbench)
        assert numbers(reader) == [1, 2, 3, 4, 5, 7]
    capture(workbench)
    assert numbers(reader) == [1, 2, 3, 4, 5, 7, 6]
    kinds = [type(change).__name__ for one in reader.newest() for _, change in one.changes]
    assert kinds == ["Insert"] * 3 + ["Update", "Delete", "Insert", "Truncate"] + ["Insert"] * 3
    update = next(
        c for one in reader.newest() for _, c in one.changes if isinstance(c, pgoutput.Update)
    )
    assert update.old is not None
    assert bytes(update.old[0]) == b"3"  # type: ignore[arg-type]


def test_a_statement_sent_with_many_is_written_once(
    workbench: Workbench, source: str, reader: JournalReader
) -> None:
    ready(workbench, source)
    run_sql(source, ";".join(f"CREATE TABLE many_{n} (id int PRIMARY KEY)" for n in range(50)))
    capture(workbench)
    messages = [message for one in reader.newest() for message in one.messages]
    assert len(messages) == 50
    assert [bool(message["query"]) for message in messages] == [True] + [False] * 49


def test_schema_changes_are_listed_one_line_for_each_statement(
    workbench: Workbench, source: str
) -> None:
    ready(workbench, source)
    run_sql(
        source,
        "CREATE TABLE a (id int PRIMARY KEY, x text, y text)",
        "ALTER TABLE a DROP COLUMN x, ALTER COLUMN y TYPE bytea USING y::bytea",
        "CREATE TABLE b (id int PRIMARY KEY); DROP TABLE a; DROP TABLE b",
        "BEGIN; CREATE TABLE never (id int); ROLLBACK",
        "CREATE INDEX CONCURRENTLY i ON ticks (worker)",
    )
    capture(workbench)
    document = workbench.pgkeep("list", "shop", "--schema-changes", "--json").document
    assert isinstance(document, list)
    assert [one["tag"] for one in document] == [
        "CREATE TABLE", "ALTER TABLE", "CREATE TABLE", "DROP TABLE", "DROP TABLE", "CREATE INDEX",
    ]  # fmt: skip
    assert document[1]["statement"].startswith("ALTER TABLE a DROP COLUMN x")
    assert document[3]["statement"] == document[4]["statement"] == document[2]["statement"]
    assert document[4]["objects"] == ["table public.b"]
    assert all(one["role"] == "postgres" and one["transaction"] for one in document)
    text = workbench.pgkeep("list", "shop", "--schema-changes").out
    assert "DROP TABLE table public.b" in text
    assert len(text.splitlines()) == 7


def test_a_catalog_that_changed_unseen_is_noticed(
    workbench: Workbench, source: str, reader: JournalReader
) -> None:
    ready(workbench, source)
    code = "from pgkeep.capture import follow; follow._STEP_SECONDS_BETWEEN_REPAIRS = 0.2\n" + MAIN
    process = start(workbench, "capture", "shop", code=code)
    try:
        wait_until(lambda: sessions(source) == 1, "capture runs")
        time.sleep(0.5)
        run_sql(
            source,
            "ALTER EVENT TRIGGER pgkeep_command DISABLE; ALTER TABLE ticks ADD unseen int;"
            " ALTER EVENT TRIGGER pgkeep_command ENABLE ALWAYS",
        )
        wait_until(
            lambda: any(m["event"] == "noticed" for one in reader.newest() for m in one.messages),
            "it is noticed",
        )
        run_sql(source, "CREATE TABLE seen (id int PRIMARY KEY)")
        time.sleep(1)
    finally:
        process.kill()
        finished(process)
    events = [m["event"] for one in reader.newest() for m in one.messages]
    assert events.count("noticed") == 1


def events(reader: JournalReader) -> list[str]:
    return [str(m["event"]) for one in reader.newest() for m in one.messages]


def test_what_changed_unseen_while_nobody_captured_is_noticed_once(
    workbench: Workbench, source: str, reader: JournalReader
) -> None:
    ready(workbench, source)
    run_sql(source, "CREATE TABLE told (id int PRIMARY KEY)")
    capture(workbench)
    capture(workbench)
    run_sql(source, "ALTER TABLE told ADD COLUMN later int")  # while nobody looks, and told
    capture(workbench)
    capture(workbench)
    assert "noticed" not in events(reader)
    run_sql(
        source,
        "ALTER EVENT TRIGGER pgkeep_command DISABLE",
        "ALTER TABLE ticks ADD unseen int",
        "ALTER EVENT TRIGGER pgkeep_command ENABLE ALWAYS",
        "INSERT INTO ticks VALUES (1)",
    )
    for _ in range(3):
        capture(workbench)
    assert events(reader).count("noticed") == 1


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE POLICY p ON ticks USING (true)",
        "CREATE PUBLICATION theirs FOR TABLE ticks",
        "CREATE EXTENSION citext",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER TABLE ticks ADD CHECK (n > 0)",
        "ALTER TABLE ticks ALTER worker SET DEFAULT 7",
        "CREATE TRIGGER t BEFORE UPDATE ON ticks FOR EACH ROW"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ],
)
def test_what_event_triggers_do_not_see_is_noticed_at_the_next_look(
    workbench: Workbench, source: str, reader: JournalReader, statement: str
) -> None:
    """As where a platform's own roles change something, for which the server fires none."""
    ready(workbench, source)
    run_sql(source, "ALTER EVENT TRIGGER pgkeep_command DISABLE", statement,
            "ALTER EVENT TRIGGER pgkeep_command ENABLE ALWAYS")  # fmt: skip
    for _ in range(2):
        capture(workbench)
    assert events(reader) == ["noticed"]


@EITHER_WAY
def test_a_network_that_stalls_is_noticed_and_nothing_is_lost(
    workbench: Workbench,
    server: ScratchServer,
    new_database: NewDatabase,
    reader: JournalReader,
    plugin: str,
) -> None:
    source = new_database()
    with proxy_to(server.port) as proxy:
        through = source.replace(f":{server.port}/", f":{proxy.port}/")
        ready(workbench, source, f'plugin = "{plugin}"')
        workbench.monkeypatch.setenv(
            "SHOP_DATABASE_URL", through + "&keepalives_idle=1&tcp_user_timeout=2000"
        )
        process = start(workbench, "capture", "shop")
        tick(source, 1, 3)
        wait_until(lambda: numbers(reader) == [1, 2, 3], "they are kept")
        proxy.cut()
        tick(source, 4, 5)
        wait_until(lambda: numbers(reader)[-1] == 5, "it connects again")
        process.kill()
        finished(process)
    run_sql(source, "SELECT pg_drop_replication_slot('pgkeep_shop')")
    assert numbers(reader) == [1, 2, 3, 4, 5]


IMPATIENT = (
    "from pgkeep.capture import beginning; beginning._PATIENCE_SECONDS = 3.0;"
    " beginning._SLOWEST_BYTES_PER_SECOND = 1 << 40\n" + MAIN
)


@EITHER_WAY
def test_a_connection_that_stays_open_and_silent_is_given_up(
    workbench: Workbench,
    server: ScratchServer,
    new_database: NewDatabase,
    reader: JournalReader,
    plugin: str,
) -> None:
    source = new_database()
    with proxy_to(server.port) as proxy:
        ready(workbench, source, f'plugin = "{plugin}"')
        through = source.replace(f":{server.port}/", f":{proxy.port}/")
        workbench.monkeypatch.setenv("SHOP_DATABASE_URL", through)
        process = start(workbench, "capture", "shop", code=IMPATIENT)
        tick(source, 1, 3)
        wait_until(lambda: numbers(reader) == [1, 2, 3], "they are kept")
        proxy.stalled = True
        tick(source, 4, 5)
        time.sleep(4)
        proxy.stalled = False
        wait_until(lambda: numbers(reader)[-1] == 5, "it connects again")
        process.kill()
        assert "was lost" in finished(process).err
    wait_until_nobody_captures(source)
    run_sql(source, "SELECT pg_drop_replication_slot('pgkeep_shop')")
    assert numbers(reader) == [1, 2, 3, 4, 5]


@EITHER_WAY
def test_a_huge_transaction_passes_in_bounded_memory(
    workbench: Workbench,
    server: ScratchServer,
    new_database: NewDatabase,
    reader: JournalReader,
    plugin: str,
) -> None:
    source = new_database()
    ready(workbench, source, f'plugin = "{plugin}"')
    run_sql(source, "INSERT INTO ticks SELECT n FROM generate_series(1, 400000) n")
    # Not ru_maxrss: a child inherits its parent's.
    code = (
        "import re, atexit, sys; atexit.register(lambda: print('peak',"
        " re.search('VmHWM: *\t*(.*) kB', open('/proc/self/status').read())[1].strip(),"
        " file=sys.stderr))\n" + MAIN
    )
    outcome = finished(start(workbench, "capture", "shop", "--once", code=code), seconds=120)
    assert outcome.code == 0, outcome.err
    assert int(outcome.err.rpartition("peak ")[2]) < 220_000
    (transaction,) = reader.newest()
    assert len(transaction.changes) == 400_000
    assert len(reader.runs[-1].segments) > 2
    run_sql(source, "SELECT pg_drop_replication_slot('pgkeep_shop')")


# --- servers of their own -------------------------------------------------------------------------


@pytest.fixture(params=WHEELS)
def own_server(request: pytest.FixtureRequest) -> Iterator[ScratchServer]:
    settings = {"max_slot_wal_keep_size": "16MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    with ScratchServer.start(choose_server(request.param), settings=settings) as server:
        yield server


def test_a_crash_of_the_server_a_changed_password_and_a_lost_slot(
    workbench: Workbench, own_server: ScratchServer, reader: JournalReader
) -> None:
    ready(workbench, own_server.url())
    process = start(workbench, "capture", "shop")
    tick(own_server.url(), 1, 3)
    wait_until(lambda: numbers(reader) == [1, 2, 3], "they are kept")
    own_server.kill()
    own_server.restart()
    tick(own_server.url(), 4, 5)
    wait_until(lambda: numbers(reader)[-1:] == [5], "it goes on after the crash")
    assert numbers(reader) == [1, 2, 3, 4, 5]
    # From here on the password is another one: what captures ends with the first refusal.
    run_sql(
        own_server.url(),
        "ALTER ROLE postgres PASSWORD 'changed'",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgkeep'",
    )
    outcome = finished(process)
    assert "[E011]" in outcome.err, outcome.err
    assert own_server.log_tail(200).count("password authentication failed") == 1
    own_server.password = "changed"
    # Far more WAL than the server keeps for a slot.
    tick(own_server.url(), 6, 6)
    for n in range(6):
        run_sql(
            own_server.url(),
            f"INSERT INTO ticks SELECT g, 9, md5(g::text) FROM"
            f" generate_series({100000 * (n + 1)}, {100000 * (n + 1) + 60000}) g",
            "DELETE FROM ticks WHERE worker = 9",
            "SELECT pg_switch_wal()",
            "CHECKPOINT",
        )
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", own_server.url())
    assert capture(workbench)["new_chain"] is True
    tick(own_server.url(), 7, 7)
    capture(workbench)
    assert numbers(reader) == [7]
    document = workbench.pgkeep("status", "--json", expect=None).document
    assert document[0]["slot"]["limit_bytes"] > 0  # type: ignore[index]


def test_servers_and_roles_that_do_not_allow_it_are_refused_with_the_remedy(
    workbench: Workbench,
) -> None:
    with ScratchServer.start(choose_server(17), settings={"wal_level": "replica"}) as server:
        workbench.init(server.url())
        configure(workbench, *QUICK)
        refused = told(workbench.pgkeep("capture", "shop", "--once", expect=1), "E070")
        assert "wal_level" in refused.message
        run_sql(server.url(), "CREATE ROLE few LOGIN PASSWORD 'few'",
                "ALTER SYSTEM SET wal_level = 'logical'")  # fmt: skip
    with ScratchServer.start(choose_server(17)) as server:
        run_sql(server.url(), "CREATE ROLE few LOGIN PASSWORD 'few'")
        few = server.url().replace(f"postgres:{server.password}@", "few:few@")
        workbench.monkeypatch.setenv("SHOP_DATABASE_URL", few)
        refused = told(workbench.pgkeep("capture", "shop", "--once", expect=1), "E070")
        assert "may not use replication slots" in refused.message
        # What it may not put in order again, it does not go on with.
        workbench.monkeypatch.setenv("SHOP_DATABASE_URL", server.url())
        capture(workbench)
        run_sql(server.url(), "ALTER ROLE few REPLICATION", "DROP EVENT TRIGGER pgkeep_drop")
        workbench.monkeypatch.setenv("SHOP_DATABASE_URL", few)
        refused = told(workbench.pgkeep("capture", "shop", "--once", expect=1), "E070")
        assert "may not set up capture" in refused.message


@EITHER_WAY
def test_prepared_transactions_come_when_they_commit(
    workbench: Workbench, reader: JournalReader, plugin: str
) -> None:
    # Where tables are looked at, one that is altered ends what goes on.
    made = "CREATE TABLE made (id int PRIMARY KEY);" if plugin == "pgoutput" else ""
    settings = {"max_prepared_transactions": "4"}
    with ScratchServer.start(choose_server(17), settings=settings) as server:
        ready(workbench, server.url(), f'plugin = "{plugin}"')
        run_sql(
            server.url(),
            f"BEGIN; {made} INSERT INTO ticks VALUES (2); PREPARE TRANSACTION 'two'",
            "BEGIN; INSERT INTO ticks VALUES (90); PREPARE TRANSACTION 'never'",
        )
        tick(server.url(), 1, 1)
        capture(workbench)
        assert numbers(reader) == [1]
        run_sql(server.url(), "COMMIT PREPARED 'two'", "ROLLBACK PREPARED 'never'")
        tick(server.url(), 3, 3)
        capture(workbench)
        assert numbers(reader) == [1, 2, 3]


@EITHER_WAY
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk")
def test_a_full_disk_holds_the_slot_and_nothing_is_lost(
    workbench: Workbench, source: str, reader: JournalReader, plugin: str
) -> None:
    workbench.repository.mkdir()
    disk = str(workbench.repository)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        ready(workbench, source, f'plugin = "{plugin}"')
        run_sql(source, "INSERT INTO ticks SELECT n, 0, md5(n::text) || md5((n + 1)::text) FROM"
                " generate_series(1, 40000) n")  # fmt: skip
        told(workbench.pgkeep("capture", "shop", "--once", expect=1), "E062")
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        tick(source, 40001, 40002)
        assert capture(workbench)["new_chain"] is False
        assert numbers(reader) == list(range(1, 40003))
    finally:
        subprocess.run(["umount", disk], check=True)


# --- the backups that it asks for -----------------------------------------------------------------


def kept(workbench: Workbench) -> list[str]:
    """The kinds of the backups that there are, oldest first."""
    listed = workbench.pgkeep("list", "shop", "--json").document
    assert isinstance(listed, list)
    return [one["kind"] for one in reversed(listed)]


def test_a_backup_that_a_killed_capture_wanted_is_made_by_the_next(
    workbench: Workbench, source: str
) -> None:
    ready(workbench, source)  # it began a chain, and died before the backup that leads to it
    assert kept(workbench) == []
    without = workbench.config.read_text()
    workbench.config.write_text(without.replace("backups = false\n", ""))
    capture(workbench)
    assert kept(workbench) == ["full"]
    capture(workbench)
    assert kept(workbench) == ["full"], "nothing is owed any more"

    workbench.config.write_text(without)
    time.sleep(1)  # names tell times to the second
    run_sql(source, "CREATE TABLE more (n integer PRIMARY KEY)")
    capture(workbench)
    workbench.config.write_text(without.replace("backups = false\n", ""))
    time.sleep(1)
    capture(workbench)
    assert kept(workbench) == ["full", "schema", "full"]
    capture(workbench)
    assert kept(workbench) == ["full", "schema", "full"]


def test_a_restored_database_has_nothing_of_capture_and_can_be_captured_anew(
    workbench: Workbench, source: str, any_server: ScratchServer
) -> None:
    ready(workbench, source)
    tick(source, 1, 5)
    target = source.replace("/capture_", "/capture_again_")
    name = target.rpartition("/")[2].partition("?")[0]
    any_server.create_database(name)
    try:
        for kind in ("full", "schema"):
            workbench.pgkeep("backup", "shop", "--kind", kind)
            run_sql(any_server.url(), f"DROP DATABASE {name}", f"CREATE DATABASE {name}")
            outcome = workbench.pgkeep("restore", "shop", "--target", target, "--json")
            assert dict(outcome.document)["proven"] is True  # type: ignore[call-overload]
            with psycopg.connect(target) as connection:
                assert connection.execute(
                    "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgkeep'),"
                    " (SELECT count(*) FROM pg_event_trigger),"
                    " (SELECT count(*) FROM pg_publication)"
                ).fetchone() == (0, 0, 0)
        workbench.monkeypatch.setenv("SHOP_DATABASE_URL", target)
        configure(workbench, 'slot = "pgkeep_again"')
        assert capture(workbench)["new_chain"] is True
        workbench.pgkeep("capture", "shop", "--remove", "--yes")
    finally:
        any_server.drop_database(name)


def test_a_schema_of_the_users_that_has_its_name_stays(
    workbench: Workbench, new_database: NewDatabase
) -> None:
    source, target = new_database(), new_database()
    run_sql(source, "CREATE SCHEMA pgkeep", "CREATE TABLE pgkeep.token (id int, value text)",
            "INSERT INTO pgkeep.token VALUES (1, 'mine')",
            "CREATE PUBLICATION pgkeep_rows FOR ALL TABLES")  # fmt: skip
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    workbench.pgkeep("restore", "shop", "--target", target)
    with psycopg.connect(target) as connection:
        assert connection.execute(
            "SELECT (SELECT value FROM pgkeep.token), (SELECT count(*) FROM pg_publication)"
        ).fetchone() == ("mine", 1)


# --- verifying ------------------------------------------------------------------------------------


def test_a_segment_of_another_size_than_its_sibling_is_read_and_put_right(
    workbench: Workbench, source: str
) -> None:
    second = workbench.folder / "second"
    ready(workbench, source, "[repositories.second]", f'url = "file://{second}"')
    for n in range(1, 4):
        tick(source, n, n)
        capture(workbench)
    harmed = min(segments(workbench), key=lambda path: path.name)
    whole = harmed.read_bytes()
    for harm in (whole[:40], b""):
        harmed.write_bytes(harm)
        found = workbench.pgkeep("verify", "--no-heal", "--json", expect=1)
        assert harmed.name in found.out
        workbench.pgkeep("verify", expect=3)
        assert harmed.read_bytes() == whole
    workbench.pgkeep("verify")


# --- taking it away -------------------------------------------------------------------------------


MADE = """
    SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgkeep'),
           (SELECT count(*) FROM pg_publication), (SELECT count(*) FROM pg_event_trigger),
           (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())"""


def removed(workbench: Workbench, *options: str) -> dict[str, object]:
    outcome = workbench.pgkeep("capture", "shop", "--remove", "--json", *options)
    return dict(outcome.document) if outcome.out else {}  # type: ignore[call-overload]


def test_what_another_capture_needs_stays_until_that_is_removed_too(
    workbench: Workbench, source: str
) -> None:
    ready(workbench, source, 'slot = "other"')
    settings = workbench.config.read_text()
    workbench.config.write_text(settings.replace('slot = "other"', 'slot = "pgkeep_first"'))
    capture(workbench)
    all_of_it = ["the slot", "the publications", "the event triggers", "the schema pgkeep"]
    with psycopg.connect(source, autocommit=True) as connection:
        # A name of one's own tells nothing, but whoever captures holds a lock.
        connection.execute("SELECT pg_advisory_lock(%s, hashtext('other'))", (LOCK_CLASS,))
        shown = workbench.pgkeep("capture", "shop", "--remove", "--yes")
        assert "stay: another capture needs them (slot other)" in " ".join(shown.err.split())
        assert connection.execute(MADE).fetchone() == (1, 9, 4, 1)
        connection.execute("SELECT pg_advisory_unlock_all()")
        capture(workbench)
        workbench.config.write_text(settings)
        assert removed(workbench, "--dry-run")["needed_by"] == ["pgkeep_first"]
        assert removed(workbench, "--yes")["found"] == ["the slot"]
        assert connection.execute(MADE).fetchone() == (1, 9, 4, 1)
        workbench.config.write_text(settings.replace('"other"', '"pgkeep_first"'))
        assert removed(workbench, "--dry-run")["found"] == all_of_it
        assert removed(workbench, "--yes")["found"] == all_of_it
        assert connection.execute(MADE).fetchone() == (0, 0, 0, 0)
        assert removed(workbench, "--dry-run")["found"] == []
        assert removed(workbench, "--yes")["removed"] is False


def test_a_schema_of_the_users_with_that_name_is_neither_used_nor_dropped(
    workbench: Workbench, source: str
) -> None:
    run_sql(source, "CREATE SCHEMA pgkeep", "CREATE TABLE pgkeep.mine (id int)")
    workbench.init(source)
    refused = workbench.pgkeep("capture", "shop", "--once", expect=None)
    assert told(refused, "E070").message.startswith("the database has a schema pgkeep, which")
    workbench.pgkeep("capture", "shop", "--remove", "--yes")
    with psycopg.connect(source) as connection:
        assert connection.execute("SELECT count(*) FROM pgkeep.mine").fetchone() == (0,)
