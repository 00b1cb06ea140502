"""From facts to alerts. Pure: nothing is asked here, and nobody is told.

A finding has a key that stays the same while the same thing is wrong, so it is told once when it
begins and once when it is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from statistics import median

from pgkeep.config import ObjectivesConfig, WatchConfig
from pgkeep.keeper.facts import BackupFact, DatabaseFacts, DiskFact
from pgkeep.keeper.schedule import Job, Past, Task
from pgkeep.keeper.text import duration, percent, size
from pgkeep.model import Kind, is_ahead

_USUAL = 5
_USUAL_LEAST = 3
_SHORT_SECONDS = 60
_FULL_DISK_PERCENT = 3
_FAILURES_TO_TELL = 2
# Once a day, at an hour that moves a little.
_PLATFORM_AGE = timedelta(hours=25)


class Severity(StrEnum):
    """How soon somebody has to look."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is wrong, or that was."""

    key: str
    severity: Severity
    database: str
    """Empty if it concerns all."""
    what: str
    remedy: str
    """The command to type, or a sentence."""
    since: datetime
    safe: tuple[str, ...] = ()
    """What is safe nevertheless."""


@dataclass(frozen=True, slots=True)
class JobFact:
    """A job, what is known of its runs, and how the last one ended."""

    job: Job
    past: Past = field(default_factory=Past)
    exit_code: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Watched:
    """All that alerts are made of."""

    now: datetime
    since: datetime
    """When the keeper first ran here."""
    settings: WatchConfig
    databases: tuple[DatabaseFacts, ...] = ()
    objectives: Mapping[str, ObjectivesConfig] = field(default_factory=dict)
    kinds: Mapping[str, tuple[Kind, ...]] = field(default_factory=dict)
    """What each repository takes."""
    captured: frozenset[str] = frozenset()
    """Databases whose changes are meant to be captured."""
    capture_problems: Mapping[str, str] = field(default_factory=dict)
    jobs: tuple[JobFact, ...] = ()
    disks: tuple[DiskFact, ...] = ()
    expiries: Mapping[str, date] = field(default_factory=dict)
    blind: Mapping[str, str] = field(default_factory=dict)
    """Databases that could not be looked at, and why."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be told: what has begun and what is over; and all that is wrong now."""

    begun: tuple[Alert, ...]
    over: tuple[Alert, ...]
    open: tuple[Alert, ...]


def find_alerts(watched: Watched) -> tuple[Alert, ...]:
    """Everything that is wrong now."""
    found: list[Alert] = []
    for one in watched.databases:
        objectives = watched.objectives.get(one.name, ObjectivesConfig())
        about = _About(watched, one, objectives)
        for look in (_backups, _sizes, _tables, _drills, _copies, _capture, _platform):
            found += (replace(alert, safe=what_is_safe(one, watched.now)) for alert in look(about))
    for look_at_all in (_jobs, _disks, _expiries, _blind):
        found += look_at_all(watched)
    return tuple(found)


def compare(before: Sequence[Alert], found: Sequence[Alert], blind: frozenset[str]) -> Changes:
    """What has begun and what is over. What cannot be looked at now is as it was."""
    known = {one.key: one for one in before}
    now = {one.key: one for one in found}
    unseen = [one for one in before if one.key not in now and one.database in blind - {""}]
    # A thing that grew worse is told again, under its old beginning.
    begun = [
        replace(one, since=known[one.key].since) if one.key in known else one
        for one in found
        if one.key not in known or _is_worse(one, known[one.key])
    ]
    still = [replace(one, since=known[one.key].since) if one.key in known else one for one in found]
    over = [one for one in before if one.key not in now and one not in unseen]
    return Changes(tuple(begun), tuple(over), (*still, *unseen))


def _is_worse(one: Alert, before: Alert) -> bool:
    return one.severity is Severity.CRITICAL and before.severity is Severity.WARNING


