"""The database that is measured: a narrow table, a wide one with indexes, a small one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import psycopg

from pgkeep.postgres.programs import Programs
from pgkeep.postgres.server import ScratchServer

Filler = Literal["text", "blank"]

ALL, BIG_TABLE = "bench", "bench_big_table"

NARROW_ROWS, WIDE_ROWS, SMALL_ROWS = 7_000_000, 1_200_000, 2_000

# A modest server. It never waits for the disk (see `ScratchServer`), which spares every
# contestant alike, and nothing happens in it on its own while somebody is measured.
SETTINGS: Mapping[str, str] = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
}

_TABLES = """
CREATE TABLE accounts (aid int NOT NULL, bid int, abalance int, filler char(84));
CREATE TABLE orders (
    id bigint NOT NULL,
    customer_id int NOT NULL,
    created timestamptz NOT NULL,
    status text NOT NULL,
    total numeric(12, 2) NOT NULL,
    email text,
    note text,
    details jsonb NOT NULL
);
CREATE TABLE branches (bid int PRIMARY KEY, bbalance int, name text);
"""

_INDEXES = """
ALTER TABLE accounts ADD PRIMARY KEY (aid);
ALTER TABLE orders ADD PRIMARY KEY (id);
CREATE INDEX orders_created ON orders (created);
CREATE INDEX orders_details ON orders USING gin (details);
ALTER TABLE accounts ADD FOREIGN KEY (bid) REFERENCES branches;
"""

WORDS = (
    "(ARRAY['amber','birch','cedar','delta','ember','fjord','grove','haven','island','juniper',"
    "'kestrel','lagoon','meadow','north','orchard','prairie'])"
)
_TEXT_FILLER = (
    f"{WORDS}[1 + (h & 15)] || ' ' || {WORDS}[1 + (h >> 4 & 15)] || ' street '"
    " || (h >> 8 & 1023) || ', ' || to_char(i, 'FM0000000') || ' '"
    f" || {WORDS}[1 + (h >> 18 & 15)] || ', phone ' || (h & 2147483647)"
)
_FILLERS: Mapping[Filler, str] = {"text": _TEXT_FILLER, "blank": "''"}

_ACCOUNTS = """
INSERT INTO accounts
SELECT i, i / 100000 + 1, h % 100000, {filler}
  FROM (SELECT i, hashint4(i) AS h FROM generate_series({first}, {last}) i) s
"""

_ORDERS = f"""
INSERT INTO orders
SELECT i, h & 262143, timestamptz '2024-01-01 00:00Z' + i * interval '41.7 seconds',
       (ARRAY['new', 'paid', 'packed', 'sent', 'delivered', 'returned'])[1 + abs(h % 6)],
       (h & 1048575) / 100.0,
       {WORDS}[1 + (h & 15)] || '.' || (h >> 4 & 65535) || '@example.org',
       'leave it with the ' || {WORDS}[1 + (h >> 7 & 15)] || ' neighbour, reference '
           || md5(i::text),
       jsonb_build_object(
           'channel', (ARRAY['web', 'app', 'shop', 'phone'])[1 + (h >> 3 & 3)],
           'items', jsonb_build_array(
               jsonb_build_object('sku', 'sku-' || (h & 4095), 'count', 1 + (h >> 5 & 3)),
               jsonb_build_object('sku', 'sku-' || (h >> 12 & 4095), 'count', 1)),
           'gift', (h & 7) = 0,
           'courier', {WORDS}[1 + (h >> 11 & 15)],
           'weight', (h >> 9 & 2047))
  FROM (SELECT i, hashint4(i + 77) AS h FROM generate_series({{first}}, {{last}}) i) s
"""

_BRANCHES = """
INSERT INTO branches SELECT i, 0, 'branch ' || i FROM generate_series({first}, {last}) i
"""


@dataclass(frozen=True, slots=True)
class Built:
    """A running server with the measured databases in it."""

    server: ScratchServer
    rows: int
    database_bytes: int

    def url(self, database: str) -> str:
        return self.server.url(database)

    def settle(self) -> None:
        """Leave nothing to write that a run before has made."""
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute("CHECKPOINT")

    @contextmanager
    def empty_database(self, name: str) -> Iterator[str]:
        """The URL of a new database, dropped at the end."""
        self.server.drop_database(name)
        self.server.create_database(name)
        try:
            yield self.server.url(name)
        finally:
            self.server.drop_database(name)


def build(server: ScratchServer, scale: float, filler: Filler, *, big_table: bool) -> Built:
    """Fill `ALL`, and `BIG_TABLE` with just the narrow table if wanted."""
    server.create_database(ALL)
    url = server.url(ALL)
    _run(url, _TABLES)
    statements = [
        *_in_pieces(_ACCOUNTS.replace("{filler}", _FILLERS[filler]), round(NARROW_ROWS * scale)),
        *_in_pieces(_ORDERS, round(WIDE_ROWS * scale)),
        *_in_pieces(_BRANCHES, SMALL_ROWS, pieces=1),
    ]
    _side_by_side(url, statements)
    _side_by_side(url, [line for line in _INDEXES.splitlines() if line])
    if big_table:
        server.create_database(BIG_TABLE, template=ALL)
        _run(server.url(BIG_TABLE), "DROP TABLE orders, branches CASCADE")
        _tidy(server.url(BIG_TABLE))
    _tidy(url)
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM accounts) + (SELECT count(*) FROM orders)"
            " + (SELECT count(*) FROM branches), pg_database_size(current_database())"
        ).fetchone()
    assert row is not None
    return Built(server, int(row[0]), int(row[1]))


@contextmanager
def serve(
    programs: Programs, scale: float, filler: Filler, *, big_table: bool = True
) -> Iterator[Built]:
    """A server with everything in it, removed at the end."""
    with ScratchServer.start(programs, settings=SETTINGS) as server:
        yield build(server, scale, filler, big_table=big_table)


def _in_pieces(statement: str, rows: int, pieces: int = 8) -> Iterator[str]:
    step = -(-rows // pieces)
    for first in range(1, rows + 1, step):
        last = min(first + step - 1, rows)
        yield statement.replace("{first}", str(first)).replace("{last}", str(last))


def _side_by_side(url: str, statements: list[str]) -> None:
    with ThreadPoolExecutor(2) as executor:
        for _ in executor.map(lambda statement: _run(url, statement), statements):
            pass


def _run(url: str, script: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(script.encode())


def _tidy(url: str) -> None:
    """Hint bits, visibility map and statistics, as in a database that has been there a while."""
    for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
        _run(url, statement)
