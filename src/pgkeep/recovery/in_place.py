"""A restore by the platform itself, in place: plan, then steps that go on after a crash.

The platform restores the very project: it is offline meanwhile, and what came after the moment is
gone. A replication slot must not be in the way, so ours is dropped first; capture begins anew
afterwards, with a backup, since the database has another timeline then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from pgkeep.errors import (
    PlatformRefused,
    PlatformRestoreFailed,
    PlatformUnreachable,
    UsageError,
)
from pgkeep.platforms.management import Management, PlatformBackups, Project
from pgkeep.records import JsonForm
from pgkeep.repository.hostkeys import write_private

_POLL_SECONDS = 10.0
_LONGEST = timedelta(hours=6)
_FAILED = frozenset({"RESTORE_FAILED", "INIT_FAILED", "REMOVED", "PAUSE_FAILED"})


class Step(StrEnum):
    """How far it has come."""

    PLANNED = "planned"
    DETACHED = "detached"
    BEGUN = "begun"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Wish:
    """To where: a moment, a restore point, or one of the daily backups. One of them."""

    moment: datetime | None = None
    restore_point: str = ""
    backup: int | None = None

    def __str__(self) -> str:
        if self.moment is not None:
            return f"{self.moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"restore point {self.restore_point!r}" if self.restore_point else (
            f"daily backup {self.backup}"
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Progress:
    """What is noted of one that is under way."""

    ref: str
    wish: Wish
    began: datetime
    step: Step = Step.PLANNED


_PROGRESS = JsonForm(Progress)


def load(path: Path) -> Progress | None:
    """One that was begun and is not over."""
    try:
        return _PROGRESS.load(path.read_bytes())
    except (OSError, ValueError):
        return None


def save(path: Path, progress: Progress) -> None:
    """Note how far it has come."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, _PROGRESS.dump(progress))


def check(wish: Wish, backups: PlatformBackups, points: Callable[[], tuple[str, ...]]) -> None:
    """`UsageError` or `PlatformRefused` for what the platform could not restore."""
    if wish.moment is not None:
        if not backups.pitr:
            raise PlatformRefused(
                "point-in-time recovery is not enabled for this project",
                hint="Choose one of its daily backups with --platform-backup, or restore one of"
                " pgkeep's into another project.",
            )
        if backups.earliest and not backups.earliest <= wish.moment:
            raise UsageError(
                f"the platform goes back to {backups.earliest:%Y-%m-%d %H:%M:%S} UTC alone"
            )
        if backups.latest and wish.moment > backups.latest:
            raise UsageError(
                f"the platform has nothing after {backups.latest:%Y-%m-%d %H:%M:%S} UTC yet"
            )
    elif wish.restore_point:
        if wish.restore_point not in points():
            raise UsageError(f"the project has no restore point {wish.restore_point!r}")
    else:
        known = {one.id: one for one in backups.backups}
        found = known.get(wish.backup or 0)
        if found is None or not found.is_complete:
            raise UsageError(
                f"the platform has no whole backup {wish.backup}",
                hint="pgkeep list DB --platform shows them.",
            )


def describe(project: Project, wish: Wish, *, slot: str) -> Iterator[str]:
    """The plan in words."""
    yield f"restore project {project.ref} ({project.name}) IN PLACE to {wish}, by Supabase itself"
    yield "1. the project goes offline, and stays so until the platform is done"
    yield f"2. before that, pgkeep drops its replication slot {slot!r}: it would be in the way"
    yield "3. everything that was written after that moment is gone from the project"
    yield "4. files of Storage are not restored: rows may point to files that have changed since"
    yield "5. afterwards capture begins anew with a backup; between there is a gap"


def run(
    management: Management,
    path: Path,
    progress: Progress,
    *,
    detach: Callable[[], None],
    tell: Callable[[str], None],
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Go on from where it is to the end; each step is noted before the next one begins."""
    if progress.step is Step.PLANNED:
        save(path, progress)
        tell("dropping pgkeep's replication slot")
        detach()
        progress = replace(progress, step=Step.DETACHED)
        save(path, progress)
    if progress.step is Step.DETACHED:
        tell(f"asking Supabase to restore to {progress.wish}")
        _begin(management, progress)
        progress = replace(progress, step=Step.BEGUN)
        save(path, progress)
    _wait(management, progress, tell, sleep, clock)
    path.unlink(missing_ok=True)


def _begin(management: Management, progress: Progress) -> None:
    """After a crash it may have been asked already: a project that is busy tells."""
    if not management.project(progress.ref).is_ready:
        return
    wish = progress.wish
    if wish.moment is not None:
        management.restore_to(progress.ref, wish.moment)
    elif wish.restore_point:
        management.undo_to(progress.ref, wish.restore_point)
    else:
        assert wish.backup is not None
        management.restore_backup(progress.ref, wish.backup)


def _wait(
    management: Management,
    progress: Progress,
    tell: Callable[[str], None],
    sleep: Callable[[float], object],
    clock: Callable[[], float],
) -> None:
    """Until it is ready again, having been busy; a status that is told late is waited for."""
    deadline, last = clock() + _LONGEST.total_seconds(), ""
    was_busy, quiet = False, 0
    while clock() < deadline:
        try:
            project = management.project(progress.ref)
        except PlatformUnreachable:
            sleep(_POLL_SECONDS)
            continue
        if project.status != last:
            tell(f"the project is {project.status}")
            last = project.status
        if project.status in _FAILED:
            raise PlatformRestoreFailed(f"the project is {project.status}")
        was_busy = was_busy or not project.is_ready
        quiet = quiet + 1 if project.is_ready else 0
        if project.is_ready and (was_busy or quiet >= 6):
            return
        sleep(_POLL_SECONDS)
    raise PlatformRestoreFailed(f"after {_LONGEST} the project is still {last}")
