"""Private folders on a local disk, on disk before they are used, and what its errors mean."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from pgkeep.errors import ObjectMissing, StoreAccessDenied, StoreError, StoreFull


def make_folders(path: Path) -> None:
    """Make a folder and those above it, private, each entry on disk before it is used."""
    if path.is_dir():
        return
    if path != path.parent:
        make_folders(path.parent)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Bring a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def translated(error: OSError, what: str) -> StoreError:
    """The error of ours for one of the system's; `what` begins its message."""
    reason = (error.strerror or str(error)).lower()
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.EISDIR:
            return ObjectMissing(f"{what}: {reason}")
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return StoreFull(
                f"{what}: {reason}",
                hint="Free some space and run the same command again; what was written whole"
                " stays, nothing is half-written.",
            )
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return StoreAccessDenied(
                f"{what}: {reason}", hint="Run pgkeep as the user who owns the folder."
            )
        case _:
            return StoreError(f"{what}: {reason}")
