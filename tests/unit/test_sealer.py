"""Compressed and sealed objects: whole, bounded in memory, and open to the usual programs."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import pyrage  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pgkeep.errors import DamagedObject, KeyMissing
from pgkeep.sealing import AgeWriter, Sealer, X25519Identity, unseal

MEBIBYTE = 1024 * 1024
SIZES = [0, 1, 65535, 65536, 65537, MEBIBYTE, MEBIBYTE + 3, 5 * MEBIBYTE + 1]
IDENTITY = X25519Identity.generate()
MAGIC = b"\x28\xb5\x2f\xfd"


def rows(size: int) -> bytes:
    """Text of that size which compresses about as well as tables do."""
    numbers = random.Random(size)
    lines = (b"%d\t%x\tsome words\n" % (i, numbers.getrandbits(64)) for i in range(size // 15 + 1))
    return b"".join(lines)[:size]


def seal(plain: bytes, *, level: int = 3) -> bytes:
    sealed = bytearray()
    sealer = Sealer([IDENTITY.recipient], level=level, sink=sealed.extend)
    sealer.write(plain)
    sealer.close()
    return bytes(sealed)


def seal_compressed(compressed: bytes) -> bytes:
    """Only sealed, to bring any bytes before the decompressor."""
    sealed = bytearray()
    writer = AgeWriter([IDENTITY.recipient], sealed.extend)
    writer.write(compressed)
    writer.close()
    return bytes(sealed)


def pieces(sealed: bytes) -> Iterator[bytes]:
    return unseal(sealed, [IDENTITY])


def unsealed(sealed: bytes) -> bytes:
    return b"".join(pieces(sealed))


def compressed_inside(sealed: bytes) -> bytes:
    plain: bytes = pyrage.decrypt(sealed, [pyrage.x25519.Identity.from_str(str(IDENTITY))])
    return plain


def block(kind: int, size: int, content: bytes, *, last: bool) -> bytes:
    return (size << 3 | kind << 1 | last).to_bytes(3, "little") + content


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("level", [1, 3, 9])
def test_what_was_sealed_is_unsealed(size: int, level: int) -> None:
    plain = rows(size)
    assert unsealed(seal(plain, level=level)) == plain


@pytest.mark.parametrize("size", SIZES)
def test_random_bytes_survive(size: int) -> None:
    plain = random.Random(size).randbytes(size)
    assert unsealed(seal(plain)) == plain


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("level", [-1, 0, 1, 3])
def test_age_and_zstd_open_a_sealed_object(size: int, level: int) -> None:
    plain = rows(size)
    frames = compressed_inside(seal(plain, level=level))
    library = zstandard.ZstdDecompressor()
    with library.stream_reader(frames, read_across_frames=True) as reader:
        assert reader.read() == plain
    assert zstandard.get_frame_parameters(frames).has_checksum


def test_frames_of_their_own_store_hardly_more_than_one_stream() -> None:
    plain = rows(8 * MEBIBYTE)
    stream = zstandard.ZstdCompressor(level=1).compressobj()
    whole = stream.compress(plain) + stream.flush()
    assert len(seal(plain, level=1)) < 1.05 * len(whole)


@pytest.mark.parametrize("size", SIZES)
def test_what_age_and_zstd_sealed_is_unsealed(size: int) -> None:
    frame = zstandard.ZstdCompressor(level=5).compress(rows(size))
    recipient = pyrage.x25519.Recipient.from_str(str(IDENTITY.recipient))
    assert unsealed(pyrage.encrypt(frame, [recipient])) == rows(size)


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(0, 300_000) | st.integers(1_000_000, 2_500_000), max_size=6))
def test_the_pieces_that_are_written_do_not_matter(sizes: list[int]) -> None:
    plain = rows(sum(sizes))
    sealed = bytearray()
    sealer = Sealer([IDENTITY.recipient], level=1, sink=sealed.extend)
    rest = memoryview(plain)
    for size in sizes:
        sealer.write(rest[:size])
        rest = rest[size:]
    sealer.close()
    assert unsealed(bytes(sealed)) == plain


def test_several_frames_in_a_row_are_one_text() -> None:
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    texts = [rows(300_000), b"", rows(10), rows(70_000)]
    frames = b"".join(compressor.compress(text) for text in texts)
    assert unsealed(seal_compressed(frames)) == b"".join(texts)


def test_a_frame_without_a_checksum_is_read() -> None:
    frame = zstandard.ZstdCompressor(write_checksum=False).compress(rows(200_000))
    assert unsealed(seal_compressed(frame)) == rows(200_000)


def test_memory_stays_bounded_while_a_long_text_is_sealed_and_unsealed() -> None:
    plain = rows(2 * MEBIBYTE)
    sealed = bytearray()
    tracemalloc.start()
    try:
        sealer = Sealer([IDENTITY.recipient], level=1, sink=lambda part: None)
        for _ in range(40):
            sealer.write(plain)
        sealer.close()
        _, sealing_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sealing_peak < 8 * MEBIBYTE

    sealer = Sealer([IDENTITY.recipient], level=1, sink=sealed.extend)
    for _ in range(40):
        sealer.write(plain)
    sealer.close()
    data = bytes(sealed)
    tracemalloc.start()
    try:
        total = sum(len(piece) for piece in pieces(data))
        _, unsealing_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 80 * MEBIBYTE
    assert unsealing_peak < 8 * MEBIBYTE


def test_a_text_that_expands_enormously_comes_in_small_pieces() -> None:
    runs = [block(1, 128 * 1024, b"a", last=i == 4095) for i in range(4096)]
    frame = MAGIC + b"\x00" + bytes([7 << 3]) + b"".join(runs)
    assert len(frame) < 17 * 1024
    sizes = [len(piece) for piece in pieces(seal_compressed(frame))]
    assert sum(sizes) == 512 * MEBIBYTE
    assert max(sizes) == MEBIBYTE


def test_a_key_that_does_not_fit_is_told_at_once() -> None:
    with pytest.raises(KeyMissing):
        unseal(seal(b"rows"), [X25519Identity.generate()])


def test_every_cut_of_the_compressed_text_is_found() -> None:
    frame = compressed_inside(seal(rows(1000)))
    assert unsealed(seal_compressed(frame)) == rows(1000)
    for size in range(len(frame)):
        with pytest.raises(DamagedObject):
            unsealed(seal_compressed(frame[:size]))


def test_a_cut_between_two_blocks_is_found() -> None:
    frame = compressed_inside(seal(random.Random(1).randbytes(MEBIBYTE)))
    first_block_bytes = int.from_bytes(frame[6:9], "little") >> 3
    with pytest.raises(DamagedObject, match="cut off"):
        unsealed(seal_compressed(frame[: 9 + first_block_bytes]))


@pytest.mark.parametrize(
    "tail",
    [b"\x00", b"more", b"more than a magic number", b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip", MAGIC],
)
def test_what_follows_the_last_frame_is_found(tail: bytes) -> None:
    with pytest.raises(DamagedObject):
        unsealed(seal_compressed(compressed_inside(seal(rows(1000))) + tail))


def test_a_wrong_checksum_is_found() -> None:
    frame = bytearray(compressed_inside(seal(rows(1000))))
    frame[-1] ^= 1
    with pytest.raises(DamagedObject, match="checksum"):
        unsealed(seal_compressed(bytes(frame)))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "cut off"),
        (b"not compressed at all", "not a zstd frame"),
        (MAGIC + b"\x00" + bytes([18 << 3]) + block(0, 1, b"a", last=True), "memory"),
        (
            MAGIC + b"\xe0" + (1 << 40).to_bytes(8, "little") + block(0, 1, b"a", last=True),
            "memory",
        ),
        (
            MAGIC + b"\xc0\x00" + (1 << 40).to_bytes(8, "little") + block(0, 1, b"a", last=True),
            "corruption",
        ),
        (MAGIC + b"\x00\x00" + block(3, 1, b"a", last=True), "impossible"),
        (MAGIC + b"\x00\x38" + block(0, 128 * 1024 + 1, bytes(131073), last=True), "impossible"),
        (MAGIC + b"\x08\x00" + block(0, 1, b"a", last=True), "[Uu]nsupported"),
        (MAGIC + b"\x01\x00\x07" + block(0, 1, b"a", last=True), "[Dd]ictionary"),
        (MAGIC + b"\x00\x00" + block(2, 3, b"abc", last=True), "decompressor error"),
    ],
    ids=[
        "nothing",
        "text",
        "window of 256 MiB",
        "single segment of 1 TiB",
        "claims 1 TiB",
        "reserved block",
        "large block",
        "reserved bit",
        "dictionary",
        "garbage block",
    ],
)
def test_a_frame_that_cannot_be_trusted_is_refused(frame: bytes, reason: str) -> None:
    with pytest.raises(DamagedObject, match=reason):
        unsealed(seal_compressed(frame))


def test_a_window_of_128_mib_is_read() -> None:
    frame = MAGIC + b"\x00" + bytes([17 << 3]) + block(0, 1, b"a", last=True)
    assert unsealed(seal_compressed(frame)) == b"a"


def test_a_closed_sealer_stays_closed() -> None:
    sealed = bytearray()
    sealer = Sealer([IDENTITY.recipient], level=3, sink=sealed.extend)
    sealer.close()
    sealer.close()
    with pytest.raises(ValueError, match="closed"):
        sealer.write(b"more")
    assert unsealed(bytes(sealed)) == b""
