"""After a full run no secret is anywhere: not in a file, an output, a message, a command line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from comparison import load_statements
from conftest import Workbench
from failures import SMALL_SHOP
from object_servers import ACCESS_KEY, SECRET_KEY, S3Server
from pgkeep.postgres.server import ScratchServer
from receivers import Receiver, free_port, http_receiver

DATABASE, WEBHOOK, PING, SIGNING, MAIL = (
    "s3cret-of-the-database", "T0KEN-of-slack", "T0KEN-of-the-ping", "s3cret-that-signs",
    "s3cret-of-the-mail",
)  # fmt: skip


@dataclass
class Seen:
    """What anybody could have seen meanwhile."""

    command_lines: set[str] = field(default_factory=set)
    outputs: list[str] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as receiver:
        yield receiver


@contextmanager
def watching(seen: Seen) -> Iterator[None]:
    """Every command line on this machine, again and again."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    name = path.with_name("comm").read_text().strip()
                    if name in ("psql", "pg_dump", "pg_dumpall", "pg_restore"):
                        environment = path.with_name("environ").read_bytes()
                        seen.outputs.append(f"environment of {name}: {environment!r}")
                    seen.command_lines.add(path.read_bytes().replace(b"\0", b" ").decode("latin-1"))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def run(seen: Seen, workbench: Workbench, *arguments: str) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "pgkeep", *arguments, "--config", str(workbench.config), "--debug"],
        capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    seen.outputs.append(f"{arguments}: {done.stdout}{done.stderr}")
    return done.returncode


def role(server: ScratchServer, password: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS keeper_of_secrets")
        connection.execute(
            f"CREATE ROLE keeper_of_secrets SUPERUSER LOGIN PASSWORD '{password}'".encode()
        )


def configured(workbench: Workbench, url: str, s3: S3Server, receiver: Receiver) -> None:
    workbench.init(url)
    key = workbench.folder / "keys" / "s3.key"
    key.parent.mkdir()
    key.write_text(SECRET_KEY)
    key.chmod(0o600)
    environment = {"SLACK": f"{receiver.url}/{WEBHOOK}", "PING": f"{receiver.url}/{PING}",
                   "SIGNING": SIGNING, "MAIL": MAIL}  # fmt: skip
    for name, value in environment.items():
        workbench.monkeypatch.setenv(name, value)
    workbench.config.write_text(
        workbench.config.read_text()
        + f"""
[repositories.far]
url = "s3://{s3.new_bucket()}/shops"
endpoint = "{s3.endpoint}"
access_key_id = "{ACCESS_KEY}"
secret_access_key = {{ file = "{key}" }}
[notify]
slack = [{{ env = "SLACK" }}]
ping = {{ env = "PING" }}
[notify.webhooks.mine]
url = "{receiver.url}/hook"
secret = {{ env = "SIGNING" }}
[notify.mail]
server = "127.0.0.1:{free_port()}"
security = "none"
to = ["a@example.com"]
sender = "b@example.com"
user = "c"
password = {{ env = "MAIL" }}
[keeper]
watch_seconds = 1
capture = false
"""
    )


def everything(seen: Seen, workbench: Workbench, empty: Callable[[], str]) -> None:
    """Each command once, as it should go."""
    workbench.monkeypatch.setenv("TARGET_URL", as_keeper(empty()))
    export = str(workbench.folder / "keys" / "export.sql")
    for command in (
        ("doctor",), ("backup", "shop"), ("backup", "shop", "--json"), ("list",), ("show", "shop"),
        ("status",), ("verify", "--read", "all"), ("prune",), ("sync",), ("drill", "shop"),
        ("restore", "shop", "--target", "env:TARGET_URL"), ("export", "shop", "-o", export),
        ("ledger",), ("policy", "writer", "far"), ("schedule", "--systemd"), ("runbook", "shop"),
    ):  # fmt: skip
        code = run(seen, workbench, *command)
        assert code in (0, 3), seen.outputs[-1]


def what_fails(seen: Seen, workbench: Workbench, server: ScratchServer) -> None:
    """The same with a wrong password, nobody there, nothing that proves who it is, no database."""
    port = server.port
    for url in (
        f"postgresql://keeper_of_secrets:{DATABASE}-wrong@127.0.0.1:{port}/postgres",
        f"postgresql://keeper_of_secrets:{DATABASE}@127.0.0.1:{free_port()}/postgres",
        f"postgresql://keeper_of_secrets:{DATABASE}@localhost:{port}/postgres?sslmode=verify-full",
        f"postgresql://keeper_of_secrets:{DATABASE}@127.0.0.1:{port}/no-such-database",
        f"postgresql://keeper_of_secrets:{DATABASE}@db.invalid/postgres",
        f"postgresql://keeper_of_secrets:{DATABASE}@x@127.0.0.1/postgres",
    ):
        workbench.monkeypatch.setenv("SHOP_DATABASE_URL", url)
        for command in (("backup", "shop"), ("doctor",), ("restore", "shop", "--target", url)):
            if command[0] == "restore":  # what a user writes there, the user shows
                workbench.monkeypatch.setenv("TARGET_URL", url)
                command = ("restore", "shop", "--target", "env:TARGET_URL")
            run(seen, workbench, *command)


def keep_for_a_moment(seen: Seen, workbench: Workbench, receiver: Receiver) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "pgkeep", "run", "--config", str(workbench.config), "--metrics",
         f"127.0.0.1:{port}"],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    seen.outputs.append(metrics(port))
    time.sleep(3)
    process.terminate()
    out, err = process.communicate(timeout=60)
    seen.outputs.append(out + err)
    run(seen, workbench, "run", "--test-notify")
    assert receiver.requests, "nobody was told anything"


