"""The database that is restored into: is it fit, and marking it while it is not whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

import psycopg

from pgkeep.errors import TargetNotEmpty, TargetNotReady
from pgkeep.model import Contents, TableName, quote_identifier
from pgkeep.postgres import catalog
from pgkeep.postgres.session import Connection
from pgkeep.postgres.statements import create_role, grant_memberships, literal
from pgkeep.recovery.plan import RestorePlan

MARK = "pgkeep: incomplete"
_SHOWN = 3


def refuse_occupied(
    connection: Connection, database: str, *, besides: Collection[str] = ()
) -> None:
    """`TargetNotEmpty` if there is anything of a user's in the target, some schemas apart."""
    occupants = catalog.occupants(connection, besides=besides)
    if not occupants:
        return
    what = ", ".join(occupants[:_SHOWN])
    more = f" and more ({len(occupants) - _SHOWN} kinds)" if len(occupants) > _SHOWN else ""
    comment = _comment(connection)
    hint = "Restore into an empty database (createdb), or pass --into-schema with --table."
    if comment.startswith(MARK):
        hint = f"It is what an earlier restore left ({comment}). Drop it and create it again."
    raise TargetNotEmpty(f'target database "{database}" is not empty: {what}{more}', hint=hint)


def refuse_existing(connection: Connection, names: Sequence[TableName]) -> None:
    """`TargetNotEmpty` if one of the tables is there already."""
    there = [name for name in names if _columns(connection, name) is not None]
    if there:
        raise TargetNotEmpty(
            f"table {there[0]} is in the target already",
            hint="Restore it under another schema with --into-schema, or drop or rename it first.",
        )


def refuse_unfit_tables(connection: Connection, plan: RestorePlan) -> None:
    """For data alone: every table has to be there, with all columns, and empty."""
    for table in plan.tables:
        columns = _columns(connection, table.name)
        if columns is None:
            raise TargetNotReady(
                f"the target has no table {table.name}",
                hint="Restore the schema first: pgkeep restore --schema-only.",
            )
        missing = [c.name for c in table.source.copied_columns if c.name not in columns]
        if missing:
            raise TargetNotReady(f"table {table.name} of the target has no column {missing[0]!r}")
        query = f"SELECT EXISTS (SELECT FROM ONLY {table.name.sql})"
        row = connection.execute(query.encode()).fetchone()
        if row and row[0] and not table.source.condition:
            raise TargetNotEmpty(
                f"table {table.name} of the target holds rows already",
                hint="Empty it first, or restore into a new database.",
            )


_QUIET = "SET session_replication_role = replica"


def quiet_settings(connection: Connection) -> tuple[str, ...]:
    """What keeps triggers and foreign keys quiet while rows are loaded; nothing if not allowed."""
    try:
        with connection.transaction():
            connection.execute(_QUIET.encode())
            connection.execute(b"RESET session_replication_role")
    except psycopg.errors.InsufficientPrivilege:
        return ()
    return (_QUIET,)


def refuse_live_triggers(connection: Connection, plan: RestorePlan) -> None:
    """For data alone: triggers would fire and foreign keys fail where they cannot be kept quiet."""
    if quiet_settings(connection):
        return
    names = [table.load_name for table in plan.tables]
    row = connection.execute(
        "SELECT n.nspname, c.relname, t.tgname FROM pg_catalog.pg_trigger t"
        "  JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid"
        "  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE t.tgenabled <> 'D'"
        "   AND (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[])) LIMIT 1",
        ([name.schema for name in names], [name.name for name in names]),
    ).fetchone()
    if row is not None:
        raise TargetNotReady(
            f"table {TableName(row[0], row[1])} of the target has trigger or foreign key"
            f" {row[2]!r}, and this role may not switch those off while it loads rows",
            hint="GRANT SET ON PARAMETER session_replication_role TO the role, or restore schema"
            " and data together into an empty database.",
        )


_INSISTENT: LiteralString = """
    SELECT n.nspname, c.relname, x.kind, x.name, x.enabled
      FROM (SELECT tgrelid, 'TRIGGER', tgname, tgenabled FROM pg_catalog.pg_trigger
             WHERE NOT tgisinternal
            UNION ALL
            SELECT ev_class, 'RULE', rulename, ev_enabled FROM pg_catalog.pg_rewrite
             WHERE rulename <> '_RETURN') x (relation, kind, name, enabled)
      JOIN pg_catalog.pg_class c ON c.oid = x.relation
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE x.enabled IN ('A', 'R')
       AND (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))"""


