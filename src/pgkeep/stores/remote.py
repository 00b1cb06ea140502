"""What the object stores share: where they are, how they are set up, and one client per process."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Generic, Literal, TypeVar
from urllib.parse import urlsplit

from pgkeep.errors import ConfigurationError, StoreError
from pgkeep.pacing import Pace
from pgkeep.stores.base import Bytes, StoredFile, checked_name, checked_prefix
from pgkeep.stores.locking import hold_lock, lock_name

CONNECT_SECONDS = 20.0
"""To reach a server takes moments or fails; also how long one block of an upload may be stuck."""

BLOCK_BYTES = 256 << 10
"""What is sent or received at once."""

_CONNECTIONS = 64

_KEYS_HINT = "Keys, endpoint and region are settings of their own: see docs/storage.md."
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,220}[A-Za-z0-9]")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """How to reach a store. Secrets are their values here, or `None`: the SDK's usual chain."""

    endpoint: str | None = None
    """The server's URL, where it is not the provider's own."""
    region: str | None = None
    addressing: Literal["path", "virtual"] | None = None
    """Where the bucket stands in a URL of S3. Not set: in the path for an `endpoint`."""
    profile: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    credentials_file: Path | None = None
    """A service account's key, for Google Cloud Storage."""
    timeout_seconds: float = 60
    """How long a server may be silent."""
    attempts: int = 6
    """How often a call is tried while the store is unavailable."""
    upload_limit: int | None = None
    """Bytes per second."""
    download_limit: int | None = None
    lock_folder: Path | None = None
    """Where the lock files of remote repositories are. Needed for `exclusive` alone."""
    connections: int = _CONNECTIONS
    """Connections that are kept for use again; as many as threads may call at once."""


@dataclass(frozen=True, slots=True)
class Place:
    """A part of a bucket."""

    scheme: str
    bucket: str
    prefix: str
    """Empty, or ending in `/`."""

    @property
    def url(self) -> str:
        """Where this is, as it is configured."""
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, name: str) -> str:
        """The whole key of a file."""
        return self.prefix + checked_name(name)

    def keys(self, prefix: str) -> str:
        """What the whole keys below a prefix begin with."""
        return self.prefix + checked_prefix(prefix)

    def files(self, found: Iterable[tuple[str, int, datetime | None]]) -> list[StoredFile]:
        """The files of whole keys with sizes and times, in name order, each once.

        Not every server lists in order. A key that ends in `/` is a console's mark for a folder.
        """
        start = len(self.prefix)
        files = [
            StoredFile(key[start:], size, stored)
            for key, size, stored in found
            if not key.endswith("/")
        ]
        by_name = attrgetter("name")
        files.sort(key=by_name)
        return [next(same) for _, same in groupby(files, by_name)]


def parse_place(url: str) -> Place:
    """The bucket and prefix that `scheme://bucket/prefix` names; `ConfigurationError` otherwise."""
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise ConfigurationError("the URL of a repository cannot be read", hint=f"{exc}.") from exc
    if "@" in parts.netloc:  # the URL is not shown: it may hold a password
        raise _refused(parts.scheme, "the URL of a repository holds a name or password", _KEYS_HINT)
    if parts.query or parts.fragment or "?" in url:
        raise _refused(
            parts.scheme, f"{url.partition('?')[0]!r} is followed by a query", _KEYS_HINT
        )
    if not parts.netloc:
        raise _refused(parts.scheme, f"{url!r} names no bucket")
    if not _BUCKET.fullmatch(parts.netloc):
        raise _refused(parts.scheme, f"{parts.netloc!r} is not the name of a bucket")
    prefix = parts.path.strip("/")
    try:
        checked_prefix(f"{prefix}/" if prefix else "")
    except StoreError as exc:
        raise _refused(
            parts.scheme,
            f"{prefix!r} cannot be a repository's folder in a bucket",
            "Use letters, digits, '.', '_', '-', and '/' between folders.",
        ) from exc
    return Place(parts.scheme, parts.netloc, f"{prefix}/" if prefix else "")


def check_endpoint(endpoint: str | None) -> None:
    """A server's URL holds no login and no query; `ConfigurationError` otherwise."""
    if endpoint is not None and not _is_server(endpoint):  # not shown: it may hold a password
        raise ConfigurationError(
            "the endpoint is not the URL of a server", hint="Use https://host or https://host/path."
        )


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain


def _refused(scheme: str, what: str, hint: str = "") -> ConfigurationError:
    return ConfigurationError(what, hint=hint or f"Use {scheme}://bucket/folder.")


class RemoteStore:
    """What a store in a bucket is, whoever keeps the bucket."""

    def __init__(self, place: Place, settings: StoreSettings) -> None:
        self._place = place
        self._settings = settings
        self._bucket_seen = threading.Event()
        self._upload = Pace(settings.upload_limit)
        self._download = Pace(settings.download_limit)

    @property
    def url(self) -> str:
        return self._place.url

    @property
    def is_near(self) -> bool:
        return False

    def exclusive(self, purpose: str) -> AbstractContextManager[None]:
        folder = self._settings.lock_folder
        if folder is None:
            raise StoreError(f"cannot lock {self.url}: no folder for its lock file was named")
        path = folder / lock_name(f"{self._settings.endpoint or ''} {self.url}")
        return hold_lock(path, url=self.url, purpose=purpose)


class PacedBody:
    """What an upload sends, in blocks, as evenly as a limit asks.

    A block is larger than HTTP libraries ask for (16 KiB), which costs less, and small enough for
    the time that is meant for connecting, in which one block has to be sent. Before
    `begin_sending`, whoever wants to hash the bytes gets as many as are asked for, at once.
    """

    def __init__(self, data: Bytes, pace: Pace, sha256: str | None = None) -> None:
        self.sha256 = sha256
        """The hash of all of it in hexadecimal digits, if that is known."""
        self._data = memoryview(data)
        self._pace = pace
        self._at = 0
        self._sending = False

    def begin_sending(self) -> None:
        """What is read from now on goes out."""
        self._sending = True

    def read(self, size: int | None = None) -> memoryview:
        """The next bytes; when they are sent, a block of them, however many were asked for."""
        if self._sending:
            size = self._pace.block_bytes(BLOCK_BYTES)
        begin, self._at = self._at, len(self._data) if size is None else self._at + size
        block = self._data[begin : self._at]
        self._at = begin + len(block)
        if self._sending:
            self._pace.wait_before(len(block))
        return block

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Read from there, which is counted from the beginning or the end."""
        self._at = offset + (len(self._data) if whence == os.SEEK_END else 0)
        return self._at

    def tell(self) -> int:
        return self._at


class PerProcess(Generic[T]):
    """Something that is made when first asked for, once in each process, from any thread.

    A connection must not be shared with a process that was forked.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._mutex = threading.Lock()
        self._made: tuple[int, T] | None = None

    def __call__(self) -> T:
        made = self._made
        if made is not None and made[0] == os.getpid():
            return made[1]
        with self._mutex:
            if self._made is None or self._made[0] != os.getpid():
                self._made = (os.getpid(), self._make())
            return self._made[1]
