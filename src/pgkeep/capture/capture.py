"""Capture: read the slot, keep what it gives in every repository, and only then move on.

The order in which things become durable makes a crash at any moment harmless. A segment that is
stored and not yet confirmed to the slot is found again in the repositories, and what the slot then
gives once more is passed over, since it is confirmed first.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from pgkeep import __version__
from pgkeep.capture.drift import CatalogWatch
from pgkeep.capture.segments import SequenceWatch, Stretch, pack
from pgkeep.capture.sources import Source
from pgkeep.errors import SlotLost
from pgkeep.model import Segment, SequenceValue
from pgkeep.postgres import catalog
from pgkeep.postgres.address import Address
from pgkeep.postgres.session import Connection, LockNotAvailable
from pgkeep.postgres.slot import Position, RawMessage, Slot, SlotState
from pgkeep.repository.hostkeys import HostKeys
from pgkeep.repository.journal import SegmentName, head_digest, seal_segment
from pgkeep.repository.journal_copies import JournalCopies

# Messages that one look at the slot gives at most, but for a transaction that has more.
_MESSAGES_AT_ONCE = 50_000


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """What to capture, and where to."""

    database: str
    address: Address
    slot: str
    copies: JournalCopies
    recipients: tuple[str, ...]
    keys: HostKeys
    now: Callable[[], datetime]
    heartbeat: timedelta
    slot_limit_bytes: int
    gpg_home: Path | None = None
    plugin: str = ""
    """How the slot is to tell of changes, if that is not left to what the role may do."""


@dataclass(frozen=True, slots=True)
class Captured:
    """What one look at the slot brought, and how things stand after it."""

    transactions: int
    changes: int
    schema_changes: int
    segments: int
    covered: datetime
    """The server's clock: everything that had committed by then is kept."""
    behind: timedelta
    """What would be lost now."""
    retained_bytes: int
    limit_bytes: int | None
    is_more: bool
    """Whether more is waiting, so that the next look need not wait."""
    storing_seconds: float
    """How much of the look was spent on sealing and storing: the server has no work with that."""


class Capture:
    """A capture under way, in one session. Made by `begin_capture`."""

    def __init__(
        self,
        request: CaptureRequest,
        connection: Connection,
        slot: Slot,
        source: Source,
        tip: Segment,
        number: int,
        alive: Callable[[], None],
    ) -> None:
        self._request = request
        self._connection = connection
        self._slot = slot
        self._tip = tip
        self._number = number
        self._alive = alive
        self._sequences = SequenceWatch(lambda: _sequence_values(connection))
        self._source = source
        self._catalog = CatalogWatch(connection, "" if source.catalog else tip.catalog)
        self._kept_at = time.monotonic()
        self._storing_seconds = 0.0
        self._read_until = tip.end

    @property
    def tip(self) -> Segment:
        """The newest segment that is kept."""
        return self._tip

    def step(self) -> Captured:
        """One look: keep what is there, then let the slot move on.

        `SlotLost` if changes may be missing; any other error leaves everything as it was.
        """
        self._alive()
        position = self._slot.position()
        state = self._checked_state()
        before, number = self._tip, self._number
        self._storing_seconds = 0.0
        # Without new WAL there is nothing to read, and the server need not begin to decode.
        got = _Got() if self._read_until >= position.lsn else self._keep_all(position)
        if not got.messages and not got.is_limited and self._is_time_for_a_heartbeat():
            self._checked_state()  # nothing may also be what somebody else has left
            self._keep(Stretch(end=position.lsn), position.at)
        if self._tip is not before:
            self._slot.advance(self._tip.end)
        self._read_until = self._tip.end if got.is_limited else position.lsn
        self._request.copies.catch_up()
        self._tell_of_drift(got, position)
        covered = self._tip.covered if got.is_limited else max(self._tip.covered, position.at)
        seen = covered if got.is_limited else position.at  # earlier, if the clock went back
        return Captured(
            transactions=got.transactions,
            changes=got.changes,
            schema_changes=got.schema_changes,
            segments=self._number - number,
            covered=covered,
            behind=max(self._slot.now() - seen, timedelta(0)),
            retained_bytes=state.retained_bytes,
            limit_bytes=state.limit_bytes,
            is_more=got.is_limited and self._tip is not before,
            storing_seconds=self._storing_seconds,
        )

    def look_after(self) -> tuple[str, ...]:
        """Repair what is published, should somebody have gone round the event triggers, and look
        for changes that those have not told of. The tables that were not published as they should
        have been: the journal says so too.
        """
        repaired = self._source.look_after()
        self._catalog.look()
        return repaired

    def _tell_of_drift(self, got: _Got, position: Position) -> None:
        if got.schema_changes:
            self._catalog.schema_changed()
        if self._catalog.unexplained(self._tip.end if got.is_limited else position.lsn):
            self._source.notice()

    def _is_time_for_a_heartbeat(self) -> bool:
        return time.monotonic() - self._kept_at >= self._request.heartbeat.total_seconds()

    def _checked_state(self) -> SlotState:
        state = self._slot.state()
        name = self._slot.name
        if state is None:
            raise SlotLost(f"slot {name!r} is gone")
        if state.lost:
            raise SlotLost(f"slot {name!r} kept more WAL than the server allows, and was given up")
        if state.confirmed > self._tip.end:
            raise self._slot.moved(self._tip.end, state.confirmed)
        give_up_beyond_the_limit(self._slot, state, self._request.slot_limit_bytes)
        self._source.check()
        return state

    def _keep_all(self, position: Position) -> _Got:
        """Keep everything that a look gives, stretch by stretch, in bounded memory."""
        got = _Got()
        waiting: Stretch | None = None
        messages = self._source.messages(_MESSAGES_AT_ONCE, since=self._tip.end, until=position.lsn)
        for stretch in pack(got.counted(messages, self._alive), self._source.prefix):
            if waiting is not None:
                self._keep(waiting, waiting.last_commit or self._tip.covered)
            got.add(stretch)
            waiting = stretch
        got.is_limited = self._source.left_more
        if waiting is not None:
            self._keep_last(waiting, position, is_limited=got.is_limited)
        return got

    def _keep_last(self, stretch: Stretch, position: Position, *, is_limited: bool) -> None:
        """With where sequences stand now, which is at or past all that is in it."""
        moved = self._sequences.moved()
        if moved:
            stretch.add_sequences(moved)
        covered = stretch.last_commit or self._tip.covered
        if not is_limited:  # the server had told of everything up to the position
            stretch.end = max(stretch.end or position.lsn, position.lsn)
            covered = position.at
        self._keep(stretch, covered)
        self._sequences.keep(moved)

    def _keep(self, stretch: Stretch, covered: datetime) -> None:
        """Seal, sign and store a stretch; it is the tip then."""
        if stretch.transactions and self._source.partly:
            stretch.add_partly(self._source.partly)
        catalog_digest = self._source.catalog
        if not catalog_digest:
            watch = self._catalog
            catalog_digest = watch.settle() if stretch.schema_changes else watch.settled
        self._number += 1  # also if it fails: no number is used twice
        head = replace(
            self._tip,
            sequence=self._number,
            previous=head_digest(self._tip),
            start=self._tip.end,
            end=max(stretch.end or self._tip.end, self._tip.end),
            begins_whole=stretch.begins_whole,
            ends_whole=stretch.ends_whole,
            covered=max(covered.astimezone(UTC), self._tip.covered),
            first_commit=stretch.first_commit,
            last_commit=stretch.last_commit,
            transactions=stretch.transactions,
            changes=stretch.changes,
            schema_changes=stretch.schema_changes,
            barriers=stretch.barriers,
            catalog=catalog_digest,
        )
        started = time.monotonic()
        self._tip = store_segment(self._request, head, bytes(stretch.body))
        self._kept_at = time.monotonic()
        self._storing_seconds += self._kept_at - started
        self._alive()


