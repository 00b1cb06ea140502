"""What the keeper must know after a restart: one small file, replaced as a whole.

Losing it costs little: what succeeded is also read from the repositories, and alerts are told anew.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from pgkeep.errors import KeeperRunning, StateUnwritable
from pgkeep.keeper.schedule import Past
from pgkeep.keeper.watch import Alert
from pgkeep.records import JsonForm
from pgkeep.repository.hostkeys import write_private


@dataclass(frozen=True, slots=True)
class Run:
    """The last run of a job, as people and metrics want it."""

    began: datetime
    ended: datetime
    exit_code: int
    error: str = ""
    """The one line of what went wrong; empty if nothing did."""

    @property
    def is_good(self) -> bool:
        """Whether the job did its work, be it with something that needs attention."""
        return self.exit_code in (0, 3)


@dataclass(frozen=True, slots=True)
class Message:
    """Something to be told that has not reached its channel yet."""

    id: str
    channel: str
    alert: Alert
    is_over: bool
    made: datetime
    attempts: int = 0
    again: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeeperState:
    """The whole of it."""

    since: datetime
    """When the keeper first ran here."""
    pasts: Mapping[str, Past] = field(default_factory=dict)
    runs: Mapping[str, Run] = field(default_factory=dict)
    alerts: tuple[Alert, ...] = ()
    """Those that have begun, were told, and are not over."""
    outbox: tuple[Message, ...] = ()
    seen: datetime | None = None
    """When it was last written."""

    def with_past(self, job: str, past: Past) -> KeeperState:
        return replace(self, pasts={**self.pasts, job: past})

    def with_run(self, job: str, run: Run) -> KeeperState:
        return replace(self, runs={**self.runs, job: run})

    def not_after(self, now: datetime) -> KeeperState:
        """The same, with no moment in the future: a clock that was wrong blocks nothing for long.

        A job that "succeeded" next year would not run again before.
        """
        pasts = {
            name: replace(
                past,
                succeeded=past.succeeded and min(past.succeeded, now),
                attempted=past.attempted and min(past.attempted, now),
            )
            for name, past in self.pasts.items()
        }
        outbox = tuple(replace(one, again=one.again and min(one.again, now)) for one in self.outbox)
        if self.since <= now and (self.seen is None or self.seen <= now):
            return self
        return replace(self, since=min(self.since, now), pasts=pasts, outbox=outbox, seen=now)


_STATE = JsonForm(KeeperState)


class StateFile:
    """Where the state is kept (0600)."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "keeper.json"

    @property
    def path(self) -> Path:
        return self._path

    def load(self, now: datetime) -> KeeperState:
        """The state of last time; a new one if there is none, or it cannot be read."""
        try:
            return _STATE.load(self._path.read_bytes()).not_after(now)
        except (OSError, ValueError):
            return KeeperState(since=now)

    def save(self, state: KeeperState, now: datetime) -> None:
        """Replace it; after a crash there is the old one or the new one."""
        data = _STATE.dump(replace(state, seen=now), indent=1)
        try:
            write_private(self._path, data)
        except OSError as exc:
            raise StateUnwritable(
                f"the keeper's state cannot be written to {str(self._path)!r}:"
                f" {(exc.strerror or str(exc)).lower()}",
                hint="Free some space, or mend the rights of the state folder.",
            ) from exc


@contextmanager
def only_keeper(state_dir: Path) -> Iterator[None]:
    """Be the only keeper of this state folder; `KeeperRunning` at once if another is."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(state_dir / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StateUnwritable(
            f"the state folder {str(state_dir)!r} cannot be used:"
            f" {(exc.strerror or str(exc)).lower()}"
        ) from exc
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.pread(handle, 64, 0).decode(errors="replace") or "unknown"
            raise KeeperRunning(
                f"another keeper runs with the state folder {str(state_dir)!r} (pid {holder})",
                hint="One keeper is enough for all databases. End the other one first.",
            ) from exc
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)
