"""pgkeep audit: the monthly report, to hand to an auditor."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import rich_click as click
from pydantic_core import to_json

from pgkeep import __version__
from pgkeep.cli.commands.show import tables_of
from pgkeep.cli.context import Context, Found
from pgkeep.cli.options import command_options
from pgkeep.cli.review import (
    checklist_facts,
    ledger_problems,
    objectives,
    sign_offs,
)
from pgkeep.errors import ExitCode, PgkeepError, UsageError
from pgkeep.keeper import audit
from pgkeep.keeper.audit import Audit, Copy, DatabaseAudit, Month
from pgkeep.keeper.audit_documents import audit_document
from pgkeep.keeper.audit_pages import html, markdown
from pgkeep.keeper.checklist import judge
from pgkeep.model import Kind, Manifest
from pgkeep.platforms.prices import storage_price
from pgkeep.repository.envelope import pack
from pgkeep.repository.journal import Journal
from pgkeep.repository.ledger import Entry, Ledger
from pgkeep.repository.repository import Listing, Repository, merge_listings
from pgkeep.repository.signoffs import SignOff
from pgkeep.repository.verify import ReadingDates, verify

FIRST_LINE = b"pgkeep audit\n"


@click.command("audit")
@click.argument("database", required=False)
@click.option(
    "--month",
    "month_text",
    metavar="YYYY-MM",
    help="Which month.  [default: this one; in its first week, the one before]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where to write audit-MONTH.html, .md and .json.  [default: here]",
)
@command_options(trust=True)  # fmt: skip
def audit_command(
    context: Context, database: str | None, month_text: str | None, output: Path | None
) -> ExitCode:
    """Write the monthly report of DATABASE, or all: copies, drills, objectives, access, cost.

    Every copy's signatures and objects are checked for it. The report is kept, signed, in every
    repository. Ends with 3 if something in it needs somebody.
    """
    names = [database] if database else sorted(context.config.databases)
    if not names:
        raise UsageError("no database is configured", hint="Run: pgkeep init")
    if database:
        context.config.database(database)
    report = _audit(context, names, _month(context, month_text))
    document = audit_document(report)
    _keep(context, report, to_json(document))
    if not context.as_json:
        for path in _write(report, to_json(document, indent=2), output or Path()):
            context.remark(f"wrote {path}", mark="[green]✓[/]")
    else:
        if output is not None:
            _write(report, to_json(document, indent=2), output)
        context.answer(document)
    clean = report.is_clean and not context.needs_attention
    return ExitCode.DONE if clean else ExitCode.ATTENTION


def _month(context: Context, text: str | None) -> Month:
    now = context.now()
    if text is None:
        return Month.of(now if now.day > 7 else now.replace(day=1) - timedelta(days=1))
    try:
        month = Month.parse(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a month", hint="Write it as 2026-10.") from None
    if month.begins > now:
        raise UsageError(f"{month} has not begun", hint="Choose a month that has.")
    return month


def _audit(context: Context, names: Sequence[str], month: Month) -> Audit:
    repositories = context.repositories()
    entries = list(Ledger(context.config.state_dir).entries())
    signed = sign_offs(context, repositories)
    listings = context.listings(repositories, None)
    opened = [one for one in repositories if one.name in listings]
    within = [one for one in entries if month.holds(one.at)]
    databases = tuple(_database(context, one, opened, month, entries, signed) for one in names)
    copies = tuple(_copy(context, one, opened, listings) for one in opened)
    problems = ledger_problems(context, opened)
    return Audit(
        month=month,
        written=context.now(),
        host=socket.gethostname(),
        tool=f"pgkeep {__version__}",
        databases=databases,
        copies=copies,
        access=audit.access(within),
        notable=audit.notable(within),
        incidents=audit.incidents(within),
        changes=tuple(one for one in within if one.what == "configuration"),
        ledger_problems=problems,
        recommendations=tuple(audit.recommendations(databases, copies, problems)),
    )


def _database(
    context: Context,
    name: str,
    repositories: Sequence[Repository],
    month: Month,
    entries: Sequence[Entry],
    signed: Sequence[SignOff],
) -> DatabaseAudit:
    facts, status = checklist_facts(context, name, repositories, entries, signed)
    backups = status.listing.backups
    mine = sorted((one for one in backups if month.holds(one.started)), key=lambda o: o.started)
    tables = _tables(context, [one for one in mine if one.kind is Kind.FULL], repositories)
    return DatabaseAudit(
        name=name,
        backups=tuple(mine),
        drills=tuple(one for one in reversed(facts.drills) if month.holds(one.started)),
        objectives=objectives(context, status, facts.now),
        sizes=audit.sizes(backups, month.ends),
        durations=audit.durations(backups, month.ends),
        losses=tuple(audit.losses(status.reach, backups, month, facts.now)),
        tables=() if tables is None else audit.table_changes(*tables),
        tables_known=tables is not None,
        schema_changes=_schema_changes(name, repositories, month),
        checklist=judge(facts),
    )


def _tables(
    context: Context, full: Sequence[Manifest], repositories: Sequence[Repository]
) -> tuple[Mapping[str, int], Mapping[str, int]] | None:
    """Rows by table at the first and the last full backup of the month; None without a key."""
    if not full:
        return {}, {}
    found = []
    for manifest in (full[0], full[-1]):
        try:
            found.append(tables_of(context.contents(Found(manifest, tuple(repositories)))))
        except PgkeepError:
            return None
    return found[0], found[1]


def _schema_changes(name: str, repositories: Sequence[Repository], month: Month) -> int:
    """In how many segments of the journal the schema changed, by the most complete copy."""
    counts = [0]
    for repository in repositories:
        try:
            heads = Journal(repository.store, name).names()
        except PgkeepError:
            continue
        counts.append(sum(one.changes_schema for one in heads if month.holds(one.covered)))
    return max(counts)


def _copy(
    context: Context,
    repository: Repository,
    siblings: Sequence[Repository],
    listings: Mapping[str, Listing],
) -> Copy:
    listing = listings[repository.name]
    everywhere = merge_listings(list(listings.values())).backups
    problems: tuple[str, ...]
    try:
        looked = verify(
            repository, listing, [one for one in siblings if one is not repository],
            everywhere=everywhere, read_bytes=0,
            dates=ReadingDates.of_host(context.config.state_dir),
            now=context.now, heal=False,
        )  # fmt: skip
        problems = (
            *(one.message for one in looked.problems),
            *(f"object {one.item.name}: {one.problem}" for one in looked.damage),
        )
    except PgkeepError as exc:
        problems = (exc.message,)
    place = context.places()[repository.name]
    price = place.price if place.price is not None else storage_price(place.url, place.endpoint)
    return Copy(
        name=repository.name,
        url=repository.store.url,
        backups=len(listing.backups),
        stored_bytes=audit.stored_bytes(listing.backups),
        problems=problems,
        checked="signatures, and that every object is there",
        price=price,
        forecast=audit.forecast(listing.backups, context.now()),
    )


def _keep(context: Context, report: Audit, document: bytes) -> None:
    """Signed, in every repository."""
    key = context.keys.signing_key()
    stamp = f"{report.written:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    path = f"audits/{report.month}/{stamp}.audit"
    context.keep_everywhere(path, pack(FIRST_LINE, document + b"\n", b"", key), key.public)


def _write(report: Audit, document: bytes, folder: Path) -> list[Path]:
    written = []
    for suffix, data in (
        (".html", html(report).encode()), (".md", markdown(report).encode()), (".json", document),
    ):  # fmt: skip
        path = folder / f"audit-{report.month}{suffix}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as exc:
            raise UsageError(
                f"cannot write {str(path)!r}: {(exc.strerror or str(exc)).lower()}",
                hint="Choose another folder with --output.",
            ) from exc
        written.append(path)
    return written
