"""Lines of the checklist are ticked by evidence alone, and fall due again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from examples import MOMENT, manifest
from pgkeep.keeper.checklist import ITEMS, Facts, Line, Place, judge
from pgkeep.model import FORMAT, Kind
from pgkeep.recovery.objectives import Objective
from pgkeep.repository.evidence import Evidence, Outcome
from pgkeep.repository.signoffs import SignOff

DAY = timedelta(days=1)
NOTHING = Facts(
    now=MOMENT, database="shop", backups=(), places=(), covered=None, drills=(), objectives=(),
    done={}, recipients=1, networks=(), told=0, ping=False, keeper_seen=None, factors={},
    ledger_since=None, alerts=0,
)  # fmt: skip


def evidence(outcome: Outcome = Outcome.PASSED, kind: str = "drill", age: int = 1) -> Evidence:
    return Evidence(
        format=FORMAT, kind=kind, database="shop", backup=manifest().backup, moment=None,
        repository="local", started=MOMENT - age * DAY, seconds=9, steps=(), outcome=outcome,
        server="PostgreSQL 17", tables=1, rows=10, text_bytes=1, definitions=1, sequences=0,
        differences=0, checks=0, checks_failed=0, not_covered=0, host="h", tool="t", epoch="e",
    )  # fmt: skip


def line(item: str, **changes: Any) -> Line:
    found = judge(replace(NOTHING, **changes))
    return next(one for one in found if one.item.id == item)


def test_without_evidence_nothing_is_ticked_and_each_line_has_its_command() -> None:
    lines = judge(NOTHING)
    assert not any(one.is_done for one in lines)
    assert all(one.remedy and "{" not in one.remedy for one in lines)
    assert len({one.id for one in ITEMS}) == len(ITEMS)
    assert "pgkeep backup shop" in [one.remedy for one in lines]


@pytest.mark.parametrize(
    ("item", "facts"),
    [
        ("full", {"backups": [manifest()]}),
        ("schema", {"backups": [manifest(kind=Kind.SCHEMA)]}),
        ("point-in-time", {"covered": MOMENT}),
        ("retention", {"done": {"prune": MOMENT}}),
        ("encryption", {"backups": [manifest()], "recipients": 2}),
        ("access-log", {"ledger_since": MOMENT}),
        ("second-factor", {"factors": {"phone": MOMENT}}),
        ("network", {"networks": ("10.8.0.0/16",)}),
        ("alerts", {"told": 1, "done": {"run --test-notify": MOMENT}}),
        ("watched", {"ping": True}),
        ("validated", {"drills": [evidence(age=300)]}),
        ("objectives", {"objectives": [Objective("x", DAY, DAY / 2, "it")]}),
        ("quarterly-rehearsal", {"drills": [evidence(kind="recovery", age=80)]}),
    ],
)
def test_evidence_ticks_a_line(item: str, facts: dict[str, Any]) -> None:
    assert line(item, **facts).is_done


@pytest.mark.parametrize(
    ("item", "facts"),
    [
        ("encryption", {"backups": [manifest()], "recipients": 1}),
        ("alerts", {"told": 1}),
        ("alerts", {"told": 0, "done": {"run --test-notify": MOMENT}}),
        ("validated", {"drills": [evidence(Outcome.FAILED, age=1), evidence(age=2)]}),
        ("weekly-restore", {"drills": [evidence(age=9)]}),
        ("weekly-prune", {"done": {"prune": MOMENT - 9 * DAY}}),
        ("objectives", {"objectives": [Objective("x", DAY, None, "it")]}),
        ("daily-alerts", {"keeper_seen": MOMENT, "alerts": 1}),
        ("schedule", {"keeper_seen": MOMENT - 2 * DAY}),
        ("quarterly-rehearsal", {"drills": [evidence(age=1)]}),
    ],
)
def test_what_is_too_old_or_not_enough_ticks_nothing(item: str, facts: dict[str, Any]) -> None:
    assert not line(item, **facts).is_done


def places(*kinds: tuple[bool, str]) -> list[Place]:
    return [Place(f"p{at}", local, who, manifest()) for at, (local, who) in enumerate(kinds)]


def test_two_places_are_two_of_which_one_is_elsewhere() -> None:
    def done(*kinds: tuple[bool, str]) -> bool:
        return line("storage", backups=[manifest()], places=places(*kinds)).is_done

    assert done((True, "file"), (False, "s3"))
    assert not done((True, "file"), (True, "file"))
    assert not done((False, "s3"))
    stale = [Place("old", False, "s3", None), *places((True, "file"))]
    assert not line("storage", backups=[manifest()], places=stale).is_done


def test_what_a_person_signs_off_falls_due_again() -> None:
    signed = SignOff(FORMAT, "team", "Ada", "all of us", MOMENT - 364 * DAY, "host")
    done = line("team", sign_offs=[signed])
    assert done.is_done
    assert done.tick is not None
    assert done.tick.evidence == "signed off by Ada: all of us"
    assert done.due == MOMENT + DAY
    assert not line("team", sign_offs=[replace(signed, at=MOMENT - 366 * DAY)]).is_done
    assert not line("team", sign_offs=[replace(signed, item="contacts")]).is_done
    assert not line("team", sign_offs=[replace(signed, at=MOMENT + DAY)]).is_done, "a wrong clock"
