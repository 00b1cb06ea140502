"""Archives that pg_dump 15, 17 and 18 made of tests/data/archives/nasty.sql."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.errors import ManifestInvalid, UsageError
from pgkeep.postgres.archive import Archive, Entry, Section, read_archive, use_list
from pgkeep.postgres.differences import Difference, compare_archives
from pgkeep.postgres.selection import Selection, attached_to, matviews_in_order, select_tables

ARCHIVES = Path(__file__).parent.parent / "data" / "archives"
VERSIONS = (15, 17, 18)
NOT_LISTED = {"ENCODING", "STDSTRINGS", "SEARCHPATH", "DATABASE", "DATABASE PROPERTIES"}
OTHER = ("odd.schema", 'a "quoted".table')


def stored(version: int) -> bytes:
    return (ARCHIVES / f"nasty-{version}.dump").read_bytes()


@pytest.fixture(scope="module", params=VERSIONS)
def archive(request: pytest.FixtureRequest) -> Archive:
    return read_archive(stored(request.param))


@pytest.fixture(scope="module")
def newest() -> Archive:
    return read_archive(stored(18))


def only_entry(archive: Archive, kind: str, tag: str) -> Entry:
    (entry,) = (e for e in archive.entries if (e.kind, e.tag) == (kind, tag))
    return entry


def labels(archive: Archive, selection: Selection) -> set[str]:
    chosen = [e for e in archive.entries if e.dump_id in selection.entries]
    return {f"{entry.kind} {entry.tag}" for entry in chosen}


def select(archive: Archive, *names: str) -> set[str]:
    return labels(archive, select_tables(archive, {("app", name) for name in names}))


def with_change(archive: Archive, change: Callable[[Entry], Entry | None]) -> Archive:
    changed = (change(entry) for entry in archive.entries)
    return replace(archive, entries=tuple(entry for entry in changed if entry is not None))


# --- reading --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "layout"), [(15, (1, 14, 0)), (17, (1, 16, 0)), (18, (1, 16, 0))]
)
def test_the_header_tells_database_and_versions(version: int, layout: tuple[int, int, int]) -> None:
    archive = read_archive(stored(version))

    assert archive.version == layout
    assert archive.database == "nasty"
    assert archive.server_version.startswith(f"{version}.")
    assert archive.dump_version.startswith(f"{version}.")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_entries_are_those_that_pg_restore_lists(version: int) -> None:
    archive = read_archive(stored(version))

    listed = use_list(entry for entry in archive.entries if entry.kind not in NOT_LISTED)

    assert listed == (ARCHIVES / f"nasty-{version}.list").read_text(encoding="utf-8")


def test_an_entry_has_all_that_the_archive_says_of_it(newest: Archive) -> None:
    customers = only_entry(newest, "TABLE", "customers")

    assert customers.definition.startswith("CREATE TABLE app.customers (\n    id integer NOT NULL,")
    assert customers.drop == "DROP TABLE app.customers;\n"
    assert customers.namespace == "app"
    assert customers.owner == "toc_owner"
    assert customers.table_access_method == "heap"
    assert customers.relkind == "r"
    assert customers.section is Section.PRE_DATA
    assert customers.table_oid == 1259
    assert only_entry(newest, "SCHEMA", "app").dump_id in customers.dependencies


def test_sections_are_read(newest: Archive) -> None:
    assert only_entry(newest, "FK CONSTRAINT", "egg egg_hen_fkey").section is Section.POST_DATA
    assert only_entry(newest, "COMMENT", "TABLE customers").section is Section.NONE


def test_names_keep_quotes_dots_and_line_breaks(archive: Archive) -> None:
    tables = {entry.tag for entry in archive.entries if entry.namespace == "odd.schema"}

    assert {'a "quoted".table', "line\n12; 0 0 TABLE broken", "Größe 表"} <= tables


def test_version_1_15_has_one_byte_for_the_compression() -> None:
    older = stored(15)
    level = older[11:16]
    assert level == b"\x01\x01\x00\x00\x00"  # -1, the default
    data = older[:6] + bytes([15]) + older[7:11] + b"\x01" + older[16:]

    archive = read_archive(data)

    assert archive.version == (1, 15, 0)
    assert archive.entries == read_archive(older).entries


def test_what_follows_the_table_of_contents_is_not_read() -> None:
    assert read_archive(stored(17) + b"\x00data") == read_archive(stored(17))


def test_bytes_that_are_not_utf_8_can_be_read_and_listed() -> None:
    archive = read_archive(stored(18).replace("Größe".encode(), b"Gr\xf6\xf6\xdf\xdfe"))

    table = next(entry for entry in archive.entries if entry.tag.startswith("Gr\udcf6"))

    assert "TABLE odd.schema Gr????e 表" in use_list([table])
    assert use_list([table]).encode("utf-8")


def test_a_list_has_one_line_for_a_name_with_line_breaks(newest: Archive) -> None:
    table = only_entry(newest, "TABLE", "line\n12; 0 0 TABLE broken")

    listed = use_list([replace(table, owner="ev\r\nil")])

    assert listed.splitlines() == [
        f"{table.dump_id}; 1259 {table.oid} TABLE odd.schema line 12; 0 0 TABLE broken ev  il"
    ]


# --- what is not an archive -----------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_an_archive_that_ends_early_is_invalid(version: int) -> None:
    data = stored(version)

    for size in (*range(600), *range(600, len(data), 211), len(data) - 1):
        with pytest.raises(ManifestInvalid):
            read_archive(data[:size])


@pytest.mark.parametrize("minor", [0, 13, 17, 255])
def test_an_unknown_version_is_named_with_those_that_are_known(minor: int) -> None:
    data = bytearray(stored(17))
    data[6] = minor

    with pytest.raises(ManifestInvalid, match=f"unknown version 1.{minor}") as caught:
        read_archive(bytes(data))

    assert caught.value.hint == (
        "Archive versions 1.14 to 1.16 are known, those of pg_dump 14 to 18."
    )


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, 0, 'does not begin with "PGDMP"'),
        (8, 0, "has integers of 0 and offsets of 8 bytes"),
        (8, 255, "has integers of 255 and offsets of 8 bytes"),
        (9, 0, "has integers of 4 and offsets of 0 bytes"),
        (10, 3, "has not the custom format"),
    ],
)
def test_a_header_that_cannot_be_is_refused(position: int, value: int, message: str) -> None:
    data = bytearray(stored(17))
    data[position] = value

    with pytest.raises(ManifestInvalid, match=message):
        read_archive(bytes(data))


def test_an_enormous_number_of_entries_ends_with_the_bytes() -> None:
    data = bytearray(stored(17))
    at = data.index(b"\x00" + len(read_archive(stored(17)).entries).to_bytes(4, "little"))
    data[at + 1 : at + 5] = b"\xff\xff\xff\xff"

    with pytest.raises(ManifestInvalid, match="ends early"):
        read_archive(bytes(data))


def test_two_entries_with_one_number_are_refused() -> None:
    data, entries = stored(17), read_archive(stored(17)).entries
    first, second = (b"\x00" + entry.dump_id.to_bytes(4, "little") for entry in entries[:2])

    with pytest.raises(ManifestInvalid, match="two entries with the number"):
        read_archive(data.replace(second, first, 1))


@given(
    version=st.sampled_from(VERSIONS),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1),
)
def test_damaged_bytes_give_an_archive_or_are_invalid(
    version: int, flips: list[tuple[float, int]]
) -> None:
    data = bytearray(stored(version))
    for place, value in flips:
        data[int(place * len(data))] = value
    read_or_refuse(bytes(data))


@given(position=st.integers(0, 300), value=st.binary(min_size=1, max_size=8))
def test_a_damaged_header_gives_an_archive_or_is_invalid(position: int, value: bytes) -> None:
    data = stored(17)
    read_or_refuse(data[:position] + value + data[position + len(value) :])


@given(st.binary())
def test_any_bytes_after_the_magic_give_an_archive_or_are_invalid(tail: bytes) -> None:
    read_or_refuse(b"PGDMP\x01\x10\x00\x04\x08\x01" + tail)


def read_or_refuse(data: bytes) -> None:
    """Reads and uses what may be an archive; any exception but the one kind fails the test."""
    try:
        archive = read_archive(data)
    except ManifestInvalid:
        return
    matviews_in_order(archive)
    compare_archives(archive, archive)


# --- selecting tables -----------------------------------------------------------------------


def test_a_table_comes_with_what_it_needs_and_what_is_attached(archive: Archive) -> None:
    assert select(archive, "customers") == {
        "SCHEMA app",
        "COMMENT SCHEMA app",
        "ACL SCHEMA app",
        "COLLATION plain",
        "EXTENSION pg_trgm",
        "COMMENT EXTENSION pg_trgm",
        "DOMAIN email",
        "TYPE address",
        "FUNCTION fold(text)",
        "FUNCTION next_code()",
        "ACL FUNCTION next_code()",
        "FUNCTION valid(text)",
        "FUNCTION stamp()",
        "TABLE customers",
        "COMMENT TABLE customers",
        "COMMENT COLUMN customers.name",
        "ACL TABLE customers",
        "ACL COLUMN customers.name",
        "SEQUENCE customers_id_seq",
        "SEQUENCE OWNED BY customers_id_seq",
        "ACL SEQUENCE customers_id_seq",
        "DEFAULT customers id",
        "CONSTRAINT customers customers_pkey",
        "CONSTRAINT customers customers_code_key",
        "CHECK CONSTRAINT customers not_long",
        "COMMENT CONSTRAINT not_long ON customers",
        "INDEX customers where",
        "INDEX customers_folded",
        "COMMENT INDEX customers_folded",
        "INDEX customers_trigram",
        "STATISTICS customers_stats",
        "TRIGGER customers stamp",
        "COMMENT TRIGGER stamp ON customers",
        "ROW SECURITY customers",
        "POLICY customers team",
        "TABLE members",  # the policy reads it
    }


def test_a_table_that_is_only_needed_is_made_but_its_rows_do_not_belong(archive: Archive) -> None:
    selection = select_tables(archive, {("app", "farms")})

    assert {"TABLE hen", "CONSTRAINT hen hen_pkey", "FUNCTION count_hens()"} <= labels(
        archive, selection
    )
    assert selection.tables == {("app", "farms")}


def test_what_a_function_body_names_as_text_is_not_known(archive: Archive) -> None:
    assert "FUNCTION stamp()" in select(archive, "customers")
    assert "TABLE log" not in select(archive, "customers")


def test_an_identity_comes_with_its_sequence(archive: Archive) -> None:
    assert {"SEQUENCE log_id_seq", "ACL SEQUENCE log_id_seq", "RULE log log_is_kept"} <= select(
        archive, "log"
    )


def test_a_sequence_that_a_default_names_comes_with_the_table(archive: Archive) -> None:
    chosen = select(archive, "tickets")

    assert {"SEQUENCE shared_numbers", "TYPE state", "FUNCTION mine(text)"} <= chosen
    assert {"POLICY tickets own", "COMMENT POLICY own ON tickets", "ROW SECURITY tickets"} <= chosen


def test_a_foreign_key_needs_both_tables(archive: Archive) -> None:
    def keys(*names: str) -> set[str]:
        return {label for label in select(archive, *names) if label.startswith("FK")}

    assert keys("hen") == {"FK CONSTRAINT hen hen_mother_fkey"}
    assert keys("egg") == set()
    assert keys("hen", "egg") == {
        "FK CONSTRAINT hen hen_mother_fkey",
        "FK CONSTRAINT hen hen_egg_fkey",
        "FK CONSTRAINT egg egg_hen_fkey",
    }
    assert keys("wearers", "badges") == {"FK CONSTRAINT wearers wearers_code_fkey"}


def test_a_foreign_key_does_not_refer_to_a_part_of_the_rows(archive: Archive) -> None:
    key = "FK CONSTRAINT lines lines_order_id_day_fkey"

    assert key in select(archive, "lines", "orders")
    assert key not in select(archive, "lines", "orders_2024")


def test_a_partition_has_the_foreign_keys_of_its_parent(archive: Archive) -> None:
    key = "FK CONSTRAINT orders orders_customer_fkey"

    assert key in select(archive, "orders_2024", "customers")
    assert key not in select(archive, "orders_2024")


def test_a_partition_comes_with_its_parents_and_attached_to_them(archive: Archive) -> None:
    partition = ("odd.schema", "orders.2025 a")
    selection = select_tables(archive, {partition})
    chosen = labels(archive, selection)

    assert selection.tables == {partition}
    assert {"TABLE orders", "TABLE orders_2025", "TRIGGER orders stamp"} <= chosen
    assert {label for label in chosen if "ATTACH" in label} == {
        "TABLE ATTACH orders_2025",
        "TABLE ATTACH orders.2025 a",
        "INDEX ATTACH orders_2025_pkey",
        "INDEX ATTACH orders_2025_customer_idx",
        "INDEX ATTACH orders.2025 a_pkey",
        "INDEX ATTACH orders.2025 a_customer_idx",
    }
    assert "TABLE orders_2024" not in chosen


def test_a_partitioned_table_brings_its_partitions_with_their_rows(archive: Archive) -> None:
    selection = select_tables(archive, {("app", "orders")})

    assert selection.tables == {
        ("app", "orders"),
        ("app", "orders_2024"),
        ("app", "orders_2025"),
        ("odd.schema", "orders.2025 a"),
        ("odd.schema", "orders.2025 b"),
    }
    assert "INDEX orders_2024_day" in labels(archive, selection)


def test_a_child_brings_its_parent_and_a_parent_no_child(archive: Archive) -> None:
    assert "TABLE animals" in select(archive, "dogs")
    assert "TABLE dogs" not in select(archive, "animals")
    assert select_tables(archive, {("app", "dogs")}).tables == {("app", "dogs")}


def test_a_foreign_table_brings_its_server(archive: Archive) -> None:
    assert {"SERVER far", "FOREIGN DATA WRAPPER nowhere"} <= select(archive, "remote")


def test_a_domain_comes_with_its_late_constraint_and_public_with_its_privileges(
    archive: Archive,
) -> None:
    chosen = labels(archive, select_tables(archive, {("public", "plain")}))

    assert {"DOMAIN late", "CHECK CONSTRAINT late positive", "ACL SCHEMA public"} <= chosen
    assert "ACL SCHEMA public" not in select(archive, "log")


def test_an_index_belongs_to_its_table_and_not_to_one_that_its_expression_names(
    archive: Archive,
) -> None:
    assert {"INDEX on hens?", "CHECK CONSTRAINT cages late"} <= select(archive, "cages")
    assert "TABLE cages" not in select(archive, "hen")


def test_no_table_brings_what_belongs_to_the_database(archive: Archive) -> None:
    every = {(e.namespace, e.tag) for e in archive.entries if e.kind in {"TABLE", "FOREIGN TABLE"}}
    selection = select_tables(archive, every)
    kinds = {e.kind for e in archive.entries if e.dump_id in selection.entries}

    assert selection.tables == every
    assert not kinds & {"PUBLICATION", "PUBLICATION TABLE", "EVENT TRIGGER", "DEFAULT ACL"}
    assert not kinds & NOT_LISTED
    assert not {"TYPE unused", "FUNCTION unused_function()"} & labels(archive, selection)
    assert "TABLE t" in labels(archive, selection)


def test_a_selection_holds_all_that_its_entries_depend_on(archive: Archive) -> None:
    present = {entry.dump_id for entry in archive.entries}
    for table in [e for e in archive.entries if e.kind == "TABLE"]:
        selection = select_tables(archive, {(table.namespace, table.tag)})
        for entry in archive.entries:
            if entry.dump_id in selection.entries:
                assert selection.entries >= set(entry.dependencies) & present


def test_nothing_selects_nothing(newest: Archive) -> None:
    assert select_tables(newest, ()) == Selection(frozenset(), frozenset())


@pytest.mark.parametrize("name", ["absent", "v_paid", "z_first", "customers_pkey"])
def test_a_table_that_the_archive_lacks_is_refused(newest: Archive, name: str) -> None:
    with pytest.raises(UsageError, match=f'table "app.{name}" is not in the archive'):
        select_tables(newest, {("app", name)})


# --- indexes and materialized views ---------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "tags"),
    [
        (
            ("app", "customers"),
            {
                "customers customers_pkey",
                "customers customers_code_key",
                "customers where",
                "customers_folded",
                "customers_trigram",
            },
        ),
        (("app", "log"), {"log log_kept_excl"}),
        (("app", "hen"), {"hen hen_pkey"}),
        (("app", "cages"), {"on hens?"}),
        (("app", "orders"), {"orders orders_pkey", "orders_customer"}),
        (("app", "z_first"), {"z_first_customer"}),
        (OTHER, {'a "quoted".table a "quoted".table_pkey'}),
        (("odd.schema", "line\n12; 0 0 TABLE broken"), {"line\n12; 0 0 TABLE broken c\nd"}),
        (("app", "tickets"), set()),
    ],
)
def test_indexes_and_constraints_of_one_table(
    archive: Archive, table: tuple[str, str], tags: set[str]
) -> None:
    attached = attached_to(archive, table)

    assert {entry.tag for entry in attached} == tags
    assert all(entry.section is Section.POST_DATA for entry in attached)


def test_materialized_views_follow_those_that_they_read_through_views(archive: Archive) -> None:
    reversed_archive = replace(archive, entries=archive.entries[::-1])
    for each in (archive, reversed_archive):
        order = [entry.tag for entry in matviews_in_order(each)]
        assert Counter(order) == Counter(
            ["z_first", "a_last", "b_alone", "after_key", "grouped_too"]
        )
        assert order.index("z_first") < order.index("a_last")


def test_materialized_views_follow_through_the_late_definition_of_a_view(newest: Archive) -> None:
    def read_by_v_grouped(entry: Entry) -> Entry:
        if (entry.kind, entry.tag) == ("RULE", "v_grouped _RETURN"):
            last = only_entry(newest, "MATERIALIZED VIEW", "a_last")
            return replace(entry, dependencies=(last.dump_id, *entry.dependencies))
        return entry

    changed = with_change(replace(newest, entries=newest.entries[::-1]), read_by_v_grouped)
    order = [entry.tag for entry in matviews_in_order(changed)]

    assert order.index("z_first") < order.index("a_last") < order.index("after_key")


# --- comparing ------------------------------------------------------------------------------


def test_an_archive_is_the_same_as_itself_in_any_order_and_with_other_numbers(
    archive: Archive,
) -> None:
    def renumbered(entry: Entry) -> Entry:
        return replace(entry, dump_id=entry.dump_id + 7, oid=1, table_oid=2, dependencies=())

    other = with_change(replace(archive, entries=archive.entries[::-1]), renumbered)

    assert compare_archives(archive, other) == ()


def test_the_name_of_the_database_makes_no_difference(newest: Archive) -> None:
    def without_database(entry: Entry) -> Entry | None:
        return None if entry.kind.startswith("DATABASE") else entry

    grant = replace(only_entry(newest, "ACL", "SCHEMA app"), tag="DATABASE nasty")
    granted = replace(newest, entries=(*newest.entries, grant))

    assert compare_archives(granted, with_change(newest, without_database)) == ()


def test_a_lost_index_is_missing_and_a_new_one_is_not_in_the_source(newest: Archive) -> None:
    def renamed(entry: Entry) -> Entry:
        return replace(entry, tag="renamed") if entry.tag == "customers_folded" else entry

    found = compare_archives(newest, with_change(newest, renamed))

    assert [str(difference) for difference in found] == [
        "INDEX app.customers_folded: missing in the target",
        "INDEX app.renamed: not in the source",
    ]


def test_a_schema_has_no_dot_before_its_name_and_a_difference_is_one_line() -> None:
    assert str(Difference("SCHEMA", "", "a\nb", "owner differs")) == "SCHEMA a b: owner differs"


@pytest.mark.parametrize(
    "change",
    [
        lambda hen: replace(hen, definition="CREATE"),
        lambda hen: replace(hen, relkind="p"),
        lambda hen: replace(hen, table_access_method="columnar"),
    ],
)
def test_another_shape_is_another_definition(
    newest: Archive, change: Callable[[Entry], Entry]
) -> None:
    hen = only_entry(newest, "TABLE", "hen")
    other = with_change(newest, lambda entry: change(entry) if entry == hen else entry)

    assert compare_archives(newest, other) == (
        Difference("TABLE", "app", "hen", "definition differs"),
    )


def test_the_relkind_counts_only_when_both_archives_have_it(newest: Archive) -> None:
    older = with_change(
        replace(newest, version=(1, 15, 0)), lambda entry: replace(entry, relkind="")
    )

    assert compare_archives(newest, older) == ()
    assert compare_archives(older, newest) == ()


def test_an_owner_differs_once_and_not_for_all_that_is_attached(newest: Archive) -> None:
    def given_away(entry: Entry) -> Entry:
        return replace(entry, owner="other") if entry.owner == "toc_owner" else entry

    other = with_change(newest, given_away)

    assert [str(difference) for difference in compare_archives(newest, other)] == [
        "SEQUENCE app.customers_id_seq: owner differs",
        "TABLE app.customers: owner differs",
    ]
    assert compare_archives(newest, other, owners=False) == ()


def test_privileges_are_compared_unless_told_otherwise(newest: Archive) -> None:
    def without_privileges(entry: Entry) -> Entry | None:
        return None if entry.kind in {"ACL", "DEFAULT ACL"} else entry

    other = with_change(newest, without_privileges)

    assert "ACL app.TABLE customers: missing in the target" in map(
        str, compare_archives(newest, other)
    )
    assert compare_archives(newest, other, privileges=False) == ()


def test_the_encoding_is_compared_by_its_definition(newest: Archive) -> None:
    encoding = only_entry(newest, "ENCODING", "ENCODING")
    latin = replace(encoding, definition="SET client_encoding = 'LATIN1';\n", owner="other")
    other = with_change(newest, lambda entry: latin if entry == encoding else entry)

    assert compare_archives(newest, other) == (
        Difference("ENCODING", "", "ENCODING", "definition differs"),
    )


def test_entries_of_one_name_are_counted(newest: Archive) -> None:
    hen = only_entry(newest, "TABLE", "hen")
    twin = replace(hen, definition="another")
    twice = replace(newest, entries=(*newest.entries, hen, twin))

    assert compare_archives(newest, twice) == (
        Difference("TABLE", "app", "hen", "not in the source"),
        Difference("TABLE", "app", "hen", "not in the source"),
    )
    assert compare_archives(twice, newest) == (
        Difference("TABLE", "app", "hen", "missing in the target"),
        Difference("TABLE", "app", "hen", "missing in the target"),
    )


def test_a_selection_is_compared_with_all_of_the_target(newest: Archive) -> None:
    selection = select_tables(newest, {("app", "log")})
    settings = {"ENCODING", "STDSTRINGS", "SEARCHPATH"}

    def restored(entry: Entry) -> Entry | None:
        return entry if entry.dump_id in selection.entries or entry.kind in settings else None

    target = with_change(newest, restored)

    assert compare_archives(newest, target, only=selection) == ()
    extra = replace(target, entries=(*target.entries, only_entry(newest, "TABLE", "hen")))
    assert compare_archives(newest, extra, only=selection) == (
        Difference("TABLE", "app", "hen", "not in the source"),
    )
