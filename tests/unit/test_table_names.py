"""Table names as people write them on a command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.errors import UsageError
from pgkeep.model import TableName
from pgkeep.recovery.plan import parse_table_name


@pytest.mark.parametrize(
    ("text", "schema", "name"),
    [
        ("orders", "public", "orders"),
        ("sales.orders", "sales", "orders"),
        ("Sales.Orders", "Sales", "Orders"),
        ('"Order Items"', "public", "Order Items"),
        ('public."Order Items"', "public", "Order Items"),
        ('"a.b"."c.d"', "a.b", "c.d"),
        ('"a.b".c', "a.b", "c"),
        ('"say ""hi"""', "public", 'say "hi"'),
        ('""""', "public", '"'),
        ("Order Items", "public", "Order Items"),
        ("таблица", "public", "таблица"),
        ("a;b", "public", "a;b"),
    ],
)
def test_a_name_is_understood(text: str, schema: str, name: str) -> None:
    assert parse_table_name(text) == TableName(schema, name)


@pytest.mark.parametrize(
    "text",
    ["", ".", "a.", ".a", "a..b", "a.b.c", '"', '"a', 'a."b', '""', '""."x"', '"a"b', '"a""'],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_table_name(text)
    assert caught.value.message == f"{text!r} is not a table's name"
    assert 'public."Order Items"' in caught.value.hint


@given(schema=st.text(min_size=1), name=st.text(min_size=1))
def test_what_pgkeep_prints_is_what_it_reads(schema: str, name: str) -> None:
    table = TableName(schema, name)
    assert parse_table_name(str(table)) == table
    assert parse_table_name(table.sql) == table


@given(st.text(alphabet='a".b ', max_size=8))
def test_every_text_is_a_name_or_is_refused(text: str) -> None:
    try:
        parsed = parse_table_name(text)
    except UsageError:
        return
    assert parsed.schema
    assert parsed.name
