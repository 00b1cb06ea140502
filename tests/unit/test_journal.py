"""The journal from names alone: runs, holes, forks; what is kept, what can be reached; copies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import manifest
from pgkeep.errors import JournalInvalid, StoreError, StoreUnavailable
from pgkeep.model import Lsn
from pgkeep.repository.journal import (
    FrameKind,
    SegmentName,
    decode_frames,
    encode_frame,
    runs,
)
from pgkeep.repository.journal_copies import JournalCopies
from pgkeep.repository.journal_upkeep import expired, holes
from pgkeep.repository.repository import Repository
from pgkeep.stores import LocalStore, Store
from pgkeep.testing import FakeClock, FaultyStore, MemoryStore

BEGIN = datetime(2026, 1, 15, 6, 0, tzinfo=UTC)
ONE = SegmentName("shop", "a" * 16, 1, Lsn(100), Lsn(100), BEGIN, "0" * 16, f"{1:016x}", True, True)


def chain(length: int, *, whole: Sequence[tuple[bool, bool]] | None = None) -> list[SegmentName]:
    """A chain of so many segments, ten seconds each."""
    names = [ONE]
    for number in range(2, length + 1):
        before = names[-1]
        begins, ends = whole[number - 2] if whole else (True, True)
        names.append(
            replace(
                before,
                sequence=number,
                start=before.end,
                end=Lsn(before.end + 10),
                covered=before.covered + timedelta(seconds=10),
                previous=before.digest,
                digest=f"{number:016x}",
                begins_whole=begins,
                ends_whole=ends,
            )
        )
    return names


def numbers(names: Sequence[SegmentName]) -> list[int]:
    return [name.sequence for name in names]


# --- names ----------------------------------------------------------------------------------------


@given(
    st.integers(1, 9_999_999_999),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.datetimes(datetime(1000, 1, 1), datetime(9000, 1, 1)),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_a_name_is_read_as_it_was_written(
    sequence: int,
    start: int,
    end: int,
    at: datetime,
    begins: bool,
    ends: bool,
    schema: bool,
    barrier: bool,
) -> None:
    name = replace(
        ONE,
        sequence=sequence,
        start=Lsn(start),
        end=Lsn(end),
        covered=at.replace(microsecond=0, tzinfo=UTC),
        begins_whole=begins,
        ends_whole=ends,
        changes_schema=schema or barrier,
        is_barrier=barrier,
    )
    assert SegmentName.parse(name.path) == name


@given(st.text(max_size=120))
def test_what_is_no_name_is_none(text: str) -> None:
    assert SegmentName.parse(text) is None
    assert SegmentName.parse(f"shop/journal/{'a' * 16}/{text}") is None


# --- runs -----------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.sets(st.integers(1, 40)), st.randoms())
def test_a_run_goes_from_hole_to_hole(length: int, lost: set[int], luck: object) -> None:
    names = [name for name in chain(length) if name.sequence not in lost]
    luck.shuffle(names)  # type: ignore[attr-defined]
    found = runs(names)
    expected: list[list[int]] = []
    for number in (n for n in range(1, length + 1) if n not in lost):
        if expected and expected[-1][-1] == number - 1:
            expected[-1].append(number)
        else:
            expected.append([number])
    assert [numbers(run.segments) for run in found] == expected


@given(st.integers(2, 20), st.integers(1, 6), st.integers(1, 10))
def test_of_two_ways_the_one_that_went_on_counts(trunk: int, dead: int, live: int) -> None:
    """A capture was killed after it had stored some; the next run went on with higher numbers."""
    names = chain(trunk)
    stump = names[-1]

    def branch(length: int, first: int, whole: Callable[[int], bool]) -> Iterator[SegmentName]:
        before = stump
        for offset in range(length):
            before = replace(
                before,
                sequence=first + offset,
                start=before.end,
                end=before.end,
                previous=before.digest,
                digest=f"{first + offset:016x}",
                begins_whole=before.ends_whole,
                ends_whole=whole(offset),
            )
            yield before

    dying = list(branch(dead, trunk + 1, lambda _: False))
    going_on = list(branch(live, trunk + dead + 1, lambda _: True))
    (run,) = runs([*names, *dying, *going_on])
    assert run.segments == (*names, *going_on)


def test_parts_of_a_huge_transaction_count_only_together() -> None:
    parts = [(True, True), (True, False), (False, False), (False, True), (True, True)]
    names = chain(6, whole=parts)
    assert [numbers(run.segments) for run in runs(names)] == [[1, 2, 3, 4, 5, 6]]
    assert [numbers(run.segments) for run in runs(names[:4])] == [[1, 2]]
    assert [numbers(run.segments) for run in runs(names[3:])] == [[6]]
    assert [numbers(run.segments) for run in runs([*names[:3], *names[4:]])] == [[1, 2], [6]]


def test_a_missing_part_of_a_huge_transaction_is_a_hole() -> None:
    parts = [(True, True), (True, False), (False, False), (False, True), (True, True)]
    names = chain(6, whole=parts)
    assert list(holes(names)) == []
    assert list(holes(names[2:])) == []
    for missing in names[1:-1]:
        after = names[missing.sequence]
        (told,) = holes([name for name in names if name is not missing])
        assert f"has a hole before {after.start} (" in told


def test_of_runs_that_end_in_the_same_second_the_one_that_goes_further_is_newer() -> None:
    old = chain(2)
    new = replace(ONE, chain="0" * 16, digest="f" * 16, end=Lsn(500), covered=old[-1].covered)
    assert runs([*old, new])[-1].chain == "0" * 16
    assert runs([new, *old])[-1].chain == "0" * 16


# --- frames ---------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.binary())),
    st.integers(1, 50),
)
def test_frames_come_back_however_they_are_cut(
    given_frames: list[tuple[int, int, bytes]], size: int
) -> None:
    body = b"".join(
        encode_frame(FrameKind.MESSAGE, lsn, xid, data) for lsn, xid, data in given_frames
    )
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    found = [(frame.lsn, frame.xid, frame.data) for frame in decode_frames(pieces)]
    assert found == given_frames
    if body:
        with pytest.raises(JournalInvalid):
            list(decode_frames([body[:-1]]))


# --- what is kept ---------------------------------------------------------------------------------


@given(
    st.lists(st.integers(-400, 400), min_size=1, max_size=60),
    st.integers(1, 40),
)
def test_what_expires_is_the_oldest_and_never_the_newest(jumps: list[int], keep_hours: int) -> None:
    """Whatever the server's clock did between one segment and the next."""
    names, at = [ONE], BEGIN
    for number, jump in enumerate(jumps, 2):
        at += timedelta(hours=jump)
        names.append(
            replace(ONE, sequence=number, covered=at, previous=f"{number - 1:016x}",
                    digest=f"{number:016x}")
        )  # fmt: skip
    newest = max(names, key=lambda one: (one.covered, one.sequence))
    gone = expired(names, (), timedelta(hours=keep_hours), newest.covered)
    assert newest not in gone
    kept = [name for name in names if name not in gone]
    assert all(old.covered <= min(name.covered for name in kept) for old in gone)


