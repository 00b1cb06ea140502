"""A backup from begin to end: snapshot, read, seal, publish."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pgkeep import __version__
from pgkeep.backup.earlier import Earlier, look_back, stored_tables
from pgkeep.backup.examine import Connecting, changed_parts
from pgkeep.backup.files import (
    EarlierFiles,
    FilesRequest,
    FreshRows,
    KeptFiles,
    keep_files,
    usable,
)
from pgkeep.backup.lastmade import LastMade, note_last_made, read_last_made
from pgkeep.backup.plan import BackupPlan, Preview, Reusable, plan_backup
from pgkeep.backup.read import Reading, ReadOptions, read_all
from pgkeep.backup.source import Source, open_source
from pgkeep.backup.unfinished import StoredPart, UnfinishedBackup, still_usable
from pgkeep.config import BackupConfig
from pgkeep.errors import PgkeepError
from pgkeep.events import Noticed, Reporter, StageBegan, StageEnded
from pgkeep.model import (
    CLOCK_TOLERANCE,
    FORMAT,
    BackupId,
    Contents,
    Hosting,
    Kind,
    LargeObjects,
    Manifest,
    Part,
    SealedStream,
    TableName,
    Tier,
    Totals,
)
from pgkeep.platforms.file_services import FileService
from pgkeep.platforms.private import dump_jobs, dump_secrets, dump_verifiers
from pgkeep.postgres.address import Address
from pgkeep.postgres.archive import read_archive
from pgkeep.postgres.programs import ChooseClient
from pgkeep.postgres.selection import matviews_in_order
from pgkeep.repository.copies import Behind, Copies
from pgkeep.repository.hostkeys import Epoch, HostKeys
from pgkeep.repository.instructions import restore_script
from pgkeep.repository.manifests import dump_contents, manifest_digest
from pgkeep.repository.objects import ObjectSource, StreamWriter, read_stream
from pgkeep.sealing import X25519Recipient, check_recipients

PUBLISHING = "publishing"


@dataclass(frozen=True, slots=True)
class FileSource:
    """Where files are read, and which."""

    service: FileService
    buckets: tuple[str, ...]
    jobs: int


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """What to back up, how, and where to. All copies get the same bytes."""

    database: str
    address: Address
    kind: Kind
    tier: Tier
    copies: Copies
    recipients: tuple[str, ...]
    keys: HostKeys
    choose_client: ChooseClient
    options: BackupConfig
    jobs: int
    now: Callable[[], datetime]
    read_everything: bool = False
    gpg_home: Path | None = None
    ledger: str = ""
    """Where the host's ledger stands, to be signed with the manifest."""
    files: FileSource | None = None
    """Where the files beside the database are, if they are to be kept."""


@dataclass(frozen=True, slots=True)
class BackupResult:
    """The published manifest and what it says in private."""

    manifest: Manifest
    contents: Contents
    differing: tuple[TableName, ...]
    """Tables that differed from what was stored although nothing had shown a change."""
    behind: tuple[Behind, ...]
    """Repositories that have not got it."""


def back_up(request: BackupRequest, reporter: Reporter) -> BackupResult:
    """Make one backup in every repository that keeps up, or raise and leave none."""
    started = request.now().astimezone(UTC)
    _check_recipients(request, started, reporter)
    signer = request.keys.signing_key().public
    epoch = request.keys.epoch(request.recipients, now=started, gpg_home=request.gpg_home)
    note = UnfinishedBackup(_note_path(request), request.keys.index_key())
    with request.copies.writing(f"backup of {request.database!r}"), closing(note):
        request.copies.prepare(epoch, signer, started)
        for remark in request.copies.remarks:
            reporter.report(Noticed(f"repository {remark.name!r}: {remark.message}", remark.hint))
        backup = BackupId.begin(started)
        store = _Storing(request, epoch, started, note)
        earlier = _look_back(request, epoch.id, started, note.parts())
        if request.read_everything or request.keys.is_distrusted(request.database):
            note.forget()
        source, reading, plan = _read(request, earlier, store, reporter)
        _tell_of_problem(note, reporter)
        files = _keep_files(request, source, earlier, store, reporter)
        contents = _contents(backup, source, reading, plan, earlier, store)
        if files is not None:
            not_kept = (*contents.not_kept, *files.not_kept)
            contents = replace(contents, files=files.contents, not_kept=not_kept)
        manifest = _seal(request, contents, reading, earlier, store)
        _publish(request, manifest, reporter)
        note_last_made(
            _last_made_path(request), LastMade(manifest.sequence, manifest_digest(manifest))
        )
        note.forget()
        if request.kind.has_data and not reading.parts_reused:
            request.keys.trust_again(request.database)
    return BackupResult(manifest, contents, reading.differing, request.copies.behind)


