"""For tests: stores that live in memory or fail on purpose, a clock, and the stores' contract.

A new kind of store proves itself in ten lines:

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self) -> Store:
            return MyStore(...)

Needs pytest, which pgkeep itself does not.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Literal

import pytest

from pgkeep.errors import ObjectMissing, RepositoryLocked, StoreError
from pgkeep.stores import Bytes, Store, StoreAround, StoredFile, StoreFacts
from pgkeep.stores.base import checked_name, checked_prefix

__all__ = ["FakeClock", "FaultyStore", "MemoryStore", "Method", "StoreContract"]

Method = Literal["put", "get", "size", "list", "folders", "delete", "exclusive"]

_PATIENCE_SECONDS = 60
_BEGIN = datetime(2026, 1, 15, 6, 0, tzinfo=UTC)


class FakeClock:
    """A clock that stands still: call it for the time, which is aware and in UTC."""

    def __init__(self, now: datetime = _BEGIN) -> None:
        self._now = now.astimezone(UTC)

    def __call__(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> datetime:
        """Go on (or back, with a negative difference); the new time."""
        self._now += by
        return self._now


class MemoryStore:
    """A store in this process's memory. Stricter than most: it refuses every unfit name."""

    def __init__(self, name: str = "test") -> None:
        self._name = name
        self._files: dict[str, bytes] = {}
        self._mutex = threading.Lock()
        self._holder = ""

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    @property
    def is_near(self) -> bool:
        return False

    @property
    def files(self) -> dict[str, bytes]:
        """A copy of all that is stored, by name, in name order."""
        with self._mutex:
            return dict(sorted(self._files.items()))

    def put(self, name: str, data: Bytes) -> None:
        kept = bytes(data)
        with self._mutex:
            self._files[checked_name(name)] = kept

    def get(self, name: str) -> bytes:
        with self._mutex:
            try:
                return self._files[checked_name(name)]
            except KeyError:
                raise ObjectMissing(f"cannot read {name!r} from {self.url}: no such file") from None

    def size(self, name: str) -> int:
        return len(self.get(name))

    def list(self, prefix: str) -> Iterator[StoredFile]:
        checked_prefix(prefix)
        for name, data in self.files.items():
            if name.startswith(prefix):
                yield StoredFile(name, len(data))

    def folders(self, prefix: str) -> Iterator[str]:
        rests = (file.name[len(prefix) :] for file in self.list(prefix))
        yield from sorted({rest.partition("/")[0] for rest in rests if "/" in rest})

    def delete(self, name: str) -> None:
        with self._mutex:
            self._files.pop(checked_name(name), None)

    def locked_until(self, name: str) -> datetime | None:
        self.get(name)
        return None

    @contextmanager
    def exclusive(self, purpose: str) -> Iterator[None]:
        with self._mutex:
            if self._holder:
                raise RepositoryLocked(f"repository {self.url} is locked by {self._holder}")
            self._holder = purpose or "another"
        try:
            yield
        finally:
            with self._mutex:
                self._holder = ""

    def facts(self) -> StoreFacts:
        return StoreFacts()


@dataclass(slots=True)
class _Fault:
    """What happens to a method's calls with a name that matches: to one of them, or to each."""

    method: Method
    match: str
    act: Callable[[], object]
    only_call: int | None = None
    seen: int = 0

    def meets(self, method: Method, name: str) -> bool:
        """Whether it is this call's turn; counts the call."""
        if method != self.method or not fnmatchcase(name, self.match):
            return False
        self.seen += 1
        return self.only_call in (None, self.seen)


