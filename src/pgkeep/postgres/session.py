"""Connections for pgkeep's own statements, and the one place where driver errors end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_attempts, make_conninfo
from psycopg.rows import TupleRow

from pgkeep.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    ConnectionLost,
    DatabaseError,
    PermissionMissing,
    PgkeepError,
    RowsHidden,
    ServerUnsupported,
    StoreFull,
    TableChanged,
    TlsRefused,
    TransactionPooler,
    UnknownHost,
)
from pgkeep.postgres.address import Address
from pgkeep.postgres.pooling import is_pooled, shares_servers

Connection = psycopg.Connection[TupleRow]
LockNotAvailable = psycopg.errors.LockNotAvailable

OLDEST_MAJOR = 14

# What the text of a row depends on, and what would end a long read, fixed in every session.
# Set by statements: poolers drop startup options.
SESSION_SETTINGS = (
    "SET statement_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    "SET idle_session_timeout = 0",
    # PostgreSQL 17 has one for whole transactions as well.
    "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings"
    " WHERE name = 'transaction_timeout'",
    "SET jit = off",  # scans of everything look costly to the planner, and gain nothing by it
    "SET client_encoding = 'UTF8'",
    "SET client_min_messages = 'error'",
    "SET standard_conforming_strings = on",
    "SET row_security = off",
    "SET extra_float_digits = 3",
    "SET DateStyle = 'ISO'",
    "SET IntervalStyle = 'postgres'",
    "SET TimeZone = 'UTC'",
    "SET bytea_output = 'hex'",
    "SET xmlbinary = 'base64'",
    "SET lc_monetary = 'C'",
    "SET quote_all_identifiers = off",  # in names that reg* types write
    "SET search_path = ''",
)


# A SQL_ASCII database holds bytes of no encoding: COPY must not check them against one.
BYTES_AS_THEY_ARE = (
    "SELECT pg_catalog.set_config('client_encoding', CASE"
    " pg_catalog.current_setting('server_encoding') WHEN 'SQL_ASCII' THEN 'SQL_ASCII'"
    " ELSE 'UTF8' END, false)"
)


def lock_timeout_statement(seconds: float) -> str:
    """Give up waiting for a lock after so many seconds."""
    return f"SET lock_timeout = {round(seconds * 1000)}"


def connect(address: Address, *, autocommit: bool = True) -> Connection:
    """One try, never a second: platforms ban an address after two refused passwords."""
    address.refuse_transaction_pooler()
    connection = _open(address, autocommit=autocommit)
    try:
        with translated(address):
            _check_major(connection)
            _refuse_transaction_pooler(connection, address)
            for statement in (*address.first_statements, *SESSION_SETTINGS):
                connection.execute(statement.encode())
            if not autocommit:
                connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _open(address: Address, *, autocommit: bool) -> Connection:
    """The first of the host's addresses that answers; what it answers is final.

    The driver alone would give a wrong password to each address of the host, and once more
    without TLS where that is only preferred.
    """
    failure: PgkeepError = _unknown_host("", address)
    for attempt in _attempts(address):
        try:
            return psycopg.connect(
                make_conninfo("", **attempt), autocommit=autocommit, prepare_threshold=None
            )
        except psycopg.Error as exc:
            failure = connection_error(str(exc), address)
            if not _NOT_REACHED.search(str(exc)):
                raise failure from exc
    raise failure


def _attempts(address: Address) -> list[dict[str, str]]:
    """Each address of the host, with and without TLS where both would do, most wanted first."""
    parameters = dict(address.parameters)
    modes = {"prefer": ("require", "disable"), "allow": ("disable", "require")}
    given = parameters.get("sslmode", "prefer")
    try:
        attempts = conninfo_attempts(parameters)
    except psycopg.Error as exc:
        raise connection_error(str(exc), address) from exc
    except UnicodeError as exc:  # a host name that cannot be one
        raise _unknown_host("", address) from exc
    return [
        {**{key: str(value) for key, value in attempt.items()}, "sslmode": mode}
        for attempt in attempts
        for mode in modes.get(given, (given,))
    ]


def server_major(connection: Connection) -> int:
    """The major version of the server, as in 17."""
    return connection.info.server_version // 10000


def _check_major(connection: Connection) -> None:
    major = server_major(connection)
    if major < OLDEST_MAJOR:
        raise ServerUnsupported(
            f"the server is PostgreSQL {major}, and {OLDEST_MAJOR} is the oldest that is supported",
            hint="Upgrade the server; its makers no longer mend it either.",
        )


def _refuse_transaction_pooler(connection: Connection, address: Address) -> None:
    """What is set for a session would be lost between two statements, in silence."""
    where = (address.host, address.port, address.user, address.database)
    if where in _KEEPS_SESSIONS or not is_pooled(connection):
        return
    if shares_servers(connection, address.conninfo):
        raise TransactionPooler(
            f"{address} is a transaction pooler, which cannot hold a snapshot",
            hint="Use the direct connection, or a session pooler (PgBouncer: pool_mode = session;"
            " Supabase: port 5432).",
        )
    _KEEPS_SESSIONS.add(where)


# Where a pooler was looked at and keeps sessions: once in each process is enough.
_KEEPS_SESSIONS: set[tuple[str, str, str, str]] = set()


@contextmanager
def translated(address: Address) -> Iterator[None]:
    """Turn the driver's exceptions into ours, once, at this border."""
    try:
        yield
    except psycopg.Error as exc:
        raise statement_error(exc.sqlstate, _first_line(exc), address) from exc


def _first_line(error: psycopg.Error) -> str:
    message = error.diag.message_primary or str(error).strip() or type(error).__name__
    return message.splitlines()[0]


