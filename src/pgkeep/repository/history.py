"""The journal of a database as all repositories together have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgkeep.errors import ObjectMissing, PgkeepError
from pgkeep.repository.journal import Journal, Run, SealedSegment, SegmentName, runs
from pgkeep.sealing import PublicSigner


@dataclass(frozen=True, slots=True)
class JournalCopy:
    """A journal in one store, and whose signature counts there (asked when it is needed)."""

    journal: Journal
    trusted: Callable[[], Sequence[PublicSigner]]


class History:
    """Segments from whichever copy has them, the nearest first. Listed once, when first asked."""

    def __init__(self, copies: Sequence[JournalCopy]) -> None:
        self._copies = copies
        self._holders: dict[str, list[tuple[JournalCopy, SegmentName]]] | None = None

    def runs(self) -> tuple[Run, ...]:
        """The stretches without a gap, oldest first, over all copies together."""
        return runs(held[0][1] for held in self._by_path().values())

    def read(self, name: SegmentName) -> SealedSegment:
        """A segment, checked; one that is damaged or missing in a copy comes from the next."""
        failure: PgkeepError | None = None
        for copy, its_name in self._by_path().get(name.path, ()):
            try:
                return copy.journal.read(its_name, copy.trusted())
            except PgkeepError as exc:
                failure = failure or exc
        raise failure or ObjectMissing(f"{name.path} is in no repository")

    def _by_path(self) -> dict[str, list[tuple[JournalCopy, SegmentName]]]:
        if self._holders is None:
            self._holders = {}
            for copy in self._copies:
                for name in copy.journal.names():
                    self._holders.setdefault(name.path, []).append((copy, name))
        return self._holders
