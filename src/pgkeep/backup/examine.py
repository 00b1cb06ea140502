"""Which parts are as they were when an earlier backup stored them.

Each table goes through its questions on its own: what is known to have changed can be read while
others are still asked. A table is counted besides, without any range, in the same snapshot.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any

from pgkeep.backup.plan import BackupPlan, PartRead
from pgkeep.backup.source import Source
from pgkeep.errors import ConnectionLost
from pgkeep.model import Part, TableName
from pgkeep.postgres import catalog
from pgkeep.postgres.address import Address
from pgkeep.postgres.copying import CopyReader
from pgkeep.postgres.dependence import unchanged_query
from pgkeep.postgres.programs import Programs
from pgkeep.postgres.readers import Readers, Started
from pgkeep.postgres.session import lost_since

# Ranges that one question is about: the way to the server may be long.
_RANGES_IN_A_QUESTION = 16

# Rows are read as they lie in the table, so that unchanged rows give the same text: no scan begins
# where another one is, none goes by an index that has all columns, and no worker comes first.
_AS_THEY_LIE = (
    "SET synchronize_seqscans = off",
    "SET enable_tidscan = on",
    "SET enable_indexonlyscan = off",
    "SET max_parallel_workers_per_gather = 0",
)
_COUNT_ALONE = ("RESET enable_indexonlyscan",), ("SET enable_indexonlyscan = off",)
_COUNT_IN_PARALLEL = (
    ("RESET max_parallel_workers_per_gather",),
    ("SET max_parallel_workers_per_gather = 0",),
)

# A table of so many ranges is first asked about a few: if it changed, they tell as a rule, and one
# pass over the whole of it, which would tell no more, is spared half of its work.
_RANGES_WORTH_A_PROBE = 16
_RANGES_IN_A_PROBE = 3

Wait = Callable[[Sequence[Future[Any]], str], set[Future[Any]]]
"""Waits for futures, until one or all are done; gives those, and raises their first error."""


@dataclass(frozen=True, slots=True)
class Connecting:
    """How to reach the source."""

    programs: Programs
    address: Address
    lock_timeout_seconds: float

    def readers(self, snapshot: str) -> Readers:
        """Sessions that all see that snapshot, made as they are needed."""

        def make(started: Started) -> CopyReader:
            return CopyReader(
                self.programs,
                self.address,
                snapshot=snapshot,
                lock_timeout_seconds=self.lock_timeout_seconds,
                on_started=started,
                settings=_AS_THEY_LIE,
            )

        return Readers(make)

    def raise_first(self, done: Iterable[Future[Any]]) -> None:
        """The error of what failed, if anything did: the cause before what it made of others."""
        errors = [error for future in done if (error := future.exception()) is not None]
        if errors:
            known = [lost_since(error, self.address) for error in errors]
            raise min(known, key=lambda error: isinstance(error, ConnectionLost))


@dataclass(slots=True)
class PartProgress:
    """One part under way: how it was decided, and what came of it."""

    planned: PartRead
    read: Future[Part] | None = None
    reused: Part | None = None

    @property
    def result(self) -> Part:
        if self.read is not None:
            return self.read.result()
        assert self.reused is not None
        return self.reused


def by_table(parts: Iterable[PartProgress]) -> dict[TableName | None, list[PartProgress]]:
    """The parts of each table; under None those of large objects."""
    found: dict[TableName | None, list[PartProgress]] = {}
    for part in parts:
        table = part.planned.table
        found.setdefault(table.name if table else None, []).append(part)
    return found


class Examination:
    """The questions of one reading. `changed` is told of each part that is not as it was."""

    def __init__(
        self,
        source: Source,
        readers: Readers,
        executor: Executor,
        *,
        jobs: int,
        changed: Callable[[PartProgress], None],
        with_counts: bool = True,
    ) -> None:
        self.counts: dict[TableName, Future[Counted]] = {}
        self._source = source
        self._readers = readers
        self._executor = executor
        self._jobs = jobs
        self._changed = changed
        self._with_counts = with_counts
        self._followed_by: dict[Future[Any], Callable[[], None]] = {}

    def begin(self, table: catalog.Relation, parts: Sequence[PartProgress]) -> None:
        """Count a table, and ask which parts are as they were; `follow` hears the answers."""
        asked = sorted(
            (part for part in parts if part.planned.previous is not None),
            key=lambda part: part.planned.index,
        )
        if len(asked) < len(parts) or not asked:  # it grew, so it changed
            self._count_alone(table)
            self._ask(asked)
        elif len(asked) < _RANGES_WORTH_A_PROBE:
            self._ask_whole(table, asked)
        else:
            self._probe(table, asked)

    def _probe(self, table: catalog.Relation, asked: Sequence[PartProgress]) -> None:
        """Ask the last range, where new rows go, and some others: which way is shorter?"""
        some = [*random.sample(asked[:-1], _RANGES_IN_A_PROBE - 1), asked[-1]]
        answers = self._executor.submit(_are_unchanged, self._readers, [p.planned for p in some])

        def go_on() -> None:
            if all(answers.result()):
                self._ask_whole(table, asked)
            else:
                self._count_alone(table)
                self._take(some, answers.result())
                self._ask([part for part in asked if part not in some])

        self._followed_by[answers] = go_on

    def _ask_whole(self, table: catalog.Relation, asked: Sequence[PartProgress]) -> None:
        """Whether anything changed in a table, in one pass; if so, in which parts."""
        counted = self._count(table, min(part.horizon for part in _stored(asked)))

        def go_on() -> None:
            if _is_unchanged(counted.result(), asked):
                self._take(asked, [True] * len(asked))
            else:
                self._ask(asked)

        self._followed_by[counted] = go_on

    def _ask(self, asked: Sequence[PartProgress]) -> None:
        """Which of these parts changed, some at a time."""
        several = min(ceil(len(asked) / (4 * self._jobs)), _RANGES_IN_A_QUESTION)
        for start in range(0, len(asked), max(several, 1)):
            some = asked[start : start + several]
            planned = [part.planned for part in some]
            answers = self._executor.submit(_are_unchanged, self._readers, planned)
            self._followed_by[answers] = partial(self._take_answers, some, answers)

    def _take_answers(self, parts: Sequence[PartProgress], answers: Future[list[bool]]) -> None:
        self._take(parts, answers.result())

    def _take(self, parts: Sequence[PartProgress], unchanged: Sequence[bool]) -> None:
        """Use again what is as it was, and hand on the rest."""
        for part, same in zip(parts, unchanged, strict=True):
            if same:
                part.reused = self._same_as_before(part.planned)
            else:
                self._changed(part)

    def _count_alone(self, table: catalog.Relation) -> None:
        if self._with_counts:
            self._count(table, None)

    def _count(self, table: catalog.Relation, horizon: int | None) -> Future[Counted]:
        counted = self._executor.submit(_count, self._readers, table, horizon)
        self.counts[table.name] = counted
        return counted

    def follow(self, wait_for: Wait) -> None:
        """Until every table is examined: of those that changed, ask which parts did."""
        while self._followed_by:
            for future in wait_for(list(self._followed_by), FIRST_COMPLETED):
                self._followed_by.pop(future)()

    def _same_as_before(self, planned: PartRead) -> Part:
        """The earlier part under today's range; what was seen to be the same is as new."""
        assert planned.previous is not None
        return replace(
            planned.previous,
            first_page=planned.first_page,
            end_page=planned.end_page,
            horizon=self._source.point.horizon,
        )


