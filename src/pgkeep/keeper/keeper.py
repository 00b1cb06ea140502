"""The keeper: one loop that begins what is due, watches, and has people told.

All waiting is done elsewhere: commands run as children, a thread looks, another tells. So a store
that hangs, or a mail server that is down, stops nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pgkeep.config import Config
from pgkeep.errors import PgkeepError
from pgkeep.events import Noticed, Reporter, StageBegan, StageEnded
from pgkeep.keeper.captures import Captures
from pgkeep.keeper.children import Child, Start, Surroundings
from pgkeep.keeper.jobs import Jobs
from pgkeep.keeper.look import Looker, Seen
from pgkeep.keeper.metrics import Snapshot
from pgkeep.keeper.notify import bounded, channels, messages_for, ping, settled, tell, waiting
from pgkeep.keeper.schedule import REMINDERS, Job, Past, plan_jobs
from pgkeep.keeper.state import KeeperState, Message, Run, StateFile
from pgkeep.keeper.watch import (
    Alert,
    Changes,
    JobFact,
    Severity,
    Watched,
    compare,
    find_alerts,
)

_TICK_SECONDS = 0.5
_TOLD_AT_THE_END_SECONDS = 10
_PINGS_WAITING = 100


@dataclass(frozen=True, slots=True)
class Request:
    """What a keeper is to do."""

    config: Config
    around: Surroundings
    now: Callable[[], datetime]
    capture: bool = True
    tick_seconds: float = _TICK_SECONDS


class Keeper:
    """Runs until it is asked to stop."""

    def __init__(self, request: Request, reporter: Reporter) -> None:
        config = request.config
        self._request = request
        self._reporter = reporter
        self._file = StateFile(config.state_dir)
        self._state = self._file.load(request.now())
        self._saved: KeeperState | None = None
        self._last = request.now()
        self._defect = ""
        start: Start = self._start
        self._telling = _Telling(config, reporter, request.now)
        self._jobs = Jobs(
            plan_jobs(config), start, self, limit=timedelta(hours=config.keeper.job_hours)
        )
        self._captured = frozenset(name for name in config.databases if config.captures(name))
        self._captures = Captures(tuple(sorted(self._captured)) if request.capture else (), start)
        self._watching = _Watching(Looker(config, start), config.keeper.watch_seconds)

    # --- the loop -----------------------------------------------------------------------------

    def run(self, stop: threading.Event, insist: threading.Event) -> None:
        """Until `stop` is set. `insist` ends also what would be waited for."""
        self._save()  # first of all: what cannot be remembered must not begin
        try:
            while not stop.is_set():
                self._step_whatever_happens()
                stop.wait(self._request.tick_seconds)
        finally:
            self._end(insist)

    def _step_whatever_happens(self) -> None:
        """A defect in one part must not end captures and backups: it is told, once."""
        try:
            self._step()
        except Exception as exc:
            text = f"unexpected {type(exc).__name__}: {exc}"
            if text != self._defect:
                self._reporter.report(Noticed(text, "This is a defect of pgkeep: report it."))
            self._defect = text

    def _step(self) -> None:
        now = self._now()
        self._state = self._jobs.end_finished(self._state, now)
        self._captures.step()
        if (seen := self._watching.step(now)) is not None:
            self._judge(seen, now)
        if self._watching.looked is not None:
            facts = self._watching.seen.databases
            self._state = self._jobs.begin_due(self._state, facts, now)
        self._state = self._telling.step(self._state, now)
        self._save()

    def _end(self, insist: threading.Event) -> None:
        running = ", ".join(sorted(self._jobs.running))
        if running:
            self._reporter.report(Noticed(f"waiting for {running} before ending"))
        self._captures.stop()
        deadline = time.monotonic() + self._request.config.keeper.stop_seconds
        while self._jobs.running and not insist.is_set() and time.monotonic() < deadline:
            self._state = self._jobs.end_finished(self._state, self._now())
            insist.wait(self._request.tick_seconds)
        self._jobs.stop(0)
        self._watching.close()
        self._state = self._telling.finish(self._state, self._request.now)
        self._save()

    def _now(self) -> datetime:
        """The time. A clock that went back is noted, lest moments in the future block anything."""
        now = self._request.now()
        if now < self._last:
            self._state = replace(self._state, seen=self._last).not_after(now)
        self._last = now
        return now

    def _save(self) -> None:
        if self._state == self._saved:
            return
        try:
            self._file.save(self._state, self._last)
        except PgkeepError as exc:
            if self._saved is None:
                raise
            self._reporter.report(Noticed(exc.message, exc.hint))
        self._saved = self._state

    def _start(self, name: str, arguments: tuple[str, ...]) -> Child:
        return Child(name, arguments, self._request.around)

    # --- watching -----------------------------------------------------------------------------

    def _judge(self, seen: Seen, now: datetime) -> None:
        changes = compare(
            self._state.alerts, find_alerts(self._watched(seen, now)), frozenset(seen.blind)
        )
        for alert in changes.begun:
            self._reporter.report(Noticed(f"{alert.severity}: {alert.what}", alert.remedy))
        for alert in changes.over:
            self._reporter.report(StageEnded("over", alert.what))
        self._state = replace(self._state, alerts=changes.open)
        self._state = self._telling.add(self._state, changes, now)

    def _watched(self, seen: Seen, now: datetime) -> Watched:
        config, state = self._request.config, self._state
        pasts = self._jobs.pasts(state, seen.databases, now)
        return Watched(
            now=now,
            since=state.since,
            settings=config.watch,
            databases=tuple(seen.databases.values()),
            objectives={name: one.objectives for name, one in config.databases.items()},
            kinds={name: one.kinds for name, one in config.repositories.items()},
            captured=self._captured,
            capture_problems=self._captures.problems,
            jobs=tuple(_job_fact(job, pasts[job.name], state) for job in self._jobs.jobs),
            disks=seen.disks,
            expiries={**seen.expiries, **config.watch.expires},
            blind=seen.blind,
        )

    def snapshot(self) -> Snapshot:
        """What is known now, for metrics. May be called from any thread."""
        config, state, now = self._request.config, self._state, self._request.now()
        seen = self._watching.seen
        return Snapshot(
            now=now,
            state=state,
            seen=seen,
            looked=self._watching.looked,
            jobs=self._jobs.jobs,
            pasts=self._jobs.pasts(state, seen.databases, now),
            running=self._jobs.running,
            capturing=self._captures.running - self._captures.problems.keys(),
            captured=self._captured,
            objectives={name: one.objectives for name, one in config.databases.items()},
            repositories=tuple(config.repositories),
        )

    # --- what jobs tell (`jobs.Listener`) -------------------------------------------------------

    def began(self, job: Job) -> None:
        """A job has begun."""
        self._reporter.report(StageBegan(job.name))
        self._telling.ping(job.name, "start")

    def ended(self, job: Job, run: Run) -> None:
        """A job has ended: look at once what came of it."""
        took = f"{(run.ended - run.began).total_seconds():.0f} s"
        if run.is_good:
            self._reporter.report(StageEnded(job.name, f"done in {took}"))
        else:
            why = run.error or f"exit code {run.exit_code}"
            self._reporter.report(Noticed(f"{job.name} failed after {took}: {why}"))
        self._telling.ping(job.name, "" if run.is_good else "fail")
        self._watching.look_soon()

    def remind(self, job: Job) -> None:
        """Something is due that only a person can do."""
        now = self._request.now()
        text = REMINDERS[job.task]
        alert = Alert(f"reminder/{job.name}", Severity.WARNING, "", text, "pgkeep status", now)
        self._reporter.report(Noticed(text))
        self._telling.ping(job.name, "")
        self._telling.remind(alert)


def _job_fact(job: Job, past: Past, state: KeeperState) -> JobFact:
    run = state.runs.get(job.name)
    return JobFact(job, past, run.exit_code if run else None, run.error if run else "")


class _Watching:
    """A look now and then, in a thread of its own."""

    def __init__(self, looker: Looker, every_seconds: float) -> None:
        self._looker = looker
        self._every = every_seconds
        self._executor = ThreadPoolExecutor(1, "pgkeep-look")
        self._future: Future[Seen] | None = None
        self._due = 0.0
        self.seen = Seen()
        self.looked: datetime | None = None

    def look_soon(self) -> None:
        self._due = 0.0

    def step(self, now: datetime) -> Seen | None:
        """What was found, once for each look."""
        if self._future is None:
            if time.monotonic() >= self._due:
                self._due = time.monotonic() + self._every
                self._future = self._executor.submit(self._looker.look)
            return None
        if not self._future.done():
            return None
        self.seen, self.looked, self._future = self._future.result(), now, None
        return self.seen

    def close(self) -> None:
        self._looker.close()
        self._executor.shutdown(wait=True, cancel_futures=True)


class _Telling:
    """Messages and pings, in threads of their own: whoever is slow there keeps nobody here."""

    def __init__(self, config: Config, reporter: Reporter, now: Callable[[], datetime]) -> None:
        self._settings = config.notify
        self._channels = channels(config.notify)
        self._reporter = reporter
        self._now = now
        self._executor = ThreadPoolExecutor(1, "pgkeep-tell")
        self._pinger = ThreadPoolExecutor(1, "pgkeep-ping")
        self._pings = 0
        self._under_way: tuple[Message, Future[tuple[Message | None, PgkeepError | None]]] | None
        self._under_way = None
        self._reminders: list[Alert] = []
        self._told = ""

    def add(self, state: KeeperState, changes: Changes, now: datetime) -> KeeperState:
        minimum = Severity(self._settings.minimum)
        made = messages_for(changes, self._channels, minimum, now)
        return replace(state, outbox=bounded((*state.outbox, *made))) if made else state

    def remind(self, alert: Alert) -> None:
        self._reminders.append(alert)

    def step(self, state: KeeperState, now: datetime) -> KeeperState:
        """Note what was delivered; hand over the next one."""
        if self._reminders:
            state = self.add(state, Changes(tuple(self._reminders), (), ()), now)
            self._reminders.clear()
        if self._under_way is not None:
            message, future = self._under_way
            if not future.done():
                return state
            self._under_way = None
            left, problem = future.result()
            self._report(problem)
            state = replace(state, outbox=settled(state.outbox, message, left))
        for message in waiting(state.outbox, now)[:1]:
            future = self._executor.submit(tell, message, self._channels, now)
            self._under_way = (message, future)
        return state

    def finish(self, state: KeeperState, now: Callable[[], datetime]) -> KeeperState:
        """Some last seconds for what waits; the rest stays in the outbox."""
        deadline = time.monotonic() + _TOLD_AT_THE_END_SECONDS
        state = self.step(state, now())
        while self._under_way is not None and time.monotonic() < deadline:
            time.sleep(0.05)
            state = self.step(state, now())
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._pinger.shutdown(wait=False)
        return state

    def ping(self, job: str, what: str) -> None:
        if self._settings.ping is not None and self._pings < _PINGS_WAITING:
            self._pings += 1
            self._pinger.submit(self._ping, job, what)

    def _ping(self, job: str, what: str) -> None:
        try:
            for pause in (1, 5, 0):
                try:
                    ping(self._settings, job, what)
                    return
                except PgkeepError as exc:
                    problem = exc
                    time.sleep(pause)
            self._report(problem)
        finally:
            self._pings -= 1

    def _report(self, problem: PgkeepError | None) -> None:
        """Once for each new problem."""
        text = problem.message if problem else ""
        if problem is not None and text != self._told:
            self._reporter.report(Noticed(f"{text}; trying again", problem.hint))
        self._told = text
