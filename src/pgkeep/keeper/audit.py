"""The monthly audit: what was kept, proven, touched and spent. Pure: records in, a report out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

from pgkeep.keeper.checklist import Line
from pgkeep.model import Kind, Manifest
from pgkeep.recovery.objectives import Objective
from pgkeep.repository.evidence import Evidence, Outcome
from pgkeep.repository.ledger import Entry
from pgkeep.repository.windows import Reach

GIGABYTE = 1e9
_DANGEROUS = frozenset(
    {"restore", "recover", "export", "reseal", "forget", "factor", "second factor", "configuration"}
)
_NOTABLE = 50


@dataclass(frozen=True, slots=True)
class Month:
    """A month, in UTC."""

    year: int
    month: int

    @classmethod
    def parse(cls, text: str) -> Month:
        """`2026-10`; `ValueError` otherwise."""
        found = datetime.strptime(text, "%Y-%m")
        return cls(found.year, found.month)

    @classmethod
    def of(cls, moment: datetime) -> Month:
        return cls(moment.year, moment.month)

    @property
    def begins(self) -> datetime:
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def ends(self) -> datetime:
        first = date(self.year + self.month // 12, self.month % 12 + 1, 1)
        return datetime(first.year, first.month, 1, tzinfo=UTC)

    def holds(self, moment: datetime) -> bool:
        """Whether a moment is in it."""
        return self.begins <= moment < self.ends

    def __str__(self) -> str:
        return f"{self.year}-{self.month:02}"


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a moment, for a plot."""

    at: datetime
    value: float


@dataclass(frozen=True, slots=True)
class TableChange:
    """A table at the month's first and last full backup; None where it was not there."""

    name: str
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class Copy:
    """A repository at the time of the audit."""

    name: str
    url: str
    backups: int
    stored_bytes: int
    problems: tuple[str, ...]
    """What its check has found: signatures, presence, and bytes where they were read."""
    checked: str
    """How it was checked, in words."""
    price: float
    """Dollars for a gigabyte and month."""
    forecast: Forecast

    @property
    def dollars(self) -> float:
        """For a month, as it is now."""
        return self.stored_bytes / GIGABYTE * self.price


@dataclass(frozen=True, slots=True)
class Forecast:
    """Stored bytes if they go on growing as they did (a straight line through the past)."""

    in_three_months: float
    in_a_year: float


