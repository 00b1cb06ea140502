"""What a backup will read, decided from catalog records alone."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import relation
from pgkeep.backup.plan import BackupPlan, PartRead, Preview, describe_preview, plan_backup
from pgkeep.errors import PermissionMissing, RowsHidden
from pgkeep.model import Column, Kind, NotKept
from pgkeep.postgres.catalog import PAGE_BYTES, LargeObject, Relation

KIND = Kind.FULL


def plan(*found: Relation, part_pages: int | None = None, kind: Kind = KIND) -> BackupPlan:
    return plan_backup(kind, found, (), part_pages=part_pages)


def ranges(parts: tuple[PartRead, ...]) -> list[tuple[int, int | None]]:
    return [(part.first_page, part.end_page) for part in sorted(parts, key=lambda p: p.index)]


def large_object(oid: int, *, readable: bool = True) -> LargeObject:
    return LargeObject(oid, "app", readable, "", has_grants=False, grants=())


# --- ranges ---------------------------------------------------------------------------------


@given(
    heap_bytes=st.integers(0, 3000 * PAGE_BYTES),
    toast_bytes=st.integers(0, 30000 * PAGE_BYTES),
    part_pages=st.integers(16, 2000),
)
def test_parts_cover_all_pages_once_and_the_last_has_no_end(
    heap_bytes: int, toast_bytes: int, part_pages: int
) -> None:
    table = relation(heap_bytes=heap_bytes, table_bytes=heap_bytes + toast_bytes)
    made = plan(table, part_pages=part_pages)
    found = ranges(made.parts)
    assert found[0][0] == 0
    assert found[-1][1] is None
    assert all(first[1] == second[0] for first, second in pairwise(found))
    assert all(end is None or first < end <= first + part_pages for first, end in found)
    assert found[-1][0] * PAGE_BYTES <= heap_bytes
    assert sorted(part.index for part in made.parts) == list(range(len(found)))


def test_rows_that_were_never_estimated_are_not_told_as_none() -> None:
    size = 3 * PAGE_BYTES
    table = relation("t", heap_bytes=size, table_bytes=size, estimated_rows=0)
    made = plan(table)
    assert next(describe_preview(Preview(made, made.parts))).startswith("public.t: rows not known")


def test_a_query_says_its_range() -> None:
    made = plan(relation("t", heap_bytes=250 * PAGE_BYTES, table_bytes=0), part_pages=100)
    by_index = sorted(made.parts, key=lambda part: part.index)
    assert [re.sub(r"::pg_catalog.tid", "", part.query) for part in by_index] == [
        """SELECT "id" FROM ONLY "public"."t" WHERE ctid < '(100,0)'""",
        """SELECT "id" FROM ONLY "public"."t" WHERE ctid >= '(100,0)' AND ctid < '(200,0)'""",
        """SELECT "id" FROM ONLY "public"."t" WHERE ctid >= '(200,0)'""",
    ]


@pytest.mark.parametrize(("pages", "parts"), [(0, 1), (1, 1), (100, 1), (101, 2), (200, 2)])
def test_a_table_is_cut_only_when_it_is_longer_than_a_part(pages: int, parts: int) -> None:
    size = pages * PAGE_BYTES
    assert len(plan(relation(heap_bytes=size, table_bytes=size), part_pages=100).parts) == parts


def test_a_begun_page_counts_as_one() -> None:
    size = 100 * PAGE_BYTES + 1
    assert len(plan(relation(heap_bytes=size, table_bytes=size), part_pages=100).parts) == 2


def test_a_table_with_much_toast_has_smaller_ranges_and_parts_of_one_size() -> None:
    heap = 1000 * PAGE_BYTES
    flat = plan(relation(heap_bytes=heap, table_bytes=heap), part_pages=100)
    fat = plan(relation(heap_bytes=heap, table_bytes=10 * heap), part_pages=100)
    assert ranges(flat.parts)[0] == (0, 100)
    assert ranges(fat.parts)[0] == (0, 10)
    assert {part.estimated_bytes for part in (*flat.parts, *fat.parts)} == {100 * PAGE_BYTES}
    huge = plan(relation(heap_bytes=20 * PAGE_BYTES, table_bytes=10**12), part_pages=16)
    assert ranges(huge.parts)[:2] == [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("mebibytes", "part_pages"),
    [(1, 128), (100, 128), (127, 128), (128, 256), (1000, 1024), (4000, 4096), (10**6, 4096)],
)
def test_the_size_of_parts_follows_the_tables(mebibytes: int, part_pages: int) -> None:
    size = mebibytes << 20
    parts = plan(relation(heap_bytes=size, table_bytes=size)).parts
    assert len(parts) == -(-size // (part_pages * PAGE_BYTES))
    assert len(parts) == 1 or ranges(parts)[0] == (0, part_pages)


def test_what_has_no_pages_of_its_own_kind_is_one_part() -> None:
    large = 1000 * PAGE_BYTES
    other = relation("other", heap_bytes=large, table_bytes=large, is_heap=False)
    chosen = relation("chosen", heap_bytes=large, table_bytes=large, condition="WHERE id > 9")
    made = plan(other, chosen, part_pages=16)
    assert ranges(made.parts) == [(0, None), (0, None)]
    queries = {part.table.name.name: part.query for part in made.parts if part.table}
    assert "ctid" not in queries["other"]
    assert queries["chosen"] == 'SELECT "id" FROM ONLY "public"."chosen" WHERE id > 9'


def test_generated_columns_are_not_read() -> None:
    columns = (Column("a b", "text"), Column("c", "text", generated="lower(a)"))
    assert plan(relation(columns=columns)).parts[0].query.startswith('SELECT "a b" FROM ONLY')
    bare = plan(relation(columns=()))
    assert bare.parts[0].query == 'SELECT  FROM ONLY "public"."t"'


def test_the_largest_parts_come_first() -> None:
    tables = [
        relation(name, heap_bytes=pages * PAGE_BYTES, table_bytes=pages * PAGE_BYTES)
        for name, pages in (("small", 5), ("large", 250), ("middle", 50))
    ]
    made = plan(*tables, part_pages=100)
    assert [part.table.name.name for part in made.parts if part.table] == [
        "large", "large", "large", "middle", "small",
    ]  # fmt: skip
    assert [table.name.name for table in made.tables] == ["small", "large", "middle"]
    assert made.estimated_rows == 3000
    assert made.estimated_bytes == sum(part.estimated_bytes for part in made.parts)


# --- what is kept ---------------------------------------------------------------------------


def test_only_tables_with_rows_of_their_own_are_read() -> None:
    kinds = {"r": "table", "p": "partitioned", "m": "matview", "f": "foreign"}
    made = plan(*(relation(name, kind=kind) for kind, name in kinds.items()))
    assert [table.name.name for table in made.tables] == ["table"]
    assert made.not_kept == (
        NotKept("rows of foreign table public.foreign", "they live on another server", False),
    )


def test_unlogged_tables_are_read_like_others() -> None:
    assert len(plan(relation(unlogged=True)).parts) == 1


def test_a_schema_backup_reads_no_rows() -> None:
    made = plan(relation(readable=False), relation("x", kind="f"), kind=Kind.SCHEMA)
    assert (made.tables, made.parts, made.large_objects) == ((), (), ())


# --- what may not be read -------------------------------------------------------------------


def test_an_unreadable_table_ends_the_plan() -> None:
    with pytest.raises(PermissionMissing) as caught:
        plan(relation("open"), relation("Closed", readable=False))
    assert caught.value.message == 'this role may not read table public."Closed"'
    assert "GRANT pg_read_all_data" in caught.value.hint


def test_all_unreadable_tables_are_named() -> None:
    tables = [relation(f"t{number:02}", readable=False) for number in range(10)]
    with pytest.raises(PermissionMissing) as caught:
        plan(*tables)
    names = ", ".join(f"public.t{number:02}" for number in range(10))
    assert caught.value.message == f"this role may not read 10 tables: {names}"
    with pytest.raises(PermissionMissing) as caught:
        plan(*tables, relation("u", readable=False), relation("v", readable=False))
    assert caught.value.message == f"this role may not read 12 tables: {names} and 2 more"


def test_all_tables_with_hidden_rows_are_named() -> None:
    with pytest.raises(RowsHidden) as caught:
        plan(relation("a", rows_hidden=True), relation("b"), relation("c", rows_hidden=True))
    assert caught.value.message == (
        "row-level security hides rows from this role in 2 tables: public.a, public.c"
    )
    assert "BYPASSRLS" in caught.value.hint


def test_what_may_not_be_read_at_all_goes_before_what_is_hidden() -> None:
    with pytest.raises(PermissionMissing, match=r"public\.a$"):
        plan(relation("a", readable=False, rows_hidden=True), relation("b", rows_hidden=True))


@pytest.mark.parametrize("kind", ["p", "m", "f"])
def test_what_is_not_read_need_not_be_readable(kind: str) -> None:
    plan(relation(kind=kind, readable=False, rows_hidden=True))


# --- large objects --------------------------------------------------------------------------


def test_large_objects_are_read_in_parts_and_each_once() -> None:
    objects = [large_object(oid) for oid in range(1, 4502)]
    made = plan_backup(Kind.DATA, (), objects, part_pages=16)
    assert [(part.table, part.index, part.first_page) for part in made.parts] == [
        (None, 0, 1), (None, 1, 2001), (None, 2, 4001),
    ]  # fmt: skip
    listed = [int(oid) for part in made.parts for oid in re.findall(r"\((\d+)\)", part.query)]
    assert listed == [item.oid for item in objects]


def test_large_objects_that_may_not_be_read_are_told() -> None:
    objects = [large_object(1), large_object(2, readable=False)]
    made = plan_backup(Kind.FULL, (), objects, part_pages=16)
    assert [item.oid for item in made.large_objects] == [1]
    assert made.not_kept == (NotKept("large object 2", "this role may not read it"),)
    assert "(2)" not in made.parts[0].query
