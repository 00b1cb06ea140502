"""How long each step of a restore takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pgkeep.events import Event, Reporter, StageBegan, StageEnded
from pgkeep.repository.evidence import Step


@dataclass(slots=True)
class Timed:
    """Passes events on, and notes how long each stage took."""

    reporter: Reporter
    clock: Callable[[], float] = time.monotonic
    since: Mapping[str, str] = field(default_factory=dict)
    """Stages that count from when another one began."""
    steps: list[Step] = field(default_factory=list)
    _begun: dict[str, float] = field(default_factory=dict)
    _first: dict[str, float] = field(default_factory=dict)

    def seconds(self, name: str) -> float | None:
        """How long a step took; None if it did not come to its end."""
        return next((step.seconds for step in self.steps if step.name == name), None)

    def report(self, event: Event) -> None:
        if isinstance(event, StageBegan):
            self._begun[event.stage] = now = self.clock()
            self._first.setdefault(event.stage, now)
        elif isinstance(event, StageEnded) and event.stage in self._begun:
            began = self._begun.pop(event.stage)
            began = self._first.get(self.since.get(event.stage, ""), began)
            seconds = self.clock() - began
            self.steps.append(Step(event.stage, round(seconds, 3)))
        self.reporter.report(event)
