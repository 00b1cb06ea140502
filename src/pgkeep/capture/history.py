"""Schema changes as the journal tells of them: several events of one statement are one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pgkeep.errors import JournalInvalid
from pgkeep.postgres import ddl, pgoutput
from pgkeep.repository.journal import Frame, FrameKind


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


def schema_changes(frames: Iterable[Frame]) -> Iterator[SchemaChange]:
    """The schema changes in the frames of a segment, in order."""
    statement: list[ddl.SchemaChange] = []
    transaction = 0
    for of, event in _events(frames):
        if event.event == "not_published":
            continue
        if statement and (event.number == 1 or of != transaction):
            yield _change(transaction, statement)
            statement = []
        transaction = of
        statement.append(event)
    if statement:
        yield _change(transaction, statement)


def _events(frames: Iterable[Frame]) -> Iterator[tuple[int, ddl.SchemaChange]]:
    """Each with its transaction."""
    reader, transaction = ddl.ChangeReader(), 0
    for frame in frames:
        if frame.kind != FrameKind.MESSAGE or frame.data[:1] != pgoutput.MESSAGE:
            continue
        message = pgoutput.parse(frame.data)
        if isinstance(message, pgoutput.LogicalMessage) and message.prefix == ddl.PREFIX:
            if frame.xid != transaction:
                reader, transaction = ddl.ChangeReader(), frame.xid
            yield transaction, reader.take(message.content)


def _change(transaction: int, events: Sequence[ddl.SchemaChange]) -> SchemaChange:
    last = events[-1]
    names = (f"{one.type} {one.identity}" for event in events for one in event.objects)
    try:
        at = datetime.fromisoformat(last.at)
    except ValueError as exc:
        raise JournalInvalid("the journal tells of a schema change at no time") from exc
    return SchemaChange(
        at, transaction, last.role, last.tag, last.query, tuple(dict.fromkeys(names))
    )
