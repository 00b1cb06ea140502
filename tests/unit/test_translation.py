"""From test_decoding to pgoutput: what is kept, what waits, and what does not fit its table."""

from __future__ import annotations

import pytest

from pgkeep.capture.shapes import CatalogLook, TableShape
from pgkeep.capture.translation import Translator
from pgkeep.errors import SchemaChangedUnseen
from pgkeep.model import TableName
from pgkeep.postgres import pgoutput
from pgkeep.postgres.pgoutput import (
    Delete,
    Insert,
    LogicalMessage,
    Relation,
    RelationColumn,
    Update,
)
from pgkeep.postgres.slot import RawLine

AT = b"COMMIT 7 (at 2026-11-26 17:32:45.8028+00)"
T = TableName("public", "t")
INT, TEXT, TWICE = ("id", "integer"), ("v", "text"), ("twice", "integer")


def shape(identity: str = "d", *, has_identity: bool = True) -> TableShape:
    """Of a table with a key, a text and a generated column between the two."""
    columns = tuple(
        RelationColumn(name, 23, -1, is_key=name == "id" or identity == "f") for name in ("id", "v")
    )
    return TableShape(Relation(16400, T, identity, columns), (INT, TWICE, TEXT), has_identity)


def translated(
    *lines: bytes, of: TableShape | None = None, prefix: bytes = b"own"
) -> list[pgoutput.Message | None]:
    translator = Translator({T: of or shape()}, prefix, lambda xid: xid == 7)
    transaction = [RawLine(100, 7, b"BEGIN 7", 900, AT), *(RawLine(200, 7, one) for one in lines)]
    raw = [*transaction, RawLine(900, 7, AT)]
    return [pgoutput.parse(one.data) for one in translator.translate(raw)]


def test_a_generated_column_is_left_out_and_a_table_is_told_of_once() -> None:
    line = b"table public.t: INSERT: id[integer]:1 twice[integer]:2 v[text]:'a'"
    begin, relation, first, second, commit = translated(line, line)
    assert isinstance(begin, pgoutput.Begin)
    assert isinstance(commit, pgoutput.Commit)
    assert begin.commit_lsn < commit.end_lsn == 900
    assert begin.committed == commit.committed
    assert isinstance(relation, Relation)
    assert first == second == Insert(16400, [b"1", b"a"])


def test_a_key_and_a_whole_row_are_told_apart() -> None:
    new = b"id[integer]:2 twice[integer]:4 v[text]:null"
    keyed = translated(b"table public.t: UPDATE: old-key: id[integer]:1 new-tuple: " + new)
    assert keyed[2] == Update(16400, [b"1", None], True, [b"2", None])
    whole = translated(b"table public.t: DELETE: id[integer]:1", of=shape("f"))
    assert whole[2] == Delete(16400, [b"1", None], False)


def test_without_an_identity_only_inserts_are_kept() -> None:
    unkeyed = shape(has_identity=False)
    assert translated(
        b"table public.t: DELETE: (no-tuple-data)",
        b"table public.t: UPDATE: id[integer]:1 twice[integer]:2 v[text]:'a'",
        of=unkeyed,
    ) == [LogicalMessage(False, 900, "", b"")]


@pytest.mark.parametrize(
    "line",
    [
        b"table public.other: INSERT: id[integer]:1",
        b"table public.t: INSERT: id[integer]:1 v[text]:'a'",
        b"table public.t: INSERT: id[bigint]:1 twice[integer]:2 v[text]:'a'",
        b"table public.t: INSERT: twice[integer]:2 id[integer]:1 v[text]:'a'",
        b"table public.t: DELETE: v[text]:'a'",
        b"table public.t: DELETE: id[integer]:1 v[text]:'a'",
        b"table public.t: DELETE: (no-tuple-data)",
        b"table public.other, public.t: TRUNCATE: (no-flags)",
    ],
)
def test_what_does_not_look_like_its_table_ends_the_look(line: bytes) -> None:
    with pytest.raises(SchemaChangedUnseen):
        translated(line)


def test_only_our_own_messages_are_kept() -> None:
    ours = b"message: transactional: 1 prefix: own, sz: 2 content:{}"
    theirs = b"message: transactional: 1 prefix: own2, sz: 2 content:{}"
    assert translated(theirs) == [LogicalMessage(False, 900, "", b"")]
    assert translated(theirs, ours)[1] == LogicalMessage(True, 200, "own", b"{}")


def test_from_a_transaction_on_that_the_catalog_does_not_show_everything_waits() -> None:
    translator = Translator({T: shape()}, b"own", lambda xid: xid != 8)
    line = b"table public.t: INSERT: id[integer]:1 twice[integer]:2 v[text]:'a'"
    raw = [
        one
        for xid in (7, 8, 9)
        for one in (
            RawLine(xid, xid, b"BEGIN %d" % xid, xid * 100, AT),
            RawLine(xid, xid, line),
            RawLine(xid * 100, xid, AT),
        )
    ]
    kept = {one.xid for one in translator.translate(raw)}
    assert kept == {7}
    assert translator.held_back_at == 800
    assert translator.lines == 9


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_a_snapshot_shows_by_the_lower_half_of_an_id(epoch: int) -> None:
    base = epoch << 32
    look = CatalogLook("", base + 1000, frozenset({base + 900, base + 950}))
    assert look.shows(899)
    assert look.shows(999)
    assert not look.shows(900)
    assert not look.shows(950)
    assert not look.shows(1000)
    assert not look.shows(5000)
    just_after = CatalogLook("", (1 << 32) + 5, frozenset({(1 << 32) - 2}))
    assert just_after.shows((1 << 32) - 3)
    assert not just_after.shows((1 << 32) - 2)
    assert just_after.shows(3)
    assert not just_after.shows(5)
