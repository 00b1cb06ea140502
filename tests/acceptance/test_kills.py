"""Killed, interrupted or cut off at any moment: nothing half-done counts, nothing is left behind.

The real command line runs in a process of its own, with a trap that kills it (or makes it slow) at
a chosen point; what it leaves on disk and on the server is then looked at.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
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
from psycopg.conninfo import conninfo_to_dict

from comparison import assert_same, load_statements, take_picture, value
from conftest import Workbench
from failures import (
    MAIN,
    ROW_MARK,
    SMALL_SHOP,
    backups,
    configure,
    finished,
    first_backup,
    proxy_to,
    readable_by_others,
    run_sql,
    start,
    told,
    wait_until,
    wait_until_nobody_reads,
)
from pgkeep.postgres.programs import choose_server
from pgkeep.postgres.server import ScratchServer
from pgkeep.repository.manifests import load_manifest
from pgkeep.repository.repository import Repository
from pgkeep.stores import LocalStore

NewDatabase = Callable[[], str]

# Dies at the n-th sync or rename, which is between any two steps that a disk can see. A process
# that has everything imported forks for each number that it reads, and answers how that one ended.
DIE_AT_STEP = """
import os, signal, sys
from pgkeep.cli.main import main
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
    os.dup2(2, 1)
    try:
        main()
    except SystemExit as exit:
        os._exit(int(exit.code))
"""


@contextmanager
def killer(workbench: Workbench, *arguments: str) -> Iterator[Callable[[int], int]]:
    """A function that runs a command, kills it at a step, and returns its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-c", DIE_AT_STEP, *arguments, "--config", str(workbench.config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def run(step: int) -> int:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{step}\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    try:
        yield run
    finally:
        process.stdin.close()
        assert process.wait(timeout=30) == 0
        process.stdout.close()


# Takes its time over each MiB, so that there is a middle to be disturbed in.
# One long COPY rather than several short ones, so that it can be met.
SLOW_READS = """
import time
from pgkeep.backup import plan
plan._FEWEST_PAGES = plan._MOST_PAGES
from pgkeep.repository.objects import StreamWriter
real_write = StreamWriter.write
def slow_write(self, data):
    time.sleep(0.1)
    real_write(self, data)
StreamWriter.write = slow_write
"""

SLOW_LOADS = """
import time
from pgkeep.recovery.digest import RowDigest
real_update = RowDigest.update
def slow_update(self, text):
    time.sleep(0.1)
    real_update(self, text)
RowDigest.update = slow_update
"""

WIDE = (
    "CREATE TABLE wide (id integer PRIMARY KEY, body text)",
    "ALTER TABLE wide ALTER body SET STORAGE EXTERNAL",
    "INSERT INTO wide SELECT n, repeat(md5(n::text), 1000) FROM generate_series(1, 1000) n",
)
"""32 MB of text in few rows: far more than all buffers between server and pgkeep."""


def assert_only_whole_backups(workbench: Workbench) -> list[str]:
    """Every backup that `list` shows has all its objects; the ids."""
    found = backups(workbench) if (workbench.repository / "repo.json").exists() else []
    repository = Repository("test", LocalStore(workbench.repository))
    for path in workbench.repository.glob("shop/*/*/*/manifest.json"):
        manifest = load_manifest(path.read_bytes(), name=str(path))
        assert not repository.lacks(manifest.all_objects)
        assert path.parent.name in found
    with LocalStore(workbench.repository).exclusive("test"):
        pass  # no lock outlives its process
    return found


