"""Progress: bars on a terminal, a line a step elsewhere, JSON for programs. On standard error."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
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


class JsonReporter(AbstractContextManager["JsonReporter"]):
    """One JSON object a line, for programs: docs/json.md says which. Notices only if `quiet`.

    A stage tells of its progress once in `interval_seconds` at most, in sums and not differences.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        *,
        quiet: bool = False,
        interval_seconds: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._quiet = quiet
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def report(self, event: Event) -> None:
        with self._lock:
            match event:
                case Noticed():
                    self._tell({"event": "notice", "message": event.message, "hint": event.hint})
                case _ if self._quiet:
                    pass
                case StageBegan():
                    now = self._clock()
                    self._stages[event.stage] = _Stage(event, began=now, told=now)
                    self._tell({"event": "began", **_totals(event)})
                case Progressed():
                    self._advance(event)
                case StageEnded():
                    self._end(event)

    def _advance(self, event: Progressed) -> None:
        stage = self._stages.get(event.stage)
        if stage is None:
            return
        stage.bytes += event.bytes
        stage.rows += event.rows
        now = self._clock()
        if now - stage.told >= self._interval_seconds:
            stage.told = now
            self._tell({"event": "progress", **_totals(stage.event), **stage.sums(now)})

    def _end(self, event: StageEnded) -> None:
        now = self._clock()
        stage = self._stages.pop(event.stage, None) or _Stage(StageBegan(event.stage), now, now)
        sums = stage.sums(now)
        self._tell({"event": "ended", "stage": event.stage, **sums, "summary": event.summary})

    def _tell(self, document: dict[str, object]) -> None:
        with suppress(OSError, ValueError):  # nobody listens any more: no reason to end the work
            self._write(json.dumps(document, ensure_ascii=False) + "\n")


@dataclass(slots=True)
class _Stage:
    """A stage under way, and what it has come to."""

    event: StageBegan
    began: float
    told: float
    bytes: int = 0
    rows: int = 0

    def sums(self, now: float) -> dict[str, object]:
        return {"bytes": self.bytes, "rows": self.rows, "seconds": round(now - self.began, 3)}


def _totals(event: StageBegan) -> dict[str, object]:
    return {
        "stage": event.stage,
        "total_bytes": event.total_bytes,
        "total_rows": event.total_rows,
    }


CliReporter = JsonReporter | TerminalReporter | PlainReporter | QuietReporter


def _ended(event: StageEnded, seconds: float) -> str:
    summary = f"  [dim]{escape(event.summary)}[/]" if event.summary else ""
    return f"[green]✓[/] {event.stage:<11} {seconds:6.1f} s{summary}"


def _notice(event: Noticed) -> str:
    hint = f"\n  {escape(event.hint)}" if event.hint else ""
    return f"[yellow]![/] {escape(event.message)}{hint}"
