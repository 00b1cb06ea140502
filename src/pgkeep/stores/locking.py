"""One writer at a time on this host: a file lock, which the kernel frees when its process ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from pgkeep.errors import RepositoryLocked
from pgkeep.stores.folders import make_folders, translated


@contextmanager
def hold_lock(path: Path, *, url: str, purpose: str) -> Iterator[None]:
    """Hold the lock file of the repository at `url`; `RepositoryLocked` at once if another does."""
    try:
        make_folders(path.parent)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise translated(exc, f"cannot lock {url}") from exc
    try:
        _take(handle, url, purpose)
        yield
    finally:
        os.close(handle)


def lock_name(place: str) -> str:
    """The name of the lock file for a remote place: the same for the same place."""
    return f"{sha256(place.encode()).hexdigest()[:32]}.lock"


def _take(handle: int, url: str, purpose: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise RepositoryLocked(
            f"repository {url} is locked by {_holder(handle)}",
            hint="Wait until it has finished; a lock ends with the process that holds it.",
        ) from exc
    except OSError as exc:
        raise translated(exc, f"cannot lock {url}") from exc
    note = {
        "purpose": purpose,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with suppress(OSError):  # a full disk must not keep us from locking
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(note).encode(), 0)


def _holder(handle: int) -> str:
    try:
        note = json.loads(os.pread(handle, 4096, 0))
        return (
            f"another process: {note['purpose']} (pid {note['pid']} on {note['host']},"
            f" since {note['since']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
