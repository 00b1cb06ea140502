"""A database that Supabase hosts: what the platform makes in it, and what is the user's.

A managed schema (auth, storage, realtime, vault ...) is told by its owner, a role of the
platform's. The platform makes its structure anew in each project, in a version of its own; the
user's are rows in some of its tables, and triggers, policies and grants in or on it. The facts come
from Supabase's images, and from its command line's list of what it leaves out of a dump.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import LiteralString

from pgkeep.events import counted
from pgkeep.model import (
    Hosting,
    NotKept,
    PlatformGrant,
    PlatformTrigger,
    Queue,
    TableName,
)
from pgkeep.postgres.catalog import Relation
from pgkeep.postgres.session import Connection

PLATFORM = "supabase"

AUTH, STORAGE, VAULT, CRON, PGMQ = "auth", "storage", "vault", "cron", "pgmq"
MIGRATIONS = "supabase_migrations"

# Schemas that are the user's whoever owns them: the command line of Supabase makes the second.
_ALWAYS_THE_USERS = ("public", MIGRATIONS)

# Rows of auth that live for minutes, or that the service itself keeps about its own structure.
_AUTH_LEFT: Mapping[str, str] = {
    "schema_migrations": "tells of auth's own structure, which the platform makes",
    "flow_state": "sign-ins under way, good for minutes",
    "one_time_tokens": "links in mails, good for minutes",
    "saml_relay_states": "sign-ins under way, good for minutes",
}
_STORAGE_KEPT = ("buckets", "objects", "prefixes", "buckets_analytics", "buckets_vectors")

BUCKETS = TableName(STORAGE, "buckets")
OBJECTS = TableName(STORAGE, "objects")

_IS_SUPABASE: LiteralString = """
    SELECT EXISTS (SELECT FROM pg_catalog.pg_roles
                    WHERE rolname = 'supabase_admin' AND rolsuper)
       AND EXISTS (SELECT FROM pg_catalog.pg_namespace n
                     JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
                    WHERE n.nspname = 'auth' AND r.rolname ~ '^supabase_')
       AND EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'storage')"""

# Superusers, and the names that the platform's image reserves.
_ROLES: LiteralString = """
    SELECT rolname FROM pg_catalog.pg_roles
     WHERE rolname NOT IN ('postgres', current_user)
       AND (rolsuper OR rolname ~ '^supabase_'
            OR rolname IN ('authenticator', 'dashboard_user', 'pgbouncer', 'pgsodium_keyholder',
                           'pgsodium_keyiduser', 'pgsodium_keymaker', 'pgtle_admin'))
     ORDER BY 1"""

_SCHEMAS: LiteralString = """
    SELECT n.nspname FROM pg_catalog.pg_namespace n
      JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
     WHERE n.nspname !~ '^pg_(toast|temp|catalog)' AND n.nspname <> 'information_schema'
       AND n.nspname <> ALL (%s)
       AND (r.rolname = ANY (%s)
            OR EXISTS (SELECT FROM pg_catalog.pg_depend d
                        WHERE d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
                          AND d.objid = n.oid AND d.deptype = 'e')
            OR EXISTS (SELECT FROM pg_catalog.pg_extension e
                        WHERE e.extnamespace = n.oid
                          AND e.extname IN ('pgmq', 'supabase_vault')))
     ORDER BY 1"""

_TRIGGERS: LiteralString = """
    SELECT n.nspname, c.relname, t.tgname
      FROM pg_catalog.pg_trigger t
      JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
      JOIN pg_catalog.pg_namespace f ON f.oid = p.pronamespace
      JOIN pg_catalog.pg_roles r ON r.oid = p.proowner
     WHERE NOT t.tgisinternal AND t.tgparentid = 0
       AND n.nspname = ANY (%(schemas)s)
       AND (f.nspname <> n.nspname OR r.rolname <> ALL (%(roles)s))
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                          AND d.objid = c.oid AND d.deptype = 'e')
     ORDER BY 1, 2, 3"""

# Privileges in managed schemas with who granted them; a column's only where it has its own.
_GRANTS: LiteralString = """
    SELECT x.kind, x.target, x.col, COALESCE(g.rolname, ''), a.privilege_type, a.is_grantable,
           o.rolname
      FROM (SELECT 'SCHEMA' AS kind, pg_catalog.quote_ident(nspname) AS target, '' AS col,
                   nspacl AS acl, nspname AS schema
              FROM pg_catalog.pg_namespace
            UNION ALL
            SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
                   pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
                   '', c.relacl, n.nspname
              FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
            UNION ALL
            SELECT 'TABLE',
                   pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
                   pg_catalog.quote_ident(b.attname), b.attacl, n.nspname
              FROM pg_catalog.pg_attribute b
              JOIN pg_catalog.pg_class c ON c.oid = b.attrelid
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE b.attacl IS NOT NULL AND NOT b.attisdropped
            UNION ALL
            SELECT 'FUNCTION',
                   pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname)
                   || '(' || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')',
                   '', p.proacl, n.nspname
              FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             WHERE p.prokind <> 'p') x
     CROSS JOIN LATERAL pg_catalog.aclexplode(x.acl) a
      LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantee
      JOIN pg_catalog.pg_roles o ON o.oid = a.grantor
     WHERE x.schema = ANY (%s) AND (a.grantee = 0 OR g.rolname IS NOT NULL)
     ORDER BY 1, 2, 3, 4, 5"""

_ROLE_SETTINGS: LiteralString = """
    SELECT r.rolname, pg_catalog.split_part(setting, '=', 1),
           pg_catalog.substr(setting, pg_catalog.strpos(setting, '=') + 1)
      FROM pg_catalog.pg_db_role_setting s
      JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
     CROSS JOIN LATERAL unnest(s.setconfig) AS setting
     WHERE s.setdatabase = 0 AND r.rolname <> ALL (%s)
     ORDER BY 1, 2"""

_EXTENSIONS: LiteralString = """
    SELECT e.extname, e.extversion, n.nspname
      FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
     WHERE e.extname <> 'plpgsql' ORDER BY 1"""

_REFERRING_COLUMNS: LiteralString = """
    SELECT n.nspname, c.relname, a.attname
      FROM pg_catalog.pg_constraint k
      JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[1]
      JOIN pg_catalog.pg_class s ON s.oid = k.confrelid AND s.relname = 'secrets'
      JOIN pg_catalog.pg_namespace v ON v.oid = s.relnamespace AND v.nspname = 'vault'
     WHERE k.contype = 'f' AND k.conparentid = 0 AND pg_catalog.cardinality(k.conkey) = 1
     ORDER BY 1, 2, 3"""

_USERS_TABLES: LiteralString = """
    SELECT n.nspname, c.relname
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
     WHERE c.relkind IN ('r', 'p', 'f', 'm') AND n.nspname = ANY (%s) AND r.rolname <> ALL (%s)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                          AND d.objid = c.oid AND d.deptype = 'e')"""

_OWNED_SEQUENCES: LiteralString = """
    SELECT sn.nspname, s.relname, tn.nspname, t.relname
      FROM pg_catalog.pg_depend d
      JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
      JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace
      JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
      JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
     WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
       AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
       AND d.deptype IN ('a', 'i') AND sn.nspname = ANY (%s)"""


def is_supabase(connection: Connection) -> bool:
    """Whether this database is a project of Supabase's, theirs or self-hosted.

    One that was left behind on a plain server is none: nobody there is the platform.
    """
    row = connection.execute(_IS_SUPABASE).fetchone()
    return bool(row and row[0])


def look(connection: Connection) -> Hosting | None:
    """What the platform manages here and what is the user's in it; None for any other database."""
    if not is_supabase(connection):
        return None
    roles = _names(connection.execute(_ROLES).fetchall())
    schemas = _names(
        connection.execute(_SCHEMAS, (list(_ALWAYS_THE_USERS), list(roles))).fetchall()
    )
    triggers = connection.execute(
        _TRIGGERS, {"schemas": list(schemas), "roles": list(roles)}
    ).fetchall()
    rows = connection.execute(_EXTENSIONS).fetchall()
    extensions = tuple((name, version, schema) for name, version, schema in rows)
    return Hosting(
        platform=PLATFORM,
        roles=roles,
        schemas=schemas,
        versions=tuple(_versions(connection)),
        triggers=tuple(PlatformTrigger(TableName(a, b), c) for a, b, c in triggers),
        grants=tuple(grant for grant, by in grants(connection, schemas) if by not in roles),
        queues=_queues(connection, extensions),
        role_settings=role_settings(connection, roles),
        extensions=extensions,
        secret_columns=tuple(
            (TableName(a, b), c) for a, b, c in connection.execute(_REFERRING_COLUMNS).fetchall()
        ),
    )


