"""The journal: what changed in a database since, segment by segment, in chains.

    <database>/journal/<chain>/<sequence>-<start>-<end>-<covered>-<previous>-<own>.segment

A segment is one file: a line, its signed head as JSON, the signature, and a sealed body. Its name
tells where it belongs, so a listing alone shows what can be reached. A transaction that is too
large for one lies in several, called `.first`, `.middle` and `.last` instead of `.segment`. One
with a change of the schema has `-schema` before that, or `-barrier` if no replay gets past it.

A crash may leave a `.first` that no `.last` follows; the next run goes on from the last whole
segment with higher numbers, and what leads nowhere is passed over. So nothing is written twice.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from hashlib import sha256
from itertools import dropwhile

from pgkeep.errors import DamagedObject, JournalInvalid, NotAuthentic
from pgkeep.model import Lsn, Segment
from pgkeep.records import JsonForm
from pgkeep.repository.envelope import pack, unpack
from pgkeep.repository.manifests import check_format
from pgkeep.sealing import PublicSigner, Sealer, SigningKey, X25519Identity, X25519Recipient, unseal
from pgkeep.stores import Store

FIRST_LINE = b"pgkeep journal segment\n"
_NO_DIGEST = "0" * 16
_NAME = re.compile(
    r"(\d{10})-([0-9A-F]{16})-([0-9A-F]{16})-(\d{8}T\d{6}Z)-([0-9a-f]{16})-([0-9a-f]{16})"
    r"(-schema|-barrier)?\.(segment|first|middle|last)"
)
_ENDINGS = {(True, True): "segment", (True, False): "first", (False, False): "middle",
            (False, True): "last"}  # fmt: skip
_WHOLE_BY_ENDING = {ending: whole for whole, ending in _ENDINGS.items()}
_HEAD = JsonForm(Segment)
_FRAME = struct.Struct(">BQII")


# --- frames: what a body is made of ---------------------------------------------------------------


class FrameKind(IntEnum):
    """What a frame holds."""

    MESSAGE = 1
    """A message of pgoutput, as the server sent it."""
    SEQUENCES = 2
    """Where sequences stood at the end of the segment, as JSON: [[schema, name, last_value,
    is_called], ...]. Those that did not move since the last sample of the chain are left out."""
    PARTLY = 3
    """Tables whose updates and deletes are not in the segment, though they have a key, as JSON:
    [[schema, name], ...]."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One entry of a body. `lsn` and `xid` are those that the slot gave with a message."""

    kind: int
    lsn: int
    xid: int
    data: bytes


def encode_frame(kind: int, lsn: int, xid: int, data: bytes) -> bytes:
    """A frame as bytes: kind, LSN, xid and length, big-endian, and the data."""
    return _FRAME.pack(kind, lsn, xid, len(data)) + data


