"""What a role may really do on a server, and what the server has room for: asked, not assumed.

One session, one login, nothing is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from pgkeep.postgres.session import Connection, server_major
from pgkeep.postgres.slot import MAY_REPLICATE

_ROLE: LiteralString = f"""
    SELECT r.rolname::text, r.rolsuper, {MAY_REPLICATE}, r.rolbypassrls, r.rolconnlimit,
           pg_catalog.pg_has_role('pg_read_all_data', 'USAGE'),
           pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
      FROM pg_catalog.pg_roles r WHERE r.rolname = current_user"""

# As they were when the session began: pgkeep has set some itself since.
_SETTINGS: LiteralString = """
    SELECT name, reset_val, unit FROM pg_catalog.pg_settings WHERE name IN (
      'statement_timeout', 'idle_in_transaction_session_timeout', 'wal_level', 'max_connections',
      'max_replication_slots', 'max_slot_wal_keep_size', 'superuser_reserved_connections',
      'default_table_access_method')"""

_SLOTS: LiteralString = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots"

_SESSIONS: LiteralString = """
    SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
     WHERE backend_type = 'client backend'"""


@dataclass(frozen=True, slots=True)
class Rights:
    """What the role may do."""

    role: str
    superuser: bool
    replication: bool
    bypasses_rls: bool
    reads_all: bool
    reads_control: bool
    """pg_control_system(): without it no part can be used again."""
    connection_limit: int
    """-1: none of its own."""
    keeps_triggers_quiet: bool
    """session_replication_role, for restores."""


@dataclass(frozen=True, slots=True)
class Room:
    """What the server has room for."""

    connections: int
    connections_used: int
    slots: int
    slots_used: int
    slot_wal_bytes: int | None
    """max_slot_wal_keep_size; None: no limit."""
    logical: bool
    """wal_level = logical."""
    statement_timeout_ms: int
    access_method: str


@dataclass(frozen=True, slots=True)
class Probe:
    """A server as one role sees it."""

    version: int
    rights: Rights
    room: Room
    tls: str
    """The protocol that the session is encrypted by; empty without."""


def probe(connection: Connection) -> Probe:
    """Ask."""
    row = connection.execute(_ROLE).fetchone()
    assert row is not None
    name, superuser, replication, bypasses, limit, reads_all, reads_control = row
    rights = Rights(
        name, superuser, replication, bypasses, reads_all, reads_control, limit,
        superuser or _may_set_replication_role(connection),
    )  # fmt: skip
    return Probe(server_major(connection), rights, _room(connection), _tls(connection))


def _may_set_replication_role(connection: Connection) -> bool:
    """Tried in a transaction that is taken back: a platform may lend what no catalog says."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(b"SET LOCAL session_replication_role = replica")
    except Exception:  # whatever the reason, it may not
        return False
    return True


def _room(connection: Connection) -> Room:
    settings = {name: value for name, value, _ in connection.execute(_SETTINGS).fetchall()}
    keep = int(settings.get("max_slot_wal_keep_size") or -1)  # in MB
    reserved = int(settings.get("superuser_reserved_connections") or 0)
    return Room(
        connections=int(settings["max_connections"]) - reserved,
        connections_used=_number(connection, _SESSIONS),
        slots=int(settings["max_replication_slots"]),
        slots_used=_number(connection, _SLOTS),
        slot_wal_bytes=None if keep < 0 else keep << 20,
        logical=settings.get("wal_level") == "logical",
        statement_timeout_ms=int(settings.get("statement_timeout") or 0),
        access_method=settings.get("default_table_access_method") or "heap",
    )


def _number(connection: Connection, query: LiteralString) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def _tls(connection: Connection) -> str:
    return "TLS" if connection.pgconn.ssl_in_use else ""
