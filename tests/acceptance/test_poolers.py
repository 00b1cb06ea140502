"""Through a real PgBouncer: session mode works, transaction mode is refused with the remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from conftest import Workbench
from failures import configure, run_sql, told, wait_until
from journal import JournalReader
from object_servers import free_port
from pgkeep.postgres.server import ScratchServer

NewDatabase = Callable[[], str]


@contextmanager
def pgbouncer(server: ScratchServer, mode: str, pool: int = 20) -> Iterator[int]:
    """PgBouncer before a server; its port."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "pgbouncer is not installed: apt-get install pgbouncer"
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="pgkeep-pooler-"))
    (folder / "users").write_text(f'"postgres" "{server.password}"\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {folder}/users\npool_mode = {mode}\n"
        f"default_pool_size = {pool}\nlogfile = {folder}/log\n"
    )
    command = [program, str(folder / "ini")]
    if os.geteuid() == 0:  # it refuses root
        for path in (folder, folder / "users", folder / "ini"):
            shutil.chown(path, "nobody")
        command[1:1] = ["--user", "nobody"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            psycopg.connect(server.url().replace(f":{server.port}/", f":{port}/")).close()
        except psycopg.Error:
            return False
        return True

    try:
        wait_until(answers, "pgbouncer answers")
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)
        shutil.rmtree(folder)


@pytest.mark.parametrize("plugin", ["pgoutput", "test_decoding"])
def test_session_mode_works_for_backup_capture_status_and_restore(
    workbench: Workbench, server: ScratchServer, new_database: NewDatabase, plugin: str
) -> None:
    source, target = new_database(), new_database()
    run_sql(source, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'a')")
    with pgbouncer(server, "session") as port:
        workbench.init(source.replace(f":{server.port}/", f":{port}/"))
        configure(workbench, "[capture]", "backups = false", f'plugin = "{plugin}"')
        workbench.pgkeep("backup", "shop")
        workbench.pgkeep("capture", "shop", "--once")
        run_sql(source, "INSERT INTO t VALUES (2, 'b')")
        workbench.pgkeep("capture", "shop", "--once")
        workbench.pgkeep("status")
        workbench.pgkeep(
            "restore", "shop", "--target", target.replace(f":{server.port}/", f":{port}/")
        )
        workbench.pgkeep("capture", "shop", "--remove", "--yes")
    (transaction,) = JournalReader(workbench).newest()
    assert len(transaction.rows("public.t")) == 1
    with psycopg.connect(target) as connection:
        assert connection.execute("SELECT v FROM t").fetchall() == [("a",)]


@pytest.mark.parametrize("pool", [1, 20])
def test_transaction_mode_is_refused(
    pool: int,
    workbench: Workbench,
    server: ScratchServer,
    new_database: NewDatabase,
) -> None:
    source = new_database()
    with pgbouncer(server, "transaction", pool) as port:
        workbench.init(source.replace(f":{server.port}/", f":{port}/"))
        for command in (("backup", "shop"), ("capture", "shop", "--once")):
            refused = told(workbench.pgkeep(*command, expect=1), "E014")
            assert "transaction pooler" in refused.message
            assert "session" in refused.hint


def test_a_session_pooler_with_one_server_is_not_taken_for_another_kind(
    workbench: Workbench, server: ScratchServer, new_database: NewDatabase
) -> None:
    source = new_database()
    run_sql(source, "CREATE TABLE t (id int PRIMARY KEY)")
    with pgbouncer(server, "session", 1) as port:
        workbench.init(source.replace(f":{server.port}/", f":{port}/"))
        configure(workbench, "[capture]", "backups = false")
        workbench.pgkeep("capture", "shop", "--once")
        workbench.pgkeep("capture", "shop", "--remove", "--yes")
