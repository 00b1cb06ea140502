"""pgkeep drill: restore on a scratch server, prove, ask, measure, and keep the evidence."""

from __future__ import annotations

import secrets
import socket
from datetime import datetime

import rich_click as click
from rich.markup import escape

from pgkeep import __version__
from pgkeep import config as configuration
from pgkeep.cli import words
from pgkeep.cli.context import Context, Found
from pgkeep.cli.options import command_options, refuse_together
from pgkeep.config import CheckConfig
from pgkeep.errors import ExitCode, ProofFailed
from pgkeep.model import FORMAT, Kind, Manifest, TableName
from pgkeep.postgres.address import Address
from pgkeep.recovery.checks import Check
from pgkeep.recovery.drill import DrillRequest, DrillResult, drill
from pgkeep.recovery.load import Sealed
from pgkeep.recovery.plan import Scope, parse_table_name
from pgkeep.recovery.request import RestoreRequest
from pgkeep.repository.evidence import Evidence, Outcome, seal_evidence
from pgkeep.repository.repository import Listing, choose_backup, open_contents
from pgkeep.sealing import X25519Identity

_SHOWN = 10


@click.command("drill")
@click.argument("database")
@click.option("--backup", "backup", metavar="ID", help="Which backup (its id or the beginning of"
              " it).  [default: the newest]")  # fmt: skip
@click.option("--random", "at_random", is_flag=True, help="Any backup, at random.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Connections that write at once.")
@command_options(repository=True, identity=True)
def drill_command(
    context: Context, database: str, backup: str | None, at_random: bool, jobs: int | None
) -> ExitCode:
    """Restore a backup of DATABASE where it harms nobody, prove it, and keep the evidence.

    A scratch server of the source's version is started and removed again, or a database is made
    and dropped on the server that is configured for drills. Ends with 1 if anything differs, with
    3 if something could not be proven.
    """
    refuse_together(backup is not None, at_random, "--backup and --random")

    def choose(listing: Listing) -> Manifest:
        full = [one for one in listing.backups if one.kind is Kind.FULL]
        if at_random and full:
            return secrets.choice(full)
        return choose_backup(listing, backup, database=database, kinds={Kind.FULL})

    found = context.find(database, choose)
    identity = context.epoch_identity(found)
    started = context.now()
    with context.reporter() as reporter:
        result = drill(_request(context, database, found, identity, jobs), reporter)
    path = _keep(context, found, identity, started, result)
    if context.as_json:
        context.answer(_document(found.manifest, result, path))
    else:
        _show(context, found.manifest, result)
    if result.outcome is Outcome.FAILED:
        raise ProofFailed(
            f"the drill of {found.manifest.backup} failed: {result.first_difference}",
            hint="Try another backup (--backup) and find out what is wrong with this one; the"
            " evidence is kept in the repositories.",
        )
    attention = result.outcome is Outcome.PARTIAL or context.needs_attention
    return ExitCode.ATTENTION if attention else ExitCode.DONE


def _request(
    context: Context, database: str, found: Found, identity: X25519Identity, jobs: int | None
) -> DrillRequest:
    configured = context.config.databases.get(database)
    server = context.config.drills.server
    address = (
        Address.parse(configuration.resolve(server, "the URL of the server for drills"))
        if server is not None
        else None
    )
    return DrillRequest(
        restore=RestoreRequest(
            manifest=found.manifest,
            contents=open_contents(found.source, found.manifest, [identity]),
            sealed=Sealed(found.source, [identity]),
            target=address or Address({}),
            scope=Scope(critical=critical_tables(context, database)),
            choose_client=context.choose_client,
            jobs=context.jobs(jobs),
            now=context.now,
        ),
        checks=tuple(_check(one) for one in configured.checks) if configured else (),
        server=address,
        bin_dirs=context.config.postgres_bin_dirs,
    )


def critical_tables(context: Context, database: str) -> tuple[TableName, ...]:
    """Those that the configuration wants back first."""
    configured = context.config.databases.get(database)
    return tuple(map(parse_table_name, configured.critical_tables)) if configured else ()


def _check(one: CheckConfig) -> Check:
    return Check(one.name, one.sql, one.expectation, one.minimum, one.maximum)


def _keep(
    context: Context,
    found: Found,
    identity: X25519Identity,
    started: datetime,
    result: DrillResult,
) -> str:
    """Put the evidence into every repository; what one cannot take is a notice."""
    proof = result.restored.proof if result.restored else None
    details = result.details
    head = Evidence(
        format=FORMAT,
        kind="drill",
        database=found.manifest.database,
        backup=found.manifest.backup,
        moment=None,
        repository=found.repositories[0].name,
        started=started,
        seconds=round(result.seconds, 3),
        steps=result.steps,
        outcome=result.outcome,
        server=result.server,
        tables=len(proof.tables) if proof else 0,
        rows=proof.rows if proof else 0,
        text_bytes=found.manifest.totals.text_bytes,
        definitions=proof.definitions if proof else 0,
        sequences=proof.sequences if proof else 0,
        differences=len(details.differences) + bool(details.problem),
        checks=len(details.checks),
        checks_failed=sum(not one.passed for one in details.checks),
        not_covered=len(details.not_covered),
        host=socket.gethostname(),
        tool=f"pgkeep {__version__}",
        epoch=found.manifest.epoch,
    )
    key = context.keys.signing_key()
    recipients = [identity.recipient, context.keys.index_key().recipient]
    path, data = seal_evidence(head, details, recipients, key)
    context.keep_everywhere(path, data, key.public)
    return path


def _show(context: Context, manifest: Manifest, result: DrillResult) -> None:
    out, details = context.out, result.details
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


def _document(manifest: Manifest, result: DrillResult, path: str) -> dict[str, object]:
    proof = result.restored.proof if result.restored else None
    details = result.details
    return {
        "backup": manifest.backup,
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
