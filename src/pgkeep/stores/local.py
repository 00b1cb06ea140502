"""Files below a folder: private (0600, 0700), durable (fsync), never half-written in sight."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from pgkeep.errors import ObjectMissing, StoreError
from pgkeep.stores.base import Bytes, StoredFile
from pgkeep.stores.facts import StoreFacts, Unknown
from pgkeep.stores.folders import make_folders, sync_folder, translated
from pgkeep.stores.locking import hold_lock

_TEMPORARY = "tmp"
_LOCK = "lock"


class LocalStore:
    """See `pgkeep.stores.base.Store` for the contract.

    A file is written to `tmp/`, synced, renamed to its name, and its folder is synced, so a
    crash or a full disk leaves the old state or the new one. Who takes the lock of the whole clears
    `tmp/` of what is not in work: each file there is locked by whoever writes it, since capture
    writes without the lock. The kernel frees both when the process ends, however it ends.
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
            make_folders(temporary.parent)
            make_folders(path.parent)
            with _in_work(temporary) as handle:
                _write_durably(handle, data)
                temporary.rename(path)
            sync_folder(path.parent)
        except OSError as exc:
            error = translated(exc, f"cannot write {name!r} to {self.url}")
            # Something stands in the way, or the folder was taken away: not a missing object.
            raise (
                StoreError(error.message) if isinstance(error, ObjectMissing) else error
            ) from exc

    def get(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except OSError as exc:
            raise translated(exc, f"cannot read {name!r} from {self.url}") from exc

    def size(self, name: str) -> int:
        path = self._path(name)
        try:
            status = path.stat()
        except OSError as exc:
            raise translated(exc, f"cannot look at {name!r} in {self.url}") from exc
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
            raise translated(exc, f"cannot list {prefix!r} in {self.url}") from exc
        yield from sorted(found, key=lambda file: file.name)

    def folders(self, prefix: str) -> Iterator[str]:
        top = self._path(prefix.rstrip("/")) if prefix else self._root
        try:
            if not top.is_dir():
                return
            names = [path.name for path in top.iterdir() if path.is_dir() and _holds_files(path)]
        except OSError as exc:
            raise translated(exc, f"cannot list {prefix!r} in {self.url}") from exc
        yield from sorted(name for name in names if prefix or name != _TEMPORARY)

    def delete(self, name: str) -> None:
        try:
            self._path(name).unlink(missing_ok=True)
        except (NotADirectoryError, IsADirectoryError):
            return  # no file has this name
        except OSError as exc:
            raise translated(exc, f"cannot delete {name!r} in {self.url}") from exc

    def locked_until(self, name: str) -> datetime | None:
        self.size(name)
        return None

    @contextmanager
    def exclusive(self, purpose: str) -> Iterator[None]:
        with hold_lock(self._root / _LOCK, url=self.url, purpose=purpose):
            self._clear_temporary()
            yield

    def facts(self) -> StoreFacts:
        try:
            room = os.statvfs(self._root)
            mode = stat.S_IMODE(self._root.stat().st_mode)
        except OSError as exc:
            why = Unknown((exc.strerror or str(exc)).lower())
            return StoreFacts(free_bytes=why, mode=why)
        return StoreFacts(free_bytes=room.f_bavail * room.f_frsize, mode=mode)

    def _clear_temporary(self) -> None:
        """Remove what killed writers left."""
        try:
            leftovers = list((self._root / _TEMPORARY).iterdir())
        except FileNotFoundError:
            return
        except OSError as exc:
            raise StoreError(f"cannot clear {_TEMPORARY}/ in {self.url}: {exc.strerror}") from exc
        for leftover in leftovers:
            with suppress(OSError):
                _remove_unless_in_work(leftover)

    def _path(self, name: str) -> Path:
        segments = name.split("/")
        unfit = any(segment in ("", ".", "..") for segment in segments) or "\0" in name
        if unfit or segments[0] in (_TEMPORARY, _LOCK):
            raise StoreError(f"{name!r} is not a name that a store can hold")
        return self._root / name


@contextmanager
def _in_work(path: Path) -> Iterator[int]:
    """A new file, locked; removed if it does not get its name."""
    handle = _new_locked(path)
    try:
        yield handle
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(handle)


def _new_locked(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:  # else it was cleared away before it was locked
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _remove_unless_in_work(path: Path) -> None:
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(handle)


def _write_durably(handle: int, data: Bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
    os.fsync(handle)


def _holds_files(folder: Path) -> bool:
    return any(files for _, _, files in os.walk(folder, onerror=_raise))


def _raise(error: OSError) -> None:
    raise error
