"""Files below a folder: private (0600, 0700), durable (fsync), never half-written in sight."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pgkeep.errors import (
    ObjectMissing,
    RepositoryLocked,
    StoreAccessDenied,
    StoreError,
    StoreFull,
)
from pgkeep.stores.base import Bytes, StoredFile

_TEMPORARY = "tmp"
_LOCK = "lock"


class LocalStore:
    """See `pgkeep.stores.base.Store` for the contract.

    A file is written to `tmp/`, synced, renamed to its name, and its folder is synced, so a
    crash or a full disk leaves the old state or the new one. The writer clears `tmp/` when it
    takes the lock, which the kernel frees when the process ends, however it ends.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def url(self) -> str:
        return f"file://{self._root}"

    @property
    def is_near(self) -> bool:
        return True

    def put(self, name: str, data: Bytes) -> None:
        path = self._path(name)
        temporary = self._root / _TEMPORARY / secrets.token_hex(16)
        try:
            _make_folders(temporary.parent)
            _make_folders(path.parent)
            try:
                _write_durably(temporary, data)
                temporary.rename(path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
            _sync_folder(path.parent)
        except OSError as exc:
            error = _translated(exc, f"cannot write {name!r} to {self.url}")
            # Something stands in the way, or the folder was taken away: not a missing object.
            raise (
                StoreError(error.message) if isinstance(error, ObjectMissing) else error
            ) from exc

    def get(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except OSError as exc:
            raise _translated(exc, f"cannot read {name!r} from {self.url}") from exc

    def size(self, name: str) -> int:
        path = self._path(name)
        try:
            status = path.stat()
        except OSError as exc:
            raise _translated(exc, f"cannot look at {name!r} in {self.url}") from exc
        if not path.is_file():
            raise ObjectMissing(f"{name!r} in {self.url} is not a file")
        return status.st_size

    def list(self, prefix: str) -> Iterator[StoredFile]:
        found: list[StoredFile] = []
        top = self._path(prefix.rstrip("/")) if prefix else self._root
        try:
            if not top.is_dir():
                return
            for folder, folders, files in os.walk(top, onerror=_raise):
                if Path(folder) == self._root:
                    folders[:] = [name for name in folders if name != _TEMPORARY]
                    files = [name for name in files if name != _LOCK]
                for name in files:
                    path = Path(folder) / name
                    with suppress(FileNotFoundError):
                        size = path.stat().st_size
                        found.append(StoredFile(path.relative_to(self._root).as_posix(), size))
        except OSError as exc:
            raise _translated(exc, f"cannot list {prefix!r} in {self.url}") from exc
        yield from sorted(found, key=lambda file: file.name)

    def folders(self, prefix: str) -> Iterator[str]:
        top = self._path(prefix.rstrip("/")) if prefix else self._root
        try:
            if not top.is_dir():
                return
            names = [path.name for path in top.iterdir() if path.is_dir() and _holds_files(path)]
        except OSError as exc:
            raise _translated(exc, f"cannot list {prefix!r} in {self.url}") from exc
        yield from sorted(name for name in names if prefix or name != _TEMPORARY)

    def delete(self, name: str) -> None:
        try:
            self._path(name).unlink(missing_ok=True)
        except (NotADirectoryError, IsADirectoryError):
            return  # no file has this name
        except OSError as exc:
            raise _translated(exc, f"cannot delete {name!r} in {self.url}") from exc

    @contextmanager
    def exclusive(self, purpose: str) -> Iterator[None]:
        path = self._root / _LOCK
        try:
            _make_folders(self._root)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise _translated(exc, f"cannot lock {self.url}") from exc
        try:
            self._take_lock(handle, purpose)
            self._clear_temporary()
            yield
        finally:
            os.close(handle)

    def _take_lock(self, handle: int, purpose: str) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise RepositoryLocked(
                f"repository {self.url} is locked by {_holder(handle)}",
                hint="Wait until it has finished; a lock ends with the process that holds it.",
            ) from exc
        except OSError as exc:
            raise _translated(exc, f"cannot lock {self.url}") from exc
        note = {
            "purpose": purpose,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with suppress(OSError):  # a full disk must not keep us from locking
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(note).encode(), 0)

    def _clear_temporary(self) -> None:
        """Remove what a killed writer left. Safe: whoever holds the lock is the only writer."""
        try:
            leftovers = list((self._root / _TEMPORARY).iterdir())
        except FileNotFoundError:
            return
        except OSError as exc:
            raise StoreError(f"cannot clear {_TEMPORARY}/ in {self.url}: {exc.strerror}") from exc
        for leftover in leftovers:
            with suppress(OSError):
                leftover.unlink()

    def _path(self, name: str) -> Path:
        segments = name.split("/")
        unfit = any(segment in ("", ".", "..") for segment in segments) or "\0" in name
        if unfit or segments[0] in (_TEMPORARY, _LOCK):
            raise StoreError(f"{name!r} is not a name that a store can hold")
        return self._root / name


def _write_durably(path: Path, data: Bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folders(path: Path) -> None:
    """Make a folder and those above it, private, each entry on disk before it is used."""
    if path.is_dir():
        return
    if path != path.parent:
        _make_folders(path.parent)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _holds_files(folder: Path) -> bool:
    return any(files for _, _, files in os.walk(folder, onerror=_raise))


def _raise(error: OSError) -> None:
    raise error


def _holder(handle: int) -> str:
    try:
        note = json.loads(os.pread(handle, 4096, 0))
        return (
            f"another process: {note['purpose']} (pid {note['pid']} on {note['host']},"
            f" since {note['since']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _translated(error: OSError, what: str) -> StoreError:
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
