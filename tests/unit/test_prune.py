"""Pruning beside running backups: a simulation of the real code with stalls, crashes, overlaps."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from hashlib import sha256

import pytest

from examples import manifest
from pgkeep.errors import ManifestInvalid, NotAuthentic, PgkeepError, StoreAccessDenied
from pgkeep.model import BackupId, Manifest, ObjectName, StoredObject, Tier
from pgkeep.repository import condemned, copies
from pgkeep.repository.condemned import GRACE
from pgkeep.repository.copies import Copies
from pgkeep.repository.manifests import load_manifest
from pgkeep.repository.prune import Pruned, prune
from pgkeep.repository.repository import Listing, Repository
from pgkeep.repository.retention import Policy
from pgkeep.repository.sync import Missing, sync
from pgkeep.sealing import SigningKey
from pgkeep.stores import Bytes, Store, StoredFile
from pgkeep.stores.facts import StoreFacts
from pgkeep.testing import FakeClock, FaultyStore, MemoryStore

KEY = SigningKey.generate()
DAY = timedelta(days=1)
POLICY = Policy(dict.fromkeys(Tier, 2 * DAY), minimum=1)


def listing_of(repository: Repository) -> Callable[[], Listing]:
    return lambda: repository.backups(lambda: [KEY.public])


def back_up(
    store: Store, now: Callable[[], datetime], chance: random.Random, *, changed: float = 0.3
) -> Manifest:
    """What a backup does with a repository: use objects of the newest again, store the rest."""
    target = Copies({"a": lambda: Repository.open_or_create("a", store, now=now())[0]})
    with target.writing("backup"):
        started = now()
        (repository,) = target.healthy
        found = repository.newest_backups(lambda: [KEY.public], "shop", now()).backups
        usable = target.reusable(now())
        newest = max(found, key=lambda one: one.sequence, default=None)
        objects = []
        for item in newest.objects if newest else ():
            if usable.get(item.name.path) == item.size_bytes and chance.random() > changed:
                objects.append(item)
        while len(objects) < 5:
            objects.append(_stored(target, chance))
        made = manifest(
            backup=BackupId.begin(started),
            started=started,
            finished=now(),
            sequence=newest.sequence + 1 if newest else 1,
            contents=(_stored(target, chance),),
            script=(),
            objects=tuple(objects),
        )
        target.publish(made, KEY, now)
    return made


def _stored(target: Copies, chance: random.Random) -> StoredObject:
    data = chance.randbytes(16)
    name = ObjectName(sha256(data).hexdigest())
    target.put(name.path, data)
    return StoredObject(name, len(data))


def broken(store: MemoryStore) -> list[str]:
    """Backups of which an object is missing."""
    files = store.files
    return [
        path
        for path, data in files.items()
        if path.endswith("/manifest.json")
        and any(item.name.path not in files for item in load_manifest(data, name=path).all_objects)
    ]


# --- the phases -----------------------------------------------------------------------------


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    """Ten daily backups, the newest just made."""
    memory, chance = MemoryStore(), random.Random(1)
    for _ in range(10):
        clock.advance(DAY)
        back_up(memory, clock, chance)
    return memory


def pruned(store: Store, clock: FakeClock) -> Pruned:
    repository = Repository.open("a", store)
    return prune(repository, listing_of(repository), POLICY, clock())


def test_nothing_is_deleted_before_the_plan_has_waited(
    store: MemoryStore, clock: FakeClock
) -> None:
    first = pruned(store, clock)
    assert first.condemned_backups == 8
    assert first.condemned_objects > 8
    assert (first.deleted_backups, first.deleted_objects) == ((), 0)
    clock.advance(GRACE - timedelta(seconds=1))
    second = pruned(store, clock)
    assert (second.deleted_backups, second.deleted_objects) == ((), 0)
    clock.advance(timedelta(seconds=1))
    third = pruned(store, clock)
    assert len(third.deleted_backups) == 8
    assert third.deleted_objects == first.condemned_objects
    assert broken(store) == []
    names = [name for name in store.files if name.startswith("condemned/")]
    assert len(names) <= 1  # what the second found
    assert sum(name.endswith("manifest.json") for name in store.files) == 2


def test_what_is_in_use_again_stays(store: MemoryStore, clock: FakeClock) -> None:
    pruned(store, clock)
    (plan,) = condemned.plans(Repository.open("a", store))
    name = sorted(plan.objects)[0]
    items = (StoredObject(name, len(store.files[name.path])),)
    made = manifest(
        backup=BackupId.begin(clock()), started=clock(), sequence=99,
        contents=items, script=(), objects=(),
    )  # fmt: skip
    Repository.open("a", store).publish(made, KEY)
    clock.advance(GRACE)
    pruned(store, clock)
    assert name.path in store.files
    assert broken(store) == []


def test_a_manifest_that_cannot_be_read_stops_everything(
    store: MemoryStore, clock: FakeClock
) -> None:
    pruned(store, clock)
    clock.advance(GRACE)
    path = next(name for name in store.files if name.endswith("manifest.json"))
    store.put(path, store.files[path].replace(b"{", b"[", 1))
    before = store.files
    with pytest.raises((ManifestInvalid, NotAuthentic)):
        pruned(store, clock)
    assert store.files == before


def test_what_a_store_keeps_is_counted_and_tried_again(
    store: MemoryStore, clock: FakeClock
) -> None:
    pruned(store, clock)
    clock.advance(GRACE)
    faulty = FaultyStore(store)
    for call in range(1, 4):
        faulty.fail("delete", StoreAccessDenied("locked"), call=call, match="objects/*")
    first = pruned(faulty, clock)
    assert first.refused == 3
    second = pruned(store, clock)
    assert second.deleted_objects == 3
    assert second.refused == 0
    assert broken(store) == []


# --- the simulation -------------------------------------------------------------------------


class Crash(BaseException):
    """The process is gone."""


class Actor:
    """One process: a thread that waits for its turn before each call of the store."""

    def __init__(self, play: Play, work: Callable[[Store], object]) -> None:
        self._play = play
        self._turn = threading.Semaphore(0)
        self._idle = threading.Semaphore(0)
        self.done = False
        self.asleep_until = play.clock()
        self._crash = False
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._idle.acquire()

    def step(self, *, crash: bool = False) -> None:
        self._crash = crash
        self._turn.release()
        self._idle.acquire()

    def wait(self) -> None:
        """Called by the store, before each call."""
        self._idle.release()
        self._turn.acquire()
        if self._crash:
            raise Crash

    def _run(self) -> None:
        try:
            self.wait()
            self._work(SteppedStore(self._play.store, self))
        except (Crash, PgkeepError):
            pass  # the next one begins anew
        finally:
            self.done = True
            self._idle.release()


class SteppedStore:
    """A store that locks nobody out, each of whose calls waits for its turn."""

    is_near = False
    url = "memory://simulation"

    def __init__(self, inner: MemoryStore, actor: Actor) -> None:
        self._inner = inner
        self._actor = actor

    def put(self, name: str, data: Bytes) -> None:
        self._actor.wait()
        self._inner.put(name, data)

    def get(self, name: str) -> bytes:
        self._actor.wait()
        return self._inner.get(name)

    def size(self, name: str) -> int:
        self._actor.wait()
        return self._inner.size(name)

    def list(self, prefix: str) -> Iterator[StoredFile]:
        self._actor.wait()
        return self._inner.list(prefix)

    def folders(self, prefix: str) -> Iterator[str]:
        self._actor.wait()
        return self._inner.folders(prefix)

    def delete(self, name: str) -> None:
        self._actor.wait()
        self._inner.delete(name)

    def exclusive(self, purpose: str) -> AbstractContextManager[None]:
        return nullcontext()  # another host knows nothing of a lock

    def locked_until(self, name: str) -> datetime | None:
        return self._inner.locked_until(name)

    def facts(self) -> StoreFacts:
        return self._inner.facts()


class Play:
    """Some weeks of backups and prunes on several hosts, by chance but always the same."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = FakeClock()
        self.store = MemoryStore()
        back_up(self.store, self.clock, self.chance)
        self._actors: list[Actor] = []

    def run(self, steps: int = 900) -> list[str]:
        """What is broken in the end."""
        for _ in range(steps):
            self.clock.advance(timedelta(minutes=self.chance.expovariate(1 / 20)))
            self._begin_something()
            awake = [one for one in self._actors if one.asleep_until <= self.clock()]
            if awake:
                self._go_on(self.chance.choice(awake))
            self._actors = [one for one in self._actors if not one.done]
        for actor in self._actors:
            while not actor.done:
                actor.step()
        return broken(self.store)

    def _begin_something(self) -> None:
        if len(self._actors) < 4 and self.chance.random() < 0.2:
            work = self._back_up if self.chance.random() < 0.6 else self._prune
            self._actors.append(Actor(self, work))

    def _go_on(self, actor: Actor) -> None:
        if self.chance.random() < 0.02:  # a laptop sleeps, a network stalls
            actor.asleep_until = self.clock() + timedelta(hours=self.chance.uniform(1, 90))
        else:
            actor.step(crash=self.chance.random() < 0.003)

    def _back_up(self, store: Store) -> None:
        back_up(store, self.clock, self.chance, changed=0.15)

    def _prune(self, store: Store) -> None:
        repository = Repository.open("a", store)
        policy = Policy(dict.fromkeys(Tier, timedelta(hours=12)), minimum=1)
        prune(repository, listing_of(repository), policy, self.clock())


