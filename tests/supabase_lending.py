"""What supautils, a library loaded into every session of a project, lends and refuses `postgres`.

It cannot be loaded here, so a proxy rewrites the statements that it would treat specially: lent
ones go to a function that runs as superuser, and refused ones to a block that raises the library's
own message. What stands inside DO blocks and functions is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LENT_TABLES = (
    "auth.audit_log_entries", "auth.identities", "auth.refresh_tokens", "auth.sessions",
    "auth.users", "realtime.messages", "storage.buckets", "storage.migrations", "storage.objects",
    "storage.s3_multipart_uploads", "storage.s3_multipart_uploads_parts",
)  # fmt: skip
ALLOWED_EXTENSIONS = frozenset(
    {"pg_cron", "pgmq", "pg_net", "supabase_vault", "citext", "pgcrypto", "uuid-ossp", "hstore",
     "pg_trgm", "btree_gin", "btree_gist", "pg_stat_statements", "ltree", "unaccent"}
)  # fmt: skip
# Of these only settings may be changed.
CONFIGURABLE_ROLES = ("anon", "authenticated", "authenticator", "service_role")
RESERVED_ROLES = (
    *CONFIGURABLE_ROLES, "supabase_admin", "supabase_auth_admin", "supabase_storage_admin",
    "supabase_realtime_admin", "supabase_functions_admin", "supabase_replication_admin",
    "supabase_read_only_user", "supabase_etl_admin", "dashboard_user", "pgbouncer",
)  # fmt: skip
RESERVED_MEMBERSHIPS = (
    "pg_read_server_files", "pg_write_server_files", "pg_execute_server_program", "supabase_admin",
    "supabase_auth_admin", "supabase_storage_admin", "supabase_realtime_admin",
    "supabase_functions_admin", "supabase_replication_admin", "supabase_etl_admin",
    "dashboard_user", "pgbouncer", "authenticator",
)  # fmt: skip


def _names(names: tuple[str, ...]) -> str:
    """A pattern for any of these names, quoted or not."""
    return (
        "(?:"
        + "|".join(r"\.".join(f'"?{part}"?' for part in n.split(".")) for n in names)
        + r")(?![\w$\"])"
    )


_SPACE = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)+", re.S)
_PIECE = re.compile(
    r"--[^\n]*|/\*.*?\*/|\b[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
    r"|(?<![\w$])\$(?P<tag>[A-Za-z_]\w*)?\$.*?\$(?(tag)(?P=tag))\$|;",
    re.S,
)
_LENT = re.compile(
    r"(?:CREATE|ALTER)\s+PUBLICATION\b|CREATE\s+EVENT\s+TRIGGER\b"
    r"|ALTER\s+EVENT\s+TRIGGER\b.*\sOWNER\s+TO\b"
    r"|CREATE\s+FOREIGN\s+DATA\s+WRAPPER\b|DROP\s+EXTENSION\b"
    rf"|ALTER\s+(?:ROLE|USER)\s+{_names(CONFIGURABLE_ROLES)}\s+(?:IN\s+DATABASE\s+\S+\s+)?(?:RE)?SET\b"
    rf"|(?:CREATE|ALTER|DROP)\s+POLICY\b.*?\sON\s+{_names(LENT_TABLES)}"
    rf"|DROP\s+TRIGGER\b.*?\sON\s+{_names(LENT_TABLES)}",
    re.I | re.S,
)
_EXTENSION = re.compile(r'CREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?"?([\w-]+)"?', re.I)
_OF_A_RESERVED_ROLE = re.compile(
    rf"(?:CREATE|ALTER|DROP)\s+(?:ROLE|USER|GROUP)\s+(?:IF\s+EXISTS\s+)?(?P<role>{_names(RESERVED_ROLES)})",
    re.I,
)
_OF_A_RESERVED_MEMBERSHIP = re.compile(
    rf'GRANT\s+(?:(?!\bON\b)[\w$",\s])*?(?<![\w$"])(?P<role>{_names(RESERVED_MEMBERSHIPS)})(?:(?!\bON\b)[\w$",\s])*?\sTO\s',
    re.I,
)


def statements(query: str) -> Iterator[str]:
    """The statements of a query, each with its semicolon: joined, they are the query."""
    start = 0
    for piece in _PIECE.finditer(query):
        if piece[0] == ";":
            yield query[start : piece.end()]
            start = piece.end()
    if start < len(query):
        yield query[start:]


def as_the_library_would(query: str) -> str:
    """The query as the server gets it."""
    return "".join(_treated(statement) for statement in statements(query))


def _treated(statement: str) -> str:
    space = _SPACE.match(statement)
    bare = statement[space.end() :] if space else statement
    end = ";" if bare.endswith(";") else ""
    bare = bare.removesuffix(";")
    extension = _EXTENSION.match(bare)
    if _LENT.match(bare) or (extension and extension[1] in ALLOWED_EXTENSIONS):
        return f"DO $_lend_$ BEGIN PERFORM supautils.lend($_of_${bare}$_of_$); END $_lend_${end}"
    if reserved := _OF_A_RESERVED_ROLE.match(bare):
        return (
            _refused(
                f"{_quoted(reserved['role'])} is a reserved role, only superusers can modify it"
            )
            + end
        )
    if reserved := _OF_A_RESERVED_MEMBERSHIP.match(bare):
        why = "role memberships are reserved, only superusers can grant them"
        return _refused(f"{_quoted(reserved['role'])} {why}") + end
    return statement


def _quoted(role: str) -> str:
    return '"' + role.strip('"').lower() + '"'


def _refused(message: str) -> str:
    options = f"ERRCODE = '42501', MESSAGE = '{message}'"
    return f"DO $_no_$ BEGIN RAISE EXCEPTION USING {options}; END $_no_$"
