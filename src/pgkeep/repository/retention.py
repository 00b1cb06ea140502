"""Which backups are kept, and why: decided from manifests alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from pgkeep.model import BackupId, Manifest, Tier

# Between one backup and the next no more time counts than this. A clock that jumps by years, here
# or when a backup was made, ages the others by days; and where backups have stopped, ageing stops.
_MOST_BETWEEN = timedelta(days=8)


@dataclass(frozen=True, slots=True)
class Policy:
    """How long backups of a tier are kept, and how many of each database and tier at least."""

    keep: Mapping[Tier, timedelta]
    minimum: int
    proven: frozenset[BackupId] = frozenset()
    """Backups that a drill has restored and found right."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a backup is kept, and why, in words."""

    manifest: Manifest
    kept: bool
    age: timedelta
    reason: str


def decide(manifests: Sequence[Manifest], policy: Policy, now: datetime) -> tuple[Decision, ...]:
    """A decision for each backup, by database, newest first."""
    decisions: list[Decision] = []
    for database in sorted({manifest.database for manifest in manifests}):
        own = [manifest for manifest in manifests if manifest.database == database]
        own.sort(key=lambda one: (one.sequence, one.started, one.backup), reverse=True)
        decisions += _decide(own, policy, _ages(own, now))
    return tuple(decisions)


def _decide(
    newest_first: Sequence[Manifest], policy: Policy, ages: Mapping[BackupId, timedelta]
) -> list[Decision]:
    decisions = []
    newest = {manifest.kind: manifest for manifest in reversed(newest_first)}
    proven = next((one for one in newest_first if one.backup in policy.proven), None)
    seen: dict[Tier, int] = {}
    for manifest in newest_first:
        age, limit = ages[manifest.backup], policy.keep[manifest.tier]
        number = seen[manifest.tier] = seen.get(manifest.tier, 0) + 1
        kept, reason = True, f"{age.days} days old, {manifest.tier} are kept {limit.days} days"
        if age < limit:
            pass
        elif newest[manifest.kind] is manifest:
            reason = f"the newest {manifest.kind} backup"
        elif manifest is proven:
            reason = "the newest that a drill has proven"
        elif number <= policy.minimum:
            reason = f"one of the newest {policy.minimum} of its tier"
        else:
            kept = False
        decisions.append(Decision(manifest, kept, age, reason))
    return decisions


def _ages(newest_first: Sequence[Manifest], now: datetime) -> dict[BackupId, timedelta]:
    """How much time has passed since each, counted from backup to backup."""
    ages = {}
    age = _between(newest_first[0].started, now)
    ages[newest_first[0].backup] = age
    for later, earlier in pairwise(newest_first):
        age += _between(earlier.started, later.started)
        ages[earlier.backup] = age
    return ages


def _between(earlier: datetime, later: datetime) -> timedelta:
    return min(max(later - earlier, timedelta(0)), _MOST_BETWEEN)
