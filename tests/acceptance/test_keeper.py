"""The keeper on a real database: it works by itself, tells, ends cleanly, survives a kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from comparison import load_statements
from conftest import Workbench
from failures import SMALL_SHOP
from receivers import Receiver, free_port, http_receiver

PATIENCE_SECONDS = 30


@dataclass
class Running:
    """A keeper of a test's own."""

    process: subprocess.Popen[str]
    workbench: Workbench

    def until(self, what: Callable[[], object], why: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not what():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, f"never: {why}\n{self.state()}"
            time.sleep(0.1)

    def state(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.workbench.state / "keeper.json").read_bytes())
        return found

    def run(self, job: str) -> dict[str, object] | None:
        runs = self.state()["runs"]
        assert isinstance(runs, dict)
        return runs.get(job)

    def end(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0, err
        return err


@contextmanager
def keeper(workbench: Workbench, *options: str) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pgkeep", "run", "--config", str(workbench.config), *options],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Running(process, workbench)
    finally:
        process.kill()
        process.communicate()


def children_of(pid: int) -> set[int]:
    """Every process below it."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            child = int(stat.parent.name)
            found |= {child} | children_of(child)
    return found


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def configure(workbench: Workbench, text: str) -> None:
    with workbench.config.open("a") as config:
        config.write(text)


NOTHING = "".join(
    f'{task} = ""\n'
    for task in (
        "schema", "data", "weekly", "monthly", "drill", "recovery_test", "verify", "sync", "prune",
        "audit", "review",
    )
)  # fmt: skip


@pytest.fixture
def shop(workbench: Workbench, new_database: Callable[[], str]) -> str:
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    return url


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as found:
        yield found


def manifests(workbench: Workbench) -> list[Path]:
    return list(workbench.repository.glob("shop/**/manifest.json"))


def test_it_makes_the_first_backup_at_once_shows_metrics_and_ends_cleanly(
    workbench: Workbench, shop: str, receiver: Receiver
) -> None:
    port = free_port()
    configure(workbench, f'[notify]\nping = "{receiver.url}/p"\n[keeper]\ncapture = false\n')
    with keeper(workbench, "--metrics", f"127.0.0.1:{port}") as running:
        running.until(lambda: manifests(workbench), "a first backup")
        running.until(lambda: running.run("full-shop"), "the job is noted")
        run = running.run("full-shop")
        assert run is not None
        assert run["exit_code"] == 0

        def metrics() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                text: str = answer.read().decode()
                return text

        running.until(lambda: 'pgkeep_backups{database="shop",kind="full"} 1.0' in metrics(), "it")
        assert 'pgkeep_job_exit_code{database="shop",job="full-shop"} 0.0' in metrics()
        # Another of the same state folder is refused.
        assert "E080" in workbench.pgkeep("run", expect=1).err
        running.until(lambda: len(receiver.paths) == 2, "pings")
        children = children_of(running.process.pid)
        told = running.end()
    assert "keeps shop; what is next: pgkeep schedule" in told
    assert receiver.paths == ["/p/full-shop/start", "/p/full-shop"]
    assert not any(is_alive(pid) for pid in children)
    assert (workbench.state / "keeper.json").stat().st_mode & 0o077 == 0
    document = workbench.pgkeep("schedule", "--json").document
    assert isinstance(document, list)
    assert {one["job"]: one["succeeded"] is not None for one in document}["full-shop"]


def test_it_captures_changes_and_what_is_missed_is_told_to_slack_and_told_when_over(
    workbench: Workbench, shop: str, receiver: Receiver
) -> None:
    configure(
        workbench,
        f'[notify]\nslack = ["{receiver.url}/slack"]\n[keeper]\nwatch_seconds = 1\n'
        f'[schedule]\n{NOTHING}full = ""\n',
    )
    receiver.answers = [500]  # the first try fails, and nothing is lost
    with keeper(workbench) as running:
        running.until(lambda: manifests(workbench), "capture asks for a first backup")
        running.until(
            lambda: list(workbench.repository.glob("shop/journal/**/*")), "segments of the journal"
        )
        running.until(lambda: len(receiver.requests) >= 3, "told, again, and told when over")
        children = children_of(running.process.pid)
        running.end()
    assert not any(is_alive(pid) for pid in children)
    texts = [one.document["text"] for one in receiver.requests]
    assert "there is no backup of shop" in texts[0]
    assert texts[0] == texts[1]
    assert any("over" in text and "there is no backup" in text for text in texts[2:])
    (status,) = json.loads(workbench.pgkeep("status", "--json", expect=None).out)
    assert status["loss_window_seconds"] < 60
    workbench.pgkeep("capture", "shop", "--remove", "--yes")


def test_after_a_kill_nothing_goes_on_that_nobody_watches_and_nothing_is_lost(
    workbench: Workbench, shop: str
) -> None:
    configure(workbench, f'[keeper]\ncapture = false\n[schedule]\n{NOTHING}full = "0 6 * * *"\n')
    with psycopg.connect(shop) as blocker:
        blocker.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        with keeper(workbench) as running:
            running.until(
                lambda: (workbench.state / "logs" / "full-shop.log").exists(), "a backup begins"
            )
            children = children_of(running.process.pid)
            assert children
            running.process.kill()
            running.process.wait()
            deadline = time.monotonic() + 20
            while any(is_alive(pid) for pid in children) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not any(is_alive(pid) for pid in children)
        blocker.rollback()
    assert manifests(workbench) == []
    with keeper(workbench) as running:
        running.until(lambda: manifests(workbench), "the next keeper makes up for it")
        running.until(lambda: running.run("full-shop"), "and notes it")
        running.end()
    assert workbench.pgkeep("verify", "--json").code == 0


def test_a_backup_that_runs_is_waited_for_and_a_second_signal_ends_it(
    workbench: Workbench, shop: str
) -> None:
    configure(workbench, f'[keeper]\ncapture = false\n[schedule]\n{NOTHING}full = "0 6 * * *"\n')
    with psycopg.connect(shop) as blocker:
        blocker.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        with keeper(workbench) as running:
            log = workbench.state / "logs" / "full-shop.log"
            running.until(log.exists, "a backup begins")
            time.sleep(1)
            running.process.send_signal(signal.SIGTERM)
            time.sleep(1)
            assert running.process.poll() is None, "it waits"
            blocker.rollback()
            _, err = running.process.communicate(timeout=PATIENCE_SECONDS)
            assert running.process.returncode == 0
            assert "waiting for full-shop" in err
    assert len(manifests(workbench)) == 1

    with psycopg.connect(shop) as blocker:
        state = workbench.state / "keeper.json"
        kept = json.loads(state.read_bytes())
        kept["pasts"] = {}
        kept["since"] = "2020-01-01T00:00:00Z"
        state.write_text(json.dumps(kept))
        manifests(workbench)[0].unlink()
        blocker.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        log.unlink()
        with keeper(workbench) as running:
            running.until(log.exists, "a backup begins")
            time.sleep(1)
            children = children_of(running.process.pid)
            for _ in range(2):
                running.process.send_signal(signal.SIGTERM)
                time.sleep(0.5)
            running.process.communicate(timeout=PATIENCE_SECONDS)
            assert running.process.returncode == 0
            assert not any(is_alive(pid) for pid in children)
    assert manifests(workbench) == []


def test_a_test_message_is_sent_to_everybody(
    workbench: Workbench, shop: str, receiver: Receiver
) -> None:
    assert "nobody is told" in workbench.pgkeep("run", "--test-notify", expect=2).err
    configure(workbench, f'[notify]\nslack = ["{receiver.url}/a", "{receiver.url}/b"]\n')
    workbench.pgkeep("run", "--test-notify")
    assert receiver.paths == ["/a", "/b"]
    receiver.status = 404
    outcome = workbench.pgkeep("run", "--test-notify", expect=3)
    assert "answered 404" in outcome.err


def test_metrics_that_cannot_be_listened_for_are_an_error(
    workbench: Workbench, shop: str, receiver: Receiver
) -> None:
    address = receiver.url.removeprefix("http://")
    assert "E084" in workbench.pgkeep("run", "--metrics", address, expect=1).err
    assert os.environ.get("PGKEEP_KEEPER_PID") is None
