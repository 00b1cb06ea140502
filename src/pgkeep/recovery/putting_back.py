"""SQL that puts rows back into live tables, for a person to read and run.

One transaction: all comes back, or nothing has changed. Tables come in an order in which no row
needs one that comes later; where tables refer to each other in a circle, those foreign keys are
checked at the end. Rows come back as they were, so triggers are off meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from pgkeep.model import TableName, quote_identifier
from pgkeep.postgres.session import Connection
from pgkeep.postgres.statements import literal
from pgkeep.recovery.difference import TableDifference, TablePair, differs, missing_rows, same_key
from pgkeep.recovery.foreign_keys import ForeignKey, foreign_keys


@dataclass(frozen=True, slots=True)
class Trigger:
    """One that would act on rows that come back."""

    of: TableName
    """The table that rows are put into; `table` may be a partition of it."""
    table: TableName
    name: str
    is_always: bool


@dataclass(frozen=True, slots=True)
class OwnedSequence:
    """A sequence that numbers a column: it must stand behind the rows that come back."""

    table: TableName
    column: str
    name: TableName


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is attached to the live tables."""

    foreign_keys: tuple[ForeignKey, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    sequences: tuple[OwnedSequence, ...] = ()


def in_order(
    pairs: Sequence[TablePair], keys: Sequence[ForeignKey]
) -> tuple[tuple[TablePair, ...], frozenset[ForeignKey]]:
    """Parents before children, and the foreign keys that lie in circles."""
    group = {pair.live: pair.live for pair in pairs}
    between = [
        key for key in keys
        if key.child in group and key.parent in group and key.child != key.parent
    ]  # fmt: skip
    while True:
        parents: dict[TableName, set[TableName]] = {name: set() for name in group.values()}
        for key in between:
            child, parent = group[key.child], group[key.parent]
            if child != parent:
                parents[child].add(parent)
        try:
            order = tuple(TopologicalSorter(parents).static_order())
        except CycleError as circle:  # its tables count as one from here on
            members = set(circle.args[1])
            group = {name: circle.args[1][0] if g in members else g for name, g in group.items()}
        else:
            break
    sorted_pairs = sorted(pairs, key=lambda pair: order.index(group[pair.live]))
    return tuple(sorted_pairs), frozenset(
        key for key in between if group[key.child] == group[key.parent]
    )


def statements(
    differences: Sequence[TableDifference],
    around: Surroundings,
    *,
    changed: bool,
    with_triggers: bool = False,
) -> Iterator[str]:
    """SQL that puts missing rows back, and with `changed` the old values of changed ones too."""
    _, circular = in_order([one.pair for one in differences], around.foreign_keys)
    touched = [one for one in differences if one.missing or (changed and one.changed)]
    names = {one.pair.live for one in touched}
    late = [
        key
        for key in around.foreign_keys
        if key in circular and key.child in names and not key.is_deferrable
    ]
    triggers = [one for one in around.triggers if one.of in names and not with_triggers]
    yield "BEGIN;"
    yield "SET LOCAL row_security = off;"
    yield "SET LOCAL extra_float_digits = 3;"
    yield from (_alter_key(key, "DEFERRABLE INITIALLY DEFERRED") for key in late)
    yield "SET CONSTRAINTS ALL DEFERRED;"
    if triggers:
        yield "-- Rows come back as they were; pgkeep diff --with-triggers lets triggers act."
    yield from (_alter_trigger(one, "DISABLE") for one in triggers)
    for one in touched:
        yield from _put_back(one, changed=changed)
    yield "SET CONSTRAINTS ALL IMMEDIATE;"
    yield from (_alter_key(key, "NOT DEFERRABLE") for key in late)
    for trigger in triggers:
        yield _alter_trigger(trigger, "ENABLE ALWAYS" if trigger.is_always else "ENABLE")
    yield from (_advance(one) for one in around.sequences if one.table in names)
    yield "COMMIT;"


def _put_back(one: TableDifference, *, changed: bool) -> Iterator[str]:
    pair = one.pair
    if one.missing:
        names = ", ".join(column.sql for column in pair.columns)
        chosen = ", ".join(f"r.{column.sql}" for column in pair.columns)
        yield f"-- {one.missing:,} rows that {_in_a_line(pair.live)} lacks"
        yield (
            f"INSERT INTO {pair.live.sql} ({names}) OVERRIDING SYSTEM VALUE\n"
            f"SELECT {chosen} {missing_rows(pair)};"
        )
    values = [column for column in pair.values if not column.is_always_identity]
    if changed and one.changed and values:
        yield f"-- {one.changed:,} rows of {_in_a_line(pair.live)} that have other values now"
        assignments = ", ".join(f"{column.sql} = r.{column.sql}" for column in values)
        yield (
            f"UPDATE {pair.live_rows} AS l SET {assignments}\n  FROM {pair.restored.sql} AS r"
            f"\n WHERE {same_key(pair)} AND {differs(pair)};"
        )


def _in_a_line(name: TableName) -> str:
    """For a comment, which a line break would end."""
    return " ".join(str(name).splitlines())


def _alter_key(key: ForeignKey, how: str) -> str:
    return f"ALTER TABLE {key.child.sql} ALTER CONSTRAINT {quote_identifier(key.name)} {how};"


def _alter_trigger(trigger: Trigger, how: str) -> str:
    return f"ALTER TABLE {trigger.table.sql} {how} TRIGGER {quote_identifier(trigger.name)};"


def _advance(one: OwnedSequence) -> str:
    """Only ever ahead: it may have gone on since."""
    column = quote_identifier(one.column)
    return (
        f"SELECT pg_catalog.setval({literal(one.name.sql)}, m.at)"
        f" FROM (SELECT pg_catalog.max({column}) AS at FROM {one.table.sql}) m, {one.name.sql} s"
        " WHERE m.at > s.last_value OR (m.at = s.last_value AND NOT s.is_called);"
    )


# --- questions ------------------------------------------------------------------------------------


def look_around(
    connection: Connection, tables: Sequence[TableName], *, updated: bool
) -> Surroundings:
    """What is attached to tables that rows are put back into; `updated`: changed ones too."""
    wanted = ([one.schema for one in tables], [one.name for one in tables])
    return Surroundings(
        foreign_keys(connection),
        tuple(
            Trigger(TableName(*row[:2]), TableName(*row[2:4]), *row[4:])
            for row in connection.execute(_TRIGGERS, (*wanted, 4 | 16 if updated else 4)).fetchall()
        ),
        tuple(
            OwnedSequence(TableName(*row[:2]), row[2], TableName(*row[3:]))
            for row in connection.execute(_SEQUENCES, wanted).fetchall()
        ),
    )


_OF_THE_TABLES = """(SELECT c.oid FROM unnest(%s::text[], %s::text[]) x(schema, name)
      JOIN pg_catalog.pg_namespace n ON n.nspname = x.schema
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = x.name)"""

# Those of partitions too, but not what a partition has from its parent.
_TRIGGERS = f"""
    SELECT m.nspname::text, r.relname::text, n.nspname::text, c.relname::text, t.tgname::text,
           t.tgenabled = 'A'
      FROM pg_catalog.pg_trigger t
      JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_class r
        ON r.oid IN (c.oid, COALESCE(pg_catalog.pg_partition_root(c.oid), c.oid))
      JOIN pg_catalog.pg_namespace m ON m.oid = r.relnamespace
     WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled IN ('O', 'A')
       AND r.oid IN {_OF_THE_TABLES} AND t.tgtype & %s <> 0
     ORDER BY 1, 2, 3, 4, 5""".encode()

_SEQUENCES = f"""
    SELECT n.nspname::text, c.relname::text, a.attname::text, m.nspname::text, s.relname::text
      FROM pg_catalog.pg_depend d
      JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
      JOIN pg_catalog.pg_namespace m ON m.oid = s.relnamespace
      JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid AND q.seqincrement > 0
      JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
       AND a.atttypid IN (20, 21, 23)
      JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
       AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
       AND d.deptype IN ('a', 'i') AND c.oid IN {_OF_THE_TABLES}
     ORDER BY 1, 2, 3""".encode()
