"""pgkeep doctor: every problem with its remedy, before it hurts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta

import rich_click as click
from rich.markup import escape

from pgkeep.cli import words
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.doctor.configuration import address_findings, recipient_findings
from pgkeep.doctor.databases import DatabaseFacts, database_findings, look_at_database
from pgkeep.doctor.look import Looked, RepositoryFacts, device_of, look_at, newest_of
from pgkeep.doctor.repositories import repository_findings
from pgkeep.errors import ExitCode, PgkeepError
from pgkeep.findings import Finding, Severity, gravest_first, worst
from pgkeep.keeper.schedule import plan_jobs
from pgkeep.postgres.address import Address
from pgkeep.repository.repository import Listing
from pgkeep.sealing import check_recipients
from pgkeep.stores.facts import ELSEWHERE, ObjectLock, Retention, StoreFacts, Unknown

_MARKS = {
    Severity.ERROR: "[red]✗[/]",
    Severity.WARNING: "[yellow]![/]",
    Severity.NOTE: "[dim]-[/]",
}
_ATTEMPTS = 2
"""A doctor tells soon that a server does not answer."""


@click.command("doctor")
@click.argument("database", required=False)
@click.option("--offline", is_flag=True, help="Log in to no database.")
@command_options(repository=True)
def doctor(context: Context, database: str | None, offline: bool) -> ExitCode:
    """Look for what endangers backups: databases, repositories, recipients. Changes nothing.

    For DATABASE, or for all that are configured: each is logged in to once. Ends with 1 if a backup
    would fail, with 3 if something else needs attention.
    """
    addresses = _addresses(context, database)
    facts = _look(context)
    databases = () if offline else tuple(_databases(context, addresses))
    findings = gravest_first(
        (
            *address_findings(addresses, {one.name: one.endpoint for one in facts}),
            *(finding for one in databases for finding in database_findings(one)),
            *_recipients(context),
            *repository_findings(facts),
        )
    )
    if context.as_json:
        context.answer({**_document(facts, findings), "databases": list(map(_told, databases))})
    else:
        for one in databases:
            _show_database(context, one)
        _show(context, facts, findings)
    match worst(findings):
        case Severity.ERROR:
            return ExitCode.FAILED
        case Severity.WARNING:
            return ExitCode.ATTENTION
        case _:
            return ExitCode.DONE


# --- looking --------------------------------------------------------------------------------


def _addresses(context: Context, database: str | None) -> dict[str, Address | PgkeepError]:
    if database is not None:
        context.config.database(database)
    found: dict[str, Address | PgkeepError] = {}
    for name in (database,) if database else context.config.databases:
        try:
            found[name] = context.address(name)
        except PgkeepError as exc:
            found[name] = exc
    return found


def _databases(
    context: Context, addresses: Mapping[str, Address | PgkeepError]
) -> Iterator[DatabaseFacts]:
    for name, address in addresses.items():
        if isinstance(address, Address):
            jobs = context.jobs(None, context.config.database(name).jobs)
            captures = context.config.captures(name)
            yield look_at_database(
                name, address,
                jobs=jobs, captures=captures, reads_a_month=_reads_a_month(context, name),
            )  # fmt: skip


def _reads_a_month(context: Context, name: str) -> int:
    """How many backups with rows the schedule makes in thirty days."""
    now, count = context.now(), 0
    for job in plan_jobs(context.config):
        made = job.task.makes
        if job.database == name and made is not None and made[0].has_data:
            moment = job.next_after(now)
            while moment is not None and moment < now + timedelta(days=30):
                moment, count = job.next_after(moment), count + 1
    return count


def _recipients(context: Context) -> Iterable[Finding]:
    if context.repository_urls and context.config.origin is None:
        return ()  # no configuration: it is only about the repositories
    recipients = context.config.encryption.recipients
    problems = check_recipients(recipients, context.gpg_home, now=context.now())
    return recipient_findings(recipients, problems)


def _look(context: Context) -> tuple[RepositoryFacts, ...]:
    looked = {name: _look_at(context, name) for name in context.places()}
    listings: dict[str, Listing] = {}
    unlisted: dict[str, PgkeepError] = {}
    for name, look in looked.items():
        if look.repository is not None:
            try:
                listings[name] = context.listing(look.repository, None)
            except PgkeepError as exc:
                unlisted[name] = exc
    opened = [looked[name].repository for name in listings]
    behind = context.missing(listings, [one for one in opened if one is not None])
    missing = [item.target.name for item in behind]
    return tuple(
        _facts(context, name, look, listings, unlisted.get(name), missing.count(name))
        for name, look in looked.items()
    )


def _look_at(context: Context, name: str) -> Looked:
    place = context.places()[name]
    try:
        store = context.open_store(name, place, attempts=_ATTEMPTS)
    except PgkeepError as exc:
        return Looked(problem=exc)
    return look_at(context.where(name, place), store, context.known_repositories)


def _facts(
    context: Context,
    name: str,
    look: Looked,
    listings: Mapping[str, Listing],
    unlisted: PgkeepError | None,
    missing: int,
) -> RepositoryFacts:
    place = context.as_configured(context.places()[name])
    listing = listings.get(name, Listing((), ()))
    return RepositoryFacts(
        name=name,
        url=place.url,
        endpoint=place.endpoint,
        required=place.required,
        kinds=place.kinds,
        protect_days=place.protect_days,
        is_local=place.url.startswith("file:"),
        device=device_of(place.url),
        problem=look.problem,
        is_new=look.is_new,
        store=look.facts,
        newest=newest_of(listing.backups),
        listing_problems=listing.problems if unlisted is None else (unlisted,),
        missing=missing,
    )


# --- showing --------------------------------------------------------------------------------


def _show(
    context: Context, facts: Iterable[RepositoryFacts], findings: tuple[Finding, ...]
) -> None:
    out = context.out
    for one in facts:
        out.print(f"[bold cyan]{escape(one.name)}[/]  {escape(one.url)}")
        out.print(f"  {'; '.join(_words(one, context))}")
    for finding in findings:
        out.print(f"{_MARKS[finding.severity]} {escape(finding.about)}: {escape(finding.what)}")
        if finding.remedy:
            out.print(f"  [dim]{escape(finding.remedy)}[/]")
    if not any(finding.severity is not Severity.NOTE for finding in findings):
        out.print("[green]✓[/] nothing needs attention")


def _show_database(context: Context, facts: DatabaseFacts) -> None:
    out, found = context.out, facts.probe
    out.print(f"[bold cyan]{escape(facts.name)}[/]  {escape(str(facts.address))}")
    if found is None:
        out.print("  [red]not usable[/]")
        return
    where = facts.project.way.value if facts.project else "reached"
    hosted = f", hosted by {facts.hosting.platform.capitalize()}" if facts.hosting else ""
    project = f" of project {facts.project.project}" if facts.project else ""
    room = found.room
    out.print(
        f"  PostgreSQL {found.version}{hosted}; {where}{project}; role"
        f" {escape(found.rights.role)}; {room.connections_used} of {room.connections} connections"
        f" and {room.slots_used} of {room.slots} slots taken; {found.tls or 'no TLS'}"
    )


def _told(facts: DatabaseFacts) -> dict[str, object]:
    found = facts.probe
    return {
        "database": facts.name,
        "usable": found is not None,
        "platform": facts.hosting.platform if facts.hosting else None,
        "project": facts.project.project if facts.project else None,
        "way": facts.project.way.value if facts.project else None,
        "server_version": found.version if found else None,
        "role": found.rights.role if found else None,
        "superuser": found.rights.superuser if found else None,
        "replication": found.rights.replication if found else None,
        "slots": found.room.slots if found else None,
        "slots_used": found.room.slots_used if found else None,
        "slot_wal_bytes": found.room.slot_wal_bytes if found else None,
        "connections": found.room.connections if found else None,
        "connections_used": found.room.connections_used if found else None,
        "without_identity": [str(one) for one in facts.without_identity],
        "extensions": list(facts.extensions),
    }


def _words(facts: RepositoryFacts, context: Context) -> Iterable[str]:
    """What is so, good or bad, in short."""
    if facts.store is None:
        yield "[red]not usable[/]"
        return
    newest = words.age(facts.newest.started, context.now()) if facts.newest else "none yet"
    yield f"newest backup: {newest}"
    for name, value in _known(facts.store):
        yield f"{name.replace('_', ' ')}: {escape(_said(name, value))}"


def _known(store: StoreFacts) -> Iterable[tuple[str, object]]:
    for name in StoreFacts.__slots__:
        value = getattr(store, name)
        if value is not ELSEWHERE:
            yield name, value


def _said(name: str, value: object) -> str:
    match value:
        case Unknown():
            return "not known"
        case None | False | ():
            return "none" if name == "expiry" else "no"
        case True:
            return "yes"
        case ObjectLock():
            return f"{value.mode}, {value.days} days" if value.days else "without a retention"
        case Retention():
            return f"{value.seconds / 86400:g} days{', locked' if value.locked else ''}"
        case tuple():
            return words.count(len(value), "rule")
        case int() if name == "mode":
            return f"{value:o}"
        case int() if name == "free_bytes":
            return words.size(value)
        case _:
            return str(value)


def _document(facts: Iterable[RepositoryFacts], findings: Iterable[Finding]) -> dict[str, object]:
    return {
        "repositories": [_repository_document(one) for one in facts],
        "findings": [
            {
                "severity": finding.severity.value,
                "about": finding.about,
                "what": finding.what,
                "remedy": finding.remedy,
            }
            for finding in findings
        ],
    }


def _repository_document(facts: RepositoryFacts) -> dict[str, object]:
    return {
        "name": facts.name,
        "url": facts.url,
        "usable": facts.problem is None,
        "new": facts.is_new,
        "newest_backup": facts.newest.backup if facts.newest else None,
        "missing_backups": facts.missing,
        "facts": {name: _plain(value) for name, value in _known(facts.store or StoreFacts())},
    }


def _plain(value: object) -> object:
    """A fact in JSON; what is not known is an object with the reason."""
    match value:
        case Unknown():
            return {"unknown": value.reason}
        case ObjectLock():
            return {"mode": value.mode or None, "days": value.days}
        case Retention():
            return {"seconds": value.seconds, "locked": value.locked}
        case tuple():
            return [
                {
                    "name": rule.name,
                    "prefix": rule.prefix,
                    "days": rule.days,
                    "on": rule.on.isoformat() if rule.on else None,
                }
                for rule in value
            ]
        case _:
            return value
