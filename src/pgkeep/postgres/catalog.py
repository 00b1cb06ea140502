"""What a database holds, as its catalog says: questions to the server, answers as records.

Everything here is asked within one snapshot and with an empty search_path.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from pgkeep.events import counted
from pgkeep.model import (
    Column,
    DatabaseProperties,
    LargeObjectGrant,
    Role,
    SequenceValue,
    TableName,
    quote_identifier,
)
from pgkeep.postgres.session import Connection

PAGE_BYTES = 8192

# Relations that belong to the user: not the system's, not temporary, not an extension's.
_USERS = """
    n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND c.relpersistence <> 't'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                      AND d.objid = c.oid AND d.deptype = 'e')
"""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, partitioned table, foreign table or materialized view, as a backup sees it."""

    oid: int
    name: TableName
    kind: str
    """pg_class.relkind: r table, p partitioned, f foreign, m materialized view."""
    unlogged: bool
    heap_bytes: int
    table_bytes: int
    """With TOAST."""
    is_heap: bool
    estimated_rows: int
    populated: bool
    rewritten: bool
    """Its file is another than in our snapshot: it was truncated or rewritten since."""
    readable: bool
    rows_hidden: bool
    """Row-level security would filter what this role reads."""
    condition: str = ""
    """The WHERE clause of an extension's configuration table, empty otherwise."""
    load_into: TableName | None = None
    """The partitioned table through which the rows have to be loaded, if not directly."""
    columns: tuple[Column, ...] = ()
    constraints: tuple[str, ...] = ()

    @property
    def holds_rows(self) -> bool:
        return self.kind == "r"


# The root of partitions by the hash of an enum. Such a hash depends on the enum's oids, which a
# restore changes, so rows have to find their partitions anew (as pg_dump does it).
_LOAD_ROOT: LiteralString = """
    (SELECT ARRAY[rn.nspname, rc.relname]::text[]
       FROM pg_catalog.pg_class rc JOIN pg_catalog.pg_namespace rn ON rn.oid = rc.relnamespace
      WHERE c.relispartition AND rc.oid = pg_catalog.pg_partition_root(c.oid)
        AND EXISTS (
          SELECT FROM pg_catalog.pg_partition_ancestors(c.oid) x
            JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = x.relid
            JOIN pg_catalog.pg_opclass o ON o.oid = ANY (p.partclass)
            JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod
           WHERE o.opcname IN ('enum_ops', 'array_ops', 'record_ops', 'range_ops',
                                'multirange_ops') AND m.amname = 'hash'
             AND o.opcnamespace = 'pg_catalog'::pg_catalog.regnamespace))
"""

_RELATION: LiteralString = """
    SELECT c.oid::int8, n.nspname, c.relname, c.relkind::text, c.relpersistence = 'u',
           COALESCE(pg_catalog.pg_relation_size(c.oid), 0),
           COALESCE(pg_catalog.pg_table_size(c.oid), 0),
           COALESCE(a.amname = 'heap', false),
           GREATEST(c.reltuples, 0)::int8, c.relispopulated,
           c.relkind IN ('r', 'm') AND c.relfilenode <> 0
             AND c.relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(c.oid),
           COALESCE(pg_catalog.has_table_privilege(c.oid, 'SELECT'), false)
             AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
           COALESCE(pg_catalog.row_security_active(c.oid), false),"""

_RELATION_FROM: LiteralString = """
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam"""

_RELATIONS: LiteralString = (
    _RELATION
    + " '', "
    + _LOAD_ROOT
    + " FROM pg_catalog.pg_class c"
    + _RELATION_FROM
    + " WHERE c.relkind IN ('r', 'p', 'f', 'm') AND "
    + _USERS
    + " UNION ALL "
    + _RELATION
    + """ COALESCE(NULLIF(k.condition, ''), 'WHERE true'), NULL
      FROM (SELECT unnest(extconfig) AS oid, unnest(extcondition) AS condition
              FROM pg_catalog.pg_extension) k
      JOIN pg_catalog.pg_class c ON c.oid = k.oid AND c.relkind = 'r'"""
    + _RELATION_FROM
    + " ORDER BY 2, 3"
)

