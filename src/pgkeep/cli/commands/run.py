"""pgkeep run: the keeper, in the foreground."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import rich_click as click
from rich.markup import escape

from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.config import Config
from pgkeep.errors import ConfigurationError, ExitCode, PgkeepError, UsageError
from pgkeep.events import Event, Noticed, StageBegan, StageEnded
from pgkeep.keeper.children import Surroundings
from pgkeep.keeper.keeper import Keeper, Request
from pgkeep.keeper.metrics import served
from pgkeep.keeper.notify import channels, example_alert
from pgkeep.keeper.state import Message, only_keeper


@click.command("run")
@click.option("--metrics", metavar="HOST:PORT", help="Where Prometheus may ask.")
@click.option("--no-capture", is_flag=True, help="Capture no changes, whatever is configured.")
@click.option("--test-notify", is_flag=True, help="Send a test to everybody who is told, and end.")
@command_options()
def run_command(
    context: Context, metrics: str | None, no_capture: bool, test_notify: bool
) -> ExitCode:
    """Do everything by itself: schedule, capture, drills, alerts, metrics. Ends with SIGTERM.

    A backup that runs then is waited for (`keeper.stop_seconds`); a second signal ends it at once.
    """
    config = context.config
    if test_notify:
        return _test(context)
    if not config.databases:
        raise UsageError("no database is configured", hint="Run: pgkeep init")
    if config.origin is None:
        raise ConfigurationError("the keeper needs a configuration file", hint="Run: pgkeep init")
    around = Surroundings(config.origin.resolve(), config.state_dir / "logs")
    with only_keeper(config.state_dir), _ending() as (stop, insist):
        log = _Log(context)
        keeper = Keeper(Request(config, around, context.now, not no_capture), log)
        with served(metrics or config.keeper.metrics, keeper.snapshot):
            log.begun(config)
            keeper.run(stop, insist)
    return ExitCode.DONE


@contextmanager
def _ending() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Events that the first and the second signal set."""
    stop, insist = threading.Event(), threading.Event()

    def end(_: int, __: object) -> None:
        (insist if stop.is_set() else stop).set()

    before = {one: signal.signal(one, end) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop, insist
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


class _Log:
    """Events as lines with their time, for a terminal or the journal of systemd."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def begun(self, config: Config) -> None:
        """Without it a keeper that has nothing to do for hours looks like one that hangs."""
        names = ", ".join(map(escape, config.databases))
        self._write(f"keeps {names}; what is next: pgkeep schedule", always=False)

    def report(self, event: Event) -> None:
        match event:
            case StageBegan(stage=name):
                text = f"[cyan]{escape(name)}[/] begins"
            case StageEnded(stage=name, summary=summary):
                text = f"[green]✓[/] {escape(name)}: {escape(summary)}"
            case Noticed(message=message, hint=hint):
                text = f"[yellow]![/] {escape(message)}" + (f" ({escape(hint)})" if hint else "")
            case _:
                return
        self._write(text, always=isinstance(event, Noticed))

    def _write(self, text: str, *, always: bool) -> None:
        if always or not self._context.quiet:
            self._context.err.print(f"[dim]{datetime.now(UTC):%Y-%m-%d %H:%M:%S}[/] {text}")


def _test(context: Context) -> ExitCode:
    """Whether messages arrive is known only by sending one."""
    now = context.now()
    ways = channels(context.config.notify)
    if not ways:
        raise ConfigurationError(
            "nobody is told: no channel is configured",
            hint='Add [notify] with slack = [{ env = "SLACK_WEBHOOK" }], or another.',
        )
    problems: dict[str, PgkeepError | None] = {}
    for name, channel in ways.items():
        try:
            channel.tell(Message("test", name, example_alert(now), False, now), now)
        except PgkeepError as exc:
            problems[name] = exc
        else:
            problems[name] = None
    if context.as_json:
        context.answer({name: one.message if one else None for name, one in problems.items()})
    for name, one in problems.items():
        if one is not None:
            context.notice(one)
        elif not context.as_json:
            context.out.print(f"[green]✓[/] {escape(name)} took a message")
    return ExitCode.ATTENTION if any(problems.values()) else ExitCode.DONE