def metrics(port: int) -> str:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            assert time.monotonic() < deadline, "no metrics"
            time.sleep(0.1)


def as_keeper(url: str) -> str:
    """The same database, as the role whose password is known to this test alone."""
    head, _, tail = url.partition("@")
    assert head
    return f"postgresql://keeper_of_secrets:{DATABASE}@{tail}"


def test_after_a_full_run_no_secret_is_anywhere(
    workbench: Workbench,
    server: ScratchServer,
    new_database: Callable[[], str],
    rclone: S3Server,
    receiver: Receiver,
) -> None:
    role(server, DATABASE)
    url = new_database()
    load_statements(url, SMALL_SHOP)
    configured(workbench, as_keeper(url), rclone, receiver)
    seen = Seen()
    with watching(seen):
        everything(seen, workbench, new_database)
        keep_for_a_moment(seen, workbench, receiver)
        what_fails(seen, workbench, server)
    identity = next(
        line for line in workbench.identity.read_text().splitlines() if line.startswith("AGE-")
    )
    secrets = [DATABASE, WEBHOOK, PING, SIGNING, MAIL, SECRET_KEY, identity]
    found = [*leaks_in_files(workbench, rclone, secrets), *leaks_in_what_was_seen(seen, secrets)]
    found += [
        f"a message: {secret}"
        for secret in secrets
        for one in receiver.requests
        if secret in one.body.decode() or secret in str(one.headers)
    ]
    assert found == []
    assert len(seen.command_lines) > 20
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("REASSIGN OWNED BY keeper_of_secrets TO CURRENT_USER")


def leaks_in_files(workbench: Workbench, s3: S3Server, secrets: list[str]) -> Iterator[str]:
    """Everything that was written, but for what the user wrote: the identity, keys, an export."""
    folders = [workbench.folder, *([s3.folder] if s3.folder else [])]
    for folder in folders:
        for path in folder.rglob("*"):
            if not path.is_file() or path == workbench.identity or path.parent.name == "keys":
                continue
            data = path.read_bytes()
            for secret in secrets:
                if secret.encode() in data:
                    yield f"{path}: {secret}"


def leaks_in_what_was_seen(seen: Seen, secrets: list[str]) -> Iterator[str]:
    for secret in secrets:
        for line in seen.command_lines:
            if secret in line and "rclone serve" not in line:  # the server of the test itself
                yield f"a command line: {secret} in {line[:200]}"
        for output in seen.outputs:
            if secret in output:
                at = output.index(secret)
                yield f"an output: {secret} in {output[:60]} ... {output[max(at - 200, 0) : at]}"


def test_a_wrong_setting_beside_a_secret_does_not_show_it(workbench: Workbench) -> None:
    workbench.init("postgresql://localhost/x")
    text = workbench.config.read_text()
    workbench.config.write_text(text + f'\n[notify.mail]\npassword = "{MAIL}"\nhost = "h"\n')
    seen = Seen()
    assert run(seen, workbench, "list") == 2
    assert MAIL not in seen.outputs[0]
    assert "notify.mail" in seen.outputs[0]


def test_a_crash_leaves_no_core_file(workbench: Workbench) -> None:
    script = (
        "import resource, sys\n"
        "from pgkeep.cli import main\n"
        "sys.argv = ['pgkeep', '--version']\n"
        "try:\n    main.main()\nexcept SystemExit:\n    pass\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.splitlines()[-1] in ("(1, 1)", "(0, 0)")
