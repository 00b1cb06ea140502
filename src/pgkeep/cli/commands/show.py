"""pgkeep show: what is in a backup."""

from __future__ import annotations

import rich_click as click
from rich.markup import escape
from rich.table import Table

from pgkeep.cli import words
from pgkeep.cli.context import Context
from pgkeep.cli.documents import backup_document, not_kept_documents
from pgkeep.cli.options import command_options
from pgkeep.cli.reached import (
    loss_in_words,
    loss_window,
    reach_document,
    reach_of,
    windows_in_words,
)
from pgkeep.errors import ExitCode
from pgkeep.model import Contents, Hosting, Kind, Manifest
from pgkeep.repository.repository import Repository, choose_backup


@click.command("show")
@click.argument("database")
@click.argument("backup", required=False)
@command_options(repository=True, identity=True)
def show(context: Context, database: str, backup: str | None) -> ExitCode:
    """Show what a BACKUP (by default the newest) of DATABASE holds, and what it does not."""
    found = context.find(
        database, lambda listing: choose_backup(listing, backup, database=database, kinds=set(Kind))
    )
    manifest, repository = found.manifest, found.repositories[0]
    contents = context.contents(found)
    reached = reach_of(context, database, found.repositories)
    behind = loss_window(reached, context.now())
    if context.as_json:
        context.answer({**_document(manifest, contents), **reach_document(reached, behind)})
        return ExitCode.DONE
    _print(context, repository, manifest, contents)
    context.out.print(f"\n[bold]all of {escape(repr(database))} that can be reached[/]")
    for line in windows_in_words(reached):
        context.out.print(f"  {line}")
    if reached.backups:
        context.out.print(f"  the moment of {words.count(len(reached.backups), 'full backup')}")
    context.out.print(f"  {loss_in_words(behind, database)}")
    return ExitCode.DONE


def _print(
    context: Context, repository: Repository, manifest: Manifest, contents: Contents
) -> None:
    totals, point, out = manifest.totals, contents.point, context.out
    head = Table.grid(padding=(0, 2))
    head.add_row("[bold]backup[/]", f"[bold]{manifest.backup}[/] of {manifest.database!r}")
    head.add_row("kind", f"{manifest.kind}, filed under {manifest.tier}")
    head.add_row("when", f"{words.moment(point.taken)} ({words.age(point.taken, context.now())})")
    head.add_row("server", f"PostgreSQL {point.server_version}, WAL position {point.lsn}")
    head.add_row(
        "size",
        f"{words.size(totals.database_bytes)} in the database, {words.size(totals.stored_bytes)}"
        " stored",
    )
    head.add_row(
        "read",
        f"{totals.rows_read:,} of {totals.rows:,} rows, {words.size(totals.read_bytes)}, in"
        f" {words.count(totals.parts_read, 'part')}; {words.count(totals.parts_reused, 'part')}"
        f" had not changed; {words.size(totals.added_bytes)} newly stored",
    )
    head.add_row("took", f"{words.duration(manifest.seconds)} on {manifest.host}")
    head.add_row("where", f"{repository.store.url}/{manifest.folder}")
    head.add_row("opened by", f"keys/{manifest.epoch}.age and one of the operators' keys")
    out.print(head)
    if contents.tables:
        out.print()
        out.print(_tables(contents))
    rest = [
        (len(contents.sequences), "sequence"),
        (len(contents.large_objects.owners), "large object"),
        (len(contents.populated_matviews), "filled materialized view"),
        (len(contents.roles), "role"),
    ]
    out.print()
    out.print("and " + ", ".join(words.count(number, noun) for number, noun in rest))
    if contents.files is not None:
        out.print("\n[bold]files[/]")
        for bucket in contents.files.buckets:
            out.print(
                f"  {escape(bucket.bucket)}: {words.count(bucket.files, 'file')},"
                f" {words.size(bucket.size_bytes)}"
            )
    if contents.hosting is not None:
        _print_hosting(context, contents.hosting)
    if contents.not_kept:
        out.print("\n[bold]not kept[/]")
        for item in contents.not_kept:
            out.print(f"  {escape(item.what)}: {escape(item.why)}")


def _print_hosting(context: Context, hosting: Hosting) -> None:
    context.out.print(f"\n[bold]treated specially[/] (hosted by {hosting.platform.capitalize()})")
    for text in hosting.treated:
        context.out.print(f"  {escape(text)}")
    context.out.print("\n[bold]left to the platform[/]")
    for text in hosting.left:
        context.out.print(f"  {escape(text)}")


def _hosting_document(hosting: Hosting) -> dict[str, object]:
    return {
        "platform": hosting.platform,
        "managed_schemas": list(hosting.schemas),
        "versions": dict(hosting.versions),
        "secrets": hosting.secrets_count,
        "jobs": hosting.jobs_count,
        "passwords": hosting.passwords_count,
        "queues": [queue.name for queue in hosting.queues],
        "triggers": [f"{one.name} on {one.table}" for one in hosting.triggers],
        "treated": list(hosting.treated),
        "left": list(hosting.left),
    }


def _tables(contents: Contents) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("table")
    for heading in ("rows", "in the database", "as text", "stored", "parts"):
        table.add_column(heading, justify="right", no_wrap=True)
    for item in sorted(contents.tables, key=lambda item: (-item.rows, item.name)):
        table.add_row(
            escape(str(item.name)),
            f"{item.rows:,}",
            words.size(item.heap_bytes),
            words.size(item.text_bytes),
            words.size(item.stored_bytes),
            str(len(item.parts)),
        )
    return table


def tables_of(contents: Contents) -> dict[str, int]:
    """Rows by table."""
    return {str(table.name): table.rows for table in contents.tables}


def _document(manifest: Manifest, contents: Contents) -> dict[str, object]:
    return {
        **backup_document(manifest),
        "taken": contents.point.taken.isoformat(),
        "lsn": contents.point.lsn,
        "tables": [
            {
                "schema": table.name.schema,
                "table": table.name.name,
                "rows": table.rows,
                "heap_bytes": table.heap_bytes,
                "text_bytes": table.text_bytes,
                "stored_bytes": table.stored_bytes,
                "parts": len(table.parts),
            }
            for table in contents.tables
        ],
        "sequences": len(contents.sequences),
        "materialized_views": [str(name) for name in contents.populated_matviews],
        "roles": [role.name for role in contents.roles],
        "files": [
            {"bucket": one.bucket, "files": one.files, "bytes": one.size_bytes}
            for one in (contents.files.buckets if contents.files else ())
        ],
        "hosting": contents.hosting and _hosting_document(contents.hosting),
        "not_kept": not_kept_documents(contents.not_kept),
    }
