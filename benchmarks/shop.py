"""A shop that changes: what `changes` and `thirty-days` back up, and the ways in which it changes.

Rows are drawn by hashes, so that each run sees the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psycopg

from benchmarks.datasets import WORDS
from pgkeep.postgres.server import ScratchServer

CUSTOMERS, PRODUCTS, ORDERS, ITEMS_OF_AN_ORDER, JOBS = 150_000, 20_000, 320_000, 2.5, 200_000
ROWS = round(CUSTOMERS + PRODUCTS + ORDERS * (1 + ITEMS_OF_AN_ORDER) + JOBS)

_TABLES = """
CREATE TABLE customers (
    id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL, street text NOT NULL,
    credit numeric(12, 2) NOT NULL, seen timestamptz NOT NULL);
CREATE TABLE products (
    id bigint PRIMARY KEY, name text NOT NULL, description text NOT NULL,
    price numeric(12, 2) NOT NULL, stock int NOT NULL);
CREATE TABLE orders (
    id bigint PRIMARY KEY, customer_id bigint NOT NULL, created timestamptz NOT NULL,
    status text NOT NULL, total numeric(12, 2) NOT NULL, note text, details jsonb NOT NULL);
CREATE TABLE items (
    order_id bigint, line int, product_id bigint NOT NULL, quantity int NOT NULL,
    price numeric(12, 2) NOT NULL, returned int NOT NULL, PRIMARY KEY (order_id, line));
CREATE TABLE jobs (id bigint PRIMARY KEY, kind text NOT NULL, payload jsonb NOT NULL);
"""

_CUSTOMERS = f"""
INSERT INTO customers
SELECT i, {WORDS}[1 + (h & 15)] || ' ' || {WORDS}[1 + (h >> 4 & 15)] || ' ' || i,
       md5(i::text) || '@example.org',
       {WORDS}[1 + (h >> 8 & 15)] || ' street ' || (h >> 12 & 1023),
       (h & 65535) / 100.0, timestamptz '2024-01-01 00:00Z' + (h & 16777215) * interval '1 second'
  FROM (SELECT i, hashint8(i) AS h FROM generate_series({{first}}, {{last}}) i) s
