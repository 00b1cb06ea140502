"""Looking at a repository. It changes nothing, and what fails becomes a fact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pgkeep.errors import PgkeepError, RepositoryMissing
from pgkeep.model import Kind, Manifest
from pgkeep.repository.known import KnownRepositories, Where
from pgkeep.repository.repository import Repository
from pgkeep.stores import Store, StoreFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryFacts:
    """What was learned of one configured repository."""

    name: str
    url: str
    endpoint: str | None = None
    required: bool = False
    kinds: tuple[Kind, ...] = tuple(Kind)
    protect_days: float | None = None
    is_local: bool = False
    device: int | None = None
    """The disk that a local one is on, or would be on."""
    problem: PgkeepError | None = None
    """Why it cannot be used."""
    is_new: bool = False
    """Nothing is there yet, and the first backup would make a repository."""
    store: StoreFacts | None = None
    """Not there if the place could not be reached."""
    newest: Manifest | None = None
    listing_problems: tuple[PgkeepError, ...] = ()
    """Of its backups: wrong signatures, damaged manifests, nobody known whose signature counts."""
    missing: int = 0
    """Backups that it should have and others have."""

    @property
    def about(self) -> str:
        return f"repository {self.name}"


@dataclass(frozen=True, slots=True)
class Looked:
    """A repository's place, as far as it could be opened."""

    repository: Repository | None = None
    facts: StoreFacts | None = None
    problem: PgkeepError | None = None
    is_new: bool = False


def look_at(where: Where, store: Store, known: KnownRepositories) -> Looked:
    """Whether there is a repository, and what protects or threatens it."""
    try:
        repository = Repository.open(where.name, store)
    except RepositoryMissing as exc:
        return _look_at_nothing(where, store, known, exc)
    except PgkeepError as exc:
        return Looked(problem=exc)
    try:
        return Looked(repository, store.facts())
    except PgkeepError as exc:
        return Looked(repository, problem=exc)


def _look_at_nothing(
    where: Where, store: Store, known: KnownRepositories, missing: RepositoryMissing
) -> Looked:
    try:
        if vanished := known.vanished(where):
            return Looked(problem=vanished)
        if next(iter(store.list("")), None) is not None:
            return Looked(problem=missing)
        return Looked(facts=store.facts(), is_new=True)
    except PgkeepError as exc:
        return Looked(problem=exc)


def newest_of(manifests: Sequence[Manifest]) -> Manifest | None:
    """The newest backup of all of the data, else the newest of any kind."""
    with_data = (manifest for manifest in manifests if manifest.kind.has_data)
    return next(with_data, next(iter(manifests), None))


def device_of(url: str) -> int | None:
    """The disk that a `file://` URL is on, or that a folder made there would be on."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    path = Path(unquote(parts.path))
    for folder in (path, *path.parents):
        try:
            return folder.stat().st_dev
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None
