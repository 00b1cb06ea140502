"""Capture of each database in a child, begun again with growing pauses when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pgkeep.errors import PgkeepError
from pgkeep.keeper.children import Child, Finished, Start

_FIRST_PAUSE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 3600.0
_WORKS_SECONDS = 300.0
_END_SECONDS = 20.0
# What needs a person: the pause is the longest at once. Platforms ban who tries a password often.
_FINAL = frozenset({"E002", "E011", "E014", "E070"})


@dataclass(slots=True)
class _Follower:
    child: Child | None = None
    again: float = 0
    pause: float = _FIRST_PAUSE_SECONDS
    problem: str = ""


class Captures:
    """The captures of one keeper. Not for several threads."""

    def __init__(
        self,
        databases: tuple[str, ...],
        start: Start,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._monotonic = monotonic
        self._followers = {name: _Follower() for name in databases}

    @property
    def problems(self) -> dict[str, str]:
        """Databases whose changes are not captured just now, and why."""
        return {name: one.problem for name, one in self._followers.items() if one.problem}

    @property
    def running(self) -> frozenset[str]:
        return frozenset(name for name, one in self._followers.items() if one.child)

    def step(self) -> None:
        """Begin those that should run; note those that ended."""
        now = self._monotonic()
        for name, one in self._followers.items():
            if one.child is not None:
                self._look(one, one.child, now)
            if one.child is None and now >= one.again:
                self._begin(name, one, now)

    def stop(self) -> None:
        """End all; what is not stored stays in the slot."""
        children = [one.child for one in self._followers.values() if one.child]
        for child in children:
            child.ask_to_end()
        for child in children:
            child.end(_END_SECONDS)

    def _begin(self, name: str, one: _Follower, now: float) -> None:
        try:
            one.child = self._start(f"capture-{name}", ("capture", name, "--yes", "--quiet"))
        except PgkeepError as exc:
            one.problem, one.again = str(exc), now + one.pause
        else:
            one.child.began = now

    def _look(self, one: _Follower, child: Child, now: float) -> None:
        finished = child.poll()
        if finished is None:
            if now - child.began > _WORKS_SECONDS:
                one.pause, one.problem = _FIRST_PAUSE_SECONDS, ""
            return
        one.child = None
        one.problem = finished.error or f"it ended with exit code {finished.exit_code}"
        one.pause = self._next_pause(one.pause, finished)
        one.again = now + one.pause

    def _next_pause(self, pause: float, finished: Finished) -> float:
        if finished.exit_code == 2 or finished.code in _FINAL:
            return _LONGEST_PAUSE_SECONDS
        return min(pause * 2, _LONGEST_PAUSE_SECONDS)
