"""Standard output that tells in one line when it cannot be written to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pgkeep.errors import OutputFailed


class Output:
    """Text for standard output, whatever that is at the moment; `OutputFailed` if it takes none."""

    def write(self, text: str) -> int:
        with _told():
            return sys.stdout.write(text)

    def flush(self) -> None:
        with _told():
            sys.stdout.flush()

    def __getattr__(self, name: str) -> Any:  # what else a console asks of a stream
        return getattr(sys.stdout, name)


class BinaryOutput:
    """Bytes for standard output."""

    def write(self, data: bytes) -> int:
        with _told():
            return sys.stdout.buffer.write(data)

    def flush(self) -> None:
        with _told():
            sys.stdout.buffer.flush()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as exc:
        raise OutputFailed(
            "whoever read the output has gone before its end",
            hint="If that was not meant, look at the command behind the pipe.",
        ) from exc
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise OutputFailed(f"cannot write to standard output: {reason}") from exc
