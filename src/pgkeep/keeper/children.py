"""Commands of pgkeep as processes of their own: what one of them does wrong cannot take us down.

A child ends by itself when its keeper is gone (`end_with_parent`), so that after a kill -9 of the
keeper nothing goes on that nobody watches.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgkeep.errors import StateUnwritable

PARENT_VARIABLE = "PGKEEP_KEEPER_PID"
_LOOK_SECONDS = 0.5
_TAIL_BYTES = 64 << 10
_ERROR = re.compile(r"^error: (\[(E\d{3})\] .*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """How children are started."""

    config: Path
    logs: Path
    program: tuple[str, ...] = (sys.executable, "-m", "pgkeep")


@dataclass(frozen=True, slots=True)
class Finished:
    """How a child ended."""

    exit_code: int
    error: str
    """The line that says what went wrong; empty if there is none."""
    code: str
    """Of it, the permanent code, such as `E065`."""
    answer: Any
    """Its JSON document; None if there is none."""


class Child:
    """A command that runs. What it says goes to a file, that of the run before is kept beside.

    `StateUnwritable` if it cannot be begun.
    """

    def __init__(self, name: str, arguments: tuple[str, ...], around: Surroundings) -> None:
        self.name = name
        self.began = time.monotonic()
        self._log = around.logs / f"{name}.log"
        self._answer = around.logs / f"{name}.json"
        try:
            self._process = self._begin(arguments, around)
        except OSError as exc:  # a full disk, or no process left
            reason = (exc.strerror or str(exc)).lower()
            raise StateUnwritable(f"cannot begin {name}: {reason}") from exc

    def _begin(self, arguments: tuple[str, ...], around: Surroundings) -> subprocess.Popen[bytes]:
        around.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(OSError):
            self._log.replace(self._log.with_suffix(".log.1"))
        with _private(self._log) as log, _private(self._answer) as answer:
            return subprocess.Popen(
                [*around.program, *arguments, "--json", "--config", str(around.config)],
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=log,
                env={
                    **os.environ,
                    PARENT_VARIABLE: str(os.getpid()),
                    "PGKEEP_REASON": f"keeper: {self.name}",
                },
                start_new_session=True,  # Ctrl-C is for us, and its workers end with it
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> Finished | None:
        """How it ended, if it has."""
        code = self._process.poll()
        return None if code is None else self._finished(code)

    def wait(self, seconds: float) -> Finished | None:
        """As `poll`, after waiting for it."""
        with suppress(subprocess.TimeoutExpired):
            return self._finished(self._process.wait(seconds))
        return None

    def ask_to_end(self) -> None:
        """SIGTERM: it leaves all in order and ends."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """It and all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def end(self, seconds: float) -> None:
        """Ask, wait, and then insist."""
        self.ask_to_end()
        if self.wait(seconds) is None:
            self.kill()

    def _finished(self, code: int) -> Finished:
        text = _tail(self._log)
        found = _ERROR.findall(text)
        line, error = found[-1] if found else ("", "")
        answer = None
        with suppress(OSError, ValueError):
            answer = json.loads(self._answer.read_text(encoding="utf-8"))
        with suppress(OSError):
            self._answer.unlink()
        return Finished(code, line[:500], error, answer)


def _private(path: Path) -> Any:
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600))


def _tail(path: Path) -> str:
    with suppress(OSError), path.open("rb") as stream:
        stream.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
        return stream.read().decode(errors="replace")
    return ""


Start = Callable[[str, tuple[str, ...]], Child]


def end_with_parent(environment: MutableMapping[str, str] = os.environ) -> None:
    """Called first by a command: if a keeper started it, it ends when the keeper has.

    Nothing but asking again and again works on every Unix; a prctl would be for Linux alone.
    """
    text = environment.pop(PARENT_VARIABLE, "")  # not for what the command starts itself
    if not text.isdigit():
        return
    parent = int(text)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="pgkeep-parent", daemon=True).start()
