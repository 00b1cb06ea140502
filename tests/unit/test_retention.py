"""What is kept and why: time with a floor, whatever the clock does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import manifest
from pgkeep.model import BackupId, Kind, Manifest, Tier
from pgkeep.repository.retention import Decision, Policy, decide

DAY = timedelta(days=1)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
LIMITS = {
    Tier.DAILY: 30 * DAY,
    Tier.WEEKLY: 90 * DAY,
    Tier.MONTHLY: 365 * DAY,
    Tier.SCHEMA: 90 * DAY,
    Tier.MANUAL: 90 * DAY,
}
POLICY = Policy(LIMITS, minimum=3)


def made(
    at: datetime, sequence: int, tier: Tier = Tier.DAILY, kind: Kind = Kind.FULL, name: str = "shop"
) -> Manifest:
    return manifest(
        backup=BackupId.begin(at),
        started=at,
        finished=at,
        sequence=sequence,
        tier=tier,
        kind=kind,
        database=name,
    )


def daily(days: int, *, until: datetime = NOW) -> list[Manifest]:
    return [made(until - number * DAY, days - number) for number in range(days)]


def gone(decisions: tuple[Decision, ...]) -> set[int]:
    return {one.manifest.sequence for one in decisions if not one.kept}


def test_backups_are_kept_for_the_time_of_their_tier() -> None:
    decisions = decide(daily(60), POLICY, NOW)
    assert gone(decisions) == set(range(1, 31))
    assert decisions[0].reason == "0 days old, daily are kept 30 days"
    assert decisions[-1].reason == "59 days old, daily are kept 30 days"


def test_each_tier_has_its_own_time() -> None:
    backups = []
    for number, tier in enumerate(Tier):
        backups += [
            made(NOW - age * DAY, 1000 - age * 5 - number, tier) for age in range(0, 400, 7)
        ]
    decisions = decide(backups, POLICY, NOW)
    for tier in Tier:
        oldest = max(one.age for one in decisions if one.kept and one.manifest.tier is tier)
        assert LIMITS[tier] - 8 * DAY <= oldest < LIMITS[tier]


def test_the_newest_and_a_minimum_are_never_deleted() -> None:
    old = [made(NOW - (300 + number * 5) * DAY, 20 - number) for number in range(10)]
    old.append(made(NOW - 340 * DAY, 5, Tier.MANUAL, Kind.SCHEMA))
    policy = Policy(LIMITS, minimum=2)
    kept = [one for one in decide([*daily(40), *old], policy, NOW) if one.kept]
    assert any(one.manifest.kind is Kind.SCHEMA for one in kept)
    assert [one.reason for one in kept if one.manifest.kind is Kind.SCHEMA] == [
        "the newest schema backup"
    ]
    policy = Policy(dict.fromkeys(Tier, DAY), minimum=5)
    decisions = decide(daily(40), policy, NOW)
    assert gone(decisions) == set(range(1, 36))
    assert decisions[4].reason == "one of the newest 5 of its tier"


def test_databases_do_not_age_each_other() -> None:
    other = [made(NOW - 200 * DAY, 1, name="bank")]
    assert not [one for one in decide([*daily(60), *other], POLICY, NOW) if not one.kept
                and one.manifest.database == "bank"]  # fmt: skip


@pytest.mark.parametrize("years", [-10, -1, 1, 10, 1000])
def test_a_clock_that_jumps_deletes_nothing(years: int) -> None:
    backups = daily(22)
    assert gone(decide(backups, POLICY, NOW + years * 365 * DAY)) == set()
    # A backup that was made while the clock was wrong ages the others by a few days only.
    jumped = [made(NOW + years * 365 * DAY, 23), *backups]
    assert gone(decide(jumped, POLICY, NOW + years * 365 * DAY)) == set()
    assert gone(decide(jumped, POLICY, NOW)) == set()


def test_where_backups_have_stopped_nothing_goes() -> None:
    assert gone(decide(daily(22), POLICY, NOW + 5000 * DAY)) == set()


@given(
    ages=st.lists(st.integers(0, 500), min_size=1, max_size=30),
    minimum=st.integers(1, 5),
    tiers=st.lists(st.sampled_from(list(Tier)), min_size=30, max_size=30),
)
def test_the_floor_holds_for_any_history(ages: list[int], minimum: int, tiers: list[Tier]) -> None:
    ordered = sorted(ages, reverse=True)
    backups = [
        made(NOW - age * DAY, number, tier)
        for number, (age, tier) in enumerate(zip(ordered, tiers, strict=False))
    ]
    decisions = decide(backups, Policy(LIMITS, minimum), NOW)
    assert {one.manifest for one in decisions} == set(backups)
    newest = max(backups, key=lambda one: one.sequence)
    assert all(one.kept for one in decisions if one.manifest == newest)
    for tier in Tier:
        own = [one for one in decisions if one.manifest.tier is tier]
        assert sum(one.kept for one in own) >= min(minimum, len(own))
        assert all(one.age >= LIMITS[tier] for one in own if not one.kept)