def give_up_beyond_the_limit(slot: Slot, state: SlotState, limit_bytes: int) -> None:
    """The safety valve: drop a slot that keeps too much WAL, and raise `SlotLost`."""
    if state.retained_bytes > limit_bytes:
        slot.drop()
        raise SlotLost(
            f"slot {slot.name!r} kept {state.retained_bytes:,} bytes of WAL, more than"
            f" {limit_bytes:,}, and was dropped so that the server's disk does not fill"
        )


@dataclass(slots=True)
class _Got:
    """Sums over the stretches of one look."""

    messages: int = 0
    transactions: int = 0
    changes: int = 0
    schema_changes: int = 0
    is_limited: bool = False
    """Whether there may be more that had committed by then."""

    def counted(
        self, messages: Iterable[RawMessage], alive: Callable[[], None]
    ) -> Iterator[RawMessage]:
        """The messages, counted as they pass: also those that no segment keeps."""
        for message in messages:
            self.messages += 1
            alive()
            yield message

    def add(self, stretch: Stretch) -> None:
        self.transactions += stretch.transactions
        self.changes += stretch.changes
        self.schema_changes += stretch.schema_changes


def store_segment(request: CaptureRequest, head: Segment, plain: bytes) -> Segment:
    """Seal, sign and keep it; its head with all that is known then."""
    key = request.keys.signing_key()
    epoch = request.keys.epoch(request.recipients, now=request.now(), gpg_home=request.gpg_home)
    head = replace(head, host=socket.gethostname(), tool=f"pgkeep {__version__}", epoch=epoch.id)
    whole, data = seal_segment(head, plain, epoch.key.recipient, key)
    request.copies.put(SegmentName.of(whole).path, data, epoch, key.public)
    return whole


def _sequence_values(connection: Connection) -> tuple[SequenceValue, ...]:
    """Where sequences stand; nothing if one is being altered or dropped: the next look will tell.

    Until then the one that is locked does not move, but for the transaction that has locked it.
    """
    readable = tuple(name for name, may_read in catalog.sequences(connection) if may_read)
    try:
        return catalog.sequence_values(connection, readable)
    except (psycopg.errors.UndefinedTable, LockNotAvailable):
        return ()
