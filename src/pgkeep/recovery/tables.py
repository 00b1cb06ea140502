"""The tables of the target that changes go into, and the SQL that puts them there.

Many changes go through a temporary *stage* of the same types: one COPY into it, then one statement
that joins it with the table. A few go one by one, with the values as parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, LiteralString

from pgkeep.errors import ReplayFailed
from pgkeep.model import TableName, quote_identifier
from pgkeep.postgres.pgoutput import Relation
from pgkeep.postgres.session import Connection
from pgkeep.recovery.netting import Pattern

# Oids below are the same on every server; above are those of types that users make.
_FIRST_OID_OF_USERS = 16384

# A stage has the types below domains, which might refuse the NULLs of columns that are not used.
_COLUMNS: LiteralString = """
    SELECT a.attname, a.atttypid::int8, a.attidentity = 'a',
           (WITH RECURSIVE d (id, mod) AS (
                SELECT a.atttypid, a.atttypmod
                UNION ALL
                SELECT t.typbasetype,
                       CASE WHEN t.typtypmod <> -1 THEN t.typtypmod ELSE d.mod END
                  FROM d JOIN pg_catalog.pg_type t ON t.oid = d.id AND t.typtype = 'd')
            SELECT pg_catalog.format_type(d.id, d.mod)
              FROM d JOIN pg_catalog.pg_type t ON t.oid = d.id AND t.typtype <> 'd'),
           CASE WHEN a.attcollation <> 0 AND a.attcollation <> y.typcollation
                THEN pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(o.collname)
                ELSE '' END
      FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
      LEFT JOIN pg_catalog.pg_collation o ON o.oid = a.attcollation
      LEFT JOIN pg_catalog.pg_namespace n ON n.oid = o.collnamespace
     WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''"""

# The columns of each unique index, with the operator that it takes for equality.
_UNIQUE: LiteralString = """
    SELECT pg_catalog.array_agg(a.attname::text),
           pg_catalog.array_agg(pg_catalog.quote_ident(n.nspname) || '.' || o.oprname)
      FROM pg_catalog.pg_index i
      CROSS JOIN LATERAL pg_catalog.generate_series(0, i.indnkeyatts - 1) k
      JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k]
      JOIN pg_catalog.pg_opclass c ON c.oid = i.indclass[k]
      JOIN pg_catalog.pg_amop p ON p.amopfamily = c.opcfamily AND p.amopstrategy = 3
       AND p.amoplefttype = c.opcintype AND p.amoprighttype = c.opcintype
      JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr
      JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
      JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
     WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
     GROUP BY i.indexrelid"""

_OID: LiteralString = """
    SELECT c.oid::int8 FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')"""

_NUMBER = "pgkeep_number"

Value = Callable[[int], str]
"""How a statement names the new value of the column at a position."""


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """A column that changes carry. `type` is the type below its domain, if that is one."""

    name: str
    type: str
    collation: str = ""
    always_identity: bool = False
    operator: str = ""
    """Equality in the key's index; empty for columns outside of the key."""

    @property
    def sql(self) -> str:
        return quote_identifier(self.name)


