"""What was promised beside what was measured: loss (RPO) and time to recover (RTO). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgkeep.config import ObjectivesConfig
from pgkeep.model import Manifest
from pgkeep.recovery.fill import CRITICAL
from pgkeep.repository.evidence import Evidence, Outcome

CRITICAL_BACK, WHOLE_BACK = "critical tables back", "whole database back"
APPLICATION_BACK = "application back"
APPLICATION = "application"
"""The step of a drill in which the application starts."""


@dataclass(frozen=True, slots=True)
class Objective:
    """One promise. `measured` is None where nothing has measured it yet."""

    name: str
    promised: timedelta
    measured: timedelta | None
    by: str
    """What measured it, in words."""

    @property
    def measured_seconds(self) -> float:
        """Of one that was measured."""
        assert self.measured is not None
        return self.measured.total_seconds()

    @property
    def is_met(self) -> bool | None:
        """None where it is not known."""
        return None if self.measured is None else self.measured <= self.promised


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one database now."""

    now: datetime
    newest: Manifest | None
    """The newest backup with data."""
    newest_schema: Manifest | None
    """The newest backup with definitions."""
    behind: timedelta | None
    """What capture would lose now; None if changes are not captured."""
    drills: Sequence[Evidence]
    """Newest first."""
    recoveries: Sequence[Evidence] = ()
    """Newest first."""
    is_captured: bool | None = None
    """Whether the server holds each change from its commit on until it is captured; None: not
    known."""


def judge(objectives: ObjectivesConfig, facts: Facts) -> tuple[Objective, ...]:
    """Every promise beside what was measured last."""
    return tuple(_judge(objectives, facts))


def judge_recovery(
    objectives: ObjectivesConfig,
    critical: float | None,
    database: float | None,
    application: float,
) -> tuple[Objective, ...]:
    """When what was back, in seconds since a recovery was begun, beside what was promised."""
    found = (
        (CRITICAL_BACK, objectives.critical_rto_minutes, critical),
        (WHOLE_BACK, objectives.full_rto_minutes, database),
        (APPLICATION_BACK, objectives.application_rto_minutes, application),
    )
    return tuple(
        Objective(name, timedelta(minutes=promised), timedelta(seconds=measured), "this recovery")
        for name, promised, measured in found
        if measured is not None
    )


# Starting a server and making definitions takes no longer than this, as a rule; what a drill took
# beyond it was for rows.
_FIXED_SECONDS = 10
# What drills of little data alone cannot tell: at least so long for a gigabyte of text.
_SECONDS_A_GIGABYTE = 30
_DRILLS_COUNTED = 6


def restore_estimate(facts: Facts) -> timedelta | None:
    """How long a restore would take now: as the last drills did, by the size of what they read.

    What does not grow with the rows would be in the rate of a small database many times over.
    """
    drills = [one for one in facts.drills if one.outcome is not Outcome.FAILED and one.text_bytes]
    drills = drills[:_DRILLS_COUNTED]
    if not drills or facts.newest is None:
        return None
    fixed = min(_FIXED_SECONDS, *map(_restore_seconds, drills))
    rates = [(_restore_seconds(one) - fixed) / one.text_bytes for one in drills]
    rate = max(*rates, _SECONDS_A_GIGABYTE / 1e9)
    return timedelta(seconds=fixed + rate * facts.newest.totals.text_bytes)


def _restore_seconds(drill: Evidence) -> float:
    """Without the start of the application, which no size decides."""
    return drill.seconds - sum(one.seconds for one in drill.steps if one.name == APPLICATION)


