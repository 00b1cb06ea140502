"""A place for bytes. Every store keeps this contract; `tests/contract` holds each to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A name in a store and the size of what stands there."""

    name: str
    size_bytes: int


class Store(Protocol):
    """Names to bytes. Names are relative, of `[A-Za-z0-9_./-]`, without empty or dot segments.

    All methods may be called from several threads at once. Errors are `StoreError`s:
    `ObjectMissing`, `StoreFull`, `StoreAccessDenied`, or `StoreError` for everything else.
    Nothing is retried here; a wrapper does that.
    """

    @property
    def url(self) -> str:
        """Where this is, without any secret."""

    @property
    def is_near(self) -> bool:
        """Whether it is on this machine: cheaper to read from than any other."""

    def put(self, name: str, data: Bytes) -> None:
        """Keep `data` under `name`, durably, or raise. Never visible in part under its name.

        May be called again with the same name; the last call wins.
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

    def exclusive(self, purpose: str) -> AbstractContextManager[None]:
        """Be the only writer; `RepositoryLocked` at once if another is. Ends with the process."""
