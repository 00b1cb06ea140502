"""The coordinator's session: one snapshot, exported to the readers, and locks that keep it true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import LiteralString

from pgkeep.errors import TableChanged
from pgkeep.model import (
    DatabaseProperties,
    Hosting,
    Lsn,
    NotKept,
    Role,
    SequenceValue,
    SnapshotPoint,
    TableName,
)
from pgkeep.platforms import supabase
from pgkeep.platforms.file_rows import FileRow, file_rows
from pgkeep.platforms.private import NOTHING_PRIVATE, Private, read_private
from pgkeep.postgres import catalog
from pgkeep.postgres.address import Address
from pgkeep.postgres.dependence import TableKeys, pieces_of_text, table_keys
from pgkeep.postgres.identity import current_lsn, server_identity, server_version
from pgkeep.postgres.session import (
    Connection,
    LockNotAvailable,
    connect,
    lock_timeout_statement,
    server_major,
    translated,
)

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Source:
    """A database at one moment, held until the block that opened it ends."""

    snapshot: str
    major: int
    point: SnapshotPoint
    properties: DatabaseProperties
    relations: tuple[catalog.Relation, ...]
    large_objects: tuple[catalog.LargeObject, ...]
    sequences: tuple[SequenceValue, ...]
    roles: tuple[Role, ...]
    not_kept: tuple[NotKept, ...]
    keys: TableKeys
    hosting: Hosting | None = None
    """What of it a platform manages."""
    private: Private = NOTHING_PRIVATE
    """What the platform keeps apart, in clear: to be sealed at once."""
    files: tuple[FileRow, ...] = ()
    """Files beside the database, where they are asked for."""
    not_to_dump: tuple[TableName, ...] = ()
    """Tables of the platform's that this role may not look at."""


@contextmanager
def open_source(
    address: Address,
    *,
    lock_timeout_seconds: float,
    reads_rows: bool,
    passwords: bool = False,
    file_buckets: Sequence[str] | None = None,
) -> Iterator[Source]:
    """Take a snapshot and lock every table against being altered, emptied or dropped.

    A table that was truncated or rewritten between the snapshot and its lock would read as empty
    (MVCC does not cover that), so the files are compared after locking, and the snapshot is taken
    again if one differs. No lock keeps a type from being altered: if one was that rows were
    written by meanwhile, the block ends in `TableChanged`. Of a project that a platform hosts only
    what is the user's is looked at; `passwords` asks for the verifiers of roles too, and
    `file_buckets` for the files in them (none named: in all).
    """
    # Closed, not rolled back: that would wait for an answer, and the connection may be dead.
    with closing(connect(address)) as connection, translated(address):
        connection.execute(lock_timeout_statement(lock_timeout_seconds).encode())
        with _giving_way(connection):
            source = _describe(connection, *_locked_snapshot(connection), passwords=passwords)
            if file_buckets is not None and source.hosting is not None:
                source = replace(source, files=file_rows(connection, file_buckets))
        holding = [item for item in source.relations if item.holds_rows]
        pieces = pieces_of_text(connection, [item.oid for item in holding])
        yield source
        connection.execute("ROLLBACK")
        if reads_rows:
            _refuse_altered_types(connection, holding, pieces)


