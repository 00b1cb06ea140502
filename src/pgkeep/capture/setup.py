"""Making ready what capture needs in the database, and taking it away again: plan, then do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg

from pgkeep.capture import definitions
from pgkeep.errors import CaptureImpossible
from pgkeep.model import TableName
from pgkeep.postgres import capturing
from pgkeep.postgres.decoded_text import PLUGIN
from pgkeep.postgres.session import Connection
from pgkeep.postgres.slot import MAY_REPLICATE, Slot, SlotState

PUBLISHING = "pgoutput"
PUBLICATIONS = (capturing.ROWS, *capturing.CHANGES)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is there, and the statements for what is not, in order; the slot apart."""

    statements: tuple[str, ...]
    slot: SlotState | None
    without_identity: tuple[TableName, ...]
    """Tables whose updates and deletes cannot be captured."""
    of_others: Mapping[TableName, str] = field(default_factory=dict)
    """Of these, those with a key, which this role may not publish, and the roles whose they are."""
    plugin: str = PUBLISHING
    """How the slot tells of changes: by publications, or, where the role may not make them and
    event triggers, without."""

    @property
    def is_less_exact(self) -> bool:
        """Whether no event trigger tells when the schema changes."""
        return self.plugin != PUBLISHING

    @property
    def publishes(self) -> bool:
        """Whether all publications are there: without, the slot passes changes over."""
        return not any("CREATE PUBLICATION" in statement for statement in self.statements)

    @property
    def is_complete(self) -> bool:
        return not self.statements and self.slot is not None and not self.slot.lost


def look(connection: Connection, slot: Slot, plugin: str = "") -> Setup:
    """What has to be done. `CaptureImpossible` where it cannot be.

    A slot that is there goes on as it began. Else it is tried, and taken back, whether the role may
    make publications for all tables and event triggers: platforms lend that right to some. Which
    `plugin` is wanted, if any, decides before that.
    """
    _check_server(connection)
    state = slot.state()
    if state is not None and plugin not in ("", state.plugin):
        raise CaptureImpossible(
            f"slot {slot.name!r} was made for {state.plugin}, and capture.plugin is {plugin}",
            hint="Run pgkeep capture DATABASE --remove, then capture anew with a backup after it.",
        )
    if plugin != PLUGIN and (state is None or state.plugin == PUBLISHING):
        statements = tuple(_missing(connection))
        if state is not None or not statements or _may_make(connection, statements):
            lacking = tables_without_identity(connection)
            return Setup(statements, state, lacking, tables_of_others(connection))
    _check_encoding(connection)
    return Setup((), state, tables_without_identity(connection, PLUGIN), plugin=PLUGIN)


def _may_make(connection: Connection, statements: Sequence[str]) -> bool:
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL lock_timeout = '500ms'")
            for statement in statements:
                if statement != definitions.IN_STEP:
                    connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def _check_encoding(connection: Connection) -> None:
    """The text of a line has names in it, in the server's encoding."""
    row = connection.execute("SELECT pg_catalog.current_setting('server_encoding')").fetchone()
    encoding = row[0] if row else ""
    if encoding not in ("UTF8", "SQL_ASCII"):
        raise CaptureImpossible(
            f"this role may not make event triggers, and the database's encoding is {encoding!r}",
            hint="Without event triggers only a database in UTF8 can be captured: let a superuser"
            " run what pgkeep capture DATABASE --dry-run shows.",
        )


def make_ready(connection: Connection, setup: Setup) -> None:
    """Run the statements of a setup, all or none."""
    try:
        with connection.transaction():
            for statement in setup.statements:
                connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as exc:
        raise CaptureImpossible(
            f"this role may not set up capture: {_first_line(exc)}",
            hint="Capture needs a superuser, or the role `postgres` on Supabase: publications for"
            " all tables and event triggers. pgkeep capture DATABASE --dry-run shows the"
            " statements, for somebody who may run them.",
        ) from exc


LOCK_CLASS = 0x70676B70
"""Of advisory locks ("pgkp"): whoever captures holds that of the slot's name."""

# Of the schema, by what its comment begins with.
_IS_OURS: LiteralString = """pg_catalog.starts_with(pg_catalog.obj_description(
    pg_catalog.to_regnamespace('pgkeep')::oid, 'pg_namespace'), %s)"""

