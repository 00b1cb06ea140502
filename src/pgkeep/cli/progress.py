"""Progress for people: bars on a terminal, a line a step elsewhere. Always on standard error."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from pgkeep.events import Event, Noticed, Progressed, StageBegan, StageEnded

_REFRESH_SECONDS = 0.1


class TerminalReporter(AbstractContextManager["TerminalReporter"]):
    """Bars with rate and time left. Use it as a context, so that the terminal is left in order."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=30),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TextColumn("[dim]{task.fields[rows]}[/]"),
            TimeElapsedColumn(),
            TextColumn("[dim]left[/]"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._rows: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def report(self, event: Event) -> None:
        with self._lock:
            match event:
                case StageBegan():
                    self._begin(event)
                case Progressed():
                    self._advance(event)
                case StageEnded():
                    self._end(event)
                case Noticed():
                    self._progress.console.print(_notice(event))

    def _begin(self, event: StageBegan) -> None:
        self._tasks[event.stage] = self._progress.add_task(
            event.stage, total=event.total_bytes or None, rows=""
        )

    def _advance(self, event: Progressed) -> None:
        task = self._tasks.get(event.stage)
        if task is None:
            return
        self._rows[event.stage] = self._rows.get(event.stage, 0) + event.rows
        self._progress.update(task, advance=event.bytes, rows=f"{self._rows[event.stage]:,} rows")

    def _end(self, event: StageEnded) -> None:
        task = self._tasks.pop(event.stage, None)
        if task is None:
            return
        seconds = self._progress.tasks[self._progress.task_ids.index(task)].elapsed or 0
        self._progress.remove_task(task)
        self._progress.console.print(_ended(event, seconds))


class PlainReporter(AbstractContextManager["PlainReporter"]):
    """A line when a step ends: for logs, cron and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def report(self, event: Event) -> None:
        match event:
            case StageBegan():
                self._begun[event.stage] = time.monotonic()
            case StageEnded():
                began = self._begun.pop(event.stage, time.monotonic())
                self._console.print(_ended(event, time.monotonic() - began))
            case Noticed():
                self._console.print(_notice(event))
            case Progressed():
                pass


class QuietReporter(AbstractContextManager["QuietReporter"]):
    """Notices only."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def report(self, event: Event) -> None:
        if isinstance(event, Noticed):
            self._console.print(_notice(event))


CliReporter = TerminalReporter | PlainReporter | QuietReporter


def _ended(event: StageEnded, seconds: float) -> str:
    summary = f"  [dim]{escape(event.summary)}[/]" if event.summary else ""
    return f"[green]✓[/] {event.stage:<11} {seconds:6.1f} s{summary}"


def _notice(event: Noticed) -> str:
    hint = f"\n  {escape(event.hint)}" if event.hint else ""
    return f"[yellow]![/] {escape(event.message)}{hint}"
