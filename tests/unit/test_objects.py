"""Streams as sealed objects: how they are cut and named, and that no damage goes unseen."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.errors import DamagedObject, KeyMissing, ObjectMissing, StoreFull
from pgkeep.model import ObjectName, SealedStream, StoredObject
from pgkeep.repository import objects
from pgkeep.repository.objects import ObjectSource, StreamWriter, read_objects, read_stream
from pgkeep.sealing import X25519Identity
from pgkeep.stores import Bytes, Store
from pgkeep.testing import FaultyStore, MemoryStore

IDENTITY = X25519Identity.generate()
TEXT = b"".join(b"%d\tcustomer number %d\n" % (number, number) for number in range(200))


@pytest.fixture(autouse=True)
def _small_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "OBJECT_BYTES", 1000)


def write(store: Store, pieces: list[bytes] | None = None) -> SealedStream:
    writer = StreamWriter(store.put, [IDENTITY.recipient], level=1)
    for piece in [TEXT] if pieces is None else pieces:
        writer.write(piece)
    return writer.close()


def read(store: Store, stream: SealedStream) -> bytes:
    return b"".join(read_stream(ObjectSource([store]), stream, [IDENTITY]))


@pytest.mark.parametrize(
    ("size", "cuts"),
    [(0, [0]), (1, [1]), (999, [999]), (1000, [1000]), (1001, [1000, 1]), (3000, [1000] * 3)],
)
def test_an_object_ends_at_its_limit(size: int, cuts: list[int]) -> None:
    store = MemoryStore()
    text = random.Random(size).randbytes(size)
    stream = write(store, pieces=[text])
    sizes = [
        len(b"".join(read_objects(ObjectSource([store]), [item], [IDENTITY])))
        for item in stream.objects
    ]
    assert sizes == cuts
    assert len(store.files) == len(cuts)
    assert read(store, stream) == text


def test_real_objects_fit_into_one_put_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    store = MemoryStore()
    noise = random.Random(1).randbytes(objects.OBJECT_BYTES + 1)
    stream = write(store, pieces=[noise])
    assert [item.size_bytes < 40 << 20 for item in stream.objects] == [True, True]
    assert read(store, stream) == noise


@given(sizes=st.lists(st.integers(0, 2500), max_size=8))
def test_the_pieces_that_are_written_do_not_matter(sizes: list[int]) -> None:
    text = random.Random(sum(sizes)).randbytes(sum(sizes))
    pieces, rest = [], text
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    store = MemoryStore()
    stream = write(store, pieces=pieces)
    assert read(store, stream) == text
    assert stream.plain_bytes == len(text)
    assert stream.blake3 == blake3(text).hexdigest()
    assert len(stream.objects) == max(1, -(-len(text) // 1000))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_buffer_may_be_used_again_once_it_was_written(kind: Callable[[bytes], Bytes]) -> None:
    store, buffer = MemoryStore(), bytearray(b"first row\n")
    writer = StreamWriter(store.put, [IDENTITY.recipient], level=1)
    writer.write(kind(b"before\n"))
    writer.write(memoryview(buffer))
    buffer[:] = b"never see\n"
    assert read(store, writer.close()) == b"before\nfirst row\n"


def test_an_empty_stream_is_one_object() -> None:
    store = MemoryStore()
    for pieces in ([], [b""]):
        stream = write(store, pieces=pieces)
        assert len(stream.objects) == 1
        assert stream.plain_bytes == 0
        assert read(store, stream) == b""


def test_a_name_is_the_hash_of_the_stored_bytes() -> None:
    store = MemoryStore()
    stream = write(store)
    for item in stream.objects:
        data = store.files[f"objects/{item.name[:2]}/{item.name}"]
        assert sha256(data).hexdigest() == item.name
        assert len(data) == item.size_bytes
    assert stream.stored_bytes == sum(map(len, store.files.values()))


def test_nothing_readable_is_stored() -> None:
    store = MemoryStore()
    stream = write(store, pieces=[b"a very secret row\n" * 3])
    everything = b"".join(store.files.values()) + "".join(store.files).encode()
    assert b"secret" not in everything
    assert stream.blake3.encode() not in everything


def test_the_same_text_twice_is_not_the_same_object() -> None:
    store = MemoryStore()
    assert write(store).objects[0].name != write(store).objects[0].name


def test_a_store_that_is_full_ends_the_stream() -> None:
    store = FaultyStore(MemoryStore())
    store.fail("put", StoreFull("the disk is full"), call=3)
    with pytest.raises(StoreFull):
        write(store)
    assert len(store.calls) == 3


# --- reading back ---------------------------------------------------------------------------


def test_another_key_opens_nothing() -> None:
    store = MemoryStore()
    with pytest.raises(KeyMissing):
        list(read_stream(ObjectSource([store]), write(store), [X25519Identity.generate()]))


def test_a_missing_object_is_named_with_its_place() -> None:
    store = MemoryStore("shelf")
    stream = write(store)
    name = stream.objects[2].name
    store.delete(name.path)
    with pytest.raises(ObjectMissing, match=f"object {name} is missing from memory://shelf"):
        read(store, stream)


@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_a_truncated_object_is_named(size: int) -> None:
    memory = MemoryStore("shelf")
    store, stream = FaultyStore(memory), write(memory)
    item = stream.objects[1]
    kept = size if size >= 0 else item.size_bytes - 1
    store.truncate(item.name.path, size_bytes=kept)
    with pytest.raises(
        DamagedObject, match=f"object {item.name} in memory://shelf is damaged: {kept} bytes"
    ):
        read(store, stream)


def test_every_flipped_bit_is_found() -> None:
    memory = MemoryStore()
    item = write(memory, pieces=[b"a row\n"]).objects[0]
    for bit in range(item.size_bytes * 8):
        store = FaultyStore(memory)
        store.flip("*", bit=bit)
        with pytest.raises(DamagedObject):
            ObjectSource([store]).fetch(item)


def test_swapped_files_are_found() -> None:
    store = MemoryStore()
    stream = write(store)
    first, second = (item.name.path for item in stream.objects[:2])
    one, other = store.get(first), store.get(second)
    store.put(first, other)
    store.put(second, one)
    with pytest.raises(DamagedObject, match=str(stream.objects[0].name)):
        read(store, stream)


@pytest.mark.parametrize(
    "change",
    [
        lambda items: items[::-1],
        lambda items: (items[1], items[0], *items[2:]),
        lambda items: items[:-1],
        lambda items: items[1:],
        lambda items: (*items, items[0]),
        lambda items: (),
    ],
    ids=["reversed", "swapped", "without the last", "without the first", "one twice", "none"],
)
def test_whole_objects_in_another_order_or_number_are_found(
    change: Callable[[object], tuple[StoredObject, ...]],
) -> None:
    store = MemoryStore()
    stream = write(store)
    with pytest.raises(DamagedObject, match="is not what was backed up"):
        read(store, replace(stream, objects=change(stream.objects)))


def test_the_objects_of_another_stream_are_found() -> None:
    store = MemoryStore()
    stream = write(store)
    other = write(store, pieces=[TEXT.replace(b"7", b"8")])
    with pytest.raises(DamagedObject, match="is not what was backed up"):
        read(store, replace(stream, objects=other.objects))


def test_an_object_that_is_whole_but_no_sealed_file_is_named() -> None:
    store = MemoryStore()
    stream = write(store)
    name = ObjectName(sha256(b"text").hexdigest())
    store.put(name.path, b"text")
    changed = replace(stream, objects=(StoredObject(name, 4),))
    with pytest.raises(DamagedObject, match=f"object {name} cannot be opened"):
        read(store, changed)
