"""What tests of things that go wrong share: how an error must look, a small shop, ways to harm."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from conftest import Outcome, Workbench
from pgkeep.repository.hostkeys import HostKeys
from pgkeep.repository.manifests import load_manifest
from pgkeep.repository.repository import Repository
from pgkeep.stores import LocalStore

ROW_MARK = "this-row-must-not-be-readable-anywhere"

# Three tables of several parts each (a part is 16 pages in these tests), a foreign key, a large
# object, a view, a sequence: everything that a backup has a step for, in a moment.
SMALL_SHOP = (
    "CREATE TABLE users (id integer PRIMARY KEY, name text NOT NULL)",
    "CREATE TABLE orders (id serial PRIMARY KEY, user_id integer NOT NULL REFERENCES users,"
    " note text)",
    "CREATE TABLE notes (body text)",
    f"INSERT INTO users SELECT n, '{ROW_MARK}-' || n FROM generate_series(1, 3000) n",
    "INSERT INTO orders (user_id, note) SELECT 1 + n % 3000, md5(n::text)"
    " FROM generate_series(1, 6000) n",
    "INSERT INTO notes SELECT repeat(md5(n::text), 20) FROM generate_series(1, 500) n",
    "CREATE MATERIALIZED VIEW totals AS SELECT user_id, count(*) FROM orders GROUP BY user_id",
    "SELECT lo_from_bytea(70001, decode(repeat('abcd', 4000), 'hex'))",
)


@dataclass(frozen=True, slots=True)
class Told:
    """The one error that a command has told of."""

    message: str
    hint: str


def told(outcome: Outcome, code: str, *, exit_code: int = 1) -> Told:
    """The error in an outcome: exactly one, of this code, in the form that all errors have."""
    assert outcome.code == exit_code, outcome
    assert "Traceback" not in outcome.err, outcome.err
    lines = outcome.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    hints = [line for line in lines if line.startswith("HINT: ")]
    assert len(errors) == len(hints) == 1, outcome.err
    assert errors[0].startswith(f"error: [{code}] "), errors[0]
    message, hint = errors[0].partition("] ")[2], hints[0].removeprefix("HINT: ")
    assert not message.endswith("."), message
    assert message[0] == message[0].lower(), message
    assert hint.strip()
    assert len(message) < 800, message
    return Told(message, hint)


def configure(workbench: Workbench, *lines: str) -> None:
    """Add settings to the configuration that `init` wrote."""
    with workbench.config.open("a") as file:
        file.write("\n".join(("", *lines, "")))


def backups(workbench: Workbench) -> list[str]:
    """The ids that `list` shows, newest first."""
    document = workbench.pgkeep("list", "--json").document
    assert isinstance(document, list)
    return [item["backup"] for item in document]


def run_sql(url: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def sessions_of_pgkeep(url: str) -> list[tuple[object, ...]]:
    """What pgkeep and its programs have open on a server, seen from another database."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT pid, state, query FROM pg_stat_activity"
            " WHERE application_name IN ('pgkeep', 'psql', 'pg_dump', 'pg_dumpall')"
            " AND pid <> pg_backend_pid() AND datname = current_database()"
        ).fetchall()


def wait_until(holds: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
    """Wait for something that must come true."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"still not after {seconds} s: {what}"
        time.sleep(0.02)


def wait_until_nobody_reads(url: str) -> None:
    """No session of pgkeep may outlive it for long: some seconds, on a busy machine more."""
    wait_until(lambda: not sessions_of_pgkeep(url), "sessions of pgkeep are left", seconds=30)


def python(
    code: str, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """A Python process of its own that runs `code`."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )


MAIN = "import sys; from pgkeep.cli.main import main; main()"


def start(workbench: Workbench, *arguments: str, code: str = MAIN) -> subprocess.Popen[str]:
    """The real command line in a process of its own; `code` may set traps before it runs it."""
    return python(code, *arguments, "--config", str(workbench.config))


def finished(process: subprocess.Popen[str], *, seconds: float = 60) -> Outcome:
    """How a process ended; a negative code is the signal that killed it."""
    out, err = process.communicate(timeout=seconds)
    return Outcome(process.returncode, out, err)


@contextmanager
def lock_held(url: str, statement: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A transaction of somebody else that has run a statement and is still open."""
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())
        yield connection
        connection.rollback()


def manifest_path(workbench: Workbench, backup: str) -> Path:
    """Where a backup's manifest is."""
    (path,) = workbench.repository.glob(f"shop/*/*/{backup}/manifest.json")
    return path


def objects_of(workbench: Workbench, backup: str, table: str) -> list[Path]:
    """The stored files with a table's rows, as the backup's own table of contents names them."""
    repository = Repository("test", LocalStore(workbench.repository))
    data = manifest_path(workbench, backup).read_bytes()
    index = HostKeys(workbench.state).index_key()
    contents = repository.contents(load_manifest(data, name="test"), [index])
    streams = {str(item.name): [part.text for part in item.parts] for item in contents.tables}
    streams["large objects"] = [part.text for part in contents.large_objects.parts]
    streams["definitions"] = [contents.schema] if contents.schema else []
    return [
        workbench.repository / item.name.path
        for stream in streams[table]
        for item in stream.objects
    ]


def first_backup(workbench: Workbench, url: str) -> str:
    """Set up, back up, and the backup's id."""
    workbench.init(url)
    configure(workbench, "[backup]", "part_pages = 16", "lock_timeout_seconds = 1")
    document = json.loads(workbench.pgkeep("backup", "shop", "--json").out)
    return str(document["backup"])


@dataclass
class Proxy:
    """A TCP proxy to a server that can cut or stall what passes through it."""

    port: int
    passed_bytes: int = 0
    limit_bytes: int | None = None
    stalled: bool = False
    sockets: list[socket.socket] = field(default_factory=list)

    def cut(self) -> None:
        """End all connections, without a word."""
        for one in self.sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """A proxy on a free port of the loopback to a server on another."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(listener.getsockname()[1])

        def pump(source: socket.socket, sink: socket.socket, *, counted: bool) -> None:
            with suppress(OSError):
                while data := source.recv(16384):
                    while proxy.stalled:
                        time.sleep(0.02)
                    sink.sendall(data)
                    proxy.passed_bytes += len(data) if counted else 0
                    if proxy.limit_bytes is not None and proxy.passed_bytes >= proxy.limit_bytes:
                        proxy.cut()
            for one in (source, sink):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    server = socket.create_connection(("127.0.0.1", port))
                    proxy.sockets += [client, server]
                    for pair, counted in (((client, server), False), ((server, client), True)):
                        threading.Thread(
                            target=pump, args=pair, kwargs={"counted": counted}, daemon=True
                        ).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.stalled = False
            proxy.cut()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            time.sleep(0.05)
            for one in proxy.sockets:
                one.close()


def readable_by_others(folders: Sequence[Path]) -> list[Path]:
    """Files and folders that anybody but the owner may read, write or enter."""
    return [
        path
        for folder in folders
        for path in (folder, *folder.rglob("*"))
        if path.lstat().st_mode & 0o077
    ]
