"""pgkeep diff: rows restored beside a live table, held against it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import rich_click as click
from rich.markup import escape

from pgkeep.cli import words
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.cli.target import target_address
from pgkeep.errors import ExitCode, UsageError
from pgkeep.postgres.session import connect, translated
from pgkeep.recovery.difference import TableDifference, compare, pair_tables
from pgkeep.recovery.plan import parse_table_name
from pgkeep.recovery.putting_back import in_order, look_around, statements


@click.command("diff")
@click.option(
    "--target",
    required=True,
    metavar="URL",
    help="The database that holds both. env:NAME or file:PATH keep a password off the command"
    " line.",
)
@click.option("--schema", default="recovered", show_default=True, metavar="SCHEMA",
              help="Where the restored tables are (restore --into-schema).")  # fmt: skip
@click.option("--table", "tables", multiple=True, metavar="TABLE", help="Just this live table;"
              " repeatable.  [default: all that have one of the same name there]")  # fmt: skip
@click.option("--sql", "sql_path", type=click.Path(path_type=Path), metavar="FILE",
              help="Write SQL that puts missing rows back.")  # fmt: skip
@click.option("--with-changed", is_flag=True, help="Let that SQL also put old values back into"
              " rows that have changed.")  # fmt: skip
@click.option("--with-triggers", is_flag=True, help="Let triggers act on the rows that come back:"
              " without, that SQL switches them off meanwhile.")  # fmt: skip
@command_options()
def diff_command(
    context: Context,
    target: str,
    schema: str,
    tables: tuple[str, ...],
    sql_path: Path | None,
    with_changed: bool,
    with_triggers: bool,
) -> ExitCode:
    """Show what a live table lacks, and what has changed, against one restored beside it.

    Changes nothing. Ends with 3 if anything differs.
    """
    for option, given in (("--with-changed", with_changed), ("--with-triggers", with_triggers)):
        if given and sql_path is None:
            raise UsageError(f"{option} needs --sql", hint="Name the file to write.")
    address = target_address(context, target)
    names = [parse_table_name(text) for text in tables]
    with closing(connect(address)) as connection, translated(address), connection.transaction():
        connection.execute(b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        paired = pair_tables(connection, names, schema)
        live = [pair.live for pair in paired.found]
        around = look_around(connection, live, updated=with_changed)
        pairs, _ = in_order(paired.found, around.foreign_keys)
        found = [compare(connection, pair) for pair in pairs]
    for name in paired.gone:
        context.warn(
            f"table {name} is not there any more: bring it back with pgkeep restore --table {name}"
        )
    if sql_path is not None:
        lines = statements(found, around, changed=with_changed, with_triggers=with_triggers)
        _write(sql_path, "\n".join(lines) + "\n")
    if context.as_json:
        context.answer([_document(one) for one in found])
    else:
        for one in found:
            _show(context, one)
        if sql_path is not None:
            context.remark(f"wrote {sql_path}: read it, then run it with psql", mark="[green]✓[/]")
    differ = paired.gone or any(not one.is_same for one in found)
    return ExitCode.ATTENTION if differ else ExitCode.DONE


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise UsageError(f"cannot write {str(path)!r}: {reason}") from exc


def _show(context: Context, one: TableDifference) -> None:
    out, pair = context.out, one.pair
    out.print(
        f"[bold]{escape(str(pair.live))}[/]  {one.live_rows:,} rows,"
        f" {escape(str(pair.restored))} {one.restored_rows:,}"
    )
    if one.is_same:
        out.print("  [green]✓[/] the same rows")
    if one.missing:
        out.print(
            f"  [red]missing[/]  {words.count(one.missing, 'row')}: {_some(one.missing_keys)}"
        )
    if one.changed:
        out.print(
            f"  [yellow]changed[/]  {words.count(one.changed, 'row')}: {_some(one.changed_keys)}"
        )
    if one.new:
        out.print(f"  [cyan]new[/]      {words.count(one.new, 'row')} since the backup")
    if not pair.has_key:
        out.print("  [dim]no primary key: a changed row counts as missing and new[/]")
    if pair.condition:
        out.print(
            "  [dim]new rows are not looked for, since just those were restored with[/]"
            f" {escape(pair.condition)}"
        )
    if pair.only_live or pair.only_restored:
        columns = ", ".join((*pair.only_live, *pair.only_restored))
        out.print(f"  [dim]not compared, since only one has them: {escape(columns)}[/]")


def _some(keys: tuple[str, ...]) -> str:
    shown = ", ".join(keys[:5])
    return escape(f"{shown}{', ...' if len(keys) > 5 else ''}")


def _document(one: TableDifference) -> dict[str, object]:
    pair = one.pair
    return {
        "schema": pair.live.schema,
        "table": pair.live.name,
        "restored_schema": pair.restored.schema,
        "rows": one.live_rows,
        "restored_rows": one.restored_rows,
        "missing": one.missing,
        "changed": one.changed,
        "new": one.new,
        "has_key": pair.has_key,
        "restored_table": pair.restored.name,
        "condition": pair.condition or None,
        "missing_keys": list(one.missing_keys),
        "changed_keys": list(one.changed_keys),
        "not_compared": [*pair.only_live, *pair.only_restored],
    }
