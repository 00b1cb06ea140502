"""Rows from the repository into a target, each file checked, each row counted and hashed."""

from __future__ import annotations

import queue
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain

import psycopg

from pgkeep.errors import DamagedObject, DatabaseError, ObjectMissing, PgkeepError, RestoreFailed
from pgkeep.events import Progressed, Reporter
from pgkeep.model import LargeObjects, Part, SealedStream, SequenceValue
from pgkeep.postgres.address import Address
from pgkeep.postgres.session import BYTES_AS_THEY_ARE, Connection, connect, translated
from pgkeep.postgres.statements import (
    COPY_LARGE_OBJECTS_IN,
    CREATE_LARGE_OBJECT_STAGING,
    LARGE_OBJECTS_FROM_STAGING,
    copy_in,
    large_object_properties,
    set_sequence,
)
from pgkeep.recovery.digest import Digest, RowDigest, RowSum, TextDigest
from pgkeep.recovery.plan import TableRestore
from pgkeep.recovery.refusing import RefusingChecks
from pgkeep.repository.objects import ObjectSource, read_stream
from pgkeep.sealing import X25519Identity

STAGE = "restoring"


@dataclass(frozen=True, slots=True)
class Sealed:
    """Where the backup's objects are, and the key that opens them."""

    source: ObjectSource
    identities: Sequence[X25519Identity]

    def open(self, stream: SealedStream) -> Iterator[bytes]:
        """The plain bytes of a stream; see `read_stream` about the end."""
        return read_stream(self.source, stream, self.identities)

    def text(self, part: Part) -> Iterator[bytes]:
        """The COPY text of a part."""
        return self.open(part.text)


class TargetSessions:
    """Connections to the target, made when needed, lent to one thread at a time."""

    def __init__(self, address: Address, settings: Sequence[str] = ()) -> None:
        self._address = address
        self._settings = ("SET synchronous_commit = off", BYTES_AS_THEY_ARE, *settings)
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._all: list[Connection] = []

    @property
    def address(self) -> Address:
        return self._address

    @contextmanager
    def borrow(self) -> Iterator[Connection]:
        """A connection; driver errors that leave the block are translated."""
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = connect(self._address)
            self._all.append(connection)
            with translated(self._address):
                for statement in self._settings:
                    connection.execute(statement.encode())
        with translated(self._address):
            yield connection
        self._idle.put(connection)

    def abort(self) -> None:
        """Ask the server to end what runs, so that threads that wait for it come back."""
        for connection in self._all:
            with suppress(Exception):
                connection.cancel_safe(timeout=5)

    def close(self) -> None:
        """Close all; a commit that waits for the disk comes first, so nothing is lost after it."""
        for connection in self._all:
            with suppress(Exception):
                connection.close()


def load_part(
    sessions: TargetSessions,
    sealed: Sealed,
    table: TableRestore,
    part: Part,
    seed: int,
    reporter: Reporter,
    refusing: RefusingChecks,
) -> RowSum:
    """Load one part, in one transaction that ends well only if the part's hash is right.

    A constraint that refuses a row is taken away, if it is the restore's own.
    """
    command = copy_in(table.load_name, table.columns)
    if table.where:
        command += f" WHERE ({table.where})"
    with sessions.borrow() as connection:
        while True:
            try:
                with connection.transaction():
                    return _copy(
                        connection,
                        command,
                        _text(sealed, table, part),
                        part.rows,
                        str(table.name),
                        RowDigest(seed),
                        reporter,
                        takes_all=not table.where,
                    )
            except psycopg.errors.CheckViolation as exc:
                if not refusing.take_away(connection, exc):
                    raise DatabaseError(
                        f"{exc.diag.message_primary} (SQLSTATE {exc.sqlstate})",
                        hint="A constraint that the target had before stays as it is. Restore into"
                        " an empty database, as a role that may alter what is restored.",
                    ) from exc


def load_frozen(
    sessions: TargetSessions, sealed: Sealed, table: TableRestore, seed: int, reporter: Reporter
) -> RowSum:
    """Load an empty table whole, in one transaction, its rows frozen and in order.

    Nobody has to look up whether they are visible, neither an index build nor later a vacuum.
    PostgreSQL wants the table to be new in that transaction, so one session loads all of it, and
    the rows stand as they were sent: the digest is that of the text.
    """
    rows = sum(part.rows for part in table.source.parts)
    command = f"{copy_in(table.name, table.columns)} (FREEZE)"
    with sessions.borrow() as connection, connection.transaction():
        connection.execute(f"TRUNCATE ONLY {table.name.sql}".encode())
        text, digest = _whole_text(sealed, table), TextDigest(seed)
        return _copy(connection, command, text, rows, str(table.name), digest, reporter)


