"""Objects that are used again outlive their locks: a store in memory that locks, and a clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256

import pytest

from examples import manifest
from pgkeep.errors import StoreAccessDenied
from pgkeep.model import Manifest, ObjectName, StoredObject
from pgkeep.repository.copies import Copies
from pgkeep.repository.hostkeys import Epoch
from pgkeep.repository.locks import LockTerm, fading, lock_term
from pgkeep.repository.repository import Repository
from pgkeep.repository.sync import Missing, sync
from pgkeep.sealing import SealedKey, SigningKey, new_epoch
from pgkeep.stores import Bytes, StoredFile, StoreFacts
from pgkeep.stores.facts import ObjectLock, Retention, Unknown
from pgkeep.testing import FakeClock, MemoryStore

DAY = timedelta(days=1)
KEY = SigningKey.generate()
DENIED = Unknown("access denied")


class LockingStore(MemoryStore):
    """Locks what is written for some days, from when that was turned on; counts its answers."""

    def __init__(self, clock: FakeClock, days: int = 60) -> None:
        super().__init__("locked")
        self._clock = clock
        self._stored: dict[str, datetime] = {}
        self._locks: dict[str, datetime] = {}
        self.days = days
        self.asked = 0
        self.tells = True
        self.writes_over = True

    def put(self, name: str, data: Bytes) -> None:
        if not self.writes_over and name in self.files:
            raise StoreAccessDenied(f"cannot write {name!r} over")
        super().put(name, data)
        self._stored[name] = self._clock()
        if self.days:
            self._locks[name] = self._clock() + self.days * DAY

    def list(self, prefix: str) -> Iterator[StoredFile]:
        for file in super().list(prefix):
            yield replace(file, stored=self._stored[file.name])

    def locked_until(self, name: str) -> datetime | None:
        self.asked += 1
        if not self.tells:
            raise StoreAccessDenied("it is not told")
        return self._locks.get(name)

    def facts(self) -> StoreFacts:
        return StoreFacts(object_lock=ObjectLock("COMPLIANCE", self.days))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> LockingStore:
    return LockingStore(clock)


def copies_of(clock: FakeClock, *stores: MemoryStore, protect: timedelta | None = None) -> Copies:
    def opener(number: int) -> Repository:
        return Repository.open_or_create(str(number), stores[number], now=clock())[0]

    return Copies(
        {str(number): lambda number=number: opener(number) for number in range(len(stores))},  # type: ignore[misc]
        protect={str(number): protect for number in range(len(stores))} if protect else None,
    )


def put_one(copies: Copies, text: str) -> StoredObject:
    data = text.encode()
    name = ObjectName(sha256(data).hexdigest())
    copies.put(name.path, data)
    return StoredObject(name, len(data))


def usable(clock: FakeClock, *stores: MemoryStore, protect: timedelta | None = None) -> int:
    copies = copies_of(clock, *stores, protect=protect)
    with copies.writing("test"):
        return len(copies.reusable(clock()))


def store_some(clock: FakeClock, store: MemoryStore, text: str = "a", count: int = 3) -> None:
    copies = copies_of(clock, store)
    with copies.writing("test"):
        for number in range(count):
            put_one(copies, f"{text}{number}")


# --- what is used again ---------------------------------------------------------------------


def test_an_object_is_used_again_while_its_lock_covers_the_backup(
    clock: FakeClock, store: LockingStore
) -> None:
    store_some(clock, store)
    clock.advance(30 * DAY)
    assert usable(clock, store) == 3  # half of 60 days, as nothing else is configured
    clock.advance(timedelta(hours=1))
    assert usable(clock, store) == 0


@pytest.mark.parametrize(("protect", "last_day"), [(10, 50), (59, 1), (60, 0)])
def test_protect_days_say_how_long(
    clock: FakeClock, store: LockingStore, protect: int, last_day: int
) -> None:
    store_some(clock, store)
    clock.advance(last_day * DAY)
    assert usable(clock, store, protect=protect * DAY) == 3
    clock.advance(DAY)
    assert usable(clock, store, protect=protect * DAY) == 0


def test_a_lock_that_is_younger_than_the_objects_is_found_with_few_questions(
    clock: FakeClock, store: LockingStore
) -> None:
    store.days = 0
    for second in range(300):
        store_some(clock, store, text=f"unlocked{second}.", count=1)
        clock.advance(timedelta(seconds=1))
    store.days = 60
    for second in range(700):
        store_some(clock, store, text=f"locked{second}.", count=1)
        clock.advance(timedelta(seconds=1))
    store.asked = 0
    assert usable(clock, store) == 700
    assert store.asked <= 13


@pytest.mark.parametrize("spread", range(6))
def test_a_lock_that_begins_within_a_second_covers_what_came_after_it(
    clock: FakeClock, store: LockingStore, spread: int
) -> None:
    """Times are told to the second: names decide nothing about what was stored first."""
    second = timedelta(seconds=1)
    store.days = 0
    store_some(clock, store, text="long before")
    clock.advance(second)
    store_some(clock, store, text=f"just before {spread}", count=9)
    store.days = 60
    store_some(clock, store, text=f"just after {spread}", count=9)
    clock.advance(second)
    store_some(clock, store, text="long after")
    assert usable(clock, store) == 9 + 3


def test_who_may_not_ask_for_locks_goes_by_age(clock: FakeClock, store: LockingStore) -> None:
    store_some(clock, store)
    store.tells = False
    assert usable(clock, store) == 3
    clock.advance(31 * DAY)
    assert usable(clock, store) == 0


def test_the_strictest_repository_decides(clock: FakeClock, store: LockingStore) -> None:
    plain = MemoryStore("plain")
    store_some(clock, plain)
    store_some(clock, store)
    clock.advance(31 * DAY)
    assert usable(clock, plain) == 3
    assert usable(clock, plain, store) == 0


def test_what_was_stored_again_is_locked_again(clock: FakeClock, store: LockingStore) -> None:
    store_some(clock, store)
    clock.advance(31 * DAY)
    store_some(clock, store)
    assert usable(clock, store) == 3


# --- terms ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "protects", "term"),
    [
        (StoreFacts(), None, None),
        (StoreFacts(), DAY, None),
        (StoreFacts(object_lock=None), DAY, None),
        (StoreFacts(object_lock=ObjectLock()), DAY, None),
        (StoreFacts(object_lock=ObjectLock("COMPLIANCE", 8)), None, LockTerm(8 * DAY, 4 * DAY)),
        (StoreFacts(object_lock=ObjectLock("COMPLIANCE", 8)), DAY, LockTerm(8 * DAY, DAY)),
        (StoreFacts(retention=Retention(172800, False)), None, LockTerm(2 * DAY, DAY)),
        (StoreFacts(object_lock=DENIED), None, None),
        (StoreFacts(object_lock=DENIED), DAY, LockTerm(0 * DAY, DAY)),
    ],
)
def test_terms_follow_from_facts(
    facts: StoreFacts, protects: timedelta | None, term: LockTerm | None
) -> None:
    assert lock_term(facts, protects) == term


def test_files_of_an_unknown_age_are_not_trusted(clock: FakeClock, store: LockingStore) -> None:
    term = LockTerm(60 * DAY, 30 * DAY)
    assert fading(store, [StoredFile("a", 1)], term, clock() + 30 * DAY) == {"a"}
    assert fading(store, [StoredFile("a", 1)], None, clock()) == set()


# --- keys and descriptions ------------------------------------------------------------------


@pytest.fixture
def epoch() -> Epoch:
    return Epoch(new_epoch()[0], SealedKey(age=b"sealed"))


def prepare(clock: FakeClock, store: MemoryStore, epoch: Epoch) -> Copies:
    copies = copies_of(clock, store)
    with copies.writing("test"):
        copies.prepare(epoch, KEY.public, clock())
    return copies


def test_keys_are_locked_for_as_long_as_the_backups_that_need_them(
    clock: FakeClock, store: LockingStore, epoch: Epoch
) -> None:
    for _ in range(20):
        prepare(clock, store, epoch)
        for name in ("repo.json", "RESTORE.txt", "keys/allowed_signers", f"keys/{epoch.id}.age"):
            until = store.locked_until(name)
            assert until is not None
            assert until >= clock() + 30 * DAY
        clock.advance(4 * DAY)


def test_keys_are_left_alone_while_their_lock_lasts(
    clock: FakeClock, store: LockingStore, epoch: Epoch
) -> None:
    prepare(clock, store, epoch)
    before = store.locked_until("repo.json")
    clock.advance(10 * DAY)
    prepare(clock, store, epoch)
    assert store.locked_until("repo.json") == before


def test_keys_that_cannot_be_locked_anew_are_remarked_and_no_more(
    clock: FakeClock, store: LockingStore, epoch: Epoch
) -> None:
    assert prepare(clock, store, epoch).remarks == ()
    clock.advance(31 * DAY)
    store.writes_over = False
    (remark,) = prepare(clock, store, epoch).remarks
    assert remark.message.startswith(
        "not locked for long enough, since nothing may be written over there: repo.json, RESTORE"
    )
    assert remark.hint


# --- sync -----------------------------------------------------------------------------------


def backed_up(clock: FakeClock, store: MemoryStore, *texts: str) -> Manifest:
    copies = copies_of(clock, store)
    with copies.writing("test"):
        copies.prepare(Epoch(new_epoch()[0], SealedKey(age=b"sealed")), KEY.public, clock())
        items = tuple(put_one(copies, text) for text in texts)
        (repository,) = copies.healthy
        epoch = repository.epochs()[0]
        made = manifest(
            contents=items[:1], script=items[1:2], objects=items[2:], started=clock(), epoch=epoch
        )
        copies.publish(made, KEY, clock)
    return made


def test_sync_locks_anew_what_is_there_already(clock: FakeClock, store: LockingStore) -> None:
    store_some(clock, store, count=3)  # a0, a1, a2: long before
    clock.advance(40 * DAY)
    sibling = MemoryStore("sibling")
    made = backed_up(clock, sibling, "a0", "a1", "a2", "new")
    source = Repository.open("sibling", sibling)
    target = Repository.open("locked", store)
    (done,) = sync([Missing(made, target, (source,))], lambda _: None, clock)
    assert (done.problem, done.objects) == (None, 4)
    for item in made.all_objects:
        until = store.locked_until(item.name.path)
        assert until is not None
        assert until >= made.started + 30 * DAY
