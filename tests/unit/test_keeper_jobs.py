"""Running jobs and captures as processes, with programs that do what a test says."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgkeep.config import parse
from pgkeep.errors import KeeperRunning, StateUnwritable
from pgkeep.keeper.captures import Captures
from pgkeep.keeper.children import PARENT_VARIABLE, Child, Finished, Surroundings
from pgkeep.keeper.facts import BackupFact, DatabaseFacts, DrillFact
from pgkeep.keeper.jobs import Jobs, after, known_past
from pgkeep.keeper.look import Looker
from pgkeep.keeper.schedule import Job, Past, Task
from pgkeep.keeper.state import KeeperState, Run, StateFile, only_keeper
from pgkeep.model import Kind, Tier
from pgkeep.testing import FakeClock

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
PATIENCE_SECONDS = 20
FULL = Job(Task.FULL, "shop", "0 6 * * *", "UTC")
DATA = Job(Task.DATA, "shop", "0 6 * * *", "UTC")
REVIEW = Job(Task.REVIEW, "", "0 6 * * *", "UTC")


@pytest.fixture
def around(tmp_path: Path) -> Callable[[str], Surroundings]:
    def make(code: str) -> Surroundings:
        program = tmp_path / "program.py"
        program.write_text(f"import json, os, signal, sys, time\n{code}\n")
        config = tmp_path / "pgkeep.toml"
        return Surroundings(config, tmp_path / "logs", (sys.executable, str(program)))

    return make


def wait(child: Child) -> Finished:
    finished = child.wait(PATIENCE_SECONDS)
    assert finished is not None
    return finished


# --- children -------------------------------------------------------------------------------


def test_a_child_gives_its_answer_its_error_and_its_code(
    around: Callable[[str], Surroundings], tmp_path: Path
) -> None:
    place = around(
        "print(json.dumps(sys.argv[1:])); print('error: [E010] no answer', file=sys.stderr);"
        "print('HINT: x', file=sys.stderr); sys.exit(1)"
    )
    finished = wait(Child("job", ("backup", "shop"), place))
    assert finished == Finished(
        1, "[E010] no answer", "E010",
        ["backup", "shop", "--json", "--config", str(tmp_path / "pgkeep.toml")],
    )  # fmt: skip
    log = tmp_path / "logs" / "job.log"
    assert "HINT: x" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    wait(Child("job", (), place))
    assert "HINT: x" in log.with_suffix(".log.1").read_text()


def test_a_child_knows_its_keeper_and_the_reason(around: Callable[[str], Surroundings]) -> None:
    place = around(
        f"print(json.dumps([os.environ[{PARENT_VARIABLE!r}], os.environ['PGKEEP_REASON']]))"
    )
    assert wait(Child("full-shop", (), place)).answer == [str(os.getpid()), "keeper: full-shop"]


def test_a_child_that_does_not_listen_is_killed_with_all_that_it_started(
    around: Callable[[str], Surroundings], tmp_path: Path
) -> None:
    place = around(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pid = os.fork()\n"
        f"name = {str(tmp_path / 'pid')!r} + ('' if pid else '.child')\n"
        "open(name, 'w').write(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    child = Child("job", (), place)
    marks = [tmp_path / "pid", tmp_path / "pid.child"]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(mark.exists() and mark.read_text() for mark in marks):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.end(0.2)
    assert wait(child).exit_code == -signal.SIGKILL
    time.sleep(0.1)
    status = Path(f"/proc/{marks[1].read_text()}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


# --- what is known of a job -------------------------------------------------------------------


def fact(age: timedelta, kind: Kind = Kind.FULL, tier: Tier = Tier.DAILY) -> BackupFact:
    return BackupFact("b", kind, tier, NOW - age)


def test_a_backup_of_the_same_kind_and_tier_counts_whoever_made_it() -> None:
    hour = timedelta(hours=1)
    facts = DatabaseFacts(
        "shop",
        backups=(fact(hour, Kind.DATA), fact(2 * hour, tier=Tier.MANUAL), fact(3 * hour)),
        drills=(DrillFact("b", NOW - hour, "failed"), DrillFact("b", NOW - 4 * hour, "partial")),
    )
    assert known_past(FULL, Past(), facts, NOW).succeeded == NOW - 3 * hour
    drill = replace(FULL, task=Task.DRILL)
    assert known_past(drill, Past(), facts, NOW).succeeded == NOW - 4 * hour
    newer = Past(succeeded=NOW - hour)
    assert known_past(FULL, newer, facts, NOW).succeeded == NOW - hour
    assert known_past(FULL, newer, None, NOW) == newer


def test_a_backup_from_the_future_proves_nothing() -> None:
    facts = DatabaseFacts("shop", backups=(fact(timedelta(days=-300)),))
    assert known_past(FULL, Past(), facts, NOW).succeeded is None


@pytest.mark.parametrize(
    ("finished", "succeeded", "failures", "is_final"),
    [
        (Finished(0, "", "", {}), True, 0, False),
        (Finished(3, "", "", {}), True, 0, False),
        (Finished(1, "[E010] x", "E010", None), False, 3, False),
        (Finished(1, "[E011] wrong password", "E011", None), False, 3, True),
        (Finished(2, "[E002] x", "E002", None), False, 3, True),
        (Finished(1, "[E065] locked", "E065", None), False, 2, False),
        (Finished(1, "[E043] the drill failed", "E043", {}), True, 0, False),
        (Finished(1, "", "", {"local": {}}), True, 0, False),
        (Finished(-9, "", "", None), False, 3, False),
        (Finished(1, "", "", None), False, 3, False),
    ],
)
def test_how_a_run_ended_says_what_follows(
    finished: Finished, succeeded: bool, failures: int, is_final: bool
) -> None:
    began = NOW - timedelta(minutes=5)
    past = after(Past(None, None, 2), began, NOW, finished)
    assert past == Past(began if succeeded else None, NOW, failures, is_final)


# --- the jobs ---------------------------------------------------------------------------------


class Heard:
    """What the jobs told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.runs: dict[str, Run] = {}

    def began(self, job: Job) -> None:
        self.events.append(f"{job.name} began")

    def ended(self, job: Job, run: Run) -> None:
        self.events.append(f"{job.name} ended")
        self.runs[job.name] = run

    def remind(self, job: Job) -> None:
        self.events.append(f"{job.name} is due")


