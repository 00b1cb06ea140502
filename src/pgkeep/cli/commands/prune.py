"""pgkeep prune: delete backups that are no longer kept, in two phases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import rich_click as click
from rich.markup import escape

from pgkeep.cli import words
from pgkeep.cli.agreed import refuse_shorter_retention
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.errors import ExitCode, PgkeepError
from pgkeep.repository.journal_upkeep import PrunedJournal, journals_of, prune_journal
from pgkeep.repository.prune import Pruned, look, prune
from pgkeep.repository.repository import Listing, Repository
from pgkeep.repository.retention import Decision, Policy


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Show what is kept and why, and change nothing.")
@command_options(repository=True)
def prune_command(context: Context, dry_run: bool) -> ExitCode:
    """Delete backups that are older than their tier is kept.

    What is to go is condemned first and deleted by a prune at least a day later, if nothing uses
    it by then. Of the journal, what no moment of the last `capture.keep_days` needs is deleted at
    once. Needs no key that opens any backup.
    """
    policy = context.retention()
    done: dict[str, Pruned] = {}
    journals: dict[str, dict[str, PrunedJournal]] = {}
    repositories = context.repositories()
    if not dry_run:
        refuse_shorter_retention(context, repositories)
    for repository in repositories:
        try:
            pruned = _prune(context, repository, policy, dry_run=dry_run)
            done[repository.name] = pruned
            journals[repository.name] = _prune_journals(context, repository, pruned, dry_run)
        except PgkeepError as exc:
            context.notice(exc)
    if context.as_json:
        context.answer(
            {name: _document(item, journals.get(name, {})) for name, item in done.items()}
        )
    else:
        for name, item in done.items():
            _show(context, name, item, dry_run=dry_run)
            for line in _journal_lines(journals.get(name, {}), dry_run=dry_run):
                context.out.print(line)
    refused = any(item.refused for item in done.values()) or any(
        one.refused for journal in journals.values() for one in journal.values()
    )
    return ExitCode.ATTENTION if refused or context.needs_attention else ExitCode.DONE


def _prune(context: Context, repository: Repository, policy: Policy, *, dry_run: bool) -> Pruned:
    def list_backups() -> Listing:
        return context.listing(repository, None)

    policy = replace(policy, proven=context.proven(repository))
    if dry_run:
        return Pruned(look(list_backups, policy, context.now()))
    return prune(repository, list_backups, policy, context.now())


def _prune_journals(
    context: Context, repository: Repository, pruned: Pruned, dry_run: bool
) -> dict[str, PrunedJournal]:
    """By database. What a kept backup needs, to begin the moments that are kept, stays."""
    keep = timedelta(days=context.config.capture.keep_days)
    kept = [one.manifest for one in pruned.decisions if one.kept]
    return {
        database: prune_journal(
            repository,
            database,
            [one for one in kept if one.database == database],
            keep,
            context.now(),
            dry_run=dry_run,
        )
        for database in journals_of([repository])
    }


def _journal_lines(journals: dict[str, PrunedJournal], *, dry_run: bool) -> Iterator[str]:
    for database, one in journals.items():
        verb = "[yellow]to go[/]" if dry_run else "deleted"
        yield (
            f"  journal of {escape(database)}: {words.count(one.kept, 'segment')} kept,"
            f" {len(one.expired):,} {verb} ({words.size(one.freed_bytes)})"
        )
        if one.refused:
            refused = words.count(one.refused, "segment")
            yield f"[yellow]![/] the store keeps {refused} (object lock)"


def _show(context: Context, name: str, item: Pruned, *, dry_run: bool) -> None:
    out = context.out
    out.print(f"[bold cyan]{escape(name)}[/]")
    for line in _lines(item.decisions):
        out.print(line)
    if dry_run:
        return
    if item.deleted_backups or item.deleted_objects:
        backups = words.count(len(item.deleted_backups), "backup")
        objects = words.count(item.deleted_objects, "object")
        out.print(f"deleted: {backups}, {objects}, {words.size(item.freed_bytes)}")
    if item.condemned_backups or item.condemned_objects:
        backups = words.count(item.condemned_backups, "backup")
        objects = words.count(item.condemned_objects, "object")
        out.print(f"condemned: {backups}, {objects}: a prune after a day deletes them")
    if item.refused:
        files = words.count(item.refused, "file")
        out.print(
            f"[yellow]![/] the store keeps {files}: tried again next time. A lock forbids it, or"
            " the key has no right to delete (pgkeep policy pruner)"
        )


def _lines(decisions: tuple[Decision, ...]) -> Iterator[str]:
    for one in decisions:
        manifest = one.manifest
        mark = "[green]kept [/]" if one.kept else "[yellow]to go[/]"
        yield (
            f"  {mark}  {escape(manifest.database)}  {manifest.backup}  {manifest.tier:<7}"
            f"  [dim]{one.reason}[/]"
        )


def _document(item: Pruned, journals: dict[str, PrunedJournal]) -> dict[str, object]:
    return {
        "journals": {
            database: {
                "kept": one.kept,
                "expired": len(one.expired),
                "freed_bytes": one.freed_bytes,
                "refused": one.refused,
            }
            for database, one in journals.items()
        },
        "backups": [
            {
                "database": one.manifest.database,
                "backup": one.manifest.backup,
                "tier": one.manifest.tier.value,
                "kept": one.kept,
                "age_days": round(one.age.total_seconds() / 86400, 2),
                "reason": one.reason,
            }
            for one in item.decisions
        ],
        "condemned_backups": item.condemned_backups,
        "condemned_objects": item.condemned_objects,
        "deleted_backups": list(item.deleted_backups),
        "deleted_objects": item.deleted_objects,
        "freed_bytes": item.freed_bytes,
        "refused": item.refused,
    }
