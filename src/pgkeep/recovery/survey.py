"""Reading the journal once before anything is touched: where does a replay end, what is on the way?

Opening and counting costs a small part of what replaying does, and a restore that cannot reach its
moment is refused before it begins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from pgkeep.errors import DamagedObject, JournalInvalid, NotAuthentic, ObjectMissing
from pgkeep.model import Lsn, Segment, SnapshotPoint
from pgkeep.postgres import ddl, pgoutput
from pgkeep.postgres.concern import Treat
from pgkeep.postgres.pgoutput import Begin, Commit, LogicalMessage
from pgkeep.recovery.moment import AtLsn, AtTime, AtTransaction, Moment, Snapshot
from pgkeep.repository.history import History
from pgkeep.repository.journal import Frame, FrameKind, SealedSegment, SegmentName
from pgkeep.sealing import X25519Identity

_FETCHES = 8
_FETCHED_BYTES = 32 << 20
UNREADABLE = (DamagedObject, JournalInvalid, NotAuthentic, ObjectMissing)
"""What reading raises where no copy of a segment is whole."""

_CHANGES = frozenset((pgoutput.INSERT, pgoutput.UPDATE, pgoutput.DELETE, pgoutput.TRUNCATE))


@dataclass(frozen=True, slots=True)
class JournalReader:
    """Segments opened: `identities` are those for an epoch."""

    history: History
    identities: Callable[[str], Sequence[X25519Identity]]

    def read(self, names: Iterable[SegmentName]) -> Iterator[tuple[Segment, Iterator[Frame]]]:
        """The heads and bodies of segments; all must come from one server and one timeline."""
        first: Segment | None = None
        for name, segment in self._fetch(deque(names)):
            head = segment.head
            first = first or head
            if not is_same_server(head, first.system_identifier, first.timeline):
                raise JournalInvalid(f"{name.path} comes from another server than those before it")
            yield head, segment.frames(self.identities(head.epoch))

    def _fetch(self, names: deque[SegmentName]) -> Iterator[tuple[SegmentName, SealedSegment]]:
        """Several are on their way at once: from far away, each takes its time."""
        with ThreadPoolExecutor(_FETCHES, thread_name_prefix="pgkeep-journal") as executor:
            coming: deque[tuple[SegmentName, Future[SealedSegment]]] = deque()
            try:
                while names or coming:
                    while names and (not coming or _has_room(coming, names[0])):
                        name = names.popleft()
                        coming.append((name, executor.submit(self.history.read, name)))
                    name, segment = coming.popleft()
                    yield name, segment.result()
            finally:
                for _, segment in coming:
                    segment.cancel()


def _has_room(coming: deque[tuple[SegmentName, Future[SealedSegment]]], name: SegmentName) -> bool:
    size = name.size_bytes + sum(one.size_bytes for one, _ in coming)
    return len(coming) < _FETCHES and size <= _FETCHED_BYTES


def is_same_server(head: Segment, system_identifier: str, timeline: int) -> bool:
    """Whether a segment's positions mean the same as those of that server and timeline."""
    return (head.system_identifier, head.timeline) == (system_identifier, timeline)


@dataclass(frozen=True, slots=True)
class Transaction:
    """One that committed: its id as the journal has it, when, and where its commit ends."""

    xid: int
    committed: datetime
    end_lsn: Lsn


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A schema change that cannot be done again, and the transaction that made it."""

    change: ddl.SchemaChange
    xid: int
    committed: datetime


@dataclass(frozen=True, slots=True)
class Survey:
    """What a replay would apply. `before_lsn` is the commit of the first one to leave out."""

    transactions: int
    changes: int
    schema_changes: int
    last: Transaction | None
    before_lsn: int | None
    found: bool
    """Whether the transaction that the moment names is there; true for other moments."""
    obstacle: Obstacle | None
    too_new: bool
    """The backup shows a transaction that lies beyond the moment."""
    covered: datetime
    """The server's clock when all that was read had happened."""


def survey(
    segments: Iterable[tuple[Segment, Iterator[Frame]]],
    point: SnapshotPoint,
    moment: Moment,
    treat: Treat = ddl.treatment,
) -> Survey:
    """Look through segments for the end of a replay on top of a backup."""
    surveyor = _Surveyor(Snapshot.of(point), Lsn.parse(point.lsn), moment, treat)
    for head, frames in segments:
        surveyor.covered = head.covered
        for frame in frames:
            if frame.kind == FrameKind.MESSAGE:
                surveyor.take(frame.data)
            if surveyor.done:
                break
        if surveyor.done:
            break
    return surveyor.result()


