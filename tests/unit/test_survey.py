"""Where a replay ends, told from the messages alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from pgkeep.model import Lsn, Segment, SnapshotPoint
from pgkeep.recovery.moment import AtEnd, AtLsn, AtTime, AtTransaction, Moment
from pgkeep.recovery.survey import Survey, survey
from pgkeep.repository.journal import Frame, FrameKind, head_digest

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
HEAD = Segment(
    1, "shop", "a" * 16, 1, "", Lsn(0), Lsn(10_000), True, True, NOON + timedelta(hours=1), None,
    None, 0, 0, 0, 0, "here", "pgkeep", "17", "1", 1, "e", 0, 0, "",
)  # fmt: skip


def second(number: float) -> datetime:
    return NOON + timedelta(seconds=number)


def transaction(xid: int, at: float, *, lsn: int | None = None, changes: int = 1,
                ddl: tuple[str, ...] = ()) -> Iterator[bytes]:  # fmt: skip
    """One that commits at a second, at a position, and ends ten bytes later."""
    lsn = xid * 100 if lsn is None else lsn
    time = (second(at) - EPOCH) // timedelta(microseconds=1)
    yield b"B" + struct.pack(">QqI", lsn, time, xid)
    yield from [b"I" + bytes(4) + b"N\0\0"] * changes
    for query in ddl:
        tag = " ".join(query.split()[:2])
        document = {"event": "ddl_command_end", "tag": tag, "query": query, "role": "me"}
        content = json.dumps(document).encode()
        yield b"M\1" + bytes(8) + b"pgkeep.ddl\0" + struct.pack(">I", len(content)) + content
    yield b"C\0" + struct.pack(">QQq", lsn, lsn + 10, time)


def look(
    moment: Moment, *transactions: Iterator[bytes], lsn: int = 0, snapshot: str = "10:10:"
) -> Survey:
    messages = [data for one in transactions for data in one]
    frames = (Frame(FrameKind.MESSAGE, 0, 0, data) for data in messages)
    point = SnapshotPoint(NOON, "17", "1", 1, str(Lsn(lsn)), snapshot)
    return survey([(HEAD, frames)], point, moment)


def last(found: Survey) -> int | None:
    return found.last.xid if found.last else None


def three() -> tuple[Iterator[bytes], ...]:
    return transaction(11, 1, changes=5), transaction(12, 3), transaction(13, 2)


@pytest.mark.parametrize(
    ("moment", "xid"),
    [
        (AtEnd(), 13),
        (AtTime(second(0.5)), None),
        (AtTime(second(1)), 11),
        (AtTime(second(2.5)), 11),  # 13 committed by then, but after 12, which had not
        (AtTime(second(3)), 13),
        (AtLsn(Lsn(1109)), None),
        (AtLsn(Lsn(1110)), 11),
        (AtLsn(Lsn(5000)), 13),
        (AtTransaction(12), 12),
        (AtTransaction(12, inclusive=False), 11),
        (AtTransaction(13), 13),
    ],
)
def test_the_first_transaction_beyond_the_moment_ends_the_replay(
    moment: Moment, xid: int | None
) -> None:
    found = look(moment, *three())
    assert last(found) == xid
    assert found.found
    assert not found.too_new


def test_transactions_and_changes_are_counted() -> None:
    found = look(AtEnd(), *three())
    assert (found.transactions, found.changes, found.before_lsn) == (3, 7, None)
    assert found.covered == HEAD.covered
    found = look(AtTransaction(11), *three())
    assert (found.transactions, found.changes) == (1, 5)
    assert 1100 < (found.before_lsn or 0) <= 1200


def test_a_transaction_that_is_not_there_is_not_found() -> None:
    assert not look(AtTransaction(99), *three()).found
    assert not look(AtTransaction(99, inclusive=False), *three()).found


def test_what_the_backup_shows_is_left_out() -> None:
    found = look(AtEnd(), *three(), snapshot="11:13:12", lsn=1250)
    assert (found.transactions, last(found)) == (2, 13)


def test_a_backup_that_shows_what_lies_beyond_a_position_is_too_new() -> None:
    """The backup's position was asked for a little before its snapshot was made."""
    found = look(AtLsn(Lsn(1250)), *three(), snapshot="13:13:", lsn=1150)
    assert not found.too_new
    found = look(AtLsn(Lsn(1200)), *three(), snapshot="13:13:", lsn=1150)
    assert found.too_new