class FaultyStore(StoreAround):
    """A store that does what disks and providers do on bad days, when it is told to.

    Names are chosen by shell patterns, in which `*` also matches `/`. `calls` has each call that
    was made, as (method, name), in order.
    """

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._faults: list[_Fault] = []
        self._lost: list[str] = []
        self._changes: list[tuple[str, Callable[[bytes], bytes]]] = []
        self._mutex = threading.Lock()
        self.calls: list[tuple[Method, str]] = []

    # --- what shall go wrong ----------------------------------------------------------------

    def fail(self, method: Method, error: Exception, *, call: int = 1, match: str = "*") -> None:
        """Let the `call`-th matching call from now raise `error`; the others work."""

        def act() -> None:
            raise error

        self._faults.append(_Fault(method, match, act, call))

    def stall(self, method: Method, *, match: str = "*") -> threading.Event:
        """Let every matching call wait until the event that is returned is set."""
        released = threading.Event()
        self._faults.append(_Fault(method, match, lambda: released.wait(_PATIENCE_SECONDS)))
        return released

    def lose(self, match: str) -> None:
        """Acknowledge puts of such names and keep nothing."""
        self._lost.append(match)

    def truncate(self, match: str, *, size_bytes: int) -> None:
        """Give only the beginning of such files."""
        self._changes.append((match, lambda data: data[:size_bytes]))

    def flip(self, match: str, *, bit: int = 0) -> None:
        """Give such files with one bit flipped, counted from the first byte's lowest."""
        self._changes.append((match, lambda data: _flipped(data, bit)))

    # --- the contract -----------------------------------------------------------------------

    def put(self, name: str, data: Bytes) -> None:
        self._meet("put", name)
        if not any(fnmatchcase(name, match) for match in self._lost):
            self._inner.put(name, data)

    def get(self, name: str) -> bytes:
        self._meet("get", name)
        data = self._inner.get(name)
        for match, change in self._changes:
            if fnmatchcase(name, match):
                data = change(data)
        return data

    def size(self, name: str) -> int:
        self._meet("size", name)
        return self._inner.size(name)

    def list(self, prefix: str) -> Iterator[StoredFile]:
        self._meet("list", prefix)
        return self._inner.list(prefix)

    def folders(self, prefix: str) -> Iterator[str]:
        self._meet("folders", prefix)
        return self._inner.folders(prefix)

    def delete(self, name: str) -> None:
        self._meet("delete", name)
        self._inner.delete(name)

    def exclusive(self, purpose: str) -> AbstractContextManager[None]:
        self._meet("exclusive", purpose)
        return self._inner.exclusive(purpose)

    def _meet(self, method: Method, name: str) -> None:
        with self._mutex:
            self.calls.append((method, name))
            due = [fault for fault in self._faults if fault.meets(method, name)]
        for fault in due:
            fault.act()


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


_UNFIT_NAMES = ("", "/", "/a", "a/", "a//b", ".", "..", "./a", "a/.", "a/..", "../a", "a/../b")


