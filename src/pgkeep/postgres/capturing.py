"""What capture makes in a database, by name, and how to tell it from what is the user's.

A restored database is captured anew or not at all: none of it belongs there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pgkeep.model import Contents, TableContents, TableName
from pgkeep.postgres.archive import Archive, Entry
from pgkeep.postgres.ddl import OWN_SCHEMA
from pgkeep.postgres.selection import leave_out

SCHEMA = OWN_SCHEMA
TOKEN = TableName(SCHEMA, "token")
ROWS = "pgkeep_rows"
CHANGES = tuple(f"pgkeep_changes_{number}" for number in range(1, 9))
MARK = "pgkeep captures changes with this."
COMMENT = f"{MARK} To take it away: pgkeep capture DATABASE --remove"
"""Stands on the schema. Only the mark counts: what follows has been other words."""
START, COMMAND, DROP, REWRITE = EVENT_TRIGGERS = (
    "pgkeep_start",
    "pgkeep_command",
    "pgkeep_drop",
    "pgkeep_rewrite",
)

_BY_KIND = {
    "SCHEMA": frozenset({SCHEMA}),
    "PUBLICATION": frozenset({ROWS, *CHANGES}),
    "EVENT TRIGGER": frozenset(EVENT_TRIGGERS),
}


def rows_without_capture(contents: Contents) -> Contents:
    """Without the rows of capture's own table."""
    return replace(contents, tables=tuple(one for one in contents.tables if not _is_token(one)))


def _is_token(table: TableContents) -> bool:
    return table.name == TOKEN and [column.name for column in table.columns] == ["value"]


def definitions_without_capture(archive: Archive) -> Archive:
    """Without what capture has made, and what is said of it. A user's schema of that name stays."""
    comments = (e.definition for e in archive.entries if e.kind == "COMMENT")
    is_captured = any(MARK in definition for definition in comments)
    return leave_out(archive, _own(archive.entries)) if is_captured else archive


def _own(entries: Iterable[Entry]) -> list[int]:
    return [
        entry.dump_id
        for entry in entries
        if entry.namespace == SCHEMA or entry.tag in _BY_KIND.get(entry.kind, ())
    ]
