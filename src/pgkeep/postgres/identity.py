"""Which server this is, and where it has got to: what backups and the journal are joined by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from pgkeep.model import Lsn
from pgkeep.postgres.session import Connection

# The last position that is certainly part of the state that a snapshot taken afterwards sees.
CURRENT_LSN: LiteralString = (
    "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()"
    " ELSE pg_catalog.pg_current_wal_insert_lsn() END::text"
)


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """A cluster and its history. Empty and 0 where the platform does not tell."""

    system_identifier: str
    timeline: int


def server_identity(connection: Connection) -> ServerIdentity:
    """On a primary the timeline is the one that is written now, not that of the last checkpoint."""
    return ServerIdentity(
        _where_allowed(
            connection,
            "pg_catalog.pg_control_system()",
            "SELECT system_identifier::text FROM pg_catalog.pg_control_system()",
        ),
        _timeline(connection),
    )


def server_version(connection: Connection) -> str:
    """As the server writes it, such as `17.10`."""
    return _value(connection, "SELECT pg_catalog.current_setting('server_version')")


def current_lsn(connection: Connection) -> Lsn:
    """Where the WAL ends now (on a standby: what was replayed)."""
    return Lsn.parse(_value(connection, "SELECT " + CURRENT_LSN))


def _timeline(connection: Connection) -> int:
    if _value(connection, "SELECT pg_catalog.pg_is_in_recovery()") == "True":
        text = _where_allowed(
            connection,
            "pg_catalog.pg_control_checkpoint()",
            "SELECT timeline_id::text FROM pg_catalog.pg_control_checkpoint()",
        )
        return int(text or 0)
    text = _where_allowed(
        connection,
        "pg_catalog.pg_walfile_name(pg_lsn)",
        "SELECT pg_catalog.substr("
        "pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)",
    )
    return int(text or "0", 16)


def _where_allowed(connection: Connection, function: LiteralString, query: LiteralString) -> str:
    """The value, or nothing where the platform has taken the function away."""
    row = connection.execute(
        "SELECT pg_catalog.has_function_privilege(%s, 'EXECUTE')", (function,)
    ).fetchone()
    return _value(connection, query) if row and row[0] else ""


def _value(connection: Connection, query: LiteralString) -> str:
    row = connection.execute(query).fetchone()
    assert row is not None
    return str(row[0])
