"""Which moments can be reached: each backup alone, and every second where the journal goes on.

Decided from names and manifests alone, so without any key; to the second, and careful: a moment
counts only if it certainly can be reached. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pgkeep.model import Kind, Manifest
from pgkeep.repository.journal import Run


@dataclass(frozen=True, slots=True)
class Window:
    """Every second from `begins` to `ends` can be restored to."""

    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class Reach:
    """What can be reached of one database."""

    windows: tuple[Window, ...]
    """Oldest first, without overlaps; what lies between two is a gap."""
    backups: tuple[Manifest, ...]
    """Full backups outside of all windows: their own moment can be reached, nothing around it."""
    covered: datetime | None
    """Until when the newest journal goes, by the server's clock; None without a journal."""

    @property
    def gaps(self) -> tuple[Window, ...]:
        """What lies between the windows."""
        pairs = zip(self.windows, self.windows[1:], strict=False)
        return tuple(Window(before.ends, after.begins) for before, after in pairs)


def reach(backups: Sequence[Manifest], runs: Sequence[Run]) -> Reach:
    """The windows that backups of one database and its journal open together."""
    full = [one for one in backups if one.kind is Kind.FULL]
    found = [window for run in runs for one in full if (window := _window(one, run))]
    windows = _joined(found)
    alone = [one for one in full if not any(_is_within(one.finished, w) for w in windows)]
    covered = max((run.covered for run in runs), default=None)
    return Reach(windows, tuple(alone), covered)


def owed(backups: Sequence[Manifest], runs: Sequence[Run]) -> tuple[Kind, ...]:
    """The backups that the newest stretch of the journal waits for, of one database.

    A full one, so that it leads anywhere; and after a schema change one of the schema and a full
    one. Told from what is stored: whoever wanted them may have been killed.
    """
    run = max(runs, key=lambda one: one.age, default=None)
    if run is None:
        return ()
    full = max((one.started for one in backups if one.kind is Kind.FULL), default=None)
    schema = max((one.started for one in backups if one.kind.has_schema), default=None)
    changes = [one.covered for one in run.segments if one.changes_schema]
    wanted = []
    if changes and (schema is None or schema <= changes[-1]):
        wanted.append(Kind.SCHEMA)
    if full is None or full < run.begins or (changes and full <= changes[-1]):
        wanted.append(Kind.FULL)
    return tuple(wanted)


def _window(backup: Manifest, run: Run) -> Window | None:
    """What a backup and a run open: up to the first schema change that cannot be done again.

    When in the time that it took the backup shows the database is not public: so its end counts.
    """
    if not run.begins <= backup.started or run.covered <= backup.finished:
        return None
    ends = run.covered
    before = run.begins
    for segment in run.segments:
        if segment.is_barrier and segment.covered > backup.started:
            ends = before
            break
        before = segment.covered
    return Window(backup.finished, ends) if ends > backup.finished else None


def _joined(windows: Iterable[Window]) -> tuple[Window, ...]:
    joined: list[Window] = []
    for window in sorted(windows, key=lambda one: (one.begins, one.ends)):
        if joined and window.begins <= joined[-1].ends:
            joined[-1] = Window(joined[-1].begins, max(joined[-1].ends, window.ends))
        else:
            joined.append(window)
    return tuple(joined)


def _is_within(moment: datetime, window: Window) -> bool:
    return window.begins <= moment <= window.ends
