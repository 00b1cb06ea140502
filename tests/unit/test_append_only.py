"""A store that lets nobody write over or delete: what pgkeep does there, and how it says so."""

from __future__ import annotations

from datetime import timedelta

import pytest

from examples import manifest, object_name
from pgkeep.errors import StoreAccessDenied, StoreUnavailable
from pgkeep.model import Manifest, ObjectName, StoredObject
from pgkeep.repository.condemned import GRACE
from pgkeep.repository.copies import Copies
from pgkeep.repository.hostkeys import Epoch
from pgkeep.repository.repository import Repository
from pgkeep.sealing import SealedKey, SigningKey, new_epoch
from pgkeep.stores import AddingStore, Bytes
from pgkeep.testing import FakeClock, FaultyStore, MemoryStore

KEY = SigningKey.generate()


class AppendOnlyStore(MemoryStore):
    """As Google's storage with the role objectCreator, or any that keeps what it has."""

    def put(self, name: str, data: Bytes) -> None:
        if name in self.files:
            raise StoreAccessDenied(f"cannot write {name!r} over")
        super().put(name, data)

    def delete(self, name: str) -> None:
        raise StoreAccessDenied(f"cannot delete {name!r}")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store() -> AppendOnlyStore:
    return AppendOnlyStore()


def write(clock: FakeClock, store: MemoryStore, *, signer: SigningKey = KEY) -> Copies:
    """One backup, in all its steps."""
    copies = Copies(
        {"a": lambda: Repository.open_or_create("a", AddingStore(store), now=clock())[0]}
    )
    epoch = Epoch(new_epoch()[0], SealedKey(age=b"sealed"))
    with copies.writing("test"):
        copies.prepare(epoch, signer.public, clock())
        made = stored(copies)
        copies.publish(made, signer, clock)
    return copies


def stored(copies: Copies) -> Manifest:
    copies.put(object_name("x").path, b"x")
    item = StoredObject(ObjectName(object_name("x")), 1)
    return manifest(contents=(item,), script=(), objects=(item,))


def test_a_backup_needs_to_write_over_nothing(clock: FakeClock, store: AppendOnlyStore) -> None:
    for _ in range(2):
        assert write(clock, store).remarks == ()


def test_what_is_stale_is_remarked_and_stops_nothing(
    clock: FakeClock, store: AppendOnlyStore
) -> None:
    MemoryStore.put(store, "RESTORE.txt", b"of an older version")
    MemoryStore.put(store, "repo.json", b'{"format": 1}')
    MemoryStore.put(store, "keys/allowed_signers", b"")
    (remark,) = write(clock, store).remarks
    assert remark.message == (
        "not up to date, since nothing may be written over there: RESTORE.txt, keys/allowed_signers"
    )
    assert any(name.endswith("manifest.json") for name in store.files)


def test_a_key_that_may_not_even_add_is_an_error(clock: FakeClock) -> None:
    store = FaultyStore(MemoryStore())
    store.fail("put", StoreAccessDenied("no"), match="RESTORE.txt")
    with pytest.raises(StoreAccessDenied):
        write(clock, store)  # type: ignore[arg-type]


def test_who_cannot_take_a_backup_back_says_what_is_to_be_done(
    clock: FakeClock, store: AppendOnlyStore
) -> None:
    class Slow(AppendOnlyStore):
        def put(self, name: str, data: Bytes) -> None:
            super().put(name, data)
            if name.endswith("manifest.json"):
                clock.advance(GRACE / 2 + timedelta(seconds=1))

    slow = Slow()
    with pytest.raises(StoreAccessDenied) as caught:
        write(clock, slow)
    assert "it cannot be taken back: the key at hand may not delete" in caught.value.message
    path = next(name for name in slow.files if name.endswith("manifest.json"))
    assert f"Delete {path} with a key that may" in caught.value.hint


# --- putting once more ----------------------------------------------------------------------


def test_the_same_bytes_once_more_are_done_already(store: AppendOnlyStore) -> None:
    adding = AddingStore(store)
    adding.put("a", b"x")
    adding.put("a", memoryview(b"x"))
    for other in (b"y", b"xx", b""):
        with pytest.raises(StoreAccessDenied, match="write 'a' over"):
            adding.put("a", other)
    assert store.get("a") == b"x"


def test_a_refusal_stays_one_if_nothing_can_be_read(store: AppendOnlyStore) -> None:
    faulty = FaultyStore(store)
    adding = AddingStore(faulty)
    adding.put("a", b"x")
    faulty.fail("size", StoreUnavailable("down"))
    with pytest.raises(StoreAccessDenied):
        adding.put("a", b"x")
