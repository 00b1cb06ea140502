"""Codes are good once, cannot be guessed, and a clock that is turned helps nobody."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pgkeep.errors import ApprovalInvalid, ConfigurationError, FactorRefused
from pgkeep.repository.factors import (
    Factor,
    FactorKind,
    new_recovery_codes,
    recovery_factor,
)
from pgkeep.repository.guard import FREE_TRIES, PAUSES, App, Guard
from pgkeep.sealing import totp
from pgkeep.testing import FakeClock
from racing import TRIES, race, take_code, take_recovery_code

SECRET, OTHER = b"a secret of 20 bytes", b"another, of 20 bytes"
NOBODY: frozenset[tuple[str, int]] = frozenset()


def app(name: str = "phone", secret: bytes = SECRET) -> App:
    began = FakeClock()()
    return App(Factor(f"{name:0>16}", name, FactorKind.TOTP, began, "host"), secret)


def code_at(moment: datetime, secret: bytes = SECRET) -> str:
    return totp.code_for(secret, totp.counter_at(moment))


def wrong_at(moment: datetime) -> str:
    now = totp.counter_at(moment)
    right = {totp.code_for(secret, now + step) for step in (-1, 0, 1) for secret in (SECRET, OTHER)}
    return next(code for code in map("{:06}".format, range(100)) if code not in right)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def guard(tmp_path: Path, clock: FakeClock) -> Iterator[Guard]:
    made = Guard(tmp_path / "factors")
    made.begin(clock())
    yield made
    assert (tmp_path / "factors" / "guard.json").stat().st_mode & 0o077 == 0


def refused(guard: Guard, code: str, now: datetime, *apps: App) -> str:
    with pytest.raises(FactorRefused) as caught:
        guard.take_code(code, apps or [app()], now)
    return caught.value.message


def miss(guard: Guard, clock: FakeClock, times: int) -> None:
    for _ in range(times):
        assert refused(guard, wrong_at(clock()), clock()).startswith("this code is wrong")


def test_a_code_is_taken_once_and_none_before_it(guard: Guard, clock: FakeClock) -> None:
    before = code_at(clock() - timedelta(seconds=30))
    assert guard.take_code(code_at(clock()), [app()], clock()).name == "phone"
    assert refused(guard, code_at(clock()), clock()) == "this code was used already"
    assert refused(guard, before, clock()) == "this code was used already"
    assert guard.look(clock()).wrong == 0, "what was right once is no guess"
    clock.advance(timedelta(seconds=30))
    guard.take_code(code_at(clock()), [app()], clock())


def test_apps_have_codes_of_their_own(guard: Guard, clock: FakeClock) -> None:
    both = [app("phone"), app("tablet", OTHER)]
    assert guard.take_code(code_at(clock(), OTHER), both, clock()).name == "tablet"
    assert guard.take_code(code_at(clock()), both, clock()).name == "phone"


def test_wrong_codes_count_over_all_apps_and_each_lock_out_is_longer(
    guard: Guard, clock: FakeClock
) -> None:
    both = (app("phone"), app("tablet", OTHER))
    for left in range(FREE_TRIES - 1, 0, -1):
        assert f"{left} more" in refused(guard, wrong_at(clock()), clock(), *both)
    for number, pause in enumerate([*PAUSES, PAUSES[-1]], FREE_TRIES):
        assert f"for {int(pause.total_seconds() // 60)} min" in refused(
            guard, wrong_at(clock()), clock(), *both
        )
        clock.advance(pause - timedelta(seconds=1))
        right = code_at(clock())
        assert refused(guard, right, clock()).startswith(f"after {number} wrong codes")
        clock.advance(timedelta(seconds=1))
    guard.take_code(code_at(clock()), [app()], clock())
    assert "4 more" in refused(guard, wrong_at(clock()), clock())


def test_tries_during_a_lock_out_do_not_make_it_longer(guard: Guard, clock: FakeClock) -> None:
    miss(guard, clock, FREE_TRIES)
    before = guard.look(clock())
    for _ in range(10):
        refused(guard, wrong_at(clock()), clock())
    assert guard.look(clock()) == before


@pytest.mark.parametrize("back", [timedelta(minutes=5), timedelta(days=1), timedelta(days=4000)])
def test_a_clock_that_is_set_back_ends_no_lock_out_and_revives_no_code(
    guard: Guard, clock: FakeClock, back: timedelta
) -> None:
    old = clock() - back
    miss(guard, clock, FREE_TRIES)
    assert "no code can be checked" in refused(guard, code_at(old), old)
    assert refused(guard, code_at(clock()), clock()).startswith("after 5 wrong codes")
    clock.advance(PAUSES[0])
    guard.take_code(code_at(clock()), [app()], clock())
    assert "no code can be checked" in refused(guard, code_at(old), old)
    assert guard.look(clock()).wrong == 0, "a clock is no guess"


def test_an_old_code_that_was_never_used_is_no_good_after_a_small_step_back(
    guard: Guard, clock: FakeClock
) -> None:
    early = clock()
    clock.advance(timedelta(seconds=110))
    miss(guard, clock, 1)
    assert refused(guard, code_at(early), early).startswith("this code is wrong")


def test_what_was_seen_outlives_the_process(tmp_path: Path, guard: Guard, clock: FakeClock) -> None:
    miss(guard, clock, FREE_TRIES)
    again = Guard(tmp_path / "factors")
    again.begin(clock())
    assert refused(again, code_at(clock()), clock()).startswith("after 5 wrong codes")


@pytest.mark.parametrize("harm", [None, b"", b"{}", b"\xff", b'{"seen": "yesterday"}'])
def test_a_memory_that_is_gone_or_damaged_begins_with_a_lock_out_that_ends(
    tmp_path: Path, guard: Guard, clock: FakeClock, harm: bytes | None
) -> None:
    path = tmp_path / "factors" / "guard.json"
    path.unlink() if harm is None else path.write_bytes(harm)
    for _ in range(2):
        assert refused(guard, code_at(clock()), clock()).startswith("after 5 wrong codes")
        clock.advance(PAUSES[0] / 2)
    guard.take_code(code_at(clock()), [app()], clock())


def test_without_a_place_to_remember_no_code_is_taken(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="in the state folder"):
        Guard(tmp_path / "file" / "factors").take_code(code_at(clock()), [app()], clock())


# --- recovery codes -------------------------------------------------------------------------


def test_a_recovery_code_is_good_once_even_during_a_lock_out(
    guard: Guard, clock: FakeClock
) -> None:
    codes = new_recovery_codes()
    factor = recovery_factor(codes, "codes", "host", clock())
    miss(guard, clock, FREE_TRIES)
    assert guard.take_recovery_code(codes[7], [factor], NOBODY, clock()) == (factor, 7)
    assert guard.look(clock()).wrong == 0
    with pytest.raises(FactorRefused, match="used already"):
        guard.take_recovery_code(codes[7], [factor], NOBODY, clock())
    with pytest.raises(FactorRefused, match="used already"):
        guard.take_recovery_code(codes[6], [factor], frozenset({(factor.id, 6)}), clock())


def test_a_recovery_code_of_another_set_is_wrong_and_counts(guard: Guard, clock: FakeClock) -> None:
    factor = recovery_factor(new_recovery_codes(), "codes", "host", clock())
    for _ in range(FREE_TRIES):
        with pytest.raises(FactorRefused, match="this code is wrong"):
            guard.take_recovery_code(new_recovery_codes()[0], [factor], NOBODY, clock())
    assert refused(guard, code_at(clock()), clock()).startswith("after 5 wrong codes")


# --- devices --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "last_is_good"),
    [((0, 0, 0), True), ((1, 2, 9), True), ((5, 5), False), ((5, 4), False), ((5, 0), False)],
)
def test_the_count_of_a_device_only_rises(
    guard: Guard, clock: FakeClock, counts: tuple[int, ...], last_is_good: bool
) -> None:
    key = Factor("k" * 16, "token", FactorKind.SSH, clock(), "host")
    *first, last = counts
    for count in first:
        guard.take_approval(key, count, clock())
    if last_is_good:
        guard.take_approval(key, last, clock())
    else:
        with pytest.raises(ApprovalInvalid, match="counts"):
            guard.take_approval(key, last, clock())


# --- several at once ------------------------------------------------------------------------


def test_of_several_processes_with_the_same_code_one_wins(
    tmp_path: Path, guard: Guard, clock: FakeClock
) -> None:
    answers = race(take_code, tmp_path / "factors", code_at(clock()), app(), clock())
    assert answers.count("taken") == 1
    assert answers.count("this code was used already") == TRIES - 1


def test_of_several_processes_none_guesses_beyond_the_limit(
    tmp_path: Path, guard: Guard, clock: FakeClock
) -> None:
    answers = race(take_code, tmp_path / "factors", wrong_at(clock()), app(), clock())
    assert sum(one.startswith("this code is wrong") for one in answers) == FREE_TRIES
    assert sum(one.startswith("after 5 wrong codes") for one in answers) == TRIES - FREE_TRIES


def test_of_several_processes_with_the_same_recovery_code_one_wins(
    tmp_path: Path, guard: Guard, clock: FakeClock
) -> None:
    codes = new_recovery_codes()
    factor = recovery_factor(codes, "codes", "host", clock())
    answers = race(take_recovery_code, tmp_path / "factors", codes[0], factor, clock())
    assert sorted(answers) == [*[False] * (TRIES - 1), True]
