"""The text of test_decoding, and pgoutput's messages written: what goes in comes out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.errors import JournalInvalid
from pgkeep.model import TableName
from pgkeep.postgres import pgoutput
from pgkeep.postgres.decoded_text import (
    Began,
    Committed,
    NamedValue,
    RowLine,
    Told,
    TruncateLine,
    parse,
)  # fmt: skip
from pgkeep.postgres.pgoutput import (
    UNCHANGED,
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Relation,
    RelationColumn,
    Truncate,
    Update,
    Value,
)  # fmt: skip
from pgkeep.postgres.pgoutput_writing import encode

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
# What is told by names alone may look like anything else that a line has.
ODD = st.sampled_from(
    ['a]:null b[text]:"', "old-key:", " new-tuple: ", "x'y", '""', "[]", "table a.b: INSERT:", "é"]
)
TYPES = st.sampled_from(
    ["text", "text[]", "timestamp with time zone", 'app."my ]t"', 'app."a""[b"[]', '"char"']
)
TABLES = st.builds(TableName, NAMES | ODD, NAMES | ODD)
QUOTED = st.binary().map(lambda value: value.replace(b"\0", b""))


def quoted(name: str) -> bytes:
    """As quote_identifier does: only plain lower-case names stay as they are."""
    plain = name.isascii() and name.isidentifier() and name == name.lower()
    return name.encode() if plain else b'"' + name.encode().replace(b'"', b'""') + b'"'


@st.composite
def columns(draw: st.DrawFn) -> list[tuple[NamedValue, bytes]]:
    """Columns, each with how the plugin writes it."""
    found = []
    for name in draw(st.lists(NAMES | ODD, max_size=5)):
        kind, value, text = draw(
            st.one_of(
                st.tuples(TYPES, QUOTED).map(
                    lambda one: (one[0], one[1], b"'" + one[1].replace(b"'", b"''") + b"'")
                ),
                TYPES.map(lambda kind: (kind, None, b"null")),
                TYPES.map(lambda kind: (kind, UNCHANGED, b"unchanged-toast-datum")),
                st.binary()
                .map(lambda b: b"".join(b"%d" % (x & 1) for x in b))
                .map(lambda bits: ("bit varying", bits, b"B'" + bits + b"'")),
                st.sampled_from([b"-1", b"NaN", b"1e+300", b"-Infinity", b"0.10"]).map(
                    lambda number: ("double precision", number, number)
                ),
                st.booleans().map(
                    lambda b: ("boolean", b"t" if b else b"f", b"true" if b else b"false")
                ),
            )
        )
        text = quoted(name) + b"[" + kind.encode() + b"]:" + text
        found.append((NamedValue(name, kind, value), text))
    return found


def written(of: list[tuple[NamedValue, bytes]]) -> bytes:
    return b"".join(b" " + text for _, text in of)


def named(of: list[tuple[NamedValue, bytes]]) -> tuple[NamedValue, ...]:
    return tuple(value for value, _ in of)


@given(TABLES, columns(), columns())
def test_rows_are_read_as_they_were_written(
    table: TableName, old: list[tuple[NamedValue, bytes]], new: list[tuple[NamedValue, bytes]]
) -> None:
    head = b"table " + quoted(table.schema) + b"." + quoted(table.name) + b": "
    line = head + b"INSERT:" + written(new)
    assert parse(line) == RowLine("INSERT", table, None, named(new))
    assert parse(head + b"DELETE:" + written(old)) == RowLine("DELETE", table, named(old), None)
    assert parse(head + b"UPDATE:" + written(new)) == RowLine("UPDATE", table, None, named(new))
    both = head + b"UPDATE: old-key:" + written(old) + b" new-tuple:" + written(new)
    assert parse(both) == RowLine("UPDATE", table, named(old), named(new))
    assert parse(head + b"DELETE: (no-tuple-data)") == RowLine("DELETE", table, None, None)


@given(st.lists(TABLES, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_truncations_name_all_of_their_tables(
    tables: list[TableName], cascade: bool, restart: bool
) -> None:
    names = b", ".join(quoted(one.schema) + b"." + quoted(one.name) for one in tables)
    flags = b" restart_seqs" * restart + b" cascade" * cascade or b" (no-flags)"
    line = parse(b"table " + names + b": TRUNCATE:" + flags)
    assert line == TruncateLine(tuple(tables), cascade, restart)


def test_transactions_have_their_id_and_their_time() -> None:
    assert parse(b"BEGIN 4294967295") == Began(4294967295)
    assert parse(b"COMMIT 7 (at 2026-11-26 17:32:45.8028+00)") == Committed(
        datetime(2026, 11, 26, 17, 32, 45, 802800, tzinfo=UTC)
    )
    assert parse(b"COMMIT 7 (at 2026-11-26 17:32:45+00)") == Committed(
        datetime(2026, 11, 26, 17, 32, 45, tzinfo=UTC)
    )


@given(st.binary(), st.booleans())
def test_a_message_counts_only_under_its_very_prefix(content: bytes, transactional: bool) -> None:
    text = b"own.123, sz: %d content:" % len(content) + content
    line = parse(b"message: transactional: %d prefix: " % transactional + text)
    assert isinstance(line, Told)
    assert line.transactional == transactional
    assert line.content(b"own.123") == content
    assert line.content(b"own.12") is None
    assert Told(True, b"own.123, sz: 1 content:, sz: 2 content:ab").content(b"own.123") is None


@pytest.mark.parametrize(
    "line",
    [b"", b"BEGIN", b"BEGIN x", b"COMMIT 7", b"COMMIT 7 (at noon)", b"table a: INSERT: x[text]:'a'",
     b"table a.b: MERGE: x[text]:'a'", b"table a.b: INSERT: x[text]:'a", b"table a.b: INSERT: x",
     b"table a.b: INSERT: x[text]:'a'b", b"table a.b, c.d: INSERT: x[text]:'a'",
     b"table a.b: UPDATE: old-key: x[text]:'a'", b"table a.b INSERT:", b"\x00\xff"],
)  # fmt: skip
def test_what_cannot_be_read_is_told_without_the_rows_in_it(line: bytes) -> None:
    with pytest.raises(JournalInvalid) as caught:
        parse(line)
    assert "x[text]" not in caught.value.message


OIDS = st.integers(0, 2**32 - 1)
POSITIONS = st.integers(0, 2**63)
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=UTC) + timedelta(0)
)
ROWS: st.SearchStrategy[list[Value]] = st.lists(
    st.none() | st.just(UNCHANGED) | st.binary(), max_size=4
)
COLUMN = st.builds(RelationColumn, NAMES, OIDS, st.integers(-1, 2**31 - 1), st.booleans())
MESSAGES = st.one_of(
    st.builds(Begin, POSITIONS, MOMENTS, OIDS),
    st.builds(Commit, POSITIONS, POSITIONS, MOMENTS),
    st.builds(Relation, OIDS, TABLES, st.sampled_from("dfni"), st.lists(COLUMN).map(tuple)),
    st.builds(Insert, OIDS, ROWS),
    st.builds(Update, OIDS, st.none(), st.just(False), ROWS),
    st.builds(Update, OIDS, ROWS, st.booleans(), ROWS),
    st.builds(Delete, OIDS, ROWS, st.booleans()),
    st.builds(Truncate, st.lists(OIDS).map(tuple), st.booleans(), st.booleans()),
    st.builds(LogicalMessage, st.booleans(), POSITIONS, NAMES, st.binary()),
)


@given(MESSAGES)
def test_what_is_written_as_pgoutput_is_read_as_the_same(message: pgoutput.Message) -> None:
    assert pgoutput.parse(encode(message)) == message
