"""Is what was restored what was backed up? Rows, definitions and sequences, read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pgkeep.events import Progressed, Reporter
from pgkeep.model import LargeObjects, SequenceValue, TableName
from pgkeep.postgres import catalog
from pgkeep.postgres.archive import Archive
from pgkeep.postgres.copying import CopyReader
from pgkeep.postgres.differences import Difference, compare_archives
from pgkeep.postgres.selection import Selection
from pgkeep.postgres.session import Connection
from pgkeep.recovery.digest import Digest, RowDigest, RowSum
from pgkeep.recovery.plan import TableRestore
from pgkeep.repository.evidence import Compared

STAGE = "proving"


@dataclass(frozen=True, slots=True)
class TableProof:
    """The rows of one table: as stored, and as read back from the target."""

    name: TableName
    stored: RowSum
    restored: RowSum

    @property
    def matches(self) -> bool:
        return self.stored == self.restored


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared, and every difference, in words."""

    tables: tuple[TableProof, ...]
    sequences: int
    definitions: int
    differences: tuple[str, ...]
    not_compared: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.differences

    @property
    def rows(self) -> int:
        return sum(table.restored.rows for table in self.tables)

    @property
    def compared(self) -> Compared:
        return Compared(len(self.tables), self.rows, self.definitions, self.sequences)


def read_back(
    reader: CopyReader,
    table: TableRestore,
    pages: tuple[int, int | None],
    digest: Digest,
    reporter: Reporter,
) -> RowSum:
    """The digest of a restored table's rows between two heap pages, over the very query that the
    backup read; the whole is (0, None)."""
    query = catalog.copy_query(table.name, table.columns, table.source.condition, pages)
    return _digest(reader, query, digest, reporter)


def read_back_large_objects(
    reader: CopyReader, objects: LargeObjects, seed: int, reporter: Reporter
) -> RowSum:
    """The digest of the restored large objects."""
    oids = [oid for oid, _ in objects.owners]
    total = RowSum()
    for start in range(0, len(oids), 2000):
        query = catalog.large_object_query(oids[start : start + 2000])
        total += _digest(reader, query, RowDigest(seed), reporter)
    return total


def _digest(reader: CopyReader, query: str, digest: Digest, reporter: Reporter) -> RowSum:
    before = 0
    for piece in reader.read(query):
        digest.update(bytes(piece))
        reporter.report(Progressed(STAGE, len(piece), digest.rows - before))
        before = digest.rows
    return digest.result()


def compare_sequences(
    connection: Connection, expected: tuple[SequenceValue, ...]
) -> tuple[str, ...]:
    """Sequences that do not stand where they stood, in words."""
    found = catalog.sequence_values(connection, tuple(value.name for value in expected))
    return tuple(
        f"sequence {before.name}: at {before.last_value} in the backup, at {after.last_value} in"
        " the target"
        for before, after in zip(expected, found, strict=True)
        if before != after
    )


def compare_tables(tables: tuple[TableProof, ...]) -> tuple[str, ...]:
    """Tables whose rows differ, in words."""
    return tuple(
        f"table {table.name}: {_rows_in_words(table.stored, table.restored)}"
        for table in tables
        if not table.matches
    )


def _rows_in_words(stored: RowSum, restored: RowSum) -> str:
    if stored.rows != restored.rows:
        return f"{stored.rows} rows in the backup, {restored.rows} in the target"
    return f"{stored.rows} rows on both sides, but not the same ones"


def compare_definitions(
    source: Archive,
    target: Archive,
    selection: Selection | None,
    *,
    owners: bool,
    privileges: bool,
    more_in_target: bool,
    explained: Callable[[Difference], bool],
) -> tuple[str, ...]:
    """Definitions that differ, in words; `more_in_target` lets it hold others besides."""
    found = compare_archives(source, target, only=selection, owners=owners, privileges=privileges)
    return tuple(
        str(difference)
        for difference in found
        if not (more_in_target and difference.what == "not in the source")
        and not explained(difference)
    )
