"""The audit as a page: Markdown for people and machines, HTML to hand to an auditor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from html import escape

from pgkeep.keeper.audit import Audit, Copy, DatabaseAudit, TableChange
from pgkeep.keeper.plots import line_plot
from pgkeep.keeper.text import duration, size
from pgkeep.repository.ledger import Entry

Row = Sequence[str]


class _Page:
    """What both forms need: headings, paragraphs, lists, tables, plots."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def heading(self, level: int, text: str) -> None:
        raise NotImplementedError

    def text(self, text: str, *, good: bool | None = None) -> None:
        raise NotImplementedError

    def items(self, items: Iterable[str]) -> None:
        raise NotImplementedError

    def table(self, head: Row, rows: Iterable[Row], *, numbers: int = 0) -> None:
        """The last `numbers` columns are numbers."""
        raise NotImplementedError

    def plot(self, title: str, svg: str) -> None:
        raise NotImplementedError


def markdown(audit: Audit) -> str:
    """The report as Markdown."""
    page = _Markdown()
    _write(page, audit)
    return "\n".join(page.parts).rstrip() + "\n"


def html(audit: Audit) -> str:
    """The report as one file without scripts or anything from elsewhere."""
    page = _Html()
    _write(page, audit)
    title = f"pgkeep audit {audit.month}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head><body>\n{''.join(page.parts)}\n</body></html>\n"
    )


# --- what is in it ----------------------------------------------------------------------


def _write(page: _Page, audit: Audit) -> None:
    page.heading(1, f"Backup audit, {audit.month.begins:%B %Y}")
    page.text(
        f"Written on {audit.written:%Y-%m-%d %H:%M} UTC on {audit.host} by {audit.tool}."
        " All times are UTC."
    )
    good = "Everything that was checked is in order."
    bad = "Something needs somebody: see the recommendations."
    page.text(good if audit.is_clean else bad, good=audit.is_clean)
    page.table(
        ["Database", "Backups", "Drills passed", "Objectives met", "Newest backup"],
        [_summary(one) for one in audit.databases],
    )
    page.heading(2, "Recommendations")
    page.items(audit.recommendations or ["None."])
    for one in audit.databases:
        _database(page, one)
    _copies(page, audit)
    _access(page, audit)


def _summary(one: DatabaseAudit) -> Row:
    passed = sum(drill.outcome != "failed" for drill in one.drills)
    known = [objective for objective in one.objectives if objective.is_met is not None]
    met = sum(objective.is_met is True for objective in known)
    newest = f"{one.backups[-1].started:%Y-%m-%d %H:%M}" if one.backups else "none"
    return (
        one.name, str(len(one.backups)), f"{passed} of {len(one.drills)}",
        f"{met} of {len(one.objectives)}", newest,
    )  # fmt: skip


def _database(page: _Page, one: DatabaseAudit) -> None:
    page.heading(2, f"Database {one.name}")
    page.heading(3, "Objectives")
    page.table(
        ["Objective", "Met", "Promised", "Measured", "By"],
        [
            (
                item.name, {True: "yes", False: "NO", None: "not known"}[item.is_met],
                duration(item.promised), duration(item.measured) if item.measured is not None
                else "-", item.by,
            )
            for item in one.objectives
        ],
    )  # fmt: skip
    page.plot("The most that could have been lost, each day",
              line_plot(one.losses, "Loss window", _seconds))  # fmt: skip
    page.plot("Size of the database", line_plot(one.sizes, "Size", size))
    page.plot("How long backups took", line_plot(one.durations, "Duration", _seconds))
    page.heading(3, "Restores that proved something")
    page.table(
        ["When", "Kind", "Backup", "Result", "Rows", "Took"],
        [
            (_when(drill.started), drill.kind, drill.backup, drill.outcome.value,
             f"{drill.rows:,}", _seconds(drill.seconds))
            for drill in one.drills
        ],
        numbers=2,
    )  # fmt: skip
    _changes(page, one)
    page.heading(3, "Checklist")
    page.table(
        ["", "Line", "List", "Evidence or what to do"],
        [
            ("done" if line.is_done else "DUE", line.item.text, line.item.rhythm.value,
             f"{line.tick.evidence}, {line.tick.at:%Y-%m-%d}" if line.is_done and line.tick
             else line.remedy)
            for line in one.checklist
        ],
    )  # fmt: skip


