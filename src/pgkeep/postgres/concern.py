"""Which schema changes concern some tables, so that others need not be done again.

Where only a few tables are restored to a moment, a change that surely has nothing to do with them
is passed over. Whatever cannot be told apart concerns them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

from pgkeep.model import TableName
from pgkeep.postgres.ddl import NOT_ROWS, SchemaChange, Treatment, is_alone, split, treatment

Treat = Callable[[SchemaChange], Treatment]
"""What a replay does when it meets a change."""

# Rows of other tables hang on none of these.
_HARMLESS = frozenset(
    {
        "table", "table column", "table constraint", "index", "view", "materialized view", "rule",
        "trigger", "policy", "function", "procedure", "aggregate", "sequence", "schema",
        "publication", "publication relation", "event trigger", "foreign table",
        "statistics object", "default value", "default acl", "toast table", "view column",
        "foreign table column",
    }
)  # fmt: skip
# A column may be of such a type, or its default or a constraint may use it.
_USABLE = frozenset(
    {"type", "function", "aggregate", "operator", "collation", "sequence", "schema"}
)
_NEW = ("CREATE TYPE", "CREATE DOMAIN", "CREATE COLLATION", "CREATE OPERATOR", "CREATE CONVERSION")
_SAYINGS = (*NOT_ROWS, "SECURITY LABEL")
# What brings another table in, or takes one away.
_FAMILY = re.compile(
    r"\b(rename|attach|detach|inherit|partition|set\s+schema|references)\b", re.IGNORECASE
)
_CALLING = frozenset({"DO", "SELECT", "CALL", "EXECUTE", "WITH", "VALUES", "INSERT", "UPDATE"})
_RENAMES = ("ALTER TABLE", "ALTER SCHEMA")
_PARTITIONING = re.compile(r"\b(attach|detach|partition)\b", re.IGNORECASE)
# A quoted name that may be written in numbers of characters.
_ESCAPED_NAME = re.compile(r'\bu&"', re.IGNORECASE)


class OfSomeTables:
    """How changes are treated where just these tables are restored: one for each pass.

    `renamed`: they are restored elsewhere, so that no statement that names them can be done again.
    `perhaps_partitions`: the tables of which some may be partitions of these, at any depth; none
    of these has any if it is empty.
    """

    def __init__(
        self,
        tables: Collection[TableName],
        *,
        renamed: bool,
        perhaps_partitions: Collection[TableName] = (),
    ) -> None:
        self._tables = frozenset(tables)
        self._perhaps_partitions = frozenset(perhaps_partitions)
        self._renamed = renamed
        self._not_made: set[str] = set()
        """The names of what was passed over, and a later statement may need."""

    def __call__(self, change: SchemaChange) -> Treatment:
        found = treatment(change)
        if found is Treatment.IGNORE:
            return found
        of_themselves = concerns(change, self._tables)
        if not of_themselves and not self._may_be_of_a_partition(change):
            self._not_made.update(_usable_names(change))
            return Treatment.IGNORE
        is_of_one_table = (
            change.tag == "ALTER TABLE" and is_alone(change) and not _FAMILY.search(change.query)
        )
        if self._renamed or not is_of_one_table or not of_themselves:
            return Treatment.STOP
        needs = any(_names(name, change.query) for name in self._not_made)
        return Treatment.STOP if needs else found

    def _may_be_of_a_partition(self, change: SchemaChange) -> bool:
        if not self._perhaps_partitions:
            return False
        may_move = change.tag in ("CREATE TABLE", "ALTER TABLE") and (
            _PARTITIONING.search(change.query) is not None or _calls(change)
        )
        return may_move or concerns(change, self._perhaps_partitions)


def _usable_names(change: SchemaChange) -> Iterator[str]:
    """What a change makes that a column or a constraint of another table may use."""
    for one in change.objects:
        if one.type in _USABLE:
            identity = one.identity.partition("(")[0].removeprefix(f"{one.schema}.")
            yield identity.removeprefix('"').removesuffix('"').replace('""', '"')


def concerns(change: SchemaChange, tables: Collection[TableName]) -> bool:
    """Whether a change may have to do with some of these tables, or with how their rows look."""
    if change.event in ("noticed", "not_published"):
        return True
    texts = [change.query, *(one.identity for one in change.objects)]
    if any(_names(table.name, text) for table in tables for text in texts):
        return True
    if change.tag.endswith(" PUBLICATION") or change.tag in _SAYINGS or change.tag in _NEW:
        return False
    if change.tag in _RENAMES and _is_hidden(change):
        return True  # a new name tells nothing of the old one
    if change.tag == "ALTER SCHEMA":
        return any(_names(table.schema, change.query) for table in tables)
    kinds = {one.type for one in change.objects}
    if not change.tag.endswith((" TYPE", " DOMAIN")):
        # Of a table's rows, made and dropped with it. A column of a type that is dropped is told.
        kinds -= {"type", "composite type"}
    return not kinds or not kinds <= _HARMLESS


def _is_hidden(change: SchemaChange) -> bool:
    """Whether the statement itself may not be in the text that the client sent, but in a function
    that this calls, or be put together there; or a name in it is not written as it reads."""
    if _ESCAPED_NAME.search(change.query):
        return True
    return "ALTER" not in _firsts(change) or _calls(change)


def _calls(change: SchemaChange) -> bool:
    """Whether the text may call a function that did it."""
    return not _CALLING.isdisjoint(_firsts(change))


def _firsts(change: SchemaChange) -> list[str]:
    return [statement[0].upper() for statement in split(change.query) if statement]


def _names(name: str, text: str) -> bool:
    """Whether a text has that name as a whole, in quotes or not, however it is written."""
    written = re.escape(name.replace('"', '""'))
    return re.search(rf"(?<![\w$]){written}(?![\w$])", text, re.IGNORECASE) is not None
