"""pgkeep list: which backups there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import rich_click as click

from pgkeep.cli import words
from pgkeep.cli.commands.schema_changes import list_schema_changes
from pgkeep.cli.context import Context
from pgkeep.cli.documents import backup_document
from pgkeep.cli.managed import list_platform
from pgkeep.cli.options import command_options
from pgkeep.errors import ExitCode, PgkeepError, UsageError
from pgkeep.model import Manifest
from pgkeep.repository.repository import Repository, newest_first


@click.command("list")
@click.argument("database", required=False)
@click.option(
    "--schema-changes", is_flag=True, help="List the captured schema changes (needs an identity)."
)
@click.option(
    "--platform", is_flag=True, help="List the platform's own backups of DATABASE (needs a token)."
)
@command_options(repository=True, identity=True)
def list_backups(
    context: Context, database: str | None, schema_changes: bool, platform: bool
) -> ExitCode:
    """List the whole backups of DATABASE, or of all, newest first, signatures checked."""
    if platform:
        if database is None:
            raise UsageError("whose?", hint="Name a database: pgkeep list DATABASE --platform.")
        return list_platform(context, database)
    if schema_changes:
        return list_schema_changes(context, database)
    where: dict[str, list[str]] = {}
    manifests: dict[str, Manifest] = {}
    problems: list[PgkeepError] = []
    repositories = context.repositories()
    if database is not None:
        _refuse_unknown(context, database, repositories)
    for name, listing in context.listings(repositories, database).items():
        problems += listing.problems
        for manifest in listing.backups:
            manifests.setdefault(manifest.backup, manifest)
            where.setdefault(manifest.backup, []).append(name)
    found = newest_first(manifests.values())
    if context.as_json:
        context.answer(
            [
                {**backup_document(manifest), "repositories": where[manifest.backup]}
                for manifest in found
            ]
        )
    elif found:
        for line in _lines(found, where, context.now()):
            context.out.print(line)
    else:
        context.out.print(f"no backups{f' of {database!r}' if database else ''} yet")
    for problem in problems:
        context.warn(problem.message)
    attention = problems or context.needs_attention
    return ExitCode.ATTENTION if attention else ExitCode.DONE


def _refuse_unknown(context: Context, database: str, repositories: Sequence[Repository]) -> None:
    """A name that is neither configured nor in a repository is a slip, and no empty list."""
    known = {*context.config.databases}
    if database in known:
        return
    known.update(name for one in repositories for name in one.databases())
    if database not in known:
        raise UsageError(
            f"no database {database!r} is known"
            f" (configured or backed up: {', '.join(sorted(known)) or 'none'})",
            hint="Use one of these names, or configure it.",
        )


def _lines(found: Sequence[Manifest], where: dict[str, list[str]], now: datetime) -> Iterator[str]:
    """Two lines a backup, under a heading for each database: whole on a narrow terminal too."""
    for database in sorted({manifest.database for manifest in found}):
        yield f"[bold cyan]{database}[/]"
        for manifest in found:
            if manifest.database == database:
                yield from _two_lines(manifest, where[manifest.backup], now)


def _two_lines(manifest: Manifest, where: list[str], now: datetime) -> Iterator[str]:
    totals = manifest.totals
    yield (
        f"  [bold]{manifest.backup}[/]  {manifest.kind:<6} {manifest.tier:<7}"
        f" {words.age(manifest.started, now)}"
    )
    sizes = (
        f"{words.size(totals.database_bytes)} in the database, {words.size(totals.stored_bytes)}"
        " stored"
    )
    kept = f"{totals.rows:,} rows" if manifest.kind.has_data else "no rows"
    gaps = (
        f" · [yellow]{manifest.not_kept} not kept[/], see pgkeep show" if manifest.not_kept else ""
    )
    yield (
        f"  [dim]{kept} · {sizes} · took {words.duration(manifest.seconds)}"
        f" · in {', '.join(where)}[/]{gaps}"
    )