@dataclass(frozen=True, slots=True)
class DatabaseAudit:
    """One database in the month."""

    name: str
    backups: tuple[Manifest, ...]
    """Of the month, oldest first."""
    drills: tuple[Evidence, ...]
    """Of the month, oldest first, recoveries too."""
    objectives: tuple[Objective, ...]
    sizes: tuple[Point, ...]
    """Bytes in the database, at each full backup of the last year."""
    durations: tuple[Point, ...]
    """Seconds of each backup with data of the last year."""
    losses: tuple[Point, ...]
    """Of each day of the month, the most that could have been lost, in seconds."""
    tables: tuple[TableChange, ...]
    tables_known: bool
    """Whether a key here opened the tables of contents."""
    schema_changes: int
    """In how many segments of the journal the schema changed."""
    checklist: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """The whole report."""

    month: Month
    written: datetime
    host: str
    tool: str
    databases: tuple[DatabaseAudit, ...]
    copies: tuple[Copy, ...]
    access: tuple[tuple[str, int, int], ...]
    """(command, how often, how often it failed)."""
    notable: tuple[Entry, ...]
    """What opens, replaces or loosens something."""
    incidents: tuple[Entry, ...]
    changes: tuple[Entry, ...]
    """Of the configuration."""
    ledger_problems: tuple[str, ...]
    recommendations: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing in it needs anybody."""
        return not (
            self.ledger_problems
            or any(copy.problems for copy in self.copies)
            or any(one.outcome is Outcome.FAILED for db in self.databases for one in db.drills)
            or any(one.is_met is False for db in self.databases for one in db.objectives)
            or any(not db.backups for db in self.databases)
        )

    @property
    def dollars(self) -> float:
        """What storing costs a month."""
        return sum(copy.dollars for copy in self.copies)


def losses(reach: Reach, backups: Iterable[Manifest], month: Month, now: datetime) -> list[Point]:
    """Of each day, the longest stretch of which nothing could have been restored.

    Within a window of the journal that is the second; elsewhere it is the time since the last
    backup with data.
    """
    backups = [one for one in backups if one.kind.has_data]
    moments = sorted(one.started for one in backups)
    found = []
    day = month.begins
    while day < min(month.ends, now):
        found.append(Point(day, _worst(day, min(day + timedelta(days=1), now), reach, moments)))
        day += timedelta(days=1)
    return [one for one in found if one.value >= 0]


def _worst(begins: datetime, ends: datetime, reach: Reach, moments: Sequence[datetime]) -> float:
    """In seconds; -1 where nothing was kept yet."""
    before = [one for one in moments if one <= begins]
    last = max([*before, *(w.ends for w in reach.windows if w.ends <= begins)], default=None)
    stops = sorted(
        {begins, ends, *(one for one in moments if begins < one < ends)}
        | {edge for w in reach.windows for edge in (w.begins, w.ends) if begins < edge < ends}
    )
    worst = -1.0
    for start, stop in pairwise(stops):
        if any(w.begins <= start and stop <= w.ends for w in reach.windows):
            worst, last = max(worst, 1.0), stop
            continue
        if start in moments:
            last = start
        if last is not None:
            worst = max(worst, (stop - last).total_seconds())
    return worst


def forecast(backups: Iterable[Manifest], now: datetime) -> Forecast:
    """A line by least squares through what was stored at each backup."""
    points = list(_growth(backups))
    if len(points) < 2:
        size = points[-1].value if points else 0.0
        return Forecast(size, size)
    times = [(one.at - now).total_seconds() / 86400 for one in points]
    values = [one.value for one in points]
    mean_time, mean_value = sum(times) / len(times), sum(values) / len(values)
    spread = sum((one - mean_time) ** 2 for one in times)
    slope = (
        sum((t - mean_time) * (v - mean_value) for t, v in zip(times, values, strict=True)) / spread
        if spread
        else 0.0
    )
    latest = values[-1]
    return Forecast(max(latest + slope * 91, 0.0), max(latest + slope * 365, 0.0))


def _growth(backups: Iterable[Manifest]) -> Iterator[Point]:
    """What all backups up to each one hold together, each object once."""
    seen: set[str] = set()
    total = 0
    for one in sorted(backups, key=lambda one: one.started):
        for item in one.all_objects:
            if item.name not in seen:
                seen.add(item.name)
                total += item.size_bytes
        yield Point(one.started, float(total))


def stored_bytes(backups: Iterable[Manifest]) -> int:
    """What they hold together, each object once."""
    return sum({item.name: item.size_bytes for one in backups for item in one.all_objects}.values())


def sizes(backups: Iterable[Manifest], until: datetime) -> tuple[Point, ...]:
    """Bytes in the database at each full backup of a year."""
    year = until - timedelta(days=365)
    found = [one for one in backups if one.kind is Kind.FULL and year <= one.started < until]
    return tuple(
        Point(one.started, float(one.totals.database_bytes))
        for one in sorted(found, key=lambda one: one.started)
    )


def durations(backups: Iterable[Manifest], until: datetime) -> tuple[Point, ...]:
    """Seconds of each backup with data of a year."""
    year = until - timedelta(days=365)
    found = [one for one in backups if one.kind.has_data and year <= one.started < until]
    return tuple(
        Point(one.started, one.seconds) for one in sorted(found, key=lambda one: one.started)
    )


def table_changes(
    before: Mapping[str, int], after: Mapping[str, int], *, most: int = 20
) -> tuple[TableChange, ...]:
    """New and dropped tables first, then those whose rows changed most."""
    found = [
        TableChange(name, before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    found.sort(key=lambda one: (one.before is not None and one.after is not None,
                                -abs((one.after or 0) - (one.before or 0))))  # fmt: skip
    return tuple(found[:most])


def access(entries: Iterable[Entry]) -> tuple[tuple[str, int, int], ...]:
    """How often each command ended, and how often badly."""
    ended: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for one in entries:
        if one.state in ("done", "attention", "failed", "granted", "refused"):
            ended[one.what] += 1
            failed[one.what] += one.state in ("failed", "refused")
    return tuple((what, number, failed[what]) for what, number in sorted(ended.items()))


def notable(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """What opens, replaces or loosens something, and ended; the newest."""
    found = [one for one in entries if one.what in _DANGEROUS and one.state != "began"]
    return tuple(found[-_NOTABLE:])


def incidents(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """What failed; the newest."""
    return tuple([one for one in entries if one.state in ("failed", "refused")][-_NOTABLE:])


def recommendations(
    databases: Sequence[DatabaseAudit], copies: Sequence[Copy], ledger_problems: Sequence[str]
) -> Iterator[str]:
    """What to do next, the most urgent first."""
    for problem in ledger_problems:
        yield f"Find out who changed the record: {problem}."
    for copy in copies:
        if copy.problems:
            yield f"Heal repository {copy.name}: pgkeep verify --read all."
    for one in databases:
        failed = [drill for drill in one.drills if drill.outcome is Outcome.FAILED]
        if failed:
            yield f"{one.name}: a drill failed on {failed[-1].started:%Y-%m-%d}: look into it."
        for objective in one.objectives:
            if objective.is_met is False:
                yield f"{one.name}: the objective {objective.name!r} is missed."
        for line in one.checklist:
            if not line.is_done:
                yield f"{one.name}: {line.item.text}: {line.remedy}"
