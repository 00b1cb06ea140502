"""pgkeep export: a backup as plain SQL for psql."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from rich.markup import escape

from pgkeep.cli import words
from pgkeep.cli.approving import action, require_factor
from pgkeep.cli.choice import kinds_for
from pgkeep.cli.commands.restore import scope_options
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options, refuse_together
from pgkeep.cli.output import BinaryOutput
from pgkeep.errors import ExitCode
from pgkeep.recovery.export import ExportRequest, check_name, export, write_sql
from pgkeep.recovery.load import Sealed
from pgkeep.recovery.plan import Scope, check_scope, parse_table_name
from pgkeep.repository.repository import choose_backup, open_contents


@click.command("export")
@click.argument("database")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="PATH",
    help="A file that ends in .sql, .sql.gz or .sql.zst; - is standard output.",
)
@scope_options
@click.option("--clean", is_flag=True, help="Drop objects before making them (if they exist).")
@click.option("--no-owner", is_flag=True, help="Write no owners.")
@click.option("--no-privileges", is_flag=True, help="Write no grants.")
@command_options(repository=True, identity=True)
def export_command(
    context: Context,
    database: str,
    output: str,
    backup: str | None,
    tables: tuple[str, ...],
    schema_only: bool,
    data_only: bool,
    clean: bool,
    no_owner: bool,
    no_privileges: bool,
) -> ExitCode:
    """Write a backup of DATABASE as plain SQL. The result is readable: keep it safe."""
    refuse_together(schema_only, data_only, "--schema-only and --data-only")
    refuse_together(output == "-", context.as_json, "--output - and --json")
    refuse_together(data_only, clean, "--data-only and --clean")
    path = Path(output)
    if output != "-":
        check_name(path)
    scope = Scope(
        schema=not data_only,
        data=not schema_only,
        tables=tuple(parse_table_name(text) for text in tables),
    )
    found = context.find(
        database,
        lambda listing: choose_backup(listing, backup, database=database, kinds=kinds_for(scope)),
    )
    manifest = found.manifest
    identity = context.epoch_identity(found)
    contents = open_contents(found.source, manifest, [identity])
    request = ExportRequest(
        contents=contents,
        sealed=Sealed(found.source, [identity]),
        programs=context.choose_client(
            int(contents.point.server_version.split(".")[0]), need_tls=False
        ),
        scope=check_scope(scope, manifest.kind),
        clean=clean,
        owners=not no_owner,
        privileges=not no_privileges,
    )
    wanted = action(
        "export",
        database,
        backup=manifest.backup,
        output="standard output" if output == "-" else path.resolve(),
        tables=tables,
        schema_only=schema_only,
        data_only=data_only,
    )
    require_factor(context, wanted, found.repositories)
    with context.reporter() as reporter:
        if output == "-":
            standard = BinaryOutput()
            write_sql(request, standard, reporter)
            standard.flush()
            return ExitCode.DONE
        rows = export(request, path, reporter)
    size = path.stat().st_size
    if context.as_json:
        context.answer({"backup": manifest.backup, "file": output, "rows": rows, "bytes": size})
    else:
        context.out.print(
            f"[bold]exported[/] {manifest.backup} to {escape(output)}: {words.count(rows, 'row')},"
            f" {words.size(size)}, not encrypted"
        )
    return ExitCode.DONE
