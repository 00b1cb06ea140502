"""pgkeep verify: whether repositories still hold what they should."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import rich_click as click
from rich.markup import escape

from pgkeep.cli import words
from pgkeep.cli.agreed import tend_to_factors
from pgkeep.cli.context import Context, Found
from pgkeep.cli.options import command_options
from pgkeep.config import parse_size
from pgkeep.errors import ExitCode, PgkeepError, StoreError
from pgkeep.model import BackupId
from pgkeep.repository.journal_upkeep import VerifiedJournal, journals_of, verify_journal
from pgkeep.repository.repository import Listing, Repository, merge_listings
from pgkeep.repository.sync import Missing
from pgkeep.repository.verify import Damage, ReadingDates, Verified, verify


@click.command("verify")
@click.option(
    "--read",
    "read",
    metavar="SIZE",
    help='How much to read of the objects, and of each journal: "2GB", or "all".  [default: sizes'
    " only]",
)
@click.option("--no-heal", is_flag=True, help="Put nothing right.")
@command_options(repository=True)
def verify_command(context: Context, read: str | None, no_heal: bool) -> ExitCode:
    """Check signatures and that every object is there; read those that were not read for longest.

    What is missing or damaged is put right from another repository that has it. Needs no key that
    opens any backup. Ends with 1 if a backup is harmed still, with 3 if something was put right.
    """
    limit = None if read == "all" else parse_size(read) if read else 0
    dates = ReadingDates.of_host(context.config.state_dir)
    tend_to_factors(context)
    opened = context.repositories()
    listings = context.listings(opened, None)
    repositories = tuple(one for one in opened if one.name in listings)
    everywhere = merge_listings(list(listings.values())).backups
    done: dict[str, Verified] = {}
    journals: dict[str, dict[str, VerifiedJournal]] = {}
    broken: list[PgkeepError] = []
    for repository in repositories:
        siblings = [one for one in repositories if one is not repository]
        try:
            with ExitStack() as stack:
                if not no_heal:
                    stack.enter_context(repository.exclusive("verify"))
                looked = verify(
                    repository,
                    listings[repository.name],
                    siblings,
                    everywhere=everywhere,
                    read_bytes=limit,
                    dates=dates,
                    now=context.now,
                    heal=not no_heal,
                )
            journals[repository.name] = _verify_journals(
                context, repository, repositories, read_bytes=limit, heal=not no_heal
            )
            done[repository.name] = looked
        except StoreError as exc:
            broken.append(exc)
    if not done:
        raise broken[0]
    for problem in broken:
        context.notice(problem)
    behind = context.missing(listings, repositories)
    tables = _tables(context, repositories, listings, done)
    if context.as_json:
        context.answer(_document(done, behind, tables, journals))
    else:
        _show(context, done, behind, tables, journals)
    stretches = [one for found in journals.values() for one in found.values()]
    if any(not item.is_whole for item in done.values()) or any(one.problems for one in stretches):
        return ExitCode.FAILED
    healed = any(item.damage for item in done.values()) or any(one.healed for one in stretches)
    attention = behind or healed or context.needs_attention
    return ExitCode.ATTENTION if attention else ExitCode.DONE


def _verify_journals(
    context: Context,
    repository: Repository,
    repositories: Sequence[Repository],
    *,
    read_bytes: int | None,
    heal: bool,
) -> dict[str, VerifiedJournal]:
    """By database, those that have a journal here."""
    return {
        database: verify_journal(
            repository,
            database,
            [one for one in repositories if one is not repository],
            context.trusted(repository),
            read_bytes=read_bytes,
            heal=heal,
        )
        for database in journals_of([repository])
    }


def _tables(
    context: Context,
    repositories: tuple[Repository, ...],
    listings: dict[str, Listing],
    done: dict[str, Verified],
) -> dict[str, tuple[str, ...]]:
    """What the harmed objects hold, by their names, as far as this host's index key tells."""
    names: dict[str, tuple[str, ...]] = {}
    harmed = {
        backup for item in done.values() for one in item.damage if not one.healed
        for backup in one.backups
    }  # fmt: skip
    backups = {one.backup: one for item in listings.values() for one in item.backups}
    index = context.keys.existing_index_key()
    if index is None:
        return names
    for backup in harmed:
        try:
            contents = context.contents(Found(backups[backup], repositories))
        except PgkeepError:
            continue
        for table in contents.tables:
            for part in table.parts:
                for item in part.text.objects:
                    names[item.name] = (*names.get(item.name, ()), f"table {table.name}")
    return names