def _check_recipients(request: BackupRequest, now: datetime, reporter: Reporter) -> None:
    for problem in check_recipients(request.recipients, request.gpg_home, now=now):
        if problem.error is not None:
            raise problem.error
        reporter.report(Noticed(problem.message, problem.hint))


def _tell_of_problem(note: UnfinishedBackup, reporter: Reporter) -> None:
    if note.problem:
        reporter.report(
            Noticed(
                f"what is stored could not be noted in the state folder: {note.problem}",
                "Had this backup been cut off, the next one would have begun anew.",
            )
        )


def preview(request: BackupRequest, reporter: Reporter) -> Preview:
    """What `back_up` would read now: the database is asked what changed, and nothing is written."""
    request.copies.look()
    earlier = _known_already(request)
    with open_source(
        request.address,
        lock_timeout_seconds=request.options.lock_timeout_seconds,
        reads_rows=False,
    ) as source:
        plan = _plan(request, source, earlier)
        if request.kind.has_data:
            _tell_why_everything_is_read(source, earlier, reporter)
        if all(part.previous is None for part in plan.parts):
            return Preview(plan, plan.parts)
        connecting = _connecting(request, source)
        return Preview(plan, changed_parts(source, plan, connecting, jobs=request.jobs))


def _known_already(request: BackupRequest) -> Earlier:
    """What there is to build on, with the keys that are there: none is made."""
    keys, now = request.keys, request.now().astimezone(UTC)
    index_key = keys.existing_index_key()
    epoch = keys.existing_epoch(request.recipients, now=now, gpg_home=request.gpg_home)
    if index_key is None or epoch is None or keys.existing_signing_key() is None:
        return Earlier()
    note = UnfinishedBackup(_note_path(request), index_key)
    return _look_back(request, epoch.id, now, note.parts(mend=False))


def _note_path(request: BackupRequest) -> Path:
    return request.keys.folder / "unfinished" / request.database


def _last_made_path(request: BackupRequest) -> Path:
    return request.keys.folder / "made" / request.database


def _connecting(request: BackupRequest, source: Source) -> Connecting:
    programs = request.choose_client(
        source.major,
        need_tls=request.address.needs_tls,
        server_version=source.point.server_version,
    )
    return Connecting(programs, request.address, request.options.lock_timeout_seconds)


def _plan(request: BackupRequest, source: Source, earlier: Earlier) -> BackupPlan:
    stored = request.copies.reusable(request.now()) if not earlier.is_empty else {}
    tables = {} if earlier.is_empty else stored_tables(earlier, stored)
    return plan_backup(
        request.kind,
        source.relations,
        source.large_objects,
        part_pages=request.options.part_pages,
        reusable=Reusable(tables, source.keys.keys, source.point.horizon),
    )


def _look_back(
    request: BackupRequest, epoch: str, now: datetime, noted: tuple[StoredPart, ...]
) -> Earlier:
    days = request.options.full_read_days
    earlier = look_back(
        request.copies,
        request.database,
        request.keys,
        epoch=epoch,
        now=now,
        full_read_days=days,
        last=read_last_made(_last_made_path(request)),
    )
    if request.read_everything:
        return replace(earlier, contents=None, why="")
    if request.keys.is_distrusted(request.database):
        why = "a stored part was found wrong, and no full read has ended since"
        return replace(earlier, contents=None, why=why if earlier.contents is not None else "")
    unfinished = still_usable(noted, epoch=epoch, now=now, full_read_days=days)
    return replace(earlier, unfinished=unfinished)


