"""Choosing the backup and the journal that lead to a moment, before anything is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Generic, TypeVar

from pgkeep.errors import MomentUnreachable, PgkeepError
from pgkeep.model import Contents, Lsn, SnapshotPoint
from pgkeep.postgres.concern import Treat
from pgkeep.postgres.ddl import treatment
from pgkeep.recovery.moment import AtEnd, AtLsn, AtTime, AtTransaction, Moment, Snapshot
from pgkeep.recovery.route import Route, reaches, routes
from pgkeep.recovery.survey import (
    UNREADABLE,
    JournalReader,
    Obstacle,
    Survey,
    is_same_server,
    survey,
)

Candidate = TypeVar("Candidate")


@dataclass(frozen=True, slots=True)
class Journey:
    """What to replay on top of a backup, known in full: the segments, and where to stop."""

    moment: Moment
    point: SnapshotPoint
    reader: JournalReader
    route: Route
    survey: Survey
    new_treat: Callable[[], Treat] = lambda: treatment
    """Made anew for each pass through the journal."""
    shortfall: str = ""
    """Why the moment itself is not reached, if it is not and the last one before will do."""

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot.of(self.point)


@dataclass(frozen=True, slots=True)
class Chosen(Generic[Candidate]):
    """A backup and the way from it."""

    candidate: Candidate
    contents: Contents
    journey: Journey


def choose_journey(
    candidates: Iterable[Candidate],
    contents_of: Callable[[Candidate], Contents],
    reader: JournalReader,
    moment: Moment,
    *,
    treat_for: Callable[[Contents], Treat] = lambda _: treatment,
    to_last_reachable: bool = False,
) -> Chosen[Candidate]:
    """The newest backup before a moment from which the journal leads to it without a gap.

    `candidates` are full backups, the newest first. `MomentUnreachable` says what could be reached
    instead; with `to_last_reachable` the result is the way to exactly that. `treat_for` says which
    schema changes are replayed, passed over, or stop it.
    """
    failure: PgkeepError | None = None
    for candidate in candidates:
        contents = contents_of(candidate)
        if not _is_before(contents.point, moment):
            continue
        try:
            asked = _Asked(reader, moment, partial(treat_for, contents), to_last_reachable)
            journey = _journey(contents, asked)
        except MomentUnreachable as exc:
            failure = failure or exc
        else:
            if journey is not None:
                return Chosen(candidate, contents, journey)
    raise failure or MomentUnreachable(
        f"there is no full backup that leads to {moment}",
        hint="Run pgkeep list to see the backups; restore the oldest with --backup.",
    )


def _is_before(point: SnapshotPoint, moment: Moment) -> bool:
    match moment:
        case AtTime(time):
            return point.taken <= time
        case AtLsn(lsn):
            return Lsn.parse(point.lsn) <= lsn
        case AtTransaction(xid):
            return not Snapshot.of(point).shows(xid)
        case AtEnd():
            return True


@dataclass(frozen=True, slots=True)
class _Asked:
    """What `choose_journey` was asked for."""

    reader: JournalReader
    moment: Moment
    new_treat: Callable[[], Treat]
    to_last_reachable: bool


def _journey(contents: Contents, asked: _Asked) -> Journey | None:
    """The way from one backup; None if the backup itself lies beyond the moment."""
    point, reader, moment = contents.point, asked.reader, asked.moment
    harm: PgkeepError | None = None
    for route in routes(reader.history.runs(), point, moment):
        try:
            if _is_of_its_server(route, reader, point):
                return _journey_along(route, contents, asked)
        except UNREADABLE as exc:  # a stretch that another host wrote, say: the next may lead there
            harm = harm or exc
    raise harm or MomentUnreachable(
        f"no journal leads on from backup {contents.backup} to {moment}",
        hint=f"Restore it as it is, as of {_time(point.taken)}: --backup {contents.backup} without"
        " --to.",
    )


def _is_of_its_server(route: Route, reader: JournalReader, point: SnapshotPoint) -> bool:
    head = reader.history.read(route.segments[0]).head
    return is_same_server(head, point.system_identifier, point.timeline)


def _journey_along(route: Route, contents: Contents, asked: _Asked) -> Journey | None:
    point, reader, moment = contents.point, asked.reader, asked.moment
    harm = ""
    try:
        found = survey(reader.read(route.segments), point, moment, asked.new_treat())
    except UNREADABLE as exc:
        route, harm = _cut_before(exc, route, asked), exc.message
        found = survey(reader.read(route.segments), point, moment, asked.new_treat())
    if found.too_new:
        return None
    journey = Journey(moment, point, reader, route, found, asked.new_treat, harm)
    try:
        _refuse_unreached(contents, journey)
    except MomentUnreachable as exc:
        if not asked.to_last_reachable:
            raise
        return replace(journey, shortfall=harm or exc.message)
    return journey


def _cut_before(harm: PgkeepError, route: Route, asked: _Asked) -> Route:
    """What comes before the first segment that cannot be read; else the error, and what helps."""
    count = 0
    with suppress(*UNREADABLE):
        for _ in asked.reader.read(route.segments):
            count += 1
    cut = route.cut(count)
    if not cut.segments:
        raise harm
    if not asked.to_last_reachable:
        hint = f"{harm.hint} --to-last-reachable restores to just before it."
        raise type(harm)(harm.message, hint=hint) from harm
    return cut


def _refuse_unreached(contents: Contents, journey: Journey) -> None:
    found, moment = journey.survey, journey.moment
    if found.obstacle is not None:
        raise _stopped_by(found.obstacle, contents, journey)
    if not found.found:
        raise MomentUnreachable(
            f"{moment} is not in the journal, which goes from backup {contents.backup} to"
            f" {_time(found.covered)}",
            hint="It did not change anything, did not commit, or is older than the backups.",
        )
    late = isinstance(moment, AtTime) and found.before_lsn is None and found.covered < moment.time
    if late or not reaches(journey.route.run, moment):
        end = journey.route.run.end
        raise MomentUnreachable(
            f"the journal after backup {contents.backup} does not reach {moment}: it ends at"
            f" {_time(found.covered)}, LSN {end}",
            hint=f"--to '{found.covered.astimezone(UTC).isoformat(' ')}' is the last moment that"
            " can be reached; --to-last-reachable restores to it.",
        )


def _stopped_by(obstacle: Obstacle, contents: Contents, journey: Journey) -> MomentUnreachable:
    last = journey.survey.last
    reached = f"after transaction {last.xid} of {_time(last.committed)}" if last else "its own"
    change = f"{obstacle.change} at {_time(obstacle.committed)}"
    return MomentUnreachable(
        f"a schema change ({change}) that cannot be replayed lies between {journey.moment} and"
        f" backup {contents.backup} of {_time(contents.point.taken)}; the last moment that can be"
        f" reached is {reached}",
        hint=f"--before-transaction {obstacle.xid} or --to-last-reachable restores to just before"
        " the change; a later moment needs a backup that was taken after it.",
    )


def _time(moment: datetime) -> str:
    return str(AtTime(moment))