def _changes(page: _Page, one: DatabaseAudit) -> None:
    page.heading(3, "What changed")
    page.text(f"Segments of the journal in which the schema changed: {one.schema_changes}.")
    if not one.tables_known:
        page.text("No key on this host opens tables of contents, so tables are not compared.")
    elif not one.tables:
        page.text("No table has other rows, or there were no two full backups to compare.")
    else:
        page.table(
            ["Table", "Rows at the beginning", "Rows at the end"],
            [(change.name, _rows(change, "before"), _rows(change, "after"))
             for change in one.tables],
            numbers=2,
        )  # fmt: skip


def _rows(change: TableChange, when: str) -> str:
    number = change.before if when == "before" else change.after
    return "not there" if number is None else f"{number:,}"


def _copies(page: _Page, audit: Audit) -> None:
    page.heading(2, "Copies, storage and cost")
    page.table(
        ["Repository", "Backups", "Checked", "Result", "Stored", "In 3 months", "In a year",
         "Now", "In a year"],
        [_copy(one) for one in audit.copies],
        numbers=5,
    )  # fmt: skip
    page.text(
        f"Storing costs {audit.dollars:,.2f} US dollars a month by published prices (docs/audit.md"
        " says which); requests and reading are not in it. The forecast is a straight line through"
        " what was stored at each backup."
    )
    for one in audit.copies:
        page.items(f"{one.name}: {problem}" for problem in one.problems)


def _copy(one: Copy) -> Row:
    later = one.forecast.in_a_year
    return (
        f"{one.name} ({one.url})", str(one.backups), one.checked,
        "whole" if not one.problems else f"{len(one.problems)} PROBLEMS", size(one.stored_bytes),
        size(one.forecast.in_three_months), size(later), f"{one.dollars:,.2f} $",
        f"{later / 1e9 * one.price:,.2f} $",
    )  # fmt: skip


def _access(page: _Page, audit: Audit) -> None:
    page.heading(2, "Access")
    problems = audit.ledger_problems
    page.text(
        "The ledger is whole, as the anchors in the repositories say." if not problems
        else "; ".join(problems), good=not problems,
    )  # fmt: skip
    page.table(
        ["Command", "Ended", "Of them badly"],
        [(what, str(number), str(failed)) for what, number, failed in audit.access],
        numbers=2,
    )
    for title, entries in (
        ("What opened, replaced or loosened something", audit.notable),
        ("Incidents", audit.incidents),
        ("Changes of the configuration", audit.changes),
    ):
        page.heading(3, title)
        if entries:
            page.table(["When", "What", "Who", "From", "How it ended"], map(_entry, entries))
        else:
            page.text("None on record.")


def _entry(one: Entry) -> Row:
    about = f"{one.what} {one.database}".strip()
    reason = f" ({one.reason})" if one.reason else ""
    return (
        _when(one.at), f"{about}{reason}", one.who, one.source,
        f"{one.state}{f': {one.error}' if one.error else ''}",
    )  # fmt: skip


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _seconds(value: float) -> str:
    if value < 10:
        return f"{value:.1f} s"
    return duration(timedelta(seconds=value))


# --- how it is written ----------------------------------------------------------------------


class _Markdown(_Page):
    def heading(self, level: int, text: str) -> None:
        self.parts += [f"{'#' * level} {_plain(text)}", ""]

    def text(self, text: str, *, good: bool | None = None) -> None:
        self.parts += [_plain(text) if good is None else f"**{_plain(text)}**", ""]

    def items(self, items: Iterable[str]) -> None:
        lines = [f"- {_plain(item)}" for item in items]
        self.parts += [*lines, ""] if lines else []

    def table(self, head: Row, rows: Iterable[Row], *, numbers: int = 0) -> None:
        lines = [f"| {' | '.join(map(_plain, row))} |" for row in rows]
        if not lines:
            self.text("None.")
            return
        rule = ["---"] * (len(head) - numbers) + ["--:"] * numbers
        self.parts += [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *lines, ""]

    def plot(self, title: str, svg: str) -> None:
        said = svg.partition('aria-label="')[2].partition('"')[0]
        self.parts += [f"{_plain(title)}: {said or 'nothing was measured'}.", ""]