class _Storing:
    """Streams into all repositories, sealed to the epoch, and how many bytes that added."""

    def __init__(
        self, request: BackupRequest, epoch: Epoch, started: datetime, unfinished: UnfinishedBackup
    ) -> None:
        self._put = request.copies.put
        self._level = request.options.compression_level
        self._lock = threading.Lock()
        self.epoch = epoch
        self.started = started
        self.unfinished = unfinished
        self.index = request.keys.index_key().recipient
        self.added_bytes = 0

    def stream(self, known: SealedStream | None = None, *also_for: X25519Recipient) -> StreamWriter:
        return StreamWriter(
            self._put,
            [self.epoch.key.recipient, *also_for],
            level=self._level,
            known=known,
            on_stored=self._count,
        )

    def keep(self, data: bytes, *also_for: X25519Recipient) -> SealedStream:
        writer = self.stream(None, *also_for)
        writer.write(data)
        return writer.close()

    def note(self, table: TableName, key: str, part: Part) -> None:
        """Let the next backup use a part again, should this one not come to its end."""
        if key:
            self.unfinished.add(StoredPart(table, key, part, self.epoch.id, self.started))

    def _count(self, size: int) -> None:
        with self._lock:
            self.added_bytes += size


def _read(
    request: BackupRequest, earlier: Earlier, store: _Storing, reporter: Reporter
) -> tuple[Source, Reading, BackupPlan]:
    """All that needs the source; its snapshot is given back as soon as the last part is read."""
    with open_source(
        request.address,
        lock_timeout_seconds=request.options.lock_timeout_seconds,
        reads_rows=request.kind.has_data,
        passwords=request.options.role_passwords,
        file_buckets=request.files.buckets if request.files else None,
    ) as source:
        _tell_of_clocks(source, request.now(), reporter)
        plan = _plan(request, source, earlier)
        if request.kind.has_data:
            _tell_why_everything_is_read(source, earlier, reporter)
        options = ReadOptions(
            _connecting(request, source),
            jobs=request.jobs,
            read_limit=request.options.read_limit,
            max_seconds=request.options.max_snapshot_hours * 3600,
            verify_share=request.options.verify_share,
            new_writer=store.stream,
            on_difference=lambda: request.keys.distrust(request.database),
            on_stored=store.note,
        )
        return source, read_all(source, plan, options, reporter), plan


def _tell_of_clocks(source: Source, now: datetime, reporter: Reporter) -> None:
    """Backups go by the host's clock, moments of the journal by the server's, windows by both."""
    apart = abs(source.point.taken - now)
    if apart > CLOCK_TOLERANCE:
        reporter.report(
            Noticed(
                f"the clocks of this host and of the server are {round(apart.total_seconds())} s"
                " apart",
                "Set the wrong one, for example with NTP: until then the window that status shows"
                " may be wrong by as much.",
            )
        )


def _keep_files(
    request: BackupRequest, source: Source, earlier: Earlier, store: _Storing, reporter: Reporter
) -> KeptFiles | None:
    """Files beside the database, read once its snapshot was given back."""
    wanted = request.files
    if wanted is None or not request.kind.has_data or source.hosting is None:
        return None
    with FreshRows(request.address) as rows:
        return keep_files(
            FilesRequest(
                rows=source.files,
                earlier=_earlier_files(request, earlier),
                service=wanted.service,
                jobs=wanted.jobs,
                new_writer=store.stream,
                keep_listing=lambda data: store.keep(data, store.index),
                look_again=rows.look,
            ),
            reporter,
        )


def _earlier_files(request: BackupRequest, earlier: Earlier) -> EarlierFiles:
    kept = earlier.contents.files if earlier.contents is not None else None
    if kept is None:
        return EarlierFiles()
    index = request.keys.index_key()

    def read(listing: SealedStream) -> bytes:
        answers = request.copies.ask(
            lambda one: b"".join(read_stream(ObjectSource([one.store]), listing, [index]))
        )
        return next(iter(answers))[1]

    try:
        return usable(kept, request.copies.reusable(request.now()), read)
    except (PgkeepError, StopIteration):
        return EarlierFiles()  # all files are read again


def _tell_why_everything_is_read(source: Source, earlier: Earlier, reporter: Reporter) -> None:
    """Where it costs more than people expect: the first backup and one asked for do not."""
    if source.keys.problem:
        reporter.report(
            Noticed(
                f"every backup reads everything: {source.keys.problem}",
                "Back up from the primary, and GRANT EXECUTE ON FUNCTION pg_control_system(),"
                " pg_walfile_name(pg_lsn) to the role.",
            )
        )
    elif earlier.why:
        reporter.report(Noticed(f"everything is read: {earlier.why}"))


