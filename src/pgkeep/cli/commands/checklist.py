"""pgkeep checklist: what is set up and kept up, ticked from evidence."""

from __future__ import annotations

import socket

import rich_click as click
from rich.markup import escape

from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.cli.review import checklist_facts, sign_offs
from pgkeep.errors import ExitCode, UsageError
from pgkeep.keeper.checklist import ITEMS, Line, Rhythm, item_named, judge
from pgkeep.model import FORMAT
from pgkeep.repository.ledger import Ledger
from pgkeep.repository.signoffs import SignOff, seal_sign_off

_TITLES = {
    Rhythm.SET_UP: "To set up once",
    Rhythm.DAILY: "Each day",
    Rhythm.WEEKLY: "Each week",
    Rhythm.MONTHLY: "Each month",
    Rhythm.QUARTERLY: "Each quarter",
}


@click.command("checklist")
@click.argument("database", required=False)
@click.option("--sign", "item", metavar="ITEM", help="Say that you did what only a person can do.")
@click.option("--name", default="", help="--sign: your name.")
@click.option("--note", default="", help="--sign: a few words.")
@command_options(trust=True)
def checklist_command(
    context: Context, database: str | None, item: str | None, name: str, note: str
) -> ExitCode:
    """Show for DATABASE, or all, what is set up and kept up, each line with its evidence.

    A line without evidence has the command that would tick it. Ends with 3 if something is due.
    """
    if item is not None:
        return _sign(context, item, name, note)
    names = [database] if database else sorted(context.config.databases)
    if not names:
        raise UsageError("no database is configured", hint="Run: pgkeep init")
    if database:
        context.config.database(database)
    repositories = context.repositories()
    entries = list(Ledger(context.config.state_dir).entries())
    signed = sign_offs(context, repositories)
    found = {
        one: judge(checklist_facts(context, one, repositories, entries, signed)[0]) for one in names
    }
    if context.as_json:
        context.answer([_document(one, line) for one, lines in found.items() for line in lines])
    else:
        for one, lines in found.items():
            _show(context, one, lines)
    due = any(not line.is_done for lines in found.values() for line in lines)
    return ExitCode.ATTENTION if due or context.needs_attention else ExitCode.DONE


def _show(context: Context, name: str, lines: tuple[Line, ...]) -> None:
    out = context.out
    done = sum(line.is_done for line in lines)
    out.print(f"[bold cyan]{escape(name)}[/]: {done} of {len(lines)} lines are done")
    for rhythm, title in _TITLES.items():
        out.print(f"\n[bold]{title}[/]")
        for line in lines:
            if line.item.rhythm is rhythm:
                out.print(_words(line))
    out.print()


def _words(line: Line) -> str:
    text = escape(f"{line.item.text:<46}")
    if line.is_done and line.tick is not None:
        until = f", again by {line.due:%Y-%m-%d}" if line.due else ""
        evidence = escape(line.tick.evidence)
        return f"  [green]✓[/] {text} [dim]{line.tick.at:%Y-%m-%d}  {evidence}{until}[/]"
    last = f" [dim](last: {line.tick.at:%Y-%m-%d})[/]" if line.tick else ""
    return f"  [yellow]☐[/] {text} {escape(line.remedy)}{last}"


def _document(name: str, line: Line) -> dict[str, object]:
    return {
        "database": name,
        "item": line.item.id,
        "list": line.item.rhythm.value,
        "text": line.item.text,
        "done": line.is_done,
        "at": line.tick.at.isoformat() if line.tick else None,
        "evidence": line.tick.evidence if line.tick else None,
        "due": line.due.isoformat() if line.due else None,
        "remedy": line.remedy,
    }


def _sign(context: Context, item: str, name: str, note: str) -> ExitCode:
    found = item_named(item)
    people = [one.id for one in ITEMS if one.prove is None]
    if found is None or found.prove is not None:
        what = "is ticked by evidence" if found else "is on no list"
        raise UsageError(f"{item!r} {what}", hint=f"To sign off: {', '.join(people)}.")
    if not name.strip():
        raise UsageError("who signs it off?", hint='Add --name "YOUR NAME".')
    key = context.keys.signing_key()
    signed = SignOff(
        FORMAT, item, " ".join(name.split()), " ".join(note.split()), context.now(),
        socket.gethostname(),
    )  # fmt: skip
    path, data = seal_sign_off(signed, key)
    context.keep_everywhere(path, data, key.public)
    if context.as_json:
        context.answer({"item": item, "name": signed.name, "at": signed.at.isoformat()})
    else:
        context.out.print(f"[green]✓[/] {escape(found.text)}: signed off by {escape(signed.name)}")
    return ExitCode.ATTENTION if context.needs_attention else ExitCode.DONE
