"""When what is to be done. Pure: the time, and what has succeeded, are given.

A job is due when its latest time has passed and nothing has succeeded since. So what was missed
while the machine was off is caught up once, however often it was missed, and a clock that jumps
forward, or shows an hour twice, starts nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pgkeep.config import Config, DatabaseConfig, ScheduleConfig
from pgkeep.model import Kind, Tier

# How soon a job that failed is tried again: after the first failure, the second, and so on.
_RETRIES = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 60))


class Lane(StrEnum):
    """Jobs of one lane take turns; lanes go on side by side."""

    WRITE = "write"
    """Those that write to repositories: one writer at a time."""
    SCRATCH = "scratch"
    """Those that restore: they need a server, and the processors."""
    NONE = "none"
    """Those that run no command."""


class Task(StrEnum):
    """What a job does, by its setting in `[schedule]`."""

    FULL = "full"
    SCHEMA = "schema"
    DATA = "data"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    DRILL = "drill"
    RECOVERY_TEST = "recovery_test"
    VERIFY = "verify"
    SYNC = "sync"
    PRUNE = "prune"
    AUDIT = "audit"
    REVIEW = "review"

    @property
    def lane(self) -> Lane:
        if self is Task.REVIEW:
            return Lane.NONE
        return Lane.SCRATCH if self in (Task.DRILL, Task.RECOVERY_TEST) else Lane.WRITE

    @property
    def makes(self) -> tuple[Kind, Tier] | None:
        """The backup that it makes."""
        return _BACKUPS.get(self)


_BACKUPS = {
    Task.FULL: (Kind.FULL, Tier.DAILY),
    Task.SCHEMA: (Kind.SCHEMA, Tier.SCHEMA),
    Task.DATA: (Kind.DATA, Tier.DAILY),
    Task.WEEKLY: (Kind.FULL, Tier.WEEKLY),
    Task.MONTHLY: (Kind.FULL, Tier.MONTHLY),
}
_OF_A_DATABASE = (*_BACKUPS, Task.DRILL, Task.RECOVERY_TEST)
_OF_ALL = (Task.VERIFY, Task.SYNC, Task.PRUNE, Task.AUDIT, Task.REVIEW)

REMINDERS = {
    Task.REVIEW: "Review the strategy: what is backed up, how often, who can open it, who is told.",
}


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to do again and again."""

    task: Task
    database: str
    """Empty for what concerns all."""
    cron: str
    zone: str
    jitter: timedelta = timedelta(0)

    @property
    def name(self) -> str:
        """Such as `full-shop`: for states, units, metrics and pings."""
        return "-".join(filter(None, (self.task.value.replace("_", "-"), self.database)))

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command that does it; empty for what only a person can do."""
        if (made := self.task.makes) is not None:
            return ("backup", self.database, "--kind", made[0].value, "--tier", made[1].value)
        match self.task:
            case Task.DRILL:
                return ("drill", self.database)
            case Task.RECOVERY_TEST:
                return ("drill", self.database, "--random")
            case Task.REVIEW:
                return ()
            case _:
                return (self.task.value,)

    def next_after(self, moment: datetime) -> datetime | None:
        """The first time after `moment`, in the job's own zone; None if there is none."""
        return self._step(moment, reverse=False)

    def latest_until(self, moment: datetime) -> datetime | None:
        """The last time that is not after `moment`."""
        # CronSim looks strictly before, and by whole minutes.
        return self._step(moment.replace(second=0, microsecond=0) + timedelta(minutes=1),
                          reverse=True)  # fmt: skip

    def _step(self, moment: datetime, *, reverse: bool) -> datetime | None:
        try:
            return next(CronSim(self.cron, moment.astimezone(ZoneInfo(self.zone)), reverse=reverse))
        except (StopIteration, CronSimError):
            return None

    def delay(self, occurrence: datetime) -> timedelta:
        """The jitter of one run: always the same, so that a restart does not roll again."""
        text = f"{self.name} {occurrence.astimezone(UTC).isoformat()}"
        share = int.from_bytes(sha256(text.encode()).digest()[:4]) / (1 << 32)
        return timedelta(seconds=round(self.jitter.total_seconds() * share))


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a job's runs."""

    succeeded: datetime | None = None
    """When the last that succeeded began."""
    attempted: datetime | None = None
    """When the last one of all ended."""
    failures: int = 0
    """How many have failed since the last that succeeded."""
    is_final: bool = False
    """Whether the last failure is one that another try cannot mend."""


