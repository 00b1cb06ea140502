"""The repositories that this host has written to, so that one that vanished is told from a new one.

A disk that is not mounted looks like an empty folder. Without a memory, the next backup would make
a new repository there, on the wrong disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from pgkeep.errors import ConfigurationError, RepositoryMissing, RepositoryVanished
from pgkeep.repository.hostkeys import write_private
from pgkeep.repository.repository import Repository
from pgkeep.stores import Store


@dataclass(frozen=True, slots=True)
class Where:
    """A place for a repository, as it is configured."""

    name: str
    url: str
    endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of a repository."""

    name: str
    since: str
    """The day of the first backup there from this host, in ISO form."""


class KnownRepositories:
    """A file for each in the state folder, so that backups side by side cannot lose one."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "repositories"

    def recall(self, where: Where) -> Memory | None:
        """What is remembered of this place, if anything. Its name may have changed since."""
        try:
            document = json.loads(self._path(where).read_bytes())
            return Memory(str(document["name"]), str(document["since"]))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return Memory(where.name, "an unknown day")

    def all(self) -> dict[str, str]:
        """The names of all places that are remembered, by their `place_id`."""
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                found[path.stem] = str(json.loads(path.read_bytes())["name"])
            except (OSError, ValueError, KeyError, TypeError):
                found[path.stem] = path.stem
        return found

    def forget_place(self, place: str) -> None:
        """As `forget`, of a place that no configuration names any more."""
        (self._folder / f"{place}.json").unlink(missing_ok=True)

    def remember(self, where: Where, now: datetime) -> None:
        """This host writes there; what is remembered already stays as it is."""
        path = self._path(where)
        if path.exists():
            return
        document = {
            "name": where.name,
            "url": where.url,
            "endpoint": where.endpoint,
            "since": f"{now.astimezone(UTC):%Y-%m-%d}",
        }
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, json.dumps(document).encode() + b"\n", replace=False)
        except OSError as exc:
            raise ConfigurationError(
                f"cannot write to the state folder {str(self._folder.parent)!r}:"
                f" {(exc.strerror or str(exc)).lower()}",
                hint="Set state_dir to a folder of your own, on a disk with room.",
            ) from exc

    def forget(self, where: Where) -> bool:
        """Forget the place: the next backup may make a new repository there. Whether it was known.

        Touches nothing at the place itself.
        """
        known = self.recall(where) is not None
        self._path(where).unlink(missing_ok=True)
        return known

    def vanished(self, where: Where) -> RepositoryVanished | None:
        """The error to raise where there is no repository any more; `None` if there never was."""
        memory = self.recall(where)
        if memory is None:
            return None
        return RepositoryVanished(
            f"the repository at {where.url} has vanished: this host has written there since"
            f" {memory.since}",
            hint="Mount the disk, or check the bucket. To begin anew there, run: pgkeep forget"
            f" {where.name}",
        )

    def _path(self, where: Where) -> Path:
        return self._folder / f"{place_id(where)}.json"


def place_id(where: Where) -> str:
    """What tells a place from others, and does not show it."""
    place = f"{where.endpoint or ''} {where.url.rstrip('/')}"
    return sha256(place.encode()).hexdigest()[:32]


def open_to_write(
    where: Where,
    store: Store,
    known: KnownRepositories,
    now: datetime,
    made: Callable[[Repository], None],
) -> Repository:
    """The repository there; a place that is empty, and is not known here, becomes one.

    `made` is told of one that was made. `RepositoryVanished` where there was one.
    """
    try:
        repository = Repository.open(where.name, store)
    except RepositoryMissing as exc:
        if vanished := known.vanished(where):
            raise vanished from exc
        repository, new = Repository.open_or_create(where.name, store, now=now)
        if new:
            made(repository)
    known.remember(where, now)
    return repository