def test_a_clock_that_is_years_ahead_expires_nothing_that_is_a_minute_old() -> None:
    names = chain(5)
    assert expired(names, (), timedelta(days=7), BEGIN + timedelta(days=4000)) == ()


@pytest.mark.parametrize("parts", [[], [(True, False), (False, True)]])
def test_what_a_backup_continues_is_kept_however_long_ago_it_was(
    parts: list[tuple[bool, bool]],
) -> None:
    """Capture was interrupted for hours, maybe within a large transaction; then came a backup."""
    before = chain(100, whole=[(True, True)] * (99 - len(parts)) + parts)
    resumed = before[-1].covered + timedelta(hours=5)
    names = chain(300, whole=[(True, True)] * (99 - len(parts)) + parts + [(True, True)] * 200)
    names[100:] = [
        replace(name, covered=resumed + timedelta(hours=number))
        for number, name in enumerate(names[100:])
    ]
    backup = manifest(started=resumed - timedelta(hours=2))
    days = timedelta(days=5)
    gone = expired(names, [backup], days, resumed + days)
    (run,) = runs([name for name in names if name not in set(gone)])
    assert gone
    assert run.begins < backup.started
    assert run.start < names[100].start


# --- copies ---------------------------------------------------------------------------------------


class Copies:
    """A journal in two repositories in memory, one of which does not always work."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        required: Sequence[str] = (),
        bad: Store | None = None,
    ) -> None:
        self.good, self.bad = MemoryStore("good"), FaultyStore(bad or MemoryStore("bad"))
        self.now = 0.0
        clock = FakeClock()
        monkeypatch.setattr(Repository, "prepare", lambda *_: None)
        monkeypatch.setattr(Repository, "take_keys_from", lambda *_: None)

        def opener(name: str, store: MemoryStore | FaultyStore) -> Callable[[], Repository]:
            return lambda: Repository.open_or_create(name, store, now=clock())[0]

        self.copies = JournalCopies(
            "shop",
            {"good": opener("good", self.good), "bad": opener("bad", self.bad)},
            required=required,
            clock=lambda: self.now,
        )
        self.kept = 0

    def put(self) -> None:
        self.kept += 1
        path = chain(self.kept)[-1].path
        self.copies.put(path, b"segment", _Epoch(), None)  # type: ignore[arg-type]

    def names(self, store: MemoryStore | FaultyStore) -> set[str]:
        return {file.name for file in store.list("shop/journal/")}

    def wait_until_equal(self) -> None:
        deadline = time.monotonic() + 10
        while self.copies.behind:
            assert time.monotonic() < deadline
            self.copies.catch_up()
            time.sleep(0.005)
        assert self.names(self.good) == self.names(self.bad)


class _Epoch:
    id = "e" * 16


def test_one_that_fails_is_behind_and_catches_up(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Copies(monkeypatch)
    both.put()
    both.bad.fail("put", StoreUnavailable("down"), match="shop/*")
    both.put()
    both.put()
    assert set(both.copies.behind) == {"bad"}
    assert len(both.names(both.good)) == 3
    both.copies.catch_up()
    assert set(both.copies.behind) == {"bad"}, "it is left alone for a while"
    both.now = 61
    both.wait_until_equal()
    both.put()
    both.wait_until_equal()


def test_a_disk_that_is_unmounted_gets_nothing_until_it_is_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    both = Copies(monkeypatch, bad=LocalStore(disk))
    both.put()
    disk.rename(elsewhere)
    disk.mkdir()
    both.put()
    assert set(both.copies.behind) == {"bad"}
    both.now = 61
    for _ in range(50):
        both.copies.catch_up()
        time.sleep(0.005)
    assert not list(disk.iterdir())
    disk.rmdir()
    elsewhere.rename(disk)
    both.now = 200
    both.wait_until_equal()


def test_while_one_catches_up_slowly_new_segments_are_kept_and_none_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = Copies(monkeypatch)
    both.put()
    both.bad.fail("put", StoreUnavailable("down"), match="shop/*")
    both.put()
    released = both.bad.stall("put", match="shop/*")
    both.now = 61
    both.copies.catch_up()
    begun = time.monotonic()
    for _ in range(5):
        both.put()
        both.copies.catch_up()
    assert time.monotonic() - begun < 5, "nobody waits for the slow one"
    released.set()
    both.wait_until_equal()
    assert len(both.names(both.bad)) == 7


def test_one_that_is_required_and_fails_stops_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Copies(monkeypatch, required=["bad"])
    both.put()
    both.bad.fail("put", StoreUnavailable("down"), match="shop/*")
    with pytest.raises(StoreUnavailable):
        both.put()
    both.put()
    both.copies.make_equal()
    assert both.names(both.good) == both.names(both.bad)


def test_when_all_fail_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Copies(monkeypatch)
    both.put()
    both.bad.fail("put", StoreUnavailable("down"), match="shop/*")
    monkeypatch.setattr(both.good, "put", _fail)
    with pytest.raises(StoreError):
        both.put()


def _fail(*_: object) -> None:
    raise StoreUnavailable("down too")


def test_a_new_repository_gets_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Copies(monkeypatch)
    both.copies.make_equal()
    for name in chain(4):
        both.good.put(name.path, b"segment")
    both.copies.make_equal()
    assert set(both.copies.behind) == {"bad"}
    both.wait_until_equal()
