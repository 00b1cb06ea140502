"""A limit to what is read from the database: kept over all readers, and in nobody's way."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable

import pytest

from comparison import assert_same, load_statements, take_picture
from conftest import Workbench
from failures import (
    MAIN,
    SMALL_SHOP,
    configure,
    finished,
    start,
    told,
    wait_until,
    wait_until_nobody_reads,
)
from pgkeep.backup import read
from pgkeep.pacing import Pace

NewDatabase = Callable[[], str]

LIMIT = 1_000_000


def test_all_readers_together_keep_the_limit(
    workbench: Workbench, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that stands still: the longest wait is that for all bytes of rows."""
    waits: list[float] = []
    mutex = threading.Lock()

    def wait(seconds: float) -> None:
        with mutex:
            waits.append(seconds)
        time.sleep(0.005)  # psql and the server have to wait for us now and then

    def pace(limit: int | None, **_: object) -> Pace:
        return Pace(limit, sleep=wait, clock=lambda: 0.0)

    monkeypatch.setattr(read, "Pace", pace)
    source, target = new_database(), new_database()
    load_statements(source, SMALL_SHOP)
    workbench.init(source)
    configure(workbench, "[backup]", "part_pages = 16", 'read_limit = "1MB"')
    document = json.loads(workbench.pgkeep("backup", "shop", "--kind", "data", "--json").out)
    assert len(waits) > 10
    assert max(waits) == pytest.approx(document["bytes_read"] / LIMIT)
    workbench.pgkeep("backup", "shop")
    workbench.pgkeep("restore", "shop", "--target", target)
    assert_same(take_picture(source), take_picture(target))


def test_a_backup_that_waits_for_its_limit_can_be_ended(
    workbench: Workbench, new_database: NewDatabase
) -> None:
    source = new_database()
    load_statements(source, SMALL_SHOP)
    workbench.init(source)
    configure(workbench, "[backup]", "read_limit = 10")
    process = start(workbench, "backup", "shop", "--debug", code=TELLS + MAIN)
    errors = process.stderr
    assert errors is not None
    wait_until(lambda: "waits" in errors.readline(), "it waits")
    process.send_signal(signal.SIGINT)
    told(finished(process, seconds=30), "E004", exit_code=130)
    wait_until_nobody_reads(source)


TELLS = """
import sys
from pgkeep.backup import read
class Pace(read.Pace):
    def wait_after(self, size):
        print("waits", file=sys.stderr, flush=True)
        super().wait_after(size)
read.Pace = Pace
"""