def run_jobs(
    place: Surroundings, jobs: tuple[Job, ...], limit: timedelta = timedelta(hours=1)
) -> tuple[Heard, KeeperState]:
    heard, clock = Heard(), FakeClock(NOW)
    running = Jobs(jobs, lambda name, args: Child(name, args, place), heard, limit=limit)
    state = KeeperState(NOW - timedelta(days=1))
    facts = {"shop": DatabaseFacts("shop", backups=(fact(timedelta(days=2)),))}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(heard.runs) < sum(bool(job.arguments) for job in jobs):
        assert time.monotonic() < deadline
        state = running.begin_due(state, facts, clock())
        time.sleep(0.02)
        state = running.end_finished(state, clock.advance(timedelta(seconds=1)))
    assert running.begin_due(state, facts, clock()) == state, "nothing is due any more"
    return heard, state


def test_writers_take_turns_and_a_reminder_needs_none(
    around: Callable[[str], Surroundings],
) -> None:
    heard, state = run_jobs(around("time.sleep(0.1)"), (FULL, DATA, REVIEW))
    assert heard.events == [
        "full-shop began", "review is due", "full-shop ended", "data-shop began",
        "data-shop ended",
    ]  # fmt: skip
    assert {name for name, past in state.pasts.items() if past.succeeded} == {
        "full-shop", "data-shop", "review",
    }  # fmt: skip


