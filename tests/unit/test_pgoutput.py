"""The parser of pgoutput: every message that a server sends, and nothing that is cut off."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.errors import JournalInvalid
from pgkeep.model import TableName
from pgkeep.postgres import pgoutput
from pgkeep.postgres.pgoutput import UNCHANGED

# Taken from PostgreSQL 17: CREATE TABLE t (id int PRIMARY KEY, v text).
RELATION = (
    b"R\0\0\x40\x05public\0t\0d\0\2\1id\0\0\0\0\x17\xff\xff\xff\xff\0v\0\0\0\0\x19" + b"\xff" * 4
)
BEGIN = b"B" + struct.pack(">QqI", 0x16F2A88, 821_340_000_000_000, 742)
COMMIT = b"C\0" + struct.pack(">QQq", 0x16F2A88, 0x16F2AB8, 821_340_000_000_000)
INSERT = b"I\0\0\x40\x05N\0\2t\0\0\0\x011n"
UPDATE = b"U\0\0\x40\x05N\0\2t\0\0\0\x011t\0\0\0\x02ab"
UPDATE_KEY = b"U\0\0\x40\x05K\0\2t\0\0\0\x011nN\0\2t\0\0\0\x012u"
UPDATE_FULL = b"U\0\0\x40\x05O\0\2t\0\0\0\x011nN\0\2t\0\0\0\x012n"
DELETE = b"D\0\0\x40\x05K\0\2t\0\0\0\x011n"
TRUNCATE = b"T\0\0\0\2\3\0\0\x40\x05\0\0\x40\x09"
LOGICAL = b"M\1" + struct.pack(">Q", 0x16F2A88) + b"pgkeep.ddl\0\0\0\0\2{}"
ALL = (RELATION, BEGIN, COMMIT, INSERT, UPDATE, UPDATE_KEY, UPDATE_FULL, DELETE, TRUNCATE, LOGICAL)


def test_each_kind() -> None:
    at = datetime(2026, 1, 10, 6, 0, tzinfo=UTC)
    assert pgoutput.parse(BEGIN) == pgoutput.Begin(0x16F2A88, at, 742)
    assert pgoutput.parse(COMMIT) == pgoutput.Commit(0x16F2A88, 0x16F2AB8, at)
    assert pgoutput.commit_end(COMMIT) == (0x16F2AB8, at)
    relation = pgoutput.parse(RELATION)
    assert isinstance(relation, pgoutput.Relation)
    assert relation.name == TableName("public", "t")
    assert [(one.name, one.is_key) for one in relation.columns] == [("id", True), ("v", False)]
    assert pgoutput.parse(INSERT) == pgoutput.Insert(0x4005, [b"1", None])
    assert pgoutput.parse(UPDATE) == pgoutput.Update(0x4005, None, False, [b"1", b"ab"])
    assert pgoutput.parse(UPDATE_KEY) == pgoutput.Update(
        0x4005, [b"1", None], True, [b"2", UNCHANGED]
    )
    assert pgoutput.parse(UPDATE_FULL) == pgoutput.Update(0x4005, [b"1", None], False, [b"2", None])
    assert pgoutput.parse(DELETE) == pgoutput.Delete(0x4005, [b"1", None], True)
    assert pgoutput.parse(TRUNCATE) == pgoutput.Truncate((0x4005, 0x4009), True, True)
    assert pgoutput.parse(LOGICAL) == pgoutput.LogicalMessage(True, 0x16F2A88, "pgkeep.ddl", b"{}")
    assert pgoutput.message_prefix(LOGICAL) == b"pgkeep.ddl"
    assert pgoutput.is_transactional(LOGICAL)
    assert pgoutput.parse(b"Y\0\0\0\1public\0x\0") is None


@pytest.mark.parametrize("message", ALL, ids=lambda message: chr(message[0]))
def test_what_is_cut_off_or_too_long_is_refused(message: bytes) -> None:
    for size in range(len(message)):
        with pytest.raises(JournalInvalid):
            pgoutput.parse(message[:size])
    with pytest.raises(JournalInvalid):
        pgoutput.parse(message + b"\0")


@given(st.sampled_from(ALL), st.binary(max_size=40))
def test_noise_is_refused_or_read_but_never_another_error(message: bytes, noise: bytes) -> None:
    for data in (noise, message[:1] + noise, message[:6] + noise):
        try:
            pgoutput.parse(data)
        except JournalInvalid:
            continue