def connection_error(text: str, address: Address) -> PgkeepError:
    """The kind of a failed connection, from libpq's message (which carries no code)."""
    message = _reason(text)
    for pattern, build in _CONNECTION_ERRORS:
        if re.search(pattern, text, re.IGNORECASE):
            return build(message, address)
    return ConnectionFailed(
        f"cannot connect to {address}: {message}",
        hint="Is the server up, and may this machine reach it?",
    )


_NOT_REACHED = re.compile(
    r"connection refused|timed out|timeout expired|unreachable|no route to host|no such file"
    r"|does not support SSL",
    re.IGNORECASE,
)


def _reason(text: str) -> str:
    """What the server or libpq said, out of a message that repeats where it was said."""
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if " failed: " in line or "FATAL:" in line]
    message = (told or [line for line in lines if line] or ["no reason given"])[-1]
    message = re.sub(r"^.*?(FATAL|ERROR):\s+", "", message)
    message = re.sub(r"^.*connection to server (at|on) .*? failed: ", "", message)
    message = re.sub(r"^connection (failed|is bad): ", "", message)
    return (message[:1].lower() + message[1:]).rstrip(".") if message[1:2].islower() else message


def _authentication(message: str, address: Address) -> PgkeepError:
    return AuthenticationFailed(
        f"{address}: the server refused the login: {message}",
        hint="Check user and password before the next try: some platforms ban an address after"
        " two wrong ones. pgkeep has not tried again.",
    )


def _unknown_host(_: str, address: Address) -> PgkeepError:
    return UnknownHost(
        f"host {address.host!r} is not known", hint="Check the spelling of the host in the URL."
    )


def _tls(message: str, address: Address) -> PgkeepError:
    if re.search("certificate verify failed|does not match host|certificate has expired", message):
        return TlsRefused(
            f"{address}: the server does not prove who it is: {message}",
            hint="Nothing was sent. If its certificate has a root of its own, add"
            " sslrootcert=FILE to the URL. sslmode=require would go on without knowing who"
            " answers.",
        )
    return TlsRefused(
        f"{address}: no trusted encrypted connection: {message}",
        hint="Use a server with TLS, or add sslmode=disable to the URL if the network is private."
        " For a private root certificate, add sslrootcert=FILE.",
    )


def _pooler(message: str, address: Address) -> PgkeepError:
    return TransactionPooler(
        f"{address}: {message}", hint="Use the direct connection or the session pooler (port 5432)."
    )


def _missing_database(message: str, address: Address) -> PgkeepError:
    return ConnectionFailed(
        f"cannot connect to {address}: {message}", hint="Create the database, or correct the URL."
    )


def _too_many(message: str, address: Address) -> PgkeepError:
    return ConnectionFailed(
        f"cannot connect to {address}: {message}",
        hint="Use fewer --jobs (each is a connection), or raise the limit.",
    )


_CONNECTION_ERRORS = (
    (r"password authentication failed|no password supplied|authentication failed"
     r"|role .* does not exist|fe_sendauth", _authentication),
    (r"could not translate host name|name or service not known|no address associated"
     r"|nodename nor servname|failed to resolve host|temporary failure in name", _unknown_host),
    (r"server does not support SSL|certificate|SSL error|sslmode|root\.crt"
     r"|no encryption|SSL off|SSL connection", _tls),
    (r"database .* does not exist", _missing_database),
    (r"too many (connections|clients)|remaining connection slots|max client", _too_many),
    (r"prepared statement .* does not exist|transaction pool", _pooler),
)  # fmt: skip


def statement_error(sqlstate: str | None, message: str, address: Address) -> PgkeepError:
    """The kind of a failed statement, from its SQLSTATE (PostgreSQL manual, appendix A)."""
    state = sqlstate or ""
    if "row-level security" in message:
        return RowsHidden(
            message,
            hint="Back up as a role that sees every row: the owner of the table (if RLS is not"
            " forced), or a role with BYPASSRLS.",
        )
    if state == "42501":
        return PermissionMissing(message, hint=f"Grant the right to role {address.user!r}.")
    if state in _CHANGED:
        return TableChanged(message, hint=_CHANGED[state])
    if state == "53100":
        return StoreFull(f"the server's disk is full: {message}", hint="Free space there.")
    if not state or state.startswith(("08", "57P")):
        return ConnectionLost(
            f"the connection to {address} was lost: {message}",
            hint="Run the same command again; nothing that was stored is lost.",
        )
    if state == "53200" and "shared memory" in message:
        return DatabaseError(
            message, hint="Raise max_locks_per_transaction on the server: one lock a table is held."
        )
    return DatabaseError(f"{message} (SQLSTATE {state})")


def lost_since(error: BaseException, address: Address) -> BaseException:
    """The error as `ConnectionLost`, if it comes of losing a server that was there a moment ago.

    So it is when no connection can be made any more, or the snapshot is gone with its holder.
    """
    if type(error) is ConnectionFailed and not re.search("too many|slots", error.message):
        reason = error.message
    elif type(error) is DatabaseError and "snapshot" in error.message:
        reason = "the session that holds the snapshot has ended"
    else:
        return error
    return ConnectionLost(
        f"the connection to {address} was lost: {reason}",
        hint="Run the same command again; nothing that was stored is lost.",
    )


_CHANGED = {
    "42P01": "It was dropped or renamed while it was being read. Run the backup again.",
    "42703": "It was altered while it was being read. Run the backup again.",
    "55P03": "Somebody is waiting to alter or drop it, and pgkeep gave way. Run the backup again"
    " when that is done.",
    "40P01": "Somebody is altering it. Run the backup again when that is done.",
    "40001": "It was altered while it was being read. Run the backup again.",
}
