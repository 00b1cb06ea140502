"""Which schema changes concern some tables, so that others need not be done again. Pure.

Where only a few tables are restored to a moment, a change that surely has nothing to do with them
is passed over. Whatever cannot be told apart concerns them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import partial

from pgkeep.model import TableName
from pgkeep.postgres.ddl import SchemaChange, Treatment, split, treatment

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
_NEW = ("CREATE TYPE", "CREATE DOMAIN", "CREATE COLLATION", "CREATE OPERATOR", "CREATE CONVERSION")
_SAYINGS = ("COMMENT", "GRANT", "REVOKE", "ALTER DEFAULT PRIVILEGES", "SECURITY LABEL")
# What brings another table in, or takes one away.
_FAMILY = re.compile(
    r"\b(rename|attach|detach|inherit|partition|set\s+schema|references)\b", re.IGNORECASE
)
_CALLING = frozenset({"DO", "SELECT", "CALL", "EXECUTE", "WITH", "VALUES", "INSERT", "UPDATE"})
_RENAMES = ("ALTER TABLE", "ALTER SCHEMA")
# A quoted name that may be written in numbers of characters.
_ESCAPED_NAME = re.compile(r'\bu&"', re.IGNORECASE)


def treatment_for(tables: Collection[TableName], *, renamed: bool) -> Treat:
    """How changes are treated where just these tables are restored; `renamed`: elsewhere, so that
    no statement that names them can be done again."""
    return partial(_treatment, tables=frozenset(tables), renamed=renamed)


def _treatment(change: SchemaChange, *, tables: frozenset[TableName], renamed: bool) -> Treatment:
    found = treatment(change)
    if found is Treatment.IGNORE or not concerns(change, tables):
        return Treatment.IGNORE
    is_of_one_table = change.tag == "ALTER TABLE" and not _FAMILY.search(change.query)
    return found if is_of_one_table and not renamed else Treatment.STOP


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
    firsts = [statement[0].upper() for statement in split(change.query) if statement]
    return "ALTER" not in firsts or not _CALLING.isdisjoint(firsts)


def _names(name: str, text: str) -> bool:
    """Whether a text has that name as a whole, in quotes or not, however it is written."""
    written = re.escape(name.replace('"', '""'))
    return re.search(rf"(?<![\w$]){written}(?![\w$])", text, re.IGNORECASE) is not None
