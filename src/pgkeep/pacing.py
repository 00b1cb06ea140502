"""A limit to how many bytes pass in a second, over all threads together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """A line of time in which every byte has its place, one after the other.

    First come, first served. Time in which nothing passed is not made up for. `None` is no limit.
    `sleep` may end early, when the work is given up.
    """

    def __init__(
        self,
        bytes_per_second: int | None,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = bytes_per_second
        self._sleep = sleep
        self._clock = clock
        self._free_at = clock()
        self._mutex = threading.Lock()

    @property
    def is_limited(self) -> bool:
        return self._rate is not None

    def block_bytes(self, most: int) -> int:
        """How much to pass at once, so that it passes evenly: an eighth of a second's worth."""
        return most if self._rate is None else max(min(self._rate // 8, most), 1)

    def wait_before(self, size_bytes: int) -> None:
        """Wait until so many bytes may begin to pass."""
        self._wait(size_bytes, ended=False)

    def wait_after(self, size_bytes: int) -> None:
        """Wait until so many bytes, which have passed already, were allowed to."""
        self._wait(size_bytes, ended=True)

    def _wait(self, size_bytes: int, *, ended: bool) -> None:
        if self._rate is None:
            return
        with self._mutex:
            now = self._clock()
            begin = max(now, self._free_at)
            self._free_at = begin + size_bytes / self._rate
            seconds = (self._free_at if ended else begin) - now
        self._sleep(seconds)
