"""Keeping a capture going: again and again, through everything that a night may bring."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pgkeep.capture.beginning import Begun, begin_capture
from pgkeep.capture.capture import Captured, CaptureRequest
from pgkeep.errors import (
    AuthenticationFailed,
    CaptureImpossible,
    ConfigurationError,
    PgkeepError,
    SlotLost,
)
from pgkeep.events import Noticed, Reporter
from pgkeep.repository.journal_copies import JournalCopies

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_STEP_SECONDS_BETWEEN_REPAIRS = 30.0

# Who reads the slot costs the server something: that takes at most this share of the time.
_SHARE = 0.2

# What another try cannot mend, or makes worse: platforms ban an address after two wrong passwords.
_FINAL = (AuthenticationFailed, ConfigurationError)


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what happens. Each is called from the capturing thread and must be quick."""

    begun: Callable[[Begun], None]
    captured: Callable[[Captured], None]
    may_connect: Callable[[], None] = lambda: None
    """Called before each connection; raises if there must be none."""


@dataclass(slots=True)
class _Patience:
    """Pauses that grow while nothing works, and one notice for each new problem."""

    sleep: Callable[[float], None]
    pause: float = _FIRST_PAUSE_SECONDS
    told: str = field(default="")
    losses: int = 0

    def works(self) -> None:
        self.pause, self.told, self.losses = _FIRST_PAUSE_SECONDS, "", 0

    def wait_after_loss(self, problem: SlotLost, reporter: Reporter) -> None:
        """The first time a new slot is made at once."""
        hint = "A new slot is made. What lies between is a gap."
        reporter.report(Noticed(problem.message, hint))
        self.losses += 1
        if self.losses > 1:
            self.sleep(self.pause)
            self.pause = min(self.pause * 2, _LONGEST_PAUSE_SECONDS)

    def wait_after(self, problem: PgkeepError, reporter: Reporter) -> None:
        if problem.message != self.told:
            self.told = problem.message
            reporter.report(Noticed(f"{problem.message}; trying again", problem.hint))
        self.sleep(self.pause)
        self.pause = min(self.pause * 2, _LONGEST_PAUSE_SECONDS)


class _Behind:
    """Tells once when a repository falls behind, and when it has caught up."""

    def __init__(self, copies: JournalCopies, reporter: Reporter) -> None:
        self._copies = copies
        self._reporter = reporter
        self._told: frozenset[str] = frozenset()

    def tell(self) -> None:
        behind = self._copies.behind
        for name in sorted(behind.keys() - self._told):
            what = f"repository {name!r} is behind with the journal: {behind[name].message}"
            hint = "Capture goes on, and gives it what it lacks once it answers."
            self._reporter.report(Noticed(what, hint))
        for name in sorted(self._told - behind.keys()):
            self._reporter.report(Noticed(f"repository {name!r} has caught up with the journal"))
        self._told = frozenset(behind)


def follow(
    request: CaptureRequest,
    listener: Listener,
    reporter: Reporter,
    *,
    poll_seconds: float,
    until_caught_up: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Capture until interrupted, or until nothing is waiting any more.

    A lost connection or store is tried again, with growing pauses, while the server keeps what was
    not read. A lost slot is told, and a new chain begun.
    """
    patience = _Patience(sleep)
    behind = _Behind(request.copies, reporter)
    has_begun = False
    while True:
        listener.may_connect()
        try:
            with begin_capture(request, reporter) as begun:
                has_begun = True
                listener.begun(begun)
                _steps(
                    begun, listener, patience, behind, reporter, poll_seconds,
                    until_caught_up=until_caught_up,
                )  # fmt: skip
                return
        except SlotLost as exc:
            patience.wait_after_loss(exc, reporter)
        except CaptureImpossible as exc:
            # Once it was possible it may be again: the server may hold a connection for a while
            # that was lost, or was promoted.
            if until_caught_up or not has_begun:
                raise
            patience.wait_after(exc, reporter)
        except _FINAL:
            raise
        except PgkeepError as exc:
            if until_caught_up:
                raise
            patience.wait_after(exc, reporter)


def _steps(
    begun: Begun,
    listener: Listener,
    patience: _Patience,
    behind: _Behind,
    reporter: Reporter,
    poll_seconds: float,
    *,
    until_caught_up: bool,
) -> None:
    repaired = time.monotonic()
    while True:
        started = time.monotonic()
        captured = begun.capture.step()
        took = time.monotonic() - started
        patience.works()
        listener.captured(captured)
        behind.tell()
        if captured.is_more:
            continue
        if until_caught_up:
            return
        if started - repaired >= _STEP_SECONDS_BETWEEN_REPAIRS:
            repaired = started
            for table in begun.capture.look_after():
                reporter.report(
                    Noticed(
                        f"table {table} was not published as it should have been",
                        "Somebody went round the event triggers. Its updates and deletes of the"
                        " last minute may be missing; the journal says so.",
                    )
                )
        reading = took - captured.storing_seconds
        patience.sleep(max(poll_seconds - took, reading / _SHARE - took, 0))
