"""The audit's numbers, and pages that no name can break."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from examples import manifest, object_name
from pgkeep.keeper.audit import (
    Audit,
    Copy,
    DatabaseAudit,
    Forecast,
    Month,
    Point,
    access,
    forecast,
    incidents,
    losses,
    notable,
    recommendations,
    stored_bytes,
    table_changes,
)
from pgkeep.keeper.audit_documents import audit_document
from pgkeep.keeper.audit_pages import html, markdown
from pgkeep.keeper.plots import line_plot
from pgkeep.keeper.text import size
from pgkeep.model import Manifest, StoredObject
from pgkeep.platforms.prices import storage_price
from pgkeep.recovery.objectives import Objective
from pgkeep.repository.ledger import Entry
from pgkeep.repository.windows import Reach, Window

NOV = Month(2026, 11)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NASTY = "<script>alert(1)</script>|`*_[x](y)\nnext"


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, tzinfo=UTC)


def backup(moment: datetime, *objects: tuple[str, int]) -> Manifest:
    named = tuple(StoredObject(object_name(name), number) for name, number in objects)
    return manifest(started=moment, finished=moment, objects=named, contents=(), script=())


def entry(what: str, state: str, **more: object) -> Entry:
    example = Entry(1, "", at(3), state, what, "shop", "me@host", "tty", "")
    return replace(example, **more)  # type: ignore[arg-type]


def test_a_month_begins_and_ends_in_utc() -> None:
    assert (NOV.begins, NOV.ends) == (at(1), datetime(2026, 12, 1, tzinfo=UTC))
    assert Month(2026, 12).ends == datetime(2027, 1, 1, tzinfo=UTC)
    assert str(Month.parse("2026-01")) == "2026-01"
    with pytest.raises(ValueError, match="unconverted"):
        Month.parse("2026-13")
    assert NOV.holds(at(30, 23))
    assert not NOV.holds(NOV.ends)


def test_a_loss_window_is_the_longest_time_since_anything_could_be_restored() -> None:
    backups = [backup(at(2, 6)), backup(at(3, 6))]
    found = {one.at.day: one.value for one in losses(Reach((), (), None), backups, NOV, at(5))}
    assert 1 not in found, "there was nothing to lose yet"
    assert found[2] == 18 * 3600
    assert found[3] == 24 * 3600
    assert found[4] == 42 * 3600


def test_within_the_journal_the_loss_window_is_a_second() -> None:
    reach = Reach((Window(at(2, 6), at(4, 12)),), (), at(4, 12))
    found = {one.at.day: one.value for one in losses(reach, [backup(at(2, 6))], NOV, at(6))}
    assert found[3] == 1
    assert found[4] == 12 * 3600
    assert found[5] == 36 * 3600


def test_the_forecast_is_a_line_through_what_was_stored() -> None:
    backups = [backup(at(day), (f"part {day}", 100)) for day in range(1, 11)]
    assert stored_bytes(backups) == 1000
    found = forecast(backups, at(11))
    assert found.in_three_months == pytest.approx(1000 + 9100)
    assert found.in_a_year == pytest.approx(1000 + 36500)
    assert forecast([], at(1)) == Forecast(0, 0)
    assert forecast([backups[0], backups[0]], at(11)).in_a_year == 100


def test_an_object_that_several_backups_use_counts_once() -> None:
    assert stored_bytes([backup(at(1), ("a", 5)), backup(at(2), ("a", 5), ("b", 7))]) == 12


def test_new_and_dropped_tables_come_before_those_that_grew() -> None:
    found = table_changes({"a": 1, "gone": 5, "same": 2}, {"a": 100, "same": 2, "new": 0})
    assert [(one.name, one.before, one.after) for one in found] == [
        ("gone", 5, None), ("new", None, 0), ("a", 1, 100),
    ]  # fmt: skip


def test_access_is_counted_and_what_is_notable_picked() -> None:
    entries = [entry("backup", "began"), entry("backup", "done"), entry("backup", "failed"),
               entry("export", "done"), entry("second factor", "refused")]  # fmt: skip
    assert access(entries) == (("backup", 2, 1), ("export", 1, 0), ("second factor", 1, 1))
    assert [one.what for one in notable(entries)] == ["export", "second factor"]
    assert [one.what for one in incidents(entries)] == ["backup", "second factor"]


@pytest.mark.parametrize(
    ("url", "endpoint", "price"),
    [("s3://b", None, 0.023), ("gs://b", None, 0.02), ("file:///b", None, 0),
     ("s3://b", "https://x.r2.cloudflarestorage.com", 0.015),
     ("s3://b", "https://ref.supabase.co/storage/v1/s3", 0.0213)],
)  # fmt: skip
def test_prices_are_those_of_the_provider(url: str, endpoint: str | None, price: float) -> None:
    assert storage_price(url, endpoint) == price


def report(**changes: object) -> Audit:
    database = DatabaseAudit(
        name=NASTY, backups=(backup(at(2)),), drills=(),
        objectives=(Objective(NASTY, DAY, HOUR, "it"),), sizes=(Point(at(1), 5e6),),
        durations=(), losses=(Point(at(1), 1), Point(at(2), 7200)),
        tables=table_changes({NASTY: 1}, {}), tables_known=True, schema_changes=2, checklist=(),
    )  # fmt: skip
    copy = Copy(NASTY, "s3://b", 1, 10**10, (), "read", 0.023, Forecast(2e10, 4e10))
    example = Audit(
        NOV, at(30), "host", "pgkeep", (database,), (copy,), ((NASTY, 1, 0),),
        (entry("export", "done", who=NASTY),), (), (), (), (NASTY,),
    )  # fmt: skip
    return replace(example, **changes)  # type: ignore[arg-type]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)
        if tag not in ("meta", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_no_name_can_break_the_page() -> None:
    page = html(report())
    tags = _Tags()
    tags.feed(page)
    assert "script" not in tags.found
    assert tags.open == []
    assert "http" not in page.partition("<body>")[2], "nothing comes from elsewhere"
    assert page.count("<svg") == 2
    assert "Nothing was measured." in page


def test_markdown_tables_keep_their_columns() -> None:
    page = markdown(report())
    for line in page.splitlines():
        if line.startswith("|") and "---" not in line:
            bare = line.replace("\\|", "")
            assert bare.count("|") in (4, 5, 6, 7, 10), line
    assert "<script>" not in page.replace("\\<script\\>", "")


def test_the_document_has_figures() -> None:
    document = audit_document(report())
    assert document["clean"] is True
    assert document["dollars_a_month"] == 0.23
    assert document["month"] == "2026-11"


def test_a_problem_makes_it_unclean_and_comes_first() -> None:
    broken = replace(report().copies[0], problems=("object x is missing",))
    assert not report(copies=(broken,)).is_clean
    assert not report(ledger_problems=("entry 3 was edited",)).is_clean
    first = next(iter(recommendations([], [broken], ["entry 3 was edited"])))
    assert first.startswith("Find out who changed the record")
    assert "PROBLEMS" in html(report(copies=(broken,)))


def test_a_plot_says_in_words_what_it_shows() -> None:
    svg = line_plot([Point(at(1), 10), Point(at(9), 1e6)], "Size", size)
    assert 'aria-label="Size: 10 B on 2026-11-01, 1.0 MB on 2026-11-09, at most 1.0 MB"' in svg
    assert "nan" not in line_plot([Point(at(1), 0)], "Size", size)
    assert line_plot([], "Size", size) == '<p class="none">Nothing was measured.</p>'