def what_is_safe(one: DatabaseFacts, now: datetime) -> tuple[str, ...]:
    """In words: what can be restored, and since when that is proven."""
    lines = []
    if one.window is not None:
        begins, ends = one.window
        lines.append(f"every second from {begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M:%S} UTC")
    if one.backups_with_rows:
        newest = one.backups_with_rows[0]
        lines.append(
            f"backup {newest.backup} of {duration(now - newest.started)} ago, {newest.rows:,} rows,"
            f" in {', '.join(newest.repositories) or 'no repository'}"
        )
    passed = next((drill for drill in one.drills if drill.has_passed), None)
    if passed is not None:
        lines.append(
            f"{passed.backup} was restored and proven {duration(now - passed.started)} ago"
        )
    return tuple(lines) or ("nothing: there is no backup",)


# --- one database ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _About:
    watched: Watched
    one: DatabaseFacts
    promised: ObjectivesConfig

    @property
    def now(self) -> datetime:
        return self.watched.now

    @property
    def settings(self) -> WatchConfig:
        return self.watched.settings

    def alert(self, key: str, severity: Severity, what: str, remedy: str) -> Alert:
        return Alert(f"{self.one.name}/{key}", severity, self.one.name, what, remedy, self.now)

    def critical(self, key: str, what: str, remedy: str) -> Alert:
        return self.alert(key, Severity.CRITICAL, what, remedy)

    def warning(self, key: str, what: str, remedy: str) -> Alert:
        return self.alert(key, Severity.WARNING, what, remedy)


def _backups(about: _About) -> Iterator[Alert]:
    one, name = about.one, about.one.name
    if not one.backups_with_rows:
        yield about.critical(
            "backup-missing", f"there is no backup of {name}", f"pgkeep backup {name}"
        )
        return
    ahead = [it for it in one.backups_with_rows if is_ahead(it.started, about.now)]
    if ahead:
        yield about.warning(
            "clock",
            f"backup {ahead[0].backup} of {name} is from the future, so a clock was wrong then, or"
            " is wrong here",
            f"pgkeep show {name} {ahead[0].backup}",
        )
    known = [it for it in one.backups_with_rows if it not in ahead]
    # If all are from the future, the oldest of them is the least wrong.
    age = about.now - (known[0] if known else ahead[-1]).started
    if one.loss_window is None and age > timedelta(hours=about.promised.manual_rpo_hours):
        yield about.critical(
            "backup-old",
            f"the newest backup of {name} is {duration(age)} old, more than promised"
            f" ({about.promised.manual_rpo_hours:g} h)",
            f"pgkeep backup {name}",
        )
    for number, problem in enumerate(one.problems[:3]):
        yield about.critical(f"damage-{number}", problem, "pgkeep verify --read all")


def _platform(about: _About) -> Iterator[Alert]:
    """The platform's own backups, where it was asked."""
    found, name = about.one.platform, about.one.name
    if found is None:
        return
    look = f"pgkeep list {name} --platform"
    if found.problem:
        yield about.warning(
            "platform-blind", f"the platform of {name} tells nothing: {found.problem}", look
        )
    elif found.newest is None:
        yield about.warning("platform-missing", f"the platform has no backup of {name}", look)
    elif about.now - found.newest > _PLATFORM_AGE:
        age = duration(about.now - found.newest)
        yield about.warning(
            "platform-old", f"the platform's newest backup of {name} is {age} old", look
        )
    if found.failed is not None:
        yield about.warning(
            "platform-failed", f"the platform's last backup of {name} has failed", look
        )


def _sizes(about: _About) -> Iterator[Alert]:
    settings = about.settings
    for kind in (Kind.FULL, Kind.DATA):
        backups = [one for one in about.one.backups if one.kind is kind]
        if not backups:
            continue
        newest, earlier = backups[0], backups[1 : _USUAL + 1]
        show = f"pgkeep show {about.one.name} {newest.backup}"
        text = f"{kind} backup {newest.backup} of {about.one.name}"
        least = settings.minimum_bytes
        if kind is Kind.FULL and least is not None and newest.text_bytes < least:
            yield about.critical(
                "too-small", f"{text} has {size(newest.text_bytes)}, less than {size(least)}", show
            )
        if len(earlier) >= _USUAL_LEAST:
            yield from _unlike_usual(about, newest, earlier, text, show)