def digest_of_rows(sealed: Sealed, table: TableRestore, seed: int) -> RowSum:
    """The digest of a table's stored rows, whatever their order."""
    digest = RowDigest(seed)
    for piece in _whole_text(sealed, table):
        digest.update(piece)
    return digest.result()


def _whole_text(sealed: Sealed, table: TableRestore) -> Iterator[bytes]:
    return chain.from_iterable(_text(sealed, table, part) for part in table.source.parts)


def _text(sealed: Sealed, table: TableRestore, part: Part) -> Iterator[bytes]:
    """The COPY text of a part, with the columns that the target has."""
    text = sealed.text(part)
    return without_columns(text, _places(table)) if table.without else text


def _places(table: TableRestore) -> frozenset[int]:
    """Where the columns that the target has not stand in the text."""
    columns = table.source.copied_columns
    return frozenset(at for at, one in enumerate(columns) if one.name in table.without)


def without_columns(text: Iterable[bytes], places: Collection[int]) -> Iterator[bytes]:
    """COPY text without some of its columns: tabs and line ends stand for nothing else in it."""
    rest = b""
    for piece in text:
        *lines, rest = (rest + piece).split(b"\n")
        if lines:
            yield b"".join(_shortened(line, places) + b"\n" for line in lines)
    if rest:  # whoever counts the rows will find that one is not whole
        yield _shortened(rest, places)


def _shortened(line: bytes, places: Collection[int]) -> bytes:
    fields = line.split(b"\t")
    return b"\t".join(field for at, field in enumerate(fields) if at not in places)


def _copy(
    connection: Connection,
    command: str,
    text: Iterator[bytes],
    rows: int,
    name: str,
    digest: Digest,
    reporter: Reporter,
    *,
    takes_all: bool = True,
) -> RowSum:
    before = 0
    with connection.cursor() as cursor:
        with cursor.copy(command.encode()) as copy:
            for piece in text:
                copy.write(piece)
                digest.update(piece)
                reporter.report(Progressed(STAGE, len(piece), digest.rows - before))
                before = digest.rows
        result = digest.result()
        taken = cursor.rowcount if takes_all else result.rows
        if not taken == result.rows == rows:
            raise RestoreFailed(
                f"{name}: {rows} rows were backed up, {result.rows} were sent, and the target"
                f" took {cursor.rowcount}"
            )
    return result


def load_large_objects(
    sessions: TargetSessions, sealed: Sealed, objects: LargeObjects, seed: int, reporter: Reporter
) -> RowSum:
    """Make the large objects again, with their numbers."""
    total = RowSum()
    for part in objects.parts:
        with sessions.borrow() as connection, connection.transaction():
            connection.execute(CREATE_LARGE_OBJECT_STAGING.encode())
            total += _copy(
                connection,
                COPY_LARGE_OBJECTS_IN,
                sealed.text(part),
                part.rows,
                "large objects",
                RowDigest(seed),
                reporter,
            )
            for statement in LARGE_OBJECTS_FROM_STAGING:
                connection.execute(statement.encode())
    return total


def set_large_object_properties(
    sessions: TargetSessions, objects: LargeObjects, *, owners: bool, privileges: bool
) -> None:
    """Owners, grants and comments."""
    run_statements(sessions, large_object_properties(objects, owners=owners, privileges=privileges))


def set_sequences(sessions: TargetSessions, values: Iterable[SequenceValue]) -> None:
    """Put sequences where they stood."""
    run_statements(sessions, (set_sequence(value) for value in values))


def run_statements(sessions: TargetSessions, statements: Iterable[str]) -> None:
    """Run statements in one transaction."""
    with sessions.borrow() as connection, connection.transaction():
        for statement in statements:
            connection.execute(statement.encode())


def is_damage(error: PgkeepError) -> bool:
    """Whether an error means that stored bytes are lost, and other parts may still be whole."""
    return isinstance(error, DamagedObject | ObjectMissing)
