"""Looking after the journal in a repository: what is no longer needed goes, what is wrong is told
and put right from a sibling. No key that opens anything is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgkeep.errors import PgkeepError, StoreAccessDenied
from pgkeep.model import Kind, Manifest
from pgkeep.repository.journal import Journal, Run, SegmentName, lines, runs
from pgkeep.repository.journal_copies import copy_missing
from pgkeep.repository.repository import Repository
from pgkeep.sealing import PublicSigner

# Between one segment and the next no more time counts than this: a clock that jumps ages no segment
# by years, and where capture has stopped, ageing stops.
_MOST_BETWEEN = timedelta(days=1)

# A restore reads from so long before its backup on, since a transaction may have been on its way.
OVERLAP = timedelta(minutes=10)


# --- retention ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PrunedJournal:
    """What was deleted of one database's journal, or would be."""

    expired: tuple[SegmentName, ...]
    kept: int
    refused: int = 0
    """Files that the store keeps for some time yet (object lock)."""

    @property
    def freed_bytes(self) -> int:
        return sum(name.size_bytes for name in self.expired)


def expired(
    names: Sequence[SegmentName], backups: Sequence[Manifest], keep: timedelta, now: datetime
) -> tuple[SegmentName, ...]:
    """Segments older than `keep` that no moment since then needs, oldest first. Pure.

    The newest backup from before that time is where those moments begin, so what follows it stays;
    and the segment before, from which on a stretch can be continued.
    """
    ages = _ages(names, now)
    young = [name.covered for name in names if ages[name.path] <= keep]
    if not young:
        return ()
    since = min(young)
    bases = [one.started for one in backups if one.kind is Kind.FULL and one.started <= since]
    base = (max(bases) if bases else since) - OVERLAP
    needed_from = min((_beginning(run, base) for run in runs(names)), default=base)
    newest = max(names, key=lambda one: (one.covered, one.sequence))
    old = [
        name
        for name in names
        if ages[name.path] > keep and name.covered < needed_from and name is not newest
    ]
    return tuple(sorted(old, key=lambda one: (one.covered, one.chain, one.sequence)))


def _beginning(run: Run, base: datetime) -> datetime:
    """Where a run has to begin so that it can be continued from `base` on.

    Much time may lie between two segments: nothing was written, or capture was interrupted.
    """
    before = [one.covered for one in run.segments if one.begins_whole and one.covered < base]
    return max(before) if before and run.covered >= base else base


def _ages(names: Iterable[SegmentName], now: datetime) -> dict[str, timedelta]:
    """How much time has passed since each, counted from segment to segment."""
    ages: dict[str, timedelta] = {}
    age, later = timedelta(0), now
    for name in sorted(names, key=lambda one: (one.covered, one.sequence), reverse=True):
        age += min(max(later - name.covered, timedelta(0)), _MOST_BETWEEN)
        ages[name.path] = age
        later = name.covered
    return ages


def prune_journal(
    repository: Repository,
    database: str,
    backups: Sequence[Manifest],
    keep: timedelta,
    now: datetime,
    *,
    dry_run: bool = False,
) -> PrunedJournal:
    """Delete what has expired, oldest first, so that a crash leaves no hole."""
    names = Journal(repository.store, database).names()
    old = expired(names, backups, keep, now)
    refused = 0
    for name in () if dry_run else old:
        try:
            repository.store.delete(name.path)
        except StoreAccessDenied:
            refused += 1
    return PrunedJournal(old, len(names) - len(old), refused)


# --- verification ---------------------------------------------------------------------------------


# The last minutes are what a disaster wants most.
_ALWAYS_READ = 20


@dataclass(frozen=True, slots=True)
class VerifiedJournal:
    """What was found in one database's journal in one repository."""

    segments: int
    runs: int
    """Stretches without a gap; more than one for each chain is told as a problem."""
    read: int
    read_bytes: int
    healed: int
    problems: tuple[str, ...]


def verify_journal(
    repository: Repository,
    database: str,
    siblings: Sequence[Repository],
    trusted: Sequence[PublicSigner],
    *,
    read_bytes: int | None,
    heal: bool,
) -> VerifiedJournal:
    """Whether chains have holes, and, newest first within `read_bytes`, whether segments are whole.

    None for `read_bytes` reads all. The newest few are read in any case, and what is empty or of
    another size in a sibling.
    """
    healed = copy_missing(database, repository, siblings) if heal else 0
    journal = Journal(repository.store, database)
    names = journal.names()
    problems = list(holes(names))
    doubtful = _doubtful(names, database, siblings)
    read = size = 0
    newest_first = sorted(names, key=lambda one: (one.covered, one.sequence), reverse=True)
    for number, name in enumerate(newest_first):
        is_due = number < _ALWAYS_READ or read_bytes is None or size < read_bytes
        if not is_due and name.path not in doubtful:
            continue
        read, size = read + 1, size + name.size_bytes
        problem = _read(journal, name, trusted)
        if problem and heal and _heal(journal, name, siblings, trusted):
            healed += 1
        elif problem:
            problems.append(problem)
    return VerifiedJournal(len(names), len(runs(names)), read, size, healed, tuple(problems))


def holes(names: Sequence[SegmentName]) -> Iterator[str]:
    """Where a segment is missing, in words. Pure.

    What is missing before the oldest of a chain was pruned.
    """
    by_chain: dict[str, list[SegmentName]] = {}
    for line in lines(names):
        by_chain.setdefault(line[0].chain, []).append(line[0])
    for chain, firsts in by_chain.items():
        digests = {name.digest for name in names if name.chain == chain}
        for first in sorted(firsts, key=lambda one: one.sequence)[1:]:
            if first.previous not in digests:
                yield (
                    f"the journal of {first.database} has a hole before {first.start}"
                    f" ({first.covered:%Y-%m-%d %H:%M:%S} UTC)"
                )


def _doubtful(
    names: Sequence[SegmentName], database: str, siblings: Sequence[Repository]
) -> frozenset[str]:
    """Segments that surely are not whole here or in a sibling, from the listings alone."""
    found = {name.path for name in names if not name.size_bytes}
    sizes = {name.path: name.size_bytes for name in names}
    for sibling in siblings:
        with suppress(PgkeepError):  # it is verified for itself
            others = Journal(sibling.store, database).names()
            found |= {
                one.path for one in others if sizes.get(one.path) not in (None, one.size_bytes)
            }
    return frozenset(found)


def _read(journal: Journal, name: SegmentName, trusted: Sequence[PublicSigner]) -> str:
    try:
        journal.read(name, trusted)
    except PgkeepError as exc:
        return exc.message
    return ""


def _heal(
    journal: Journal,
    name: SegmentName,
    siblings: Sequence[Repository],
    trusted: Sequence[PublicSigner],
) -> bool:
    for sibling in siblings:
        try:
            other = Journal(sibling.store, journal.database)
            other.read(name, trusted)
            journal.store.put(name.path, sibling.store.get(name.path))
        except PgkeepError:
            continue
        return not _read(journal, name, trusted)
    return False


def journals_of(repositories: Sequence[Repository]) -> Mapping[str, tuple[Repository, ...]]:
    """The databases that have a journal somewhere, and where."""
    found: dict[str, tuple[Repository, ...]] = {}
    for repository in repositories:
        for database in repository.databases():
            if "journal" in repository.store.folders(f"{database}/"):
                found[database] = (*found.get(database, ()), repository)
    return found
