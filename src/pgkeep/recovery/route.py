"""From a backup through the journal to a moment: what would be read, and how far it leads. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from pgkeep.model import Lsn, SnapshotPoint
from pgkeep.recovery.moment import AtLsn, AtTime, Moment
from pgkeep.repository.journal import Run, SegmentName

# A transaction that a backup does not show may have written its commit before the backup's
# position: it is waiting for others, as synchronous replicas, to be told of it.
_BEFORE = timedelta(minutes=10)

# A clock that was read before another may be written into the log after it.
_LATER = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Route:
    """The segments to read, oldest first, of a run that continues a backup."""

    run: Run
    segments: tuple[SegmentName, ...]

    @property
    def size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self.segments)

    def cut(self, count: int) -> Route:
        """As if the journal ended after so many of its segments."""
        whole = self.segments[:count]
        while whole and not whole[-1].ends_whole:
            whole = whole[:-1]
        return Route(Run(whole), whole)

    def after(self, sequence: int) -> tuple[SegmentName, ...]:
        """What follows a segment in the run, also beyond the route."""
        return tuple(one for one in self.run.segments if one.sequence > sequence)


def continues(run: Run, point: SnapshotPoint) -> bool:
    """Whether all that a backup does not show is in the run, as far as names tell."""
    return run.start <= Lsn.parse(point.lsn) and run.begins <= point.taken


def reaches(run: Run, moment: Moment) -> bool:
    """Whether the run leads to a moment, to the second; a transaction is only found by reading."""
    if isinstance(moment, AtTime):
        return run.covered + timedelta(seconds=1) > moment.time
    return not isinstance(moment, AtLsn) or run.end >= moment.lsn


def routes(runs: Iterable[Run], point: SnapshotPoint, moment: Moment) -> tuple[Route, ...]:
    """Those that continue a backup: the ones that lead to the moment first, then the longest."""
    found = [run for run in runs if continues(run, point)]
    found.sort(key=lambda run: (reaches(run, moment), run.covered), reverse=True)
    return tuple(Route(run, _needed(run, point, moment)) for run in found)


def _needed(run: Run, point: SnapshotPoint, moment: Moment) -> tuple[SegmentName, ...]:
    segments = run.segments
    lsn, early = Lsn.parse(point.lsn), point.taken - _BEFORE
    first = max(at for at, segment in enumerate(segments) if segment.start <= lsn)
    while first and (segments[first].covered > early or not segments[first].begins_whole):
        first -= 1
    last = len(segments) - 1
    for at in range(first, len(segments)):
        if _is_beyond(segments[at], moment) and segments[at].ends_whole and segments[at].end > lsn:
            last = _until_time_goes_on(segments, at) if isinstance(moment, AtTime) else at
            break
    return segments[first : last + 1]


def _until_time_goes_on(segments: tuple[SegmentName, ...], at: int) -> int:
    """The first whole segment with a later time than this one: where the server's clock went back,
    heads keep the latest time that there was, and what they hold may be from long before."""
    for later in range(at + 1, len(segments)):
        if segments[later].covered > segments[at].covered and segments[later].ends_whole:
            return later
    return len(segments) - 1


def _is_beyond(segment: SegmentName, moment: Moment) -> bool:
    """Whether nothing that belongs to the moment comes after this segment."""
    if isinstance(moment, AtTime):
        return segment.covered - _LATER > moment.time  # a moment may be in the year 9999
    return isinstance(moment, AtLsn) and segment.end >= moment.lsn