def processes_with(mark: str) -> list[int]:
    """Processes whose environment holds a mark, which children inherit."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def small_shop(workbench: Workbench, new_database: NewDatabase) -> str:
    """A small shop, configured, with default parts; its URL."""
    source = new_database()
    load_statements(source, SMALL_SHOP)
    workbench.init(source)
    return source


# --- kill -9 --------------------------------------------------------------------------------


def test_a_first_backup_killed_at_any_step_can_be_made_again(
    workbench: Workbench, new_database: NewDatabase
) -> None:
    source = new_database()
    run_sql(source, "CREATE TABLE t AS SELECT 1 AS n")
    workbench.init(source)
    arguments = ("backup", "shop", "--kind", "data")
    with killer(workbench, *arguments) as die_at:
        for step in range(1, 100):
            for folder in (workbench.repository, workbench.state):
                shutil.rmtree(folder, ignore_errors=True)
            assert die_at(step) == -signal.SIGKILL
            begun = (workbench.repository / "objects").exists()
            workbench.pgkeep(*arguments)
            assert len(assert_only_whole_backups(workbench)) == 1
            assert (workbench.repository / "RESTORE.txt").exists()
            if begun:
                break
    assert step > 15
    wait_until_nobody_reads(source)


def test_a_backup_killed_at_every_step_leaves_whole_backups_and_the_next_succeeds(
    workbench: Workbench, new_database: NewDatabase
) -> None:
    source = new_database()
    load_statements(source, SMALL_SHOP)
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    whole, kills = 1, 0
    mark = f"PGTEST_{secrets.token_hex(8)}"
    workbench.monkeypatch.setenv(mark, "1")
    with killer(workbench, "backup", "shop") as die_at:
        for step in range(1, 200):
            code = die_at(step)
            found = assert_only_whole_backups(workbench)
            if code == 0:
                assert len(found) == whole + 1
                break
            assert code == -signal.SIGKILL
            kills += 1
            assert len(found) in (whole, whole + 1), "a backup vanished, or half of one counts"
            whole = len(found)
            wait_until_nobody_reads(source)
            if step % 8 == 0:
                workbench.pgkeep("backup", "shop")
                whole += 1
                assert len(assert_only_whole_backups(workbench)) == whole
                assert list((workbench.repository / "tmp").iterdir()) == []
    assert kills > 20
    wait_until(lambda: not processes_with(mark), "programs are left")
    target = new_database()
    workbench.pgkeep("restore", "shop", "--target", target)
    assert_same(take_picture(source), take_picture(target))


def test_kill_while_rows_are_read_leaves_no_session_and_no_program(
    workbench: Workbench, new_database: NewDatabase
) -> None:
    source = new_database()
    load_statements(source, WIDE)
    workbench.init(source)
    mark = f"PGTEST_{secrets.token_hex(8)}"
    workbench.monkeypatch.setenv(mark, "1")
    process = start(workbench, "backup", "shop", code=SLOW_READS + MAIN)
    wait_until(lambda: bool(copying(source)), "rows are read")
    process.kill()
    assert finished(process).code == -signal.SIGKILL
    wait_until_nobody_reads(source)
    wait_until(lambda: not processes_with(mark), "programs are left")
    assert assert_only_whole_backups(workbench) == []


def copying(url: str) -> list[int]:
    """The sessions that give rows to pgkeep now."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND state = 'active' AND query LIKE 'COPY (%' AND pid <> pg_backend_pid()"
            " AND query NOT LIKE '%count(%'"
        ).fetchall()
    return [pid for (pid,) in rows]


