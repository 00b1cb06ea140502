"""Compress, then seal; open, then decompress. `age -d | zstd -d` opens what is written here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pgkeep.sealing import zstd
from pgkeep.sealing.age import AgeWriter, Sink, X25519Identity, X25519Recipient, open_sealed

# What the compressor gets at once, which bounds what it returns at once.
_SLICE_BYTES = 2 * 1024 * 1024


class Sealer:
    """Compresses and seals a stream of any length in constant memory.

    As with AgeWriter, `sink` must have used what it is given before it returns, and only `close`
    makes the object complete.
    """

    def __init__(self, recipients: Sequence[X25519Recipient], *, level: int, sink: Sink) -> None:
        self._compressor = zstd.compressor(level)
        self._writer = AgeWriter(recipients, sink)
        self._closed = False

    def write(self, data: bytes | memoryview) -> None:
        if self._closed:
            raise ValueError("write to a closed Sealer")
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _SLICE_BYTES):
            self._writer.write(self._compressor.compress(view[start : start + _SLICE_BYTES]))

    def close(self) -> None:
        """Ends the frame and the file. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._writer.write(self._compressor.flush())
        self._writer.close()
        del self._compressor


def unseal(data: bytes | memoryview, identities: Sequence[X25519Identity]) -> Iterator[bytes]:
    """The plaintext of a complete sealed object, in pieces of at most 1 MiB.

    KeyMissing and errors of the header are raised before this returns. DamagedObject may come at
    any piece, the end included: see `open_sealed`.
    """
    return zstd.decompress(open_sealed(data, identities))
