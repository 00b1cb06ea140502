"""The moment to restore to, as PostgreSQL's own recovery understands it. Pure.

Transactions count in the order in which they committed, and the first one that lies beyond the
moment ends the replay, even if the clock of a later one says otherwise
(https://www.postgresql.org/docs/17/runtime-config-wal.html, "Recovery Target").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from pgkeep.errors import UsageError
from pgkeep.model import Lsn, SnapshotPoint

_EPOCH = 1 << 32


@dataclass(frozen=True, slots=True)
class AtTime:
    """All that had committed by then, that very microsecond included."""

    time: datetime

    def __str__(self) -> str:
        return f"{self.time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}".rstrip("0").rstrip(".") + " UTC"


@dataclass(frozen=True, slots=True)
class AtLsn:
    """All whose commit ends at or before this position."""

    lsn: Lsn

    def __str__(self) -> str:
        return f"LSN {self.lsn}"


@dataclass(frozen=True, slots=True)
class AtTransaction:
    """All up to this transaction, with it or (`inclusive` false) without it."""

    xid: int
    inclusive: bool = True

    def __str__(self) -> str:
        return f"{'' if self.inclusive else 'just before '}transaction {self.xid}"


@dataclass(frozen=True, slots=True)
class AtEnd:
    """All that the journal has."""

    def __str__(self) -> str:
        return "the end of the journal"


Moment = AtTime | AtLsn | AtTransaction | AtEnd


def parse_moment(text: str) -> Moment:
    """A time with its zone, an LSN, or a transaction id."""
    stripped = text.strip()
    if stripped.isdecimal() and len(stripped) < 20:
        return AtTransaction(int(stripped))
    if "/" in stripped:
        try:
            return AtLsn(Lsn.parse(stripped))
        except ValueError as exc:
            raise _not_a_moment(text) from exc
    try:
        time = datetime.fromisoformat(re.sub(r"\s*(UTC|utc|GMT)$", "+00:00", stripped))
    except ValueError as exc:
        raise _not_a_moment(text) from exc
    if time.tzinfo is None:
        whole = stripped if ":" in stripped else f"{stripped} 00:00"
        raise UsageError(
            f"the time {text!r} has no zone",
            hint=f"Write which clock it is by: '{whole}+00:00' is UTC, '{whole}+02:00' is"
            " two hours ahead of it.",
        )
    try:
        return AtTime(time.astimezone(UTC))
    except OverflowError as exc:  # in UTC it is before the year 1 or after 9999
        raise _not_a_moment(text) from exc


def _not_a_moment(text: str) -> UsageError:
    return UsageError(
        f"{text!r} is no moment",
        hint="Give a time with its zone ('2026-01-15 12:00:00+00:00'), an LSN ('16/B374D848'), or"
        " the id of a transaction.",
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which transactions a backup shows: `pg_current_snapshot()`."""

    xmin: int
    xmax: int
    in_progress: frozenset[int]

    @classmethod
    def of(cls, point: SnapshotPoint) -> Snapshot:
        xmin, xmax, listed = point.snapshot.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(xid) for xid in listed.split(",") if xid))

    def shows(self, xid: int) -> bool:
        """Whether a transaction that committed is in the backup; its id may be short or full."""
        full = self.full_id(xid)
        return full < self.xmin or (full < self.xmax and full not in self.in_progress)

    def full_id(self, xid: int) -> int:
        """A transaction's 64-bit id: of those with the same last 32 bits, the nearest."""
        if xid >= _EPOCH:
            return xid
        ahead = (xid - self.xmax + _EPOCH // 2) % _EPOCH - _EPOCH // 2
        return max(xid, self.xmax + ahead)
