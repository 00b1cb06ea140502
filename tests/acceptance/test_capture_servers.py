"""Capture when the server is another one than it was: promoted, or set back to an older disk."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from conftest import WHEELS, Workbench
from failures import configure, finished, run_sql, start, told, wait_until
from journal import JournalReader
from pgkeep.postgres.programs import choose_server
from pgkeep.postgres.server import ScratchServer
from pgkeep.postgres.slot import Position, Slot

EITHER_WAY = pytest.mark.parametrize("plugin", ["pgoutput", "test_decoding"])


@pytest.fixture(params=WHEELS)
def server(request: pytest.FixtureRequest) -> Iterator[ScratchServer]:
    with ScratchServer.start(choose_server(request.param)) as server:
        yield server


@pytest.fixture
def reader(workbench: Workbench) -> JournalReader:
    return JournalReader(workbench)


def ready(workbench: Workbench, server: ScratchServer, plugin: str) -> None:
    run_sql(server.url(), "CREATE TABLE ticks (n bigint PRIMARY KEY)")
    workbench.init(server.url())
    configure(
        workbench, "[capture]", "backups = false", "poll_seconds = 0.05", f'plugin = "{plugin}"'
    )
    capture(workbench)


def capture(workbench: Workbench) -> dict[str, object]:
    document = workbench.pgkeep("capture", "shop", "--once", "--json").document
    assert isinstance(document, dict)
    return document


def tick(server: ScratchServer, *numbers: int) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("SET synchronous_commit = on")  # a slot gives what is flushed
        for n in numbers:
            connection.execute("INSERT INTO ticks VALUES (%s)", (n,))


def ticks_of_each_run(reader: JournalReader) -> list[list[int]]:
    return [
        [
            int(bytes(row[0]))  # type: ignore[arg-type]
            for transaction in reader.transactions(run)
            for row in transaction.rows("public.ticks")
        ]
        for run in reader.runs
    ]


def data(server: ScratchServer) -> Path:
    return server.directory / "data"


def become_standby(server: ScratchServer) -> None:
    """It follows nobody, and waits to be promoted."""
    (data(server) / "standby.signal").touch()
    server.restart()


def promote(server: ScratchServer) -> None:
    run_sql(server.url(), "SELECT pg_promote()")


@EITHER_WAY
@pytest.mark.parametrize("ticks_between", [0, 3])
def test_a_disk_that_is_set_back_begins_a_new_chain(
    workbench: Workbench,
    server: ScratchServer,
    reader: JournalReader,
    plugin: str,
    ticks_between: int,
) -> None:
    """A platform puts an older snapshot of the disk back: the same server, the same timeline."""
    ready(workbench, server, plugin)
    tick(server, 1)
    capture(workbench)
    server.kill()
    older = server.directory / "older"
    subprocess.run(["cp", "-a", data(server), older], check=True)
    server.restart()
    tick(server, *range(2, 40))
    capture(workbench)
    assert ticks_of_each_run(reader) == [list(range(1, 40))]

    server.kill()
    shutil.rmtree(data(server))
    older.rename(data(server))
    server.restart()
    time.sleep(1)  # names tell times to the second
    tick(server, *range(100, 100 + ticks_between))
    assert capture(workbench)["new_chain"] is True
    tick(server, 200)
    assert capture(workbench)["new_chain"] is False
    assert ticks_of_each_run(reader)[-1][-1] == 200
    assert [n for run in ticks_of_each_run(reader)[:-1] for n in run] == list(range(1, 40))


def test_a_promoted_standby_begins_a_new_chain(
    workbench: Workbench, server: ScratchServer, reader: JournalReader
) -> None:
    ready(workbench, server, "pgoutput")
    process = start(workbench, "capture", "shop")
    tick(server, 1, 2)
    wait_until(lambda: ticks_of_each_run(reader) == [[1, 2]], "they are kept")
    become_standby(server)
    refused = told(workbench.pgkeep("capture", "shop", "--once", expect=1), "E070")
    assert "standby" in refused.message
    assert process.poll() is None, "it waits for the server to be promoted"
    promote(server)
    wait_until(lambda: len(reader.runs) == 2, "a new chain is begun")
    tick(server, 3)
    wait_until(lambda: ticks_of_each_run(reader)[-1][-1:] == [3], "it goes on")
    process.kill()
    finished(process)
    assert ticks_of_each_run(reader)[0] == [1, 2]


def test_a_clock_that_goes_back_is_told_and_hides_nothing_of_a_moment(
    workbench: Workbench, server: ScratchServer
) -> None:
    ready(workbench, server, "pgoutput")
    real = Slot.position

    def ahead(slot: Slot) -> Position:
        found = real(slot)
        return replace(found, at=found.at + timedelta(hours=2))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Slot, "position", ahead)
        tick(server, 1)
        capture(workbench)
    time.sleep(1)  # the first head tells to the second when the journal began
    workbench.pgkeep("backup", "shop")
    for n in (2, 3, 4):  # a segment for each
        tick(server, n)
        assert 0 <= capture(workbench)["behind_seconds"] < 3600  # type: ignore[operator]
    time.sleep(0.05)
    moment = datetime.now(UTC).isoformat()
    time.sleep(0.05)
    tick(server, 5)
    capture(workbench)
    status = workbench.pgkeep("status", expect=3)
    assert "it went back" in " ".join(status.out.split())
    documents = workbench.pgkeep("status", "--json", expect=3).document
    assert isinstance(documents, list)
    assert documents[0]["loss_window_seconds"] is None

    server.create_database("target")
    target = server.url("target")
    workbench.pgkeep("restore", "shop", "--to", moment, "--target", target)
    with psycopg.connect(target) as connection:
        found = connection.execute("SELECT n FROM ticks ORDER BY n").fetchall()
    assert found == [(1,), (2,), (3,), (4,)]
