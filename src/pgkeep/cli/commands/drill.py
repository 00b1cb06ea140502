"""pgkeep drill: restore on a scratch server, prove, ask, measure, and keep the evidence."""

from __future__ import annotations

import secrets
from datetime import datetime

import rich_click as click
from rich.markup import escape

from pgkeep import config as configuration
from pgkeep.cli import words
from pgkeep.cli.choice import Choice, choose_backup_for, critical_tables, random_second
from pgkeep.cli.context import Context
from pgkeep.cli.evidence import Occasion, keep_evidence
from pgkeep.cli.options import command_options, refuse_together
from pgkeep.errors import DamagedObject, ExitCode, ObjectMissing, PgkeepError, ProofFailed
from pgkeep.model import Kind, Manifest
from pgkeep.postgres.address import Address
from pgkeep.recovery.checks import Check
from pgkeep.recovery.drill import DrillRequest, DrillResult, drill
from pgkeep.recovery.load import Sealed
from pgkeep.recovery.moment import parse_moment
from pgkeep.recovery.plan import Scope
from pgkeep.recovery.request import RestoreRequest
from pgkeep.repository.evidence import Compared, Details, Outcome
from pgkeep.repository.repository import Listing, choose_backup
from pgkeep.sealing import X25519Identity

_SHOWN = 10


@click.command("drill")
@click.argument("database")
@click.option("--backup", "backup", metavar="ID", help="Which backup (its id or the beginning of"
              " it).  [default: the newest]")  # fmt: skip
@click.option("--random", "at_random", is_flag=True, help="Any backup, at random.")
@click.option("--to", metavar="MOMENT", help="A moment between backups: a time with its zone, an"
              " LSN, or a transaction id.")  # fmt: skip
@click.option("--random-moment", is_flag=True, help="Any second that the journal leads to.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    help="Connections that write at once. Not given: one a processor, two at least.",
)
@command_options(repository=True, identity=True)
def drill_command(
    context: Context,
    database: str,
    backup: str | None,
    at_random: bool,
    to: str | None,
    random_moment: bool,
    jobs: int | None,
) -> ExitCode:
    """Restore a backup of DATABASE where it harms nobody, prove it, and keep the evidence.

    A scratch server of the source's version is started and removed again, or a database is made
    and dropped on the server that is configured for drills. Ends with 1 if anything differs, with
    3 if something could not be proven.
    """
    refuse_together(backup is not None, at_random, "--backup and --random")
    refuse_together(to is not None, random_moment, "--to and --random-moment")
    refuse_together(at_random, to is not None or random_moment, "--random and a moment")
    moment = parse_moment(to) if to else None
    if random_moment:
        moment = random_second(context, database)
    if at_random:
        backup = _any_backup(context, database)
    scope = Scope(critical=critical_tables(context, database))
    started = context.now()
    try:
        choice = choose_backup_for(context, database, backup, scope, moment)
    except (DamagedObject, ObjectMissing) as exc:
        if moment is None:
            _keep_that_it_cannot_be_opened(context, database, backup, started, exc)
        raise
    identity = context.epoch_identity(choice.found)
    with context.reporter() as reporter:
        result = drill(_request(context, database, choice, scope, identity, jobs), reporter)
    occasion = _occasion(started, result, choice)
    path = keep_evidence(context, choice.found, identity, occasion, result.details)
    manifest = choice.found.manifest
    if context.as_json:
        context.answer(_document(choice, result, path))
    else:
        _show(context, choice, result)
    if result.outcome is Outcome.FAILED:
        raise ProofFailed(
            f"the drill of {manifest.backup} failed: {result.first_difference}",
            hint="Try another backup (--backup) and find out what is wrong with this one; the"
            " evidence is kept in the repositories.",
        )
    attention = result.outcome is Outcome.PARTIAL or context.needs_attention
    return ExitCode.ATTENTION if attention else ExitCode.DONE


def _keep_that_it_cannot_be_opened(
    context: Context, database: str, backup: str | None, started: datetime, problem: PgkeepError
) -> None:
    """Evidence of a drill that did not come to a restore: no older one may hide it."""
    found = context.find(
        database,
        lambda listing: choose_backup(listing, backup, database=database, kinds={Kind.FULL}),
    )
    seconds = (context.now() - started).total_seconds()
    occasion = Occasion("drill", started, seconds, (), Outcome.FAILED, "")
    details = Details(problem=problem.message)
    keep_evidence(context, found, context.epoch_identity(found), occasion, details)