# --- signals --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_backup_in_order(
    workbench: Workbench, new_database: NewDatabase, number: signal.Signals
) -> None:
    source = new_database()
    load_statements(source, WIDE)
    workbench.init(source)
    process = start(workbench, "backup", "shop", code=SLOW_READS + MAIN)
    wait_until(lambda: bool(copying(source)), "rows are read")
    begun = time.monotonic()
    process.send_signal(number)
    outcome = finished(process)
    assert time.monotonic() - begun < 10
    error = told(outcome, "E004", exit_code=128 + number)
    assert error.message == (
        f"{'interrupted' if number == signal.SIGINT else 'ended'} by {number.name}"
    )
    assert error.hint == "Nothing half-written counts; run the same command again."
    assert outcome.out == ""
    wait_until_nobody_reads(source)
    assert assert_only_whole_backups(workbench) == []
    assert list((workbench.repository / "tmp").glob("*")) == []
    workbench.pgkeep("backup", "shop")
    assert len(backups(workbench)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restore_that_is_ended_leaves_a_mark_and_the_next_one_says_so(
    workbench: Workbench, new_database: NewDatabase, number: signal.Signals
) -> None:
    source, target = new_database(), new_database()
    load_statements(source, WIDE)
    backup = first_backup(workbench, source)
    arguments = ("restore", "shop", "--target", target)
    process = start(workbench, *arguments, code=SLOW_LOADS + MAIN)
    wait_until(lambda: loading(target), "rows are loaded")
    process.send_signal(number)
    outcome = finished(process)
    if number == signal.SIGKILL:
        assert outcome.code == -number
    else:
        told(outcome, "E004", exit_code=128 + number)
    wait_until_nobody_reads(target)
    error = told(workbench.pgkeep(*arguments, expect=None), "E041")
    assert f"pgkeep: incomplete: restore of {backup} began 20" in error.hint
    assert error.hint.endswith("Drop it and create it again.")
    workbench.pgkeep("restore", "shop", "--target", new_database())


def loading(url: str) -> bool:
    """Whether rows go into a target now."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND state = 'active' AND query LIKE 'COPY %FROM STDIN%' AND pid <> pg_backend_pid()"
        ).fetchall()
    return bool(rows)


# --- connections ----------------------------------------------------------------------------


READERS = "query LIKE 'COPY (%'"
COORDINATOR = (
    "backend_start = (SELECT min(backend_start) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'pgkeep')"
)


def terminate(url: str, which: str) -> int:
    """End sessions of pgkeep as an administrator would; how many."""
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'pgkeep'"
            f" AND pid <> pg_backend_pid() AND {which}".encode()
        ).fetchall()
    return len(rows)


@pytest.mark.parametrize("which", [READERS, COORDINATOR], ids=["readers", "coordinator"])
def test_a_session_that_is_terminated_ends_the_backup(
    workbench: Workbench, new_database: NewDatabase, which: str
) -> None:
    source = new_database()
    load_statements(source, WIDE)
    workbench.init(source)
    process = start(workbench, "backup", "shop", code=SLOW_READS + MAIN)
    wait_until(lambda: bool(copying(source)), "rows are read")
    assert terminate(source, which) >= 1
    outcome = finished(process)
    error = told(outcome, "E024")
    assert re.search(
        "was lost: (terminating connection due to administrator command|.*server closed the"
        " connection unexpectedly|the session that holds the snapshot has ended)",
        error.message,
    )
    assert error.hint == "Run the same command again; nothing that was stored is lost."
    wait_until_nobody_reads(source)
    assert assert_only_whole_backups(workbench) == []
    workbench.pgkeep("backup", "shop")


def test_a_server_that_crashes_ends_the_backup(
    workbench: Workbench, new_database: NewDatabase
) -> None:
    with ScratchServer.start(choose_server(17)) as server:
        load_statements(server.url(), WIDE)
        workbench.init(server.url())
        process = start(workbench, "backup", "shop", code=SLOW_READS + MAIN)
        wait_until(lambda: bool(copying(server.url())), "rows are read")
        server.kill()
        outcome = finished(process)
        assert outcome.code == 1
        told(outcome, "E024")
        server.restart()
        assert assert_only_whole_backups(workbench) == []
        workbench.pgkeep("backup", "shop")


def test_terminated_sessions_of_a_restore_leave_a_mark(
    workbench: Workbench, new_database: NewDatabase
) -> None:
    source, target = new_database(), new_database()
    load_statements(source, WIDE)
    backup = first_backup(workbench, source)
    arguments = ("restore", "shop", "--target", target)
    process = start(workbench, *arguments, code=SLOW_LOADS + MAIN)
    wait_until(lambda: loading(target), "rows are loaded")
    assert terminate(target, "query LIKE 'COPY %'") >= 1
    error = told(finished(process), "E024")
    assert "was lost: " in error.message
    assert error.hint == (
        "The target is incomplete: drop it and create it again before the next try."
    )
    wait_until_nobody_reads(target)
    error = told(workbench.pgkeep(*arguments, expect=None), "E041")
    assert f"pgkeep: incomplete: restore of {backup} began" in error.hint


def through(url: str, port: int) -> str:
    """The same database, reached over another port."""
    return url.replace(f":{conninfo_to_dict(url)['port']}/", f":{port}/")


def test_a_connection_that_is_cut_ends_backup_and_restore(
    workbench: Workbench, new_database: NewDatabase
) -> None:
    source, target = new_database(), new_database()
    load_statements(source, WIDE)
    workbench.init(source)
    with proxy_to(int(str(conninfo_to_dict(source)["port"]))) as proxy:
        proxy.limit_bytes = 8 << 20
        workbench.monkeypatch.setenv("SHOP_DATABASE_URL", through(source, proxy.port))
        error = told(workbench.pgkeep("backup", "shop", expect=None), "E024")
        assert "was lost" in error.message
        assert backups(workbench) == []
        proxy.limit_bytes = None
        workbench.pgkeep("backup", "shop")
        proxy.limit_bytes = proxy.passed_bytes + (4 << 20)
        url = through(target, proxy.port)
        outcome = workbench.pgkeep("restore", "shop", "--target", url, expect=None)
        error = told(outcome, "E024")
        assert "The target is incomplete" in error.hint
    wait_until_nobody_reads(source)
    wait_until_nobody_reads(target)
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", source)
    assert_only_whole_backups(workbench)
    workbench.pgkeep("restore", "shop", "--target", new_database())


@pytest.mark.timeout(60)
def test_a_connection_that_stalls_is_given_up_when_the_snapshot_is_held_too_long(
    workbench: Workbench, new_database: NewDatabase
) -> None:
    source = new_database()
    load_statements(source, WIDE)
    workbench.init(source)
    configure(workbench, "[backup]", "max_snapshot_hours = 0.001")
    with proxy_to(int(str(conninfo_to_dict(source)["port"]))) as proxy:
        workbench.monkeypatch.setenv("SHOP_DATABASE_URL", through(source, proxy.port))
        process = start(workbench, "backup", "shop", code=SLOW_READS + MAIN)
        wait_until(lambda: proxy.passed_bytes > 4 << 20, "rows are read")
        proxy.stalled = True
        error = told(finished(process, seconds=30), "E026")
        assert "its snapshot holds back the source's vacuum" in error.message
        assert "max_snapshot_hours" in error.hint
    wait_until_nobody_reads(source)


# --- secrets --------------------------------------------------------------------------------


@contextmanager
def watched(mark: str, secrets_: list[bytes]) -> Iterator[list[str]]:
    """Looks all the time at the arguments and environments of marked processes."""
    found: list[str] = []
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for pid in processes_with(mark):
                for name in ("cmdline", "environ"):
                    with suppress(OSError):
                        data = Path(f"/proc/{pid}/{name}").read_bytes()
                        seen.add(Path(f"/proc/{pid}/comm").read_text().strip())
                        found.extend(f"{pid} {name}: {data!r}" for one in secrets_ if one in data)
            over.wait(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
    assert {"psql", "pg_dump"} <= seen, f"the watcher saw only {seen}"


def test_no_secret_and_no_row_is_in_arguments_environments_output_or_files(
    workbench: Workbench, new_database: NewDatabase
) -> None:
    source, target = new_database(), new_database()
    load_statements(source, (*SMALL_SHOP, *WIDE))
    workbench.init(source)
    password = str(conninfo_to_dict(source)["password"])
    kept = workbench.folder / "secrets"
    kept.mkdir()
    for name, url in (("source", source), ("target", target)):
        (kept / name).write_text(url)
        (kept / name).chmod(0o600)
    text = workbench.config.read_text()
    workbench.config.write_text(
        text.replace('{ env = "SHOP_DATABASE_URL" }', f'{{ file = "{kept / "source"}" }}')
    )
    workbench.monkeypatch.delenv("SHOP_DATABASE_URL")
    mark = f"PGTEST_{secrets.token_hex(8)}"
    workbench.monkeypatch.setenv(mark, "1")
    outcomes = []
    identity = workbench.identity.read_bytes().split()[-1]
    hidden = [password.encode(), ROW_MARK.encode(), identity]
    with watched(mark, hidden) as found:
        for arguments, slow in (
            (("backup", "shop", "--debug"), SLOW_READS),
            (("restore", "shop", "--target", f"file:{kept / 'target'}", "--debug"), SLOW_LOADS),
        ):
            process = start(workbench, *arguments, code=slow + MAIN)
            outcomes.append(finished(process))
    assert found == []
    for outcome in outcomes:
        assert outcome.code == 0, outcome
        for secret in hidden:
            assert secret.decode() not in outcome.out + outcome.err
    files = [
        path
        for folder in (workbench.repository, workbench.state)
        for path in folder.rglob("*")
        if path.is_file()
    ]
    assert len(files) > 15
    for path in files:
        data = path.read_bytes()
        for secret in hidden:
            assert secret not in data, path
    assert readable_by_others([workbench.repository, workbench.state]) == []


def test_files_are_private_whatever_the_umask(
    workbench: Workbench, new_database: NewDatabase
) -> None:
    before = os.umask(0)
    try:
        source = small_shop(workbench, new_database)
        workbench.pgkeep("backup", "shop")
        workbench.pgkeep("export", "shop", "-o", str(workbench.folder / "dump.sql.gz"))
    finally:
        os.umask(before)
    assert readable_by_others([workbench.repository, workbench.state]) == []
    for name in ("pgkeep.toml", "pgkeep-identity.txt", "dump.sql.gz"):
        assert (workbench.folder / name).stat().st_mode & 0o777 == 0o600
    assert value(source, "SELECT 1") == 1


def test_debug_shows_a_traceback_and_no_secret(
    workbench: Workbench, new_database: NewDatabase
) -> None:
    source = new_database()
    workbench.init(source)
    run_sql(source, "CREATE TABLE t AS SELECT 1 AS n")
    password = str(conninfo_to_dict(source)["password"])
    wrong = source.replace(password, "Wr0ngSecret")
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", wrong)
    outcome = workbench.pgkeep("backup", "shop", "--debug", expect=1)
    assert "Traceback" in outcome.err
    assert "Wr0ngSecret" not in outcome.err
