"""psql sessions that several threads share, each lent to one thread at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pgkeep.errors import ConnectionLost, PgkeepError, TableChanged
from pgkeep.postgres.copying import CopyReader


class Readers:
    """Makes a session when none is idle. One that failed is not lent again."""

    def __init__(self, make: Callable[[], CopyReader]) -> None:
        self._make = make
        self._idle: queue.SimpleQueue[CopyReader] = queue.SimpleQueue()
        self._all: list[CopyReader] = []
        self._lock = threading.Lock()
        self._aborted = False

    @contextmanager
    def lend(self, what: str) -> Iterator[CopyReader]:
        """A session to read `what`, which is named if a lock is waited for in vain."""
        try:
            reader = self._idle.get_nowait()
        except queue.Empty:
            reader = self._new()
        try:
            yield reader
        except TableChanged as exc:
            raise TableChanged(f"{what}: {exc.message}", hint=exc.hint) from exc
        self._idle.put(reader)

    def abort(self) -> None:
        """End all at once, and those that are just being made."""
        with self._lock:
            self._aborted = True
            sessions = list(self._all)
        for reader in sessions:
            reader.abort()

    def close(self) -> None:
        """End all in order."""
        for reader in self._all:
            with suppress(PgkeepError):
                reader.close()

    def _new(self) -> CopyReader:
        if not self._aborted:
            reader = self._make()
            if self._register(reader):
                return reader
            reader.abort()
        raise ConnectionLost("the work was ended")

    def _register(self, reader: CopyReader) -> bool:
        """Remember a session, unless all were ended while it was being made."""
        with self._lock:
            self._all.append(reader)
            return not self._aborted
