"""pgkeep ledger: who did what, when and why; and whether the record is whole."""

from __future__ import annotations

import socket
from collections import deque

import rich_click as click
from rich.markup import escape

from pgkeep.cli import words
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.errors import ExitCode, LedgerBroken, PgkeepError
from pgkeep.repository.ledger import Anchor, Entry, Ledger, anchors_in, read_anchors


@click.command("ledger")
@click.option("--verify", "check", is_flag=True, help="Check the chain, and every anchor of it.")
@click.option("--last", type=click.IntRange(1), default=30, show_default=True,
              help="How many entries to show.")  # fmt: skip
@click.option("--database", help="Only entries of this database.")
@command_options(trust=True)
def ledger_command(context: Context, check: bool, last: int, database: str | None) -> ExitCode:
    """Show every access to the backups: who, from where, what, why, and how it ended.

    With --verify: ends with 1 if an entry was edited, removed or cut off, by the chain itself and
    by the signed anchors in the repositories.
    """
    ledger = Ledger(context.config.state_dir)
    if check:
        return _verify(context, ledger)
    wanted = (one for one in ledger.entries() if database in (None, one.database))
    newest = deque(wanted, maxlen=last)
    if context.as_json:
        context.answer([_document(one) for one in newest])
    else:
        for one in newest:
            context.out.print(_line(one))
        if not newest:
            context.out.print("nothing is on record yet")
    return ExitCode.DONE


def _verify(context: Context, ledger: Ledger) -> ExitCode:
    anchors: dict[str, tuple[Anchor, ...]] = {}
    wrong: list[PgkeepError] = []
    if context.config.repositories:
        for repository in context.repositories():
            found, problems = read_anchors(
                repository, socket.gethostname(), context.trusted(repository)
            )
            signed = anchors_in(context.listing(repository, None).backups, socket.gethostname())
            anchors[repository.name] = (*found, *signed)
            wrong += problems
    result = ledger.verify(anchors)
    for problem in wrong:
        context.notice(problem)
    if context.as_json:
        context.answer(
            {
                "entries": result.entries,
                "anchors": {name: len(found) for name, found in anchors.items()},
                "problems": [*result.problems, *(one.message for one in wrong)],
            }
        )
    if result.problems:
        more = f" (and {len(result.problems) - 1} more)" if len(result.problems) > 1 else ""
        raise LedgerBroken(f"the ledger {str(ledger.path)!r}: {result.problems[0]}{more}")
    if not context.as_json:
        context.out.print(
            f"[green]✓[/] {words.count(result.entries, 'entry').replace('entrys', 'entries')},"
            f" whole, as {words.count(result.anchors, 'anchor')} in the repositories say"
        )
    return ExitCode.ATTENTION if context.needs_attention else ExitCode.DONE


def _line(one: Entry) -> str:
    colour = {"failed": "red", "changed": "yellow", "attention": "yellow"}.get(one.state, "dim")
    about = f" {one.database}" if one.database else ""
    why = f" · {one.reason}" if one.reason else ""
    error = f" · {one.error}" if one.error else ""
    return (
        f"[dim]{one.sequence:>5}[/] {words.moment(one.at)} [{colour}]{one.state:<9}[/]"
        f" [bold]{escape(one.what + about)}[/] · {escape(one.who)}, {escape(one.source)}"
        f"{escape(why)}{escape(error)}"
    )


def _document(one: Entry) -> dict[str, object]:
    return {
        "sequence": one.sequence,
        "at": one.at.isoformat(),
        "state": one.state,
        "what": one.what,
        "database": one.database or None,
        "who": one.who,
        "from": one.source,
        "reason": one.reason or None,
        "details": dict(one.details),
        "began": one.began,
        "error": one.error or None,
    }
