"""Bringing repositories to the same state: what one lacks is copied from the others, unopened.

Needs no private key: names tell whether objects are right, signatures whether manifests are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from pgkeep.errors import DamagedObject, ManifestInvalid, PgkeepError, StoreError
from pgkeep.model import Kind, Manifest
from pgkeep.repository.condemned import publish_safely
from pgkeep.repository.copies import copy_objects
from pgkeep.repository.objects import ObjectSource
from pgkeep.repository.repository import Listing, Repository, merge_listings
from pgkeep.repository.retention import Policy, decide


@dataclass(frozen=True, slots=True)
class Missing:
    """A backup that a repository should have and has not."""

    manifest: Manifest
    target: Repository
    holders: tuple[Repository, ...]


@dataclass(frozen=True, slots=True)
class Synced:
    """What became of it: how many objects and bytes were copied, or why it could not be."""

    missing: Missing
    objects: int = 0
    copied_bytes: int = 0
    problem: PgkeepError | None = None


def find_missing(
    listings: Mapping[str, Listing],
    repositories: Sequence[Repository],
    kinds: Mapping[str, Iterable[Kind]],
    policy: Policy,
    now: datetime,
) -> tuple[Missing, ...]:
    """Backups that are in some repository and not in another that takes their kind, oldest first.

    Not those that a prune would take away again. `listings` and `kinds` are by the names of the
    repositories. Pure.
    """
    found = []
    everywhere = merge_listings(list(listings.values())).backups
    kept = [one.manifest for one in decide(everywhere, policy, now) if one.kept]
    for manifest in sorted(kept, key=lambda one: (one.started, one.backup)):
        holders = tuple(one for one in repositories if manifest in listings[one.name].backups)
        for target in repositories:
            if target not in holders and manifest.kind in kinds[target.name]:
                found.append(Missing(manifest, target, holders))
    return tuple(found)


def sync(
    missing: Sequence[Missing], began: Callable[[Missing], None], now: Callable[[], datetime]
) -> tuple[Synced, ...]:
    """Copy each; one that fails keeps no other from being copied."""
    done = []
    for item in missing:
        began(item)
        try:
            with item.target.exclusive(f"sync of {item.manifest.database!r}"):
                done.append(_copy(item, now))
        except (StoreError, DamagedObject, ManifestInvalid) as exc:
            done.append(Synced(item, problem=exc))
    return tuple(done)


def _copy(item: Missing, now: Callable[[], datetime]) -> Synced:
    lacking = item.target.lacks(item.manifest.all_objects)
    source = ObjectSource([holder.store for holder in item.holders])
    copied = copy_objects(lacking, source, item.target)
    adopt = partial(item.target.adopt, item.manifest, item.holders[0])
    publish_safely(item.target, item.manifest, adopt, now)
    return Synced(item, len(lacking), copied)
