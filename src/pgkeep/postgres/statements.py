"""SQL text that puts things back, shared by restore, export and the restore script."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pgkeep.model import (
    Column,
    DatabaseProperties,
    LargeObjects,
    Role,
    SequenceValue,
    TableContents,
    TableName,
    quote_identifier,
)


def literal(text: str) -> str:
    """A string constant, right whatever standard_conforming_strings is."""
    quoted = text.replace("'", "''")
    return f" E'{quoted.replace(chr(92), chr(92) * 2)}'" if "\\" in text else f"'{quoted}'"


def copy_in(name: TableName, columns: Iterable[Column]) -> str:
    """COPY for a table's text. Without columns of its own the list must be left out."""
    listed = ", ".join(quote_identifier(column.name) for column in columns if not column.generated)
    return f"COPY {name.sql}{f' ({listed})' if listed else ''} FROM STDIN"


def set_sequence(value: SequenceValue) -> str:
    """Put a sequence where it stood."""
    called = "true" if value.is_called else "false"
    return (
        f"SELECT pg_catalog.setval({literal(value.name.sql)}::pg_catalog.regclass,"
        f" {value.last_value}, {called})"
    )


DROP_PUBLIC = "DROP SCHEMA IF EXISTS public"


def refresh(name: TableName) -> str:
    """Fill a materialized view."""
    return f"REFRESH MATERIALIZED VIEW {name.sql}"


LARGE_OBJECT_STAGING = "pg_temp.pgkeep_large_objects"

CREATE_LARGE_OBJECT_STAGING = (
    "CREATE TEMPORARY TABLE pgkeep_large_objects"
    " (loid pg_catalog.int8, at pg_catalog.int8, data pg_catalog.bytea)"
)

COPY_LARGE_OBJECTS_IN = f"COPY {LARGE_OBJECT_STAGING} (loid, at, data) FROM STDIN"

DROP_LARGE_OBJECTS = (
    "SELECT pg_catalog.count(pg_catalog.lo_unlink(oid)) FROM pg_catalog.pg_largeobject_metadata"
    f" WHERE oid::pg_catalog.int8 IN (SELECT loid FROM {LARGE_OBJECT_STAGING})"
)

# The outer count keeps one row from coming back for each object; OFFSET 0 keeps the planner from
# leaving the calls out.
LARGE_OBJECTS_FROM_STAGING = (
    "SELECT pg_catalog.count(c) FROM (SELECT pg_catalog.lo_create(loid::pg_catalog.oid) AS c"
    f" FROM (SELECT DISTINCT loid FROM {LARGE_OBJECT_STAGING}) d OFFSET 0) x",
    "SELECT pg_catalog.count(*) FROM"
    " (SELECT pg_catalog.lo_put(loid::pg_catalog.oid, at, data)"
    f" FROM {LARGE_OBJECT_STAGING} ORDER BY loid, at OFFSET 0) x",
    f"DROP TABLE {LARGE_OBJECT_STAGING}",
)


def large_object_properties(
    objects: LargeObjects, *, owners: bool, privileges: bool
) -> Iterator[str]:
    """Comments, owners and grants of large objects."""
    for oid, comment in objects.comments:
        yield f"COMMENT ON LARGE OBJECT {oid} IS {literal(comment)}"
    owner_of = dict(objects.owners)
    if owners:
        for oid, owner in objects.owners:
            yield f"ALTER LARGE OBJECT {oid} OWNER TO {quote_identifier(owner)}"
    for oid, grants in objects.grants if privileges else ():
        owner = quote_identifier(owner_of[oid]) if owners else "CURRENT_USER"
        yield f"REVOKE ALL ON LARGE OBJECT {oid} FROM {owner}"
        for grant in grants:
            grantee = quote_identifier(grant.grantee) if grant.grantee else "PUBLIC"
            if grant.grantee == owner_of[oid]:
                grantee = owner
            option = " WITH GRANT OPTION" if grant.grantable else ""
            yield f"GRANT {grant.privilege} ON LARGE OBJECT {oid} TO {grantee}{option}"


# Parameters whose value is a list of names: each element is quoted by itself
# (GUC_LIST_QUOTE in PostgreSQL's guc_tables.c).
_LIST_SETTINGS = frozenset(
    {
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    }
)


def database_settings(properties: DatabaseProperties, name: str) -> Iterator[str]:
    """ALTER DATABASE ... SET and ALTER ROLE ... IN DATABASE ... SET; `name` is quoted already."""
    for role, parameter, value in properties.settings:
        who = f"ALTER ROLE {quote_identifier(role)} IN DATABASE" if role else "ALTER DATABASE"
        # A list's value is stored as it has to be written: quoted where it must be.
        text = value if parameter.lower() in _LIST_SETTINGS and value else literal(value)
        setting = ".".join(quote_identifier(part) for part in parameter.split("."))
        yield f"{who} {name} SET {setting} TO {text}"


def database_grants(properties: DatabaseProperties, name: str) -> Iterator[str]:
    """GRANT on the database, where it has other grants than a new one; `name` is quoted already."""
    if not properties.has_grants:
        return
    yield f"REVOKE ALL ON DATABASE {name} FROM PUBLIC"
    for grant in properties.grants:
        grantee = quote_identifier(grant.grantee) if grant.grantee else "PUBLIC"
        option = " WITH GRANT OPTION" if grant.grantable else ""
        yield f"GRANT {grant.privilege} ON DATABASE {name} TO {grantee}{option}"


def database_comment(properties: DatabaseProperties, name: str) -> Iterator[str]:
    """COMMENT on the database, if it has one; `name` is quoted already."""
    if properties.comment:
        yield f"COMMENT ON DATABASE {name} IS {literal(properties.comment)}"


def create_role(role: Role) -> Iterator[str]:
    """A role with its attributes, without a password."""
    yield f"CREATE ROLE {quote_identifier(role.name)} WITH {role.attributes}"


def grant_memberships(role: Role, groups: Iterable[str]) -> Iterator[str]:
    """Make a role a member of groups."""
    for group in groups:
        yield f"GRANT {quote_identifier(group)} TO {quote_identifier(role.name)}"


def create_table_like(table: TableContents, name: TableName, *, constraints: bool = True) -> str:
    """A table with the columns, defaults that need nothing else, and own constraints of another.

    For looking at rows beside the live table: no indexes besides those of the constraints, no
    foreign keys, triggers, policies or grants. Identity and sequence defaults are left out, since
    they would draw on the live table's sequences; so is a constraint that is not valid, which the
    rows may break.
    """
    lines = [_column_definition(column) for column in table.columns]
    if constraints:
        kept = (text for text in table.constraints if not text.endswith(" NOT VALID"))
        lines += [f"CONSTRAINT {text}" for text in kept]
    body = ",\n    ".join(lines)
    return f"CREATE TABLE {name.sql} (\n    {body}\n)"


def _column_definition(column: Column) -> str:
    text = f"{quote_identifier(column.name)} {column.type}"
    if column.collation:
        text += f" COLLATE {column.collation}"
    if column.generated:
        text += f" GENERATED ALWAYS AS ({column.generated}) STORED"
    elif column.default and "nextval(" not in column.default:
        text += f" DEFAULT {column.default}"
    if column.not_null:
        text += " NOT NULL"
    return text