def _any_backup(context: Context, database: str) -> str:
    def choose(listing: Listing) -> Manifest:
        full = [one for one in listing.backups if one.kind is Kind.FULL]
        if full:
            return secrets.choice(full)
        return choose_backup(listing, None, database=database, kinds={Kind.FULL})

    return context.find(database, choose).manifest.backup


def _request(
    context: Context,
    database: str,
    choice: Choice,
    scope: Scope,
    identity: X25519Identity,
    jobs: int | None,
) -> DrillRequest:
    server = context.config.drills.server
    configured = context.config.databases.get(database)
    address = (
        Address.parse(configuration.resolve(server, "the URL of the server for drills"))
        if server is not None
        else None
    )
    return DrillRequest(
        restore=RestoreRequest(
            manifest=choice.found.manifest,
            contents=choice.contents,
            sealed=Sealed(choice.found.source, [identity]),
            target=address or Address({}),
            scope=scope,
            journey=choice.journey,
            choose_client=context.choose_client,
            jobs=context.jobs_to_restore(jobs),
            now=context.now,
        ),
        checks=checks_of(context, database),
        server=address,
        bin_dirs=context.config.postgres_bin_dirs,
        application=configured.drill.application if configured else (),
        application_seconds=configured.drill.application_seconds if configured else 0,
    )


def checks_of(context: Context, database: str) -> tuple[Check, ...]:
    """What the configuration wants to be asked of the restored database."""
    configured = context.config.databases.get(database)
    return tuple(
        Check(one.name, one.sql, one.expectation, one.minimum, one.maximum)
        for one in (configured.checks if configured else ())
    )


def _occasion(started: datetime, result: DrillResult, choice: Choice) -> Occasion:
    return Occasion(
        kind="drill",
        started=started,
        seconds=result.seconds,
        steps=result.steps,
        outcome=result.outcome,
        server=result.server,
        compared=result.restored.proof.compared if result.restored else Compared(),
        moment=choice.journey.moment if choice.journey else None,
    )


def _show(context: Context, choice: Choice, result: DrillResult) -> None:
    out, details = context.out, result.details
    manifest = choice.found.manifest
    colour = {Outcome.PASSED: "green", Outcome.PARTIAL: "yellow", Outcome.FAILED: "red"}
    took = words.duration(result.seconds)
    out.print(
        f"\n[bold {colour[result.outcome]}]{result.outcome}[/]   {manifest.backup} restored in"
        f" {took} on {escape(result.server or 'no server')}"
    )
    if result.restored is not None:
        proof = result.restored.proof
        rows, tables = words.count(proof.rows, "row"), words.count(len(proof.tables), "table")
        out.print(
            f"compared {rows} of {tables},"
            f" {words.count(proof.definitions, 'definition')},"
            f" {words.count(proof.sequences, 'sequence')}"
        )
    if choice.journey is not None:
        survey = choice.journey.survey
        out.print(
            f"replayed {words.count(survey.transactions, 'transaction')} to"
            f" {escape(str(choice.journey.moment))}"
        )
    for one in details.checks:
        mark = "[green]✓[/]" if one.passed else "[red]✗[/]"
        out.print(f"{mark} {escape(one.name)}: {escape(one.found)}")
    for text in details.differences[:_SHOWN]:
        out.print(f"[red]differs[/]     {escape(text)}")
    for item in details.not_covered[:_SHOWN]:
        out.print(f"[yellow]not proven[/]  {escape(item.what)}: {escape(item.why)}")
    left = max(len(details.differences), len(details.not_covered)) - _SHOWN
    if left > 0:
        out.print(f"[dim]and {left} more: see --json[/]")


def _document(choice: Choice, result: DrillResult, path: str) -> dict[str, object]:
    proof = result.restored.proof if result.restored else None
    details = result.details
    return {
        "backup": choice.found.manifest.backup,
        "moment": str(choice.journey.moment) if choice.journey else None,
        "replayed": choice.journey.survey.transactions if choice.journey else 0,
        "outcome": result.outcome.value,
        "seconds": round(result.seconds, 3),
        "steps": [{"name": step.name, "seconds": step.seconds} for step in result.steps],
        "server": result.server,
        "rows": proof.rows if proof else 0,
        "tables": len(proof.tables) if proof else 0,
        "definitions": proof.definitions if proof else 0,
        "sequences": proof.sequences if proof else 0,
        "problem": details.problem or None,
        "differences": list(details.differences),
        "checks": [
            {"name": one.name, "passed": one.passed, "found": one.found} for one in details.checks
        ],
        "not_covered": [{"what": one.what, "why": one.why} for one in details.not_covered],
        "evidence": path,
    }