def grants(connection: Connection, schemas: Sequence[str]) -> tuple[tuple[PlatformGrant, str], ...]:
    """Every privilege in some schemas, and who granted it."""
    rows = connection.execute(_GRANTS, (list(schemas),)).fetchall()
    return tuple(
        (PlatformGrant(kind, target, to, privilege, column, grantable), by)
        for kind, target, column, to, privilege, grantable, by in rows
    )


def role_settings(
    connection: Connection, platform_roles: Sequence[str]
) -> tuple[tuple[str, str, str], ...]:
    """ALTER ROLE ... SET of all roles but the platform's own; users may set authenticator's."""
    hidden = [name for name in platform_roles if name != "authenticator"]
    rows = connection.execute(_ROLE_SETTINGS, (hidden,)).fetchall()
    return tuple((role, parameter, value) for role, parameter, value in rows)


@dataclass(frozen=True, slots=True)
class Kept:
    """What of the platform's relations a backup reads."""

    relations: tuple[Relation, ...]
    left: tuple[str, ...]
    """What is left to the platform, in words."""
    unreadable: tuple[TableName, ...]
    """Tables of the platform's that this role may not even look at: not for pg_dump either."""


def users_tables(connection: Connection, hosting: Hosting) -> frozenset[TableName]:
    """Tables that users have made in schemas of the platform's; those behind queues apart."""
    schemas = [name for name in hosting.schemas if name != PGMQ]
    rows = connection.execute(_USERS_TABLES, (schemas, list(hosting.roles))).fetchall()
    return frozenset(TableName(schema, name) for schema, name in rows)


