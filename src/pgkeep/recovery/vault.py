"""Secrets of a vault, made anew in another project, and the ids that refer to them.

A project's vault seals each secret with its own key and the secret's id, so rows cannot be copied:
`vault.create_secret` makes a new one, with a new id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, LiteralString

from pgkeep.model import TableName, quote_identifier
from pgkeep.platforms.private import Secret
from pgkeep.platforms.supabase import VAULT, may_read
from pgkeep.postgres.session import Connection
from pgkeep.postgres.statements import literal

_DECRYPTED = TableName(VAULT, "decrypted_secrets")

CREATE: LiteralString = "SELECT vault.create_secret(%s, %s, %s)::text"

_OPTIONS: LiteralString = """
    SELECT 'SERVER ' || pg_catalog.quote_ident(srvname), srvoptions
      FROM pg_catalog.pg_foreign_server
    UNION ALL
    SELECT 'FOREIGN TABLE ' || pg_catalog.quote_ident(n.nspname) || '.'
           || pg_catalog.quote_ident(c.relname), f.ftoptions
      FROM pg_catalog.pg_foreign_table f
      JOIN pg_catalog.pg_class c ON c.oid = f.ftrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    UNION ALL
    SELECT 'USER MAPPING FOR ' || CASE WHEN umuser = 0 THEN 'PUBLIC'
                                       ELSE pg_catalog.quote_ident(usename) END
           || ' SERVER ' || pg_catalog.quote_ident(srvname), umoptions
      FROM pg_catalog.pg_user_mappings"""


def existing_ids(connection: Connection) -> Mapping[tuple[str | None, str], str]:
    """The ids of the secrets that are there already, by name and text."""
    if not may_read(connection, _DECRYPTED):
        return {}
    rows = connection.execute(
        f"SELECT name, decrypted_secret, id::text FROM {_DECRYPTED.sql}".encode()
    ).fetchall()
    return {(name, text): number for name, text, number in rows if text is not None}


def values(secret: Secret) -> tuple[str, str | None, str]:
    """For `CREATE`."""
    return secret.text, secret.name, secret.description


def refer_anew(connection: Connection, ids: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(statement, what for): options of foreign servers, tables and mappings with the new ids."""
    rows: Sequence[tuple[str, list[str] | None]] = connection.execute(_OPTIONS).fetchall()
    for what, options in rows:
        for option in options or ():
            name, _, value = option.partition("=")
            if value in ids:
                setting = f"SET {quote_identifier(name)} {literal(ids[value])}"
                yield f"ALTER {what} OPTIONS ({setting})", f"option {name} of {what.lower()}"


def map_columns(
    columns: Iterable[tuple[TableName, str]], ids: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(statement, values, what for): columns that refer to secrets, with the new ids."""
    for table, column in columns:
        name = quote_identifier(column)
        statement = (
            f"UPDATE {table.sql} AS t SET {name} = m.new::uuid"
            " FROM unnest(%(old)s::text[], %(new)s::text[]) AS m(old, new)"
            f" WHERE t.{name}::text = m.old"
        )
        pairs = {"old": list(ids), "new": list(ids.values())}
        yield statement, pairs, f"column {column} of table {table}"
