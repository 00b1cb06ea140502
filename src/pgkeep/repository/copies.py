"""Several repositories written side by side: sealed once, the same bytes in each.

One that fails or cannot keep pace falls *behind*: the others go on without it, and what it lacks
is copied from a sibling afterwards. Only one that is `required` ends the work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from pgkeep.errors import (
    DamagedObject,
    ManifestInvalid,
    PgkeepError,
    RepositoryMissing,
    StoreError,
    StoreUnavailable,
)
from pgkeep.model import Manifest, ObjectName, StoredObject
from pgkeep.repository.condemned import condemned_paths, publish_safely
from pgkeep.repository.hostkeys import Epoch
from pgkeep.repository.locks import LockTerm, fading, lock_term, renew_locks
from pgkeep.repository.objects import ObjectSource
from pgkeep.repository.repository import Repository
from pgkeep.sealing import PublicSigner, SigningKey
from pgkeep.stores import Bytes, StoredFile

# What may wait for one repository: a few objects of 32 MiB, and so many are on their way at once.
_QUEUE_BYTES = 96 << 20
_TRANSFERS = 4
# How long the others wait, once in a backup, for one that is not required to take an object.
_PATIENCE_SECONDS = 10.0
_STALL_SECONDS = 300.0
# How long the others wait for one that is not required to say that it is there.
_OPENING_SECONDS = 30.0

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Behind:
    """A repository that has not got a backup, and why."""

    name: str
    problem: PgkeepError


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about a repository that keeps nobody from the work."""

    name: str
    message: str
    hint: str


