"""Stores around stores: patience for those that fail for a moment, and a limit to their speed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from pgkeep.errors import StoreAccessDenied, StoreError, StoreUnavailable
from pgkeep.pacing import Pace
from pgkeep.stores.base import Bytes, Store, StoredFile
from pgkeep.stores.facts import StoreFacts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again, and when no more."""

    attempts: int = 6
    total_seconds: float = 300
    """No attempt begins later than this after the first; each takes as long as it takes."""
    first_pause_seconds: float = 0.5
    """The longest first pause; each further one may be twice as long."""
    longest_pause_seconds: float = 20

    def pause_seconds(self, failures: int, share: float) -> float:
        """The pause after so many failures: a random `share` (0 to 1) of the longest possible.

        All of it is random, so that many threads that failed together do not come back together.
        """
        longest = self.first_pause_seconds * float(2 ** min(failures - 1, 30))
        return share * min(longest, self.longest_pause_seconds)


class StoreAround:
    """A store that is another one in everything that a subclass does not do itself."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    @property
    def url(self) -> str:
        return self._inner.url

    @property
    def is_near(self) -> bool:
        return self._inner.is_near

    def put(self, name: str, data: Bytes) -> None:
        self._inner.put(name, data)

    def get(self, name: str) -> bytes:
        return self._inner.get(name)

    def size(self, name: str) -> int:
        return self._inner.size(name)

    def list(self, prefix: str) -> Iterator[StoredFile]:
        return self._inner.list(prefix)

    def folders(self, prefix: str) -> Iterator[str]:
        return self._inner.folders(prefix)

    def delete(self, name: str) -> None:
        self._inner.delete(name)

    def locked_until(self, name: str) -> datetime | None:
        return self._inner.locked_until(name)

    def exclusive(self, purpose: str) -> AbstractContextManager[None]:
        return self._inner.exclusive(purpose)

    def facts(self) -> StoreFacts:
        return self._inner.facts()


class RetryingStore(StoreAround):
    """Tries again what ended in `StoreUnavailable`, and nothing else, until the policy says stop.

    Every call may be repeated: a file's bytes are the same each time, and the last put wins. A
    listing is read whole before any of it is given out, so that no name comes twice.
    """

    def __init__(
        self,
        inner: Store,
        policy: RetryPolicy | None = None,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        share: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(inner)
        self._policy = policy or RetryPolicy()
        self._sleep = sleep
        self._clock = clock
        self._share = share

    def put(self, name: str, data: Bytes) -> None:
        self._patiently(lambda: self._inner.put(name, data))

    def get(self, name: str) -> bytes:
        return self._patiently(lambda: self._inner.get(name))

    def size(self, name: str) -> int:
        return self._patiently(lambda: self._inner.size(name))

    def list(self, prefix: str) -> Iterator[StoredFile]:
        yield from self._patiently(lambda: tuple(self._inner.list(prefix)))

    def folders(self, prefix: str) -> Iterator[str]:
        yield from self._patiently(lambda: tuple(self._inner.folders(prefix)))

    def delete(self, name: str) -> None:
        self._patiently(lambda: self._inner.delete(name))

    def locked_until(self, name: str) -> datetime | None:
        return self._patiently(lambda: self._inner.locked_until(name))

    def facts(self) -> StoreFacts:
        return self._patiently(self._inner.facts)

    def _patiently(self, call: Callable[[], T]) -> T:
        began = self._clock()
        failures = 0
        while True:
            try:
                return call()
            except StoreUnavailable as exc:
                failures += 1
                pause = self._policy.pause_seconds(failures, self._share())
                passed = self._clock() - began
                if failures >= self._policy.attempts or (
                    passed + pause > self._policy.total_seconds
                ):
                    raise _given_up(exc, failures, passed) from exc
                self._sleep(pause)


def _given_up(error: StoreUnavailable, attempts: int, seconds: float) -> StoreUnavailable:
    if attempts == 1:
        return error
    return StoreUnavailable(
        f"{error.message} (tried {attempts} times in {seconds:.0f} s)", hint=error.hint
    )


class AddingStore(StoreAround):
    """Where nothing may be written over, to write the same bytes once more is done already.

    That happens when the answer to a put was lost, or when work that broke off begins again.
    """

    def put(self, name: str, data: Bytes) -> None:
        try:
            self._inner.put(name, data)
        except StoreAccessDenied:
            if not self._has(name, data):
                raise

    def _has(self, name: str, data: Bytes) -> bool:
        with suppress(StoreError):
            if self._inner.size(name) == memoryview(data).nbytes:
                return self._inner.get(name) == data
        return False


class ThrottledStore(StoreAround):
    """Puts and gets no more bytes per second than allowed, over all threads together.

    Whole files take their turns, first come first served: a put waits before it sends, a get after
    it has received. So the limit holds over several files, while each single one travels as fast
    as it can: for stores that cannot pause within a file. `None` is no limit.
    """

    def __init__(
        self, inner: Store, *, upload: Pace | None = None, download: Pace | None = None
    ) -> None:
        super().__init__(inner)
        self._up = upload or Pace(None)
        self._down = download or Pace(None)

    def put(self, name: str, data: Bytes) -> None:
        self._up.wait_before(memoryview(data).nbytes)
        self._inner.put(name, data)

    def get(self, name: str) -> bytes:
        data = self._inner.get(name)
        self._down.wait_after(len(data))
        return data
