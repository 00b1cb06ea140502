"""Beginning a capture: make ready what is missing, go on where the journal ends, or begin anew."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC
from hashlib import sha256

import psycopg

from pgkeep.capture import drift, setup
from pgkeep.capture.capture import (
    Capture,
    CaptureRequest,
    give_up_beyond_the_limit,
    store_segment,
)
from pgkeep.capture.sources import Decoded, Published, Source
from pgkeep.capture.watchdog import watched
from pgkeep.errors import (
    CaptureImpossible,
    DamagedObject,
    JournalInvalid,
    NotAuthentic,
    ObjectMissing,
    SlotLost,
)
from pgkeep.events import Noticed, Reporter
from pgkeep.model import FORMAT, Lsn, Segment, TableName
from pgkeep.postgres.identity import server_identity, server_version
from pgkeep.postgres.session import Connection, connect, lock_timeout_statement, translated
from pgkeep.postgres.slot import LONGEST_PAGE_HEADER_BYTES, Slot, SlotState
from pgkeep.repository.journal import SegmentName, runs

# A server notices a moment later that a capture has ended.
_ENDING_SECONDS = 3.0

# Nothing that capture does may make others wait behind it for long.
_LOCK_TIMEOUT_SECONDS = 0.5

# After so long without a sign of life a connection is ended; decoding all that a slot may hold
# takes its time, in which nothing comes.
_PATIENCE_SECONDS = 900.0
_SLOWEST_BYTES_PER_SECOND = 2_000_000

# Each look at a slot writes a dozen lines into the server's log: quiet, where the role may.
_FOR_THE_SESSION = (
    ("log_min_messages", "fatal"),
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "60000"),
    ("client_connection_check_interval", "5000"),
)


@dataclass(frozen=True, slots=True)
class Begun:
    """How a capture began."""

    capture: Capture
    is_new_chain: bool
    """Whether nothing before this can be continued: the next backup is the first to do so."""
    without_identity: tuple[TableName, ...]
    """Tables whose updates and deletes cannot be captured."""
    is_less_exact: bool = False
    """Whether no event trigger tells when the schema changes."""


def look(request: CaptureRequest) -> setup.Setup:
    """What `begin_capture` would find and do. Changes nothing."""
    with closing(connect(request.address)) as connection, translated(request.address):
        return setup.look(connection, _slot(request, connection), request.plugin)


def made(request: CaptureRequest) -> setup.Made:
    """What `remove` would take away. Changes nothing."""
    with closing(connect(request.address)) as connection, translated(request.address):
        return setup.made(connection, _slot(request, connection))


def remove(request: CaptureRequest) -> setup.Made:
    """Take everything out of the database again. The journal stays as it is."""
    with closing(connect(request.address)) as connection, translated(request.address):
        _lock(connection, request)
        return setup.remove(connection, _slot(request, connection))


@contextmanager
def begin_capture(request: CaptureRequest, reporter: Reporter) -> Iterator[Begun]:
    """Make ready what is missing, and go on where the journal ends, or begin a new chain."""
    with closing(connect(request.address)) as connection, translated(request.address):
        _lock(connection, request)
        slot = _slot(request, connection)
        _guard_session(connection)
        found = setup.look(connection, slot, request.plugin)
        if found.slot is not None:  # before anything that may fail: who fails holds back WAL
            _refuse_what_cannot_be_continued(request, slot, found, found.slot)
        left: tuple[str, ...] = ()
        if not found.is_less_exact:
            setup.make_ready(connection, found)
            left = setup.put_in_step(connection).left
        # Before anything is read: a look has to see the catalog as it was before the changes.
        source = _source(request, connection, slot, found)
        request.copies.make_equal()
        names = request.copies.names()
        tip = _continued(request, slot, connection, found.slot, names)
        is_altered = tip is not None and source.catalog not in ("", tip.catalog)
        tip = None if is_altered else tip
        is_new = tip is None
        if tip is None:
            tip = _new_chain(request, connection, slot, found.plugin, source.catalog, reporter)
        elif found.slot is not None and found.slot.confirmed < tip.end:
            slot.advance(tip.end)  # it was kept, and then we were killed
        if is_altered:
            source.notice()
        if left:
            setup.notice(connection, left)  # what is changed in them until later will be missing
        numbers = [name.sequence for name in names if name.chain == tip.chain]
        number = max(numbers, default=tip.sequence)
        patience = max(_PATIENCE_SECONDS, request.slot_limit_bytes / _SLOWEST_BYTES_PER_SECOND)
        with watched(connection, patience) as watchdog:
            capture = Capture(request, connection, slot, source, tip, number, watchdog.alive)
            unkeyed = setup.tables_without_identity(connection, found.plugin)
            yield Begun(capture, is_new, unkeyed, found.is_less_exact)


def _source(
    request: CaptureRequest, connection: Connection, slot: Slot, found: setup.Setup
) -> Source:
    if not found.is_less_exact:
        return Published(connection, slot)
    return Decoded(connection, slot, _secret(request))


def _secret(request: CaptureRequest) -> bytes:
    """What only this host knows, and finds again: nothing in the database keeps it."""
    text = f"pgkeep: messages of capture in slot {request.slot}".encode()
    return sha256(request.keys.signing_key().sign(text)).digest()[:16]


def _guard_session(connection: Connection) -> None:
    """What keeps a capture from waiting for others, and the server from waiting for a dead one.

    Whoever lost the connection can then take the slot again within a minute or so.
    """
    connection.execute(lock_timeout_statement(_LOCK_TIMEOUT_SECONDS).encode())
    for name, value in _FOR_THE_SESSION:
        try:
            connection.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))
        except psycopg.Error:  # not on this operating system, or not for this role
            continue


def _refuse_what_cannot_be_continued(
    request: CaptureRequest, slot: Slot, found: setup.Setup, state: SlotState
) -> None:
    if not state.lost:
        give_up_beyond_the_limit(slot, state, request.slot_limit_bytes)
    if not found.publishes:
        slot.drop()
        raise SlotLost(f"slot {slot.name!r} was left without a publication, and read past changes")


def _slot(request: CaptureRequest, connection: Connection) -> Slot:
    return Slot(connection, request.slot, setup.PUBLICATIONS)


def _lock(connection: Connection, request: CaptureRequest) -> None:
    """One capture for each slot; the lock ends with the session, soon after its client has."""
    until = time.monotonic() + _ENDING_SECONDS
    while not _has_lock(connection, request.slot):
        if time.monotonic() > until:
            raise CaptureImpossible(
                f"another capture reads slot {request.slot!r} just now",
                hint="Let one host capture a database; a second one needs a slot of its own"
                " (capture.slot).",
            )
        time.sleep(0.1)


def _has_lock(connection: Connection, slot: str) -> bool:
    row = connection.execute(
        "SELECT pg_catalog.pg_try_advisory_lock(%s, pg_catalog.hashtext(%s))",
        (setup.LOCK_CLASS, slot),
    ).fetchone()
    return bool(row and row[0])


def _continued(
    request: CaptureRequest,
    slot: Slot,
    connection: Connection,
    state: SlotState | None,
    names: Sequence[SegmentName],
) -> Segment | None:
    """The newest segment, if the slot gives everything that comes after it."""
    if state is None or state.lost:
        return None
    # Where the slot stands says more than times: a clock may go back, and names tell only seconds.
    at = state.confirmed
    run = max(runs(names), key=lambda one: (one.end == at, one.age), default=None)
    if run is None or at > run.end:
        return None
    try:
        trusted = [request.keys.signing_key().public]
        tip = request.copies.read(run.segments[-1], trusted).head
    except (NotAuthentic, DamagedObject, JournalInvalid, ObjectMissing):
        return None  # not ours, or not whole
    here = server_identity(connection)
    same = (tip.system_identifier, tip.timeline) == (here.system_identifier, here.timeline)
    return tip if same and not _is_set_back(slot, tip) else None


def _is_set_back(slot: Slot, tip: Segment) -> bool:
    """Whether the server's WAL ends before the journal, as where an older disk was put back: what
    comes from here on has positions that the journal has used for something else."""
    return slot.position().lsn + LONGEST_PAGE_HEADER_BYTES < tip.end


def _new_chain(
    request: CaptureRequest,
    connection: Connection,
    slot: Slot,
    plugin: str,
    catalog_digest: str,
    reporter: Reporter,
) -> Segment:
    """A slot, if there is none that can be used, and an empty first segment where it begins."""
    state = slot.state()
    if state is not None and state.lost:
        slot.drop()
        state = None
    if state is None:
        start = _new_slot(connection, slot, plugin, reporter)
    else:
        start = _beyond(slot, state) if catalog_digest else state.confirmed
    identity = server_identity(connection)
    first = Segment(
        format=FORMAT,
        database=request.database,
        chain=secrets.token_hex(8),
        sequence=1,
        previous="",
        start=start,
        end=start,
        begins_whole=True,
        ends_whole=True,
        covered=slot.position().at.astimezone(UTC),
        first_commit=None,
        last_commit=None,
        transactions=0,
        changes=0,
        schema_changes=0,
        barriers=0,
        host="",
        tool="",
        server_version=server_version(connection),
        system_identifier=identity.system_identifier,
        timeline=identity.timeline,
        epoch="",
        plain_bytes=0,
        body_bytes=0,
        body_sha256="",
        catalog=catalog_digest or drift.digest(connection),
    )
    stored = store_segment(request, first, b"")
    reporter.report(
        Noticed(
            f"the journal of {request.database!r} begins anew at {start}",
            "What can be reached from here on begins with the next backup.",
        )
    )
    return stored


def _beyond(slot: Slot, state: SlotState) -> Lsn:
    """Leave out what may be from before tables were altered: the next backup has it."""
    slot.advance(max(slot.position().lsn, state.confirmed))
    now = slot.state()
    return now.confirmed if now is not None else state.confirmed


def _new_slot(connection: Connection, slot: Slot, plugin: str, reporter: Reporter) -> Lsn:
    """Wait as long as it takes, and say for whom."""
    row = connection.execute(
        "SELECT count(*), min(since) FROM ("
        " SELECT xact_start AS since FROM pg_catalog.pg_stat_activity"
        "  WHERE backend_xid IS NOT NULL AND datname IS NOT NULL"
        " UNION ALL SELECT prepared FROM pg_catalog.pg_prepared_xacts) open"
        " WHERE since < pg_catalog.clock_timestamp() - interval '5 seconds'"
    ).fetchone()
    if row and row[0]:
        reporter.report(
            Noticed(
                f"a new slot has to wait for {row[0]} open transactions, the oldest since"
                f" {row[1]:%Y-%m-%d %H:%M:%S} UTC",
                "Look at pg_stat_activity and pg_prepared_xacts for who forgot to commit.",
            )
        )
    connection.execute(lock_timeout_statement(0).encode())
    try:
        start = slot.create(plugin)
    except psycopg.errors.UndefinedFile as exc:
        raise CaptureImpossible(
            f"this role may not make event triggers, and the server has no {plugin}",
            hint="Let a superuser run what pgkeep capture DATABASE --dry-run shows, or install"
            " PostgreSQL's contrib modules on the server.",
        ) from exc
    connection.execute(lock_timeout_statement(_LOCK_TIMEOUT_SECONDS).encode())
    return start