"""

_PRODUCTS = f"""
INSERT INTO products
SELECT i, {WORDS}[1 + (h & 15)] || ' ' || {WORDS}[1 + (h >> 4 & 15)] || ' ' || i,
       (SELECT string_agg({WORDS}[1 + (hashint4(n # h) & 15)], ' ') FROM generate_series(1, 30) n),
       (h & 65535) / 100.0, h >> 16 & 1023
  FROM (SELECT i, hashint8(i + 7) AS h FROM generate_series({{first}}, {{last}}) i) s
"""

_ORDERS = f"""
INSERT INTO orders
SELECT i, h & 131071, timestamptz '2024-01-01 00:00Z' + i * interval '41.7 seconds',
       (ARRAY['new', 'paid', 'packed', 'sent', 'delivered', 'returned'])[1 + abs(h % 6)],
       (h & 1048575) / 100.0,
       'leave it with the ' || {WORDS}[1 + (h >> 7 & 15)] || ' neighbour, ref ' || md5(i::text),
       jsonb_build_object(
           'channel', (ARRAY['web', 'app', 'shop', 'phone'])[1 + (h >> 3 & 3)],
           'payment', md5((i # h)::text),
           'gift', (h & 7) = 0,
           'courier', {WORDS}[1 + (h >> 11 & 15)],
           'weight', (h >> 9 & 2047))
  FROM (SELECT i, hashint8(i + 77) AS h FROM generate_series({{first}}, {{last}}) i) s
"""

# One, two, three or four items each: 2.5 in the middle.
_ITEMS = """
INSERT INTO items
SELECT i, n, (hashint8(i * 5 + n) & 2147483647) % 20000, 1 + (hashint8(i + n) & 3),
       (hashint8(i * 3 + n) & 65535) / 100.0, 0
  FROM generate_series({first}, {last}) i, generate_series(1, 1 + (i & 3)) n
"""

_JOBS = f"""
INSERT INTO jobs
SELECT i, 'mail-' || {WORDS}[1 + (h & 15)],
       jsonb_build_object('to', md5(i::text), 'template', {WORDS}[1 + (h >> 4 & 15)], 'try', h & 3)
  FROM (SELECT i, hashint8(i + 777) AS h FROM generate_series({{first}}, {{last}}) i) s
"""

_FILL: Mapping[str, str] = {
    "customers": _CUSTOMERS,
    "products": _PRODUCTS,
    "orders": _ORDERS,
    "items": _ITEMS,
    "jobs": _JOBS,
}


@dataclass(frozen=True, slots=True)
class Shop:
    """One database with a shop in it, of so many times `ROWS` rows."""

    url: str
    scale: float

    def build(self) -> None:
        self._run(_TABLES)
        for table, rows in self._rows().items():
            pieces = 4 if rows > 1000 else 1
            bounds = [rows * number // pieces for number in range(pieces + 1)]
            with ThreadPoolExecutor(2) as executor:
                starts = [first + 1 for first in bounds[:-1]]
                list(executor.map(self._fill, [table] * pieces, starts, bounds[1:]))
        self._turn_queue(rounds=4)  # a queue that has been there a while: its pages are reused
        self.vacuum()

    # --- ways to change ---------------------------------------------------------------------------

    def append(self, share: float = 0.01) -> None:
        """New orders and their items, new customers, new jobs: nothing else."""
        for table, rows in self._rows().items():
            if table != "items":
                self._append(table, round(rows * share))

    def update_random(self, share: float) -> None:
        """Rows anywhere in every table."""
        among = f"(hashint8extended({{}}, 1) & 1048575) < {share * 1048576}"
        self._update("customers", "credit = credit + 1", among.format("id"))
        self._update("products", "stock = stock + 1", among.format("id"))
        self._update("orders", "total = total + 1", among.format("id"))
        self._update("items", "returned = returned + 1", among.format("order_id * 8 + line"))

    def update_hot(self, share: float = 0.01) -> None:
        """The newest orders and their items, which lie together."""
        first = f"(SELECT max(id) - {round(self._rows()['orders'] * share)} FROM orders)"
        self._update("orders", "status = 'on its way'", f"id > {first}")
        self._update("items", "returned = returned + 1", f"order_id > {first}")

    def turn_queue(self) -> None:
        """Jobs come and go: a tenth of the queue is worked off, and as many are new."""
        self._turn_queue(rounds=5)

    def pass_day(self) -> None:
        """About 1 % of the rows: half new, the rest mostly recent orders on their way."""
        self.append(0.005)
        self.update_hot(0.005)
        among = "(hashint8extended(id, (SELECT max(id) FROM orders)) & 1048575) < {}"
        self._update("customers", "seen = seen + '1 day'", among.format(1048576 // 500))
        self._update("products", "stock = stock + 1", among.format(1048576 // 200))

    def vacuum(self) -> None:
        """As autovacuum would, which is off so that it does not run while somebody is measured."""
        self._run("VACUUM ANALYZE")

    # --- counting ---------------------------------------------------------------------------------

    def heap_bytes(self) -> int:
        tables = " + ".join(f"pg_table_size('{name}')" for name in _FILL)
        return self._value(f"SELECT {tables}")

    def rows(self) -> int:
        tables = " + ".join(f"(SELECT count(*) FROM {name})" for name in _FILL)
        return self._value(f"SELECT {tables}")

    # --- steps ------------------------------------------------------------------------------------

    def _rows(self) -> Mapping[str, int]:
        base = {"customers": CUSTOMERS, "products": PRODUCTS, "orders": ORDERS,
                "items": ORDERS, "jobs": JOBS}  # fmt: skip
        return {table: round(rows * self.scale) for table, rows in base.items()}

    def _fill(self, table: str, first: int, last: int) -> None:
        statement = _FILL[table].replace("{first}", str(first)).replace("{last}", str(last))
        self._run(statement)

    def _append(self, table: str, rows: int) -> None:
        last = self._value(f"SELECT max(id) FROM {table}")
        self._fill(table, last + 1, last + rows)
        if table == "orders":
            self._fill("items", last + 1, last + rows)

    def _update(self, table: str, change: str, where: str) -> None:
        self._run(f"UPDATE {table} SET {change} WHERE {where}")

    def _turn_queue(self, rounds: int) -> None:
        rows = round(self._rows()["jobs"] * 0.02)
        for _ in range(rounds):
            self._append("jobs", rows)
            self._run(f"DELETE FROM jobs WHERE id < (SELECT min(id) + {rows} FROM jobs)")
            self._run("VACUUM jobs")

    def _run(self, script: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(script.encode())

    def _value(self, query: str) -> int:
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])


def build_shop(server: ScratchServer, database: str, scale: float) -> Shop:
    """A new database with a shop in it."""
    server.create_database(database)
    shop = Shop(server.url(database), scale)
    shop.build()
    return shop
