"""Rows out of a database through psql: every size, every ending, and nothing left behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from failures import run_sql, sessions_of_pgkeep, wait_until
from pgkeep.errors import (
    AuthenticationFailed,
    ConnectionLost,
    DatabaseError,
    PermissionMissing,
    PgkeepError,
    RowsHidden,
    TableChanged,
)
from pgkeep.postgres.address import Address
from pgkeep.postgres.copying import CopyReader, psql_error
from pgkeep.postgres.programs import choose_client
from pgkeep.postgres.server import ScratchServer

CHUNK = 2 << 20
MARKER = 33
BOUNDARIES = [
    0, 1, MARKER - 2, MARKER - 1, MARKER, CHUNK // 2 - MARKER, CHUNK // 2 - 1, CHUNK // 2,
    CHUNK // 2 + 1, CHUNK // 2 + MARKER, CHUNK - MARKER, CHUNK - 1, CHUNK, CHUNK + 1,
    CHUNK + MARKER - 1, CHUNK + MARKER, CHUNK + MARKER + 1, 2 * CHUNK, 2 * CHUNK + MARKER,
]  # fmt: skip
NONCE = "0123456789abcdef0123456789abcdef"


def new_reader(url: str) -> CopyReader:
    return CopyReader(choose_client(17, need_tls=False), Address.parse(url))


@pytest.fixture(scope="module")
def shared_reader(servers: Callable[[int], ScratchServer]) -> Iterator[CopyReader]:
    """One session for many queries, as a backup uses it."""
    with new_reader(servers(17).url()) as reader:
        yield reader


@pytest.fixture
def reader(new_database: Callable[[], str]) -> Iterator[CopyReader]:
    with new_reader(new_database()) as reader:
        yield reader


def everything(reader: CopyReader, query: str) -> bytes:
    return b"".join(bytes(piece) for piece in reader.read(query))


# --- sizes ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(
        st.one_of(
            st.integers(0, 200),
            st.builds(
                lambda base, off: max(0, base + off),
                st.sampled_from(BOUNDARIES),
                st.integers(-3, 3),
            ),
        ),
        max_size=8,
    )
)
def test_rows_of_every_size_come_out_whole(shared_reader: CopyReader, sizes: list[int]) -> None:
    values = ", ".join(f"({at}, {size})" for at, size in enumerate(sizes)) or "(0, NULL::integer)"
    query = (
        f"SELECT repeat(chr((97 + at)::integer), size) FROM (VALUES {values}) AS v(at, size)"
        " WHERE size IS NOT NULL ORDER BY at"
    )
    expected = b"".join(bytes([97 + at]) * size + b"\n" for at, size in enumerate(sizes))
    assert everything(shared_reader, query) == expected
    assert shared_reader.lines == len(sizes)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80),
        max_size=20,
    )
)
def test_texts_of_any_characters_come_out_in_one_line_each(
    shared_reader: CopyReader, texts: list[str]
) -> None:
    quoted = ", ".join(
        f"({at}, convert_from('\\x{text.encode().hex()}', 'UTF8'))" for at, text in enumerate(texts)
    )
    query = f"SELECT t FROM (VALUES {quoted or '(0, NULL::text)'}) AS v(at, t) WHERE t IS NOT NULL"
    lines = everything(shared_reader, f"{query} ORDER BY at").split(b"\n")
    escapes = {"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t",
               "\v": "\\v"}  # fmt: skip
    expected = ["".join(escapes.get(one, one) for one in text).encode() for text in texts]
    assert lines == [*expected, b""]


@pytest.mark.parametrize(
    "text",
    [
        NONCE,
        f"\n{NONCE}\n",
        "\\.",
        f"\\qecho {NONCE}",
        "\n\\.\n",
        "COPY 5",
        "ERROR:  42P01: relation does not exist",
        "'; DROP TABLE x; --",
    ],
)
def test_rows_that_look_like_an_end_are_rows(reader: CopyReader, text: str) -> None:
    hexadecimal = text.encode().hex()
    query = f"SELECT convert_from('\\x{hexadecimal}', 'UTF8') FROM generate_series(1, 3)"
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").encode() + b"\n"
    assert everything(reader, query) == escaped * 3
    assert reader.lines == 3


def test_a_huge_row_comes_out_in_bounded_pieces(reader: CopyReader) -> None:
    total, largest = 0, 0
    for piece in reader.read("SELECT repeat('x', 60000000)"):
        total += len(piece)
        largest = max(largest, len(piece))
    assert total == 60_000_001
    assert largest <= CHUNK + MARKER
    assert reader.lines == 1


def test_a_query_that_ends_in_a_comment_ends(reader: CopyReader) -> None:
    assert everything(reader, "SELECT 1 -- and nothing else") == b"1\n"


def test_empty_results_and_rows_without_columns(reader: CopyReader) -> None:
    assert everything(reader, "SELECT 1 WHERE false") == b""
    assert reader.lines == 0
    assert everything(reader, "SELECT FROM generate_series(1, 4)") == b"\n" * 4
    assert reader.lines == 4
    assert everything(reader, "SELECT NULL") == b"\\N\n"
    assert everything(reader, "SELECT ''") == b"\n"


def test_many_queries_in_a_row_do_not_mix(reader: CopyReader) -> None:
    for number in range(200):
        assert everything(reader, f"SELECT {number}") == f"{number}\n".encode()
    reader.execute(["SET extra_float_digits = 0", "SELECT 1"])
    assert everything(reader, "SELECT 'after'") == b"after\n"


# --- errors ---------------------------------------------------------------------------------


def test_an_error_in_the_middle_of_rows_is_raised_after_them(reader: CopyReader) -> None:
    rows = 0
    with pytest.raises(DatabaseError, match="division by zero"):  # noqa: PT012
        for piece in reader.read("SELECT repeat('x', 100), 1 / (100000 - n)"
                                 " FROM generate_series(1, 200000) AS n"):  # fmt: skip
            rows += bytes(piece).count(b"\n")
    assert 0 < rows < 100_000
    with pytest.raises(DatabaseError, match="division by zero"):
        everything(reader, "SELECT 1")


@pytest.mark.parametrize(
    ("query", "kind", "message"),
    [
        ("SELECT * FROM nowhere", TableChanged, 'relation "nowhere" does not exist'),
        ("SELECT nothing", TableChanged, 'column "nothing" does not exist'),
        ("SELECT 1 +", DatabaseError, "syntax error"),
        ("SELECT 'x'::integer", DatabaseError, "invalid input syntax"),
        ("SELECT pg_terminate_backend(pg_backend_pid())", ConnectionLost, "was lost"),
    ],
)
def test_an_error_has_its_kind(
    reader: CopyReader, query: str, kind: type[PgkeepError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        everything(reader, query)
    assert "\n" not in caught.value.message


def test_the_servers_language_does_not_matter() -> None:
    address = Address.parse("postgresql://u:hush@db.example.com/x")
    error = psql_error("psql:<stdin>:18: FEHLER:  42501: keine Berechtigung für Tabelle t", address)
    assert isinstance(error, PermissionMissing)
    assert error.message == "keine Berechtigung für Tabelle t"
    error = psql_error("psql:<stdin>:3: ОШИБКА:  55P03: отмена из-за тайм-аута блокировки", address)
    assert isinstance(error, TableChanged)
    error = psql_error(
        'ERROR:  42501: query would be affected by row-level security policy for table "t"', address
    )
    assert isinstance(error, RowsHidden)


def test_a_wrong_password_is_told_at_once(new_database: Callable[[], str]) -> None:
    url = new_database()
    password = Address.parse(url).parameters["password"]
    with pytest.raises(AuthenticationFailed) as caught:
        new_reader(url.replace(password, "Wr0ngSecret"))
    assert "Wr0ngSecret" not in str(caught.value) + caught.value.hint


def test_everything_in_one_snapshot_is_read_only(new_database: Callable[[], str]) -> None:
    url = new_database()
    run_sql(url, "CREATE TABLE t (n integer)")
    with new_reader(url) as reader, pytest.raises(DatabaseError, match="read-only transaction"):
        reader.execute(["INSERT INTO public.t VALUES (1)"])


# --- ends -----------------------------------------------------------------------------------


def children() -> int:
    """Programs that we have started and that are still there, zombies too."""
    own = os.getpid()
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        count += int(fields[1]) == own
    return count


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("_again", range(8))  # two threads: what is wrong may show in one of many
def test_abort_from_another_thread_ends_a_reading_one(
    new_database: Callable[[], str], _again: int
) -> None:
    url = new_database()
    reader = new_reader(url)
    began = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            for _ in reader.read("SELECT repeat('x', 1000), generate_series(1, 100000000)"):
                began.set()
        except PgkeepError as exc:
            errors.append(exc)

    thread = threading.Thread(target=read)
    thread.start()
    assert began.wait(30)
    begun = time.monotonic()
    reader.abort()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - begun < 5
    assert [type(error) for error in errors] == [ConnectionLost]
    wait_until(lambda: not sessions_of_pgkeep(url), "the session is left")
    reader.abort()
    reader.close()
    with pytest.raises(PgkeepError):
        everything(reader, "SELECT 1")


def test_abort_ends_a_query_that_gives_no_rows(new_database: Callable[[], str]) -> None:
    url = new_database()
    reader = new_reader(url)
    failed = threading.Event()

    def read() -> None:
        try:
            everything(reader, "SELECT pg_sleep(600)")
        except ConnectionLost:
            failed.set()

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: any("pg_sleep" in str(row[2]) for row in sessions_of_pgkeep(url)), "asleep")
    reader.abort()
    thread.join(10)
    assert failed.is_set()


@pytest.mark.parametrize("end", ["close", "abort", "fail", "half"])
def test_no_program_and_no_descriptor_is_left(new_database: Callable[[], str], end: str) -> None:
    url = new_database()
    before = (children(), descriptors())
    for _ in range(4):
        reader = new_reader(url)
        assert everything(reader, "SELECT 1") == b"1\n"
        if end == "fail":
            with pytest.raises(DatabaseError):
                everything(reader, "SELECT 1 / 0")
        if end == "half":
            next(reader.read("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
            reader.abort()
        if end == "abort":
            reader.abort()
        reader.close()
    assert (children(), descriptors()) == before
    wait_until(lambda: not sessions_of_pgkeep(url), "a session is left")
