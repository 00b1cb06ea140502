"""A place for bytes. Every store keeps this contract; `tests/contract` holds each to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from pgkeep.errors import StoreError
from pgkeep.stores.facts import StoreFacts

Bytes = bytes | bytearray | memoryview

_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A name in a store and the size of what stands there."""

    name: str
    size_bytes: int
    stored: datetime | None = field(default=None, compare=False)
    """When, by the store's clock; only where the store may lock files."""


class Store(Protocol):
    """Names to bytes. Names are relative, of `[A-Za-z0-9_./-]`, without empty or dot segments.

    All methods may be called from several threads at once. Errors are `StoreError`s:
    `ObjectMissing`, `StoreFull`, `StoreAccessDenied`, `StoreUnavailable` (may work a moment later),
    or `StoreError` for everything else. Nothing is retried here; a wrapper does that, for which
    every method may be called again after any error.
    """

    @property
    def url(self) -> str:
        """Where this is, without any secret."""

    @property
    def is_near(self) -> bool:
        """Whether it is on this machine: cheaper to read from than any other."""

    def put(self, name: str, data: Bytes) -> None:
        """Keep `data` under `name`, durably, or raise. Never visible in part under its name.

        May be called again with the same name; the last call wins. An object's name
        (`objects/<xx>/<sha256>`) is believed: a store may refuse other bytes under it.
        """

    def get(self, name: str) -> bytes:
        """All bytes under `name`; `ObjectMissing` if there are none."""

    def size(self, name: str) -> int:
        """The size of what stands under `name`; `ObjectMissing` if nothing does."""

    def list(self, prefix: str) -> Iterator[StoredFile]:
        """All files whose names begin with `prefix` (empty or ending in `/`), in name order."""

    def folders(self, prefix: str) -> Iterator[str]:
        """The names directly below `prefix` that have something below them, in order."""

    def delete(self, name: str) -> None:
        """Remove what stands under `name`. It is no error if nothing does."""

    def locked_until(self, name: str) -> datetime | None:
        """Until when nobody can remove what stands under `name`; `None` if it is not locked.

        `StoreAccessDenied` if that may not be asked.
        """

    def exclusive(self, purpose: str) -> AbstractContextManager[None]:
        """Be the only writer; `RepositoryLocked` at once if another is. Ends with the process.

        Where the place is remote: the only one on this host.
        """

    def facts(self) -> StoreFacts:
        """What protects or threatens the files here. What cannot be learned is no error."""


def checked_name(name: str) -> str:
    """The name, if it is one that every store can hold; `StoreError` otherwise."""
    if not _NAME.fullmatch(name) or {".", ".."}.intersection(name.split("/")):
        raise StoreError(f"{name!r} is not a name that a store can hold")
    return name


def checked_prefix(prefix: str) -> str:
    """The prefix, if it is empty or a name with `/` at its end; `StoreError` otherwise."""
    if prefix:
        checked_name(prefix.removesuffix("/"))
    return prefix
