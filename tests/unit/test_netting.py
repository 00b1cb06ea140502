"""What many changes come to is what they come to one by one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.postgres.pgoutput import UNCHANGED, Delete, Insert, Update, Value
from pgkeep.recovery.netting import Net, Row, RowChange, net_by_key, net_by_row

TABLE = 1


def insert(*row: Value) -> Insert:
    return Insert(TABLE, list(row))


def update(*row: Value, old: tuple[Value, ...] | None = None) -> Update:
    return Update(TABLE, list(old) if old else None, True, list(row))


def delete(*row: Value) -> Delete:
    return Delete(TABLE, list(row), True)


def net(*changes: RowChange) -> Net | None:
    return net_by_key(changes, [0])


def test_an_insert_and_a_delete_come_to_nothing() -> None:
    assert net(insert(b"1", b"a"), update(b"1", b"b"), delete(b"1", None)) == Net()


def test_the_last_update_counts_and_keeps_what_earlier_ones_sent() -> None:
    assert net(update(b"1", b"a", b"toast"), update(b"1", b"b", UNCHANGED)) == Net(
        updates={(): [[b"1", b"b", b"toast"]]}
    )
    assert net(update(b"1", b"a", UNCHANGED)) == Net(updates={(2,): [[b"1", b"a", UNCHANGED]]})
    assert net(insert(b"1", b"a", b"t"), update(b"1", b"b", UNCHANGED)) == Net(
        inserts=[[b"1", b"b", b"t"]]
    )


def test_a_row_that_comes_again_is_an_update_of_all_columns() -> None:
    assert net(delete(b"1", None), insert(b"1", b"new")) == Net(updates={(): [[b"1", b"new"]]})
    assert net(delete(b"1", None), insert(b"1", b"new"), delete(b"1", None)) == Net(
        deletes=[[b"1", None]]
    )


def test_a_key_that_changes_is_a_delete_and_an_insert() -> None:
    assert net(update(b"2", b"a", old=(b"1", None))) == Net(
        deletes=[[b"1", None]], inserts=[[b"2", b"a"]]
    )


def test_a_key_that_changes_takes_along_what_the_batch_knows() -> None:
    assert net(update(b"1", b"toast"), update(b"2", UNCHANGED, old=(b"1", None))) == Net(
        deletes=[[b"1", b"toast"]], inserts=[[b"2", b"toast"]]
    )
    assert net(update(b"2", UNCHANGED, old=(b"1", None))) is None


def test_a_large_key_is_told_with_the_old_row() -> None:
    assert net(update(UNCHANGED, b"b", old=(b"large", None))) == Net(
        updates={(): [[b"large", b"b"]]}
    )


@pytest.mark.parametrize(
    "changes",
    [
        (insert(b"1", b"a"), insert(b"1", b"b")),
        (delete(b"1", None), delete(b"1", None)),
        (delete(b"1", None), update(b"1", b"a")),
        (insert(b"2", b"a"), update(b"2", b"b", old=(b"1", None))),
    ],
)
def test_what_cannot_be_is_not_netted(changes: tuple[RowChange, ...]) -> None:
    assert net(*changes) is None


KEYS = st.sampled_from([b"1", b"2", b"3"])
VALUES = st.sampled_from([b"a", b"b", None])
BIG = st.sampled_from([b"x", b"y", UNCHANGED])
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "change", "move", "take"]), KEYS, KEYS, VALUES, BIG),
    max_size=12,
)
Rows = dict[Value, Row]


def make(start: Rows, steps: list[tuple[str, bytes, bytes, Value, Value]]) -> list[RowChange]:
    """Changes as a server would write them, and `start` brought to where they lead."""
    changes: list[RowChange] = []
    for what, key, to, value, big in steps:
        if what == "put" and key not in start:
            row: Row = [key, value, b"x" if big is UNCHANGED else big]
            start[key] = row
            changes.append(Insert(TABLE, list(row)))
        elif what == "take" and key in start:
            del start[key]
            changes.append(delete(key, None, None))
        elif what == "change" and key in start:
            start[key] = [key, value, start[key][2] if big is UNCHANGED else big]
            changes.append(update(key, value, big))
        elif what == "move" and key in start and to not in start:
            before = start.pop(key)
            start[to] = [to, value, before[2] if big is UNCHANGED else big]
            changes.append(update(to, value, big, old=(key, None, None)))
    return changes


def apply(rows: Rows, found: Net) -> Rows:
    for row in found.deletes:
        del rows[row[0]]
    for unchanged, updates in found.updates.items():
        for row in updates:
            before = rows[row[0]]
            rows[row[0]] = [before[at] if at in unchanged else row[at] for at in range(3)]
    for row in found.inserts:
        assert row[0] not in rows
        rows[row[0]] = row
    return rows


@given(st.sets(KEYS), STEPS)
def test_the_net_leads_where_the_changes_lead(
    there: set[bytes], steps: list[tuple[str, bytes, bytes, Value, Value]]
) -> None:
    before: Rows = {key: [key, b"a", b"x"] for key in there}
    after = {key: list(row) for key, row in before.items()}
    changes = make(after, steps)
    found = net_by_key(changes, [0])
    if found is None:
        moves = [one for one in changes if isinstance(one, Update) and one.old]
        assert any(UNCHANGED in one.new for one in moves)
    else:
        assert apply(before, found) == after


WHOLE = st.sampled_from([(b"1", b"a"), (b"1", None), (b"2", b"a")])


@given(st.lists(WHOLE), st.lists(st.tuples(st.sampled_from("iud"), WHOLE, WHOLE), max_size=12))
def test_whole_rows_are_counted(
    there: list[tuple[Value, ...]],
    steps: list[tuple[str, tuple[Value, ...], tuple[Value, ...]]],
) -> None:
    before, after = Counter(there), Counter(there)
    changes: list[RowChange] = []
    for what, row, other in steps:
        if what == "i":
            after[row] += 1
            changes.append(insert(*row))
        elif after[row]:
            after[row] -= 1
            if what == "d":
                changes.append(Delete(TABLE, list(row), False))
            else:
                after[other] += 1
                changes.append(Update(TABLE, list(row), False, list(other)))
    go, come = net_by_row(changes)
    assert all(before[row] >= count for row, count in go.items())
    found = before - Counter(go) + Counter(tuple(row) for row in come)
    assert found == +after


def test_a_large_value_that_stays_is_taken_from_the_old_row() -> None:
    change = Update(TABLE, [b"1", b"large"], False, [b"2", UNCHANGED])
    assert net_by_row([change]) == ({(b"1", b"large"): 1}, [[b"2", b"large"]])
