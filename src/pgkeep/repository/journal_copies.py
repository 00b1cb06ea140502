"""The journal in several repositories: each segment goes into all, before the slot moves on.

A repository that fails or is slow is *behind*: it is left alone for a while, and then given what
it lacks from a sibling. Those that are required are waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pgkeep.errors import PgkeepError, StoreError
from pgkeep.repository.hostkeys import Epoch
from pgkeep.repository.journal import Journal, SealedSegment, SegmentName
from pgkeep.repository.repository import Repository
from pgkeep.sealing import PublicSigner

# How long to wait for one that is not required, for one that is, and how long one that failed is
# left alone. Who waits for one that is required holds back the source's WAL: that must come to an
# end, so that somebody looks how much it is.
_PATIENCE_SECONDS = 10.0
_REQUIRED_PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 60.0

Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Copy:
    """One repository, and whether it has everything."""

    name: str
    open: Callable[[], Repository]
    required: bool
    repository: Repository | None = None
    problem: PgkeepError | None = None
    retry_at: float = 0.0
    catching_up: Future[int] | None = None
    joining: bool = False
    """Whether it gets new segments again while the last that it lacks are being copied."""


class JournalCopies:
    """The journal of one database in all of its repositories. For one thread.

    At least one repository has to take a segment, and all of those that are required.
    """

    def __init__(
        self,
        database: str,
        openers: Mapping[str, Callable[[], Repository]],
        *,
        required: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        must = frozenset(required)
        self._database = database
        self._copies = [_Copy(name, opener, name in must) for name, opener in openers.items()]
        self._executor = ThreadPoolExecutor(len(self._copies) * 2, "pgkeep-journal")
        self._clock = clock
        self._prepared: dict[str, str] = {}

    @property
    def behind(self) -> Mapping[str, PgkeepError]:
        """Those that lack something, and why."""
        return {copy.name: copy.problem for copy in self._copies if copy.problem is not None}

    def close(self) -> None:
        """Begin nothing more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def names(self) -> tuple[SegmentName, ...]:
        """The segments that are in any of them. Raises if one that is required cannot be asked."""
        found = self._each(lambda repository: self._journal(repository).names())
        return tuple({name.path: name for names in found for name in names}.values())

    def read(self, name: SegmentName, trusted: Sequence[PublicSigner]) -> SealedSegment:
        """A segment from the first repository that gives it whole."""
        errors: list[PgkeepError] = []
        for copy in self._copies:
            try:
                return self._journal(self._opened(copy)).read(name, trusted)
            except PgkeepError as exc:
                errors.append(exc)
        raise errors[0]

    def put(self, path: str, data: bytes, epoch: Epoch, signer: PublicSigner) -> None:
        """Keep a segment, durably, or raise."""

        def keep(repository: Repository) -> None:
            if self._prepared.get(repository.name) != epoch.id:
                repository.prepare(epoch, signer)
                self._prepared[repository.name] = epoch.id
            repository.store.put(path, data)

        self._each(keep)

    def make_equal(self) -> None:
        """Give each what it lacks and others have. At least one must answer, and the required."""
        self._each(lambda repository: repository.name)
        for copy in [copy for copy in self._copies if copy.problem is None]:
            try:
                if copy.required:
                    copy_missing(self._database, self._opened(copy), self._siblings(copy))
                elif copy_missing(
                    self._database, self._opened(copy), self._siblings(copy), dry_run=True
                ):
                    copy.problem = StoreError(f"repository {copy.name!r} lacks segments")
                    copy.retry_at = self._clock()
            except PgkeepError as exc:
                self._fell_behind(copy, exc)
                if copy.required:
                    raise

    def catch_up(self) -> None:
        """Give those that were behind what they lack, now that they may answer again.

        That may take long, or stall, so it happens beside: each call sees how far it is. It is done
        twice, and between the two the copy joins those that get every new segment.
        """
        for copy in self._copies:
            if copy.problem is None:
                continue
            if copy.catching_up is None:
                if self._clock() >= copy.retry_at:
                    self._begin_catching_up(copy)
            elif copy.catching_up.done():
                self._caught_up(copy, copy.catching_up)

    def _begin_catching_up(self, copy: _Copy) -> None:
        siblings = self._siblings(copy)
        copy.catching_up = self._executor.submit(
            lambda: copy_missing(self._database, self._opened(copy), siblings)
        )

    def _caught_up(self, copy: _Copy, done: Future[int]) -> None:
        copy.catching_up = None
        problem = _problem(done, copy)
        if problem is not None:
            self._fell_behind(copy, problem)
        elif copy.joining:
            copy.problem, copy.joining = None, False
        else:
            copy.joining = True
            self._begin_catching_up(copy)

    def _siblings(self, copy: _Copy) -> list[Repository]:
        return [
            other.repository
            for other in self._copies
            if other is not copy and other.problem is None and other.repository is not None
        ]

    def _journal(self, repository: Repository) -> Journal:
        return Journal(repository.store, self._database)

    def _opened(self, copy: _Copy) -> Repository:
        if copy.repository is None:
            copy.repository = copy.open()
        elif copy.repository.store.is_near:  # of a disk that is unmounted an empty folder is left
            Repository.open(copy.name, copy.repository.store)
        return copy.repository

    def _each(self, do: Callable[[Repository], Answer]) -> list[Answer]:
        """Do it in all at once; wait for those that are required, and a while for the others."""
        waiting: dict[Future[Answer], _Copy] = {}
        for copy in self._copies:
            if copy.problem is None or copy.required or copy.joining:
                waiting[self._executor.submit(partial(self._ask, copy, do))] = copy
        needed = [future for future, copy in waiting.items() if copy.required]
        wait(needed, timeout=_REQUIRED_PATIENCE_SECONDS)
        wait(waiting, timeout=_PATIENCE_SECONDS)
        answers: list[Answer] = []
        failed: list[PgkeepError] = []
        for future, copy in waiting.items():
            problem = _problem(future, copy)
            if problem is None:
                answers.append(future.result())
                if not copy.joining:
                    copy.problem = None  # one that is required was asked again and again
                continue
            self._fell_behind(copy, problem)
            if copy.required:
                raise problem
            failed.append(problem)
        if not answers:
            raise failed[0] if failed else next(iter(self.behind.values()))
        return answers

    def _ask(self, copy: _Copy, do: Callable[[Repository], Answer]) -> Answer:
        return do(self._opened(copy))

    def _fell_behind(self, copy: _Copy, problem: PgkeepError) -> None:
        copy.problem, copy.joining = problem, False
        copy.retry_at = self._clock() + _PAUSE_SECONDS


def _problem(future: Future[Any], copy: _Copy) -> PgkeepError | None:
    if not future.done():
        return StoreError(f"repository {copy.name!r} is too slow for the journal")
    error = future.exception()
    if error is not None and not isinstance(error, PgkeepError):
        raise error
    return error


def copy_missing(
    database: str, target: Repository, siblings: Sequence[Repository], *, dry_run: bool = False
) -> int:
    """Give a repository the segments that it lacks and others have; how many were copied.

    Oldest first, so that what is there has no hole at the end; not what is older than all that is
    here, which was pruned. A segment carries its signature: who reads it checks that, here it is
    copied as it is.
    """
    found = Journal(target.store, database).names()
    here = {name.path for name in found}
    oldest = min((name.covered for name in found), default=None)
    copied = 0
    for sibling in siblings:
        names = [
            name
            for name in Journal(sibling.store, database).names()
            if name.path not in here and (oldest is None or name.covered >= oldest)
        ]
        if names and not dry_run:
            target.take_keys_from(sibling)
        for name in sorted(names, key=lambda one: (one.covered, one.sequence)):
            if not dry_run:
                target.store.put(name.path, sibling.store.get(name.path))
            here.add(name.path)
            copied += 1
    return copied