# Of captures that do not run now only the usual names tell.
_OTHER_SLOTS: LiteralString = r"""
    SELECT s.slot_name::text FROM pg_catalog.pg_replication_slots s
     WHERE s.database = pg_catalog.current_database() AND s.plugin = 'pgoutput'
       AND s.slot_name <> %s
       AND (s.slot_name LIKE 'pgkeep\_%%' OR EXISTS (
            SELECT FROM pg_catalog.pg_locks l
             WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
               AND l.classid::int8 = %s
               AND l.objid::int8 = pg_catalog.hashtext(s.slot_name::text)::int8 & 4294967295))
     ORDER BY 1"""


@dataclass(frozen=True, slots=True)
class Made:
    """What capture has made in a database and is there now."""

    slot: bool
    publishing: bool
    """Publications, event triggers, and the schema with their functions."""
    needed_by: tuple[str, ...]
    """Slots of other captures of this database, which need those too."""

    @property
    def in_words(self) -> tuple[str, ...]:
        """What `remove` takes away."""
        slot = ("the slot",) if self.slot else ()
        if not self.publishing or self.needed_by:
            return slot
        return (*slot, "the publications", "the event triggers", "the schema pgkeep")


def made(connection: Connection, slot: Slot) -> Made:
    """Look for what `remove` would take away. Changes nothing."""
    row = connection.execute("SELECT " + _IS_OURS, (capturing.MARK,)).fetchone()
    others = connection.execute(_OTHER_SLOTS, (slot.name, LOCK_CLASS)).fetchall()
    return Made(slot.state() is not None, bool(row and row[0]), tuple(name for (name,) in others))


def remove(connection: Connection, slot: Slot) -> Made:
    """Take everything away again, the slot first; what of it was there."""
    found = made(connection, slot)
    slot.drop()
    if found.publishing and not found.needed_by:
        with connection.transaction():
            for statement in definitions.REMOVAL:
                connection.execute(statement.encode())
    return found


@dataclass(frozen=True, slots=True)
class InStep:
    """What putting the publications in step has come to, by the tables' names."""

    repaired: tuple[str, ...]
    """These were not published as they should have been, or their updates may have failed."""
    left: tuple[str, ...]
    """These still are not: somebody holds a lock on them, as VACUUM does."""


def put_in_step(connection: Connection) -> InStep:
    """Repair the list of published tables, should a role have gone round the event triggers."""
    row = connection.execute(definitions.IN_STEP.encode()).fetchone()
    done = (row[0] if row else None) or []
    return InStep(
        tuple(one["table"] for one in done if "error" not in one),
        tuple(one["table"] for one in done if "error" in one),
    )


def own_prefix(connection: Connection) -> bytes:
    """What the messages of our event triggers begin with, and nobody else's can."""
    row = connection.execute(f"SELECT value FROM {capturing.SCHEMA}.token".encode()).fetchone()
    return f"{definitions.TOKEN_PREFIX}{row[0] if row else ''}".encode()


def notice(connection: Connection, tables: Sequence[str]) -> None:
    """Write into the WAL that the schema has changed, which nothing else has told of."""
    objects = [{"type": "table", "identity": name} for name in tables]
    connection.execute(definitions.NOTICE.encode(), (json.dumps(objects),))


def publications(connection: Connection) -> frozenset[tuple[str, str]]:
    """Our publications, each with what tells whether it is another one, or publishes something
    else (its tables apart)."""
    rows = connection.execute(
        "SELECT pubname::text, pg_catalog.concat_ws(' ', oid, puballtables, pubinsert, pubupdate,"
        " pubdelete, pubtruncate, pubviaroot) FROM pg_catalog.pg_publication"
        " WHERE pubname = ANY (%s)",
        (list(PUBLICATIONS),),
    ).fetchall()
    return frozenset((name, version) for name, version in rows)


def tables_without_identity(
    connection: Connection, plugin: str = PUBLISHING
) -> tuple[TableName, ...]:
    """Tables whose updates and deletes cannot be captured."""
    query = definitions.WITHOUT_IDENTITY if plugin == PUBLISHING else definitions.UNKEYED
    rows = connection.execute(query.encode()).fetchall()
    return tuple(TableName(schema, name) for schema, name in rows)


def tables_of_others(connection: Connection) -> dict[TableName, str]:
    """Tables whose inserts are captured, and whose updates and deletes are not, since this role is
    no member of the one that owns them; the owners."""
    rows = connection.execute(definitions.OF_OTHERS.encode()).fetchall()
    return {TableName(schema, name): owner for schema, name, owner in rows}


