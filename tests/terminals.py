"""A pseudo-terminal with pgkeep on it, for what is asked of whoever sits there."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

_PATIENCE_SECONDS = 120
_AGAIN_SECONDS = 15
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(slots=True)
class Terminal:
    """One command; all that it has shown so far."""

    process: subprocess.Popen[bytes]
    handle: int
    shown: str = ""
    _looked_at: int = field(default=0)

    def wait_for(self, text: str) -> str:
        """What is shown up to a text, since the last one that was waited for."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (at := self.shown.find(text, self._looked_at)) < 0:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.shown}"
            assert self._read(), f"it ended before {text!r}: {self.shown}"
        begin, self._looked_at = self._looked_at, at + len(text)
        return self.shown[begin : self._looked_at]

    def type(self, line: str) -> None:
        os.write(self.handle, line.encode() + b"\n")

    def interrupted(self) -> int:
        """The exit code after Ctrl-C.

        Pressed again after a while if need be: Python does not see one that comes just before it
        begins to read, until something else comes.
        """
        for _ in range(_PATIENCE_SECONDS // _AGAIN_SECONDS):
            os.killpg(self.process.pid, signal.SIGINT)
            again = time.monotonic() + _AGAIN_SECONDS
            while self._read() and time.monotonic() < again:
                pass
            if time.monotonic() < again:
                break
        return self.end()

    def end(self) -> int:
        """The exit code."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._read():
            assert time.monotonic() < deadline, f"it does not end: {self.shown}"
        return self.process.wait(_PATIENCE_SECONDS)

    def _read(self) -> bool:
        """Whether there may be more."""
        ready, _, _ = select.select([self.handle], [], [], 1)
        if not ready:
            return self.process.poll() is None
        try:
            data = os.read(self.handle, 65536)
        except OSError:  # Linux says so when the other end is closed
            return False
        self.shown += _COLOURS.sub("", data.decode("utf-8", "replace")).replace("\r", "")
        return bool(data)


@contextmanager
def at_a_terminal(*arguments: str, environment: Mapping[str, str]) -> Iterator[Terminal]:
    """Run pgkeep on a terminal of its own."""
    outer, inner = pty.openpty()
    # A long line would be shown as several.
    process = subprocess.Popen(
        [sys.executable, "-m", "pgkeep", *arguments],
        stdin=inner, stdout=inner, stderr=inner, start_new_session=True,
        env={**environment, "COLUMNS": "500", "TERM": "dumb"},
    )  # fmt: skip
    os.close(inner)
    try:
        yield Terminal(process, outer)
    finally:
        process.kill()
        process.wait()
        os.close(outer)
