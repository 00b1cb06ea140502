"""Bringing repositories to the same state: what one lacks is copied from the others, unopened.

Needs no private key: names tell whether objects are right, signatures whether manifests are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from pgkeep.errors import DamagedObject, ManifestInvalid, PgkeepError, StoreError
from pgkeep.model import Kind, Manifest, StoredObject
from pgkeep.repository.condemned import publish_safely
from pgkeep.repository.copies import copy_objects
from pgkeep.repository.locks import fading, lock_term
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
    missing: Sequence[Missing],
    began: Callable[[Missing], None],
    now: Callable[[], datetime],
    protect: Mapping[str, timedelta] | None = None,
) -> tuple[Synced, ...]:
    """Copy each; one that fails keeps no other from being copied.

    `protect` says of repositories that lock, by name, for how long they protect a backup.
    """
    done = []
    for item in missing:
        began(item)
        try:
            with item.target.exclusive(f"sync of {item.manifest.database!r}"):
                done.append(_copy(item, now, (protect or {}).get(item.target.name)))
        except (StoreError, DamagedObject, ManifestInvalid) as exc:
            done.append(Synced(item, problem=exc))
    return tuple(done)


def _copy(item: Missing, now: Callable[[], datetime], protects: timedelta | None) -> Synced:
    lacking = _lacking(item.target, item.manifest, protects)
    source = ObjectSource([holder.store for holder in item.holders])
    copied = copy_objects(lacking, source, item.target)
    adopt = partial(item.target.adopt, item.manifest, item.holders[0])
    publish_safely(item.target, item.manifest, adopt, now)
    return Synced(item, len(lacking), copied)


def _lacking(
    target: Repository, manifest: Manifest, protects: timedelta | None
) -> list[StoredObject]:
    """What is to be stored there: also what is there, if its lock ends too early for this backup.

    Stored again, it is another version with a lock of its own.
    """
    files = {file.name: file for file in target.objects()}
    sizes = {name: file.size_bytes for name, file in files.items()}
    lacking = {one for one in manifest.all_objects if sizes.get(one.name.path) != one.size_bytes}
    term = lock_term(target.store.facts(), protects)
    if term is not None:
        present = [files[one.name.path] for one in manifest.all_objects if one not in lacking]
        faded = fading(target.store, present, term, manifest.started + term.protects)
        lacking |= {one for one in manifest.all_objects if one.name.path in faded}
    return [one for one in manifest.all_objects if one in lacking]
