"""When each foreign key can be made: its tables are complete, and none of theirs is under way.

A foreign key locks both its tables against writers, so two of one table would wait for each other,
and could do so for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pgkeep.model import TableName
from pgkeep.postgres.archive import Entry
from pgkeep.postgres.selection import ForeignKey


class References:
    """The foreign keys that are left. Not for several threads at once."""

    def __init__(self, keys: Iterable[ForeignKey], incomplete: Iterable[TableName]) -> None:
        """`incomplete` are the tables that are still to be loaded or indexed."""
        self._left = list(keys)
        self._incomplete = set(incomplete)
        self._locked: set[TableName] = set()
        self._made: set[int] = set()

    @property
    def made(self) -> frozenset[int]:
        """What was made (dump ids): foreign keys, and the keys that they needed."""
        return frozenset(self._made)

    def complete(self, table: TableName) -> Iterator[ForeignKey]:
        """Those that can begin, now that a table is complete too."""
        self._incomplete.discard(table)
        return self._begin()

    def entries(self, key: ForeignKey) -> list[Entry]:
        """What is to be made for a foreign key, itself the last."""
        return [*(need for need in key.needs if need.dump_id not in self._made), key.entry]

    def end(self, key: ForeignKey, made: Iterable[Entry]) -> Iterator[ForeignKey]:
        """Those that can begin, now that one has ended."""
        self._locked -= _tables(key)
        self._made.update(entry.dump_id for entry in made)
        return self._begin()

    def _begin(self) -> Iterator[ForeignKey]:
        for key in list(self._left):
            tables = _tables(key)
            if tables.isdisjoint(self._incomplete | self._locked):
                self._left.remove(key)
                self._locked |= tables
                yield key


def _tables(key: ForeignKey) -> set[TableName]:
    return {TableName(schema, name) for schema, name in key.tables}