@dataclass(frozen=True, slots=True)
class Trend:
    """How long the last drills took, oldest first, and how that changes."""

    seconds: tuple[float, ...]
    rates: tuple[float, ...]
    """Seconds for a gigabyte of text, so that a database that grows does not look slower."""

    @property
    def change(self) -> float:
        """The newest rate beside the middle of those before, as a share: 0.25 is a quarter more."""
        before = sorted(self.rates[:-1])
        middle = before[len(before) // 2]
        return self.rates[-1] / middle - 1 if middle else 0.0


def trend(drills: Sequence[Evidence], *, newest: int = 6) -> Trend | None:
    """Of the drills that did not fail; None while there are not two."""
    found = [one for one in drills if one.outcome is not Outcome.FAILED and one.text_bytes]
    some = list(reversed(found[:newest]))
    if len(some) < 2:
        return None
    return Trend(
        tuple(_restore_seconds(one) for one in some),
        tuple(_restore_seconds(one) / one.text_bytes * 1e9 for one in some),
    )


def _judge(objectives: ObjectivesConfig, facts: Facts) -> Iterator[Objective]:
    minutes = timedelta(minutes=1)
    if facts.behind is not None:
        yield Objective(
            "data lost at most", objectives.automated_rpo_minutes * minutes, facts.behind, "capture"
        )
    else:
        age = facts.now - facts.newest.started if facts.newest else None
        promised = timedelta(hours=objectives.manual_rpo_hours)
        yield Objective("data lost at most", promised, age, "the newest backup")
    yield _schema(objectives, facts)
    passed = next((one for one in facts.drills if one.outcome is not Outcome.FAILED), None)
    critical = [step.seconds for step in passed.steps if step.name == CRITICAL] if passed else []
    if critical:
        yield Objective(
            CRITICAL_BACK,
            objectives.critical_rto_minutes * minutes,
            timedelta(seconds=critical[0]),
            "the last drill",
        )
    yield Objective(
        WHOLE_BACK,
        objectives.full_rto_minutes * minutes,
        restore_estimate(facts),
        "the last drills, by size",
    )
    yield _application(objectives, facts)
    yield Objective(
        "a drill takes",
        objectives.test_rto_minutes * minutes,
        timedelta(seconds=passed.seconds) if passed else None,
        "the last drill",
    )
    yield Objective(
        "last drill that passed",
        timedelta(days=objectives.drill_days),
        facts.now - passed.started if passed else None,
        "the last drill",
    )


def _schema(objectives: ObjectivesConfig, facts: Facts) -> Objective:
    """A change of the schema is captured from its commit on, or is in the next backup alone."""
    name, promised = "schema changes lost", timedelta(minutes=objectives.schema_rpo_minutes)
    if facts.behind is None:
        age = facts.now - facts.newest_schema.started if facts.newest_schema else None
        promised = timedelta(hours=objectives.manual_rpo_hours)
        return Objective(name, promised, age, "the newest backup with definitions")
    holds = facts.is_captured
    if holds is None:  # nobody asked the server
        holds = facts.behind <= timedelta(minutes=objectives.automated_rpo_minutes)
    lost = timedelta(0) if holds else facts.behind
    return Objective(name, promised, lost, "capture, which holds them from their commit on")


def _application(objectives: ObjectivesConfig, facts: Facts) -> Objective:
    """As the last recovery took, or as a restore takes and the drill's start of it took."""
    promised = timedelta(minutes=objectives.application_rto_minutes)
    drill = next((one for one in facts.drills if one.outcome is not Outcome.FAILED), None)
    recovery = next(iter(facts.recoveries), None)
    if recovery is not None and (drill is None or recovery.started > drill.started):
        took = timedelta(seconds=recovery.seconds)
        return Objective(APPLICATION_BACK, promised, took, "the last recovery")
    restored = restore_estimate(facts)
    started = [step.seconds for step in drill.steps if step.name == APPLICATION] if drill else []
    if restored is None or not started:
        return Objective(APPLICATION_BACK, promised, restored, "the last drills, without its start")
    took = restored + timedelta(seconds=started[0])
    return Objective(APPLICATION_BACK, promised, took, "the last drills, with its start")
