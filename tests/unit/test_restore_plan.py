"""What a restore will do, decided from the backup alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from examples import contents, stream, table
from pgkeep.errors import UsageError
from pgkeep.model import Contents, Kind, LargeObjects, Part, SequenceValue, TableContents, TableName
from pgkeep.postgres.archive import Archive, Entry, Section
from pgkeep.recovery.plan import RestorePlan, Scope, check_scope, plan_restore

ORDERS = TableName("public", "orders")
ITEMS = TableName("public", "items")
LOG = TableName("private", "log")


def filled(name: TableName, text_bytes: int = 10) -> TableContents:
    return table(name, parts=(Part(0, None, 2, stream(str(name), text_bytes)),))


def entry(
    dump_id: int,
    kind: str,
    name: TableName | str,
    section: Section = Section.PRE_DATA,
    *,
    needs: tuple[int, ...] = (),
) -> Entry:
    namespace, tag = (name.schema, name.name) if isinstance(name, TableName) else ("public", name)
    return Entry(
        dump_id=dump_id,
        table_oid=0,
        oid=16384 + dump_id,
        tag=tag,
        kind=kind,
        section=section,
        definition=f"-- {kind} {tag}",
        drop="",
        namespace=namespace,
        owner="app",
        table_access_method="",
        relkind={"TABLE": "r"}.get(kind, ""),
        dependencies=needs,
    )


ARCHIVE = Archive(
    version=(1, 16, 0),
    database="shop",
    server_version="17.6",
    dump_version="17.6",
    entries=(
        entry(1, "TABLE", ORDERS),
        entry(2, "COMMENT", "TABLE orders", Section.NONE, needs=(1,)),
        entry(3, "ACL", "TABLE orders", Section.NONE, needs=(1,)),
        entry(4, "TABLE", ITEMS),
        entry(5, "SEQUENCE", "orders_id_seq", needs=(1,)),
        entry(6, "SEQUENCE", "free_seq"),
        entry(7, "TABLE", LOG),
        entry(10, "CONSTRAINT", "orders orders_pkey", Section.POST_DATA, needs=(1,)),
        entry(11, "INDEX", "orders_at", Section.POST_DATA, needs=(1,)),
        entry(12, "COMMENT", "INDEX orders_at", Section.NONE, needs=(11,)),
        entry(13, "INDEX", "items_name", Section.POST_DATA, needs=(4,)),
        entry(14, "TRIGGER", "orders touch", Section.POST_DATA, needs=(1,)),
    ),
)

CONTENTS = contents(
    tables=(filled(LOG), filled(ORDERS, 8 << 20), filled(ITEMS, (8 << 20) - 1)),
    sequences=(
        SequenceValue(TableName("public", "orders_id_seq"), 7, True),
        SequenceValue(TableName("public", "free_seq"), 1, False),
    ),
)


def plan(
    scope: Scope, backup: Contents = CONTENTS, archive: Archive | None = ARCHIVE
) -> RestorePlan:
    return plan_restore(backup, archive, scope)


def ids(entries: tuple[Entry, ...]) -> list[int]:
    return [item.dump_id for item in entries]


# --- scopes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "scope", "message"),
    [
        (Kind.SCHEMA, Scope(schema=False), "a schema backup holds no data"),
        (Kind.DATA, Scope(data=False), "a data backup holds no schema"),
        (
            Kind.FULL,
            Scope(into_schema="x"),
            "another schema can be given for chosen tables of a backup with data only",
        ),
        (
            Kind.SCHEMA,
            Scope(tables=(ORDERS,), into_schema="x"),
            "another schema can be given for chosen tables of a backup with data only",
        ),
    ],
)
def test_what_a_backup_cannot_give_is_refused(kind: Kind, scope: Scope, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_scope(scope, kind)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("kind", "schema", "data"),
    [(Kind.FULL, True, True), (Kind.SCHEMA, True, False), (Kind.DATA, False, True)],
)
def test_all_means_all_that_the_backup_has(kind: Kind, schema: bool, data: bool) -> None:
    assert check_scope(Scope(), kind) == Scope(schema=schema, data=data)


# --- the whole ------------------------------------------------------------------------------


def test_the_whole_is_definitions_then_rows_then_the_rest() -> None:
    made = plan(Scope())
    assert ids(made.before) == [1, 2, 4, 5, 6, 7]
    assert [item.name for item in made.tables] == [ORDERS, ITEMS, LOG]
    assert made.whole
    assert made.selection is None
    assert made.sequences == CONTENTS.sequences
    assert made.large_objects == CONTENTS.large_objects
    assert made.matviews == CONTENTS.populated_matviews
    assert made.rows == 6
    assert made.text_bytes == (8 << 20) * 2 - 1 + 10


def test_a_large_table_has_its_indexes_built_as_soon_as_it_is_full_and_once() -> None:
    made = plan(Scope())
    assert {str(item.name): ids(item.indexes) for item in made.tables} == {
        "public.orders": [10, 11], "public.items": [], "private.log": [],
    }  # fmt: skip
    assert sorted(ids(made.after)) == [3, 12, 13, 14]
    everything = [*ids(made.before), 10, 11, *ids(made.after)]
    assert sorted(everything) == ids(ARCHIVE.entries)
    assert made.definitions == len(ARCHIVE.entries)


def test_grants_come_after_all_that_the_restoring_role_has_to_do() -> None:
    made = plan(Scope())
    assert "ACL" not in {item.kind for item in made.before}
    assert "ACL" in {item.kind for item in made.after}


def test_the_schema_alone_fills_nothing() -> None:
    made = plan(Scope(data=False))
    assert ids(made.before) == [1, 2, 4, 5, 6, 7]
    assert sorted(ids(made.after)) == [3, 10, 11, 12, 13, 14]
    assert (made.tables, made.sequences, made.matviews) == ((), (), ())
    assert made.large_objects == LargeObjects()


@pytest.mark.parametrize("archive", [ARCHIVE, None])
def test_data_alone_defines_nothing(archive: Archive | None) -> None:
    made = plan(Scope(schema=False), archive=archive)
    assert (made.before, made.after) == ((), ())
    assert [item.name for item in made.tables] == [ORDERS, ITEMS, LOG]
    assert [item.indexes for item in made.tables] == [(), (), ()]
    assert made.sequences == CONTENTS.sequences
    assert not made.whole


# --- some tables ----------------------------------------------------------------------------


def test_a_chosen_table_comes_with_what_is_its_own() -> None:
    made = plan(Scope(tables=(ORDERS,)))
    assert [item.name for item in made.tables] == [ORDERS]
    assert 1 in ids(made.before)
    assert not {4, 6, 7}.intersection(ids(made.before))
    assert 13 not in ids(made.after)
    assert made.selection is not None
    assert set(ids(made.before) + ids(made.after)) | {10, 11} == set(made.selection.entries)
    assert not made.whole
    assert made.matviews == ()
    assert made.large_objects == LargeObjects()


def test_a_chosen_table_comes_with_the_sequences_that_are_selected() -> None:
    made = plan(Scope(tables=(ORDERS,)))
    assert made.selection is not None
    selected = {item.tag for item in ARCHIVE.entries if item.dump_id in made.selection.entries}
    assert [value.name.name for value in made.sequences] == [
        value.name.name for value in CONTENTS.sequences if value.name.name in selected
    ]


def test_an_unknown_table_is_refused() -> None:
    for archive in (ARCHIVE, None):
        with pytest.raises(UsageError, match="ordres"):
            plan(Scope(tables=(TableName("public", "ordres"),)), archive=archive)


def test_another_schema_gets_the_tables_under_their_own_names() -> None:
    made = plan(Scope(tables=(ORDERS, LOG), into_schema="look"))
    assert {item.name for item in made.tables} == {
        TableName("look", "orders"), TableName("look", "log"),
    }  # fmt: skip
    assert {item.source.name for item in made.tables} == {ORDERS, LOG}
    assert (made.before, made.after, made.sequences) == ((), (), ())
    assert not made.whole


def test_two_tables_of_one_name_do_not_fit_into_one_schema() -> None:
    twin = TableName("private", "orders")
    backup = replace(CONTENTS, tables=(*CONTENTS.tables, filled(twin)))
    archive = replace(ARCHIVE, entries=(*ARCHIVE.entries, entry(20, "TABLE", twin)))
    with pytest.raises(UsageError, match=r"two of the tables would both become look\.orders"):
        plan(Scope(tables=(ORDERS, twin), into_schema="look"), backup, archive)
