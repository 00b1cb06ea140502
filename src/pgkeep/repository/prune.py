"""Deleting what is no longer kept, in two phases, safe beside a backup that is being written.

First a plan *condemns* backups that expired and objects that no other backup uses; no writer uses
a condemned object again. After `GRACE` everything is looked at anew, and what is in the plan and
still of no use is deleted, manifests first. No key that opens anything is needed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pgkeep.errors import StoreAccessDenied
from pgkeep.model import BackupId, Manifest, ObjectName
from pgkeep.repository.condemned import FOLDER, GRACE, Condemned, plans
from pgkeep.repository.repository import Listing, Repository
from pgkeep.repository.retention import Decision, Policy, decide

ListBackups = Callable[[], Listing]
"""All backups of the repository now, of every database, checked."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was done in one repository."""

    decisions: tuple[Decision, ...]
    condemned_backups: int = 0
    condemned_objects: int = 0
    deleted_backups: tuple[BackupId, ...] = ()
    deleted_objects: int = 0
    freed_bytes: int = 0
    refused: int = 0
    """Files that may not be deleted: a lock, or a key without that right. Tried again next time."""


def look(list_backups: ListBackups, policy: Policy, now: datetime) -> tuple[Decision, ...]:
    """What a prune would decide. Changes nothing."""
    return decide(_whole(list_backups()), policy, now)


def prune(
    repository: Repository, list_backups: ListBackups, policy: Policy, now: datetime
) -> Pruned:
    """Carry out the plans that have waited long enough, then make a new one."""
    with repository.exclusive("prune"):
        swept = _Sweep(repository)
        for plan in list(plans(repository)):
            if now - plan.at >= GRACE:
                swept.carry_out(plan, list_backups, policy, now)
        decisions = look(list_backups, policy, now)
        backups, objects = _condemn(repository, decisions, now)
        return Pruned(
            decisions,
            condemned_backups=backups,
            condemned_objects=objects,
            deleted_backups=tuple(swept.backups),
            deleted_objects=swept.objects,
            freed_bytes=swept.freed_bytes,
            refused=swept.refused,
        )


def _whole(listing: Listing) -> Sequence[Manifest]:
    """Nothing is deleted while a manifest cannot be read: its objects are not known."""
    if listing.problems:
        raise listing.problems[0]
    return listing.backups


def _condemn(
    repository: Repository, decisions: Sequence[Decision], now: datetime
) -> tuple[int, int]:
    waiting = list(plans(repository))
    known_objects = {name for plan in waiting for name in plan.objects}
    known_backups = {backup for plan in waiting for backup in plan.backups}
    kept = _objects_of(one.manifest for one in decisions if one.kept)
    dead = {ObjectName(path.rpartition("/")[2]) for path in repository.object_sizes()}
    objects = sorted(dead - kept - known_objects)
    expired = sorted({one.manifest.backup for one in decisions if not one.kept} - known_backups)
    if not objects and not expired:
        return 0, 0
    at = now.astimezone(UTC)
    document = {"at": at.isoformat(), "backups": expired, "objects": objects}
    name = f"{FOLDER}{at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.json"
    repository.store.put(name, json.dumps(document).encode() + b"\n")
    return len(expired), len(objects)


def _objects_of(manifests: Iterable[Manifest]) -> set[ObjectName]:
    return {item.name for manifest in manifests for item in manifest.all_objects}


class _Sweep:
    """The second phase, and what came of it."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.backups: list[BackupId] = []
        self.objects = 0
        self.freed_bytes = 0
        self.refused = 0

    def carry_out(
        self, plan: Condemned, list_backups: ListBackups, policy: Policy, now: datetime
    ) -> None:
        """Delete what is in the plan and of no use now; a plan that is done goes too."""
        refused_before = self.refused
        gone = set()
        for decision in look(list_backups, policy, now):
            manifest = decision.manifest
            if decision.kept or manifest.backup not in plan.backups:
                continue
            # The manifest first: what has none is no backup, whatever else is still there.
            if self._delete(manifest.path):
                self._delete(f"{manifest.path}.sig")
                self.backups.append(manifest.backup)
                gone.add(manifest.backup)
        alive = _objects_of(one for one in _whole(list_backups()) if one.backup not in gone)
        sizes = self._repository.object_sizes()
        for name in sorted(plan.objects - alive):
            if name.path in sizes and self._delete(name.path):
                self.objects += 1
                self.freed_bytes += sizes[name.path]
        if self.refused == refused_before:
            self._delete(plan.path)

    def _delete(self, path: str) -> bool:
        try:
            self._repository.store.delete(path)
        except StoreAccessDenied:
            self.refused += 1
            return False
        return True
