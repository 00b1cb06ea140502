"""The user's own commands around a recovery or in a drill: run, and cut off if they take too long.

They have no terminal and no input, since nobody may be there to answer. What they leave running
when they end may go on: only the command itself is waited for.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from pgkeep.errors import RestoreFailed

_TOLD_BYTES = 300
_SHORTEST_SECRET = 6
_IN_URL = re.compile(r"(?<=://)([^\s/@:]*):[^\s@]+@")
_IN_SETTING = re.compile(
    r"(?i)\b((?:[\w-]*(?:password|passwd|secret|token|passphrase|api_?key)\s*[=:]|bearer\s)\s*)"
    r"(?!bearer\b)[^\s'\"]+"
)
_SECRET_VARIABLE = re.compile(r"(?i)passw|secret|token|passphrase|_key$")


@dataclass(frozen=True, slots=True)
class Hooks:
    """How commands are run: how long each may take, what it is told, what is never repeated."""

    seconds: float
    facts: Mapping[str, str]
    """Variables that commands get besides the environment."""
    secrets: Collection[str] = ()
    again: str = "run pgkeep recover again: it goes on from here"
    """What to do once a command that failed is put right."""
    leaves_running: bool = True
    """Whether what commands have started may go on when they end."""

    def run(self, commands: Sequence[Sequence[str]]) -> None:
        """Run commands, in order. `RestoreFailed` for the first that fails."""
        for command in commands:
            with tempfile.TemporaryFile() as said:
                self._run(command, said)

    def _run(self, command: Sequence[str], said: IO[bytes]) -> None:
        what = in_words(command)
        try:
            process = subprocess.Popen(
                command,
                env={**os.environ, **self.facts},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:
            raise RestoreFailed(
                f"the command {what!r} cannot be run: {exc}",
                hint=f"Correct it in the configuration, and {self.again}.",
            ) from exc
        try:
            code = process.wait(self.seconds)
        except BaseException as exc:
            _end(process)
            if not isinstance(exc, subprocess.TimeoutExpired):
                raise
            raise RestoreFailed(
                f"the command {what!r} was not done after {self.seconds:g} s",
                hint="Do by hand what it was to do, take it out of the configuration, and"
                f" {self.again}.",
            ) from exc
        if not self.leaves_running:
            _end(process)
        if code:
            raise RestoreFailed(
                f"the command {what!r} ended with {code}: {self._told(said)}",
                hint=f"Do by hand what it was to do, or correct it, and {self.again}.",
            )

    def _told(self, said: IO[bytes]) -> str:
        """The end of what a command has said, without secrets."""
        size = said.seek(0, os.SEEK_END)
        said.seek(max(0, size - 16 * 1024))
        text = without_secrets(said.read().decode("utf-8", "replace"), self.secrets)
        return text.strip()[-_TOLD_BYTES:] or "it said nothing"


def in_words(command: Sequence[str]) -> str:
    """A command as a shell would take it, without what looks like a secret."""
    return _without_what_looks_like_one(shlex.join(command))


def without_secrets(text: str, secrets: Collection[str]) -> str:
    """Text without the secrets that are known here, and without what looks like one."""
    for secret in sorted({*secrets, *_secrets_of_the_environment()}, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return _without_what_looks_like_one(text)


def _without_what_looks_like_one(text: str) -> str:
    return _IN_SETTING.sub(r"\1***", _IN_URL.sub(r"\1:***@", text))


def _secrets_of_the_environment() -> Iterator[str]:
    return (value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name))


def _end(process: subprocess.Popen[bytes]) -> None:
    """The command and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
