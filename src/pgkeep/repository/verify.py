"""Whether a repository still holds what it should, and putting right what a sibling can give.

Structure first: every object of every backup is there with its size. Then bytes: objects are read
and held against their names, those first that were read longest ago. Needs no private key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pgkeep.errors import (
    ConfigurationError,
    DamagedObject,
    ObjectMissing,
    PgkeepError,
    StoreError,
    StoreUnavailable,
)
from pgkeep.model import BackupId, Manifest, ObjectName, StoredObject
from pgkeep.repository.manifests import manifest_digest
from pgkeep.repository.objects import ObjectSource
from pgkeep.repository.repository import Listing, Repository

# So much is read again at most where a verify was killed.
_NOTED_BYTES = 256 << 20
# After so many objects in a row that a server does not answer for, it is down.
_UNANSWERED = 3


@dataclass(frozen=True, slots=True)
class Damage:
    """An object that is missing or wrong, whom it takes down, and whether it was put right."""

    item: StoredObject
    problem: str
    backups: tuple[BackupId, ...]
    healed: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found in one repository."""

    backups: int
    objects: int
    read_objects: int
    read_bytes: int
    damage: tuple[Damage, ...]
    problems: tuple[PgkeepError, ...]
    """Manifests that are no backup, and backups that are missing from a chain."""

    @property
    def is_whole(self) -> bool:
        return not self.problems and all(item.healed for item in self.damage)