_COLUMNS: LiteralString = """
    SELECT a.attrelid::int8, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
           a.attnotnull AND NOT EXISTS (  -- since PostgreSQL 18 it may be NOT VALID
             SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = a.attrelid
                AND k.contype = 'n' AND k.conkey[1] = a.attnum AND NOT k.convalidated),
           CASE WHEN a.attcollation <> 0 AND a.attcollation <> t.typcollation
                THEN pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(o.collname)
                ELSE '' END,
           CASE WHEN a.attgenerated = ''
                THEN COALESCE(pg_catalog.pg_get_expr(d.adbin, d.adrelid), '') ELSE '' END,
           a.attidentity::text,
           CASE WHEN a.attgenerated <> ''
                THEN COALESCE(pg_catalog.pg_get_expr(d.adbin, d.adrelid), '') ELSE '' END
      FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
      LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      LEFT JOIN pg_catalog.pg_collation o ON o.oid = a.attcollation
      LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = o.collnamespace
     WHERE a.attrelid = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attrelid, a.attnum"""

_CONSTRAINTS: LiteralString = """
    SELECT conrelid::int8, pg_catalog.quote_ident(conname) || ' '
           || pg_catalog.pg_get_constraintdef(oid)
      FROM pg_catalog.pg_constraint
     WHERE conrelid = ANY(%s) AND contype IN ('p', 'u', 'c')
     ORDER BY conrelid, contype = 'c', conname"""


def relations(connection: Connection) -> tuple[Relation, ...]:
    """The user's relations and the extensions' configuration tables, with their columns."""
    rows = connection.execute(_RELATIONS).fetchall()
    oids = [row[0] for row in rows]
    columns = _grouped(connection.execute(_COLUMNS, (oids,)).fetchall())
    constraints = _grouped(connection.execute(_CONSTRAINTS, (oids,)).fetchall())
    return tuple(_relation(row, columns, constraints) for row in rows)


def _relation(row: tuple[Any, ...], columns: _Groups, constraints: _Groups) -> Relation:
    root = TableName(*row[-1]) if row[-1] else None
    fields: list[Any] = [row[0], TableName(row[1], row[2]), *row[3:-1], root]
    fields.append(tuple(Column(*values) for values in columns.get(row[0], ())))
    fields.append(tuple(text for (text,) in constraints.get(row[0], ())))
    return Relation(*fields)


_Groups = dict[int, list[tuple[Any, ...]]]


def _grouped(rows: list[tuple[Any, ...]]) -> _Groups:
    groups: _Groups = {}
    for key, *values in rows:
        groups.setdefault(key, []).append(tuple(values))
    return groups


_SEQUENCES: LiteralString = (
    """
    SELECT n.nspname, c.relname,
           pg_catalog.has_sequence_privilege(c.oid, 'SELECT')
             AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'S' AND ("""
    + _USERS
    + """
       OR c.oid IN (SELECT unnest(extconfig) FROM pg_catalog.pg_extension))
     ORDER BY 1, 2"""
)


def sequences(connection: Connection) -> tuple[tuple[TableName, bool], ...]:
    """Names of the sequences, and whether this role may read them."""
    rows = connection.execute(_SEQUENCES).fetchall()
    return tuple((TableName(schema, name), readable) for schema, name, readable in rows)


def sequence_values(
    connection: Connection, names: tuple[TableName, ...]
) -> tuple[SequenceValue, ...]:
    """Where the sequences stand now: sequences do not take part in snapshots."""
    values: list[SequenceValue] = []
    for start in range(0, len(names), 200):
        some = names[start : start + 200]
        query = " UNION ALL ".join(
            f"SELECT {index}, last_value, is_called FROM {name.sql}"
            for index, name in enumerate(some)
        )
        rows = connection.execute(f"{query} ORDER BY 1".encode()).fetchall()
        values += [SequenceValue(some[index], last, called) for index, last, called in rows]
    return tuple(values)