def plan_jobs(config: Config) -> tuple[Job, ...]:
    """All jobs of a configuration, in the order in which they go first."""
    return tuple(_plan_jobs(config))


def _plan_jobs(config: Config) -> Iterator[Job]:
    settings = config.schedule
    jitter = timedelta(seconds=settings.jitter_seconds)
    for task in _OF_A_DATABASE:
        for name, database in sorted(config.databases.items()):
            if cron := _cron_for(task, settings, database):
                yield Job(task, name, cron, database.schedule.zone or settings.zone, jitter)
    for task in _OF_ALL:
        is_needed = task is not Task.SYNC or len(config.repositories) > 1
        if is_needed and (cron := _setting(settings, task)):
            yield Job(task, "", cron, settings.zone, jitter)


def _cron_for(task: Task, settings: ScheduleConfig, database: DatabaseConfig) -> str | None:
    own = _setting(database.schedule, task)
    return _setting(settings, task) if own is None else own


def _setting(settings: object, task: Task) -> str | None:
    name = "schema_" if task is Task.SCHEMA else task.value
    value: str | None = getattr(settings, name)
    return value


def due_since(job: Job, past: Past, *, since: datetime, now: datetime) -> datetime | None:
    """The time for which the job should run now; None if it should not.

    `since` is when the keeper first ran here: what lies before was nobody's to do.
    """
    occurrence = job.latest_until(now)
    if occurrence is None or occurrence < since or occurrence + job.delay(occurrence) > now:
        return None
    if past.succeeded is not None and past.succeeded >= occurrence:
        return None
    if past.attempted is not None and past.attempted >= occurrence:
        again = retry_at(past)
        if again is None or again > now:
            return None
    return occurrence


def retry_at(past: Past) -> datetime | None:
    """When a job that failed is tried again before its next time; None for not at all."""
    if past.attempted is None or past.is_final:
        return None
    return past.attempted + _RETRIES[min(max(past.failures, 1), len(_RETRIES)) - 1]


@dataclass(frozen=True, slots=True)
class Due:
    """A job that should run, and for which time."""

    job: Job
    occurrence: datetime


def choose_due(
    jobs: tuple[Job, ...],
    pasts: Mapping[str, Past],
    running: frozenset[str],
    *,
    since: datetime,
    now: datetime,
) -> tuple[Due, ...]:
    """What to begin now: at most one of a lane, none that runs, the one that waits longest first.

    `running` are the names of jobs. What fails may not keep others waiting: it goes last.
    """
    busy = {job.task.lane for job in jobs if job.name in running}
    found = []
    for number, job in enumerate(jobs):
        past = pasts.get(job.name, Past())
        occurrence = due_since(job, past, since=since, now=now)
        if occurrence is not None and job.name not in running:
            found.append(((past.failures, occurrence, number), Due(job, occurrence)))
    chosen = []
    for _, due in sorted(found, key=lambda item: item[0]):
        lane = due.job.task.lane
        if lane is Lane.NONE or lane not in busy:
            busy.add(lane)
            chosen.append(due)
    return tuple(chosen)


def upcoming(jobs: tuple[Job, ...], now: datetime) -> tuple[tuple[datetime, Job], ...]:
    """The next time of each job, soonest first."""
    found = [(moment, job) for job in jobs if (moment := job.next_after(now)) is not None]
    return tuple(sorted(found, key=lambda item: (item[0], item[1].name)))