class ReadingDates:
    """When each object was last read and found right, or wrong, in a file of this host's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of_host(cls, state_dir: Path) -> ReadingDates:
        """Those in a state folder."""
        return cls(state_dir / "verified.sqlite")

    def last_read(self, place: str) -> dict[str, str]:
        """The time (ISO 8601, UTC) by object name, for the repository at a URL."""
        with closing(self._open()) as connection:
            rows = connection.execute("SELECT object, at FROM read WHERE place = ?", (place,))
            return dict(rows.fetchall())

    def note(self, place: str, names: Sequence[ObjectName], at: datetime) -> None:
        """Remember that these were right just now."""
        when = at.astimezone(UTC).isoformat(timespec="microseconds")
        with closing(self._open()) as connection, connection:
            connection.executemany(
                "INSERT OR REPLACE INTO read VALUES (?, ?, ?)",
                [(place, str(name), when) for name in names],
            )
            connection.executemany(
                "DELETE FROM wrong WHERE place = ? AND object = ?",
                [(place, str(name)) for name in names],
            )

    def note_wrong(self, place: str, names: Sequence[ObjectName]) -> None:
        """Remember that these have their size, but not the bytes that were written."""
        with closing(self._open()) as connection, connection:
            connection.executemany(
                "INSERT OR REPLACE INTO wrong VALUES (?, ?)",
                [(place, str(name)) for name in names],
            )

    def wrong(self) -> Mapping[str, frozenset[ObjectName]]:
        """The objects that were wrong when they were last read, by the URL of the repository."""
        if not self._path.exists():
            return {}
        found: dict[str, frozenset[ObjectName]] = {}
        with closing(self._open()) as connection:
            for place, name in connection.execute("SELECT place, object FROM wrong"):
                found[place] = found.get(place, frozenset()) | {ObjectName(name)}
        return found

    def _open(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.touch(0o600)
            connection = sqlite3.connect(self._path, timeout=30)
            connection.execute(
                "CREATE TABLE IF NOT EXISTS read"
                " (place TEXT, object TEXT, at TEXT, PRIMARY KEY (place, object))"
            )
            connection.execute(
                "CREATE TABLE IF NOT EXISTS wrong"
                " (place TEXT, object TEXT, PRIMARY KEY (place, object))"
            )
        except (OSError, sqlite3.Error) as exc:
            raise ConfigurationError(
                f"cannot use {str(self._path)!r}: {exc}",
                hint="Delete this file: it only says which objects were read when.",
            ) from exc
        return connection


def verify(
    repository: Repository,
    listing: Listing,
    siblings: Sequence[Repository],
    *,
    everywhere: Sequence[Manifest] = (),
    read_bytes: int | None,
    dates: ReadingDates,
    now: Callable[[], datetime],
    heal: bool,
) -> Verified:
    """Check a repository; `read_bytes` is how much to read of objects (None: all of them).

    `everywhere` are the backups that the siblings have: one here may follow one of those.
    """
    users = _users(listing.backups)
    items = {item.name: item for one in listing.backups for item in one.all_objects}
    lacking = repository.lacks(list(items.values()))
    found = {item.name: problem for item in lacking if (problem := _absence(repository, item))}
    present = [item for item in items.values() if item.name not in found]
    read = list(_to_read(present, dates.last_read(repository.store.url), read_bytes))
    found |= _read(repository, read, dates, now)
    damage = tuple(
        Damage(
            items[name],
            problem,
            users[name],
            heal and _heal(repository, items[name], siblings),
        )
        for name, problem in found.items()
    )
    healed = [one.item.name for one in damage if one.healed]
    dates.note(repository.store.url, healed, now())
    return Verified(
        backups=len(listing.backups),
        objects=len(items),
        read_objects=len(read),
        read_bytes=sum(item.size_bytes for item in read),
        damage=damage,
        problems=(
            *listing.problems,
            *broken_chains(listing.backups, everywhere, repository.store.url),
        ),
    )


def _read(
    repository: Repository,
    items: Sequence[StoredObject],
    dates: ReadingDates,
    now: Callable[[], datetime],
) -> dict[ObjectName, str]:
    """What is wrong with those that are; what was right is noted on the way, however this ends.

    A server that does not answer for several in a row is down, and no object damaged by that.
    """
    wrong: dict[ObjectName, str] = {}
    right: list[ObjectName] = []
    damaged: list[ObjectName] = []
    unanswered = unnoted_bytes = 0
    try:
        for item in items:
            try:
                repository.source.fetch(item)
            except (DamagedObject, StoreError) as exc:
                wrong[item.name] = exc.message
                if isinstance(exc, DamagedObject):
                    damaged.append(item.name)
                unanswered = unanswered + 1 if isinstance(exc, StoreUnavailable) else 0
                if unanswered == _UNANSWERED:
                    raise
            else:
                unanswered = 0
                right.append(item.name)
                unnoted_bytes += item.size_bytes
            if unnoted_bytes >= _NOTED_BYTES:
                dates.note(repository.store.url, right, now())
                right, unnoted_bytes = [], 0
    finally:
        dates.note(repository.store.url, right, now())
        dates.note_wrong(repository.store.url, damaged)
    return wrong


def broken_chains(
    backups: Sequence[Manifest], everywhere: Sequence[Manifest], url: str
) -> Iterator[PgkeepError]:
    """Each manifest names the one before it: another in its place is told.

    Pruned backups leave gaps, which are no fault; and where repositories were down in turn, two
    backups have one number, of which the next follows either.
    """
    known: dict[tuple[str, int], dict[str, BackupId]] = {}
    for one in {*backups, *everywhere}:
        known.setdefault((one.database, one.sequence), {})[manifest_digest(one)] = one.backup
    for one in backups:
        before = known.get((one.database, one.sequence - 1), {})
        if before and one.previous not in before:
            yield DamagedObject(
                f"backup {one.backup} in {url} follows another than {min(before.values())}",
                hint="Two hosts may back up one database, or a backup was put in another's place.",
            )


def _users(backups: Sequence[Manifest]) -> dict[ObjectName, tuple[BackupId, ...]]:
    users: dict[ObjectName, tuple[BackupId, ...]] = {}
    for manifest in backups:
        for item in manifest.all_objects:
            users[item.name] = (*users.get(item.name, ()), manifest.backup)
    return users


def _to_read(
    items: Sequence[StoredObject], dates: Mapping[str, str], limit: int | None
) -> Iterator[StoredObject]:
    """Those never read come first, then those read longest ago, up to the limit in bytes."""
    left = limit
    for item in sorted(items, key=lambda item: (dates.get(item.name, ""), item.name)):
        if left is not None:
            if left <= 0:
                return
            left -= item.size_bytes
        yield item


def _absence(repository: Repository, item: StoredObject) -> str:
    try:
        repository.source.check_presence(item)
    except (ObjectMissing, DamagedObject) as exc:
        return exc.message
    return ""


def _heal(repository: Repository, item: StoredObject, siblings: Sequence[Repository]) -> bool:
    """Put what a sibling has in its place, and look whether it is right now."""
    try:
        data = ObjectSource([sibling.store for sibling in siblings]).fetch(item)
        repository.store.put(item.name.path, data)
        repository.source.fetch(item)
    except (DamagedObject, StoreError):
        return False
    return True
