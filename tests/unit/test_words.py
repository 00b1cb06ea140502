"""Numbers and moments as people read them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import MOMENT
from pgkeep.cli import words


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1, "1 B"), (999, "999 B"), (1000, "1.00 kB"), (1024, "1.02 kB"),
        (9_994, "9.99 kB"), (9_996, "10.0 kB"), (99_940, "99.9 kB"), (99_960, "100 kB"),
        (999_499, "999 kB"), (999_500, "1.00 MB"), (1_530_000, "1.53 MB"),
        (1_130_000_000, "1.13 GB"), (5 * 10**12, "5.00 TB"), (7 * 10**15, "7.00 PB"),
        (1234 * 10**15, "1234 PB"),
    ],
)  # fmt: skip
def test_a_size_has_three_digits(count: int, text: str) -> None:
    assert words.size(count) == text


@given(st.integers(1000, 999 * 10**15))
def test_every_size_has_three_digits(count: int) -> None:
    number, unit = words.size(count).split()
    assert len(number.replace(".", "")) == 3
    power = 1000 ** ["kB", "MB", "GB", "TB", "PB"].index(unit) * 1000
    assert abs(float(number) * power - count) <= 0.0051 * count


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"), (0.44, "0.4 s"), (9.94, "9.9 s"), (9.96, "10 s"), (12.4, "12 s"),
        (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"), (7500, "2 h 5 min"), (360_000, "4 d 4 h"),
    ],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (timedelta(seconds=-1), "in the future"),
        (timedelta(0), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=1), "1 min ago"),
        (timedelta(minutes=59, seconds=59), "59 min ago"),
        (timedelta(hours=1), "1 h ago"),
        (timedelta(hours=47, minutes=59), "47 h ago"),
        (timedelta(days=2), "2 d ago"),
        (timedelta(days=400), "400 d ago"),
    ],
)
def test_an_age_has_one_unit(passed: timedelta, text: str) -> None:
    assert words.age(MOMENT, MOMENT + passed) == text


def test_the_rest() -> None:
    assert words.ratio(410, 100) == "4.1x"
    assert words.ratio(5, 0) == "-"
    assert words.moment(MOMENT) == "2026-01-15 06:00:00 UTC"
    assert [words.count(number, "table") for number in (0, 1, 2, 1234)] == [
        "0 tables", "1 table", "2 tables", "1,234 tables",
    ]  # fmt: skip
