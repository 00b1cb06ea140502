"""What happens while a command works, as typed events, and who may listen.

Lower floors report; they never print. A `Reporter` must be safe to call from several threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 table, 3 tables."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class StageBegan:
    """A named step began. `total_bytes` and `total_rows` are estimates, 0 where unknown."""

    stage: str
    total_bytes: int = 0
    total_rows: int = 0


@dataclass(frozen=True, slots=True)
class Progressed:
    """A step came further by so many bytes and rows (differences, not totals)."""

    stage: str
    bytes: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class StageEnded:
    """A step is done; `summary` is a short human sentence or empty."""

    stage: str
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something a person should know; the work goes on."""

    message: str
    hint: str = ""


Event = StageBegan | Progressed | StageEnded | Noticed


class Reporter(Protocol):
    """Listens to events, from any thread."""

    def report(self, event: Event) -> None:
        """Take one event. Must not raise and must return quickly."""


class Silent:
    """A reporter for those who do not care."""

    def report(self, event: Event) -> None:
        """Drop the event."""