@dataclass(frozen=True, slots=True)
class OneUpdate:
    """An update of one row: $1 and on are its key before, then come the columns at `given`."""

    statement: str | None
    """None if there is nothing to set."""
    given: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TargetTable:
    """A table with the columns in the order in which changes have them.

    `stage` names its temporary table. `stands_for`: of a partitioned table that sorts rows into its
    partitions anew, how many those are; 0 for a table itself.
    """

    name: TableName
    columns: tuple[TargetColumn, ...]
    key: tuple[int, ...]
    full: bool
    stage: str
    stands_for: int = 0
    _updates: dict[Pattern, OneUpdate] = field(default_factory=dict, init=False, repr=False)

    @property
    def has_key(self) -> bool:
        return bool(self.key)

    @cached_property
    def sql(self) -> str:
        """The table, and no others that inherit from it."""
        return self.name.sql if self.stands_for else f"ONLY {self.name.sql}"

    @cached_property
    def _listed(self) -> str:
        return ", ".join(column.sql for column in self.columns)

    # --- many at once -----------------------------------------------------------------------

    @cached_property
    def copy(self) -> str:
        """Rows into the table itself."""
        return f"COPY {self.name.sql}{f' ({self._listed})' if self.columns else ''} FROM STDIN"

    @cached_property
    def create_stage(self) -> str:
        """A number, then the columns: 0 for rows to delete, else which update; or how many."""
        lines = [
            f"c{at} {column.type}{f' COLLATE {column.collation}' if column.collation else ''}"
            for at, column in enumerate(self.columns)
        ]
        return f"CREATE TEMPORARY TABLE {self.stage} ({', '.join([f'{_NUMBER} int4', *lines])})"

    @property
    def copy_stage(self) -> str:
        return f"COPY pg_temp.{self.stage} FROM STDIN"

    @property
    def empty_stage(self) -> str:
        return f"TRUNCATE pg_temp.{self.stage}"

    @property
    def delete_staged(self) -> str:
        """Delete the rows that are staged with number 0."""
        return (
            f"DELETE FROM {self.sql} AS t USING pg_temp.{self.stage} AS s"
            f" WHERE s.{_NUMBER} = 0 AND {self._join(self._staged)}"
        )

    def update_staged(self, number: int, unchanged: Pattern) -> str | None:
        """Update from the rows staged with a number; None if there is nothing to set."""
        source = f"pg_temp.{self.stage} AS s"
        where = f"s.{_NUMBER} = {number} AND {self._join(self._staged)}"
        return self._update(self._staged, unchanged, source, where)

    @cached_property
    def delete_staged_whole(self) -> str:
        """Delete rows that are equal in all columns, each as often as its number says.

        Equal in their text: some types know no equality, and others call different texts equal.
        """
        ours = ", ".join(f"t.{column.sql}" for column in self.columns)
        staged = ", ".join(self._staged(at) for at in range(len(self.columns)))
        return (
            f"DELETE FROM {self.sql} AS d USING (SELECT place, part FROM ("
            f"SELECT t.ctid AS place, t.tableoid AS part, s.{_NUMBER} AS wanted,"
            " pg_catalog.row_number() OVER (PARTITION BY s.ctid) AS n"
            f" FROM {self.sql} AS t JOIN pg_temp.{self.stage} AS s"
            f" ON ROW({ours})::pg_catalog.text OPERATOR(pg_catalog.=)"
            f" ROW({staged})::pg_catalog.text) f WHERE n <= wanted) x"
            " WHERE d.ctid = x.place AND d.tableoid = x.part"
        )

    # --- one by one -------------------------------------------------------------------------

    @cached_property
    def insert_one(self) -> str:
        """$1 is the first column, and so on."""
        if not self.columns:
            return f"INSERT INTO {self.name.sql} DEFAULT VALUES"
        values = ", ".join(f"${at + 1}" for at in range(len(self.columns)))
        return (
            f"INSERT INTO {self.name.sql} ({self._listed}) OVERRIDING SYSTEM VALUE"
            f" VALUES ({values})"
        )

    @cached_property
    def delete_one(self) -> str:
        """$1 is the first column of the key, and so on."""
        return f"DELETE FROM {self.sql} AS t WHERE {self._key_parameters()}"

    def update_one(self, unchanged: Pattern) -> OneUpdate:
        """Sets key columns too."""
        found = self._updates.get(unchanged)
        if found is None:
            given: list[int] = []

            def parameter(at: int) -> str:
                given.append(at)
                return f"${len(self.key) + len(given)}::{self.columns[at].type}"

            statement = self._update(
                parameter, unchanged, "", self._key_parameters(), with_key=True
            )
            found = self._updates[unchanged] = OneUpdate(statement, tuple(given))
        return found

    # --- pieces -----------------------------------------------------------------------------

    def _staged(self, at: int) -> str:
        return f"s.c{at}"

    def _join(self, value: Value) -> str:
        return " AND ".join(
            f"t.{self.columns[at].sql} OPERATOR({self.columns[at].operator}) {value(at)}"
            for at in self.key
        )

    def _key_parameters(self) -> str:
        places = {
            at: f"${number}::{self.columns[at].type}" for number, at in enumerate(self.key, 1)
        }
        return self._join(places.__getitem__)

    def _update(
        self, value: Value, unchanged: Pattern, source: str, where: str, *, with_key: bool = False
    ) -> str | None:
        kept = {*unchanged, *(() if with_key else self.key)}
        changed = [at for at in range(len(self.columns)) if at not in kept]
        if not changed:
            return None
        if any(self.columns[at].always_identity for at in changed):
            return self._replace(value, unchanged, source, where)
        sets = ", ".join(f"{self.columns[at].sql} = {value(at)}" for at in changed)
        from_source = f" FROM {source}" if source else ""
        return f"UPDATE {self.sql} AS t SET {sets}{from_source} WHERE {where}"

    def _replace(self, value: Value, unchanged: Pattern, source: str, where: str) -> str:
        """UPDATE must not set a column that is GENERATED ALWAYS AS IDENTITY; INSERT may."""
        values = ", ".join(
            f"{f't.{column.sql}' if at in unchanged else value(at)} AS c{at}"
            for at, column in enumerate(self.columns)
        )
        using = f" USING {source}" if source else ""
        listed = ", ".join(f"g.c{at}" for at in range(len(self.columns)))
        return (
            f"WITH g AS (DELETE FROM {self.sql} AS t{using} WHERE {where} RETURNING {values})"
            f" INSERT INTO {self.name.sql} ({self._listed}) OVERRIDING SYSTEM VALUE"
            f" SELECT {listed} FROM g"
        )


