"""When the keeper does what: the guide's schedule, catching up, clocks that jump, summer time."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgkeep.config import Config, parse
from pgkeep.errors import ConfigurationError
from pgkeep.keeper.schedule import (
    Job,
    Lane,
    Past,
    Task,
    choose_due,
    due_since,
    plan_jobs,
    retry_at,
    upcoming,
)
from pgkeep.testing import FakeClock

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def configured(**tables: Any) -> Config:
    return parse({"databases": {"shop": {"url": "postgresql:///shop"}}, **tables})


def job(cron: str = "0 6 * * *", zone: str = "UTC", task: Task = Task.FULL, **more: Any) -> Job:
    return Job(task, "shop", cron, zone, **more)


def simulate(
    jobs: tuple[Job, ...], clock: FakeClock, until: datetime, *, step: timedelta = MINUTE
) -> list[tuple[str, datetime]]:
    """Every run, when each succeeds at once."""
    pasts = {one.name: Past(succeeded=clock()) for one in jobs}
    runs: list[tuple[str, datetime]] = []
    while clock() < until:
        due = choose_due(jobs, pasts, frozenset(), since=LONG_AGO, now=clock())
        for one in due:
            runs.append((one.job.name, clock()))
            pasts[one.job.name] = Past(succeeded=clock(), attempted=clock())
        clock.advance(step)
    return runs


# --- what is planned ------------------------------------------------------------------------


def test_the_guides_schedule_is_the_usual_one_in_utc() -> None:
    jobs = plan_jobs(configured())
    found = [(f"{when:%a %d %H:%M %Z}", one.name) for when, one in upcoming(jobs, at("2026-01-31"))]
    assert found == [
        ("Sat 31 06:00 UTC", "full-shop"),
        ("Sat 31 07:00 UTC", "verify"),
        ("Sat 31 12:00 UTC", "schema-shop"),
        ("Sat 31 18:00 UTC", "data-shop"),
        ("Sun 01 02:00 UTC", "weekly-shop"),
        ("Sun 01 02:30 UTC", "monthly-shop"),
        ("Sun 01 04:00 UTC", "drill-shop"),
        ("Sun 01 06:00 UTC", "prune"),
        ("Sun 01 08:00 UTC", "audit"),
        ("Sun 01 09:00 UTC", "recovery-test-shop"),
        ("Sun 01 10:00 UTC", "review"),
    ]


def test_what_is_for_the_first_sunday_is_not_for_the_second() -> None:
    jobs = plan_jobs(configured())
    (audit,) = [one for one in jobs if one.task is Task.AUDIT]
    assert audit.next_after(at("2026-02-02")) == at("2026-03-01 08:00")


def test_a_database_may_differ_and_may_leave_something_out() -> None:
    config = parse(
        {
            "schedule": {"zone": "Europe/Berlin", "data": ""},
            "databases": {
                "shop": {"url": "x", "schedule": {"full": "*/30 * * * *", "schema": ""}},
                "crm": {"url": "x", "schedule": {"zone": "Asia/Tokyo", "data": "5 5 * * *"}},
            },
        }
    )
    jobs = {one.name: one for one in plan_jobs(config)}
    assert jobs["full-shop"].cron == "*/30 * * * *"
    assert "schema-shop" not in jobs
    assert "data-shop" not in jobs
    assert (jobs["data-crm"].cron, jobs["data-crm"].zone) == ("5 5 * * *", "Asia/Tokyo")
    assert jobs["full-shop"].zone == jobs["prune"].zone == "Europe/Berlin"


def test_several_repositories_are_synced_and_one_is_not() -> None:
    one: dict[str, Any] = {"a": {"url": "file:///a"}}
    assert "sync" not in {job.name for job in plan_jobs(configured(repositories=one))}
    two = {**one, "b": {"url": "file:///b"}}
    assert "sync" in {job.name for job in plan_jobs(configured(repositories=two))}


def test_each_job_is_a_command_of_pgkeep() -> None:
    commands = {job.name: " ".join(job.arguments) for job in plan_jobs(configured())}
    assert commands == {
        "full-shop": "backup shop --kind full --tier daily",
        "schema-shop": "backup shop --kind schema --tier schema",
        "data-shop": "backup shop --kind data --tier daily",
        "weekly-shop": "backup shop --kind full --tier weekly",
        "monthly-shop": "backup shop --kind full --tier monthly",
        "drill-shop": "drill shop",
        "recovery-test-shop": "drill shop --random",
        "verify": "verify",
        "prune": "prune",
        "audit": "audit",
        "review": "",
    }


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"full": "6 o'clock"}, "schedule.full"),
        ({"full": "0 25 * * *"}, "schedule.full"),
        ({"zone": "Mars/Olympus"}, "not a time zone|schedule.zone"),
        ({"fool": ""}, "schedule.fool"),
    ],
)
def test_a_wrong_schedule_is_refused(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        configured(schedule=table)


# --- what is due ----------------------------------------------------------------------------


def test_a_week_runs_as_planned() -> None:
    clock = FakeClock(at("2026-01-12 00:30"))
    runs = simulate(plan_jobs(configured()), clock, at("2026-01-19"), step=15 * MINUTE)
    counts = Counter(name for name, _ in runs)
    assert counts["full-shop"] == counts["schema-shop"] == counts["data-shop"] == 7
    assert counts["verify"] == 7
    assert counts["weekly-shop"] == counts["drill-shop"] == counts["prune"] == 1


def test_what_was_missed_is_caught_up_once() -> None:
    one = job()
    ten_days_later = at("2026-01-25 09:00")
    past = Past(succeeded=at("2026-01-15 06:00"), attempted=at("2026-01-15 06:05"))
    assert due_since(one, past, since=LONG_AGO, now=ten_days_later) == at("2026-01-25 06:00")
    done = Past(succeeded=ten_days_later, attempted=ten_days_later)
    assert due_since(one, done, since=LONG_AGO, now=ten_days_later + MINUTE) is None


def test_what_lies_before_the_keepers_first_day_is_not_caught_up() -> None:
    now = at("2026-01-15 07:00")
    assert due_since(job(), Past(), since=now - MINUTE, now=now) is None
    assert due_since(job(), Past(), since=at("2026-01-15 05:00"), now=now) is not None


def test_a_failure_is_tried_again_with_growing_pauses_until_the_next_time() -> None:
    clock = FakeClock(at("2026-01-15 06:00"))
    attempts = []
    past = Past()
    while clock() < at("2026-01-15 10:00"):
        if due_since(job(), past, since=LONG_AGO, now=clock()):
            attempts.append(f"{clock():%H:%M}")
            past = Past(attempted=clock(), failures=past.failures + 1)
        clock.advance(MINUTE)
    assert attempts == ["06:00", "06:01", "06:06", "06:21", "07:21", "08:21", "09:21"]


def test_what_another_try_cannot_mend_waits_for_its_next_time() -> None:
    """A wrong password: platforms ban the address after two."""
    past = Past(attempted=at("2026-01-15 06:01"), failures=1, is_final=True)
    assert retry_at(past) is None
    assert due_since(job(), past, since=LONG_AGO, now=at("2026-01-15 23:00")) is None
    assert due_since(job(), past, since=LONG_AGO, now=at("2026-01-16 06:00")) is not None


def test_writers_take_turns_and_a_drill_goes_on_beside_them() -> None:
    jobs = (
        job(task=Task.FULL), job(task=Task.PRUNE), job("0 5 * * *", task=Task.DATA),
        job(task=Task.DRILL), job(task=Task.RECOVERY_TEST), job(task=Task.REVIEW),
    )  # fmt: skip
    now = at("2026-01-15 06:00")

    def chosen(*running: str, pasts: dict[str, Past] | None = None) -> list[str]:
        due = choose_due(jobs, pasts or {}, frozenset(running), since=LONG_AGO, now=now)
        return [one.job.name for one in due]

    assert chosen() == ["data-shop", "drill-shop", "review-shop"]
    assert chosen("full-shop") == ["drill-shop", "review-shop"]
    assert chosen("full-shop", "drill-shop") == ["review-shop"]
    failed = {"data-shop": Past(attempted=now - timedelta(hours=1), failures=9)}
    assert chosen(pasts=failed)[0] == "full-shop", "what fails must not keep others waiting"
    assert {one.task.lane for one in jobs} == set(Lane)


def test_a_job_never_overlaps_itself() -> None:
    now = at("2026-01-15 06:00")
    one = (job("* * * * *"),)
    assert choose_due(one, {}, frozenset({"full-shop"}), since=LONG_AGO, now=now) == ()


def test_jitter_is_bounded_differs_and_survives_a_restart() -> None:
    jobs = [Job(Task.FULL, f"d{n}", "0 6 * * *", "UTC", timedelta(seconds=60)) for n in range(50)]
    delays = [one.delay(at("2026-01-15 06:00")) for one in jobs]
    assert all(timedelta(0) <= one <= timedelta(seconds=60) for one in delays)
    assert len(set(delays)) > 20
    assert delays == [one.delay(at("2026-01-15 06:00")) for one in jobs]
    late = max(zip(delays, jobs, strict=True), key=lambda item: item[0])
    moment = at("2026-01-15 06:00") + late[0]
    assert due_since(late[1], Past(), since=LONG_AGO, now=moment - timedelta(seconds=1)) is None
    assert due_since(late[1], Past(), since=LONG_AGO, now=moment) is not None


# --- clocks ---------------------------------------------------------------------------------


def test_a_clock_that_jumps_forward_runs_a_job_once() -> None:
    clock = FakeClock(at("2026-01-15 05:59"))
    first = simulate((job("0 * * * *"),), clock, at("2026-01-15 06:30"))
    assert [when for _, when in first] == [at("2026-01-15 06:00")]
    clock.advance(timedelta(days=400))
    past = {"full-shop": Past(succeeded=first[-1][1])}
    due = choose_due((job("0 * * * *"),), past, frozenset(), since=LONG_AGO, now=clock())
    assert len(due) == 1


def test_a_clock_that_jumps_back_runs_nothing_twice_at_once() -> None:
    past = Past(succeeded=at("2026-01-15 06:00"), attempted=at("2026-01-15 06:00"))
    assert due_since(job(), past, since=LONG_AGO, now=at("2026-01-15 05:00")) is None
    assert due_since(job(), past, since=LONG_AGO, now=at("2026-01-15 06:00")) is None
    assert due_since(job(), past, since=LONG_AGO, now=at("2026-01-16 06:00")) is not None


def berlin(cron: str, begin: str, until: str) -> list[str]:
    runs = simulate(
        (job(cron, "Europe/Berlin"),), FakeClock(at(begin)), at(until), step=30 * MINUTE
    )
    return [f"{when:%d %H:%M}" for _, when in runs]


def test_an_hour_that_is_left_out_in_spring_does_not_lose_the_run() -> None:
    found = berlin("30 2 * * *", "2026-03-27 12:00", "2026-03-31")
    assert found == ["28 01:30", "29 01:00", "30 00:30"]


def test_an_hour_that_comes_twice_in_autumn_runs_once() -> None:
    found = berlin("30 2 * * *", "2026-10-23 12:00", "2026-10-27")
    assert found == ["24 00:30", "25 00:30", "26 01:30"]


def test_a_zones_offset_follows_the_season() -> None:
    assert berlin("0 6 * * *", "2026-03-27 12:00", "2026-03-31") == [
        "28 05:00", "29 04:00", "30 04:00",
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["0 6 * * *", "*/20 * * * *", "30 2 * * *", "0 2 * * SUN", "15 1-3 * * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)),
)
def test_the_latest_time_is_the_one_before_the_next(cron: str, zone: str, when: datetime) -> None:
    one, now = job(cron, zone), when.replace(tzinfo=UTC)
    latest, following = one.latest_until(now), one.next_after(now)
    assert latest is not None
    assert following is not None
    assert latest <= now < following
