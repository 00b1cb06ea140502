"""Which moments of a database can be reached, for people and as a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from rich.markup import escape

from pgkeep.cli import words
from pgkeep.cli.context import Context
from pgkeep.repository.journal import Journal, SegmentName, runs
from pgkeep.repository.repository import Repository, merge_listings
from pgkeep.repository.windows import Reach, Window, reach

# A loss window longer than this needs somebody: the guide's objective for automated backups.
LONG = timedelta(minutes=5)


def reach_of(context: Context, name: str, repositories: Sequence[Repository]) -> Reach:
    """What the repositories that answer can bring back of a database."""
    listings = context.listings(repositories, name)
    answering = [one for one in repositories if one.name in listings]
    segments: set[SegmentName] = set()
    for one in answering:
        segments.update(Journal(one.store, name).names())
    return reach(merge_listings(list(listings.values())).backups, runs(segments))


def loss_window(found: Reach, now: datetime) -> timedelta | None:
    """What would be lost `now`; None if nothing is captured."""
    return None if found.covered is None else max(now - found.covered, timedelta(0))


def windows_in_words(found: Reach) -> Iterator[str]:
    """A line for each stretch, with the gaps between."""
    for before, window in zip([None, *found.gaps], found.windows, strict=False):
        if before is not None:
            lost = words.duration((before.ends - before.begins).total_seconds())
            yield f"[yellow]gap[/]          {lost} in which only backups can be reached"
        yield f"every second {words.moment(window.begins)} to {words.moment(window.ends)}"


def loss_in_words(behind: timedelta | None, database: str) -> str:
    """The line after them."""
    if behind is None:
        return f"[dim]changes      are not captured: pgkeep capture {escape(database)}[/]"
    colour = "green" if behind <= LONG else "bold red"
    return f"loss window  [{colour}]{words.duration(behind.total_seconds())}[/]"


def reach_document(found: Reach, behind: timedelta | None) -> dict[str, object]:
    """The same for a program."""
    return {
        "windows": [_from_to(window) for window in found.windows],
        "gaps": [_from_to(gap) for gap in found.gaps],
        "moments": [manifest.finished.isoformat() for manifest in found.backups],
        "loss_window_seconds": None if behind is None else round(behind.total_seconds(), 3),
        "covered": found.covered.isoformat() if found.covered else None,
    }


def _from_to(window: Window) -> dict[str, str]:
    return {"from": window.begins.isoformat(), "to": window.ends.isoformat()}