def keep_of(hosting: Hosting, found: Iterable[Relation], users: Collection[TableName] = ()) -> Kept:
    """The relations whose rows are the user's: all outside of managed schemas, some within."""
    kept: list[Relation] = []
    left: dict[str, list[str]] = {}
    unreadable: list[TableName] = []
    for relation in found:
        name = relation.name
        is_users = name.schema not in hosting.schemas or name in users
        if is_users or _is_kept(hosting, relation):
            kept.append(relation)
            continue
        if relation.kind in ("r", "p") and not relation.readable and not relation.condition:
            unreadable.append(name)
        if relation.holds_rows:
            left.setdefault(_why_left(name), []).append(str(name))
    words = tuple(f"rows of {', '.join(names)}: {why}" for why, names in sorted(left.items()))
    return Kept(tuple(kept), words, tuple(unreadable))


def _is_kept(hosting: Hosting, relation: Relation) -> bool:
    name = relation.name
    if name.schema == AUTH:
        return name.name not in _AUTH_LEFT
    if name.schema == STORAGE:
        return name.name in _STORAGE_KEPT and relation.readable
    if name.schema == PGMQ:
        return name.name in queue_tables(hosting)
    # A table that an extension asks to be kept (the projections of PostGIS, say).
    return bool(relation.condition) and name.schema not in (VAULT, CRON, "net", "pgsodium")


def queue_tables(hosting: Hosting) -> frozenset[str]:
    """The names of the tables behind queues: messages, and archived ones."""
    names = [queue.name.lower() for queue in hosting.queues if not queue.partitioned]
    return frozenset(f"{prefix}_{name}" for name in names for prefix in "qa")


def _why_left(name: TableName) -> str:
    if name.schema == AUTH:
        return _AUTH_LEFT[name.name]
    if name == TableName(VAULT, "secrets"):
        return "the secrets themselves are kept, decrypted and sealed"
    if name == TableName(CRON, "job"):
        return "the jobs themselves are kept"
    if name == TableName(CRON, "job_run_details"):
        return "the history of jobs"
    if name == TableName(PGMQ, "meta"):
        return "the queues themselves are kept"
    return f"the platform's own, in schema {name.schema}"


