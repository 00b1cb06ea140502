"""Whether every foreign key holds: asked of the rows, as the server does when it makes one.

What a replay writes is checked by nobody: triggers are quiet meanwhile, and foreign keys are
triggers. So a database that was brought to a moment is asked row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from pgkeep.model import TableName, quote_identifier
from pgkeep.postgres.session import Connection
from pgkeep.repository.evidence import CheckResult, NotCovered

NAME = "foreign keys"

# Of partitioned tables just their own. Some are of no use to a question: NOT ENFORCED, and those
# for periods, which hold in another way.
_FOREIGN_KEYS: LiteralString = """
    SELECT k.conname::text, ARRAY[n.nspname::text, c.relname], ARRAY[m.nspname::text, d.relname],
           ARRAY[c.relkind = 'r', d.relkind = 'r', k.confmatchtype = 'f',
                 k.convalidated AND COALESCE((j ->> 'conenforced')::bool, true)
                                AND NOT COALESCE((j ->> 'conperiod')::bool, false),
                 k.condeferrable],
           (SELECT pg_catalog.array_agg(ARRAY[a.attname::text, b.attname::text,
                                              pg_catalog.quote_ident(s.nspname), o.oprname::text]
                                        ORDER BY i.place)
              FROM unnest(k.conkey, k.confkey, k.conpfeqop)
                   WITH ORDINALITY i(mine, theirs, operator, place)
              JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = i.mine
              JOIN pg_catalog.pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = i.theirs
              JOIN pg_catalog.pg_operator o ON o.oid = i.operator
              JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace)
      FROM pg_catalog.pg_constraint k CROSS JOIN LATERAL pg_catalog.to_jsonb(k) j
      JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_class d ON d.oid = k.confrelid
      JOIN pg_catalog.pg_namespace m ON m.oid = d.relnamespace
     WHERE k.contype = 'f' AND k.conparentid = 0
     ORDER BY n.nspname, c.relname, k.conname"""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """One, with its columns as (own, the other's, equality)."""

    name: str
    child: TableName
    parent: TableName
    child_alone: bool
    """Whether tables that inherit from it do not count; so too for the parent."""
    parent_alone: bool
    is_full: bool
    """MATCH FULL: all columns are NULL, or none is."""
    is_promised: bool
    """Whether the server claims that it holds."""
    is_deferrable: bool
    columns: tuple[tuple[str, str, str], ...]

    @property
    def broken(self) -> str:
        """A query for the first row that has no other."""
        alone = {True: "ONLY ", False: ""}
        mine = [f"f.{quote_identifier(own)}" for own, _, _ in self.columns]
        same = " AND ".join(
            f"p.{quote_identifier(other)} {equal} f.{quote_identifier(own)}"
            for own, other, equal in self.columns
        )
        if self.is_full:
            asked = " OR ".join(f"{one} IS NOT NULL" for one in mine)
        else:
            asked = " AND ".join(f"{one} IS NOT NULL" for one in mine)
        return (
            f"SELECT pg_catalog.concat_ws(', ', {', '.join(mine)})"
            f" FROM {alone[self.child_alone]}{self.child.sql} f WHERE ({asked}) AND NOT EXISTS"
            f" (SELECT FROM {alone[self.parent_alone]}{self.parent.sql} p WHERE {same}) LIMIT 1"
        )


def foreign_keys(connection: Connection) -> tuple[ForeignKey, ...]:
    """All of a database."""
    rows = connection.execute(_FOREIGN_KEYS).fetchall()
    return tuple(_foreign_key(*row) for row in rows)


def _foreign_key(
    name: str, child: list[str], parent: list[str], flags: list[bool], columns: list[list[str]]
) -> ForeignKey:
    child_alone, parent_alone, is_full, is_promised, is_deferrable = flags
    return ForeignKey(
        name,
        TableName(*child),
        TableName(*parent),
        child_alone,
        parent_alone,
        is_full,
        is_promised,
        is_deferrable,
        tuple((own, other, f"OPERATOR({schema}.{name})") for own, other, schema, name in columns),
    )


def check_foreign_keys(
    connection: Connection, *, row_by_row: bool
) -> tuple[CheckResult, Sequence[NotCovered]]:
    """Whether they hold. Without `row_by_row` the server has asked, as it made each."""
    found = foreign_keys(connection)
    promised = [one for one in found if one.is_promised]
    unsure: list[NotCovered] = []
    for one in promised if row_by_row else ():
        what = f"{one.name} of {one.child}"
        try:
            row = connection.execute(one.broken.encode()).fetchone()
        except psycopg.Error as exc:
            reason = (exc.diag.message_primary or str(exc)).splitlines()[0]
            unsure.append(NotCovered(f"foreign key {what}", reason))
            continue
        if row is not None:
            text = f"{what}: no row of {one.parent} for {row[0]}"
            return CheckResult(NAME, False, text), unsure
    others = len(found) - len(promised)
    more = f"; {others} are NOT VALID or NOT ENFORCED in the source too" if others else ""
    return CheckResult(NAME, True, f"{len(promised) - len(unsure)} hold{more}"), unsure