class _Surveyor:
    def __init__(self, snapshot: Snapshot, backup_lsn: int, moment: Moment, treat: Treat) -> None:
        self._treat = treat
        self._snapshot = snapshot
        self._backup_lsn = backup_lsn
        self._moment = moment
        self._begin: Begin | None = None
        self._transactions = self._changes = self._schema_changes = 0
        self._last: Transaction | None = None
        self._before: int | None = None
        self._found = not isinstance(moment, AtTransaction)
        self._obstacle: Obstacle | None = None
        self._too_new = False
        self._changes_now = self._schema_changes_now = 0
        self._obstacle_now: ddl.SchemaChange | None = None
        self._reader = ddl.ChangeReader()
        self.covered = datetime.min.replace(tzinfo=UTC)
        self.done = False

    def take(self, data: bytes) -> None:
        kind = data[:1]
        if kind in _CHANGES:
            self._changes_now += 1
        elif kind == pgoutput.BEGIN:
            self._take_begin(data)
        elif kind == pgoutput.COMMIT:
            if self._begin is not None:
                self._take_commit(self._begin, data)
        elif kind == pgoutput.MESSAGE:
            self._take_message(data)

    def _take_begin(self, data: bytes) -> None:
        begin = pgoutput.parse(data)
        assert isinstance(begin, Begin)
        self._begin = None
        shown = self._snapshot.shows(begin.xid)
        if self._before is not None:
            # Past the end: only whether the backup shows something that lies here too.
            self._too_new = self._too_new or shown
            self.done = self._too_new or begin.commit_lsn >= self._backup_lsn
        elif not shown and self._is_beyond(begin):
            self._end_before(begin.commit_lsn)
        elif shown and self._is_past(begin):
            self._too_new = self.done = True
        elif not shown:
            self._begin = begin
            self._changes_now = self._schema_changes_now = 0
            self._obstacle_now = None
            self._reader = ddl.ChangeReader()

    def _is_beyond(self, begin: Begin) -> bool:
        moment = self._moment
        if isinstance(moment, AtTransaction) and not moment.inclusive:
            self._found = self._is_wanted(moment, begin)
            return self._found
        return self._is_past(begin)

    def _is_past(self, begin: Begin) -> bool:
        """Whether it committed after a moment that is a time or a position."""
        moment = self._moment
        if isinstance(moment, AtTime):
            return begin.committed > moment.time
        return isinstance(moment, AtLsn) and begin.commit_lsn >= moment.lsn

    def _is_wanted(self, moment: AtTransaction, begin: Begin) -> bool:
        return self._snapshot.full_id(begin.xid) == self._snapshot.full_id(moment.xid)

    def _take_commit(self, begin: Begin, data: bytes) -> None:
        commit = pgoutput.parse(data)
        assert isinstance(commit, Commit)
        self._begin = None
        moment = self._moment
        if isinstance(moment, AtLsn) and commit.end_lsn > moment.lsn:
            self._end_before(begin.commit_lsn)
            return
        self._note_obstacle(self._reader.untold())
        if self._obstacle_now is not None:
            self._obstacle = Obstacle(self._obstacle_now, begin.xid, begin.committed)
            self._end_before(begin.commit_lsn)
            return
        self._transactions += 1
        self._changes += self._changes_now
        self._schema_changes += self._schema_changes_now
        self._last = Transaction(begin.xid, begin.committed, Lsn(commit.end_lsn))
        if isinstance(moment, AtTransaction) and self._is_wanted(moment, begin):
            self._found = True
            self._end_before(commit.end_lsn)

    def _take_message(self, data: bytes) -> None:
        if self._begin is None or pgoutput.message_prefix(data) != ddl.PREFIX.encode():
            return
        message = pgoutput.parse(data)
        assert isinstance(message, LogicalMessage)
        change = self._reader.take(message.content)
        treatment = self._note_obstacle(change)
        self._schema_changes_now += treatment is ddl.Treatment.RUN and change.number == 1

    def _note_obstacle(self, change: ddl.SchemaChange | None) -> ddl.Treatment:
        treatment = ddl.Treatment.IGNORE if change is None else self._treat(change)
        if treatment is ddl.Treatment.STOP and self._obstacle_now is None:
            self._obstacle_now = change
        return treatment

    def _end_before(self, commit_lsn: int) -> None:
        self._before = commit_lsn
        self.done = commit_lsn >= self._backup_lsn

    def result(self) -> Survey:
        return Survey(
            self._transactions,
            self._changes,
            self._schema_changes,
            self._last,
            self._before,
            self._found,
            self._obstacle,
            self._too_new,
            self.covered,
        )
