"""pgkeep restore: get a database back, and prove it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import rich_click as click
from rich.markup import escape

from pgkeep.cli import words
from pgkeep.cli.context import Context, Found, command_options, refuse_together
from pgkeep.config import SecretReference
from pgkeep.errors import ExitCode, UsageError
from pgkeep.model import Contents, Kind, Manifest
from pgkeep.postgres.address import Address
from pgkeep.recovery.journey import Journey, choose_journey
from pgkeep.recovery.load import Sealed
from pgkeep.recovery.moment import AtEnd, AtTime, AtTransaction, Moment, parse_moment
from pgkeep.recovery.onward import ReplayResult
from pgkeep.recovery.plan import Scope, check_scope, parse_table_name
from pgkeep.recovery.request import RestoreRequest, RestoreResult
from pgkeep.recovery.restore import describe_plan, raise_unless_proven, restore
from pgkeep.repository.repository import Listing, choose_backup, open_contents


def kinds_for(scope: Scope) -> set[Kind]:
    """Which kinds of backup can give a scope, when none is named."""
    if scope.schema and scope.data:
        return {Kind.FULL}
    return {Kind.FULL, Kind.SCHEMA} if scope.schema else {Kind.FULL, Kind.DATA}


def scope_options(function: click.decorators.FC) -> click.decorators.FC:
    """Which backup, and what of it."""
    for option in (
        click.option("--data-only", is_flag=True, help="Rows, into tables that are there."),
        click.option("--schema-only", is_flag=True, help="Definitions without rows."),
        click.option(
            "--table",
            "tables",
            multiple=True,
            metavar="TABLE",
            help="Just this table, with what it needs; repeatable.",
        ),
        click.option("--backup", "backup", metavar="ID", help="Which backup (its id or the"
                     " beginning of it).  [default: the newest]"),
    ):  # fmt: skip
        function = option(function)
    return function


def moment_options(function: click.decorators.FC) -> click.decorators.FC:
    """How far to replay the journal on top of a backup."""
    for option in (
        click.option("--to-last-reachable", is_flag=True, help="If the moment cannot be reached,"
                     " the last one that can; without a moment, the newest."),
        click.option("--before-transaction", type=click.IntRange(3), metavar="XID",
                     help="All that committed before this transaction did."),
        click.option("--to", "to", metavar="MOMENT", help="All that had committed by then: a time"
                     " with its zone, an LSN, or the id of a transaction (with it)."),
    ):  # fmt: skip
        function = option(function)
    return function


@click.command("restore")
@click.argument("database")
@click.option(
    "--target",
    required=True,
    metavar="URL",
    help="The database to restore into, empty. env:NAME or file:PATH keep a password off the"
    " command line.",
)
@scope_options
@click.option("--into-schema", metavar="SCHEMA", help="Put the chosen tables under this schema.")
@click.option("--no-owner", is_flag=True, help="Everything belongs to the role that restores.")
@click.option("--no-privileges", is_flag=True, help="Restore no grants.")
@click.option(
    "--allow-non-empty",
    is_flag=True,
    help="Restore beside what the target holds; what is there already is left as it is.",
)
@click.option(
    "--go-on-after-damage",
    is_flag=True,
    help="Restore all the rest when stored objects are damaged or missing (still exit code 1).",
)
@moment_options
@click.option("--jobs", type=click.IntRange(1, 64), help="Connections that write at once.")
@click.option("--dry-run", is_flag=True, help="Show the plan and touch nothing.")
@command_options(repository=True, identity=True)
def restore_command(
    context: Context,
    database: str,
    target: str,
    backup: str | None,
    tables: tuple[str, ...],
    schema_only: bool,
    data_only: bool,
    into_schema: str | None,
    no_owner: bool,
    no_privileges: bool,
    allow_non_empty: bool,
    go_on_after_damage: bool,
    to: str | None,
    before_transaction: int | None,
    to_last_reachable: bool,
    jobs: int | None,
    dry_run: bool,
) -> ExitCode:
    """Restore a backup of DATABASE into an empty database, and compare every row.

    With --to, --before-transaction or --to-last-reachable, go on from the best backup to exactly
    that moment, through the journal. Ends with exit code 0 only if the target was proven to equal
    the backup, and 3 if something in it could not be brought to the moment.
    """
    refuse_together(schema_only, data_only, "--schema-only and --data-only")
    scope = Scope(
        schema=not data_only,
        data=not schema_only,
        tables=tuple(parse_table_name(text) for text in tables),
        into_schema=into_schema,
    )
    moment = _moment(to, before_transaction, to_last_reachable)
    if moment is not None:
        refuse_together(go_on_after_damage, True, "--go-on-after-damage and a moment")
        if tables or schema_only or data_only or into_schema or allow_non_empty:
            raise _only_whole()
    choice = _choose(context, database, backup, scope, moment, to_last_reachable)
    manifest, identity = choice.found.manifest, context.epoch_identity(choice.found)
    request = RestoreRequest(
        manifest=manifest,
        contents=choice.contents,
        sealed=Sealed(choice.found.source, [identity]),
        target=_target(context, target),
        scope=scope,
        choose_client=context.choose_client,
        jobs=context.jobs(jobs),
        now=context.now,
        owners=not no_owner,
        privileges=not no_privileges,
        allow_occupied=allow_non_empty or bool(tables and into_schema is None and not data_only),
        go_on_after_damage=go_on_after_damage,
        journey=choice.journey,
    )
    if dry_run:
        for line in describe_plan(request):
            context.out.print(escape(line))
        return ExitCode.DONE
    started = time.monotonic()
    with context.reporter() as reporter:
        result = restore(request, reporter)
    seconds = time.monotonic() - started
    if context.as_json:
        context.answer(_document(manifest, result, seconds))
    else:
        _show(context, manifest, result, seconds)
    raise_unless_proven(result)
    inexact = result.replayed is not None and result.replayed.not_exact
    return ExitCode.ATTENTION if context.needs_attention or inexact else ExitCode.DONE


@dataclass(frozen=True, slots=True)
class _Choice:
    """A backup, opened, and the way from it if there is one to go."""

    found: Found
    contents: Contents
    journey: Journey | None


def _moment(
    to: str | None, before_transaction: int | None, to_last_reachable: bool
) -> Moment | None:
    refuse_together(bool(to), bool(before_transaction), "--to and --before-transaction")
    if before_transaction:
        return AtTransaction(before_transaction, inclusive=False)
    if to is not None:
        return parse_moment(to)
    return AtEnd() if to_last_reachable else None


def _only_whole() -> UsageError:
    return UsageError(
        "only a whole database, into an empty one, can be restored to a moment",
        hint="Restore the whole into a database of its own, and copy from there what you need.",
    )


def _choose(
    context: Context,
    database: str,
    backup: str | None,
    scope: Scope,
    moment: Moment | None,
    to_last_reachable: bool,
) -> _Choice:
    """The backup that is named; else the newest, or the one that leads to the moment."""

    def choose(listing: Listing) -> Manifest:
        return choose_backup(listing, backup, database=database, kinds=kinds_for(scope))

    def contents_of(found: Found) -> Contents:
        return open_contents(found.source, found.manifest, [context.epoch_identity(found)])

    if moment is None:
        found = context.find(database, choose)
        check_scope(scope, found.manifest.kind)
        return _Choice(found, contents_of(found), None)

    def candidates(listing: Listing) -> list[Manifest]:
        newest = choose(listing)
        if backup is not None:
            return [newest]
        return [
            one
            for one in listing.backups
            if one.kind is Kind.FULL
            and (not isinstance(moment, AtTime) or one.started <= moment.time)
        ]

    chosen = choose_journey(
        context.find_all(database, candidates),
        contents_of,
        context.journal_reader(database),
        moment,
        to_last_reachable=to_last_reachable,
    )
    return _Choice(chosen.candidate, chosen.contents, chosen.journey)


def _target(context: Context, text: str) -> Address:
    for prefix in ("env", "file"):
        if text.startswith(f"{prefix}:"):
            reference = SecretReference.model_validate({prefix: text.removeprefix(f"{prefix}:")})
            return Address.parse(reference.resolve("the target's URL"))
    address = Address.parse(text)
    if "password" in address.parameters and not address.is_local:
        context.err.print(
            "[yellow]![/] a password on the command line can be seen by every user of this"
            " machine: better --target env:NAME or file:PATH"
        )
    return address


def _show(context: Context, manifest: Manifest, result: RestoreResult, seconds: float) -> None:
    proof, out = result.proof, context.out
    out.print(f"\n[bold]restored[/] {manifest.backup} in {words.duration(seconds)}")
    if proof.holds and not result.lost:
        proven = [f"{words.count(proof.rows, 'row')} of {words.count(len(proof.tables), 'table')}"]
        if proof.definitions:
            proven.append(words.count(proof.definitions, "definition"))
        if proof.sequences:
            proven.append(words.count(proof.sequences, "sequence"))
        out.print(f"[bold green]proven[/]   {', '.join(proven)}: read back, equal to the backup")
    if result.replayed is not None:
        _show_replayed(context, result.replayed)
    for name in result.matviews:
        out.print(f"[dim]refreshed, not compared: materialized view {escape(str(name))}[/]")
    for text in proof.not_compared:
        out.print(f"[dim]not compared: {escape(text)}[/]")
    for text in proof.differences:
        out.print(f"[bold red]differs[/]  {escape(text)}")
    for item in result.lost:
        out.print(f"[bold red]lost[/]     {escape(item.what)}: {escape(item.reason)}")


def _show_replayed(context: Context, replayed: ReplayResult) -> None:
    done = [words.count(replayed.changes, "change"),
            words.count(replayed.transactions, "transaction")]  # fmt: skip
    if replayed.schema_changes:
        done.append(words.count(replayed.schema_changes, "schema change"))
    to = f"short of {replayed.moment}" if replayed.shortfall else f"up to {replayed.moment}"
    context.out.print(f"[bold green]replayed[/] {', '.join(done)}, {to}")
    if replayed.shortfall:
        context.out.print(f"[bold yellow]short[/]    {escape(replayed.shortfall)}")
    if replayed.last is not None:
        last, when = replayed.last, AtTime(replayed.last.committed)
        context.out.print(f"[dim]the last: transaction {last.xid} of {when}, LSN {last.end_lsn}[/]")
    for item in replayed.not_exact:
        context.out.print(f"[bold yellow]inexact[/]  {escape(item.what)}: {escape(item.why)}")


def _replayed_document(replayed: ReplayResult) -> dict[str, object]:
    last = replayed.last
    return {
        "moment": replayed.moment,
        "reached": not replayed.shortfall,
        "shortfall": replayed.shortfall,
        "segments": replayed.segments,
        "transactions": replayed.transactions,
        "changes": replayed.changes,
        "schema_changes": replayed.schema_changes,
        "last": last
        and {
            "xid": last.xid,
            "committed": last.committed.isoformat(),
            "lsn": str(last.end_lsn),
        },
        "not_exact": [{"what": item.what, "why": item.why} for item in replayed.not_exact],
    }


def _document(manifest: Manifest, result: RestoreResult, seconds: float) -> dict[str, object]:
    proof = result.proof
    return {
        "backup": manifest.backup,
        "proven": proof.holds and not result.lost,
        "seconds": round(seconds, 3),
        "rows": proof.rows,
        "tables": [
            {
                "schema": table.name.schema,
                "table": table.name.name,
                "rows": table.restored.rows,
                "matches": table.matches,
            }
            for table in proof.tables
        ],
        "definitions": proof.definitions,
        "sequences": proof.sequences,
        "differences": list(proof.differences),
        "not_compared": list(proof.not_compared),
        "lost": [{"what": item.what, "reason": item.reason} for item in result.lost],
        "created_roles": list(result.created_roles),
        "refreshed": [str(name) for name in result.matviews],
        "replayed": result.replayed and _replayed_document(result.replayed),
    }