def _check_server(connection: Connection) -> None:
    row = connection.execute(
        "SELECT pg_catalog.current_setting('wal_level'), pg_catalog.pg_is_in_recovery(),"
        "  (SELECT " + MAY_REPLICATE + " FROM pg_catalog.pg_roles r"
        "    WHERE r.rolname = current_user),"
        "  current_user::text"
    ).fetchone()
    assert row is not None
    wal_level, standby, may_replicate, role = row
    if standby:
        raise CaptureImpossible(
            "this server is a standby", hint="Capture changes where they are made: on the primary."
        )
    if wal_level != "logical":
        raise CaptureImpossible(
            f"wal_level is {wal_level!r}, and capture needs 'logical'",
            hint="ALTER SYSTEM SET wal_level = logical, and restart the server (on RDS:"
            " rds.logical_replication = 1). Supabase has it so.",
        )
    if not may_replicate:
        raise CaptureImpossible(
            f"role {role!r} may not use replication slots",
            hint=f'ALTER ROLE "{role}" REPLICATION, by a superuser (RDS: GRANT rds_replication).',
        )


def _missing(connection: Connection) -> Iterator[str]:
    row = connection.execute(
        "SELECT pg_catalog.to_regnamespace('pgkeep') IS NOT NULL,"
        "  " + _IS_OURS + ","
        "  pg_catalog.to_regclass('pgkeep.token') IS NOT NULL,"
        "  ARRAY(SELECT pubname::text FROM pg_catalog.pg_publication"
        "         WHERE pubname = 'pgkeep_rows' AND puballtables AND pubinsert AND pubtruncate"
        "               AND NOT pubupdate AND NOT pubdelete"
        "            OR pubname <> 'pgkeep_rows' AND NOT puballtables AND pubupdate AND pubdelete"
        "               AND NOT pubinsert AND NOT pubtruncate AND NOT pubviaroot),"
        "  ARRAY(SELECT evtname::text FROM pg_catalog.pg_event_trigger WHERE evtenabled = 'A'),"
        "  ARRAY(SELECT evtname::text FROM pg_catalog.pg_event_trigger),"
        "  ARRAY(SELECT pg_catalog.md5(p.prosrc) FROM pg_catalog.pg_proc p"
        "    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'pgkeep'),"
        "  (SELECT count(*) = 2 FROM pg_catalog.pg_proc p"
        "    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'pgkeep'"
        "     AND p.proname IN ('publish', 'emit') AND NOT EXISTS (SELECT FROM"
        "         pg_catalog.aclexplode(COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner)))"
        "         WHERE grantee = 0))",
        (capturing.MARK,),
    ).fetchone()
    assert row is not None
    has_schema, is_ours, has_token, publications, enabled, triggers, sources, are_private = row
    if has_schema and not is_ours:
        raise CaptureImpossible(
            "the database has a schema pgkeep, which capture has not made",
            hint="Rename it: capture keeps its functions in a schema of that name. Or set"
            ' plugin = "test_decoding" in [capture], which makes nothing but a slot.',
        )
    if not has_schema:
        yield definitions.CREATE_SCHEMA
        yield definitions.COMMENT_SCHEMA
        yield definitions.GRANT_SCHEMA
    if not has_token:
        yield definitions.CREATE_TOKEN
        yield definitions.CLOSE_TOKEN
    missing = [name for name in PUBLICATIONS if name not in publications]
    for name in missing:
        yield definitions.drop_publication(name)  # there may be one that publishes something else
        yield definitions.CREATE_CHANGES.get(name, definitions.CREATE_ROWS)
    yield from _missing_functions(connection, set(sources))
    if not are_private:
        yield definitions.PRIVATE.strip()
    for name in definitions.EVENT_TRIGGERS:
        if name not in triggers:
            yield definitions.create_event_trigger(name)
        if name not in enabled:
            yield definitions.enable_event_trigger(name)
    if missing:
        yield definitions.IN_STEP


def _missing_functions(connection: Connection, sources: set[str]) -> Iterator[str]:
    """Those that are not there, or as another version of pgkeep wrote them."""
    for function in definitions.FUNCTIONS:
        body = function.split("$function$")[1]
        row = connection.execute("SELECT pg_catalog.md5(%s)", (body,)).fetchone()
        if row and row[0] not in sources:
            yield function.strip()


def _first_line(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error).splitlines()[0]
