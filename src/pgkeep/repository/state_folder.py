"""The state folder is this user's alone: its rights are looked at before anything is read there.

A folder or file that is open to others is closed, and that is said; a key that others could read
is refused where it is used, since it may be known by now. What belongs to somebody else, or is a
link that leads elsewhere, is refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pgkeep.errors import ConfigurationError, StateUnsafe

_OTHERS = 0o077


def secure(folder: Path) -> tuple[str, ...]:
    """Close what is open to others; what was closed, in words. `StateUnsafe` for what cannot be."""
    closed: list[str] = []
    try:
        own = folder.stat()
    except OSError:
        return ()  # not there yet, or not to be seen: whoever needs it says so
    if not stat.S_ISDIR(own.st_mode):
        return ()
    _refuse_stranger(folder, own)
    _close(folder, own, 0o700, closed)
    for path in _within(folder):
        with suppress(FileNotFoundError):  # another pgkeep works here too
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                raise StateUnsafe(
                    f"{str(path)!r} in the state folder is a link to elsewhere",
                    hint="Put the file itself there.",
                )
            _refuse_stranger(path, found)
            if path.suffix not in (".key", ".sig"):  # a signature may be seen by anybody
                mode = 0o700 if stat.S_ISDIR(found.st_mode) else 0o600
                _close(path, found, mode, closed)
    return tuple(closed)


def unusable(path: Path, exc: OSError, why: str = "") -> ConfigurationError:
    """That a file there cannot be read or written; `why` it has to be."""
    return ConfigurationError(
        f"cannot use {str(path)!r} in the state folder: {(exc.strerror or str(exc)).lower()}",
        hint=f"Run pgkeep as the user who owns it, on a disk with room{why}.",
    )


def _within(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(parent) / name


def _refuse_stranger(path: Path, found: os.stat_result) -> None:
    me = os.geteuid()
    if me not in (0, found.st_uid) and found.st_uid != 0:
        raise StateUnsafe(
            f"{str(path)!r} belongs to another user (number {found.st_uid})",
            hint="Run pgkeep as that user, or set state_dir to a folder of your own.",
        )


def _close(path: Path, found: os.stat_result, mode: int, closed: list[str]) -> None:
    was = stat.S_IMODE(found.st_mode)
    if not was & _OTHERS:
        return
    try:
        path.chmod(mode)
    except OSError as exc:
        raise StateUnsafe(
            f"others may look into {str(path)!r}: {(exc.strerror or str(exc)).lower()}",
            hint=f"Run: chmod {mode:o} {path}",
        ) from exc
    closed.append(f"others could look into {str(path)!r} (mode {was:o}): closed now")
