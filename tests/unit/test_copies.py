"""Several repositories at once: the same bytes in each, and none that stalls the others."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from examples import manifest
from pgkeep.errors import StoreError, StoreFull
from pgkeep.model import Manifest, ObjectName, StoredObject
from pgkeep.repository import condemned, copies
from pgkeep.repository.copies import Copies
from pgkeep.repository.repository import Repository
from pgkeep.sealing import SigningKey
from pgkeep.testing import FaultyStore, MemoryStore

NOW = datetime(2026, 1, 15, 6, tzinfo=UTC)
KEY = SigningKey.generate()


class Shelf:
    """Repositories called a, b, c in memory, each of which can be told to fail."""

    def __init__(self, *names: str, required: tuple[str, ...] = ()) -> None:
        self.memory = {name: MemoryStore(name) for name in names}
        self.stores = {name: FaultyStore(store) for name, store in self.memory.items()}
        self.copies = Copies(
            {name: lambda name=name: self.open(name) for name in names},  # type: ignore[misc]
            required=required,
            patience_seconds=0.05,
            opening_seconds=0.2,
        )

    def open(self, name: str) -> Repository:
        return Repository.open_or_create(name, self.stores[name], now=NOW)[0]

    def objects(self, name: str) -> set[str]:
        return {path for path in self.memory[name].files if path.startswith("objects/")}

    @property
    def behind(self) -> set[str]:
        return {item.name for item in self.copies.behind}


def put_some(shelf: Shelf, count: int = 6, size: int = 100) -> list[StoredObject]:
    items = []
    for number in range(count):
        data = bytes([number]) * size
        name = ObjectName(sha256(data).hexdigest())
        shelf.copies.put(name.path, data)
        items.append(StoredObject(name, size))
    return items


def made_of(items: list[StoredObject]) -> Manifest:
    return manifest(contents=tuple(items[:1]), script=tuple(items[1:2]), objects=tuple(items[2:]))


def write(shelf: Shelf, *, count: int = 6, size: int = 100) -> Manifest:
    with shelf.copies.writing("test"):
        made = made_of(put_some(shelf, count, size))
        shelf.copies.publish(made, KEY, lambda: NOW)
    return made


def test_each_gets_the_same_bytes() -> None:
    shelf = Shelf("a", "b", "c")
    made = write(shelf)
    assert shelf.behind == set()
    files = [
        {name: data for name, data in store.files.items() if name != "repo.json"}
        for store in shelf.memory.values()
    ]
    assert files[0] == files[1] == files[2]
    assert {item.name.path for item in made.all_objects} == shelf.objects("a")


@pytest.mark.parametrize("method", ["put", "list", "exclusive", "get"])
def test_one_that_fails_falls_behind_and_shows_no_backup(method: str) -> None:
    shelf = Shelf("a", "b")
    for call in range(1, 30):
        shelf.stores["b"].fail(method, StoreFull("full"), call=call)  # type: ignore[arg-type]
    made = write(shelf)
    assert shelf.behind == {"b"}
    assert made.path in shelf.memory["a"].files
    assert made.path not in shelf.memory["b"].files


@pytest.mark.parametrize("name", ["repo.json", "condemned/plan.json"])
def test_one_with_a_damaged_file_falls_behind(name: str) -> None:
    shelf = Shelf("a", "b")
    write(shelf)
    shelf.memory["b"].put(name, b"not JSON")
    made = write(shelf)
    assert shelf.behind == {"b"}
    assert made.path in shelf.memory["a"].files


def test_one_that_fails_to_answer_falls_behind() -> None:
    shelf = Shelf("a", "b")
    with shelf.copies.writing("test"):
        shelf.stores["b"].fail("folders", StoreError("down"))
        answers = shelf.copies.ask(lambda repository: repository.databases())
        assert [(one.name, found) for one, found in answers] == [("a", ())]
    assert shelf.behind == {"b"}


def test_one_that_is_silent_from_the_beginning_stalls_nobody() -> None:
    shelf = Shelf("a", "b")
    released = threading.Event()

    def silent() -> Repository:
        assert released.wait(30)
        return shelf.open("a")

    waiting = Copies(
        {"a": silent, "b": lambda: shelf.open("b")}, patience_seconds=0.05, opening_seconds=0.05
    )
    with waiting.writing("test"):
        assert [one.name for one in waiting.healthy] == ["b"]
    released.set()
    (behind,) = waiting.behind
    assert behind.name == "a"
    assert "silent for 0.05 s" in behind.problem.message


def test_one_that_is_silent_is_waited_for_where_there_is_no_other() -> None:
    shelf = Shelf("a", "b")
    released = threading.Event()

    def slow() -> Repository:
        assert released.wait(30)
        return shelf.open("a")

    def broken() -> Repository:
        raise StoreError("down")

    waiting = Copies({"a": slow, "b": broken}, opening_seconds=0.05)
    threading.Timer(0.2, released.set).start()
    with waiting.writing("test"):
        assert [one.name for one in waiting.healthy] == ["a"]


def test_a_required_one_that_fails_ends_the_backup() -> None:
    shelf = Shelf("a", "b", required=("b",))
    shelf.stores["b"].fail("put", StoreFull("full"), call=3)
    with pytest.raises(StoreFull):
        write(shelf)
    assert not any(name.endswith("manifest.json") for name in shelf.memory["a"].files)


def test_if_all_fail_the_backup_fails() -> None:
    shelf = Shelf("a", "b")
    for store in shelf.stores.values():
        for call in range(1, 30):
            store.fail("put", StoreFull("full"), call=call, match="objects/*")
    with pytest.raises(StoreFull):
        write(shelf)


def test_every_thread_is_told_that_the_last_one_failed() -> None:
    shelf = Shelf("a")
    shelf.stores["a"].fail("put", StoreFull("full"), match="objects/*")
    with shelf.copies.writing("test"):
        for _ in range(2):
            with pytest.raises(StoreFull):
                put_some(shelf, 1)


def test_a_slow_one_stalls_nobody_and_gets_what_it_lacks_from_a_sibling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copies, "_QUEUE_BYTES", 250)
    shelf = Shelf("a", "b")
    released = shelf.stores["b"].stall("put", match="objects/*")
    with shelf.copies.writing("test"):
        made = made_of(put_some(shelf, 12))
        wait = threading.Timer(0.2, released.set)
        wait.start()
        shelf.copies.publish(made, KEY, lambda: NOW)
    assert shelf.behind == set()
    assert shelf.objects("a") == shelf.objects("b")
    assert len(shelf.objects("b")) == 12
    assert made.path in shelf.memory["b"].files
    read_back = [call for call in shelf.stores["a"].calls if call[0] == "get" and "obj" in call[1]]
    assert read_back


def test_one_that_never_moves_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "_STALL_SECONDS", 0.1)
    shelf = Shelf("a", "b")
    released = shelf.stores["b"].stall("put", match="objects/*")
    try:
        made = write(shelf)
    finally:
        released.set()
    assert shelf.behind == {"b"}
    assert made.path in shelf.memory["a"].files


def test_a_store_that_keeps_losing_objects_has_no_backup() -> None:
    shelf = Shelf("a", "b")
    shelf.stores["b"].lose("objects/*")
    made = write(shelf)
    assert shelf.behind == {"b"}
    assert made.path not in shelf.memory["b"].files


def test_what_is_condemned_anywhere_is_not_used_again() -> None:
    shelf = Shelf("a", "b")
    made = write(shelf)
    doomed = made.objects[0].name
    plan = f'{{"at": "{NOW.isoformat()}", "objects": ["{doomed}"]}}'.encode()
    shelf.memory["b"].put("condemned/x.json", plan)
    nearly = NOW + condemned.GRACE / 2 - timedelta(seconds=1)
    with shelf.copies.writing("test"):
        usable = shelf.copies.reusable(NOW)
        assert doomed.path not in usable
        assert made.objects[1].name.path in usable
        shelf.copies.publish(made, KEY, lambda: nearly)
        assert shelf.behind == set()
        shelf.copies.publish(made, KEY, lambda: NOW + condemned.GRACE / 2)
        assert shelf.behind == {"b"}


def test_an_error_that_is_not_of_a_store_ends_the_work() -> None:
    shelf = Shelf("a", "b")
    shelf.stores["b"].fail("put", StoreError("odd"), match="objects/*")
    with pytest.raises(ZeroDivisionError), shelf.copies.writing("test"):
        raise ZeroDivisionError
