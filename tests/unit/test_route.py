"""Which segments lead from a backup to a moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pgkeep.model import Lsn, SnapshotPoint
from pgkeep.recovery.moment import AtEnd, AtLsn, AtTime, AtTransaction, Moment
from pgkeep.recovery.route import routes
from pgkeep.repository.journal import Run, SegmentName

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


def minute(number: float) -> datetime:
    return NOON + timedelta(minutes=number)


def segment(number: int, *, chain: str = "a" * 16, begins: bool = True, ends: bool = True,
            at: float | None = None) -> SegmentName:  # fmt: skip
    """The nth minute, from LSN n*100 to n*100+100, unless it is said otherwise."""
    covered = minute(number if at is None else at)
    return SegmentName("shop", chain, number, Lsn(number * 100), Lsn(number * 100 + 100), covered,
                       "0" * 16, "0" * 16, begins, ends, size_bytes=10)  # fmt: skip


def run(first: int, last: int, **more: str) -> Run:
    return Run(tuple(segment(number, **more) for number in range(first, last + 1)))  # type: ignore[arg-type]


def point(number: int, lsn: int | None = None) -> SnapshotPoint:
    lsn = number * 100 + 50 if lsn is None else lsn
    return SnapshotPoint(minute(number), "17", "1", 1, str(Lsn(lsn)), "1:1:")


def numbers(found_run: Run, at: SnapshotPoint, moment: Moment) -> list[int]:
    (route,) = routes([found_run], at, moment)
    return [segment.sequence for segment in route.segments]


def test_reading_begins_ten_minutes_before_the_backup() -> None:
    """A transaction that it does not show may have been waiting since its commit was written."""
    assert numbers(run(0, 40), point(30), AtEnd()) == list(range(20, 41))
    assert numbers(run(25, 40), point(30), AtEnd()) == list(range(25, 41))


def test_reading_ends_one_segment_after_the_first_that_is_a_minute_after_a_time() -> None:
    """Clocks that are read side by side may be written one after the other."""
    assert numbers(run(20, 60), point(30), AtTime(minute(35)))[-1] == 38
    assert numbers(run(20, 60), point(30), AtTime(minute(35.5)))[-1] == 38


def test_the_last_moment_that_can_be_written_is_only_far_away() -> None:
    far = AtTime(datetime.max.replace(tzinfo=UTC))
    assert numbers(run(20, 60), point(30), far)[-1] == 60


def test_where_the_clock_went_back_all_is_read_until_it_is_further_than_it_was() -> None:
    """Heads never go back: what has the time of the first that is beyond may be from before."""
    times = [20, 25, 60, 60, 60, 60, 75, 76]  # it was set back by half an hour after the third
    went_back = [segment(number, at=at) for number, at in enumerate(times)]
    backup = SnapshotPoint(minute(31), "17", "1", 1, str(Lsn(250)), "1:1:")
    assert numbers(Run(tuple(went_back)), backup, AtTime(minute(40)))[-1] == 6
    assert numbers(Run(tuple(went_back[:5])), backup, AtTime(minute(40)))[-1] == 4
    assert numbers(Run(tuple(went_back)), backup, AtLsn(Lsn(310)))[-1] == 3
    in_two = [*went_back[:6], segment(6, at=75, ends=False), segment(7, at=76, begins=False)]
    assert numbers(Run(tuple(in_two)), backup, AtTime(minute(40)))[-1] == 7


def test_reading_ends_where_an_lsn_is() -> None:
    assert numbers(run(20, 60), point(30), AtLsn(Lsn(3500)))[-1] == 34
    assert numbers(run(20, 60), point(30), AtLsn(Lsn(3501)))[-1] == 35
    assert numbers(run(20, 60), point(30), AtLsn(Lsn(3051)))[-1] == 30


def test_a_transaction_may_be_anywhere() -> None:
    assert numbers(run(20, 60), point(30), AtTransaction(7))[-1] == 60


def test_a_transaction_in_several_segments_is_read_whole() -> None:
    parts = [segment(number) for number in range(29)]
    parts += [segment(29, ends=False), segment(30, begins=False, ends=False)]
    parts += [segment(31, begins=False), segment(32)]
    late = [segment(number, begins=one.begins_whole, ends=one.ends_whole, at=15)
            for number, one in enumerate(parts)]  # fmt: skip
    assert numbers(Run(tuple(late)), point(30), AtLsn(Lsn(3060))) == [29, 30, 31]


@pytest.mark.parametrize(
    "at",
    [
        point(20, lsn=1999),  # begins before the run's first position
        point(19, lsn=2010),  # was taken before the run's first moment
    ],
)
def test_a_run_that_begins_after_a_backup_does_not_continue_it(at: SnapshotPoint) -> None:
    assert routes([run(20, 30)], at, AtEnd()) == ()


def test_a_run_that_reaches_the_moment_is_preferred_to_others() -> None:
    short, long = run(0, 20), run(5, 50, chain="b" * 16)
    found = routes([short, long], point(10), AtTime(minute(15)))
    assert [route.run for route in found] == [long, short]
    found = routes([long, short], point(10), AtTime(minute(30)))
    assert [route.run for route in found] == [long, short]
    assert routes([], point(10), AtEnd()) == ()