class Copies:
    """The repositories of one backup. Nothing here opens what is sealed.

    Each is opened, by its opener, when the block of `writing` begins. `put` may be called from
    several threads. `wrong` are objects, by the URL of their repository, that were found damaged.
    """

    def __init__(
        self,
        openers: dict[str, Callable[[], Repository]],
        *,
        required: Iterable[str] = (),
        protect: Mapping[str, timedelta] | None = None,
        wrong: Mapping[str, frozenset[ObjectName]] | None = None,
        patience_seconds: float = _PATIENCE_SECONDS,
        opening_seconds: float = _OPENING_SECONDS,
    ) -> None:
        self._opening_seconds = opening_seconds
        self._openers = openers
        self._required = frozenset(required)
        self._protect = protect or {}
        self._wrong = wrong or {}
        self._patience = patience_seconds
        self._remarks: list[Remark] = []
        self._lanes: dict[str, _Lane] = {}
        self._behind: dict[str, PgkeepError] = {}
        self._lock = threading.Lock()

    @property
    def behind(self) -> tuple[Behind, ...]:
        """Those that fell behind, and why."""
        return tuple(Behind(name, problem) for name, problem in self._behind.items())

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """What was noticed so far."""
        return tuple(self._remarks)

    @property
    def healthy(self) -> tuple[Repository, ...]:
        """Those that have kept up so far."""
        return tuple(lane.repository for lane in self._healthy())

    @contextmanager
    def writing(self, purpose: str) -> Iterator[None]:
        """Open and lock all of them; in the end wait for nothing that is under way."""
        with ExitStack() as stack:
            openings = {name: _Opening(opener) for name, opener in self._openers.items()}
            until = time.monotonic() + self._opening_seconds
            silent = []
            for name, opening in openings.items():
                left = None if name in self._required else max(until - time.monotonic(), 0)
                if opening.has_ended(left):
                    self._begin(name, opening, purpose, stack)
                else:
                    silent.append(name)
            for name in silent:  # waited for only where there is no other
                if self._lanes and not openings[name].has_ended(0):
                    with self._falling_behind(name):
                        raise StoreUnavailable(
                            f"it was silent for {self._opening_seconds:g} s, and the others did"
                            " not wait for it"
                        )
                else:
                    self._begin(name, openings[name], purpose, stack)
            yield

    def _begin(self, name: str, opening: _Opening, purpose: str, stack: ExitStack) -> None:
        with self._falling_behind(name):
            repository = opening.result()
            stack.enter_context(repository.exclusive(purpose))
            lane = _Lane(repository, self._patience, alone=len(self._openers) == 1)
            stack.callback(lane.close)
            self._lanes[name] = lane

    def look(self) -> None:
        """Open those that are there, to be asked and no more: nothing is made or locked."""
        for name, opener in self._openers.items():
            with self._falling_behind(name), suppress(RepositoryMissing):
                self._lanes[name] = _Lane(opener(), self._patience, alone=True)

    def prepare(self, epoch: Epoch, signer: PublicSigner, now: datetime) -> None:
        """See `Repository.prepare`. What all backups need stays locked for as long as they do."""
        self.ask(lambda one: self._prepare(one, epoch, signer, now))

    def _prepare(
        self, repository: Repository, epoch: Epoch, signer: PublicSigner, now: datetime
    ) -> None:
        if stale := repository.prepare(epoch, signer):
            self._remark(repository, stale, "not up to date")
        term = self._term(repository)
        if term is not None:
            fading_ones = renew_locks(repository, epoch.id, term, now + term.protects)
            if fading_ones:
                self._remark(repository, fading_ones, "not locked for long enough")

    def _remark(self, repository: Repository, names: Sequence[str], what: str) -> None:
        remark = Remark(
            repository.name,
            f"{what}, since nothing may be written over there: {', '.join(names)}",
            "The backup is whole. Whoever may write over files can renew them: run any backup with"
            " such a key once.",
        )
        self._remarks.append(remark)

    def _term(self, repository: Repository) -> LockTerm | None:
        lane = self._lanes[repository.name]
        if not lane.term_known:
            lane.term = lock_term(repository.store.facts(), self._protect.get(repository.name))
            lane.term_known = True
        return lane.term

    def ask(self, question: Callable[[Repository], Answer]) -> list[tuple[Repository, Answer]]:
        """What each of them answers that is still with us."""
        answers = []
        for lane in self._healthy():
            with self._falling_behind(lane.name):
                answers.append((lane.repository, question(lane.repository)))
        return answers

    def put(self, path: str, data: Bytes) -> None:
        """Hand an object to every repository. `data` must not be changed afterwards."""
        taken = False
        for lane in self._healthy():
            with self._falling_behind(lane.name):
                taken |= lane.offer(path, data, patient=lane.name in self._required)
        while not taken:  # all are slow: the first one left sets the pace
            left = self._healthy()
            if not left:  # another thread has met what befell the last one
                raise next(iter(self._behind.values()))
            with self._falling_behind(left[0].name):
                taken = left[0].offer(path, data, patient=True)

    def publish(self, manifest: Manifest, key: SigningKey, now: Callable[[], datetime]) -> None:
        """Make the backup in each, as soon as it has every object.

        What one lacks, since it was slow or behind before, is copied from the others in the end.
        """
        later: list[tuple[_Lane, list[StoredObject]]] = []
        for lane in sorted(self._healthy(), key=lambda lane: lane.waiting_bytes):
            with self._falling_behind(lane.name):
                lane.settle()
                if lacking := lane.repository.lacks(manifest.all_objects):
                    later.append((lane, lacking))
                else:
                    lane.publish(manifest, key, now)
        for lane, lacking in later:
            others = [other.store for other in self.healthy if other is not lane.repository]
            with self._falling_behind(lane.name):
                copy_objects(lacking, ObjectSource(others), lane.repository)
                lane.publish(manifest, key, now)

    def reusable(self, now: datetime) -> Mapping[str, int]:
        """Objects that some repository has, and none has damaged or will delete, by path.

        Their locks last long enough. The values are their sizes.
        """
        found: dict[str, int] = {}
        unfit: set[str] = set()
        for _, (files, doomed) in self.ask(lambda one: self._objects(one, now)):
            found |= {file.name: file.size_bytes for file in files}
            unfit |= doomed
        return {path: size for path, size in found.items() if path not in unfit}

    def _objects(
        self, repository: Repository, now: datetime
    ) -> tuple[tuple[StoredFile, ...], set[str]]:
        """All objects there, and which of them must not be used again."""
        files, term = repository.objects(), self._term(repository)
        doomed = condemned_paths(repository)
        doomed |= {name.path for name in self._wrong.get(repository.store.url, ())}
        if term is not None:
            doomed |= fading(repository.store, files, term, now + term.protects)
        return files, doomed

    def _healthy(self) -> list[_Lane]:
        return [lane for name, lane in self._lanes.items() if name not in self._behind]

    @contextmanager
    def _falling_behind(self, name: str) -> Iterator[None]:
        """Go on without a repository that fails, if it is not required and others are left."""
        try:
            yield
        except (StoreError, DamagedObject, ManifestInvalid) as exc:
            with self._lock:
                self._behind.setdefault(name, exc)
                left = self._openers.keys() - self._behind.keys()
            if name in self._required or not left:
                raise