@dataclass(frozen=True, slots=True)
class LargeObject:
    """A large object's catalog entry; `grants` count only if they are not the usual ones."""

    oid: int
    owner: str
    readable: bool
    comment: str
    has_grants: bool
    grants: tuple[LargeObjectGrant, ...]


_LARGE_OBJECTS: LiteralString = """
    SELECT m.oid::int8, pg_catalog.pg_get_userbyid(m.lomowner),
           s.rolsuper OR m.lomacl IS NULL AND o.member OR EXISTS (
             SELECT FROM pg_catalog.aclexplode(m.lomacl) x
              WHERE x.privilege_type = 'SELECT'
                AND (x.grantee = 0 OR pg_catalog.pg_has_role(x.grantee, 'USAGE'))),
           COALESCE(pg_catalog.obj_description(m.oid, 'pg_largeobject'), ''),
           m.lomacl IS NOT NULL,
           ARRAY(SELECT ARRAY[CASE WHEN x.grantee = 0 THEN ''
                                   ELSE pg_catalog.pg_get_userbyid(x.grantee)::text END,
                              x.privilege_type, x.is_grantable::text]
                   FROM pg_catalog.aclexplode(m.lomacl) x)
      FROM pg_catalog.pg_largeobject_metadata m
     CROSS JOIN LATERAL (SELECT pg_catalog.pg_has_role(m.lomowner, 'USAGE') AS member) o
     CROSS JOIN (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) s
     ORDER BY m.oid"""


def large_objects(connection: Connection) -> tuple[LargeObject, ...]:
    """All large objects, by oid."""
    rows = connection.execute(_LARGE_OBJECTS).fetchall()
    return tuple(LargeObject(*[*row[:5], _grants(row[5])]) for row in rows)


def _grants(rows: list[list[str]]) -> tuple[LargeObjectGrant, ...]:
    return tuple(LargeObjectGrant(to, what, further == "true") for to, what, further in rows)


def large_object_query(oids: Sequence[int]) -> str:
    """A query for the bytes of large objects, in 256 KiB slices by offset.

    Uses only functions that any role may call. `lo_close` in the size keeps descriptors few; an
    object with no bytes gives one row, with none.
    """
    listed = ", ".join(f"({oid})" for oid in oids)
    return f"""
        SELECT m.loid, o.at, pg_catalog.lo_get(m.loid::pg_catalog.oid, o.at, 262144)
          FROM (VALUES {listed}) AS m(loid)
         CROSS JOIN LATERAL
           (SELECT pg_catalog.lo_open(m.loid::pg_catalog.oid, 262144) AS fd OFFSET 0) f
         CROSS JOIN LATERAL
           (SELECT pg_catalog.lo_lseek64(f.fd, 0, 2) AS size OFFSET 0) s
         CROSS JOIN LATERAL
           (SELECT CASE WHEN pg_catalog.lo_close(f.fd) = 0 THEN s.size END AS size OFFSET 0) c
         CROSS JOIN LATERAL
           pg_catalog.generate_series(0, GREATEST(c.size - 1, 0), 262144) AS o(at)"""


