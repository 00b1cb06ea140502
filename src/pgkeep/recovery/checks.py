"""Questions to a restored database: the user's own, and whether its indexes are whole."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any, Literal

import psycopg

from pgkeep.postgres.address import Address
from pgkeep.postgres.session import Connection, connect
from pgkeep.repository.evidence import CheckResult

_TIMEOUT_SECONDS = 600

Expectation = Literal["rows", "no rows", "value"]


@dataclass(frozen=True, slots=True)
class Check:
    """SQL with what its result must be: some rows, none, or one value within bounds."""

    name: str
    sql: str
    expect: Expectation = "rows"
    minimum: float | None = None
    maximum: float | None = None

    @property
    def wanted(self) -> str:
        """In words."""
        if self.expect != "value":
            return self.expect
        bounds = [f"at least {self.minimum:g}"] if self.minimum is not None else []
        bounds += [f"at most {self.maximum:g}"] if self.maximum is not None else []
        return "a value " + " and ".join(bounds)


def run_checks(address: Address, checks: Sequence[Check]) -> Iterator[CheckResult]:
    """Each in a read-only transaction of its own, with the search path that the database has.

    And in a session of its own: what one does to its session is not the next one's.
    """
    for check in checks:
        with closing(connect(address)) as connection:
            try:
                yield _ask(connection, check)
            except psycopg.Error as exc:
                message = exc.diag.message_primary or str(exc).strip() or type(exc).__name__
                yield CheckResult(check.name, False, f"it failed: {message.splitlines()[0]}")


def _ask(connection: Connection, check: Check) -> CheckResult:
    connection.execute("RESET search_path")
    connection.execute(f"SET statement_timeout = '{_TIMEOUT_SECONDS}s'".encode())
    connection.execute("BEGIN READ ONLY")  # which ends with the session
    return _judge(check, _first_rows(connection, check.sql))


def _first_rows(connection: Connection, query: str) -> list[Sequence[Any]]:
    """Two at most: the rest of a large result is not fetched.

    As one statement: with several, the first could end the transaction that is read-only.
    """
    rows = connection.cursor().stream(query.encode())
    assert isinstance(rows, Generator)
    with closing(rows):  # which ends the query
        return list(islice(rows, 2))


def _judge(check: Check, rows: Sequence[Sequence[Any]]) -> CheckResult:
    if check.expect == "rows":
        return CheckResult(check.name, bool(rows), "rows" if rows else "no rows")
    if check.expect == "no rows":
        return CheckResult(check.name, not rows, f"a row: {_short(rows[0])}" if rows else "no rows")
    if len(rows) != 1 or len(rows[0]) != 1:
        return CheckResult(check.name, False, f"no single value, and {check.wanted} is wanted")
    try:
        value = Decimal(str(rows[0][0]))
    except InvalidOperation:
        return CheckResult(check.name, False, f"{rows[0][0]!r}, which is no number")
    if value.is_nan():
        return CheckResult(check.name, False, f"{value}, not {check.wanted}")
    low = check.minimum is None or value >= Decimal(str(check.minimum))
    high = check.maximum is None or value <= Decimal(str(check.maximum))
    passed = low and high and value.is_finite()
    return CheckResult(check.name, passed, f"{value}" if passed else f"{value}, not {check.wanted}")


def _short(row: Sequence[Any]) -> str:
    text = ", ".join(str(value) for value in row)
    return text if len(text) <= 100 else f"{text[:97]}..."


def check_indexes(connection: Connection) -> CheckResult | None:
    """Whether every B-tree index is in order (amcheck); None where that is not to be had."""
    try:
        with connection.transaction():
            connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck WITH SCHEMA pg_catalog")
    except psycopg.Error:
        return None
    rows = connection.execute(
        "SELECT c.oid::int8, n.nspname || '.' || c.relname FROM pg_catalog.pg_index i"
        "  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid"
        "  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        "  JOIN pg_catalog.pg_am a ON a.oid = c.relam"
        " WHERE a.amname = 'btree' AND c.relkind = 'i' AND i.indisready AND i.indisvalid"
        "   AND n.nspname <> 'pg_catalog' AND n.nspname NOT LIKE 'pg\\_toast%'"
    ).fetchall()
    for oid, name in rows:
        try:
            connection.execute("SELECT pg_catalog.bt_index_check(%s::oid::regclass)", (oid,))
        except psycopg.Error as exc:
            message = exc.diag.message_primary or str(exc)
            return CheckResult("indexes", False, f"index {name}: {message}")
    return CheckResult("indexes", True, f"{len(rows)} B-tree indexes are in order")