def test_a_backup_that_shows_what_lies_beyond_the_moment_is_too_new() -> None:
    """Its time is that of its transaction's begin; the snapshot came a little later."""
    found = look(AtTime(second(2.5)), *three(), snapshot="14:14:", lsn=1350)
    assert found.too_new
    # In the log 12 and 13 are beyond the moment, and the backup shows one of them.
    found = look(AtTime(second(2.5)), *three(), snapshot="12:14:12", lsn=1350)
    assert found.too_new
    found = look(AtTime(second(3)), *three(), snapshot="12:14:12", lsn=1350)
    assert not found.too_new
    assert last(found) == 12


PLAIN = "ALTER TABLE a ADD b integer"
OTHER = "CREATE EXTENSION a"


def test_plain_schema_changes_are_counted_and_passed() -> None:
    found = look(AtEnd(), transaction(11, 1, ddl=(PLAIN, PLAIN)), transaction(12, 2))
    assert (found.schema_changes, found.obstacle, last(found)) == (2, None, 12)


def test_another_schema_change_ends_the_replay_before_its_transaction() -> None:
    ddl = (PLAIN, OTHER, PLAIN)
    found = look(AtEnd(), transaction(11, 1), transaction(12, 2, ddl=ddl), transaction(13, 3))
    assert found.obstacle is not None
    assert found.obstacle.xid == 12
    assert found.obstacle.change.query == OTHER
    assert (last(found), found.schema_changes, found.before_lsn) == (11, 0, 1200)


def test_a_schema_change_beyond_the_moment_or_in_the_backup_is_no_obstacle() -> None:
    def changes() -> tuple[Iterator[bytes], ...]:
        return transaction(11, 1), transaction(12, 2, ddl=(OTHER,))

    for moment in (AtTime(second(1)), AtLsn(Lsn(1150)), AtTransaction(12, inclusive=False)):
        assert look(moment, *changes()).obstacle is None
    assert look(AtEnd(), *changes(), snapshot="13:13:", lsn=1250).obstacle is None
    assert look(AtTransaction(12), *changes()).obstacle is not None


def test_messages_of_others_do_not_count() -> None:
    data = b"M\1" + bytes(8) + b"pgkeep.other\0" + struct.pack(">I", 1) + b"{"
    begin, *rest = transaction(11, 1)
    found = look(AtEnd(), iter([data, begin, data, *rest]))
    assert (found.transactions, found.obstacle) == (1, None)


def test_the_clock_of_what_was_read_counts() -> None:
    early = replace(HEAD, covered=second(5))
    point = SnapshotPoint(NOON, "17", "1", 1, "0/0", "10:10:")
    assert survey([(early, iter(()))], point, AtTime(second(9))).covered == second(5)


def test_a_head_without_a_digest_of_tables_is_the_same_as_before_there_was_one() -> None:
    """The next segment refers to it by its bytes."""
    old = (
        b'{"format":1,"database":"shop","chain":"aaaaaaaaaaaaaaaa","sequence":1,"previous":"",'
        b'"start":"0/0","end":"0/2710","begins_whole":true,"ends_whole":true,'
        b'"covered":"2026-01-15T13:00:00Z","first_commit":null,"last_commit":null,'
        b'"transactions":0,"changes":0,"schema_changes":0,"barriers":0,"host":"here",'
        b'"tool":"pgkeep","server_version":"17","system_identifier":"1","timeline":1,'
        b'"epoch":"e","plain_bytes":0,"body_bytes":0,"body_sha256":""}\n'
    )
    assert head_digest(HEAD) == sha256(old).hexdigest()
    assert head_digest(replace(HEAD, catalog="a" * 32)) != head_digest(HEAD)
