"""pgkeep restore: get a database back, and prove it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import rich_click as click
from rich.markup import escape

from pgkeep.cli import words
from pgkeep.cli.approving import action, ask_for_factor, require_factor
from pgkeep.cli.choice import choose_backup_for, chosen_moment, critical_tables
from pgkeep.cli.context import Context
from pgkeep.cli.enrolled import look_up
from pgkeep.cli.options import command_options, refuse_together
from pgkeep.cli.target import is_occupied, target_address
from pgkeep.errors import ExitCode, UsageError
from pgkeep.model import Manifest
from pgkeep.recovery import cron
from pgkeep.recovery.load import Sealed
from pgkeep.recovery.moment import AtTime
from pgkeep.recovery.onward import ReplayResult
from pgkeep.recovery.plan import (
    RestorePlan,
    Scope,
    parse_schema_name,
    parse_table_name,
)
from pgkeep.recovery.request import RestoreRequest, RestoreResult
from pgkeep.recovery.restore import describe_plan, plan_only, raise_unless_proven, restore
from pgkeep.repository.repository import Repository


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
@click.option("--where", metavar="SQL", help="Of one table, under another schema: just the rows for"
              " which this is true.")  # fmt: skip
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
@click.option(
    "--resume-jobs",
    is_flag=True,
    help="Restore nothing: switch on, in a project that was restored, the jobs of cron that were"
    " active in the backup.",
)
@moment_options
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    help="Connections that write at once. Not given: one a processor, two at least.",
)
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
    where: str | None,
    no_owner: bool,
    no_privileges: bool,
    allow_non_empty: bool,
    go_on_after_damage: bool,
    resume_jobs: bool,
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
    beside = into_schema is not None
    refuse_together(beside, schema_only, "--into-schema and --schema-only")
    refuse_together(beside, data_only, "--into-schema and --data-only")
    scope = Scope(
        schema=not data_only,
        data=not schema_only,
        tables=tuple(parse_table_name(text) for text in tables),
        into_schema=None if into_schema is None else parse_schema_name(into_schema),
        where=where or "",
        critical=critical_tables(context, database),
    )
    moment = chosen_moment(to, before_transaction, to_last_reachable=to_last_reachable)
    if moment is not None:
        refuse_together(go_on_after_damage, True, "--go-on-after-damage and a moment")
        if schema_only or data_only or allow_non_empty or (into_schema and not tables):
            raise _not_to_a_moment()
    choice = choose_backup_for(
        context, database, backup, scope, moment, to_last_reachable=to_last_reachable
    )
    manifest, identity = choice.found.manifest, context.epoch_identity(choice.found)
    request = RestoreRequest(
        manifest=manifest,
        contents=choice.contents,
        sealed=Sealed(choice.found.source, [identity]),
        target=target_address(context, target),
        scope=scope,
        choose_client=context.choose_client,
        jobs=context.jobs_to_restore(jobs),
        now=context.now,
        owners=not no_owner,
        privileges=not no_privileges,
        allow_occupied=allow_non_empty or bool(tables and into_schema is None and not data_only),
        go_on_after_damage=go_on_after_damage,
        journey=choice.journey,
    )
    if resume_jobs:
        if not dry_run:
            backup = request.manifest.backup
            wanted = action("resume jobs", database, backup=backup, target=request.target)
            require_factor(context, wanted, choice.found.repositories)
        return _resume_jobs(context, request, dry_run=dry_run)
    if dry_run:
        _show_plan(context, request, plan_only(request))
        return ExitCode.DONE
    _require_factor_beside_others(context, database, request, choice.found.repositories)
    return _restore(context, request)


def _restore(context: Context, request: RestoreRequest) -> ExitCode:
    manifest = request.manifest
    started = time.monotonic()
    with context.reporter() as reporter:
        result = restore(request, reporter)
    seconds = time.monotonic() - started
    if context.as_json:
        context.answer(_document(manifest, result, seconds))
    else:
        _show(context, manifest, result, seconds)
    raise_unless_proven(result)
    inexact = bool(result.replayed is not None and result.replayed.not_exact)
    attention = context.needs_attention or inexact or bool(result.refused)
    return ExitCode.ATTENTION if attention else ExitCode.DONE


def _require_factor_beside_others(
    context: Context, database: str, request: RestoreRequest, repositories: Sequence[Repository]
) -> None:
    """A second factor, where one is enrolled and the target holds something already.

    A target that has to be empty needs no look: the restore itself refuses it otherwise.
    """
    scope = request.scope
    if scope.schema and scope.into_schema is None and not request.allow_occupied:
        return
    enrolled = look_up(context, repositories)
    if enrolled.gathered.is_enrolled and is_occupied(request.target):
        wanted = action(
            "restore",
            database,
            backup=request.manifest.backup,
            target=request.target,
            tables=scope.tables,
            without_schema=not scope.schema,
            without_data=not scope.data,
            into_schema=scope.into_schema,
            where=scope.where,
        )
        ask_for_factor(enrolled, wanted)


def _resume_jobs(context: Context, request: RestoreRequest, *, dry_run: bool) -> ExitCode:
    """Switch on the jobs of cron that were active in the backup."""
    if dry_run:
        context.out.print("would switch on the jobs of cron that were active in the backup")
        return ExitCode.DONE
    resumed = cron.resume(request.target, request.contents, request.sealed)
    if context.as_json:
        context.answer({"resumed": resumed.count, "absent": [job.label for job in resumed.absent]})
    else:
        context.out.print(f"[bold green]resumed[/]  {words.count(resumed.count, 'job')} of cron")
        for job in resumed.absent:
            context.out.print(
                f"[bold yellow]absent[/]   job {escape(job.label)}: not there, changed, or active"
            )
    return ExitCode.ATTENTION if resumed.absent else ExitCode.DONE


def _not_to_a_moment() -> UsageError:
    return UsageError(
        "to a moment go a whole database into an empty one, or tables that are not there yet",
        hint="Use --table, with --into-schema to have it beside the live one.",
    )


def _show_plan(context: Context, request: RestoreRequest, plan: RestorePlan) -> None:
    if context.as_json:
        context.answer(_plan_document(request, plan))
        return
    for line in describe_plan(request, plan):
        context.out.print(escape(line))


def _plan_document(request: RestoreRequest, plan: RestorePlan) -> dict[str, object]:
    return {
        "dry_run": True,
        "backup": request.manifest.backup,
        "taken": request.contents.point.taken.isoformat(),
        "from": request.sealed.source.url,
        "into": str(request.target),
        "definitions": plan.definitions,
        "rows": plan.rows,
        "text_bytes": plan.text_bytes,
        "tables": [
            {
                "schema": table.name.schema,
                "table": table.name.name,
                "rows": table.source.rows,
                "indexes": len(table.indexes),
            }
            for table in plan.tables
        ],
        "sequences": len(plan.sequences),
        "large_objects": len(plan.large_objects.owners),
        "materialized_views": [str(name) for name in plan.matviews],
        "left_empty": [str(name) for name in plan.left_empty],
    }


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
    for refused in result.refused:
        out.print(f"[bold yellow]refused[/]  {escape(refused.what)}: {escape(refused.reason)}")
        out.print(f"         [dim]{escape(refused.meaning)}[/]")
    for remark in result.remarks:
        out.print(f"[bold]note[/]     {escape(remark)}")
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
        "refused": [
            {"what": one.what, "reason": one.reason, "meaning": one.meaning}
            for one in result.refused
        ],
        "remarks": list(result.remarks),
        "created_roles": list(result.created_roles),
        "refreshed": [str(name) for name in result.matviews],
        "replayed": result.replayed and _replayed_document(result.replayed),
    }