def _unlike_usual(
    about: _About, newest: BackupFact, earlier: Sequence[BackupFact], text: str, show: str
) -> Iterator[Alert]:
    settings, kind = about.settings, newest.kind
    usual = median(one.text_bytes for one in earlier)
    usual_seconds = median(one.seconds for one in earlier)
    if newest.text_bytes < usual * (1 - settings.smaller_percent / 100):
        yield about.critical(
            f"{kind}-smaller",
            f"{text} has {size(newest.text_bytes)}, and usual are {size(usual)}", show,
        )  # fmt: skip
    if usual and newest.text_bytes > usual * settings.larger_factor:
        yield about.warning(
            f"{kind}-larger",
            f"{text} has {size(newest.text_bytes)}, and usual are {size(usual)}", show,
        )  # fmt: skip
    if newest.seconds > max(usual_seconds * settings.slower_factor, _SHORT_SECONDS):
        took, usually = timedelta(seconds=newest.seconds), timedelta(seconds=usual_seconds)
        yield about.warning(
            f"{kind}-slower", f"{text} took {duration(took)}, and usual are {duration(usually)}",
            "pgkeep status",
        )  # fmt: skip


def _tables(about: _About) -> Iterator[Alert]:
    before, now = about.one.rows_before, about.one.rows_now
    if before is None or now is None:
        return
    newest = about.one.full_backups[0].backup if about.one.full_backups else ""
    for table, rows in sorted(before.items()):
        remedy = f"pgkeep restore {about.one.name} --table {table} --target URL"
        if rows and table not in now:
            yield about.critical(
                f"gone/{table}", f"table {table} with {rows:,} rows is gone in {newest}", remedy
            )
        elif rows and not now[table]:
            yield about.critical(
                f"empty/{table}",
                f"table {table} had {rows:,} rows and is empty in {newest}",
                remedy,
            )


def _drills(about: _About) -> Iterator[Alert]:
    one, name, allowed = about.one, about.one.name, timedelta(days=about.promised.drill_days)
    if one.drills and not one.drills[0].has_passed:
        yield about.critical(
            "drill-failed",
            f"the restore of {one.drills[0].backup} of {name} was tried and failed",
            f"pgkeep drill {name} --backup ID (another), then pgkeep verify --read all",
        )
    passed = next((drill for drill in one.drills if drill.has_passed), None)
    if passed is not None:
        since, said = passed.started, "the last drill that passed"
    elif one.backups:
        since, said = one.backups[-1].started, "no drill has passed, and the first backup"
    else:
        return
    if about.now - since > allowed:
        yield about.warning(
            "drill-overdue",
            f"{said} of {name} is {duration(about.now - since)} old (promised {duration(allowed)})",
            f"pgkeep drill {name}",
        )


def _copies(about: _About) -> Iterator[Alert]:
    grace = timedelta(minutes=about.settings.late_minutes)
    settled = [one for one in about.one.backups if about.now - one.started > grace]
    for repository, kinds in about.watched.kinds.items():
        newest = {one.kind: one for one in reversed(settled) if one.kind in kinds}
        lacks = [one.backup for one in newest.values() if repository not in one.repositories]
        segments = about.one.segments_lacking.get(repository, 0)
        if lacks:
            yield about.warning(
                f"behind/{repository}",
                f"repository {repository} lacks the newest of {about.one.name}: {', '.join(lacks)}",
                "pgkeep sync",
            )
        elif segments and Kind.FULL in kinds:
            yield about.warning(
                f"behind/{repository}",
                f"repository {repository} lacks {segments} segments of the journal of"
                f" {about.one.name}",
                "pgkeep sync",
            )


def _capture(about: _About) -> Iterator[Alert]:
    one, name = about.one, about.one.name
    wanted = name in about.watched.captured
    if one.server_problem:
        yield about.warning(
            "server", f"the server of {name} does not answer: {one.server_problem}", "pgkeep status"
        )
    if problem := about.watched.capture_problems.get(name):
        yield about.warning(
            "not-captured", f"changes of {name} are not captured: {problem}",
            f"pgkeep capture {name} (or set capture = false for it)",
        )  # fmt: skip
    if not wanted or one.loss_window is None:
        return
    allowed = timedelta(minutes=about.promised.automated_rpo_minutes)
    if one.loss_window > allowed:
        yield about.critical(
            "capture-behind",
            f"capture of {name} is {duration(one.loss_window)} behind (promised"
            f" {duration(allowed)})",
            f"pgkeep status {name}",
        )
    slot = one.slot
    if slot is None and not one.server_problem:
        yield about.critical(
            "slot-lost", f"the replication slot of {name} is gone", f"pgkeep capture {name}"
        )
    elif slot is not None and slot.is_lost:
        yield about.critical(
            "slot-lost", f"the server gave up the replication slot of {name}",
            f"pgkeep capture {name}",
        )  # fmt: skip
    elif slot is not None and slot.limit_bytes:
        share = slot.bytes / slot.limit_bytes
        if share * 100 >= about.settings.slot_percent:
            yield about.alert(
                "slot-full", Severity.CRITICAL if share >= 0.8 else Severity.WARNING,
                f"the replication slot of {name} holds {size(slot.bytes)} of WAL,"
                f" {percent(share)} of its limit",
                f"pgkeep status {name}",
            )  # fmt: skip


