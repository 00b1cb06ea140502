"""psql sessions that several threads share, each lent to one thread at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pgkeep.errors import ConnectionLost, PgkeepError, TableChanged
from pgkeep.postgres.copying import CopyReader

Started = Callable[[CopyReader], None]
"""Takes note of a session before it connects."""


class Readers:
    """Makes a session when none is idle. One that failed is not lent again.

    `make` calls what it is given with the session that it starts, before it waits for anything.
    """

    def __init__(self, make: Callable[[Started], CopyReader]) -> None:
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
        self._refuse_if_aborted()
        return self._make(self._register)

    def _register(self, reader: CopyReader) -> None:
        """Remember a session, so that it can be ended while it is still being made."""
        with self._lock:
            self._all.append(reader)
        self._refuse_if_aborted()

    def _refuse_if_aborted(self) -> None:
        if self._aborted:
            raise ConnectionLost("the work was ended")