def changed_parts(
    source: Source, plan: BackupPlan, connecting: Connecting, *, jobs: int
) -> tuple[PartRead, ...]:
    """The parts that a backup would read now. Nothing of them is read."""
    changed = [part for part in plan.parts if part.previous is None]
    readers = connecting.readers(source.snapshot)

    def wait_for(futures: Sequence[Future[Any]], until: str) -> set[Future[Any]]:
        done, _ = wait(futures, return_when=until)
        connecting.raise_first(done)
        return done

    with ThreadPoolExecutor(jobs, thread_name_prefix="pgkeep-ask") as executor:
        examination = Examination(
            source,
            readers,
            executor,
            jobs=jobs,
            changed=lambda one: changed.append(one.planned),
            with_counts=False,
        )
        try:
            parts_of = by_table(map(PartProgress, plan.parts))
            for table in plan.tables:
                parts = parts_of.get(table.name, [])
                if any(part.planned.previous is not None for part in parts):
                    examination.begin(table, parts)
            examination.follow(wait_for)
        finally:
            readers.abort()  # they hold nothing that has to be ended in order
    return tuple(changed)


@dataclass(frozen=True, slots=True)
class Counted:
    """Rows, and how many of them may be younger than an earlier snapshot (None: not asked)."""

    rows: int
    young: int | None


def _count(readers: Readers, table: catalog.Relation, horizon: int | None) -> Counted:
    """Count a table without any range; with a horizon, its young rows in the same pass.

    That pass is what everything waits for, and may use several processes of the server; a plain
    count goes on beside the reading, and takes a third more of its processors with them.
    """
    what = f"table {table.name}"
    if horizon is None:
        query = catalog.count_query(table.name, table.condition)
        (rows,) = _values(readers, what, query, _COUNT_ALONE)
        return Counted(rows, None)
    query = unchanged_query(table.name.sql, horizon)
    rows, young = _values(readers, what, query, _COUNT_IN_PARALLEL)
    return Counted(rows, young)


def _stored(parts: Sequence[PartProgress]) -> list[Part]:
    """What earlier backups stored for parts."""
    return [part.planned.previous for part in parts if part.planned.previous is not None]


def _is_unchanged(counted: Counted, parts: Sequence[PartProgress]) -> bool:
    """Whether a whole table is as it was: no young row, and as many as its parts had."""
    return counted.young == 0 and counted.rows == sum(part.rows for part in _stored(parts))


def _are_unchanged(readers: Readers, parts: Sequence[PartRead]) -> list[bool]:
    """Part by part, whether it has as many rows as before and none that is younger."""
    queries = [
        f"SELECT {number}, q.* FROM ({part.unchanged}) q" for number, part in enumerate(parts)
    ]
    values = iter(_values(readers, what_is_read(parts[0]), " UNION ALL ".join(queries)))
    answers = [False] * len(parts)
    for number, rows, young in zip(values, values, values, strict=True):
        before = parts[number].previous
        answers[number] = before is not None and rows == before.rows and young == 0
    return answers


def what_is_read(part: PartRead) -> str:
    """In words, for errors."""
    return f"table {part.table.name}" if part.table else "large objects"


def _values(
    readers: Readers,
    what: str,
    query: str,
    around: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> list[int]:
    """The integers in a query's rows, one row after the other.

    `around` is what the session is told before it and after it.
    """
    before, after = around
    with readers.lend(what) as reader:
        if before:
            reader.execute(before)
        text = b"".join(bytes(piece) for piece in reader.read(query))
        if after:
            reader.execute(after)
    return [int(value) for value in text.split()]
