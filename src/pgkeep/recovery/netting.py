"""What many changes of one table come to. Pure.

With triggers and foreign keys quiet, only the last state of each row counts, so a row that changed
a hundred times within a batch is written once. Rows are told apart by the text of their key, which
is the same text wherever the same value is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pgkeep.postgres.pgoutput import UNCHANGED, Delete, Insert, Update, Value

Row = list[Value]
RowChange = Insert | Update | Delete
Key = tuple[Value, ...]
Pattern = tuple[int, ...]
"""Positions of columns that an update leaves as they are."""


@dataclass(slots=True)
class Net:
    """Deletes first, then updates, then inserts, give the state after all changes."""

    deletes: list[Row] = field(default_factory=list)
    updates: dict[Pattern, list[Row]] = field(default_factory=dict)
    inserts: list[Row] = field(default_factory=list)


@dataclass(slots=True)
class _State:
    existed: bool
    row: Row | None
    """None: it is gone."""
    given: Row
    """A row that has the key's values."""


def net_by_key(changes: Iterable[RowChange], key: Sequence[int]) -> Net | None:
    """The net of changes of a table whose rows have a key; `key` are its columns' positions.

    None where it cannot be told: a key changes while values that were not sent move along, or
    two rows had the same key at once, as it may be until a deferred constraint is checked.
    """
    states: dict[Key, _State] = {}
    for change in changes:
        if isinstance(change, Insert):
            fits = _put(states, _key(change.new, key), change.new)
        elif isinstance(change, Delete):
            fits = _take(states, _key(change.old, key), change.old) is not None
        else:
            fits = _update(states, change, key)
        if not fits:
            return None
    return _sorted_out(states)


def net_by_row(changes: Iterable[RowChange]) -> tuple[dict[Key, int], list[Row]]:
    """For REPLICA IDENTITY FULL: how many of which rows go, and which come."""
    come: dict[Key, int] = {}
    go: dict[Key, int] = {}
    for change in changes:
        if not isinstance(change, Insert):
            old = change.old or []
            row = tuple(old)
            if come.get(row):
                come[row] -= 1
            else:
                go[row] = go.get(row, 0) + 1
        if not isinstance(change, Delete):
            new = tuple(change.new if isinstance(change, Insert) else merged(change).new)
            come[new] = come.get(new, 0) + 1
    return go, [list(row) for row, count in come.items() for _ in range(count)]


def merged(update: Update) -> Update:
    """An update with the values that only its old row has told."""
    if update.old is None or UNCHANGED not in update.new:
        return update
    return Update(update.relation, update.old, update.old_is_key, _filled(update.new, update.old))


def _filled(new: Row, old: Row) -> Row:
    """The new row, with what was not sent taken from the old one where that has a value."""
    return [
        before if value is UNCHANGED and before is not None else value
        for value, before in zip(new, old, strict=True)
    ]


def _key(row: Row, key: Sequence[int]) -> Key:
    return tuple([row[at] for at in key])


def _put(states: dict[Key, _State], at: Key, row: Row) -> bool:
    state = states.get(at)
    if state is None:
        states[at] = _State(False, row, row)
        return True
    if state.row is not None:
        return False
    state.row = row
    return True


def _take(states: dict[Key, _State], at: Key, row: Row) -> Row | None:
    """Remove the row at a key: what is known of it; None if it is gone already."""
    state = states.get(at)
    if state is None:
        states[at] = _State(True, None, row)
        return []
    before, state.row = state.row, None
    if before is not None and not state.existed:
        del states[at]
    return before


def _update(states: dict[Key, _State], change: Update, key: Sequence[int]) -> bool:
    new = change.new
    if change.old is not None:
        new = merged(change).new
        before = _key(change.old, key)
    else:
        before = _key(new, key)
    after = _key(new, key)
    if before == after:
        return _change(states, after, new)
    known = _take(states, before, change.old or new)
    if known is None:
        return False
    if UNCHANGED in new:
        new = _with_known(new, known) if known else new
        if UNCHANGED in new:
            return False
    return _put(states, after, new)


def _change(states: dict[Key, _State], at: Key, new: Row) -> bool:
    state = states.get(at)
    if state is None:
        states[at] = _State(True, new, new)
        return True
    if state.row is None:
        return False
    state.row = _with_known(new, state.row) if UNCHANGED in new else new
    return True


def _with_known(new: Row, known: Row) -> Row:
    return [
        before if value is UNCHANGED else value for value, before in zip(new, known, strict=True)
    ]


def _sorted_out(states: dict[Key, _State]) -> Net:
    net = Net()
    for state in states.values():
        row = state.row
        if not state.existed:
            if row is not None:
                net.inserts.append(row)
        elif row is None:
            net.deletes.append(state.given)
        else:
            pattern: Pattern = ()
            if UNCHANGED in row:
                pattern = tuple([at for at, value in enumerate(row) if value is UNCHANGED])
            net.updates.setdefault(pattern, []).append(row)
    return net
