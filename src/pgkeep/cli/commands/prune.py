"""pgkeep prune: delete backups that are no longer kept, in two phases."""

from __future__ import annotations

from collections.abc import Iterator

import rich_click as click
from rich.markup import escape

from pgkeep.cli import words
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.errors import ExitCode, PgkeepError
from pgkeep.repository.prune import Pruned, look, prune
from pgkeep.repository.repository import Listing, Repository
from pgkeep.repository.retention import Decision, Policy


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Show what is kept and why, and change nothing.")
@command_options(repository=True)
def prune_command(context: Context, dry_run: bool) -> ExitCode:
    """Delete backups that are older than their tier is kept.

    What is to go is condemned first and deleted by a prune at least a day later, if nothing uses
    it by then. Needs no key that opens any backup.
    """
    policy = context.retention()
    done: dict[str, Pruned] = {}
    for repository in context.repositories():
        try:
            done[repository.name] = _prune(context, repository, policy, dry_run=dry_run)
        except PgkeepError as exc:
            context.notice(exc)
    if context.as_json:
        context.answer({name: _document(item) for name, item in done.items()})
    else:
        for name, item in done.items():
            _show(context, name, item, dry_run=dry_run)
    refused = any(item.refused for item in done.values())
    return ExitCode.ATTENTION if refused or context.needs_attention else ExitCode.DONE


def _prune(context: Context, repository: Repository, policy: Policy, *, dry_run: bool) -> Pruned:
    def list_backups() -> Listing:
        return context.listing(repository, None)

    if dry_run:
        return Pruned(look(list_backups, policy, context.now()))
    return prune(repository, list_backups, policy, context.now())


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
        out.print(f"[yellow]![/] the store keeps {files} (object lock): tried again next time")


def _lines(decisions: tuple[Decision, ...]) -> Iterator[str]:
    for one in decisions:
        manifest = one.manifest
        mark = "[green]kept [/]" if one.kept else "[yellow]to go[/]"
        yield (
            f"  {mark}  {escape(manifest.database)}  {manifest.backup}  {manifest.tier:<7}"
            f"  [dim]{one.reason}[/]"
        )


def _document(item: Pruned) -> dict[str, object]:
    return {
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