# --- everything else ------------------------------------------------------------------------


def _jobs(watched: Watched) -> Iterator[Alert]:
    for one in watched.jobs:
        if not one.job.arguments:
            continue
        if (wrong := _wrong_with(one)) is not None:
            yield _of_job(watched, one.job, *wrong)
        if (late := _late(watched, one)) is not None:
            yield _of_job(watched, one.job, "late", Severity.WARNING, late)


def _wrong_with(one: JobFact) -> tuple[str, Severity, str] | None:
    """What the last run says, as key, severity and words."""
    name, task = one.job.name, one.job.task
    if one.exit_code in (None, 0):
        return None
    if one.exit_code == 3:
        if task is not Task.PRUNE:
            return None
        return "refused", Severity.WARNING, "retention could not delete all that it should"
    if task is Task.VERIFY and one.exit_code == 1 and not one.error:
        return "damage", Severity.CRITICAL, "verify found damage that no other repository can mend"
    if one.past.failures < _FAILURES_TO_TELL and not one.past.is_final:
        return None
    why = one.error or f"exit code {one.exit_code}"
    return "failed", Severity.WARNING, f"{name} failed: {why}"


def _late(watched: Watched, one: JobFact) -> str | None:
    grace = timedelta(minutes=watched.settings.late_minutes) + one.job.jitter
    occurrence = one.job.latest_until(watched.now - grace)
    if occurrence is None or occurrence < watched.since:
        return None
    if one.past.succeeded is not None and one.past.succeeded >= occurrence:
        return None
    return (
        f"{one.job.name} should have run at {occurrence:%Y-%m-%d %H:%M %Z} and has not succeeded"
        " since"
    )


def _of_job(watched: Watched, job: Job, key: str, severity: Severity, what: str) -> Alert:
    remedy = f"pgkeep {' '.join(job.arguments)}"
    return Alert(f"job/{job.name}/{key}", severity, job.database, what, remedy, watched.now)


def _disks(watched: Watched) -> Iterator[Alert]:
    for disk in watched.disks:
        free = disk.free_bytes / max(disk.total_bytes, 1)
        if free * 100 < watched.settings.disk_percent:
            yield Alert(
                f"disk/{disk.path}",
                Severity.CRITICAL if free * 100 < _FULL_DISK_PERCENT else Severity.WARNING,
                "",
                f"the disk of {disk.path} has {size(disk.free_bytes)} free ({percent(free)})",
                f"df -h {disk.path}; pgkeep prune --dry-run",
                watched.now,
            )


def _expiries(watched: Watched) -> Iterator[Alert]:
    for what, day in sorted(watched.expiries.items()):
        left = day - watched.now.date()
        if left <= timedelta(days=watched.settings.expiry_days):
            text = "has expired" if left.days < 0 else f"expires in {left.days} days"
            yield Alert(
                f"expiry/{what}",
                Severity.CRITICAL if left.days < 3 else Severity.WARNING,
                "",
                f"{what} {text} ({day.isoformat()})",
                "Renew it; a date that you noted yourself is under watch.expires.",
                watched.now,
            )


def _blind(watched: Watched) -> Iterator[Alert]:
    for name, why in sorted(watched.blind.items()):
        yield Alert(
            f"{name or 'all'}/blind", Severity.WARNING, name,
            f"{name or 'the repositories'} cannot be looked at: {why}", "pgkeep status",
            watched.now,
        )  # fmt: skip