def _show(
    context: Context,
    done: dict[str, Verified],
    behind: tuple[Missing, ...],
    tables: dict[str, tuple[str, ...]],
    journals: dict[str, dict[str, VerifiedJournal]],
) -> None:
    out = context.out
    for name, item in done.items():
        mark = "[green]✓[/]" if item.is_whole else "[red]✗[/]"
        read = f"{words.count(item.read_objects, 'object')} read ({words.size(item.read_bytes)})"
        out.print(
            f"{mark} [bold]{escape(name)}[/]: {words.count(item.backups, 'backup')},"
            f" {words.count(item.objects, 'object')}, {read}"
        )
        for problem in item.problems:
            out.print(f"  [red]✗[/] {escape(problem.message)}")
        for one in item.damage:
            out.print(f"  {_line(one, tables)}")
        if not all(one.healed for one in item.damage):
            out.print(
                "  No backup from this host builds on these: what the database still has of them is"
                " stored anew."
            )
        for database, journal in journals.get(name, {}).items():
            out.print(_journal_line(database, journal))
            for text in journal.problems:
                out.print(f"  [red]✗[/] {escape(text)}")
    for one_behind in behind:
        manifest, name = one_behind.manifest, one_behind.target.name
        out.print(
            f"[yellow]![/] {escape(name)} lacks {manifest.backup} of {escape(manifest.database)}:"
            " run pgkeep sync"
        )


def _journal_line(database: str, journal: VerifiedJournal) -> str:
    mark = "[red]✗[/]" if journal.problems else "[green]✓[/]"
    healed = f", {journal.healed} put right from another repository" if journal.healed else ""
    return (
        f"  {mark} journal of {escape(database)}: {words.count(journal.segments, 'segment')},"
        f" {journal.read:,} read ({words.size(journal.read_bytes)}){healed}"
    )


def _line(one: Damage, tables: dict[str, tuple[str, ...]]) -> str:
    if one.healed:
        return f"[yellow]![/] {escape(one.problem)}: put right from another repository"
    what = ", ".join(sorted(set(tables.get(one.item.name, ())))) or "what is in it is not known"
    return (
        f"[red]✗[/] {escape(one.problem)}: no other repository has it; it harms"
        f" {', '.join(one.backups)} ({escape(what)})"
    )


def _document(
    done: dict[str, Verified],
    behind: tuple[Missing, ...],
    tables: dict[str, tuple[str, ...]],
    journals: dict[str, dict[str, VerifiedJournal]],
) -> dict[str, object]:
    lacks: dict[str, list[BackupId]] = {}
    for one in behind:
        lacks.setdefault(one.target.name, []).append(one.manifest.backup)
    return {
        name: {
            "whole": item.is_whole,
            "backups": item.backups,
            "objects": item.objects,
            "objects_read": item.read_objects,
            "bytes_read": item.read_bytes,
            "problems": [problem.message for problem in item.problems],
            "damage": [
                {
                    "object": one.item.name,
                    "problem": one.problem,
                    "healed": one.healed,
                    "backups": list(one.backups),
                    "tables": sorted(set(tables.get(one.item.name, ()))),
                }
                for one in item.damage
            ],
            "lacks": lacks.get(name, []),
            "journals": {
                database: {
                    "segments": journal.segments,
                    "runs": journal.runs,
                    "segments_read": journal.read,
                    "bytes_read": journal.read_bytes,
                    "healed": journal.healed,
                    "problems": list(journal.problems),
                }
                for database, journal in journals.get(name, {}).items()
            },
        }
        for name, item in done.items()
    }