def test_a_job_that_cannot_be_begun_has_failed_and_stops_nobody(
    around: Callable[[str], Surroundings], tmp_path: Path
) -> None:
    (tmp_path / "logs").write_text("a file stands in the way")
    place = around("")
    heard, state = run_jobs(place, (FULL,))
    assert "[E081] cannot begin full-shop" in heard.runs["full-shop"].error
    assert state.pasts["full-shop"].failures == 1
    captures = Captures(("shop",), lambda name, arguments: Child(name, arguments, place))
    captures.step()
    assert "cannot begin" in captures.problems["shop"]


def test_a_job_that_takes_too_long_is_ended(around: Callable[[str], Surroundings]) -> None:
    heard, state = run_jobs(around("time.sleep(60)"), (FULL,), timedelta(seconds=0.3))
    run = heard.runs["full-shop"]
    assert "took longer than" in run.error
    assert not run.is_good
    assert state.pasts["full-shop"].failures == 1


# --- captures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "pause"), [("E010", 10), ("E070", 3600), ("E011", 3600), ("E024", 10)]
)
def test_a_capture_that_ends_is_begun_again_later(
    around: Callable[[str], Surroundings], code: str, pause: float
) -> None:
    place = around(f"sys.stderr.write('error: [{code}] why\\n'); sys.exit(1)")
    begun: list[Child] = []
    now = [1000.0]

    def start(name: str, arguments: tuple[str, ...]) -> Child:
        begun.append(Child(name, arguments, place))
        return begun[-1]

    captures = Captures(("shop",), start, lambda: now[0])
    captures.step()
    wait(begun[0])
    captures.step()
    assert captures.problems == {"shop": f"[{code}] why"}
    now[0] += pause - 1
    captures.step()
    assert len(begun) == 1
    now[0] += 2
    captures.step()
    assert len(begun) == 2
    assert captures.problems, "it has not yet shown that it works"
    captures.stop()


# --- looking ----------------------------------------------------------------------------------


def test_what_cannot_be_looked_at_is_said_and_hides_no_other(
    around: Callable[[str], Surroundings],
) -> None:
    place = around(
        "sys.argv[2] == 'crm' and sys.exit('error: [E069] the store is away')\n"
        "print(json.dumps([] if sys.argv[1] == 'list' else [dict(database='shop', windows=[],"
        " loss_window_seconds=None, slot=None, drills=[], server=None, problems=[],"
        " segments_lacking={})] if sys.argv[2] == 'shop' else {}))"
    )
    urls = {"crm": {"url": "x"}, "odd": {"url": "x"}, "shop": {"url": "x"}}
    looker = Looker(parse({"databases": urls}), lambda name, args: Child(name, args, place))
    seen = looker.look()
    assert seen.blind == {"crm": "[E069] the store is away", "odd": "KeyError: 0"}
    assert list(seen.databases) == ["shop"]


# --- the state --------------------------------------------------------------------------------


def test_the_state_survives_and_a_harmed_one_is_begun_anew(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    state = KeeperState(NOW).with_past("full-shop", Past(NOW, NOW, 2, is_final=True))
    file.save(state, NOW)
    assert file.load(NOW) == replace(state, seen=NOW)
    assert file.path.stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["keeper.json"]
    file.path.write_bytes(file.path.read_bytes()[:50])
    assert file.load(NOW) == KeeperState(NOW)
    with pytest.raises(StateUnwritable, match="cannot be written"):
        StateFile(tmp_path / "missing").save(state, NOW)


def test_a_clock_that_went_back_blocks_no_job(tmp_path: Path) -> None:
    wrong = NOW + timedelta(days=365)
    file = StateFile(tmp_path)
    file.save(KeeperState(NOW).with_past("full-shop", Past(wrong, wrong)), wrong)
    state = file.load(NOW)
    assert state.pasts["full-shop"] == Past(NOW, NOW)
    assert json.loads(file.path.read_bytes())["seen"].startswith("2027")


def test_one_keeper_for_a_state_folder(tmp_path: Path) -> None:
    with only_keeper(tmp_path), pytest.raises(KeeperRunning, match=str(os.getpid())):  # noqa: SIM117
        with only_keeper(tmp_path):
            pytest.fail("two keepers at once")
    with only_keeper(tmp_path):
        pass
