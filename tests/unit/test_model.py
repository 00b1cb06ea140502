"""The words: identifiers that check themselves, folders as people look for them, quoting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import ID, contents, manifest, object_name, table
from pgkeep.model import BackupId, Kind, ObjectName, Part, TableName, Tier, quote_identifier


def day(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}T12:00:00+00:00")


# --- identifiers ----------------------------------------------------------------------------


def test_an_object_is_filed_by_its_name() -> None:
    name = ObjectName("ab" + "0" * 62)
    assert name == "ab" + "0" * 62
    assert name.path == f"objects/ab/{name}"


@pytest.mark.parametrize(
    "text", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "../" + "a" * 61, "a" * 64 + "\n"]
)
def test_what_is_no_object_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an object name"):
        ObjectName(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "20260115T060000Z", "20260115T060000Z-0123ABCD", "20260115T060000-0123abcd",
        "20260115T060000Z-0123abcde", f"{ID}\n", f"../{ID}", f" {ID}",
    ],
)  # fmt: skip
def test_what_is_no_backup_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a backup id"):
        BackupId(text)


def test_a_backup_id_tells_the_moment_in_utc() -> None:
    berlin = datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    assert BackupId.begin(berlin).startswith("20251231T233000Z-")


@given(first=st.datetimes(timezones=st.just(UTC)), second=st.datetimes(timezones=st.just(UTC)))
def test_backup_ids_sort_by_time(first: datetime, second: datetime) -> None:
    if min(first, second).year < 1000:
        return
    early, late = sorted([first.replace(microsecond=0), second.replace(microsecond=0)])
    if early < late:
        assert BackupId.begin(early) < BackupId.begin(late)


def test_backup_ids_of_one_second_differ() -> None:
    moment = day("2026-01-15")
    assert len({BackupId.begin(moment) for _ in range(100)}) == 100


# --- tiers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tier", "date", "folder"),
    [
        (Tier.DAILY, "2024-01-15", "daily/2024-01-15"),
        (Tier.SCHEMA, "2024-12-31", "schema/2024-12-31"),
        (Tier.MANUAL, "2024-02-29", "manual/2024-02-29"),
        (Tier.MONTHLY, "2024-01-31", "monthly/2024-01"),
        (Tier.WEEKLY, "2024-01-15", "weekly/week_03_2024"),
        # ISO weeks belong to the year of their Thursday.
        (Tier.WEEKLY, "2024-12-29", "weekly/week_52_2024"),
        (Tier.WEEKLY, "2024-12-30", "weekly/week_01_2025"),
        (Tier.WEEKLY, "2021-01-03", "weekly/week_53_2020"),
        (Tier.WEEKLY, "2021-01-04", "weekly/week_01_2021"),
        (Tier.WEEKLY, "2027-01-01", "weekly/week_53_2026"),
    ],
)
def test_a_tier_files_by_its_period(tier: Tier, date: str, folder: str) -> None:
    assert tier.folder(day(date)) == folder


def test_a_manifest_knows_its_place() -> None:
    made = manifest(tier=Tier.WEEKLY)
    assert made.folder == f"shop/weekly/week_03_2026/{ID}"
    assert made.path == f"shop/weekly/week_03_2026/{ID}/manifest.json"


# --- kinds, sums ----------------------------------------------------------------------------


def test_a_kind_says_what_it_holds() -> None:
    held = {kind: (kind.has_schema, kind.has_data) for kind in Kind}
    assert held == {
        Kind.FULL: (True, True), Kind.SCHEMA: (True, False), Kind.DATA: (False, True),
    }  # fmt: skip


def test_contents_name_every_stream_once() -> None:
    names = [item.name for stream in contents().streams() for item in stream.objects]
    expected = ("schema", "roles", "public.customers", "large objects")
    assert names == [object_name(text) for text in expected]
    bare = contents(schema=None, roles_script=None)
    assert len(bare.streams()) == 2


def test_a_manifest_counts_all_its_objects() -> None:
    names = [item.name for item in manifest().all_objects]
    assert names == [object_name(text) for text in ("contents", "script", "rows")]


def test_a_table_adds_up_its_parts() -> None:
    example = table()
    (part,) = example.parts
    both = table(parts=(part, Part(10, None, 3, part.text)), rows=5)
    assert both.text_bytes == 2 * example.text_bytes == 20
    assert both.stored_bytes == 2 * example.stored_bytes
    assert [column.name for column in both.copied_columns] == ["id", "name"]
    assert contents(tables=(both, example)).rows == 7


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (TableName("public", "orders"), "public.orders"),
        (TableName("public", "Order Items"), 'public."Order Items"'),
        (TableName("a.b", 'c"d'), '"a.b"."c""d"'),
        (TableName("_x$1", "1x"), '_x$1."1x"'),
        (TableName("public", ""), 'public.""'),
        (TableName("public", "orders\n"), 'public."orders\n"'),
    ],
)
def test_a_name_is_shown_with_quotes_where_it_needs_them(name: TableName, shown: str) -> None:
    assert str(name) == shown


@given(st.text())
def test_quoting_can_be_undone(name: str) -> None:
    quoted = quote_identifier(name)
    assert quoted[0] == quoted[-1] == '"'
    assert '"' not in quoted[1:-1].replace('""', "")
    assert quoted[1:-1].replace('""', '"') == name


def test_sql_is_always_quoted() -> None:
    assert TableName("public", "select").sql == '"public"."select"'
