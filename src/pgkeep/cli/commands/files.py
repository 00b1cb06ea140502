"""pgkeep files: the files beside a database, listed or put back."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from rich.markup import escape

from pgkeep.cli import words
from pgkeep.cli.approving import action, require_factor
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options, refuse_together
from pgkeep.cli.target import target_address
from pgkeep.config import SecretReference
from pgkeep.errors import ExitCode, TargetNotReady, UsageError
from pgkeep.model import Contents, FileRecord, Kind
from pgkeep.platforms.file_services import RestService
from pgkeep.recovery.files import (
    FilesRestored,
    as_json_lines,
    chosen,
    missing_buckets,
    records_of,
    to_folder,
    to_storage,
)
from pgkeep.recovery.load import Sealed
from pgkeep.repository.repository import choose_backup, open_contents

_SHOWN = 200


@click.command("files")
@click.argument("database")
@click.argument("patterns", nargs=-1, metavar="[BUCKET/NAME]...")
@click.option("--backup", "backup", metavar="ID", help="Which backup (its id or the beginning of"
              " it).  [default: the newest]")  # fmt: skip
@click.option("--to-folder", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Write them there, as BUCKET/NAME.")  # fmt: skip
@click.option("--to-project", metavar="URL", help="Put them into the storage of a project:"
              " https://REF.supabase.co.")  # fmt: skip
@click.option("--key", metavar="SOURCE", help="--to-project: where its secret key is: env:NAME or"
              " file:PATH.")  # fmt: skip
@click.option("--target", metavar="URL", help="--to-project: its database, to say whose the files"
              " are; env:NAME or file:PATH.")  # fmt: skip
@command_options(repository=True, identity=True)
def files_command(
    context: Context,
    database: str,
    patterns: tuple[str, ...],
    backup: str | None,
    to_folder: Path | None,
    to_project: str | None,
    key: str | None,
    target: str | None,
) -> ExitCode:
    """List the files of a backup of DATABASE, or put them back: all, or those that match.

    A pattern is BUCKET/NAME with * for anything. Each file is compared with its hash. Restore the
    database first: it makes the buckets, and the rows that say whose the files are.
    """
    refuse_together(to_folder is not None, to_project is not None, "--to-folder and --to-project")
    found = context.find(
        database,
        lambda listing: choose_backup(
            listing, backup, database=database, kinds={Kind.FULL, Kind.DATA}
        ),
    )
    identity = context.epoch_identity(found)
    sealed = Sealed(found.source, [identity])
    contents = open_contents(found.source, found.manifest, [identity])
    records = chosen(records_of(contents, sealed), patterns)
    if not records:
        raise UsageError("no file of the backup matches", hint="Quote patterns: 'avatars/*'.")
    if to_folder is not None:
        wanted = action(
            "export files",
            database,
            backup=found.manifest.backup,
            files=len(records),
            matching=tuple(patterns),
            folder=to_folder.resolve(),
        )
        require_factor(context, wanted, found.repositories)
        return _into_folder(context, contents, sealed, records, to_folder)
    if to_project is not None:
        wanted = action(
            "put files into a project",
            database,
            backup=found.manifest.backup,
            files=len(records),
            matching=tuple(patterns),
            project=to_project,
        )
        require_factor(context, wanted, found.repositories)
        return _into_project(context, contents, sealed, records, (to_project, key, target))
    _list(context, records)
    return ExitCode.DONE


def _list(context: Context, records: tuple[FileRecord, ...]) -> None:
    if context.as_json:
        context.answer(list(as_json_lines(records)))
        return
    for one in records[:_SHOWN]:
        context.out.print(f"{words.size(one.size_bytes):>10}  {escape(f'{one.bucket}/{one.name}')}")
    more = len(records) - _SHOWN
    if more > 0:
        context.out.print(f"and {more:,} more (--json lists all)")


def _into_folder(
    context: Context,
    contents: Contents,
    sealed: Sealed,
    records: tuple[FileRecord, ...],
    folder: Path,
) -> ExitCode:
    with context.reporter() as reporter:
        done = to_folder(contents, sealed, records, folder, reporter)
    return _tell(context, done, f"in {folder}")


def _into_project(
    context: Context,
    contents: Contents,
    sealed: Sealed,
    records: tuple[FileRecord, ...],
    where: tuple[str, str | None, str | None],
) -> ExitCode:
    url, key, target = where
    kind, _, name = (key or "").partition(":")
    if kind not in ("env", "file") or not name:
        raise UsageError("where is the project's key?", hint="Add --key env:NAME or file:PATH.")
    secret = SecretReference.model_validate({kind: name}).resolve("the project's key")
    address = target_address(context, target) if target else None
    if address is not None and (missing := missing_buckets(records, address)):
        raise TargetNotReady(
            f"the project has no bucket {missing[0]!r}",
            hint="Restore the database first: it makes the buckets.",
        )
    with context.reporter() as reporter:
        done = to_storage(contents, sealed, records, RestService(url, secret), address, reporter)
    if address is None:
        context.warn("whose the files are was not said, since no --target was given")
    return _tell(context, done, f"in {url}")


def _tell(context: Context, done: FilesRestored, where: str) -> ExitCode:
    if context.as_json:
        context.answer(
            {
                "files": done.files,
                "bytes": done.size_bytes,
                "failed": [
                    {"file": f"{one.bucket}/{one.name}", "why": one.why} for one in done.failed
                ],
                "renamed": [{"file": name, "path": path} for name, path in done.renamed],
            }
        )
    else:
        size = words.size(done.size_bytes)
        context.out.print(
            f"[bold green]restored[/] {words.count(done.files, 'file')}, {size}, each compared with"
            f" its hash, {escape(where)}"
        )
        for name, path in done.renamed:
            context.out.print(f"[yellow]renamed[/]  {escape(name)} is {escape(path)}")
        for one in done.failed:
            name = escape(f"{one.bucket}/{one.name}")
            context.out.print(f"[bold red]failed[/]   {name}: {escape(one.why)}")
    if done.failed:
        return ExitCode.FAILED
    return ExitCode.ATTENTION if context.needs_attention else ExitCode.DONE
