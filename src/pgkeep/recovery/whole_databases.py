"""Whole databases of a server, handled from another one: put aside, dropped, made anew.

Each may be done twice: who was killed in between does it again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import psycopg

from pgkeep.errors import TargetNotReady
from pgkeep.model import DatabaseProperties, quote_identifier
from pgkeep.postgres import catalog
from pgkeep.postgres.address import Address
from pgkeep.postgres.session import Connection, connect, server_major, translated
from pgkeep.postgres.statements import literal
from pgkeep.recovery.target import MARK

_MAINTENANCE = ("postgres", "template1")
_NAME_BYTES = 63
_FIRST_WITH_PROVIDERS = 15


def name_aside(name: str, suffix: str) -> str:
    """What a database is called once it is put aside; the server would cut a longer name off."""
    room = _NAME_BYTES - len(suffix)
    return name.encode()[:room].decode("utf-8", "ignore") + suffix


def database_exists(address: Address, name: str) -> bool:
    """Whether the server has a database of this name."""
    with _maintenance(address) as connection:
        return _exists(connection, name)


def rename_database(source: Address, new_name: str, slot: str) -> None:
    """Put the old database out of the way. Who is connected is cut off.

    A slot of ours goes first: it would hold WAL for a database that nobody captures any more.
    """
    with _maintenance(source) as connection:
        if not _exists(connection, source.database):
            if _exists(connection, new_name):  # by an earlier try, which was killed right after
                _let_in(connection, new_name)
            return
        _drop_slots(connection, source.database, slot)
        old = quote_identifier(source.database)
        connection.execute(f"ALTER DATABASE {old} WITH ALLOW_CONNECTIONS false".encode())
        try:
            _cut_off(connection, source.database)
            connection.execute(
                f"ALTER DATABASE {old} RENAME TO {quote_identifier(new_name)}".encode()
            )
        except BaseException:
            with suppress(psycopg.Error):
                _let_in(connection, source.database)
            raise
        _let_in(connection, new_name)


def _let_in(connection: Connection, name: str) -> None:
    connection.execute(
        f"ALTER DATABASE {quote_identifier(name)} WITH ALLOW_CONNECTIONS true".encode()
    )


def drop_database(source: Address, slot: str) -> None:
    """Drop a database, whoever is connected; it is no error if it is not there."""
    with _maintenance(source) as connection:
        _drop_slots(connection, source.database, slot)
        drop(connection, source.database)


def make_database(target: Address, like: DatabaseProperties) -> None:
    """An empty database with the encoding and, where the server has it, the locale of the source.

    One that is there and empty will do; one that an earlier try has left incomplete is dropped
    first; any other is an error.
    """
    with _maintenance(target) as connection:
        if _exists(connection, target.database):
            if not _is_incomplete(connection, target.database):
                if _is_empty(target):
                    return
                raise TargetNotReady(
                    f"there is a database {target.database!r} already",
                    hint="Rename or drop it, or recover into another one with --target.",
                )
            drop(connection, target.database)
        create_database(connection, target.database, like)


def make_again(target: Address, like: DatabaseProperties) -> None:
    """Drop a database that an earlier try has left incomplete, and make it empty, of its owner.

    Nothing happens to one that is not marked as incomplete.
    """
    with _maintenance(target) as connection:
        if not _is_incomplete(connection, target.database):
            return
        owner = _owner(connection, target.database)
        drop(connection, target.database)
        create_database(connection, target.database, like)
        name = quote_identifier(target.database)
        with suppress(psycopg.errors.InsufficientPrivilege):  # it belongs to who recovers, then
            connection.execute(f"ALTER DATABASE {name} OWNER TO {quote_identifier(owner)}".encode())


def create_database(connection: Connection, name: str, like: DatabaseProperties) -> str:
    """Make a database like the source's. What of its locale the server lacks, in words."""
    create = (
        f"CREATE DATABASE {quote_identifier(name)} TEMPLATE template0"
        f" ENCODING {literal(like.encoding)}"
    )
    for locale in _locales(like, server_major(connection)):
        with suppress(*_NO_SUCH_LOCALE):
            connection.execute(f"{create}{locale}".encode())
            return ""
    # Encodings other than UTF8 fit the locale C on any server.
    connection.execute(f"{create}{'' if like.encoding == 'UTF8' else _C_LOCALE}".encode())
    return f"this server lacks the locale {like.locale or like.collate!r} ({like.provider})"