_ROLES: LiteralString = """
    WITH RECURSIVE named (oid) AS (
        SELECT refobjid FROM pg_catalog.pg_shdepend
         WHERE dbid = (SELECT oid FROM pg_catalog.pg_database
                        WHERE datname = pg_catalog.current_database())
           AND refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
        UNION
        -- No dependence on the first superuser is on record.
        SELECT 10 FROM pg_catalog.pg_namespace WHERE nspowner = 10 AND oid >= 16384
        UNION
        SELECT setrole FROM pg_catalog.pg_db_role_setting
         WHERE setdatabase = (SELECT oid FROM pg_catalog.pg_database
                               WHERE datname = pg_catalog.current_database())
        UNION
        SELECT datdba FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
        UNION
        SELECT x.grantee FROM pg_catalog.pg_database, pg_catalog.aclexplode(datacl) x
         WHERE datname = pg_catalog.current_database() AND x.grantee <> 0
    ), wanted (oid) AS (
        SELECT oid FROM named
        UNION
        SELECT m.roleid FROM wanted w JOIN pg_catalog.pg_auth_members m ON m.member = w.oid
    )
    SELECT r.rolname,
           CASE WHEN r.rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END
           || CASE WHEN r.rolinherit THEN ' INHERIT' ELSE ' NOINHERIT' END
           || CASE WHEN r.rolcreaterole THEN ' CREATEROLE' ELSE ' NOCREATEROLE' END
           || CASE WHEN r.rolcreatedb THEN ' CREATEDB' ELSE ' NOCREATEDB' END
           || CASE WHEN r.rolcanlogin THEN ' LOGIN' ELSE ' NOLOGIN' END
           || CASE WHEN r.rolreplication THEN ' REPLICATION' ELSE ' NOREPLICATION' END
           || CASE WHEN r.rolbypassrls THEN ' BYPASSRLS' ELSE ' NOBYPASSRLS' END
           || CASE WHEN r.rolconnlimit >= 0 THEN ' CONNECTION LIMIT ' || r.rolconnlimit
              ELSE '' END,
           ARRAY(SELECT g.rolname FROM pg_catalog.pg_auth_members m
                   JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
                  WHERE m.member = r.oid ORDER BY 1)
      FROM pg_catalog.pg_roles r
     WHERE r.rolname !~ '^pg_' AND r.oid IN (SELECT oid FROM wanted)
     ORDER BY 1"""


def referenced_roles(connection: Connection) -> tuple[Role, ...]:
    """The roles on which something in this database depends: owners, grantees, policies.

    With the roles that these are members of, since rights come from there too.
    """
    rows = connection.execute(_ROLES).fetchall()
    return tuple(Role(name, attributes, tuple(groups)) for name, attributes, groups in rows)


def extension_names(connection: Connection) -> tuple[str, ...]:
    """The names of all extensions but the one that every database has."""
    rows = connection.execute(
        "SELECT extname::text FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql' ORDER BY 1"
    ).fetchall()
    return tuple(name for (name,) in rows)


def existing_roles(connection: Connection) -> frozenset[str]:
    """The names of all roles of the server."""
    rows = connection.execute("SELECT rolname FROM pg_catalog.pg_roles").fetchall()
    return frozenset(name for (name,) in rows)


_PROPERTIES: LiteralString = """
    SELECT datname, pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype,
           CASE WHEN pg_catalog.has_database_privilege(oid, 'CONNECT')
                THEN pg_catalog.pg_database_size(oid) ELSE 0 END,
           EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'public'),
           CASE pg_catalog.to_jsonb(d) ->> 'datlocprovider'
                WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
           COALESCE(pg_catalog.to_jsonb(d) ->> 'datlocale',
                    pg_catalog.to_jsonb(d) ->> 'daticulocale', ''),
           COALESCE(pg_catalog.shobj_description(oid, 'pg_database'), ''),
           datacl IS NOT NULL,
           ARRAY(SELECT ARRAY[CASE WHEN x.grantee = 0 THEN ''
                                   ELSE pg_catalog.pg_get_userbyid(x.grantee)::text END,
                              x.privilege_type, x.is_grantable::text]
                   FROM pg_catalog.aclexplode(datacl) x WHERE x.grantee <> datdba
                  ORDER BY 1)
      FROM pg_catalog.pg_database d WHERE datname = pg_catalog.current_database()"""

_SETTINGS: LiteralString = """
    SELECT COALESCE(r.rolname, ''), pg_catalog.split_part(setting, '=', 1),
           pg_catalog.substr(setting, pg_catalog.strpos(setting, '=') + 1)
      FROM pg_catalog.pg_db_role_setting s
      JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
      LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
     CROSS JOIN LATERAL unnest(s.setconfig) AS setting
     WHERE d.datname = pg_catalog.current_database()
     ORDER BY 1, 2"""


