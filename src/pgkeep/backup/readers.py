"""psql sessions on the exported snapshot, shared by the threads that read."""

from __future__ import annotations

import queue
from contextlib import suppress
from dataclasses import dataclass

from pgkeep.errors import ConnectionLost, PgkeepError
from pgkeep.postgres.address import Address
from pgkeep.postgres.copying import CopyReader
from pgkeep.postgres.programs import Programs


@dataclass(frozen=True, slots=True)
class Connecting:
    """How to reach the source."""

    programs: Programs
    address: Address
    lock_timeout_seconds: float


class Readers:
    """psql sessions on one snapshot, made when needed, lent to one thread at a time."""

    def __init__(self, connecting: Connecting, snapshot: str) -> None:
        self._connecting = connecting
        self._snapshot = snapshot
        self._idle: queue.SimpleQueue[CopyReader] = queue.SimpleQueue()
        self._all: list[CopyReader] = []
        self._aborted = False

    def borrow(self) -> Lease:
        if self._aborted:
            raise ConnectionLost("the backup was ended")
        try:
            return Lease(self._idle, self._idle.get_nowait())
        except queue.Empty:
            reader = CopyReader(
                self._connecting.programs,
                self._connecting.address,
                snapshot=self._snapshot,
                lock_timeout_seconds=self._connecting.lock_timeout_seconds,
            )
            self._all.append(reader)
            return Lease(self._idle, reader)

    def abort(self) -> None:
        self._aborted = True
        for reader in self._all:
            reader.abort()

    def close(self) -> None:
        for reader in self._all:
            with suppress(PgkeepError):
                reader.close()


@dataclass(slots=True)
class Lease:
    """A reader, given back when the block ends well; one that failed is not used again."""

    _home: queue.SimpleQueue[CopyReader]
    reader: CopyReader

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._home.put(self.reader)
