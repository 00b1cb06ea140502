"""pgkeep backup: read a database, seal it, store it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import rich_click as click
from rich.markup import escape
from rich.table import Table

from pgkeep.backup.backup import BackupResult, back_up, preview
from pgkeep.backup.plan import Preview, describe_preview
from pgkeep.cli import words
from pgkeep.cli.agreed import tend_to_factors
from pgkeep.cli.backing_up import backup_request
from pgkeep.cli.context import Context
from pgkeep.cli.documents import backup_document, not_kept_documents
from pgkeep.cli.options import command_options
from pgkeep.errors import ExitCode
from pgkeep.model import FilesContents, Kind, Tier


@click.command("backup")
@click.argument("database")
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in Kind]),
    default=Kind.FULL.value,
    show_default=True,
    help="What to keep: schema and data, or one of them.",
)
@click.option(
    "--tier",
    type=click.Choice([tier.value for tier in Tier]),
    help="Where to file it, and so how long it is kept.  [default: manual, schema for schemas]",
)
@click.option("--jobs", type=click.IntRange(1, 64), help="Connections that read at once.")
@click.option("--read-all", is_flag=True, help="Read everything, changed or not.")
@click.option("--no-files", is_flag=True, help="Leave out the files beside the database.")
@click.option("--dry-run", is_flag=True, help="Show what would be read and write nothing.")
@command_options()
def backup(
    context: Context,
    database: str,
    kind: str,
    tier: str | None,
    jobs: int | None,
    read_all: bool,
    no_files: bool,
    dry_run: bool,
) -> ExitCode:
    """Back up DATABASE (its name in the configuration), encrypted, into every repository."""
    chosen = Kind(kind)
    filed = Tier(tier) if tier else Tier.SCHEMA if chosen is Kind.SCHEMA else Tier.MANUAL
    request = backup_request(
        context, database, chosen, filed,
        jobs=jobs, read_everything=read_all, with_files=not no_files,
    )  # fmt: skip
    context.warn_of_same_project(database, request.address)
    with context.reporter() as reporter:
        if dry_run:
            looked_at = replace(request, copies=context.copies_to_look_at(chosen))
            _show_preview(context, database, preview(looked_at, reporter))
            return ExitCode.DONE
        result = back_up(request, reporter)
    tend_to_factors(context)
    if context.as_json:
        context.answer(_document(result))
    else:
        _show(context, result)
    attention = any(item.needs_attention for item in result.contents.not_kept)
    attention = attention or bool(result.differing or result.behind) or context.needs_attention
    return ExitCode.ATTENTION if attention else ExitCode.DONE


def _show_preview(context: Context, database: str, found: Preview) -> None:
    if context.as_json:
        context.answer(_preview_document(database, found))
        return
    for line in describe_preview(found):
        context.out.print(escape(line))


def _preview_document(database: str, found: Preview) -> dict[str, object]:
    plan, to_read = found.plan, found.parts_to_read()
    parts = Counter(part.table.name for part in plan.parts if part.table)
    return {
        "dry_run": True,
        "database": database,
        "kind": plan.kind.value,
        "estimated_rows": plan.estimated_rows,
        "estimated_bytes": plan.estimated_bytes,
        "estimated_read_bytes": found.estimated_bytes,
        "parts": len(plan.parts),
        "parts_to_read": len(found.changed),
        "tables": [
            {
                "schema": table.name.schema,
                "table": table.name.name,
                "estimated_rows": table.estimated_rows,
                "table_bytes": table.table_bytes,
                "parts": parts[table.name],
                "parts_to_read": to_read[table.name],
            }
            for table in plan.tables
        ],
        "large_objects": len(plan.large_objects),
        "not_kept": not_kept_documents(plan.not_kept),
    }


def _document(result: BackupResult) -> dict[str, object]:
    return {
        **backup_document(result.manifest),
        "files": _files(result.contents.files),
        "not_kept": not_kept_documents(result.contents.not_kept),
        "differing": [str(name) for name in result.differing],
        "behind": [
            {"repository": copy.name, "problem": copy.problem.message} for copy in result.behind
        ],
    }


def _files(files: FilesContents | None) -> object:
    return files and {"files": files.files, "bytes": files.size_bytes}


def _show(context: Context, result: BackupResult) -> None:
    manifest, totals = result.manifest, result.manifest.totals
    grid = Table.grid(padding=(0, 2))
    grid.add_row(
        "[bold]backup[/]", f"[bold]{manifest.backup}[/]  ({manifest.kind}, {manifest.tier})"
    )
    grid.add_row(
        "kept",
        f"{words.count(totals.rows, 'row')} in {words.count(totals.tables, 'table')}, counted"
        " twice in one snapshot",
    )
    grid.add_row(
        "read",
        f"{totals.rows_read:,} of {words.count(totals.rows, 'row')},"
        f" {words.size(totals.read_bytes)}, in"
        f" {words.count(totals.parts_read, 'part')};"
        f" {words.count(totals.parts_reused, 'part')} had not changed",
    )
    grid.add_row(
        "stored",
        f"{words.size(totals.added_bytes)} new; the whole is {words.size(totals.text_bytes)} in"
        f" {words.size(totals.stored_bytes)}"
        f" ({words.ratio(totals.text_bytes, totals.stored_bytes)} smaller), sealed and signed",
    )
    if files := result.contents.files:
        grid.add_row("files", f"{words.count(files.files, 'file')}, {words.size(files.size_bytes)}")
    grid.add_row("took", words.duration(manifest.seconds))
    context.out.print(grid)
    for item in result.contents.not_kept:
        mark = "[yellow]![/]" if item.needs_attention else "[dim]-[/]"
        context.out.print(f"{mark} not kept: {escape(item.what)}: {escape(item.why)}")