def _contents(
    backup: BackupId,
    source: Source,
    reading: Reading,
    plan: BackupPlan,
    earlier: Earlier,
    store: _Storing,
) -> Contents:
    kind = plan.kind
    return Contents(
        format=FORMAT,
        backup=backup,
        point=source.point,
        database=source.properties,
        schema=store.keep(reading.schema_archive) if reading.schema_archive else None,
        roles_script=store.keep(reading.roles_script) if reading.roles_script else None,
        roles=source.roles if kind.has_schema else (),
        tables=reading.tables,
        sequences=source.sequences if kind.has_data else (),
        large_objects=_large_objects(plan, reading) if kind.has_data else LargeObjects(),
        populated_matviews=_populated_matviews(source, reading),
        not_kept=(*plan.not_kept, *source.not_kept, *reading.not_kept),
        full_read=_full_read(store.started, reading, earlier) if kind.has_data else None,
        hosting=_hosting(source, kind, store),
    )


def _hosting(source: Source, kind: Kind, store: _Storing) -> Hosting | None:
    """With secrets, jobs and verifiers sealed: for the operators alone, not for this host.

    Jobs and verifiers go with the schema, as cron and roles do; secrets are data.
    """
    if source.hosting is None:
        return None
    private, hosting = source.private, source.hosting
    if private.secrets and kind.has_data:
        hosting = replace(hosting, secrets=store.keep(dump_secrets(private.secrets)))
    if private.jobs and kind.has_schema:
        hosting = replace(hosting, jobs=store.keep(dump_jobs(private.jobs)))
    if private.passwords and kind.has_schema:
        hosting = replace(hosting, passwords=store.keep(dump_verifiers(private.passwords)))
    return hosting


def _full_read(started: datetime, reading: Reading, earlier: Earlier) -> datetime:
    """When everything was last read: now, unless parts of the earlier backup serve again."""
    if earlier.full_read is None or not reading.parts_reused:
        return started
    return earlier.full_read


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


def _seal(
    request: BackupRequest,
    contents: Contents,
    reading: Reading,
    earlier: Earlier,
    store: _Storing,
) -> Manifest:
    """Store the table of contents and the restore script, and make the public manifest."""
    private = store.keep(dump_contents(contents), store.index).objects
    script = store.keep(restore_script(contents, request.kind).encode()).objects
    streams = contents.streams()
    objects = tuple({item.name: item for stream in streams for item in stream.objects}.values())
    finished = request.now().astimezone(UTC)
    return Manifest(
        format=FORMAT,
        backup=contents.backup,
        database=request.database,
        kind=request.kind,
        tier=request.tier,
        sequence=earlier.sequence + 1,
        previous=earlier.previous,
        host=socket.gethostname(),
        tool=f"pgkeep {__version__}",
        server_version=contents.point.server_version,
        started=store.started,
        finished=finished,
        seconds=round((finished - store.started).total_seconds(), 3),
        epoch=store.epoch.id,
        contents=private,
        script=script,
        objects=objects,
        totals=Totals(
            tables=len(contents.tables),
            rows=contents.rows,
            rows_read=reading.rows_read,
            large_objects=len(contents.large_objects.owners),
            database_bytes=contents.database.size_bytes,
            text_bytes=sum(stream.plain_bytes for stream in streams),
            read_bytes=reading.bytes_read + len(reading.schema_archive) + len(reading.roles_script),
            stored_bytes=sum(item.size_bytes for item in (*private, *script, *objects)),
            added_bytes=store.added_bytes,
            parts_read=reading.parts_read,
            parts_reused=reading.parts_reused,
        ),
        not_kept=len(contents.not_kept),
        ledger=request.ledger,
    )


def _publish(request: BackupRequest, manifest: Manifest, reporter: Reporter) -> None:
    reporter.report(StageBegan(PUBLISHING))
    key = request.keys.signing_key()
    request.copies.publish(manifest, key, request.now)
    for copy in request.copies.behind:
        reporter.report(
            Noticed(
                f"repository {copy.name!r} has not got this backup: {copy.problem.message}",
                f"{copy.problem.hint} Then run: pgkeep sync",
            )
        )
    reporter.report(StageEnded(PUBLISHING, f"signed, stored and read back: {manifest.backup}"))
