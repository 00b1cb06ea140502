"""Foreign keys asked row by row: what a replay could have broken is found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from comparison import load_statements
from pgkeep.postgres.address import Address
from pgkeep.postgres.session import connect
from pgkeep.recovery.foreign_keys import check_foreign_keys
from pgkeep.repository.evidence import CheckResult

TABLES = (
    'CREATE TABLE "Parent" (a int, "b b" text, PRIMARY KEY (a, "b b"))',
    "CREATE TABLE child (id int PRIMARY KEY, a int, b text, boss int REFERENCES child,"
    ' CONSTRAINT "to parent" FOREIGN KEY (a, b) REFERENCES "Parent")',
    "CREATE TABLE strict (a int, b text,"
    ' CONSTRAINT whole FOREIGN KEY (a, b) REFERENCES "Parent" MATCH FULL)',
    "CREATE TABLE parts (id int, p int REFERENCES child) PARTITION BY RANGE (id)",
    "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100)",
    "INSERT INTO \"Parent\" VALUES (1, 'x'), (2, 'y')",
    "INSERT INTO child VALUES (1, 1, 'x', NULL), (2, NULL, 'unknown', 1), (3, 2, 'y', 2)",
    "INSERT INTO strict VALUES (1, 'x'), (NULL, NULL)",
    "INSERT INTO parts VALUES (1, 1), (2, NULL)",
)


def asked(url: str) -> CheckResult:
    with closing(connect(Address.parse(url))) as connection:
        found, unsure = check_foreign_keys(connection, row_by_row=True)
    assert not unsure
    return found


def test_those_that_hold_hold(new_database: Callable[[], str]) -> None:
    url = new_database()
    load_statements(url, TABLES)
    assert asked(url) == CheckResult("foreign keys", True, "4 hold")


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("INSERT INTO child VALUES (9, 1, 'y')", "to parent of public.child: no row of"
         ' public."Parent" for 1, y'),
        ("DELETE FROM child WHERE id = 2", "child_boss_fkey of public.child"),
        ("INSERT INTO strict VALUES (1, NULL)", "whole of public.strict"),
        ("INSERT INTO parts VALUES (3, 77)", "parts_p_fkey of public.parts"),
    ],
)  # fmt: skip
def test_a_row_without_its_other_is_found(
    new_database: Callable[[], str], statement: str, found: str
) -> None:
    url = new_database()
    load_statements(url, TABLES)
    load_statements(url, ("SET session_replication_role = replica; " + statement,))
    result = asked(url)
    assert not result.passed
    assert result.found.startswith(found)


def test_one_that_was_never_checked_may_be_broken(new_database: Callable[[], str]) -> None:
    url = new_database()
    load_statements(url, TABLES)
    load_statements(
        url,
        ("INSERT INTO parts VALUES (50, NULL)",
         "ALTER TABLE child ADD CONSTRAINT odd FOREIGN KEY (id) REFERENCES child (id) NOT VALID"),
    )  # fmt: skip
    assert asked(url).found == "4 hold; 1 are NOT VALID or NOT ENFORCED in the source too"
