"""What a backup that was cut off had stored already: noted part by part, for the next one.

Sealing the same rows twice gives different objects, so what is stored cannot be found again by
its name. Each part is therefore noted on this host when it is stored, with the key of its table
and its horizon, which is all that is needed to use it as if an earlier backup had published it
(docs/incremental.md). The note is a file of records, each sealed to the index key, appended and
never changed; what cannot be opened ends it. It is gone as soon as a backup is published.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pgkeep.errors import PgkeepError
from pgkeep.model import Part, TableName
from pgkeep.records import JsonForm
from pgkeep.sealing import Sealer, X25519Identity, unseal

_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part that was read and stored, whatever became of the backup that did it."""

    table: TableName
    key: str
    """What the text depends on besides the rows, as it was then."""
    part: Part
    epoch: str
    """What it is sealed to."""
    read: datetime
    """When the backup that read it began."""


_RECORD = JsonForm(StoredPart)


class UnfinishedBackup:
    """The note of one database. `add` may be called from several threads.

    Not synced: after a power failure its end may be missing or damaged, and is not believed then.
    """

    def __init__(self, path: Path, index_key: X25519Identity) -> None:
        self._path = path
        self._index_key = index_key
        self._lock = threading.Lock()
        self._handle: int | None = None
        self.problem = ""
        """Why parts could not be noted; the backup itself does not suffer."""

    def parts(self, *, mend: bool = True) -> tuple[StoredPart, ...]:
        """What is noted, oldest first. Removes a damaged end, so that more can be added."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return ()
        found, end = [], 0
        for sealed in _records(data):
            try:
                text = b"".join(unseal(sealed, [self._index_key]))
                found.append(_RECORD.load(text))
            except (PgkeepError, ValueError):
                break
            end += _LENGTH_BYTES + len(sealed)
        if mend and end < len(data):
            with suppress(OSError):
                os.truncate(self._path, end)
        return tuple(found)

    def add(self, part: StoredPart) -> None:
        """Note a part whose objects were handed to the repositories."""
        sealed = bytearray(_LENGTH_BYTES)
        sealer = Sealer([self._index_key.recipient], level=1, sink=sealed.extend)
        sealer.write(_RECORD.dump(part))
        sealer.close()
        sealed[:_LENGTH_BYTES] = (len(sealed) - _LENGTH_BYTES).to_bytes(_LENGTH_BYTES)
        with self._lock:
            if self.problem:
                return
            try:
                self._append(sealed)
            except OSError as exc:
                self.problem = (exc.strerror or str(exc)).lower()

    def forget(self) -> None:
        """Use nothing of it again."""
        self.close()
        with suppress(OSError):
            self._path.unlink()

    def close(self) -> None:
        """Free the file; what is noted stays."""
        with self._lock:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    def _append(self, record: bytearray) -> None:
        if self._handle is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._handle = os.open(self._path, flags, 0o600)
        view = memoryview(record)
        while view:
            view = view[os.write(self._handle, view) :]


def _records(data: bytes) -> Iterator[bytes]:
    """The sealed records, as far as they are whole."""
    at = 0
    while at + _LENGTH_BYTES <= len(data):
        begin = at + _LENGTH_BYTES
        at = begin + int.from_bytes(data[at:begin])
        if at > len(data):
            return
        yield data[begin:at]


def still_usable(
    parts: Iterable[StoredPart], *, epoch: str, now: datetime, full_read_days: float
) -> tuple[StoredPart, ...]:
    """Those that are sealed as today's are, and young enough not to be read again in any case."""
    oldest = now - timedelta(days=full_read_days)
    return tuple(one for one in parts if one.epoch == epoch and oldest < one.read <= now)


def whole_parts(
    parts: Sequence[StoredPart], sizes: Mapping[str, int]
) -> dict[tuple[TableName, str], dict[int, Part]]:
    """The last of each range whose objects may all be used again: by table and key, first page."""
    found: dict[tuple[TableName, str], dict[int, Part]] = {}
    for one in parts:
        if all(sizes.get(item.name.path) == item.size_bytes for item in one.part.text.objects):
            found.setdefault((one.table, one.key), {})[one.part.first_page] = one.part
    return found
