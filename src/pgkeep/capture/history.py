"""Schema changes as the journal tells of them: several events of one statement are one. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgkeep.errors import JournalInvalid
from pgkeep.postgres import pgoutput
from pgkeep.postgres.ddl import PREFIX
from pgkeep.repository.journal import Frame, FrameKind

# A statement tells of rewritten tables first, then of what it dropped, then of what it made.
_ORDER = {"table_rewrite": 0, "sql_drop": 1, "ddl_command_end": 2}
_REWRITE = 0


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """One statement that changed the schema, or a change that capture has noticed itself."""

    at: datetime
    """The server's clock when it was done; it counts from the end of its transaction on."""
    transaction: int
    role: str
    tag: str
    """What it was, such as CREATE TABLE. Empty: noticed by what the catalog looks like."""
    statement: str
    """What the client sent, which may be many statements at once."""
    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Event:
    transaction: int
    kind: str
    tag: str
    at: datetime
    role: str
    query: str | None
    objects: tuple[str, ...]

    @property
    def order(self) -> int:
        return _ORDER.get(self.kind, len(_ORDER))


def schema_changes(frames: Iterable[Frame]) -> Iterator[SchemaChange]:
    """The schema changes in the frames of a segment, in order."""
    statement: list[_Event] = []
    text, text_of = "", 0
    for event in _events(frames):
        if event.kind == "not_published":
            continue
        if statement and not _belongs(event, statement[-1]):
            yield _change(statement, text)
            statement = []
        if event.query is not None or event.transaction != text_of:
            text, text_of = event.query or "", event.transaction
        statement.append(event)
    if statement:
        yield _change(statement, text)


def _belongs(event: _Event, before: _Event) -> bool:
    """Whether it is of the same statement as the one before it."""
    return (
        (event.transaction, event.tag) == (before.transaction, before.tag)
        and event.query is None
        and (before.order < event.order or before.order == event.order == _REWRITE)
    )


def _change(events: list[_Event], text: str) -> SchemaChange:
    last = events[-1]
    objects = dict.fromkeys(name for event in events for name in event.objects)
    return SchemaChange(last.at, last.transaction, last.role, last.tag, text, tuple(objects))


def _events(frames: Iterable[Frame]) -> Iterator[_Event]:
    for frame in frames:
        if frame.kind != FrameKind.MESSAGE or frame.data[:1] != pgoutput.MESSAGE:
            continue
        message = pgoutput.parse(frame.data)
        if isinstance(message, pgoutput.LogicalMessage) and message.prefix == PREFIX:
            yield _event(frame.xid, message.content)


def _event(transaction: int, content: bytes) -> _Event:
    try:
        document: dict[str, Any] = json.loads(content)
        objects = [f"{one.get('type', '')} {one['identity']}" for one in document["objects"]]
        return _Event(
            transaction,
            str(document["event"]),
            str(document["tag"]),
            datetime.fromisoformat(document["at"]),
            str(document["role"]),
            document["query"],
            tuple(objects),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise JournalInvalid("the journal tells of a schema change in an unknown form") from exc