def _refuse_altered_types(
    connection: Connection, tables: Sequence[catalog.Relation], before: Mapping[int, frozenset[str]]
) -> None:
    """Types as they are now, outside the snapshot, against those within it."""
    now = pieces_of_text(connection, [table.oid for table in tables])
    for table in tables:
        if table.oid in now and not before.get(table.oid, frozenset()) <= now[table.oid]:
            raise TableChanged(
                f"a type in table {table.name} was altered while its rows were being read",
                hint="Run the backup again.",
            )


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A snapshot that others can import.

    All that it sees had committed by `taken`; all that had committed before `lsn` it sees, but for
    what ended just then. So a restore to a moment can begin with it.
    """

    name: str
    taken: datetime
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class _Found:
    """The relations to keep, and whose platform the others are."""

    kept: supabase.Kept
    hosting: Hosting | None

    @property
    def relations(self) -> tuple[catalog.Relation, ...]:
        return self.kept.relations


def _find(connection: Connection, hosting: Hosting | None) -> _Found:
    found = catalog.relations(connection)
    if hosting is None:
        return _Found(supabase.Kept(found, (), ()), None)
    users = supabase.users_tables(connection, hosting)
    return _Found(supabase.keep_of(hosting, found, users), hosting)


def _locked_snapshot(connection: Connection) -> tuple[_Snapshot, _Found]:
    """A snapshot, exported, and the relations in it, none of them changed since, all locked."""
    for _ in range(_ATTEMPTS):
        lsn = current_lsn(connection)
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = connection.execute(
            "SELECT pg_catalog.pg_export_snapshot(), pg_catalog.clock_timestamp()"
        ).fetchone()
        assert row is not None
        snapshot = _Snapshot(row[0], row[1].astimezone(UTC), lsn)
        hosting = supabase.look(connection)
        found = _find(connection, hosting)
        _lock(connection, found.relations)
        changed = [item for item in _find(connection, hosting).relations if item.rewritten]
        if not changed:
            return snapshot, found
        connection.execute("ROLLBACK")
    raise TableChanged(
        f"table {changed[0].name} is being rewritten or emptied again and again",
        hint="Run the backup again when that is done.",
    )


@contextmanager
def _giving_way(connection: Connection) -> Iterator[None]:
    """Who waited too long for a lock is told for which: looking at a table needs one already."""
    try:
        yield
    except LockNotAvailable as exc:
        connection.execute("ROLLBACK")
        blocked = ", ".join(map(str, catalog.exclusively_locked(connection))) or "a table"
        raise TableChanged(
            f"{blocked} is locked by a session that alters, empties or drops it",
            hint="pgkeep gave way. Run the backup again when that is done.",
        ) from exc


def _lock(connection: Connection, found: Sequence[catalog.Relation]) -> None:
    """ACCESS SHARE on every table that can be read, as pg_dump does."""
    names = [
        f"ONLY {relation.name.sql}"
        for relation in found
        if relation.kind in ("r", "p") and relation.readable
    ]
    for start in range(0, len(names), 200):
        some = ", ".join(names[start : start + 200])
        connection.execute(f"LOCK TABLE {some} IN ACCESS SHARE MODE".encode())


def _describe(
    connection: Connection, snapshot: _Snapshot, found: _Found, *, passwords: bool = False
) -> Source:
    relations, hosting = found.relations, found.hosting
    sequences = catalog.sequences(connection)
    private = NOTHING_PRIVATE
    not_kept: tuple[NotKept, ...] = ()
    if hosting is not None:
        kept = {relation.name for relation in relations if relation.holds_rows}
        sequences = supabase.kept_sequences(connection, hosting, sequences, kept)
        private = read_private(connection, hosting, passwords=passwords)
        not_kept = (*supabase.not_kept(hosting), *private.not_kept)
        hosting = replace(
            hosting,
            secrets_count=len(private.secrets),
            jobs_count=len(private.jobs),
            passwords_count=len(private.passwords),
        )
        hosting = supabase.described(hosting, found.kept)
    readable = tuple(name for name, may_read in sequences if may_read)
    heap = [one.oid for one in relations if one.holds_rows and one.is_heap and not one.condition]
    return Source(
        snapshot=snapshot.name,
        major=server_major(connection),
        point=_point(connection, snapshot),
        properties=catalog.database_properties(connection),
        relations=relations,
        large_objects=catalog.large_objects(connection),
        sequences=catalog.sequence_values(connection, readable),
        roles=catalog.referenced_roles(connection),
        not_kept=(
            *not_kept,
            *(
                NotKept(f"value of sequence {name}", "this role may not read it")
                for name, may_read in sequences
                if not may_read
            ),
        ),
        keys=table_keys(connection, heap),
        hosting=hosting,
        private=private,
        not_to_dump=found.kept.unreadable,
    )


def _point(connection: Connection, snapshot: _Snapshot) -> SnapshotPoint:
    identity = server_identity(connection)
    return SnapshotPoint(
        taken=snapshot.taken,
        server_version=server_version(connection),
        system_identifier=identity.system_identifier,
        timeline=identity.timeline,
        lsn=str(snapshot.lsn),
        snapshot=_value(connection, "SELECT pg_catalog.pg_current_snapshot()::text"),
        horizon=int(
            _value(
                connection,
                "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text",
            )
        ),
    )


def _value(connection: Connection, query: LiteralString) -> str:
    row = connection.execute(query).fetchone()
    assert row is not None
    return str(row[0])