class StoreContract:
    """What `pgkeep.stores.Store` promises, as tests. Give the fixture `store`: an empty one."""

    @pytest.fixture
    def store(self) -> Store:
        """An empty store, anew for each test."""
        raise NotImplementedError("a subclass gives the fixture `store`")

    def another(self, store: Store) -> Store:
        """A second way to the same place, as another process would have it."""
        return store

    # --- put and get ------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_what_was_put_can_be_got(self, store: Store, kind: Callable[[bytes], Bytes]) -> None:
        data = bytes(range(256)) * 5
        store.put("objects/ab/name-1_2.json", kind(data))
        assert store.get("objects/ab/name-1_2.json") == data
        assert store.size("objects/ab/name-1_2.json") == len(data)

    def test_nothing_is_data_too(self, store: Store) -> None:
        store.put("empty", b"")
        assert store.get("empty") == b""
        assert store.size("empty") == 0
        assert list(store.list("")) == [StoredFile("empty", 0)]

    def test_33_mebibytes_are_kept_whole(self, store: Store) -> None:
        data = bytes(range(251)) * ((33 << 20) // 251)
        store.put("objects/large", data)
        assert store.size("objects/large") == len(data)
        assert store.get("objects/large") == data

    def test_the_last_put_wins(self, store: Store) -> None:
        store.put("a/b", b"a long first text")
        store.put("a/b", b"second")
        assert store.get("a/b") == b"second"
        assert list(store.list("a/")) == [StoredFile("a/b", 6)]

    def test_a_buffer_may_be_changed_once_it_was_put(self, store: Store) -> None:
        data = bytearray(b"before")
        store.put("a", data)
        data[:] = b"after!"
        assert store.get("a") == b"before"

    def test_what_is_not_there_is_missing(self, store: Store) -> None:
        store.put("a/b/c", b"x")
        for name in ("b", "a", "a/b", "a/b/c/d", "a/b/cc"):
            with pytest.raises(ObjectMissing):
                store.get(name)
            with pytest.raises(ObjectMissing):
                store.size(name)

    @pytest.mark.parametrize("name", _UNFIT_NAMES)
    def test_an_unfit_name_is_refused(self, store: Store, name: str) -> None:
        with pytest.raises(StoreError, match="not a name") as caught:
            store.put(name, b"x")
        assert not isinstance(caught.value, ObjectMissing)
        for call in (store.get, store.size, store.delete):
            with pytest.raises(StoreError, match="not a name"):
                call(name)
        assert list(store.list("")) == []

    def test_the_url_is_a_url(self, store: Store) -> None:
        assert re.match(r"[a-z0-9]+://", store.url)

    # --- list and folders -------------------------------------------------------------------

    def test_list_is_in_name_order_with_sizes(self, store: Store) -> None:
        names = ["b", "a/z", "a-b/c", "a/b/c", "A", "a_b", "a.b", "a0", "a/10", "a/9"]
        for name in names:
            store.put(name, name.encode())
        assert list(store.list("")) == [StoredFile(name, len(name)) for name in sorted(names)]

    def test_a_prefix_is_a_folder_and_nothing_beside_it(self, store: Store) -> None:
        for name in ("a/1", "a/b/2", "ab/3", "a-b/4", "b/a/5"):
            store.put(name, b"")
        assert [file.name for file in store.list("a/")] == ["a/1", "a/b/2"]
        assert [file.name for file in store.list("a/b/")] == ["a/b/2"]
        assert list(store.list("c/")) == []
        assert list(store.list("a/1/")) == []

    def test_folders_are_direct_and_in_order(self, store: Store) -> None:
        for name in ("b/c/1", "b/a/2", "b/a/3", "b/file", "a/4", "file", "bb/5"):
            store.put(name, b"")
        assert list(store.folders("")) == ["a", "b", "bb"]
        assert list(store.folders("b/")) == ["a", "c"]
        assert list(store.folders("b/a/")) == []
        assert list(store.folders("none/")) == []

    def test_an_empty_store_lists_nothing(self, store: Store) -> None:
        assert list(store.list("")) == []
        assert list(store.folders("")) == []

    # --- delete -----------------------------------------------------------------------------

    def test_what_was_deleted_is_gone(self, store: Store) -> None:
        store.put("a/b/1", b"x")
        store.put("a/c/2", b"y")
        store.delete("a/b/1")
        with pytest.raises(ObjectMissing):
            store.get("a/b/1")
        assert list(store.list("")) == [StoredFile("a/c/2", 1)]
        assert list(store.folders("a/")) == ["c"]
        store.put("a/b/1", b"again")
        assert store.get("a/b/1") == b"again"

    def test_deleting_nothing_is_no_error(self, store: Store) -> None:
        store.put("a/b", b"x")
        for name in ("b", "c/d", "a", "a/b/c"):
            store.delete(name)
        store.delete("a/b")
        store.delete("a/b")
        assert list(store.list("")) == []

    # --- facts ------------------------------------------------------------------------------

    def test_facts_are_told_and_change_nothing(self, store: Store) -> None:
        store.put("a", b"x")
        assert isinstance(store.facts(), StoreFacts)
        assert list(store.list("")) == [StoredFile("a", 1)]

    def test_a_file_is_not_locked_unless_the_store_locks_it(self, store: Store) -> None:
        store.put("a", b"x")
        assert store.locked_until("a") is None
        with pytest.raises(ObjectMissing):
            store.locked_until("b")

    # --- several at once --------------------------------------------------------------------

    def test_concurrent_puts_of_one_name_leave_one_of_them_whole(self, store: Store) -> None:
        texts = [bytes([65 + number]) * 100_000 for number in range(8)]
        store.put("same", texts[0])
        with ThreadPoolExecutor(8) as executor:
            puts = [executor.submit(store.put, "same", text) for text in texts * 4]
            seen = [executor.submit(store.get, "same").result() for _ in range(32)]
            for put in puts:
                put.result()
        assert all(text in texts for text in [*seen, store.get("same")])
        assert list(store.list("")) == [StoredFile("same", 100_000)]

    def test_concurrent_puts_of_other_names_are_all_kept(self, store: Store) -> None:
        names = [f"objects/{number % 7}/{number % 5}/{number}" for number in range(100)]
        with ThreadPoolExecutor(8) as executor:
            list(executor.map(lambda name: store.put(name, name.encode()), names))
        assert [file.name for file in store.list("")] == sorted(names)
        assert all(store.get(name) == name.encode() for name in names)

    # --- exclusive --------------------------------------------------------------------------

    def test_one_writer_at_a_time(self, store: Store) -> None:
        second = self.another(store)
        with (
            store.exclusive("backup of 'shop'"),
            pytest.raises(RepositoryLocked, match="backup of 'shop'"),
            second.exclusive("prune"),
        ):
            pytest.fail("two writers at once")
        with second.exclusive("prune"):
            second.put("a", b"x")
        assert list(store.list("")) == [StoredFile("a", 1)]

    def test_the_lock_ends_with_its_block_however_it_ends(self, store: Store) -> None:
        with pytest.raises(ZeroDivisionError), store.exclusive("one"):
            raise ZeroDivisionError
        with self.another(store).exclusive("two"):
            pass

    def test_reading_needs_no_lock(self, store: Store) -> None:
        store.put("a/b", b"x")
        reader = self.another(store)
        with store.exclusive("backup"):
            assert reader.get("a/b") == b"x"
            assert list(reader.list("")) == [StoredFile("a/b", 1)]
            assert list(reader.folders("")) == ["a"]
