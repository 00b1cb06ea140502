"""Telling a pooler that gives each transaction another server from one that keeps a session.

Settings, snapshots and locks of a session are lost behind the first kind, in silence.
"""

from __future__ import annotations

import select
import time

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

# In session mode the second connection may have to wait for a server: that proves nothing.
_PATIENCE_SECONDS = 3.0
_LOOKS = 5


def is_pooled(connection: psycopg.Connection) -> bool:
    """Whether something between gives out servers: it invents the number that a client is told."""
    return _server_process(connection) != connection.info.backend_pid


def shares_servers(connection: psycopg.Connection, conninfo: str) -> bool:
    """Whether one server process works for two connections, or two for one: transaction pooling.

    Opens a second connection for a moment, and holds a transaction there: a pooler gives it the
    server that the first has just given back, or else the first needs another one then. For a
    connection outside of a transaction.
    """
    try:
        other = psycopg.connect(conninfo, autocommit=True, prepare_threshold=None)
    except psycopg.Error:
        return False  # there may be no second connection to be had
    try:
        for _ in range(_LOOKS):
            before = _server_process(connection)
            held = _begin(other)
            if held is None:
                return False
            if held == before or _server_process(connection) != before:
                return True
            _ask(other, b"ROLLBACK")
        return False
    finally:
        other.close()


def _server_process(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    assert row is not None
    if connection.info.transaction_status is TransactionStatus.INTRANS:
        connection.rollback()
    return int(row[0])


def _begin(connection: psycopg.Connection) -> int | None:
    answer = _ask(connection, b"BEGIN; SELECT pg_catalog.pg_backend_pid()")
    return int(answer) if answer else None


def _ask(connection: psycopg.Connection, query: bytes) -> bytes | None:
    """The value that a query gives; None if it gives none, or none in time."""
    pg = connection.pgconn
    pg.send_query(query)
    answer: bytes | None = None
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        while pg.is_busy():
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pg.socket], [], [], left)[0]:
                return None
            pg.consume_input()
        result = pg.get_result()
        if result is None:
            return answer
        if result.status == ExecStatus.TUPLES_OK:
            answer = result.get_value(0, 0)
