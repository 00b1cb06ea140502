"""Ending a connection on which nothing happens any more, whatever it is that keeps it open.

The system notices a peer that is gone. It cannot notice a pooler or a tunnel that takes what it is
sent and passes nothing on: waiting for that, a capture would hold back WAL without end.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pgkeep.postgres.session import Connection


class Watchdog:
    """Has to hear `alive` again and again."""

    def __init__(self, descriptor: int, patience_seconds: float) -> None:
        self._descriptor = descriptor
        self._patience_seconds = patience_seconds
        self._heard_at = time.monotonic()
        self._ended = threading.Event()

    def alive(self) -> None:
        """Something came, or was done."""
        self._heard_at = time.monotonic()

    def end(self) -> None:
        """Watch no more."""
        self._ended.set()

    def run(self) -> None:
        """Watch; whoever reads from the connection then gets an error."""
        while not self._ended.wait(min(self._patience_seconds / 10, 5)):
            if time.monotonic() - self._heard_at > self._patience_seconds:
                with suppress(OSError), socket.socket(fileno=self._descriptor) as ours:
                    ours.shutdown(socket.SHUT_RDWR)
                return
        with suppress(OSError):
            os.close(self._descriptor)


@contextmanager
def watched(connection: Connection, patience_seconds: float) -> Iterator[Watchdog]:
    """Watch a connection as long as the block runs."""
    watchdog = Watchdog(os.dup(connection.fileno()), patience_seconds)
    threading.Thread(target=watchdog.run, name="pgkeep-watchdog", daemon=True).start()
    try:
        yield watchdog
    finally:
        watchdog.end()