def describe_table(
    connection: Connection, relation: Relation, *, name: TableName, stands_for: int, number: int
) -> TargetTable | None:
    """The table that a relation's changes go to; None if there is none of that name.

    `ReplayFailed` if it has other columns than the changes.
    """
    row = connection.execute(_OID, (name.schema, name.name)).fetchone()
    if row is None:
        return None
    found = {one[0]: one for one in connection.execute(_COLUMNS, (row[0],)).fetchall()}
    _refuse_other_columns(relation, name, found)
    keys = [column.name for column in relation.columns if column.is_key]
    full = relation.identity == "f"
    operators: dict[str, str] = {}
    if keys and not full:
        uniques = connection.execute(_UNIQUE, (row[0],)).fetchall()
        operators = _operators(uniques, keys)
    columns = tuple(
        TargetColumn(
            column.name,
            found[column.name][3],
            found[column.name][4],
            found[column.name][2],
            operators.get(column.name, ""),
        )
        for column in relation.columns
    )
    key = tuple(at for at, column in enumerate(relation.columns) if column.is_key and not full)
    return TargetTable(name, columns, key, full, f"pgkeep_stage_{number}", stands_for)


def _operators(uniques: Iterable[Sequence[Any]], keys: Sequence[str]) -> dict[str, str]:
    for names, operators in uniques:
        if sorted(names) == sorted(keys):
            return dict(zip(names, operators, strict=True))
    return dict.fromkeys(keys, "pg_catalog.=")


def _refuse_other_columns(
    relation: Relation, name: TableName, found: Mapping[str, Sequence[Any]]
) -> None:
    told = {column.name: column.type_oid for column in relation.columns}
    odd = sorted(told.keys() ^ found.keys())
    odd = odd or [
        column
        for column, oid in told.items()
        if oid != found[column][1] and min(oid, found[column][1]) < _FIRST_OID_OF_USERS
    ]
    if odd:
        raise ReplayFailed(
            f"table {name}: column {odd[0]!r} is not the same in the journal and in the backup",
            hint="Its definition was changed, and the journal does not tell how. Restore to an"
            " earlier moment, or from a later backup.",
        )
