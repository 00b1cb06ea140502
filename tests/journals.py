"""A journal made with plain SQL: a slot, publications, and segments in a repository's store."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from conftest import Workbench
from pgkeep import config
from pgkeep.model import FORMAT, Lsn, Segment
from pgkeep.postgres import pgoutput
from pgkeep.postgres.address import Address
from pgkeep.postgres.session import connect
from pgkeep.repository.hostkeys import HostKeys
from pgkeep.repository.journal import (
    Frame,
    FrameKind,
    SegmentName,
    encode_frame,
    head_digest,
    seal_segment,
)
from pgkeep.repository.repository import Repository
from pgkeep.stores import Store, open_store

# Tables whose updates and deletes may be published without harm.
_WITH_IDENTITY = """
    SELECT n.nspname, c.relname FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
       AND c.relpersistence = 'p'
       AND (c.relreplident = 'f' OR EXISTS (
            SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisvalid
               AND i.indimmediate
               AND CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END))"""

_SEQUENCES = """
    SELECT n.nspname, c.relname FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'S' AND n.nspname !~ '^pg_' ORDER BY 1, 2"""

# What capture's event trigger does, as far as these tests need it.
DDL_TRIGGER = (
    "CREATE SCHEMA pgkeep",
    """CREATE FUNCTION pgkeep.told() RETURNS event_trigger LANGUAGE plpgsql AS $$
    DECLARE
        query text := current_query();
        objects json;
    BEGIN
        IF TG_EVENT = 'ddl_command_end' THEN
            objects := (SELECT json_agg(json_build_object('type', object_type, 'schema',
                schema_name, 'identity', object_identity, 'in_extension', in_extension))
                FROM pg_event_trigger_ddl_commands());
        ELSE
            objects := (SELECT json_agg(json_build_object('type', object_type, 'schema',
                schema_name, 'identity', object_identity))
                FROM pg_event_trigger_dropped_objects());
        END IF;
        IF TG_EVENT = 'sql_drop' AND TG_TAG LIKE 'ALTER %' THEN
            RETURN;  -- the end of the command tells of it
        END IF;
        PERFORM pg_logical_emit_message(true, 'pgkeep.ddl', json_build_object(
            'tag', TG_TAG, 'query', query, 'role', current_user, 'session_role', session_user,
            'search_path', current_setting('search_path'), 'objects', objects,
            'rewrites', COALESCE(NULLIF(current_setting('pgkeep.rewrites', true), ''), 'f') = 't',
            'number', CASE WHEN TG_EVENT = 'ddl_command_end' AND TG_TAG LIKE 'DROP %' THEN 2
                           ELSE 1 END)::text);
        PERFORM set_config('pgkeep.rewrites', 'f', true);
    END$$""",
    """CREATE FUNCTION pgkeep.rewrites() RETURNS event_trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM set_config('pgkeep.rewrites', 't', true); END$$""",
    "CREATE EVENT TRIGGER pgkeep_told ON ddl_command_end EXECUTE FUNCTION pgkeep.told()",
    "CREATE EVENT TRIGGER pgkeep_dropped ON sql_drop EXECUTE FUNCTION pgkeep.told()",
    "CREATE EVENT TRIGGER pgkeep_rewrites ON table_rewrite EXECUTE FUNCTION pgkeep.rewrites()",
)


@dataclass(slots=True)
class TestJournal:
    """One chain under way: `cut` stores what came since the last call as a segment."""

    __test__ = False

    url: str
    store: Store
    state: Path
    recipients: tuple[str, ...]
    slot: str
    database: str = "shop"
    _chain: str = field(default_factory=lambda: secrets.token_hex(8))
    _sequence: int = 0
    _previous: str = ""
    _end: Lsn = Lsn(0)  # noqa: RUF009
    _sampled: dict[tuple[str, str], tuple[int, bool]] = field(default_factory=dict)
    names: list[SegmentName] = field(default_factory=list)

    @property
    def end_lsn(self) -> Lsn:
        """How far it leads."""
        return self._end

    def begin(self) -> None:
        """Publications, the slot, and a first, empty segment that says from when on."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "CREATE PUBLICATION pgkeep_rows FOR ALL TABLES WITH (publish = 'insert, truncate')"
            )
            connection.execute(
                "CREATE PUBLICATION pgkeep_changes WITH (publish = 'update, delete')"
            )
            self._publish(connection)
            row = connection.execute(
                "SELECT lsn FROM pg_create_logical_replication_slot(%s, 'pgoutput')", (self.slot,)
            ).fetchone()
            assert row is not None
            self._end = Lsn.parse(row[0])
        keys = HostKeys(self.state)
        now = datetime.now(UTC)
        repository, _ = Repository.open_or_create("local", self.store, now=now)
        repository.prepare(keys.epoch(self.recipients, now=now), keys.signing_key().public)
        self.cut()

    def publish(self) -> None:
        """Take tables that were made since into the publication."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            self._publish(connection)

    @staticmethod
    def _publish(connection: psycopg.Connection) -> None:
        tables = connection.execute(_WITH_IDENTITY.encode()).fetchall()
        if tables:
            listed = sql.SQL(", ").join(
                sql.SQL("ONLY {}").format(sql.Identifier(*one)) for one in tables
            )
            connection.execute(
                sql.SQL("ALTER PUBLICATION pgkeep_changes SET TABLE {}").format(listed)
            )

    def cut(self) -> SegmentName:
        """Fetch, seal, store, and only then move the slot on."""
        with closing(connect(Address.parse(self.url))) as connection:
            # Only what is flushed is decoded, and the tests' servers do not wait for that.
            connection.execute("SET synchronous_commit = on")
            connection.execute("SELECT pg_logical_emit_message(true, 'flush', '')")
            frames, end = self._fetch(connection)
            covered = _value(connection, "SELECT clock_timestamp()")
            frames += self._sample(connection)
            name = self._store(frames, Lsn(end), covered)
            if end > self._end:
                connection.execute(
                    "SELECT pg_replication_slot_advance(%s, %s::pg_lsn)", (self.slot, str(Lsn(end)))
                )
        self._end = Lsn(end)
        self.names.append(name)
        return name

    def _fetch(self, connection: psycopg.Connection) -> tuple[list[Frame], int]:
        rows = connection.execute(
            "SELECT lsn::text, xid::text, data FROM pg_logical_slot_peek_binary_changes(%s, NULL,"
            " NULL, 'proto_version', '1', 'publication_names', %s, 'messages', 'true')",
            (self.slot, '"pgkeep_rows","pgkeep_changes"'),
        ).fetchall()
        frames = [
            Frame(FrameKind.MESSAGE, Lsn.parse(lsn), int(xid), bytes(data))
            for lsn, xid, data in rows
        ]
        ends = [pgoutput.commit_end(one.data)[0] for one in frames if one.data[:1] == b"C"]
        return frames, max(ends, default=self._end)

    def _sample(self, connection: psycopg.Connection) -> list[Frame]:
        moved = []
        for schema, name in connection.execute(_SEQUENCES.encode()).fetchall():
            query = sql.SQL("SELECT last_value, is_called FROM {}")
            row = connection.execute(query.format(sql.Identifier(schema, name))).fetchone()
            if row is not None and self._sampled.get((schema, name)) != row:
                self._sampled[schema, name] = (row[0], row[1])
                moved.append([schema, name, *row])
        return [Frame(FrameKind.SEQUENCES, 0, 0, json.dumps(moved).encode())] if moved else []

    def _store(self, frames: Sequence[Frame], end: Lsn, covered: datetime) -> SegmentName:
        keys = HostKeys(self.state)
        epoch = keys.epoch(self.recipients, now=datetime.now(UTC))
        times = [pgoutput.commit_end(one.data)[1] for one in frames if one.data[:1] == b"C"]
        self._sequence += 1
        head = Segment(
            format=FORMAT,
            database=self.database,
            chain=self._chain,
            sequence=self._sequence,
            previous=self._previous,
            start=self._end,
            end=end,
            begins_whole=True,
            ends_whole=True,
            covered=covered.astimezone(UTC),
            first_commit=min(times, default=None),
            last_commit=max(times, default=None),
            transactions=len(times),
            changes=0,
            schema_changes=0,
            host="test",
            tool="test",
            server_version="17",
            system_identifier=self._value(
                "SELECT system_identifier::text FROM pg_control_system()"
            ),
            timeline=int(self._value("SELECT timeline_id::text FROM pg_control_checkpoint()")),
            epoch=epoch.id,
            plain_bytes=0,
            body_bytes=0,
            body_sha256="",
        )
        plain = b"".join(encode_frame(f.kind, f.lsn, f.xid, f.data) for f in frames)
        whole, data = seal_segment(head, plain, epoch.key.recipient, keys.signing_key())
        name = SegmentName.of(whole)
        self.store.put(name.path, data)
        self._previous = head_digest(whole)
        return name

    def _value(self, query: str) -> str:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return str(_value(connection, query))

    def end(self) -> None:
        """Nothing may hold the server's WAL once the test is over."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_drop_replication_slot(%s)", (self.slot,))


def _value(connection: psycopg.Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@contextmanager
def captured(workbench: Workbench, url: str, slot: str) -> Iterator[TestJournal]:
    """A journal of the database into the workbench's repository, for as long as the block runs."""
    recipients = config.load(workbench.config).encryption.recipients
    store = open_store(workbench.repository.as_uri())
    journal = TestJournal(url, store, workbench.state, recipients, slot)
    journal.begin()
    try:
        yield journal
    finally:
        journal.end()
