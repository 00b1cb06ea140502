"""Streams of bytes as sealed objects: written once to every store, checked whenever read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

from blake3 import blake3

from pgkeep.errors import DamagedObject, ObjectMissing
from pgkeep.model import ObjectName, SealedStream, StoredObject
from pgkeep.sealing import Sealer, X25519Identity, X25519Recipient, unseal
from pgkeep.stores import Bytes, Store

# An object ends at so many plain bytes. Sealed it stays under 40 MiB whatever the data, so one
# PUT is enough anywhere (the smallest limit met is 50 MB).
OBJECT_BYTES = 32 << 20


class StreamWriter:
    """Compresses, seals, names and stores one stream, in memory bounded by one object.

    Each object is written to every store before the next one begins; the last is written when the
    stream is closed. If the bytes turn out to be those of `known`, a stream that is stored already,
    that one is the result, and a stream of one object is not stored again. Not for several threads.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        recipients: Sequence[X25519Recipient],
        *,
        level: int,
        known: SealedStream | None = None,
        on_stored: Callable[[int], None] | None = None,
    ) -> None:
        self._stores = stores
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
        for store in self._stores:
            store.put(name.path, self._sealed)
        self._objects.append(StoredObject(name, len(self._sealed)))
        if self._on_stored is not None:
            self._on_stored(len(self._sealed))
        self._sealed = bytearray()


def fetch(store: Store, item: StoredObject) -> bytes:
    """The sealed bytes of an object, checked against its name."""
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
    store: Store, objects: Sequence[StoredObject], identities: Sequence[X25519Identity]
) -> Iterator[bytes]:
    """The plain bytes of objects in order, in pieces."""
    for item in objects:
        try:
            yield from unseal(fetch(store, item), identities)
        except DamagedObject as exc:
            if item.name in exc.message:
                raise
            raise DamagedObject(f"object {item.name} cannot be opened: {exc.message}") from exc


def read_stream(
    store: Store, stream: SealedStream, identities: Sequence[X25519Identity]
) -> Iterator[bytes]:
    """The plain bytes of a stream in pieces; `DamagedObject` at the end if they do not match.

    Whoever acts on the pieces must be able to undo that until the iteration has ended.
    """
    digest, size = blake3(), 0
    for piece in read_objects(store, stream.objects, identities):
        digest.update(piece)
        size += len(piece)
        yield piece
    if digest.hexdigest() != stream.blake3 or size != stream.plain_bytes:
        names = ", ".join(item.name[:12] for item in stream.objects)
        raise DamagedObject(f"the content of objects {names} is not what was backed up")
