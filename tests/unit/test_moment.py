"""Moments: how they are written, and which transactions a backup shows."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pgkeep.errors import UsageError
from pgkeep.model import Lsn, SnapshotPoint
from pgkeep.recovery.moment import AtLsn, AtTime, AtTransaction, Snapshot, parse_moment

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-15 12:00:00+00:00", AtTime(NOON)),
        ("2026-01-15T12:00:00Z", AtTime(NOON)),
        ("2026-01-15 14:00+02", AtTime(NOON)),
        ("2026-01-15 12:00 UTC", AtTime(NOON)),
        (" 2026-01-15 12:00:00.25+00 ", AtTime(NOON.replace(microsecond=250000))),
        ("16/B374D848", AtLsn(Lsn(0x16B374D848))),
        ("4711", AtTransaction(4711)),
    ],
)
def test_a_moment_is_read(text: str, moment: object) -> None:
    assert parse_moment(text) == moment


def test_a_time_without_a_zone_is_refused_with_both_readings() -> None:
    with pytest.raises(UsageError, match="has no zone") as error:
        parse_moment("2026-01-15 12:00")
    assert "2026-01-15 12:00+00:00" in error.value.hint


def test_a_day_alone_is_refused_with_what_is_a_moment() -> None:
    with pytest.raises(UsageError, match="has no zone") as error:
        parse_moment("2026-01-15")
    assert parse_moment(error.value.hint.split("'")[1]) == AtTime(NOON.replace(hour=0))


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "16/xyz", "2026-13-01 00:00+00", "-5", "0001-01-01 00:00+14:00",
     "9999-12-31 23:59:59-14:00"],
)  # fmt: skip
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no moment"):
        parse_moment(text)


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (AtTime(NOON), "2026-01-15 12:00:00 UTC"),
        (AtTime(NOON.replace(microsecond=120000)), "2026-01-15 12:00:00.12 UTC"),
        (AtLsn(Lsn(0x16B374D848)), "LSN 16/B374D848"),
        (AtTransaction(7), "transaction 7"),
        (AtTransaction(7, inclusive=False), "just before transaction 7"),
    ],
)
def test_a_moment_is_shown(moment: object, words: str) -> None:
    assert str(moment) == words


def snapshot(text: str) -> Snapshot:
    return Snapshot.of(SnapshotPoint(NOON, "17", "1", 1, "0/0", text))


def test_a_snapshot_shows_what_had_ended() -> None:
    found = snapshot("100:110:100,105")
    assert [xid for xid in range(98, 113) if found.shows(xid)] == [
        98, 99, 101, 102, 103, 104, 106, 107, 108, 109,
    ]  # fmt: skip
    assert snapshot("100:100:").shows(99)
    assert not snapshot("100:100:").shows(100)


@pytest.mark.parametrize("epoch", [1, 5])
def test_short_ids_are_the_nearest_ones(epoch: int) -> None:
    """Around the moment when the 32 bits that the journal has begin anew."""
    turn = epoch << 32
    found = snapshot(f"{turn - 10}:{turn + 10}:{turn - 10},{turn + 5}")
    assert found.full_id(2**32 - 11) == turn - 11
    assert found.shows(2**32 - 11)
    assert not found.shows(2**32 - 10)
    assert found.full_id(4) == turn + 4
    assert found.shows(4)
    assert not found.shows(5)
    assert not found.shows(10)
    assert not found.shows(1000)


def test_full_ids_stay() -> None:
    assert snapshot("100:110:").full_id((7 << 32) + 5) == (7 << 32) + 5


def test_no_id_is_before_the_first() -> None:
    """Young servers: what looks as if it were two thousand million back is ahead."""
    assert snapshot("100:110:").full_id(4_000_000_000) == 4_000_000_000
