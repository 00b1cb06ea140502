"""What is told as wrong, from facts alone: each thing once when it begins and once when over."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from pgkeep.config import WatchConfig
from pgkeep.keeper.facts import (
    BackupFact,
    DatabaseFacts,
    DiskFact,
    DrillFact,
    SlotFact,
    parse_status,
    parse_tables,
)
from pgkeep.keeper.schedule import Job, Past, Task
from pgkeep.keeper.watch import (
    Alert,
    JobFact,
    Severity,
    Watched,
    compare,
    find_alerts,
    what_is_safe,
)
from pgkeep.model import Kind, Tier

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def backup(age: timedelta = HOUR * 6, **more: Any) -> BackupFact:
    usual = BackupFact(
        "20260115T060000Z-0123abcd", Kind.FULL, Tier.DAILY, NOW - age, seconds=60, rows=1000,
        text_bytes=1_000_000, repositories=("local", "far"),
    )  # fmt: skip
    return replace(usual, **more)


def database(*, earlier: int = 4, newest: BackupFact | None = None, **more: Any) -> DatabaseFacts:
    backups = (newest or backup(), *(backup(DAY * n) for n in range(1, earlier + 1)))
    drill = DrillFact("20260114T060000Z-0123abcd", NOW - DAY, "passed", 30, 1000)
    return DatabaseFacts("shop", **{"backups": backups, "drills": (drill,), **more})


def alerts(one: DatabaseFacts | None = None, **more: Any) -> dict[str, Alert]:
    watched = Watched(
        now=NOW, since=NOW - DAY * 30, settings=more.pop("settings", WatchConfig()),
        databases=() if one is None else (one,),
        kinds={"local": tuple(Kind), "far": tuple(Kind)}, **more,
    )  # fmt: skip
    return {alert.key: alert for alert in find_alerts(watched)}


def test_nothing_is_wrong_where_nothing_is_wrong() -> None:
    assert alerts(database()) == {}


def test_no_backup_at_all_is_critical_and_says_what_to_type() -> None:
    found = alerts(DatabaseFacts("shop"))["shop/backup-missing"]
    assert found.severity is Severity.CRITICAL
    assert found.remedy == "pgkeep backup shop"
    assert found.safe == ("nothing: there is no backup",)


def test_a_backup_from_the_future_keeps_nobody_from_seeing_that_the_others_are_old() -> None:
    ahead = backup(-DAY * 900)
    found = alerts(DatabaseFacts("shop", backups=(ahead, backup(DAY * 3)), drills=()))
    assert {"shop/clock", "shop/backup-old"} <= found.keys()
    assert "3 d old" in found["shop/backup-old"].what


CASES: dict[str, tuple[DatabaseFacts, dict[str, Any]]] = {
    "shop/backup-old": (database(newest=backup(HOUR * 30), earlier=0), {}),
    "shop/clock": (database(newest=backup(-DAY * 900)), {}),
    "shop/full-smaller": (database(newest=backup(text_bytes=400_000)), {}),
    "shop/full-larger": (database(newest=backup(text_bytes=3_100_000)), {}),
    "shop/full-slower": (database(newest=backup(seconds=200)), {}),
    "shop/too-small": (database(), {"settings": WatchConfig(minimum_bytes="2MB")}),  # type: ignore[arg-type]
    "shop/gone/public.orders": (
        database(rows_before={"public.orders": 5}, rows_now={}), {},
    ),
    "shop/empty/public.orders": (
        database(rows_before={"public.orders": 5}, rows_now={"public.orders": 0}), {},
    ),
    "shop/drill-failed": (
        database(drills=(DrillFact("b", NOW, "failed"), DrillFact("b", NOW - DAY, "passed"))), {},
    ),
    "shop/drill-overdue": (database(drills=(DrillFact("b", NOW - DAY * 9, "passed"),)), {}),
    "shop/behind/far": (database(newest=backup(repositories=("local",))), {}),
    "shop/damage-0": (database(problems=("the manifest is damaged",)), {}),
    "shop/server": (database(server_problem="connection refused"), {}),
    "shop/not-captured": (database(), {"capture_problems": {"shop": "no right to a slot"}}),
    "shop/capture-behind": (
        database(loss_window=timedelta(minutes=6), slot=SlotFact(1, 100, False)),
        {"captured": frozenset({"shop"})},
    ),
    "shop/slot-lost": (
        database(loss_window=timedelta(0), slot=SlotFact(1, 100, True)),
        {"captured": frozenset({"shop"})},
    ),
    "shop/slot-full": (
        database(loss_window=timedelta(0), slot=SlotFact(60, 100, False)),
        {"captured": frozenset({"shop"})},
    ),
}  # fmt: skip


@pytest.mark.parametrize("key", CASES)
def test_each_thing_that_can_be_wrong_is_found_alone(key: str) -> None:
    facts, more = CASES[key]
    found = alerts(facts, **more)
    assert list(found) == [key]
    assert found[key].what
    assert found[key].remedy
    assert found[key].safe


def test_three_earlier_backups_say_what_is_usual_and_two_do_not() -> None:
    small = backup(text_bytes=1)
    assert alerts(database(newest=small, earlier=2)) == {}
    assert list(alerts(database(newest=small, earlier=3))) == ["shop/full-smaller"]


def test_a_short_backup_is_never_slow() -> None:
    assert alerts(database(newest=backup(seconds=59))) == {}


def test_a_copy_has_some_time_to_catch_up() -> None:
    young = backup(timedelta(minutes=30), repositories=("local",))
    assert alerts(database(newest=young)) == {}


def test_segments_that_a_copy_lacks_are_told() -> None:
    found = alerts(database(segments_lacking={"far": 3}))
    assert found["shop/behind/far"].remedy == "pgkeep sync"


def test_a_slot_near_its_end_is_critical() -> None:
    one = database(loss_window=timedelta(0), slot=SlotFact(85, 100, False))
    found = alerts(one, captured=frozenset({"shop"}))
    assert found["shop/slot-full"].severity is Severity.CRITICAL


# --- jobs, disks, expiry --------------------------------------------------------------------


def of_job(task: Task = Task.FULL, **more: Any) -> dict[str, Alert]:
    name = "" if task in (Task.VERIFY, Task.PRUNE) else "shop"
    fact = JobFact(Job(task, name, "0 6 * * *", "UTC"), **more)
    return alerts(jobs=(fact,))


DONE = Past(succeeded=NOW - HOUR * 5)


def test_a_job_that_never_succeeded_after_its_time_is_late() -> None:
    found = of_job(past=Past(succeeded=NOW - DAY))
    assert list(found) == ["job/full-shop/late"]
    assert "2026-01-15 06:00 UTC" in found["job/full-shop/late"].what
    assert of_job(past=DONE) == {}


def test_one_failure_is_tried_again_and_two_are_told() -> None:
    once = Past(NOW - HOUR * 5, NOW, failures=1)
    assert of_job(past=once, exit_code=1, error="[E010] no answer") == {}
    found = of_job(past=replace(once, failures=2), exit_code=1, error="[E010] no answer")
    assert found["job/full-shop/failed"].what == "full-shop failed: [E010] no answer"


def test_a_failure_that_nothing_mends_is_told_at_once() -> None:
    past = Past(NOW - HOUR * 5, NOW, failures=1, is_final=True)
    assert list(of_job(past=past, exit_code=2, error="[E002] x")) == ["job/full-shop/failed"]


def test_damage_that_verify_found_is_critical() -> None:
    found = of_job(Task.VERIFY, past=DONE, exit_code=1)
    assert found["job/verify/damage"].severity is Severity.CRITICAL


def test_retention_that_may_not_delete_is_told() -> None:
    assert list(of_job(Task.PRUNE, past=DONE, exit_code=3)) == ["job/prune/refused"]
    assert of_job(Task.FULL, past=DONE, exit_code=3) == {}


@pytest.mark.parametrize(
    ("free", "severity"), [(11, None), (9, Severity.WARNING), (2, Severity.CRITICAL)]
)
def test_a_disk_that_fills_is_told(free: int, severity: Severity | None) -> None:
    found = alerts(disks=(DiskFact("/backups", free, 100),))
    assert [one.severity for one in found.values()] == [severity][: severity is not None]


@pytest.mark.parametrize(
    ("days", "text"), [(20, None), (10, "expires in 10 days"), (-1, "has expired")]
)
def test_what_expires_soon_is_told(days: int, text: str | None) -> None:
    day = date(2026, 1, 15) + timedelta(days=days)
    found = list(alerts(expiries={"token": day}).values())
    assert [text in one.what for one in found if text] == [True] * (text is not None)
    assert bool(found) == (text is not None)


# --- once when it begins, once when it is over ----------------------------------------------


def test_an_alert_is_told_once_and_once_when_over() -> None:
    found = tuple(alerts(DatabaseFacts("shop")).values())
    first = compare((), found, frozenset())
    assert [one.key for one in first.begun] == ["shop/backup-missing"]
    later = tuple(replace(one, since=NOW + HOUR) for one in found)
    second = compare(first.open, later, frozenset())
    assert (second.begun, second.over) == ((), ())
    assert second.open[0].since == NOW, "it keeps its beginning"
    third = compare(second.open, (), frozenset())
    assert [one.key for one in third.over] == ["shop/backup-missing"]
    assert third.open == ()


def test_what_grows_worse_is_told_again() -> None:
    warning = Alert("k", Severity.WARNING, "shop", "a", "b", NOW)
    critical = replace(warning, severity=Severity.CRITICAL, since=NOW + HOUR)
    changes = compare((warning,), (critical,), frozenset())
    assert changes.begun == (replace(critical, since=NOW),)
    assert compare((critical,), (warning,), frozenset()).begun == ()


def test_what_cannot_be_looked_at_is_not_over() -> None:
    before = tuple(alerts(DatabaseFacts("shop")).values())
    blind = tuple(alerts(blind={"shop": "no answer"}).values())
    changes = compare(before, blind, frozenset({"shop"}))
    assert changes.over == ()
    assert {one.key for one in changes.open} == {"shop/backup-missing", "shop/blind"}


def test_what_is_safe_is_said_in_words() -> None:
    one = database(window=(NOW - DAY, NOW))
    assert what_is_safe(one, NOW) == (
        "every second from 2026-01-14 12:00 to 2026-01-15 12:00:00 UTC",
        "backup 20260115T060000Z-0123abcd of 6 h ago, 1,000 rows, in local, far",
        "20260114T060000Z-0123abcd was restored and proven 24 h ago",
    )


def test_the_answers_of_status_list_and_show_become_facts() -> None:
    status = {
        "database": "shop", "windows": [{"from": NOW.isoformat(), "to": NOW.isoformat()}],
        "loss_window_seconds": 1.5, "problems": [], "segments_lacking": {"far": 2},
        "slot": {"bytes": 5, "limit_bytes": 10, "lost": False}, "server": None,
        "drills": [{"backup": "b", "started": NOW.isoformat(), "outcome": "partial",
                    "seconds": 3, "rows": 4}],
    }  # fmt: skip
    facts = parse_status(status, [])
    assert facts.loss_window == timedelta(seconds=1.5)
    assert facts.slot == SlotFact(5, 10, False)
    assert facts.drills[0].has_passed
    assert facts.window == (NOW, NOW)
    tables = {"tables": [{"schema": "public", "table": "t", "rows": 3}]}
    assert parse_tables(tables) == {"public.t": 3}
