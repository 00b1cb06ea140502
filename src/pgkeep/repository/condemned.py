"""Objects that are going to be deleted: a plan is written long before it is carried out.

    condemned/<time>-<random>.json

A writer uses none of them again, and whoever deletes looks again first (`pgkeep.repository.prune`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgkeep.errors import ManifestInvalid, StoreError
from pgkeep.model import Manifest, ObjectName
from pgkeep.repository.repository import Repository

FOLDER = "condemned/"

GRACE = timedelta(hours=24)
"""How long a plan waits, at least: who began to write before it was made has published by then."""


@dataclass(frozen=True, slots=True)
class Condemned:
    """One plan: what was to be deleted from when on."""

    path: str
    at: datetime
    objects: frozenset[ObjectName]


def plans(repository: Repository) -> Iterator[Condemned]:
    """All plans, oldest first; `ManifestInvalid` if one cannot be read."""
    for file in repository.store.list(FOLDER):
        try:
            document = json.loads(repository.store.get(file.name))
            at = datetime.fromisoformat(document["at"])
            objects = frozenset(ObjectName(name) for name in document["objects"])
        except (ValueError, KeyError, TypeError) as exc:
            raise ManifestInvalid(
                f"{file.name} in {repository.store.url} is damaged",
                hint="Delete this file: the next prune makes a new plan.",
            ) from exc
        yield Condemned(file.name, at, objects)


def condemned_paths(repository: Repository) -> set[str]:
    """Where the objects are that no backup may use again."""
    return {name.path for plan in plans(repository) for name in plan.objects}


def refuse_doomed(repository: Repository, manifest: Manifest, now: datetime) -> None:
    """`StoreError` if a backup took so long that objects which it uses again may go any moment."""
    names = {item.name for item in manifest.all_objects}
    for plan in plans(repository):
        if now - plan.at >= GRACE / 2 and not names.isdisjoint(plan.objects):
            raise StoreError(
                f"{plan.path} in {repository.store.url} is about to delete objects that this backup"
                " uses",
                hint="The backup took very long. Run it again.",
            )
