"""Two ways to be told of changes: by publications that event triggers keep in step, or, where a
role may not make those, by a slot whose plugin needs none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Protocol

from pgkeep.capture import setup, shapes
from pgkeep.capture.translation import Translator
from pgkeep.errors import SchemaChangedUnseen, SlotLost
from pgkeep.model import Lsn, TableName
from pgkeep.postgres.ddl import PREFIX
from pgkeep.postgres.session import Connection
from pgkeep.postgres.slot import LONGEST_PAGE_HEADER_BYTES, RawMessage, Slot


class Source(Protocol):
    """Where messages come from, in the form of pgoutput."""

    @property
    def prefix(self) -> bytes:
        """What the messages that tell of schema changes begin with, and nobody else's can."""

    @property
    def catalog(self) -> str:
        """A digest of what tables look like, if a journal goes on only as long as that is so."""

    @property
    def partly(self) -> tuple[TableName, ...]:
        """Tables of which only inserts are told, though they have what tells rows apart."""

    @property
    def left_more(self) -> bool:
        """Whether the last look may have left something that had committed before it."""

    def check(self) -> None:
        """`SlotLost` if what the slot gives may lack something."""

    def messages(self, up_to_changes: int, *, since: Lsn, until: Lsn) -> Iterator[RawMessage]:
        """One look at the slot, where the WAL had reached `until` before.

        `SlotLost` before the first message if changes may be missing.
        """

    def look_after(self) -> tuple[str, ...]:
        """Put right what others may have changed; the tables of which updates may be missing."""

    def notice(self) -> None:
        """Write into the WAL that the schema has changed, which nothing else has told of."""


class Published:
    """Publications and event triggers: exact, also where the schema changes."""

    catalog = ""

    def __init__(self, connection: Connection, slot: Slot) -> None:
        self._connection = connection
        self._slot = slot
        self._publications = setup.publications(connection)
        self.prefix = setup.own_prefix(connection)
        self.partly = tuple(setup.tables_of_others(connection))
        self.left_more = False

    def check(self) -> None:
        if setup.publications(self._connection) != self._publications:
            self._slot.drop()  # from version 18 on it passes over what is not published
            raise SlotLost("a publication was dropped or altered: changes may not be in the slot")

    def messages(self, up_to_changes: int, *, since: Lsn, until: Lsn) -> Iterator[RawMessage]:
        del until  # whatever the slot gives is whole
        count = 0
        for message in self._slot.peek(up_to_changes, since=since):
            count += 1
            yield message
        self.left_more = count >= up_to_changes

    def look_after(self) -> tuple[str, ...]:
        found = setup.look(self._connection, self._slot)
        setup.make_ready(self._connection, found)
        now = setup.put_in_step(self._connection)
        self.partly = tuple(setup.tables_of_others(self._connection))
        if now.repaired or now.left:
            setup.notice(self._connection, (*now.repaired, *now.left))
        return now.repaired

    def notice(self) -> None:
        setup.notice(self._connection, ())


class Decoded:
    """`test_decoding`: nothing in the database but the slot. Less exact where tables change."""

    partly: tuple[TableName, ...] = ()

    def __init__(self, connection: Connection, slot: Slot, secret: bytes) -> None:
        """`secret` is what makes our messages ours: no table keeps it."""
        self._connection = connection
        self._slot = slot
        self._known, self._shapes = shapes.load(connection)
        self.prefix = f"{PREFIX}.{secret.hex()}".encode()
        self.left_more = False

    @property
    def catalog(self) -> str:
        return self._known

    def check(self) -> None:
        """No publication that could be missing."""

    def messages(self, up_to_changes: int, *, since: Lsn, until: Lsn) -> Iterator[RawMessage]:
        """Only of transactions that the catalog shows with all tables as they were."""
        found = shapes.look(self._connection)
        if found.fingerprint != self._known:
            raise SchemaChangedUnseen("tables were altered, and no event trigger tells when")
        translator = Translator(self._shapes, self.prefix, found.shows)
        yield from translator.translate(self._slot.peek_text(up_to_changes, since=since))
        # One that committed after the position was read is nobody's business yet.
        held_back = translator.held_back_at
        is_late = held_back is None or held_back > until + LONGEST_PAGE_HEADER_BYTES
        self.left_more = translator.lines >= up_to_changes or not is_late

    def look_after(self) -> tuple[str, ...]:
        return ()

    def notice(self) -> None:
        document = {
            "version": 1, "event": "noticed", "tag": "", "query": None, "role": "",
            "search_path": "", "objects": [],
        }  # fmt: skip
        self._connection.execute(
            "SELECT pg_catalog.pg_logical_emit_message(true, %s, (%s::pg_catalog.jsonb"
            " || pg_catalog.jsonb_build_object('at', pg_catalog.clock_timestamp(),"
            " 'session_role', session_user))::text)",
            (self.prefix.decode(), json.dumps(document)),
        )
