"""The ledger: every access, in a file that grows only at its end, each entry naming the one before.

An entry is a line of JSON. Its `previous` is the SHA-256 of the line before it, so an entry that is
edited or taken out breaks the chain behind it. That the end was cut off shows against the heads
kept elsewhere: beside it, and signed in every repository (`ledger/<host>/`).

It detects, and cannot prevent: who is root here may still write what he likes before the next
anchor.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from pgkeep.errors import ManifestInvalid, PgkeepError
from pgkeep.model import FORMAT, Manifest
from pgkeep.records import JsonForm
from pgkeep.repository.envelope import pack, unpack
from pgkeep.repository.hostkeys import write_private
from pgkeep.repository.repository import Repository
from pgkeep.sealing import PublicSigner, SigningKey

FIRST_LINE = b"pgkeep ledger anchor\n"
_NOTHING = ""
_READERS = 8
_TAIL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One access, when it began or when it ended."""

    sequence: int
    previous: str
    """The SHA-256 of the line before it; empty for the first."""
    at: datetime
    state: str
    """`began`, or how it ended: `done`, `attention`, `failed`, `ended`."""
    what: str
    """The command."""
    database: str
    who: str
    """The user and this host."""
    source: str
    """From where: the address of an SSH client, or what else is known."""
    reason: str
    details: Mapping[str, str] = field(default_factory=dict)
    began: int | None = None
    """Of an end, the entry of its beginning."""
    error: str = ""
    after_torn: bool = False
    """Whether the line before this was cut off by a crash, and so is no entry."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain stands."""

    sequence: int
    sha256: str

    def __str__(self) -> str:
        """As it stands in a manifest."""
        return f"{self.sequence} {self.sha256}"

    @classmethod
    def parse(cls, text: str) -> Head | None:
        """From a manifest; None if there is none in it."""
        number, _, digest = text.partition(" ")
        return cls(int(number), digest) if number.isdecimal() and len(digest) == 64 else None