def _plain(text: str) -> str:
    """Names may hold what Markdown or HTML would read as their own."""
    line = " ".join(text.split())
    for character in "\\`*_[]<>|#":
        line = line.replace(character, f"\\{character}")
    return line


class _Html(_Page):
    def heading(self, level: int, text: str) -> None:
        self.parts.append(f"<h{level}>{escape(text)}</h{level}>\n")

    def text(self, text: str, *, good: bool | None = None) -> None:
        kind = {True: ' class="good"', False: ' class="bad"', None: ""}[good]
        self.parts.append(f"<p{kind}>{escape(text)}</p>\n")

    def items(self, items: Iterable[str]) -> None:
        lines = "".join(f"<li>{escape(item)}</li>" for item in items)
        self.parts.append(f"<ul>{lines}</ul>\n" if lines else "")

    def table(self, head: Row, rows: Iterable[Row], *, numbers: int = 0) -> None:
        body = "".join(self._row(row, len(head) - numbers) for row in rows)
        if not body:
            self.text("None.")
            return
        cells = "".join(
            f'<th class="number">{escape(one)}</th>' if at >= len(head) - numbers
            else f"<th>{escape(one)}</th>" for at, one in enumerate(head)
        )  # fmt: skip
        self.parts.append(
            f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'
            "</div>\n"
        )

    @staticmethod
    def _row(row: Row, first_number: int) -> str:
        def cells() -> Iterator[str]:
            for at, one in enumerate(row):
                kinds = ["number"] if at >= first_number else []
                if one in ("NO", "DUE", "failed") or "PROBLEMS" in one:
                    kinds.append("bad")
                elif one in ("yes", "done", "passed", "whole"):
                    kinds.append("good")
                attribute = f' class="{" ".join(kinds)}"' if kinds else ""
                yield f"<td{attribute}>{escape(one)}</td>"

        return f"<tr>{''.join(cells())}</tr>"

    def plot(self, title: str, svg: str) -> None:
        self.parts.append(f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>\n")


_STYLE = """
:root { color: #1c2430; background: #fff; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 62rem; margin: 2.5rem auto; padding: 0 1.5rem }
h1 { font-size: 1.9rem; margin: 0 0 .3rem } h2 { margin: 2.6rem 0 .6rem; padding-bottom: .25rem;
border-bottom: 2px solid #dfe5ec; font-size: 1.35rem }
h3 { margin: 1.6rem 0 .5rem; font-size: 1rem }
p { margin: .4rem 0 .8rem } p.good, p.bad { padding: .6rem .9rem; border-radius: 6px;
font-weight: 600 } p.good { background: #e5f5ea; color: #135c2e } p.bad { background: #fdebe8;
color: #9c2313 } .wide { overflow-x: auto } table { border-collapse: collapse; width: 100%;
font-size: .88rem; margin: .4rem 0 1rem } th { text-align: left; font-weight: 600; color: #53606f;
border-bottom: 1px solid #c9d2dc; padding: .3rem .6rem } td { padding: .3rem .6rem; vertical-align:
top; border-bottom: 1px solid #edf0f4; overflow-wrap: anywhere } .number { text-align: right;
white-space: nowrap; font-variant-numeric: tabular-nums } td.good { color: #17703a } td.bad {
color: #b3261e; font-weight: 700 } figure { margin: 1rem 0; padding: .8rem 1rem; border: 1px solid
#e2e8ef; border-radius: 8px; break-inside: avoid } figcaption { font-weight: 600; font-size: .88rem;
margin-bottom: .3rem } svg { width: 100%; height: auto; display: block } svg .grid { stroke:
#e6ebf1; stroke-width: 1 } svg .axis { font: 11px system-ui, sans-serif; fill: #66727f }
svg polyline { fill: none; stroke: #2a6fb8; stroke-width: 2; stroke-linejoin: round }
svg circle { fill: #2a6fb8 }
ul { padding-left: 1.2rem } li { margin: .2rem 0 }
@media print { body { margin: 0; max-width: none } h2 { break-after: avoid } tr { break-inside:
avoid } }
"""
