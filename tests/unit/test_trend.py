"""How the time of drills changes, by the size of what they restore."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from examples import MOMENT, manifest
from pgkeep.model import FORMAT
from pgkeep.recovery.objectives import Facts, restore_estimate, trend
from pgkeep.repository.evidence import Evidence, Outcome


def drill(age: int, seconds: float, text_bytes: int = 10**9) -> Evidence:
    return Evidence(
        format=FORMAT, kind="drill", database="shop", backup=manifest().backup, moment=None,
        repository="local", started=MOMENT - timedelta(days=age), seconds=seconds, steps=(),
        outcome=Outcome.PASSED, server="PostgreSQL 17", tables=1, rows=10, text_bytes=text_bytes,
        definitions=1, sequences=0, differences=0, checks=0, checks_failed=0, not_covered=0,
        host="h", tool="t", epoch="e",
    )  # fmt: skip


def test_the_newest_is_compared_with_the_middle_of_those_before() -> None:
    found = trend([drill(0, 15), drill(1, 10), drill(2, 99), drill(3, 10)])
    assert found is not None
    assert list(found.seconds) == [10, 99, 10, 15]
    assert found.change == pytest.approx(0.5)


def test_a_database_that_grows_is_no_slower_for_that() -> None:
    found = trend([drill(0, 20, 2 * 10**9), drill(1, 10)])
    assert found is not None
    assert found.change == pytest.approx(0)


def test_there_is_none_before_two_drills_have_passed() -> None:
    failed = replace(drill(1, 10), outcome=Outcome.FAILED)
    assert trend([drill(0, 10), failed]) is None
    assert trend([]) is None


@pytest.mark.parametrize(
    ("drills", "now_bytes", "seconds"),
    [
        ([(100, 10**9)], 10**9, 100),
        ([(100, 10**9)], 2 * 10**9, 190),  # what is fixed does not grow
        ([(3, 400_000)], 400_000, 3),
        ([(3, 400_000)], 10**8, 6),  # little was read, so nothing is known of the rows
        ([(6, 25 * 10**6), (3, 400_000)], 25 * 10**6, 6),
        ([(100, 10**9), (200, 10**9)], 10**9, 200),  # the slowest of the last
        ([(100, 10**9), *[(90, 10**9)] * 5, (900, 10**9)], 10**9, 100),
    ],
)
def test_a_restore_takes_what_drills_took_by_the_size(
    drills: list[tuple[float, int]], now_bytes: int, seconds: float
) -> None:
    made = manifest()
    newest = replace(made, totals=replace(made.totals, text_bytes=now_bytes))
    failed = replace(drill(0, 1, 10**9), outcome=Outcome.FAILED)
    done = (failed, *(drill(age, *one) for age, one in enumerate(drills, 1)))
    facts = Facts(MOMENT, newest, None, None, done, (), None)
    estimate = restore_estimate(facts)
    assert estimate is not None
    assert estimate.total_seconds() == pytest.approx(seconds, rel=0.05)
    assert restore_estimate(replace(facts, drills=(failed,))) is None
