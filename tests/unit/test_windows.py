"""Which moments can be reached: backups and stretches of the journal together."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from examples import manifest
from pgkeep.model import Kind, Lsn, Manifest
from pgkeep.repository.journal import Run, SegmentName
from pgkeep.repository.windows import Window, owed, reach

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


def minute(number: float) -> datetime:
    return NOON + timedelta(minutes=number)


def backup(at: float, kind: Kind = Kind.FULL) -> Manifest:
    """Begun at a minute, and done half a minute later."""
    return replace(manifest(), kind=kind, started=minute(at), finished=minute(at + 0.5))


def run(first: int, last: int, *, barriers: tuple[int, ...] = (),
        schema: tuple[int, ...] = ()) -> Run:  # fmt: skip
    """A segment for each minute."""
    return Run(
        tuple(
            SegmentName(
                "shop", "a" * 16, number, Lsn(number), Lsn(number + 1), minute(number), "0" * 16,
                f"{number:016}", True, True, number in barriers or number in schema,
                number in barriers,
            )
            for number in range(first, last + 1)
        )
    )  # fmt: skip


def windows(*found: tuple[float, float]) -> tuple[Window, ...]:
    return tuple(Window(minute(begins), minute(ends)) for begins, ends in found)


def test_from_the_end_of_a_backup_to_the_end_of_the_journal() -> None:
    found = reach([backup(3)], [run(0, 10)])
    assert found.windows == windows((3.5, 10))
    assert (found.backups, found.covered) == ((), minute(10))


def test_a_backup_from_before_the_journal_leads_nowhere() -> None:
    old = backup(-1)
    found = reach([old], [run(0, 10)])
    assert (found.windows, found.backups) == ((), (old,))


def test_backups_of_one_stretch_open_one_window() -> None:
    assert reach([backup(3), backup(5), backup(9)], [run(0, 10)]).windows == windows((3.5, 10))


def test_a_backup_without_schema_or_rows_opens_nothing() -> None:
    kinds = [backup(3, Kind.SCHEMA), backup(4, Kind.DATA)]
    assert reach(kinds, [run(0, 10)]).windows == ()


def test_a_gap_lies_between_two_stretches_until_the_next_backup() -> None:
    found = reach([backup(1), backup(8)], [run(0, 5), run(7, 12)])
    assert found.windows == windows((1.5, 5), (8.5, 12))
    assert found.gaps == windows((5, 8.5))


def test_a_schema_change_that_can_be_done_again_is_no_end() -> None:
    assert reach([backup(1)], [run(0, 10, schema=(4,))]).windows == windows((1.5, 10))


def test_before_a_barrier_it_ends_until_a_backup_has_it() -> None:
    journal = run(0, 10, barriers=(4,))
    assert reach([backup(1)], [journal]).windows == windows((1.5, 3))
    both = reach([backup(1), backup(6)], [journal])
    assert both.windows == windows((1.5, 3), (6.5, 10))


def test_a_barrier_while_a_backup_is_made_counts() -> None:
    """Whether the backup shows it is not known from outside."""
    assert reach([backup(3.7)], [run(0, 10, barriers=(4,))]).windows == ()


def test_without_a_journal_there_are_only_backups() -> None:
    one = backup(1)
    assert reach([one], []) == reach([one], ())
    assert reach([one], []).covered is None
    assert reach([one], []).backups == (one,)


def test_a_stretch_that_no_backup_leads_to_waits_for_one() -> None:
    assert owed([], [run(0, 10)]) == (Kind.FULL,)
    assert owed([backup(-1)], [run(0, 10)]) == (Kind.FULL,)
    assert owed([backup(-1), backup(3, Kind.SCHEMA), backup(4, Kind.DATA)], [run(0, 10)]) == (
        Kind.FULL,
    )
    assert owed([backup(3)], [run(0, 10)]) == ()
    assert owed([backup(3)], []) == ()


def test_a_schema_change_waits_for_a_schema_and_a_full_backup() -> None:
    changed = [run(0, 10, schema=(5,))]
    assert owed([backup(3)], changed) == (Kind.SCHEMA, Kind.FULL)
    assert owed([backup(3), backup(6, Kind.SCHEMA)], changed) == (Kind.FULL,)
    assert owed([backup(6)], changed) == ()
    assert owed([backup(6)], [run(0, 10, barriers=(7,))]) == (Kind.SCHEMA, Kind.FULL)


def test_only_the_newest_stretch_waits() -> None:
    assert owed([backup(30)], [run(0, 10, schema=(5,)), run(20, 40)]) == ()
