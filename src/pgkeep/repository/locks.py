"""Objects that are used again must outlive their lock.

A store may lock what is written for some days: S3 by Object Lock, Google by a retention policy. An
object that a backup uses again was locked when it was first stored, so its lock ends earlier than
those of the backup's own. A backup is *protected* for some days if nobody can remove any of its
objects before; so an object whose lock ends earlier than that is not used again, but read and
stored anew. No right is needed for that but to write.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain

from pgkeep.errors import StoreAccessDenied
from pgkeep.repository.repository import Repository
from pgkeep.stores import Store, StoredFile, StoreFacts
from pgkeep.stores.facts import ObjectLock, Retention, Unknown

_SLACK = timedelta(minutes=1)
"""Between the time of a file and the time from which its lock counts."""


@dataclass(frozen=True, slots=True)
class LockTerm:
    """For how long a store locks what is written, and a backup is to be protected."""

    lasts: timedelta
    protects: timedelta


def lock_term(facts: StoreFacts, protects: timedelta | None) -> LockTerm | None:
    """The terms of a store; `None` if it locks nothing.

    Without `protects` it is half of what the lock lasts. A lock that cannot be known while
    `protects` is given lasts no time: nothing is used again then.
    """
    lasts = _lasts(facts)
    if isinstance(lasts, Unknown):
        return LockTerm(timedelta(0), protects) if protects else None
    if not lasts:
        return None
    return LockTerm(lasts, protects or lasts / 2)


def _lasts(facts: StoreFacts) -> timedelta | Unknown:
    lock, retention = facts.object_lock, facts.retention
    if isinstance(lock, ObjectLock) and lock.days:
        return timedelta(days=lock.days)
    if isinstance(retention, Retention):
        return timedelta(seconds=retention.seconds)
    for fact in (lock, retention):
        if isinstance(fact, Unknown) and not fact.is_elsewhere:
            return fact
    return timedelta(0)


def fading(
    store: Store, files: Iterable[StoredFile], term: LockTerm | None, until: datetime
) -> set[str]:
    """The names of those files whose lock ends before `until`.

    Most are told by their age. Of the others some are asked for, since the lock may be younger
    than they are: by halving, as a lock, once it was right, stays so for all that is stored later.
    Stores tell times to the second, so all that was stored in the seconds around that moment is
    asked for.
    """
    if term is None:
        return set()
    expired, young = [], defaultdict[datetime, list[str]](list)
    for file in files:
        stored = file.stored or datetime.min.replace(tzinfo=UTC)
        if stored < until - term.lasts:
            expired.append(file.name)
        else:
            young[stored].append(file.name)
    return {*expired, *_unlocked(store, [young[moment] for moment in sorted(young)], until)}


def _unlocked(store: Store, in_order: Sequence[Sequence[str]], until: datetime) -> Iterator[str]:
    """Those not locked until then, of names that were stored at the same time; none if not told."""

    def locked(name: str) -> bool:
        return is_locked(store, name, until - _SLACK)

    try:
        first = bisect_left(in_order, True, key=lambda names: locked(names[0]))
        around = range(max(first - 1, 0), first + 1 if first else 0)
        yield from chain.from_iterable(in_order[: around.start])
        for names in in_order[around.start : around.stop]:
            yield from (name for name in names if not locked(name))
    except StoreAccessDenied:
        return


def is_locked(store: Store, name: str, until: datetime) -> bool:
    """Whether nobody can remove what stands there before `until`."""
    locked_until = store.locked_until(name)
    return locked_until is not None and locked_until >= until


def renew_locks(
    repository: Repository, epoch: str, term: LockTerm | None, until: datetime
) -> tuple[str, ...]:
    """Store again what every backup needs and is not locked until then: keys and descriptions.

    The same bytes as a new version, whose lock is new. The names of those where the store forbids
    it are returned.
    """
    if term is None:
        return ()
    refused = []
    for name in repository.lasting_files(epoch):
        if not _renewed(repository.store, name, until - _SLACK):
            refused.append(name)
    return tuple(refused)


def _renewed(store: Store, name: str, until: datetime) -> bool:
    """Store a file again unless it is locked until then; whether it is locked now."""
    may_ask = True
    try:
        if is_locked(store, name, until):
            return True
    except StoreAccessDenied:  # who may not ask writes again: these are few and small
        may_ask = False
    try:
        store.put(name, store.get(name))
    except StoreAccessDenied:
        return False
    return not may_ask or is_locked(store, name, until)
