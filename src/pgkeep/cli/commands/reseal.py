"""pgkeep reseal: other operators for backups that are already there."""

from __future__ import annotations

import rich_click as click
from rich.markup import escape

from pgkeep.cli import words
from pgkeep.cli.approving import action, require_factor
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.errors import ExitCode
from pgkeep.repository.reseal import Resealed, reseal
from pgkeep.sealing import Recipients


@click.command("reseal")
@click.option("--dry-run", is_flag=True, help="Show what opens, and change nothing.")
@command_options(repository=True, identity=True, trust=False)
def reseal_command(context: Context, dry_run: bool) -> ExitCode:
    """Let the configured recipients, and nobody else, open the backups that are there.

    Opens each epoch's key with yours and seals it to them; no object and no database is read.
    """
    recipients = Recipients.find(context.recipients(), context.gpg_home)
    repositories = context.repositories()
    if not dry_run:
        places = tuple(one.store.url for one in repositories)
        wanted = action("reseal", recipients=recipients.names, repositories=places)
        require_factor(context, wanted, repositories, strict=True)
    done = reseal(repositories, recipients, context.open_epoch_key, dry_run=dry_run)
    problems = [item.problem for item in done if item.problem is not None]
    if problems and len(problems) == len(done):
        raise problems[0]
    if context.as_json:
        context.answer(_document(done, recipients, dry_run=dry_run))
    else:
        _show(context, done, recipients, dry_run=dry_run)
    left = problems or context.needs_attention
    return ExitCode.ATTENTION if left else ExitCode.DONE


def _document(
    done: tuple[Resealed, ...], recipients: Recipients, *, dry_run: bool
) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "recipients": list(recipients.names),
        "epochs": [
            {
                "epoch": item.epoch,
                "repositories": list(item.repositories),
                "opened": item.problem is None,
                "resealed": item.problem is None and not dry_run,
                "problem": item.problem.message if item.problem else None,
            }
            for item in done
        ],
    }


def _show(
    context: Context, done: tuple[Resealed, ...], recipients: Recipients, *, dry_run: bool
) -> None:
    what = "would be sealed" if dry_run else "sealed"
    to = words.count(len(recipients.names), "recipient")
    for item in done:
        where = escape(", ".join(item.repositories))
        if item.problem is None:
            context.out.print(f"[green]✓[/] epoch {item.epoch}: {what} to {to}, in {where}")
        else:
            reason = escape(item.problem.message)
            context.out.print(
                f"[yellow]![/] epoch {item.epoch}: left as it is in {where}: {reason}"
            )
    if not done:
        context.out.print("no backups yet, so there is nothing to seal anew")