RUNS = 200


def test_no_backup_breaks_whatever_overlaps() -> None:
    for seed in range(RUNS):
        assert Play(seed).run() == [], f"seed {seed}"


def test_without_the_last_look_backups_break(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(_: object, made: Manifest, publish: Callable[[], None], now: object) -> None:
        monkeypatch.setattr(Repository, "lacks", lambda self, objects: [])
        publish()

    monkeypatch.setattr(copies, "publish_safely", careless)
    assert any(Play(seed).run() for seed in (69, *range(RUNS)))  # one that is known to break


def test_without_heeding_the_condemned_backups_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "condemned_paths", lambda repository: set())
    monkeypatch.setattr(condemned, "_refuse_doomed", lambda *_: None)
    assert any(Play(seed).run() for seed in (160, *range(RUNS)))


def test_sync_makes_no_backup_of_what_is_about_to_be_deleted(
    store: MemoryStore, clock: FakeClock
) -> None:
    other = MemoryStore("other")
    for name, data in store.files.items():
        other.put(name, data)
    other.put("keys/0011223344556677.age", b"sealed")
    pruned(store, clock)
    (plan,) = condemned.plans(Repository.open("a", store))
    path = next(name for name in store.files if f"{min(plan.backups)}/manifest.json" in name)
    made = load_manifest(store.files[path], name=path)
    store.delete(path)
    target, holder = Repository.open("a", store), Repository.open("b", other)
    missing = [Missing(made, target, (holder,))]
    clock.advance(GRACE / 2)
    (refused,) = sync(missing, lambda _: None, clock)
    assert refused.problem is not None
    assert "is about to delete objects" in refused.problem.message
    assert path not in store.files
    store.delete(plan.path)
    (copied,) = sync(missing, lambda _: None, clock)
    assert copied.problem is None
    assert store.files[path] == other.files[path]
    assert broken(store) == []
