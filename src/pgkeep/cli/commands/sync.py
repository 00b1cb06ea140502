"""pgkeep sync: bring repositories that fell behind to the state of the others."""

from __future__ import annotations

from collections.abc import Sequence

import rich_click as click
from rich.markup import escape

from pgkeep.cli import words
from pgkeep.cli.agreed import tend_to_factors
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.errors import ExitCode, PgkeepError
from pgkeep.model import Kind
from pgkeep.repository.evidence import copy_missing_evidence
from pgkeep.repository.journal_copies import copy_missing
from pgkeep.repository.journal_upkeep import journals_of
from pgkeep.repository.repository import Repository
from pgkeep.repository.sync import Missing, Synced, sync


@click.command("sync")
@click.argument("database", required=False)
@click.option("--dry-run", is_flag=True, help="Show what is missing where, and copy nothing.")
@command_options(repository=True)
def sync_command(context: Context, database: str | None, dry_run: bool) -> ExitCode:
    """Copy backups to the repositories that lack them. Needs no key that opens any.

    Each repository gets the kinds that it is configured for. Ends with 3 if something is missing
    still.
    """
    tend_to_factors(context)
    opened = context.repositories() if dry_run else context.repositories_to_write()
    listings = context.listings(opened, database)
    repositories = [one for one in opened if one.name in listings]
    for listing in listings.values():
        for problem in listing.problems:
            context.notice(problem)
    missing = context.missing(listings, repositories)
    if dry_run:
        done = tuple(Synced(item) for item in missing)
    else:
        done = sync(missing, lambda item: _tell(context, item), context.now, context.protection())
    journals = _sync_journals(context, repositories, database, dry_run=dry_run)
    known = {one.database for listing in listings.values() for one in listing.backups}
    evidence = _sync_evidence(
        context, repositories, sorted(known if database is None else {database}), dry_run=dry_run
    )
    failed = [item for item in done if item.problem is not None]
    if context.as_json:
        context.answer(
            {
                "dry_run": dry_run,
                "backups": [_document(item) for item in done],
                "segments": journals,
                "evidence": evidence,
            }
        )
    else:
        _show(context, done, dry_run=dry_run, of_all=len(repositories) == len(context.places()))
        _show_given(context, journals, "segment", "of the journal", dry_run=dry_run)
        _show_given(context, evidence, "record", "of drills and recoveries", dry_run=dry_run)
    behind = missing or any(journals.values()) or any(evidence.values())
    waiting = behind if dry_run else ()
    left = failed or waiting or context.needs_attention
    return ExitCode.ATTENTION if left else ExitCode.DONE


def _sync_journals(
    context: Context,
    repositories: Sequence[Repository],
    database: str | None,
    *,
    dry_run: bool,
) -> dict[str, int]:
    """How many segments of journals each repository was given, or lacks."""
    given: dict[str, int] = {}
    for name in journals_of(repositories):
        for target in repositories:
            if (database is None or name == database) and _takes_journals(context, target):
                others = [one for one in repositories if one is not target]
                try:
                    number = copy_missing(name, target, others, dry_run=dry_run)
                except PgkeepError as exc:
                    context.notice(exc)
                else:
                    given[target.name] = given.get(target.name, 0) + number
    return given


def _takes_journals(context: Context, repository: Repository) -> bool:
    return Kind.FULL in context.places()[repository.name].kinds


def _sync_evidence(
    context: Context, repositories: Sequence[Repository], databases: Sequence[str], *, dry_run: bool
) -> dict[str, int]:
    """How many records of drills and recoveries each repository was given, or lacks."""
    given = dict.fromkeys((one.name for one in repositories), 0)
    for name in databases:
        for target in repositories:
            others = [one for one in repositories if one is not target]
            try:
                given[target.name] += copy_missing_evidence(
                    name, target, others, context.trusted, dry_run=dry_run
                )
            except PgkeepError as exc:
                context.notice(exc)
    return given


def _show_given(
    context: Context, given: dict[str, int], what: str, of: str, *, dry_run: bool
) -> None:
    for name, number in given.items():
        if number:
            verb = "[yellow]![/] missing from" if dry_run else "[green]✓[/] copied to"
            context.out.print(f"{verb} {escape(name)}: {words.count(number, what)} {of}")


def _tell(context: Context, item: Missing) -> None:
    if not context.quiet:
        context.remark(f"{item.manifest.backup} to {item.target.name}", mark="[dim]·[/]")


def _document(item: Synced) -> dict[str, object]:
    return {
        "backup": item.missing.manifest.backup,
        "database": item.missing.manifest.database,
        "repository": item.missing.target.name,
        "objects": item.objects,
        "bytes": item.copied_bytes,
        "problem": item.problem.message if item.problem else None,
    }


def _show(context: Context, done: tuple[Synced, ...], *, dry_run: bool, of_all: bool) -> None:
    for item in done:
        manifest, name = item.missing.manifest, escape(item.missing.target.name)
        what = f"{escape(manifest.database)} {manifest.backup}"
        if item.problem is not None:
            context.out.print(f"[red]✗[/] {what} to {name}: {escape(item.problem.message)}")
        elif dry_run:
            context.out.print(f"[yellow]![/] {what} is missing from {name}")
        else:
            size = words.size(item.copied_bytes)
            copied = words.count(item.objects, "object")
            context.out.print(f"[green]✓[/] {what} is now in {name} ({copied}, {size})")
    if not done:
        which = "every repository" if of_all else "every repository that answered"
        context.out.print(f"{which} has every backup that it should have")
