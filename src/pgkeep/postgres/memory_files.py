"""Bytes that a child process can open by a path, without a disk where the system can do that."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def memory_file(data: bytes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A path that holds `data` for children, and the descriptors to pass on to them.

    On Linux it is an anonymous file in memory, mode 0600, since libpq ignores a password file that
    others may read. Elsewhere it is a private temporary file, removed at the end.
    """
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("pgkeep")
        try:
            os.fchmod(handle, 0o600)
            _write(handle, data)
            yield f"/proc/self/fd/{handle}", (handle,)
        finally:
            os.close(handle)
        return
    handle, name = tempfile.mkstemp(prefix="pgkeep-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        yield name, ()
    finally:
        Path(name).unlink(missing_ok=True)


def _write(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]
