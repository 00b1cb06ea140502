"""Streams of bytes as sealed objects: sealed once, checked whenever read, from any copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import TypeVar

from blake3 import blake3

from pgkeep.errors import DamagedObject, ObjectMissing, PgkeepError, StoreError
from pgkeep.model import ObjectName, SealedStream, StoredObject
from pgkeep.sealing import Sealer, X25519Identity, X25519Recipient, unseal
from pgkeep.stores import Bytes, Store

Answer = TypeVar("Answer")

# An object ends at so many plain bytes. Sealed it stays under 40 MiB whatever the data, so one
# PUT is enough anywhere (the smallest limit met is 50 MB).
OBJECT_BYTES = 32 << 20


class StreamWriter:
    """Compresses, seals, names and stores one stream, in memory bounded by one object.

    `put` is given each object, by its path, before the next one begins; the last when the stream is
    closed. If the bytes turn out to be those of `known`, a stream that is stored already,
    that one is the result, and a stream of one object is not stored again. Not for several threads.
    """

    def __init__(
        self,
        put: Callable[[str, Bytes], None],
        recipients: Sequence[X25519Recipient],
        *,
        level: int,
        known: SealedStream | None = None,
        on_stored: Callable[[int], None] | None = None,
    ) -> None:
        self._put = put
        self._recipients = recipients
        self._level = level
        self._known = known
        self._on_stored = on_stored
        self._hash = blake3()
        self._plain_bytes = 0
        self._objects: list[StoredObject] = []
        self._sealed = bytearray()
        self._sealer: Sealer | None = None
        self._room = 0

    def write(self, data: Bytes) -> None:
        """Take some bytes; they may be changed once this returns."""
        self._hash.update(data)
        self._plain_bytes += len(data)
        rest = memoryview(data)
        while rest:
            sealer = self._sealer or self._open_object()
            piece, rest = rest[: self._room], rest[self._room :]
            sealer.write(piece)
            self._room -= len(piece)
            if not self._room:
                self._close_object()

    def close(self) -> SealedStream:
        """Finish; an empty stream is one object too, so that every stream can be fetched."""
        known = self._known
        digest = self._hash.hexdigest()
        if known is not None and (known.blake3, known.plain_bytes) == (digest, self._plain_bytes):
            return known
        if self._sealer is None and not self._objects:
            self._open_object()
        if self._sealer is not None:
            self._close_object()
        return SealedStream(tuple(self._objects), self._plain_bytes, digest)

    def _open_object(self) -> Sealer:
        self._sealed = bytearray()
        self._room = OBJECT_BYTES
        self._sealer = Sealer(self._recipients, level=self._level, sink=self._sealed.extend)
        return self._sealer

    def _close_object(self) -> None:
        assert self._sealer is not None
        self._sealer.close()
        self._sealer = None
        name = ObjectName(sha256(self._sealed).hexdigest())
        self._put(name.path, self._sealed)
        self._objects.append(StoredObject(name, len(self._sealed)))
        if self._on_stored is not None:
            self._on_stored(len(self._sealed))
        self._sealed = bytearray()


class ObjectSource:
    """The stores that hold the same objects, nearest first: what one cannot give, the next may.

    A store that fails altogether is asked last from then on, so that it holds nothing up.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = tuple(stores)

    @property
    def url(self) -> str:
        """Where the nearest store is."""
        return self._stores[0].url

    def fetch(self, item: StoredObject) -> bytes:
        """The sealed bytes of an object from the first store that gives the right ones.

        If none does, the error is the first store's that has it, or had it.
        """
        return self._first(lambda store: _fetch(store, item))

    def check_presence(self, item: StoredObject) -> None:
        """An error unless some store has the object, with its size."""
        self._first(lambda store: _check_size(store, item))

    def _first(self, ask: Callable[[Store], Answer]) -> Answer:
        errors: list[PgkeepError] = []
        for store in self._stores:
            try:
                return ask(store)
            except (ObjectMissing, DamagedObject) as exc:
                errors.append(exc)
            except StoreError as exc:
                errors.append(exc)
                others = [other for other in self._stores if other is not store]
                self._stores = (*others, store)
        if not errors:
            raise ObjectMissing("there is no other copy to take it from")
        raise next((one for one in errors if isinstance(one, DamagedObject)), errors[0])


def _check_size(store: Store, item: StoredObject) -> None:
    try:
        found = store.size(item.name.path)
    except ObjectMissing as exc:
        raise ObjectMissing(f"object {item.name} is missing from {store.url}") from exc
    if found != item.size_bytes:
        raise DamagedObject(
            f"object {item.name} in {store.url} has {found} bytes instead of {item.size_bytes}"
        )


def _fetch(store: Store, item: StoredObject) -> bytes:
    try:
        data = store.get(item.name.path)
    except ObjectMissing as exc:
        raise ObjectMissing(f"object {item.name} is missing from {store.url}") from exc
    if sha256(data).hexdigest() != item.name:
        raise DamagedObject(
            f"object {item.name} in {store.url} is damaged:"
            f" {len(data)} bytes that are not those that were written"
        )
    return data


def read_objects(
    source: ObjectSource, objects: Sequence[StoredObject], identities: Sequence[X25519Identity]
) -> Iterator[bytes]:
    """The plain bytes of objects in order, in pieces."""
    for item in objects:
        try:
            yield from unseal(source.fetch(item), identities)
        except DamagedObject as exc:
            if item.name in exc.message:
                raise
            raise DamagedObject(f"object {item.name} cannot be opened: {exc.message}") from exc


def read_stream(
    source: ObjectSource, stream: SealedStream, identities: Sequence[X25519Identity]
) -> Iterator[bytes]:
    """The plain bytes of a stream in pieces; `DamagedObject` at the end if they do not match.

    Whoever acts on the pieces must be able to undo that until the iteration has ended.
    """
    digest, size = blake3(), 0
    for piece in read_objects(source, stream.objects, identities):
        digest.update(piece)
        size += len(piece)
        yield piece
    if digest.hexdigest() != stream.blake3 or size != stream.plain_bytes:
        names = ", ".join(item.name[:12] for item in stream.objects)
        raise DamagedObject(f"the content of objects {names} is not what was backed up")