class InsistentTriggers:
    """ENABLE ALWAYS and ENABLE REPLICA triggers and rules, which replica mode leaves on.

    Whoever changes the schema must find them as they were: so `on` and `off` may alternate.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._off: list[tuple[str, str, str]] = []

    def off(self, names: Sequence[TableName]) -> None:
        """Switch off those of some tables, and remember how they were."""
        schemas, tables = [name.schema for name in names], [name.name for name in names]
        rows = self._connection.execute(_INSISTENT, (schemas, tables)).fetchall()
        for schema, table, kind, name, enabled in rows:
            alter = f"ALTER TABLE IF EXISTS {TableName(schema, table).sql}"
            what = f"{kind} {quote_identifier(name)}"
            self._connection.execute(f"{alter} DISABLE {what}".encode())
            self._off.append((alter, what, "ALWAYS" if enabled == "A" else "REPLICA"))

    def on(self) -> None:
        """As they were, as long as the connection lives and the table is there."""
        found, self._off = self._off, []
        if not self._connection.closed:
            for alter, what, how in found:
                self._connection.execute(f"{alter} ENABLE {how} {what}".encode())


@contextmanager
def insistent_triggers_off(connection: Connection, names: Sequence[TableName]) -> Iterator[None]:
    """Without those of some tables while the block runs; they are on again however it ends."""
    triggers = InsistentTriggers(connection)
    triggers.off(names)
    try:
        yield
    finally:
        triggers.on()


def missing_roles(connection: Connection, contents: Contents) -> tuple[str, ...]:
    """Roles that the restored objects refer to and that the target's server lacks."""
    there = catalog.existing_roles(connection)
    return tuple(role.name for role in contents.roles if role.name not in there)


def create_missing_roles(connection: Connection, contents: Contents) -> tuple[str, ...]:
    """Make them, without passwords; the names of those that were made."""
    missing = missing_roles(connection, contents)
    try:
        create_roles(connection, contents, missing)
    except Exception as exc:
        reason = str(exc).splitlines()[0]
        raise TargetNotReady(
            f"the target's server lacks the roles {', '.join(missing)}, and they cannot be created:"
            f" {reason}",
            hint="Create them, or restore without owners and privileges:"
            " --no-owner --no-privileges.",
        ) from exc
    return missing


def create_roles(connection: Connection, contents: Contents, names: Sequence[str]) -> None:
    """Make roles, without passwords and all or none, and members of groups that are there."""
    there = catalog.existing_roles(connection) | set(names)
    roles = [role for role in contents.roles if role.name in names]
    with connection.transaction():
        for role in roles:
            for statement in create_role(role):
                connection.execute(statement.encode())
        for role in roles:
            kept = tuple(group for group in role.member_of if group in there)
            for statement in grant_memberships(role, kept):
                connection.execute(statement.encode())


@dataclass(frozen=True, slots=True)
class Mark:
    """A comment on the target that says it is not whole, until it is taken off again."""

    connection: Connection
    before: str
    possible: bool

    @classmethod
    def put(cls, connection: Connection, contents: Contents, now: datetime) -> Mark:
        """Mark the target; where the role may not comment on it, there is no mark."""
        before = _comment(connection)
        text = f"{MARK}: restore of {contents.backup} began {now:%Y-%m-%d %H:%M:%S}Z"
        kept = before or contents.database.comment
        return cls(connection, kept if not kept.startswith(MARK) else "", _say(connection, text))

    def take_off(self) -> None:
        """The restore is complete."""
        if self.possible:
            _say(self.connection, self.before)


def is_marked(connection: Connection) -> bool:
    """Whether a restore has left the target incomplete, or is under way."""
    return _comment(connection).startswith(MARK)


def take_mark_off(connection: Connection) -> None:
    """Of a target that is complete: who restored it did not come to that."""
    if is_marked(connection):
        _say(connection, "")


def _say(connection: Connection, text: str) -> bool:
    row = connection.execute(
        "SELECT pg_catalog.pg_has_role(datdba, 'USAGE'), datname FROM pg_catalog.pg_database"
        " WHERE datname = pg_catalog.current_database()"
    ).fetchone()
    if not row or not row[0]:
        return False
    value = literal(text) if text else "NULL"
    connection.execute(f"COMMENT ON DATABASE {quote_identifier(row[1])} IS {value}".encode())
    return True


def _comment(connection: Connection) -> str:
    row = connection.execute(
        "SELECT pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database"
        " WHERE datname = pg_catalog.current_database()"
    ).fetchone()
    return (row[0] or "") if row else ""


def _columns(connection: Connection, name: TableName) -> frozenset[str] | None:
    """The names of a table's columns, or None if there is no such table."""
    row = connection.execute(
        "SELECT ARRAY(SELECT attname::text FROM pg_catalog.pg_attribute a"
        "  WHERE a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped)"
        "  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')",
        (name.schema, name.name),
    ).fetchone()
    return None if row is None else frozenset(row[0])


def check_encoding(connection: Connection, contents: Contents) -> None:
    """The target must be able to hold every text of the source."""
    target = catalog.database_properties(connection)
    if target.encoding not in (contents.database.encoding, "UTF8"):
        raise TargetNotReady(
            f"the source has encoding {contents.database.encoding}, and the target has"
            f" {target.encoding}",
            hint=f"createdb -T template0 -E {contents.database.encoding} ...",
        )
