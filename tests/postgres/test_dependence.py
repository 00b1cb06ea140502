"""Whether rows are as they were: ids of transactions are compared on their circle."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from pgkeep.postgres.dependence import unchanged_query, unchanged_range_query

HALF = 2**31


@pytest.mark.parametrize(
    ("horizon_after_row", "young"),
    [
        pytest.param(-(HALF - 1), 2, id="almost half the circle behind"),
        pytest.param(-1, 2, id="just behind"),
        pytest.param(0, 2, id="the row's own transaction"),
        pytest.param(1, 0, id="just ahead"),
        pytest.param(HALF, 0, id="half the circle ahead"),
    ],
)
@pytest.mark.parametrize("rounds", [0, 1, 7])
def test_rows_are_young_from_the_horizon_on_for_half_the_circle(
    new_database: Callable[[], str], horizon_after_row: int, young: int, rounds: int
) -> None:
    with psycopg.connect(new_database(), autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT g FROM generate_series(1, 2) g")
        (xmin,) = connection.execute("SELECT DISTINCT xmin::text::int8 FROM t").fetchone() or ()
        horizon = xmin + horizon_after_row + rounds * 2**32
        query = unchanged_query('"public"."t"', horizon)
        assert connection.execute(query.encode()).fetchone() == (2, young)


@pytest.mark.parametrize(
    ("horizon_after_row", "young"),
    [
        pytest.param(-(HALF // 2), 2, id="a quarter of the circle behind"),
        pytest.param(-1, 2, id="just behind"),
        pytest.param(0, 2, id="the row's own transaction"),
        pytest.param(1, 0, id="just ahead"),
        pytest.param(HALF // 2, 0, id="a quarter of the circle ahead"),
    ],
)
@pytest.mark.parametrize("rounds", [0, 1, 7])
def test_rows_of_a_range_are_young_from_the_horizon_on(
    new_database: Callable[[], str], horizon_after_row: int, young: int, rounds: int
) -> None:
    with psycopg.connect(new_database(), autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT g FROM generate_series(1, 2) g")
        (xmin,) = connection.execute("SELECT DISTINCT xmin::text::int8 FROM t").fetchone() or ()
        horizon = xmin + horizon_after_row + rounds * 2**32
        where = " WHERE ctid >= '(0,0)' AND ctid < '(1,0)'"
        query = unchanged_range_query('"public"."t"', where, horizon)
        assert connection.execute(query.encode()).fetchone() == (2, young)


def test_the_question_may_run_in_parallel_workers(new_database: Callable[[], str]) -> None:
    with psycopg.connect(new_database(), autocommit=True) as connection:
        connection.execute("CREATE TABLE t AS SELECT g FROM generate_series(1, 2000) g")
        connection.execute("SET debug_parallel_query = on; SET parallel_setup_cost = 0")
        connection.execute("SET min_parallel_table_scan_size = 0; SET parallel_tuple_cost = 0")
        query = unchanged_query('"public"."t"', 3)
        plan = connection.execute(b"EXPLAIN " + query.encode()).fetchall()
        assert "Parallel Seq Scan" in str(plan)