_C_LOCALE = " LOCALE 'C'"
_NO_SUCH_LOCALE = (
    psycopg.errors.WrongObjectType,
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.FeatureNotSupported,  # a server that was built without ICU
)


def _locales(like: DatabaseProperties, major: int) -> Iterator[str]:
    """The source's locale, as a server can be asked for it."""
    libc = f" LC_COLLATE {literal(like.collate)} LC_CTYPE {literal(like.ctype)}"
    if major < _FIRST_WITH_PROVIDERS:
        if like.provider == "libc":
            yield libc
    elif like.provider == "libc":
        yield f" LOCALE_PROVIDER libc{libc}"
    else:
        own = f" LOCALE_PROVIDER {like.provider} {like.provider}_LOCALE {literal(like.locale)}"
        yield own + libc
        yield own + _C_LOCALE  # its libc locale, which decides little then, may be missing alone


@contextmanager
def _maintenance(address: Address) -> Iterator[Connection]:
    """A session on the same server, in a database that is not the one to be changed."""
    name = next(name for name in _MAINTENANCE if name != address.database)
    elsewhere = address.with_database(name)
    with closing(connect(elsewhere)) as connection, translated(elsewhere):
        yield connection


def drop(connection: Connection, name: str) -> None:
    """Drop a database, whoever is connected; it is no error if it is not there."""
    connection.execute(f"DROP DATABASE IF EXISTS {quote_identifier(name)} WITH (FORCE)".encode())


def _exists(connection: Connection, name: str) -> bool:
    query = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = %s)"
    row = connection.execute(query, (name,)).fetchone()
    return bool(row and row[0])


def _owner(connection: Connection, name: str) -> str:
    row = connection.execute(
        "SELECT pg_catalog.pg_get_userbyid(datdba) FROM pg_catalog.pg_database WHERE datname = %s",
        (name,),
    ).fetchone()
    assert row is not None
    return str(row[0])


def _is_incomplete(connection: Connection, name: str) -> bool:
    row = connection.execute(
        "SELECT pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database"
        " WHERE datname = %s",
        (name,),
    ).fetchone()
    return bool(row and (row[0] or "").startswith(MARK))


def _is_empty(address: Address) -> bool:
    with closing(connect(address)) as connection, translated(address):
        return not catalog.occupants(connection)


def _cut_off(connection: Connection, name: str) -> None:
    connection.execute(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity"
        " WHERE datname = %s AND pid <> pg_catalog.pg_backend_pid()",
        (name,),
    )
    for _ in range(100):  # they end in their own time
        row = connection.execute(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE datname = %s)", (name,)
        ).fetchone()
        if not row or not row[0]:
            return
        time.sleep(0.1)


def _drop_slots(connection: Connection, database: str, slot: str) -> None:
    connection.execute(
        "SELECT pg_catalog.pg_terminate_backend(active_pid)"
        "  FROM pg_catalog.pg_replication_slots"
        " WHERE slot_name = %s AND database = %s AND active_pid IS NOT NULL",
        (slot, database),
    )
    for _ in range(50):
        try:
            connection.execute(
                "SELECT pg_catalog.pg_drop_replication_slot(slot_name)"
                "  FROM pg_catalog.pg_replication_slots WHERE slot_name = %s AND database = %s",
                (slot, database),
            )
        except psycopg.errors.ObjectInUse:
            time.sleep(0.1)
        else:
            return
