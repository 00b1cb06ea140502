"""What new objects are granted by default, taken back while others' privileges are restored.

A project grants everything in public to its own roles (anon, authenticated, service_role). With
those defaults in force a restored table would be open to them, whatever it was in the source.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import LiteralString

from pgkeep.model import quote_identifier
from pgkeep.postgres.session import Connection

_KINDS = {"r": "TABLES", "S": "SEQUENCES", "f": "FUNCTIONS", "T": "TYPES", "n": "SCHEMAS"}

# What PostgreSQL itself grants to PUBLIC on what is made, where no default is set.
_TO_PUBLIC = {"f": "EXECUTE", "T": "USAGE"}

_SET: LiteralString = """
    SELECT r.rolname, COALESCE(n.nspname, ''), d.defaclobjtype::text,
           ARRAY(SELECT DISTINCT COALESCE(g.rolname, '')::text
                   FROM pg_catalog.aclexplode(d.defaclacl) a
                   LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantee)
      FROM pg_catalog.pg_default_acl d
      JOIN pg_catalog.pg_roles r ON r.oid = d.defaclrole
      LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace
     WHERE r.rolname = current_user
     ORDER BY 1, 2, 3"""


def take_back(connection: Connection) -> Iterator[str]:
    """Statements after which the role that restores grants nothing beyond PostgreSQL's own."""
    for role, schema, kind, grantees in connection.execute(_SET).fetchall():
        if kind not in _KINDS:
            continue
        head = f"ALTER DEFAULT PRIVILEGES FOR ROLE {quote_identifier(role)}"
        if schema:
            head += f" IN SCHEMA {quote_identifier(schema)}"
        for grantee in grantees:
            name = quote_identifier(grantee) if grantee else "PUBLIC"
            yield f"{head} REVOKE ALL ON {_KINDS[kind]} FROM {name}"
        if not schema:
            yield f"{head} GRANT ALL ON {_KINDS[kind]} TO {quote_identifier(role)}"
            if kind in _TO_PUBLIC:
                yield f"{head} GRANT {_TO_PUBLIC[kind]} ON {_KINDS[kind]} TO PUBLIC"