@dataclass(frozen=True, slots=True)
class Anchor:
    """A head as it is kept in a repository, signed."""

    format: int
    host: str
    sequence: int
    sha256: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check of the chain has found."""

    entries: int
    anchors: int
    problems: tuple[str, ...]


_ENTRY = JsonForm(Entry)
_ANCHOR = JsonForm(Anchor)
_HEAD = JsonForm(Head)


@dataclass(frozen=True, slots=True)
class Access:
    """What is to be written down; the chain adds its number and the hash before it."""

    at: datetime
    state: str
    what: str
    database: str
    who: str
    source: str
    reason: str
    details: Mapping[str, str] = field(default_factory=dict)
    began: int | None = None
    error: str = ""


class Ledger:
    """The file of this host (0600)."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "ledger.jsonl"
        self._head_path = state_dir / "ledger.head"

    def append(self, access: Access) -> int:
        """Write it down, durably; its number. `OSError` if that cannot be."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked() as handle:
            tail, is_torn = _tail(handle)
            kept = self._kept_head()
            head = _head_of(tail, kept)
            if kept is not None and not is_torn and kept.sequence >= head.sequence:
                # What was edited or cut off here since then leaves a break for ever.
                head = kept
            entry = Entry(
                sequence=head.sequence + 1,
                previous=head.sha256,
                after_torn=is_torn or (_entry_in(tail) is None and tail != b""),
                **{name: getattr(access, name) for name in Access.__slots__},
            )
            line = _dump(entry)
            _write_whole(handle, (b"\n" if is_torn else b"") + line)
            with suppress(OSError):  # it says less then, and nothing wrong
                write_private(self._head_path, _HEAD.dump(_head(entry, line)))
            return entry.sequence

    def head(self) -> Head | None:
        """Where it stands; None if nothing was ever written."""
        try:
            with self.path.open("rb") as stream:
                tail, _ = _tail(stream.fileno())
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _head_of(tail, self._kept_head()) if tail else None

    def last(self) -> Entry | None:
        """The newest entry."""
        try:
            with self.path.open("rb") as stream:
                return _entry_in(_tail(stream.fileno())[0])
        except OSError:
            return None

    def entries(self) -> Iterator[Entry]:
        """All that can be read, oldest first."""
        for line in self._lines():
            if (entry := _entry_in(line)) is not None:
                yield entry

    def verify(self, anchors: Mapping[str, Sequence[Anchor]]) -> Verified:
        """The chain against itself, the head beside it, and the anchors of each repository."""
        problems: list[str] = []
        hashes = self._check_chain(problems)
        heads = [("the head beside it", self._kept_head())] if self._kept_head() else []
        heads += [
            (f"the anchor in {name}", Head(one.sequence, one.sha256))
            for name, found in anchors.items()
            for one in found
        ]
        for place, head in heads:
            assert head is not None
            if head.sequence not in hashes:
                problems.append(
                    f"{place} knows entry {head.sequence}, and the ledger ends with"
                    f" {max(hashes, default=0)}: entries were cut off"
                )
            elif hashes[head.sequence] != head.sha256:
                problems.append(f"{place} knows another entry {head.sequence}: it was edited")
        number = sum(len(found) for found in anchors.values())
        return Verified(len(hashes), number, tuple(dict.fromkeys(problems)))

    def _check_chain(self, problems: list[str]) -> dict[int, str]:
        """The hash of each entry by its number."""
        hashes: dict[int, str] = {}
        expected, torn, number = _NOTHING, "", 0
        for position, line in enumerate(self._lines(), 1):
            entry = _entry_in(line)
            if entry is None:
                if torn:
                    problems.append(f"line {position} is no entry")
                torn = _hash(line)
                continue
            previous = torn if torn and entry.after_torn else expected
            if torn and not entry.after_torn:
                problems.append(f"line {position - 1} is no entry: it was edited")
            if entry.previous != previous:
                problems.append(f"entry {entry.sequence} does not follow the one before it")
            if entry.sequence != number + 1:
                problems.append(f"entry {entry.sequence} comes after {number}: some were removed")
            number, expected, torn = entry.sequence, _hash(line), ""
            hashes[number] = expected
        if torn:
            problems.append("the last line is no entry: a crash, or it was edited")
        return hashes

    def _lines(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as stream:
                for line in stream:
                    yield line if line.endswith(b"\n") else line + b"\n"
        except FileNotFoundError:
            return

    def _kept_head(self) -> Head | None:
        try:
            return _HEAD.load(self._head_path.read_bytes())
        except (OSError, ValueError):
            return None

    @contextmanager
    def _locked(self) -> Iterator[int]:
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _wait_for_lock(handle)
            yield handle
        finally:
            os.close(handle)


def _wait_for_lock(handle: int) -> None:
    """An entry takes milliseconds; nothing may keep a restore waiting for longer than seconds."""
    for pause in (0.01, 0.05, 0.2, 0.5, 1, 2, 4, 0):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not pause:
                raise
            time.sleep(pause)
        else:
            return


def _tail(handle: int) -> tuple[bytes, bool]:
    """The last line, with its end, and whether a crash had cut it off."""
    size = os.fstat(handle).st_size
    data = os.pread(handle, min(size, _TAIL_BYTES), max(size - _TAIL_BYTES, 0))
    if not data:
        return b"", False
    is_torn = not data.endswith(b"\n")
    whole = data if not is_torn else data + b"\n"
    start = whole.rfind(b"\n", 0, len(whole) - 1) + 1
    return whole[start:], is_torn


def _head_of(tail: bytes, kept: Head | None) -> Head:
    """What the next entry follows. Behind a torn line the number goes on from what was kept."""
    if not tail:
        return Head(0, _NOTHING)
    entry = _entry_in(tail)
    if entry is not None:
        return Head(entry.sequence, _hash(tail))
    return Head(kept.sequence if kept else 0, _hash(tail))


def _head(entry: Entry, line: bytes) -> Head:
    return Head(entry.sequence, _hash(line))


def _entry_in(line: bytes) -> Entry | None:
    try:
        return _ENTRY.load(line)
    except ValueError:
        return None


def _dump(entry: Entry) -> bytes:
    document = {**asdict(entry), "at": entry.at.isoformat()}
    return json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def _write_whole(handle: int, data: bytes) -> None:
    """All of it or, on a full disk, nothing."""
    size = os.fstat(handle).st_size
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    except OSError:
        with suppress(OSError):
            os.ftruncate(handle, size)
        raise


def _hash(line: bytes) -> str:
    return sha256(line).hexdigest()


# --- anchors --------------------------------------------------------------------------------


def folder(host: str) -> str:
    """Where the anchors of a host are."""
    return f"ledger/{re.sub('[^A-Za-z0-9_-]', '-', host) or 'host'}/"


def anchor(head: Head, host: str, now: datetime, key: SigningKey) -> tuple[str, bytes]:
    """The name and the bytes of a signed anchor."""
    text = _ANCHOR.dump(Anchor(FORMAT, host, head.sequence, head.sha256, now)) + b"\n"
    return f"{folder(host)}{head.sequence:010}.anchor", pack(FIRST_LINE, text, b"", key)


def anchors_in(manifests: Iterable[Manifest], host: str) -> tuple[Anchor, ...]:
    """The heads of a host's ledger that its signed manifests hold."""
    found = []
    for one in manifests:
        head = Head.parse(one.ledger) if one.host == host else None
        if head is not None:
            found.append(Anchor(FORMAT, host, head.sequence, head.sha256, one.finished))
    return tuple(found)


def read_anchors(
    repository: Repository, host: str, trusted: Sequence[PublicSigner]
) -> tuple[tuple[Anchor, ...], tuple[PgkeepError, ...]]:
    """All anchors of a host in a repository, oldest first, and what is wrong with others."""
    names = [file.name for file in repository.store.list(folder(host))]

    def read(name: str) -> Anchor | PgkeepError:
        try:
            text, _ = unpack(repository.store.get(name), FIRST_LINE, trusted)
            return _ANCHOR.load(text)
        except PgkeepError as exc:
            return exc
        except ValueError:
            return ManifestInvalid(f"{name} is no anchor that can be read")

    with ThreadPoolExecutor(_READERS, "pgkeep-anchors") as executor:
        found = list(executor.map(read, sorted(names)))
    return (
        tuple(one for one in found if isinstance(one, Anchor)),
        tuple(one for one in found if isinstance(one, PgkeepError)),
    )
