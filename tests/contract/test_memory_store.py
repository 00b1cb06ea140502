"""The store in memory keeps the contract, and the faulty one too while nothing is to go wrong."""

from __future__ import annotations

import threading

import pytest

from pgkeep.errors import ObjectMissing, StoreError, StoreFull
from pgkeep.stores import Store
from pgkeep.testing import FaultyStore, MemoryStore, StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestFaultyStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return FaultyStore(MemoryStore())


@pytest.mark.parametrize("name", ["a b", "é", "a\n", "a\\b", "a:b", "a\0"])
def test_a_name_that_some_store_may_not_hold_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="not a name"):
        MemoryStore().put(name, b"")


def test_only_the_chosen_call_fails() -> None:
    store = FaultyStore(MemoryStore())
    store.fail("put", StoreFull("the disk is full"), call=2, match="objects/*")
    store.put("objects/a", b"1")
    store.put("other", b"2")
    with pytest.raises(StoreFull, match="the disk is full"):
        store.put("objects/b", b"3")
    store.put("objects/b", b"4")
    assert [file.name for file in store.list("")] == ["objects/a", "objects/b", "other"]
    assert store.calls[:3] == [("put", "objects/a"), ("put", "other"), ("put", "objects/b")]


def test_an_acknowledged_put_is_lost() -> None:
    store = FaultyStore(MemoryStore())
    store.lose("objects/*")
    store.put("objects/a", b"1")
    store.put("other", b"2")
    with pytest.raises(ObjectMissing):
        store.get("objects/a")
    assert store.get("other") == b"2"


def test_what_is_read_is_cut_or_changed() -> None:
    memory = MemoryStore()
    store = FaultyStore(memory)
    store.put("a", b"abc")
    store.put("b", b"abc")
    store.truncate("a", size_bytes=2)
    store.flip("b", bit=9)
    assert (store.get("a"), store.get("b")) == (b"ab", b"a`c")
    assert memory.files == {"a": b"abc", "b": b"abc"}


def test_a_stalled_call_waits_until_it_is_released() -> None:
    store = FaultyStore(MemoryStore())
    released = store.stall("put", match="slow")
    writer = threading.Thread(target=store.put, args=("slow", b"1"))
    writer.start()
    store.put("fast", b"2")
    writer.join(0.05)
    assert writer.is_alive()
    assert [file.name for file in store.list("")] == ["fast"]
    released.set()
    writer.join(10)
    assert store.get("slow") == b"1"
