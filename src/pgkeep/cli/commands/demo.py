"""pgkeep demo: a real server, a real disaster, a proven recovery, in one command."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import rich_click as click
from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from pgkeep.cli import words
from pgkeep.cli.context import IDENTITY_VARIABLE, Context
from pgkeep.cli.options import command_options
from pgkeep.demo import story
from pgkeep.errors import ExitCode, ProofFailed, UsageError
from pgkeep.postgres.programs import choose_server
from pgkeep.postgres.server import ScratchServer


@click.command("demo")
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    help="Leave configuration, key and repository in this new folder.",
)
@command_options()
@click.pass_context
def demo(click_context: click.Context, context: Context, keep: Path | None) -> ExitCode:
    """Back up a shop on a real PostgreSQL, wreck it, restore it, and prove that all is back."""
    assert click_context.parent is not None
    group = click_context.parent.command
    began = time.monotonic()
    with _folder(keep) as folder, _told(context), _server(context.out) as server:
        os.environ["SHOP_DATABASE_URL"] = server.url(story.SHOP)
        demonstration = _Demo(context, group, folder, server)
        demonstration.run()
    seconds = time.monotonic() - began
    if context.as_json:
        context.answer(
            {
                "recovered": True,
                "seconds": round(seconds, 3),
                "answers": demonstration.answers,
                "folder": str(keep.absolute()) if keep else None,
            }
        )
    else:
        context.out.print(_what_next(keep, seconds))
    return ExitCode.DONE


@contextmanager
def _told(context: Context) -> Iterator[None]:
    """With --json, what the acts and their commands say on standard output is left out."""
    if not context.as_json:
        yield
        return
    with redirect_stdout(StringIO()):
        yield


class _Demo:
    """The acts, in order."""

    def __init__(
        self, context: Context, group: click.Command, folder: Path, server: ScratchServer
    ) -> None:
        self._out = context.out
        self._options = [
            *(("--json",) if context.as_json else ()),
            *(("--quiet",) if context.quiet else ()),
        ]
        self._group = group
        self._folder = folder
        self._server = server
        self._config = folder / "pgkeep.toml"
        self._identity = folder / "pgkeep-identity.txt"
        self.answers: dict[str, dict[str, str]] = {}
        """What the owner of the shop found before, after the disaster, and in the end."""

    def run(self) -> None:
        before = self._open_the_shop()
        self._back_up()
        after = self._wreck(before)
        self._restore()
        self._compare(before, after)

    def _open_the_shop(self) -> dict[str, str]:
        self._act(1, f"A shop, on a real PostgreSQL {self._server.programs.version}")
        began = time.monotonic()
        self._server.create_database(story.SHOP)
        story.run_script(self._server.url(story.SHOP), "shop.sql")
        size = story.database_bytes(self._server.url(story.SHOP))
        self._say(
            f"Loaded customers, products and orders, and everything that breaks naive backups:"
            f" {words.size(size)} in {words.duration(time.monotonic() - began)}."
        )
        return story.ask(self._server.url(story.SHOP))

    def _back_up(self) -> None:
        self._act(2, "Back it up, encrypted")
        repository = (self._folder / "backups").as_uri()
        state = str(self._folder / "state")
        self._pgkeep("init", story.SHOP, "--repository", repository, "--state-dir", state)
        self._pgkeep("backup", story.SHOP, "--tier", "daily")
        self._pgkeep("list", story.SHOP)
        hits, count = story.files_that_contain(self._folder / "backups", "@example.")
        self._say(
            f"Searched the {count} files of the repository for a customer's e-mail address:"
            f" {hits} hits. All that is readable there is sizes and times."
        )

    def _wreck(self, before: dict[str, str]) -> dict[str, str]:
        self._act(3, "03:12, somebody runs a script in the wrong window")
        for line in story.script("disaster.sql").splitlines():
            if line and not line.startswith("--"):
                self._out.print(f"   [red]{line.strip()}[/]")
        story.run_script(self._server.url(story.SHOP), "disaster.sql")
        after = story.ask(self._server.url(story.SHOP))
        self._out.print(_answers(("before", before), ("now", after)))
        return after

    def _restore(self) -> None:
        self._act(4, "Bring it back, beside the wreck, and prove it")
        self._server.create_database(story.RESTORED)
        os.environ["RESTORE_URL"] = self._server.url(story.RESTORED)
        os.environ[IDENTITY_VARIABLE] = str(self._identity)
        self._pgkeep("restore", story.SHOP, "--target", "env:RESTORE_URL")

    def _compare(self, before: dict[str, str], after: dict[str, str]) -> None:
        self._act(5, "Put it in the place of the wreck")
        story.swap(self._server.url())
        now = story.ask(self._server.url(story.SHOP))
        self.answers = {"before": before, "wrecked": after, "now": now}
        self._out.print(_answers(("before", before), ("wrecked", after), ("now", now)))
        if now != before:
            raise ProofFailed("the shop's answers are not what they were before the disaster")

    def _act(self, number: int, title: str) -> None:
        self._out.print()
        self._out.print(Rule(f"[bold]{number}. {title}[/]", align="left", style="cyan"))

    def _say(self, text: str) -> None:
        self._out.print(text)

    def _pgkeep(self, *arguments: str) -> None:
        """Run a command of our own, as typed."""
        shown = " ".join(arguments).replace(str(self._folder), "…")
        self._out.print(f"[bold cyan]$[/] [bold]pgkeep {shown}[/]")
        code = self._group.main(
            [*arguments, *self._options, "--config", str(self._config)],
            prog_name="pgkeep",
            standalone_mode=False,
        )
        if code != ExitCode.DONE:
            raise ProofFailed(f"pgkeep {arguments[0]} ended with exit code {code}")


def _answers(*columns: tuple[str, dict[str, str]]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 3))
    table.add_column("")
    for heading, _ in columns:
        table.add_column(heading, justify="right")
    for label in columns[0][1]:
        values = [answers[label] for _, answers in columns]
        same = values[-1] == values[0]
        values[-1] = f"[{'green' if same else 'red'}]{values[-1]}[/]"
        table.add_row(label, *values)
    return table


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """A folder of our own, removed at the end unless it was asked for."""
    if keep is not None:
        _make(keep)
        yield keep.absolute()
        return
    made = Path(tempfile.mkdtemp(prefix="pgkeep-demo-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError as exc:
        raise UsageError(
            f"{str(folder)!r} is there already", hint="Name a folder that is not there yet."
        ) from exc
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise UsageError(
            f"cannot make the folder {str(folder)!r}: {reason}", hint="Name another folder."
        ) from exc


@contextmanager
def _server(out: Console) -> Iterator[ScratchServer]:
    with out.status("starting PostgreSQL"):
        server = ScratchServer.start(choose_server())
    with server:
        yield server


def _what_next(keep: Path | None, seconds: float) -> str:
    kept = (
        f"  ls -R {keep}/backups, and {keep}/backups/RESTORE.txt: how to restore without pgkeep"
        if keep
        else "  pgkeep demo --keep ./demo-shop     the same, and the files stay for you to look at"
    )
    return (
        f"\n[bold green]All of it is back[/], {words.duration(seconds)} after the demonstration"
        " began.\n\nWhere to look next:\n"
        f"{kept}\n"
        "  docs/quickstart.md                 your own database, in five minutes\n"
        "  docs/design.md                     why you may believe it\n"
        "The command is at .venv/bin/pgkeep."
    )
