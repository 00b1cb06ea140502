"""Running what is due, as children, and remembering how it went."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from pgkeep.errors import PgkeepError
from pgkeep.keeper.children import Child, Finished, Start
from pgkeep.keeper.facts import DatabaseFacts
from pgkeep.keeper.schedule import Due, Job, Past, Task, choose_due
from pgkeep.keeper.state import KeeperState, Run
from pgkeep.model import is_ahead

_LOCKED = "E065"
_PROOF_FAILED = "E043"
# What another try cannot mend, or makes worse: a wrong password, a pooler, a key or a second
# factor that is missing.
_FINAL = frozenset({"E011", "E014", "E021", "E050", "E051", "E090"})
_BEFORE_ALL = timedelta(days=36500)
_INSIST_SECONDS = 60


def known_past(job: Job, past: Past, facts: DatabaseFacts | None, now: datetime) -> Past:
    """What is known of a job, with what the repositories tell: a backup made by hand counts too.

    What seems to come from the future was made under a wrong clock, and proves nothing.
    """
    if facts is None:
        return past
    if (made := job.task.makes) is not None:
        found = [one.started for one in facts.backups if (one.kind, one.tier) == made]
    elif job.task is Task.DRILL:
        found = [one.started for one in facts.drills if one.has_passed]
    else:
        return past
    known = (one for one in (*found, past.succeeded) if one is not None)
    times = [one for one in known if not is_ahead(one, now)]
    return replace(past, succeeded=max(times, default=None))


def after(past: Past, began: datetime, ended: datetime, finished: Finished) -> Past:
    """What is known of a job after another run."""
    if _has_done_its_work(finished):
        return Past(succeeded=began, attempted=ended)
    if finished.code == _LOCKED:  # somebody else writes: not this job's fault
        return replace(past, attempted=ended, is_final=False)
    return Past(
        past.succeeded,
        ended,
        past.failures + 1,
        is_final=finished.exit_code == 2 or finished.code in _FINAL,
    )


def _has_done_its_work(finished: Finished) -> bool:
    """Also if what it found is bad: a failed proof, or damage, is found once and told."""
    if finished.exit_code in (0, 3):
        return True
    if finished.exit_code != 1:
        return False
    return finished.code == _PROOF_FAILED or (not finished.code and finished.answer is not None)


class Listener(Protocol):
    """Who is told how jobs go."""

    def began(self, job: Job) -> None:
        """A job has begun."""

    def ended(self, job: Job, run: Run) -> None:
        """A job has ended."""

    def remind(self, job: Job) -> None:
        """Something is due that only a person can do."""


@dataclass(slots=True)
class _Running:
    due: Due
    child: Child
    began: datetime
    asked: float | None = None


class Jobs:
    """The jobs of one keeper. Not for several threads."""

    def __init__(
        self, jobs: tuple[Job, ...], start: Start, listener: Listener, *, limit: timedelta
    ) -> None:
        self.jobs = jobs
        self._start = start
        self._listener = listener
        self._limit_seconds = limit.total_seconds()
        self._running: dict[str, _Running] = {}

    @property
    def running(self) -> frozenset[str]:
        return frozenset(self._running)

    def pasts(
        self, state: KeeperState, facts: Mapping[str, DatabaseFacts], now: datetime
    ) -> dict[str, Past]:
        """What is known of each job now."""
        return {
            job.name: known_past(
                job, state.pasts.get(job.name, Past()), facts.get(job.database), now
            )
            for job in self.jobs
        }

    def begin_due(
        self, state: KeeperState, facts: Mapping[str, DatabaseFacts], now: datetime
    ) -> KeeperState:
        """Begin what is due and may begin."""
        pasts = self.pasts(state, facts, now)
        bare = tuple(job for job in self.jobs if self._is_first(job, pasts, facts))
        for jobs, since in ((bare, now - _BEFORE_ALL), (self.jobs, state.since)):
            for due in choose_due(jobs, pasts, self.running, since=since, now=now):
                if not due.job.arguments:
                    self._listener.remind(due.job)
                    state = state.with_past(due.job.name, Past(succeeded=now, attempted=now))
                elif not self._shares_a_lane(due.job):
                    state = self._begin(due, state, now)
        return state

    def _begin(self, due: Due, state: KeeperState, now: datetime) -> KeeperState:
        name = due.job.name
        try:
            child = self._start(name, due.job.arguments)
        except PgkeepError as exc:
            return self._note(state, due.job, now, now, Finished(1, str(exc), exc.code, None))
        self._running[name] = _Running(due, child, now)
        self._listener.began(due.job)
        return state

    def _note(
        self, state: KeeperState, job: Job, began: datetime, ended: datetime, finished: Finished
    ) -> KeeperState:
        run = Run(began, ended, finished.exit_code, finished.error)
        past = after(state.pasts.get(job.name, Past()), began, ended, finished)
        self._listener.ended(job, run)
        return state.with_past(job.name, past).with_run(job.name, run)

    def end_finished(self, state: KeeperState, now: datetime) -> KeeperState:
        """Take note of those that have ended; end those that take too long."""
        for name, running in list(self._running.items()):
            finished = running.child.poll()
            if finished is None:
                self._limit(running)
                continue
            del self._running[name]
            if running.asked is not None:
                limit = f"it took longer than {self._limit_seconds / 3600:g} h"
                finished = replace(finished, exit_code=finished.exit_code or 1, error=limit)
            state = self._note(state, running.due.job, running.began, now, finished)
        return state

    def stop(self, seconds: float) -> None:
        """Wait for what runs, then end it. What was ended counts as if it had not begun."""
        deadline = time.monotonic() + seconds
        for running in self._running.values():
            if running.child.wait(max(deadline - time.monotonic(), 0)) is None:
                running.child.ask_to_end()
        for running in self._running.values():
            running.child.end(_INSIST_SECONDS)

    def _is_first(
        self, job: Job, pasts: Mapping[str, Past], facts: Mapping[str, DatabaseFacts]
    ) -> bool:
        """Whether it makes the first backup of a database: for that one does not wait."""
        found = facts.get(job.database)
        return (
            job.task is Task.FULL
            and found is not None
            and not found.full_backups
            and pasts[job.name].succeeded is None
        )

    def _shares_a_lane(self, job: Job) -> bool:
        return any(one.due.job.task.lane is job.task.lane for one in self._running.values())

    def _limit(self, running: _Running) -> None:
        now = time.monotonic()
        if running.asked is None and now - running.child.began > self._limit_seconds:
            running.asked = now
            running.child.ask_to_end()
        elif running.asked is not None and now - running.asked > _INSIST_SECONDS:
            running.child.kill()
