"""A backup from begin to end: snapshot, read, seal, publish."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from pgkeep import __version__
from pgkeep.backup.plan import BackupPlan, plan_backup
from pgkeep.backup.read import Reading, ReadOptions, read_all
from pgkeep.backup.source import Source, open_source
from pgkeep.config import BackupConfig
from pgkeep.events import Reporter, StageBegan, StageEnded
from pgkeep.model import (
    FORMAT,
    BackupId,
    Contents,
    Kind,
    LargeObjects,
    Manifest,
    SealedStream,
    TableName,
    Tier,
    Totals,
)
from pgkeep.postgres.address import Address
from pgkeep.postgres.archive import matviews_in_order, read_archive
from pgkeep.postgres.programs import ChooseClient
from pgkeep.repository.hostkeys import Epoch, HostKeys
from pgkeep.repository.instructions import restore_script
from pgkeep.repository.manifests import dump_contents
from pgkeep.repository.objects import StreamWriter
from pgkeep.repository.repository import Repository
from pgkeep.sealing import X25519Recipient

PUBLISHING = "publishing"


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """What to back up, how, and where to. All repositories get the same bytes."""

    database: str
    address: Address
    kind: Kind
    tier: Tier
    repositories: Sequence[Repository]
    recipients: tuple[str, ...]
    keys: HostKeys
    choose_client: ChooseClient
    options: BackupConfig
    jobs: int
    now: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class BackupResult:
    """The published manifest and what it says in private."""

    manifest: Manifest
    contents: Contents


def back_up(request: BackupRequest, reporter: Reporter) -> BackupResult:
    """Make one backup in every repository, or raise and leave none that is visible."""
    started = request.now().astimezone(UTC)
    signer = request.keys.signing_key().public
    epoch = request.keys.epoch(request.recipients, now=started)
    with ExitStack() as stack:
        for repository in request.repositories:
            stack.enter_context(repository.exclusive(f"backup of {request.database!r}"))
            repository.prepare(epoch, signer)
        backup = BackupId.begin(started)
        source, reading, plan = _read(request, epoch, reporter)
        contents = _contents(request, backup, source, reading, plan, epoch)
        manifest = _seal(request, contents, started, epoch)
        _publish(request, manifest, reporter)
    return BackupResult(manifest, contents)


def plan_only(request: BackupRequest) -> BackupPlan:
    """What `back_up` would read now. Takes a snapshot, reads the catalog, and writes nothing."""
    with open_source(
        request.address, lock_timeout_seconds=request.options.lock_timeout_seconds
    ) as source:
        return _plan(request, source)


def _plan(request: BackupRequest, source: Source) -> BackupPlan:
    return plan_backup(
        request.kind,
        source.relations,
        source.large_objects,
        part_pages=request.options.part_pages,
    )


def _read(
    request: BackupRequest, epoch: Epoch, reporter: Reporter
) -> tuple[Source, Reading, BackupPlan]:
    """All that needs the source; its snapshot is given back as soon as the last part is read."""
    with open_source(
        request.address, lock_timeout_seconds=request.options.lock_timeout_seconds
    ) as source:
        plan = _plan(request, source)
        options = ReadOptions(
            programs=request.choose_client(
                source.major,
                need_tls=request.address.needs_tls,
                server_version=source.point.server_version,
            ),
            address=request.address,
            jobs=request.jobs,
            lock_timeout_seconds=request.options.lock_timeout_seconds,
            max_seconds=request.options.max_snapshot_hours * 3600,
            new_writer=lambda: _writer(request, epoch),
        )
        return source, read_all(source, plan, options, reporter), plan


def _contents(
    request: BackupRequest,
    backup: BackupId,
    source: Source,
    reading: Reading,
    plan: BackupPlan,
    epoch: Epoch,
) -> Contents:
    has_data = request.kind.has_data
    return Contents(
        format=FORMAT,
        backup=backup,
        point=source.point,
        database=source.properties,
        schema=_stored(request, epoch, reading.schema_archive),
        roles_script=_stored(request, epoch, reading.roles_script),
        roles=source.roles if request.kind.has_schema else (),
        tables=reading.tables,
        sequences=source.sequences if has_data else (),
        large_objects=_large_objects(plan, reading) if has_data else LargeObjects(),
        populated_matviews=_populated_matviews(source, reading),
        not_kept=(*plan.not_kept, *source.not_kept, *reading.not_kept),
    )


def _populated_matviews(source: Source, reading: Reading) -> tuple[TableName, ...]:
    """Those to fill at restore, each after those that it reads."""
    populated = [item for item in source.relations if item.kind == "m" and item.populated]
    names = {item.name for item in populated}
    if not reading.schema_archive:  # a data backup: older ones cannot read younger ones
        return tuple(item.name for item in sorted(populated, key=lambda item: item.oid))
    entries = matviews_in_order(read_archive(reading.schema_archive))
    ordered = [TableName(entry.namespace, entry.tag) for entry in entries]
    return tuple(name for name in ordered if name in names)


def _large_objects(plan: BackupPlan, reading: Reading) -> LargeObjects:
    return LargeObjects(
        owners=tuple((item.oid, item.owner) for item in plan.large_objects),
        comments=tuple((item.oid, item.comment) for item in plan.large_objects if item.comment),
        grants=tuple((item.oid, item.grants) for item in plan.large_objects if item.has_grants),
        parts=reading.large_object_parts,
    )


def _stored(request: BackupRequest, epoch: Epoch, data: bytes) -> SealedStream | None:
    if not data:
        return None
    writer = _writer(request, epoch)
    writer.write(data)
    return writer.close()


def _writer(request: BackupRequest, epoch: Epoch, *also_for: X25519Recipient) -> StreamWriter:
    """A stream into all repositories, sealed to the epoch (and to others)."""
    return StreamWriter(
        [repository.store for repository in request.repositories],
        [epoch.key.recipient, *also_for],
        level=request.options.compression_level,
    )


def _seal(request: BackupRequest, contents: Contents, started: datetime, epoch: Epoch) -> Manifest:
    """Store the table of contents and the restore script, and make the public manifest."""
    table_of_contents = _writer(request, epoch, request.keys.index_key().recipient)
    table_of_contents.write(dump_contents(contents))
    script = _writer(request, epoch)
    script.write(restore_script(contents, request.kind).encode())
    streams = contents.streams()
    private, scripted = table_of_contents.close().objects, script.close().objects
    objects = tuple({item.name: item for stream in streams for item in stream.objects}.values())
    finished = request.now().astimezone(UTC)
    sequence, previous = _link(request)
    return Manifest(
        format=FORMAT,
        backup=contents.backup,
        database=request.database,
        kind=request.kind,
        tier=request.tier,
        sequence=sequence,
        previous=previous,
        host=socket.gethostname(),
        tool=f"pgkeep {__version__}",
        server_version=contents.point.server_version,
        started=started,
        finished=finished,
        seconds=round((finished - started).total_seconds(), 3),
        epoch=epoch.id,
        contents=private,
        script=scripted,
        objects=objects,
        totals=Totals(
            tables=len(contents.tables),
            rows=contents.rows,
            large_objects=len(contents.large_objects.owners),
            database_bytes=contents.database.size_bytes,
            text_bytes=sum(stream.plain_bytes for stream in streams),
            stored_bytes=sum(item.size_bytes for item in (*private, *scripted, *objects)),
            parts_read=sum(len(table.parts) for table in contents.tables)
            + len(contents.large_objects.parts),
            parts_reused=0,
        ),
        not_kept=len(contents.not_kept),
    )


def _link(request: BackupRequest) -> tuple[int, str]:
    """The next number of this database's backups, and the hash of the newest manifest so far.

    A chain shows later if somebody hid the newest backups.
    """
    trusted = (request.keys.signing_key().public,)
    newest: tuple[int, str] = (0, "")
    for repository in request.repositories:
        listing = repository.backups(lambda: trusted, request.database)
        for manifest in listing.backups:
            if manifest.sequence > newest[0]:
                data = repository.store.get(manifest.path)
                newest = (manifest.sequence, sha256(data).hexdigest())
    return newest[0] + 1, newest[1]


def _publish(request: BackupRequest, manifest: Manifest, reporter: Reporter) -> None:
    reporter.report(StageBegan(PUBLISHING))
    key = request.keys.signing_key()
    for repository in request.repositories:
        repository.publish(manifest, key)
    reporter.report(StageEnded(PUBLISHING, f"signed, stored and read back: {manifest.backup}"))