class _Opening:
    """A repository that is being opened, beside the others. Its thread keeps no process alive."""

    def __init__(self, opener: Callable[[], Repository]) -> None:
        self._opener = opener
        self._ended = threading.Event()
        self._future: Future[Repository] = Future()
        threading.Thread(target=self._run, name="pgkeep-open", daemon=True).start()

    def has_ended(self, within_seconds: float | None) -> bool:
        """Whether there is a result, or soon is; `None` waits for as long as it takes."""
        return self._ended.wait(within_seconds)

    def result(self) -> Repository:
        """The repository, or why it could not be opened."""
        return self._future.result()

    def _run(self) -> None:
        try:
            self._future.set_result(self._opener())
        except BaseException as exc:
            self._future.set_exception(exc)
        finally:
            self._ended.set()


class _Lane:
    """The way to one repository: objects wait in it, within bounds, and travel several at once."""

    def __init__(self, repository: Repository, patience_seconds: float, *, alone: bool) -> None:
        self.repository = repository
        self.term: LockTerm | None = None
        self.term_known = False
        self._patience = patience_seconds
        self._executor = None if alone else ThreadPoolExecutor(_TRANSFERS, "pgkeep-store")
        self._changed = threading.Condition()
        self._waiting_bytes = 0
        self._error: PgkeepError | None = None
        self._closed = False

    @property
    def name(self) -> str:
        return self.repository.name

    def offer(self, path: str, data: Bytes, *, patient: bool) -> bool:
        """Take an object to be stored, or not, if there is no room and no more patience."""
        if self._executor is None:
            self.repository.store.put(path, data)
            return True
        with self._changed:
            patience = None if patient else self._patience
            if not self._changed.wait_for(lambda: self._has_room(len(data)), patience):
                self._patience = 0  # the others have waited once
                return False
            self._raise_error()
            self._waiting_bytes += len(data)
        self._executor.submit(self._store, path, data)
        return True

    @property
    def waiting_bytes(self) -> int:
        """What was taken and is not stored yet."""
        return self._waiting_bytes

    def settle(self) -> None:
        """Wait until nothing is under way, for as long as something moves."""
        with self._changed:
            while left := self._waiting_bytes:
                moved = self._changed.wait_for(lambda: self._waiting_bytes != left, _STALL_SECONDS)
                self._raise_error()
                if not moved:
                    raise StoreError(f"{self.repository.store.url} has stalled")
            self._raise_error()

    def publish(self, manifest: Manifest, key: SigningKey, now: Callable[[], datetime]) -> None:
        """Make the backup visible, of objects that are all here."""
        publish = partial(self.repository.publish, manifest, key)
        publish_safely(self.repository, manifest, publish, now)

    def close(self) -> None:
        """Begin nothing more. What is on its way just now may still arrive."""
        self._closed = True
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _has_room(self, size_bytes: int) -> bool:
        fits = self._waiting_bytes + size_bytes <= _QUEUE_BYTES
        return fits or not self._waiting_bytes or self._error is not None

    def _store(self, path: str, data: Bytes) -> None:
        error: PgkeepError | None = None
        try:
            if self._error is None and not self._closed:
                self.repository.store.put(path, data)
        except PgkeepError as exc:
            error = exc
        with self._changed:
            self._waiting_bytes -= len(data)
            self._error = self._error or error
            self._changed.notify_all()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def copy_objects(items: Sequence[StoredObject], source: ObjectSource, target: Repository) -> int:
    """Store objects that others have, each checked against its name; how many bytes."""
    if not items:
        return 0

    def copy(item: StoredObject) -> int:
        target.store.put(item.name.path, source.fetch(item))
        return item.size_bytes

    with ThreadPoolExecutor(_TRANSFERS, "pgkeep-copy") as executor:
        return sum(executor.map(copy, items))
