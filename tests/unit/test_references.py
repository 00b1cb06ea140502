"""Foreign keys: each when its tables are complete, and never two of one table at once."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from pgkeep.model import TableName
from pgkeep.postgres.archive import Entry, Section
from pgkeep.postgres.selection import ForeignKey
from pgkeep.recovery.references import References

TABLES = [TableName("public", f"t{number}") for number in range(5)]


def entry(number: int, kind: str) -> Entry:
    return Entry(
        dump_id=number, table_oid=0, oid=0, tag=f"{kind} {number}", kind=kind,
        section=Section.POST_DATA, definition="", drop="", namespace="public", owner="",
        table_access_method="", relkind="", dependencies=(),
    )  # fmt: skip


def foreign_key(number: int, first: int, second: int) -> ForeignKey:
    """A key of one table to another, which needs the second one's primary key."""
    tables = frozenset((TABLES[one].schema, TABLES[one].name) for one in (first, second))
    return ForeignKey(entry(100 + number, "FK CONSTRAINT"), tables, (entry(second, "CONSTRAINT"),))


@given(
    pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8),
    chance=st.randoms(use_true_random=False),
)
def test_all_are_made_once_and_each_alone_with_its_tables(
    pairs: list[tuple[int, int]], chance: random.Random
) -> None:
    keys = [foreign_key(number, *pair) for number, pair in enumerate(pairs)]
    left = References(keys, TABLES)
    order = TABLES[:]
    chance.shuffle(order)
    complete: set[TableName] = set()
    running: list[ForeignKey] = []
    made: list[int] = []
    while order or running:
        if order and (not running or chance.random() < 0.5):
            complete.add(order[-1])
            running += left.complete(order.pop())
        else:
            key = running.pop(chance.randrange(len(running)))
            entries = left.entries(key)
            made += [one.dump_id for one in entries]
            running += left.end(key, entries)
        busy = [TableName(*table) for key in running for table in key.tables]
        assert len(busy) == len(set(busy))
        assert complete.issuperset(busy)
    assert sorted(made) == sorted(left.made) == sorted(set(made))
    assert {key.entry.dump_id for key in keys} <= left.made
    assert {second for _, second in pairs} <= left.made


def test_what_could_not_be_made_is_not_said_to_be_there_and_holds_nobody_up() -> None:
    first, second = foreign_key(0, 0, 1), foreign_key(1, 2, 1)
    left = References([first, second], [])
    assert list(left.complete(TABLES[4])) == [first]
    assert list(left.end(first, [])) == [second]
    assert left.made == frozenset()
    assert [one.dump_id for one in left.entries(second)] == [1, 101]
