"""Getting ten rows back: one table beside the live one, what differs, and SQL that mends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from comparison import load_statements
from conftest import Workbench

SHOP = (
    'CREATE TABLE "Kunden" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "näme" text,'
    " tags json)",
    'CREATE TABLE orders (id int, line int, customer int NOT NULL REFERENCES "Kunden",'
    " amount numeric, double numeric GENERATED ALWAYS AS (amount * 2) STORED,"
    " PRIMARY KEY (id, line))",
    "CREATE TABLE log (at timestamptz, what text)",
    """INSERT INTO "Kunden" ("näme", tags) SELECT 'Kunde ' || g, '{"a": 1}'"""
    " FROM generate_series(1, 20) g",
    "INSERT INTO orders (id, line, customer, amount) SELECT g, 1, 1 + g % 20, g"
    " FROM generate_series(1, 100) g",
    "INSERT INTO log SELECT 'epoch', 'entry ' || g FROM generate_series(1, 5) g",
)

ACCIDENT = (
    "DELETE FROM orders WHERE customer = 7",
    'DELETE FROM "Kunden" WHERE id = 7',
    'UPDATE "Kunden" SET "näme" = \'oops\' WHERE id IN (1, 2)',
    """INSERT INTO "Kunden" ("näme") VALUES ('new')""",
    "DELETE FROM log WHERE what = 'entry 3'",
)


@pytest.fixture
def live(workbench: Workbench, new_database: Callable[[], str]) -> str:
    """A shop with a backup, an accident since, and its tables as they were beside the live ones."""
    url = new_database()
    load_statements(url, SHOP)
    workbench.init(url)
    workbench.pgkeep("backup", "shop")
    load_statements(url, ACCIDENT)
    tables = [part for name in ('"Kunden"', "orders", "log") for part in ("--table", name)]
    workbench.pgkeep("restore", "shop", "--target", url, *tables, "--into-schema", "recovered")
    return url


def differences(workbench: Workbench, url: str, *options: str) -> dict[str, Any]:
    outcome = workbench.pgkeep("diff", "--target", url, "--json", *options, expect=None)
    assert outcome.code in (0, 3), outcome
    document = outcome.document
    assert isinstance(document, list)
    return {one["table"]: one for one in document}


def test_what_is_missing_changed_and_new_is_told(workbench: Workbench, live: str) -> None:
    found = differences(workbench, live)
    assert list(found)[:1] != ["orders"], "parents come before children"
    counts = {name: (one["missing"], one["changed"], one["new"]) for name, one in found.items()}
    assert counts == {"Kunden": (1, 2, 1), "orders": (5, 0, 0), "log": (1, 0, 0)}
    assert found["Kunden"]["missing_keys"] == ["(7)"]
    text = workbench.pgkeep("diff", "--target", live, expect=3).out
    assert "missing" in text
    assert "no primary key" in text


def test_the_sql_puts_missing_rows_back_and_nothing_else(workbench: Workbench, live: str) -> None:
    path = workbench.folder / "back.sql"
    workbench.pgkeep("diff", "--target", live, "--sql", str(path), expect=3)
    with psycopg.connect(live, autocommit=True) as connection:
        connection.execute(path.read_bytes())
        row = connection.execute('SELECT "näme" FROM "Kunden" WHERE id = 7').fetchone()
        assert row == ("Kunde 7",)
    found = differences(workbench, live)
    assert {name: one["missing"] for name, one in found.items()} == {
        "Kunden": 0, "orders": 0, "log": 0,
    }  # fmt: skip
    assert found["Kunden"]["changed"] == 2


def test_old_values_come_back_only_if_asked(workbench: Workbench, live: str) -> None:
    path = workbench.folder / "back.sql"
    workbench.pgkeep("diff", "--target", live, "--sql", str(path), "--with-changed", expect=3)
    with psycopg.connect(live, autocommit=True) as connection:
        connection.execute(path.read_bytes())
    found = differences(workbench, live)
    assert [(one["missing"], one["changed"]) for one in found.values()] == [(0, 0)] * 3
    assert found["Kunden"]["new"] == 1


def test_ten_rows_come_back_by_a_condition(workbench: Workbench, live: str) -> None:
    beside = ("--table", '"Kunden"', "--into-schema", "picked")
    restore = ("restore", "shop", "--target", live)
    outcome = workbench.pgkeep(*restore, *beside, "--where", "\"näme\" LIKE 'Kunde 1%'")
    assert "just those with" in outcome.out
    with psycopg.connect(live) as connection:
        rows = connection.execute('SELECT count(*) FROM picked."Kunden"').fetchone()
    assert rows == (11,)
    refused = workbench.pgkeep(*restore, "--where", "true", expect=2)
    assert "--into-schema" in refused.err
    beside = ("--table", '"Kunden"', "--into-schema", "wrong")
    failed = workbench.pgkeep(*restore, *beside, "--where", "no_column = 1", expect=1)
    assert 'column "no_column" does not exist' in failed.err


def test_tables_that_are_the_same_end_with_0(workbench: Workbench, live: str) -> None:
    load_statements(live, ("CREATE TABLE same (a int); CREATE TABLE recovered.same (a int)",))
    assert "the same rows" in workbench.pgkeep("diff", "--target", live, "--table", "same").out


def test_a_column_that_only_one_has_is_told(workbench: Workbench, live: str) -> None:
    load_statements(live, ("ALTER TABLE orders ADD note text",))
    assert differences(workbench, live)["orders"]["not_compared"] == ["note"]


def test_nothing_to_compare_is_told(workbench: Workbench, live: str) -> None:
    outcome = workbench.pgkeep("diff", "--target", live, "--schema", "nowhere", expect=1)
    assert "no table in schema 'nowhere'" in outcome.err
    outcome = workbench.pgkeep("diff", "--target", live, "--with-changed", expect=2)
    assert "--sql" in outcome.err
