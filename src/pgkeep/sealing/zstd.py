"""Zstandard frames, read in bounded memory whatever they claim or contain.

The library's own stream reader ends quietly when the last frame is cut off, and its decompressor
object returns all that its input expands to (2 GiB from 64 KiB). So the frames are taken apart
into blocks here (RFC 8878, 3.1.1), which hold at most 128 KiB each, and are handed over a few at
a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import zstandard

from pgkeep.errors import DamagedObject

_MAGIC = b"\x28\xb5\x2f\xfd"
_WINDOW_LIMIT_BYTES = 128 * 1024 * 1024
_BLOCK_LIMIT_BYTES = 128 * 1024
_BLOCKS_AT_ONCE = 8
_OUTPUT_BYTES = _BLOCKS_AT_ONCE * _BLOCK_LIMIT_BYTES
_RUN_LENGTH_BLOCK = 1
_RESERVED_BLOCK = 3
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_DICTIONARY_ID_BYTES = (0, 1, 2, 4)


# What level 1 and those below it see at once is small, so a frame of its own for each piece costs
# nothing, and to compress what lies in one place takes 8 % less time than a stream.
_FRAME_BYTES = 1024 * 1024
# A table of 32 KiB stays in the processor's nearest cache: 7 % less time, and as small a result
# (docs/decisions.md).
_HASH_LOG = 13


class Compressor(Protocol):
    """What is compressed is whole once it was flushed."""

    def compress(self, data: memoryview, /) -> bytes: ...
    def flush(self) -> bytes: ...


def compressor(level: int) -> Compressor:
    """One frame or several, each with a checksum of its content."""
    if level == 0 or level > 1:  # 0 is the library's word for 3
        return zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj()
    return _FrameByFrame(level)


class _FrameByFrame:
    """Frames of 1 MiB or somewhat more, each made at once."""

    def __init__(self, level: int) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, hash_log=_HASH_LOG, write_checksum=True
        )
        self._library = zstandard.ZstdCompressor(compression_params=parameters)
        self._held = bytearray()
        self._is_empty = True

    def compress(self, data: memoryview) -> bytes:
        if not self._held and len(data) >= _FRAME_BYTES:
            return self._frame(data)
        self._held += data
        return self._take_held() if len(self._held) >= _FRAME_BYTES else b""

    def flush(self) -> bytes:
        """The last frame: no content at all is one too."""
        return self._take_held() if self._held or self._is_empty else b""

    def _take_held(self) -> bytes:
        held, self._held = self._held, bytearray()
        return self._frame(held)

    def _frame(self, data: bytearray | memoryview) -> bytes:
        self._is_empty = False
        return self._library.compress(data)


def decompress(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The content of one or more whole frames, in pieces of at most 1 MiB.

    DamagedObject if a frame is damaged, cut off or followed by something else, if it needs a window
    of more than 128 MiB, and if there is no frame at all.
    """
    source = _Source(pieces)
    library = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT_BYTES)
    yield from _decompress_frame(library, source)
    while not source.is_exhausted():
        yield from _decompress_frame(library, source)


def _decompress_frame(library: zstandard.ZstdDecompressor, source: _Source) -> Iterator[bytes]:
    frame = library.decompressobj(write_size=_OUTPUT_BYTES)
    header, has_checksum = _take_frame_header(source)
    yield from _decompress_blocks(frame, header)
    is_last = False
    while not is_last:
        blocks, is_last = _take_blocks(source)
        yield from _decompress_blocks(frame, blocks)
    if has_checksum:
        yield from _decompress_blocks(frame, source.take(4))
    if not frame.eof or frame.unused_data:
        raise _damaged("a frame does not end where it should")


def _decompress_blocks(frame: zstandard.ZstdDecompressionObj, blocks: bytes) -> Iterator[bytes]:
    try:
        content = frame.decompress(blocks)
    except zstandard.ZstdError as exc:
        raise _damaged(str(exc)) from exc
    if content:
        yield content


def _take_frame_header(source: _Source) -> tuple[bytes, bool]:
    start = source.take(5)
    if start[:4] != _MAGIC:
        raise _damaged("something that is not a zstd frame")
    descriptor = start[4]
    is_single_segment = bool(descriptor >> 5 & 1)
    size_bytes = _CONTENT_SIZE_BYTES[descriptor >> 6] or is_single_segment
    window_bytes = not is_single_segment
    rest = source.take(window_bytes + _DICTIONARY_ID_BYTES[descriptor & 3] + size_bytes)
    return start + rest, bool(descriptor >> 2 & 1)


def _take_blocks(source: _Source) -> tuple[bytes, bool]:
    """A few blocks, and whether the frame's last one is among them."""
    blocks: list[bytes] = []
    is_last = False
    while len(blocks) < _BLOCKS_AT_ONCE and not is_last:
        block, is_last = _take_block(source)
        blocks.append(block)
    return b"".join(blocks), is_last


def _take_block(source: _Source) -> tuple[bytes, bool]:
    header = source.take(3)
    fields = int.from_bytes(header, "little")
    is_last, kind, size = bool(fields & 1), fields >> 1 & 3, fields >> 3
    if kind == _RESERVED_BLOCK or size > _BLOCK_LIMIT_BYTES:
        raise _damaged("a block of an impossible kind or size")
    return header + source.take(1 if kind == _RUN_LENGTH_BLOCK else size), is_last


class _Source:
    """Exact byte counts from pieces of any size."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = bytearray()

    def take(self, size_bytes: int) -> bytes:
        while len(self._held) < size_bytes:
            self._held += self._next_piece()
        taken = bytes(self._held[:size_bytes])
        del self._held[:size_bytes]
        return taken

    def is_exhausted(self) -> bool:
        if not self._held:
            self._held += next(self._pieces, b"")
        return not self._held

    def _next_piece(self) -> bytes:
        piece = next(self._pieces, b"")
        if not piece:
            raise _damaged("cut off")
        return piece


def _damaged(reason: str) -> DamagedObject:
    return DamagedObject(f"damaged compressed data: {reason}")