def kept_sequences(
    connection: Connection,
    hosting: Hosting,
    names: Iterable[tuple[TableName, bool]],
    kept: Collection[TableName],
) -> tuple[tuple[TableName, bool], ...]:
    """Of the platform's sequences those that belong to tables whose rows are kept."""
    rows = connection.execute(_OWNED_SEQUENCES, (list(hosting.schemas),)).fetchall()
    owners = {TableName(a, b): TableName(c, d) for a, b, c, d in rows}
    return tuple(
        (name, readable)
        for name, readable in names
        if name.schema not in hosting.schemas or owners.get(name) in kept
    )


def described(hosting: Hosting, kept: Kept) -> Hosting:
    """With words about what is treated specially and what is left to the platform."""
    return replace(hosting, treated=tuple(_treated(hosting)), left=tuple(_left(hosting, kept)))


def _treated(hosting: Hosting) -> Iterable[str]:
    managed = [name for name in (AUTH, STORAGE) if name in hosting.schemas]
    yield (
        f"rows of {' and '.join(managed)}: put into the columns that the other project's version"
        " has; triggers are kept quiet meanwhile"
    )
    if hosting.secrets_count:
        yield (
            f"{counted(hosting.secrets_count, 'secret')} of the vault: decrypted at the source,"
            " sealed here, made anew by vault.create_secret; ids that refer to them are mapped"
        )
    if hosting.jobs_count:
        yield (
            f"{counted(hosting.jobs_count, 'job')} of cron: scheduled anew, switched off until"
            " --resume-jobs"
        )
    if hosting.queues:
        yield f"{counted(len(hosting.queues), 'queue')} of pgmq: made anew, then filled"
    if hosting.triggers:
        yield f"{counted(len(hosting.triggers), 'trigger')} of yours on the platform's tables"
    if hosting.grants:
        yield f"{counted(len(hosting.grants), 'privilege')} that you gave on the platform's objects"
    if hosting.role_settings:
        yield f"{counted(len(hosting.role_settings), 'setting')} of roles"
    if hosting.passwords_count:
        roles = counted(hosting.passwords_count, "role")
        yield f"{roles} with a password: the verifiers are sealed"
    yield "publications: changed to publish the same tables; privileges: exact, whatever is default"


def _left(hosting: Hosting, kept: Kept) -> Iterable[str]:
    yield f"the structure of schemas {', '.join(hosting.schemas)}"
    yield from kept.left
    yield "Edge Functions, settings of Auth, keys of the API: they are not in the database"


def _names(rows: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(row[0] for row in rows)


def _versions(connection: Connection) -> Iterable[tuple[str, str]]:
    """The last migration of each service, where this role may read it."""
    for schema, table, column in (
        (AUTH, "schema_migrations", "max(version)::text"),
        (STORAGE, "migrations", "(array_agg(name::text ORDER BY id DESC))[1]"),
        ("realtime", "schema_migrations", "max(version)::text"),
    ):
        name = TableName(schema, table)
        if may_read(connection, name):
            query = f"SELECT {column} FROM {name.sql}"
            row = connection.execute(query.encode()).fetchone()
            if row and row[0]:
                yield schema, row[0]


def _queues(
    connection: Connection, extensions: Iterable[tuple[str, str, str]]
) -> tuple[Queue, ...]:
    name = TableName(PGMQ, "meta")
    if PGMQ not in {one[0] for one in extensions} or not may_read(connection, name):
        return ()
    rows = connection.execute(
        f"SELECT queue_name, is_unlogged, is_partitioned FROM {name.sql} ORDER BY 1".encode()
    ).fetchall()
    return tuple(Queue(*row) for row in rows)


def may_read(connection: Connection, name: TableName) -> bool:
    """Whether a relation is there and this role may read it."""
    row = connection.execute(
        "SELECT pg_catalog.has_table_privilege(c.oid, 'SELECT')"
        "   AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')"
        "  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s",
        (name.schema, name.name),
    ).fetchone()
    return bool(row and row[0])


def not_kept(hosting: Hosting) -> tuple[NotKept, ...]:
    """What cannot be kept of this project."""
    return tuple(
        NotKept(
            f"messages of the partitioned queue {queue.name!r}",
            "pgmq makes its partitions by pg_partman, which decides what they are called",
        )
        for queue in hosting.queues
        if queue.partitioned
    )