def database_properties(connection: Connection) -> DatabaseProperties:
    """What belongs to the database itself."""
    row = connection.execute(_PROPERTIES).fetchone()
    assert row is not None
    settings = connection.execute(_SETTINGS).fetchall()
    fields = [*row[:5], tuple((a, b, c) for a, b, c in settings), *row[5:10],
              _grants(row[10])]  # fmt: skip
    return DatabaseProperties(*fields)


_OCCUPANTS: LiteralString = (
    """
    SELECT n.nspname, CASE WHEN c.relkind IN ('r', 'p', 'f') THEN 'table'
                           WHEN c.relkind IN ('v', 'm') THEN 'view' ELSE 'sequence' END, count(*)
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND """
    + _USERS
    + """
     GROUP BY 1, 2
     UNION ALL
    SELECT n.nspname, 'function', count(*)
      FROM pg_catalog.pg_proc c JOIN pg_catalog.pg_namespace n ON n.oid = c.pronamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                        WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                          AND d.objid = c.oid AND d.deptype = 'e')
     GROUP BY 1
     UNION ALL
    SELECT n.nspname, 'type', count(*)
      FROM pg_catalog.pg_type c JOIN pg_catalog.pg_namespace n ON n.oid = c.typnamespace
     WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND c.typtype IN ('e', 'd', 'r')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                        WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
                          AND d.objid = c.oid AND d.deptype = 'e')
     GROUP BY 1
     ORDER BY 3 DESC, 1, 2"""
)


def occupants(connection: Connection, *, besides: Collection[str] = ()) -> tuple[str, ...]:
    """What a database already holds, in words: `14 tables in schema public`. Empty if nothing.

    Whatever is in the schemas `besides` does not count.
    """
    rows = [row for row in connection.execute(_OCCUPANTS).fetchall() if row[0] not in besides]
    found = [f"{counted(count, what)} in schema {schema}" for schema, what, count in rows]
    objects = connection.execute(
        "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata"
    ).fetchone()
    if objects and objects[0]:
        found.append(counted(objects[0], "large object"))
    return tuple(found)


def copy_query(
    name: TableName, columns: tuple[Column, ...], condition: str, pages: tuple[int, int | None]
) -> str:
    """The SELECT for the rows of a table between two heap pages; the whole table is (0, None)."""
    listed = ", ".join(quote_identifier(column.name) for column in columns if not column.generated)
    if condition:  # an extension's own words, kept as they are; such tables are small
        return f"SELECT {listed} FROM ONLY {name.sql} {condition}"
    return f"SELECT {listed} FROM ONLY {name.sql}{page_range(pages)}"


def page_range(pages: tuple[int, int | None]) -> str:
    """The WHERE clause for heap pages from the first to before the end; empty for all."""
    first, end = pages
    clauses = []
    if first:
        clauses.append(f"ctid >= '({first},0)'::pg_catalog.tid")
    if end is not None:
        clauses.append(f"ctid < '({end},0)'::pg_catalog.tid")
    return f" WHERE {' AND '.join(clauses)}" if clauses else ""


def count_query(name: TableName, condition: str) -> str:
    """How many rows a table has, read without any range."""
    return f"SELECT pg_catalog.count(*) FROM ONLY {name.sql} {condition}"


_EXCLUSIVELY_LOCKED: LiteralString = """
    SELECT DISTINCT n.nspname, c.relname
      FROM pg_catalog.pg_locks l
      JOIN pg_catalog.pg_class c ON c.oid = l.relation AND c.relkind IN ('r', 'p')
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE l.mode = 'AccessExclusiveLock' AND l.pid <> pg_catalog.pg_backend_pid()
       AND l.database = (SELECT oid FROM pg_catalog.pg_database
                          WHERE datname = pg_catalog.current_database())
       AND n.nspname !~ '^pg_'
     ORDER BY 1, 2"""


def exclusively_locked(connection: Connection) -> tuple[TableName, ...]:
    """Tables that others hold, or wait for, alone: not even reading is possible meanwhile."""
    rows = connection.execute(_EXCLUSIVELY_LOCKED).fetchall()
    return tuple(TableName(schema, name) for schema, name in rows)