def decode_frames(pieces: Iterable[bytes]) -> Iterator[Frame]:
    """Frames out of a body that comes in pieces."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        at, view = 0, bytes(buffer)
        while len(view) - at >= _FRAME.size:
            kind, lsn, xid, size = _FRAME.unpack_from(view, at)
            end = at + _FRAME.size + size
            if end > len(view):
                break
            yield Frame(kind, lsn, xid, view[at + _FRAME.size : end])
            at = end
        del buffer[:at]
    if buffer:
        raise JournalInvalid("a segment of the journal ends in the middle of a frame")


# --- one segment ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SegmentName:
    """What the name of a segment tells."""

    database: str
    chain: str
    sequence: int
    start: Lsn
    end: Lsn
    covered: datetime
    """To the second."""
    previous: str
    """The first 16 digits of the digest of the head before it; zeros for the first of a chain."""
    digest: str
    """The first 16 digits of the digest of its own head."""
    begins_whole: bool
    ends_whole: bool
    changes_schema: bool = False
    is_barrier: bool = False
    size_bytes: int = 0

    @property
    def path(self) -> str:
        ending = _ENDINGS[self.begins_whole, self.ends_whole]
        return (
            f"{self.database}/journal/{self.chain}/{self.sequence:010}-{self.start:016X}"
            f"-{self.end:016X}-{self.covered:%Y%m%dT%H%M%SZ}-{self.previous}-{self.digest}"
            f"{self._mark}.{ending}"
        )

    @property
    def _mark(self) -> str:
        if self.is_barrier:
            return "-barrier"
        return "-schema" if self.changes_schema else ""

    @property
    def is_first(self) -> bool:
        return self.previous == _NO_DIGEST

    @classmethod
    def parse(cls, path: str, size_bytes: int = 0) -> SegmentName | None:
        """None if it is not the name of a segment."""
        database, folder, chain, name = [*path.split("/"), "", "", "", ""][:4]
        match = _NAME.fullmatch(name)
        if folder != "journal" or not match:
            return None
        return cls(
            database,
            chain,
            int(match[1]),
            Lsn(int(match[2], 16)),
            Lsn(int(match[3], 16)),
            datetime.strptime(match[4], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC),
            match[5],
            match[6],
            *_WHOLE_BY_ENDING[match[8]],
            match[7] is not None,
            match[7] == "-barrier",
            size_bytes,
        )

    @classmethod
    def of(cls, head: Segment) -> SegmentName:
        """The name under which a segment is stored."""
        return cls(
            head.database,
            head.chain,
            head.sequence,
            head.start,
            head.end,
            head.covered.astimezone(UTC).replace(microsecond=0),
            head.previous[:16] or _NO_DIGEST,
            head_digest(head)[:16],
            head.begins_whole,
            head.ends_whole,
            head.schema_changes > 0,
            head.barriers > 0,
        )


@dataclass(frozen=True, slots=True)
class SealedSegment:
    """A segment as it was read: its head, checked, and its body, still sealed."""

    head: Segment
    body: bytes

    def frames(self, identities: Sequence[X25519Identity]) -> Iterator[Frame]:
        """The body opened."""
        return decode_frames(unseal(self.body, identities))


def head_digest(head: Segment) -> str:
    """The SHA-256 of a head, by which the next one refers to it."""
    return sha256(_dump_head(head)).hexdigest()


def _dump_head(head: Segment) -> bytes:
    # What a head does not have, one that was written before there was such a thing lacks as well.
    return _HEAD.dump(head, without_defaults=True) + b"\n"


def seal_segment(
    head: Segment, plain: bytes, recipient: X25519Recipient, key: SigningKey, *, level: int = 1
) -> tuple[Segment, bytes]:
    """The file of a segment, and its head with sizes and hash of the body filled in."""
    body = bytearray()
    sealer = Sealer([recipient], level=level, sink=body.extend)
    sealer.write(plain)
    sealer.close()
    whole = replace(
        head,
        plain_bytes=len(plain),
        body_bytes=len(body),
        body_sha256=sha256(body).hexdigest(),
    )
    text = _dump_head(whole)
    return whole, pack(FIRST_LINE, text, bytes(body), key)


def parse_segment(data: bytes, trusted: Sequence[PublicSigner], *, name: str) -> SealedSegment:
    """A segment out of its file: signature, form and body checked."""
    try:
        text, body = unpack(data, FIRST_LINE, trusted)
    except NotAuthentic as exc:
        raise NotAuthentic(f"{name}: {exc.message}", hint=exc.hint) from exc
    except ValueError as exc:
        raise JournalInvalid(f"{name} is not a segment of the journal") from exc
    try:
        check_format(text, name)
        head = _HEAD.load(text)
    except ValueError as exc:
        raise JournalInvalid(f"{name} has a head that cannot be read") from exc
    if len(body) != head.body_bytes or sha256(body).hexdigest() != head.body_sha256:
        raise DamagedObject(f"{name} is damaged: its body is not the one that was written")
    return SealedSegment(head, body)


# --- chains ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """Segments without a gap, oldest first: from `start` to `end` every moment can be reached."""

    segments: tuple[SegmentName, ...]

    @property
    def chain(self) -> str:
        return self.segments[0].chain

    @property
    def start(self) -> Lsn:
        return self.segments[0].start

    @property
    def end(self) -> Lsn:
        return self.segments[-1].end

    @property
    def begins(self) -> datetime:
        """From when on: the server's clock at the start, to the second.

        For the first of a chain that is when its slot was there; a later one begins where the one
        before it, which is gone, had ended: that is not known, so its own time counts.
        """
        return self.segments[0].covered

    @property
    def covered(self) -> datetime:
        return self.segments[-1].covered

    @property
    def age(self) -> tuple[datetime, Lsn]:
        """Greater for what goes on longer; a name tells the time only to the second."""
        return self.covered, self.end

    def leading_to(self, backup_lsn: int) -> bool:
        """Whether a backup at that position can be continued with this."""
        return self.start <= backup_lsn


def runs(names: Iterable[SegmentName]) -> tuple[Run, ...]:
    """The stretches without a gap, oldest first, from names alone. Pure.

    A transaction without its end leads nowhere, one without its beginning is left out.
    """
    found = [Run(_from_a_boundary(line)) for line in lines(names)]
    return tuple(sorted((run for run in found if run.segments), key=lambda one: one.age))


def lines(names: Iterable[SegmentName]) -> Iterator[tuple[SegmentName, ...]]:
    """Segments that lead to a whole one, oldest first: each refers to the one before it. Pure.

    A line begins where the one before is missing, or belongs to another line that forked from it.
    """
    by_digest = {(name.chain, name.digest): name for name in names}
    newest_first = sorted(by_digest.values(), key=lambda one: (one.chain, -one.sequence))
    seen: set[tuple[str, str]] = set()
    for tip in newest_first:
        if not tip.ends_whole or (tip.chain, tip.digest) in seen:
            continue
        line: list[SegmentName] = []
        at: SegmentName | None = tip
        while at is not None and (at.chain, at.digest) not in seen:
            seen.add((at.chain, at.digest))
            line.append(at)
            at = by_digest.get((at.chain, at.previous))
        yield tuple(reversed(line))


def _from_a_boundary(line: Iterable[SegmentName]) -> tuple[SegmentName, ...]:
    return tuple(dropwhile(lambda one: not one.begins_whole, line))


class Journal:
    """The journal of one database in one store."""

    def __init__(self, store: Store, database: str) -> None:
        self.store = store
        self.database = database

    def names(self) -> tuple[SegmentName, ...]:
        """All segments that are here, from one listing."""
        found = (
            SegmentName.parse(file.name, file.size_bytes)
            for file in self.store.list(f"{self.database}/journal/")
        )
        return tuple(name for name in found if name is not None)

    def runs(self) -> tuple[Run, ...]:
        """The stretches without a gap, oldest first."""
        return runs(self.names())

    def read(self, name: SegmentName, trusted: Sequence[PublicSigner]) -> SealedSegment:
        """A segment, checked; it must be the one that its name says."""
        where = f"{name.path} in {self.store.url}"
        segment = parse_segment(self.store.get(name.path), trusted, name=where)
        if replace(SegmentName.of(segment.head), size_bytes=name.size_bytes) != name:
            raise NotAuthentic(f"{where} is a copy of another segment")
        return segment
