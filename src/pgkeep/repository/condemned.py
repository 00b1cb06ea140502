"""Objects that are going to be deleted: a plan is written long before it is carried out.

    condemned/<time>-<random>.json

A writer uses none of them again, and whoever deletes looks again first (`pgkeep.repository.prune`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgkeep.errors import ManifestInvalid, StoreAccessDenied, StoreError
from pgkeep.model import BackupId, Manifest, ObjectName
from pgkeep.repository.repository import Repository

FOLDER = "condemned/"

GRACE = timedelta(hours=24)
"""How long a plan waits, at least: who began to write before it was made has published by then."""


@dataclass(frozen=True, slots=True)
class Condemned:
    """One plan: what was to be deleted from when on."""

    path: str
    at: datetime
    backups: frozenset[BackupId]
    objects: frozenset[ObjectName]


def plans(repository: Repository) -> Iterator[Condemned]:
    """All plans, oldest first; `ManifestInvalid` if one cannot be read."""
    for file in repository.store.list(FOLDER):
        try:
            document = json.loads(repository.store.get(file.name))
            at = datetime.fromisoformat(document["at"])
            backups = frozenset(BackupId(name) for name in document.get("backups", ()))
            objects = frozenset(ObjectName(name) for name in document["objects"])
        except (ValueError, KeyError, TypeError) as exc:
            raise ManifestInvalid(
                f"{file.name} in {repository.store.url} is damaged",
                hint="Delete this file: the next prune makes a new plan.",
            ) from exc
        yield Condemned(file.name, at, backups, objects)


def condemned_paths(repository: Repository) -> set[str]:
    """Where the objects are that no backup may use again."""
    return {name.path for plan in plans(repository) for name in plan.objects}


def publish_safely(
    repository: Repository,
    manifest: Manifest,
    publish: Callable[[], None],
    now: Callable[[], datetime],
) -> None:
    """Make a backup visible, by `publish`, none of whose objects can be deleted before it is seen.

    No object in a plan half as old as `GRACE` is used, and whoever takes half of `GRACE` from that
    look to the manifest takes it back: so a plan that was old enough to be carried out before the
    manifest could be seen is one that was refused. No store has to lock anything for that.
    """
    begun = now()
    _refuse_doomed(repository, manifest, begun)
    publish()
    if now() - begun >= GRACE / 2:
        _withdraw(repository, manifest)
        raise StoreError(
            f"publishing {manifest.backup} in {repository.store.url} took so long that objects"
            " which it uses may be gone",
            hint="Run the backup again.",
        )


def _withdraw(repository: Repository, manifest: Manifest) -> None:
    try:
        repository.withdraw(manifest)
    except StoreAccessDenied as exc:
        raise StoreAccessDenied(
            f"publishing {manifest.backup} in {repository.store.url} took so long that objects"
            " which it uses may be gone, and it cannot be taken back: the key at hand may not"
            " delete",
            hint=f"Delete {manifest.path} with a key that may, and run the backup again.",
        ) from exc


def _refuse_doomed(repository: Repository, manifest: Manifest, now: datetime) -> None:
    """`StoreError` if a backup took so long that objects which it uses again may go any moment."""
    names = {item.name for item in manifest.all_objects}
    for plan in plans(repository):
        if now - plan.at >= GRACE / 2 and not names.isdisjoint(plan.objects):
            raise StoreError(
                f"{plan.path} in {repository.store.url} is about to delete objects that"
                f" {manifest.backup} uses",
                hint="Make a new backup; sync an old one after the next prune.",
            )
