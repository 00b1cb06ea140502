"""CHECK constraints that refuse the source's own rows: taken away, and made again at the end.

The server looks at a row when it is written, and never again. So a table may well hold rows that
its constraint would refuse now: it compares with the clock, or asks a function about a table that
is filled later. pg_dump makes such a constraint before the rows, and pg_restore ends there.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import LiteralString

import psycopg

from pgkeep.model import TableName, quote_identifier
from pgkeep.postgres.differences import Difference
from pgkeep.postgres.session import Connection
from pgkeep.postgres.statements import literal
from pgkeep.recovery.refusals import Refused

# A constraint stands where no parent has it; whatever inherits it has it under the same name.
_OF_TABLE: LiteralString = """
    WITH RECURSIVE up AS (
        SELECT c.oid, c.coninhcount, c.conrelid
          FROM pg_catalog.pg_constraint c
          JOIN pg_catalog.pg_class r ON r.oid = c.conrelid
          JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
         WHERE c.contype = 'c' AND n.nspname = %(schema)s AND r.relname = %(owner)s
           AND c.conname = %(name)s
        UNION
        SELECT c.oid, c.coninhcount, c.conrelid
          FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.conrelid
          JOIN pg_catalog.pg_constraint c ON c.conrelid = i.inhparent
           AND c.conname = %(name)s AND c.contype = 'c'
         WHERE up.coninhcount > 0
    )
    SELECT oid::int8 FROM up WHERE coninhcount = 0"""

# The error names the outer domain; the constraint may be one of the domain beneath.
_OF_DOMAIN: LiteralString = """
    WITH RECURSIVE beneath AS (
        SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t
          JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
         WHERE n.nspname = %(schema)s AND t.typname = %(owner)s
        UNION
        SELECT t.oid, t.typbasetype
          FROM beneath JOIN pg_catalog.pg_type t ON t.oid = beneath.typbasetype
    )
    SELECT c.oid::int8
      FROM beneath JOIN pg_catalog.pg_constraint c ON c.contypid = beneath.oid
     WHERE c.contype = 'c' AND c.conname = %(name)s"""

_LOOK: LiteralString = """
    SELECT CASE c.contypid WHEN 0 THEN 'TABLE' ELSE 'DOMAIN' END, n.nspname,
           coalesce(r.relname, t.typname), c.conname, pg_catalog.pg_get_constraintdef(c.oid),
           c.convalidated, pg_catalog.obj_description(c.oid, 'pg_constraint')
      FROM pg_catalog.pg_constraint c
      LEFT JOIN pg_catalog.pg_class r ON r.oid = c.conrelid
      LEFT JOIN pg_catalog.pg_type t ON t.oid = c.contypid
      JOIN pg_catalog.pg_namespace n ON n.oid = coalesce(r.relnamespace, t.typnamespace)
     WHERE c.oid = %s"""

_NUMBER: LiteralString = """
    SELECT c.oid::int8 FROM pg_catalog.pg_constraint c
     WHERE c.conname = %s AND CASE %s WHEN 'TABLE' THEN c.conrelid = pg_catalog.to_regclass(%s)
                              ELSE c.contypid = pg_catalog.to_regtype(%s) END"""

_HAVING: LiteralString = """
    WITH RECURSIVE down AS (
        SELECT pg_catalog.to_regclass(%s)::oid AS relation
        UNION
        SELECT i.inhrelid
          FROM down JOIN pg_catalog.pg_inherits i ON i.inhparent = down.relation)
    SELECT n.nspname, r.relname
      FROM down JOIN pg_catalog.pg_class r ON r.oid = down.relation
      JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace"""

_THERE: LiteralString = "SELECT oid::int8 FROM pg_catalog.pg_constraint WHERE contype = 'c'"

_NOT_VALID = " NOT VALID"
_BROKEN = "rows of the source break it, by the clock or the functions of now"
_OUT_OF_SIGHT = "the server cannot look at values of a domain within arrays and composite types"


@dataclass(frozen=True, slots=True)
class _Check:
    """A constraint of a table, with those that inherit it, or of a domain."""

    kind: str
    owner: TableName
    name: str
    definition: str
    is_valid: bool
    comment: str

    def alter(self, how: str, more: str = "") -> str:
        """A statement that adds, drops or validates it."""
        name = quote_identifier(self.name)
        return f"ALTER {self.kind} {self.owner.sql} {how} CONSTRAINT {name} {more}"

    @property
    def say(self) -> str:
        """The statement that puts its comment to it."""
        on = "DOMAIN " if self.kind == "DOMAIN" else ""
        subject = f"CONSTRAINT {quote_identifier(self.name)} ON {on}{self.owner.sql}"
        return f"COMMENT ON {subject} IS {literal(self.comment)}"

    def __str__(self) -> str:
        return f"check {self.name} of {self.kind.lower()} {self.owner}"


@dataclass(frozen=True, slots=True)
class _Broken:
    """What has a constraint that is not valid at the end, and why it is not."""

    having: frozenset[TableName]
    reason: str


class RefusingChecks:
    """Those that a restore met. Several threads may take some away; one makes them again.

    `theirs` are the oids of those that the target had before: they stay, for the rows of others
    count on them.
    """

    def __init__(self, theirs: Collection[int] = ()) -> None:
        self._theirs = frozenset(theirs)
        self._lock = threading.Lock()
        self._away: list[_Check] = []
        self._made_not_valid: set[int] = set()
        """The oids of those that were valid before they were taken away."""
        self._broken: dict[_Check, _Broken] = {}

    @classmethod
    def of_a_restore_into(cls, connection: Connection) -> RefusingChecks:
        """Before it makes anything there."""
        return cls([number for (number,) in connection.execute(_THERE).fetchall()])

    def take_away(self, connection: Connection, error: psycopg.errors.CheckViolation) -> bool:
        """Drop the constraint that an error names. False if there is none, or it may not be."""
        told = error.diag
        query, owner = _OF_TABLE, told.table_name
        if not owner:
            query, owner = _OF_DOMAIN, told.datatype_name
        named = {"schema": told.schema_name, "owner": owner, "name": told.constraint_name}
        with self._lock:
            numbers = [number for (number,) in connection.execute(query, named).fetchall()]
            if not self._theirs.isdisjoint(numbers):
                return False
            for number in numbers:
                check = _look(connection, number)
                try:
                    connection.execute(check.alter("DROP").encode())
                except psycopg.errors.InsufficientPrivilege:
                    return False
                self._away.append(
                    replace(
                        check,
                        definition=check.definition.removesuffix(_NOT_VALID),
                        is_valid=check.is_valid or number in self._made_not_valid,
                    )
                )
            # Where it is not there any more, another session was first.
            return bool(numbers) or any(one.name == told.constraint_name for one in self._away)

    def make_again(self, connection: Connection) -> None:
        """Make those that were taken away, the last one first; NOT VALID where rows break them."""
        while self._away:
            check = self._away.pop()
            add = check.alter("ADD", check.definition)
            if not check.is_valid or _refusal(connection, add):
                connection.execute((add + _NOT_VALID).encode())
                if check.is_valid:
                    self._made_not_valid.add(_number(connection, check))
            if check.comment:
                connection.execute(check.say.encode())

    def settle(self, connection: Connection) -> None:
        """Make them again and find those that rows still break, under the names of now."""
        self.make_again(connection)
        self._broken = {}
        for number in sorted(self._made_not_valid):
            check = _find(connection, number)
            if check is None or check.is_valid:
                self._made_not_valid.discard(number)
            elif reason := _refusal(connection, check.alter("VALIDATE")):
                self._broken[check] = _Broken(_having(connection, check), reason)
            else:
                self._made_not_valid.discard(number)

    def explains(self, difference: Difference) -> bool:
        """Whether definitions differ there just since such a constraint is not valid."""
        for check, broken in self._broken.items():
            places = {(check.kind, one.schema, one.name) for one in broken.having} | {
                ("CHECK CONSTRAINT", one.schema, f"{one.name} {check.name}")
                for one in broken.having
            }
            if (difference.kind, difference.namespace, difference.tag) in places:
                return True
        return False

    @property
    def not_compared(self) -> tuple[str, ...]:
        """Definitions of which it is only known that they have a constraint that is not valid."""
        return tuple(f"the definition of what has {check}" for check in self._broken)

    @property
    def refused(self) -> tuple[Refused, ...]:
        """What to tell about them."""
        return tuple(
            Refused(
                str(check),
                broken.reason,
                "The rows are there, and it counts for new ones alone (NOT VALID).",
            )
            for check, broken in self._broken.items()
        )


def _find(connection: Connection, number: int) -> _Check | None:
    row = connection.execute(_LOOK, (number,)).fetchone()
    if row is None:
        return None
    kind, schema, owner, name, definition, is_valid, comment = row
    return _Check(kind, TableName(schema, owner), name, definition, is_valid, comment or "")


def _look(connection: Connection, number: int) -> _Check:
    found = _find(connection, number)
    assert found is not None, "whoever restores alone drops constraints"
    return found


def _number(connection: Connection, check: _Check) -> int:
    where = (check.name, check.kind, check.owner.sql, check.owner.sql)
    row = connection.execute(_NUMBER, where).fetchone()
    assert row is not None, "it was made a moment ago"
    return int(row[0])


def _having(connection: Connection, check: _Check) -> frozenset[TableName]:
    if check.kind == "DOMAIN":
        return frozenset([check.owner])
    rows = connection.execute(_HAVING, (check.owner.sql,)).fetchall()
    return frozenset(TableName(schema, name) for schema, name in rows)


def _refusal(connection: Connection, statement: str) -> str:
    """Why rows do not let a constraint be valid; empty where it is."""
    try:
        with connection.transaction():
            connection.execute(statement.encode())
    except psycopg.errors.FeatureNotSupported:
        return _OUT_OF_SIGHT
    except (psycopg.errors.CheckViolation, psycopg.errors.InvalidObjectDefinition):
        return _BROKEN  # the second, where a child has the same and it is not valid there
    return ""
