"""Files beside the database: those that changed are read, packed, sealed; all others used again.

They are read after the snapshot was given back, so a file may have been replaced or removed since:
then its row is looked at again, and what can be had is kept, and told of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from threading import Lock
from typing import Self

from pgkeep.errors import FileGone, FilesUnavailable
from pgkeep.events import Noticed, Progressed, Reporter, StageBegan, StageEnded
from pgkeep.model import BucketFiles, FileRecord, FilesContents, NotKept, SealedStream
from pgkeep.platforms.file_rows import FileRow, file_rows
from pgkeep.platforms.file_services import FileService
from pgkeep.postgres.address import Address
from pgkeep.postgres.session import Connection, connect, translated
from pgkeep.repository.file_listings import dump_records, load_records
from pgkeep.repository.objects import StreamWriter

STAGE = "files"
_SMALL_BYTES = 4 << 20
_PACK_BYTES = 30 << 20  # so that a pack is one object
_TRIED_IN_VAIN = 8


@dataclass(frozen=True, slots=True)
class KeptFiles:
    """What came of it."""

    contents: FilesContents
    not_kept: tuple[NotKept, ...]
    read_bytes: int
    read_files: int


@dataclass(frozen=True, slots=True)
class EarlierFiles:
    """What an earlier backup keeps, if its packs are all there."""

    records: tuple[FileRecord, ...] = ()
    packs: tuple[SealedStream, ...] = ()


@dataclass(frozen=True, slots=True)
class FilesRequest:
    """What to read and where to put it."""

    rows: Sequence[FileRow]
    earlier: EarlierFiles
    service: FileService
    jobs: int
    new_writer: Callable[[], StreamWriter]
    keep_listing: Callable[[bytes], SealedStream]
    look_again: Callable[[str, str], FileRow | None]
    """The row of a bucket and name as it is now."""


class FreshRows:
    """Rows of files as they are now, over one connection, made only if it is needed."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection: Connection | None = None
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def look(self, bucket: str, name: str) -> FileRow | None:
        """The row of a bucket and name, if there is one."""
        with self._lock, translated(self._address):
            if self._connection is None:
                self._connection = connect(self._address)
            return next(iter(file_rows(self._connection, name=(bucket, name))), None)


def keep_files(request: FilesRequest, reporter: Reporter) -> KeptFiles:
    """Read what changed, and put all together."""
    work = _Work(request, reporter)
    changed = work.reuse()
    reporter.report(StageBegan(STAGE, sum(max(one.size_bytes, 0) for one in changed)))
    work.read(changed)
    kept = work.result()
    summary = f"{kept.read_files:,} of {kept.contents.files:,} files read"
    reporter.report(StageEnded(STAGE, summary))
    return kept


@dataclass(slots=True)
class _Pack:
    """A pack that is being filled."""

    writer: StreamWriter
    number: int
    size_bytes: int = 0


@dataclass(slots=True)
class _Work:
    request: FilesRequest
    reporter: Reporter
    records: list[FileRecord] = field(default_factory=list)
    packs: list[SealedStream | None] = field(default_factory=list)
    not_kept: list[NotKept] = field(default_factory=list)
    by_hash: dict[str, FileRecord] = field(default_factory=dict)
    read_bytes: int = 0
    read_files: int = 0
    open_pack: _Pack | None = None
    in_a_row: int = 0
    """How many files in a row the storage did not give, whatever it is that keeps it from that."""
    silent: int = 0
    """How many were not even asked for after so many."""

    def reuse(self) -> list[FileRow]:
        """Take over what has not changed; the rows of all others."""
        self.packs = list(self.request.earlier.packs)
        known = {_identity(one): one for one in self.request.earlier.records}
        self.by_hash = {one.sha256: one for one in self.request.earlier.records}
        changed = []
        for row in self.request.rows:
            before = known.get(row.identity)
            if before is None:
                changed.append(row)
            else:
                self.records.append(_described(before, row))
        return changed

    def read(self, rows: Sequence[FileRow]) -> None:
        """Small ones several at once, large ones one after the other, through bounded memory."""
        small = (one for one in rows if 0 <= one.size_bytes <= _SMALL_BYTES)
        with ThreadPoolExecutor(self.request.jobs, "pgkeep-files") as executor:
            while some := list(islice(small, self.request.jobs * 2)):
                for row, found in executor.map(self._fetch, some):
                    if found is not None:
                        self._pack(row, found)
        for row in rows:
            if not 0 <= row.size_bytes <= _SMALL_BYTES:
                self._stream(row)
        self._close_pack()

    def _fetch(self, row: FileRow) -> tuple[FileRow, bytes | None]:
        found = self._patiently(row, lambda one: self._whole(one))
        return found if found is not None else (row, None)

    def _whole(self, row: FileRow) -> bytes:
        opened = self.request.service.read(row.bucket, row.name)
        data = bytearray()
        for block in opened.blocks:
            data += block
            self.reporter.report(Progressed(STAGE, len(block), 0))
            if len(data) > 8 * _SMALL_BYTES:
                raise FileGone(f"{row.bucket}/{row.name} is larger than the database says")
        _check_same(row, opened.etag, len(data))
        return bytes(data)

    def _patiently(
        self, row: FileRow, read: Callable[[FileRow], bytes]
    ) -> tuple[FileRow, bytes] | None:
        """A file that is not the one of the snapshot is read as it is now, if it is there."""
        if self.in_a_row >= _TRIED_IN_VAIN:
            self.silent += 1
            return None
        try:
            found = row, read(row)
            self.in_a_row = 0
            return found
        except FileGone as first:
            now = self.request.look_again(row.bucket, row.name)
            if now is None or now.identity == row.identity:
                why = "it was removed meanwhile" if now is None else first.message
                self._miss(row, why)
                return None
        except FilesUnavailable as exc:
            self.in_a_row += 1
            self._miss(row, exc.message)
            return None
        try:
            found = now, read(now)
        except (FileGone, FilesUnavailable) as exc:
            self._miss(row, exc.message)
            return None
        what = f"file {row.bucket}/{row.name} as it was at the snapshot"
        self.not_kept.append(NotKept(what, "it was replaced meanwhile: the newer one is kept"))
        return found

    def _miss(self, row: FileRow, why: str) -> None:
        self.not_kept.append(NotKept(f"file {row.bucket}/{row.name}", why))
        self.reporter.report(Noticed(f"file {row.bucket}/{row.name} is not kept: {why}"))

    def _pack(self, row: FileRow, data: bytes) -> None:
        digest = sha256(data).hexdigest()
        self.read_bytes, self.read_files = self.read_bytes + len(data), self.read_files + 1
        known = self.by_hash.get(digest)
        if known is not None and known.size_bytes == len(data):
            self._add(row, digest, len(data), known.pack, known.offset)
            return
        pack = self.open_pack
        if pack is None or pack.size_bytes + len(data) > _PACK_BYTES:
            pack = self._begin_pack()
        pack.writer.write(data)
        self._add(row, digest, len(data), pack.number, pack.size_bytes)
        pack.size_bytes += len(data)

    def _begin_pack(self) -> _Pack:
        self._close_pack()
        self.open_pack = _Pack(self.request.new_writer(), len(self.packs))
        self.packs.append(None)
        return self.open_pack

    def _close_pack(self) -> None:
        if self.open_pack is not None:
            self.packs[self.open_pack.number] = self.open_pack.writer.close()
            self.open_pack = None

    def _stream(self, row: FileRow) -> None:
        """A large file, in a pack of its own, never whole in memory."""
        found = self._patiently(row, self._stream_into_a_pack)
        if found is None:
            return
        row, told = found
        digest, size = told.decode().split()
        self._add(row, digest, int(size), len(self.packs) - 1, 0)
        self.read_files += 1
        self.read_bytes += int(size)

    def _stream_into_a_pack(self, row: FileRow) -> bytes:
        """Returns digest and size."""
        opened = self.request.service.read(row.bucket, row.name)
        writer, digest, size = self.request.new_writer(), sha256(), 0
        for block in opened.blocks:
            writer.write(block)
            digest.update(block)
            size += len(block)
            self.reporter.report(Progressed(STAGE, len(block), 0))
        _check_same(row, opened.etag, size)
        self.packs.append(writer.close())
        return f"{digest.hexdigest()} {size}".encode()

    def _add(self, row: FileRow, digest: str, size: int, pack: int, offset: int) -> None:
        record = FileRecord(
            row.bucket, row.name, row.version, row.etag, size, digest, pack, offset,
            row.mime_type, row.cache_control, row.owner_id, row.created, row.user_metadata,
        )  # fmt: skip
        self.records.append(record)
        self.by_hash[digest] = record

    def result(self) -> KeptFiles:
        """With the packs that are still needed, numbered anew."""
        used = sorted({one.pack for one in self.records})
        if self.silent:
            self.not_kept.append(
                NotKept(f"{self.silent:,} more files", "the storage gave none of those before them")
            )
        numbers = {old: new for new, old in enumerate(used)}
        records = sorted(
            (replace(one, pack=numbers[one.pack]) for one in self.records),
            key=lambda one: (one.bucket, one.name),
        )
        packs = tuple(stream for at in used if (stream := self.packs[at]) is not None)
        listing = self.request.keep_listing(b"".join(dump_records(records)))
        contents = FilesContents(tuple(_buckets(records)), packs, listing)
        return KeptFiles(contents, tuple(self.not_kept), self.read_bytes, self.read_files)


def _identity(one: FileRecord) -> tuple[str, str, str, str, int]:
    return one.bucket, one.name, one.version, one.etag, one.size_bytes


def _described(before: FileRecord, row: FileRow) -> FileRecord:
    """The same bytes, served and owned as the row says now."""
    return replace(
        before, mime_type=row.mime_type, cache_control=row.cache_control, owner_id=row.owner_id,
        created=row.created, user_metadata=row.user_metadata,
    )  # fmt: skip


def _check_same(row: FileRow, etag: str, size: int) -> None:
    """The bytes must be those that the row speaks of."""
    told = row.etag.strip('"')
    if (row.size_bytes >= 0 and size != row.size_bytes) or (told and etag.strip('"') != told):
        raise FileGone(f"{row.bucket}/{row.name} is another one than the database says")


def _buckets(records: Iterable[FileRecord]) -> Iterator[BucketFiles]:
    files: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for one in records:
        files[one.bucket] += 1
        sizes[one.bucket] += one.size_bytes
    for bucket in sorted(files):
        yield BucketFiles(bucket, files[bucket], sizes[bucket])


def usable(
    earlier: FilesContents | None, sizes: Mapping[str, int], read: Callable[[SealedStream], bytes]
) -> EarlierFiles:
    """What an earlier backup keeps, but for packs that are not there any more.

    `sizes` are those of the objects that may be used again, by path; `read` opens the listing.
    """
    if earlier is None:
        return EarlierFiles()
    there = {
        number
        for number, pack in enumerate(earlier.packs)
        if all(sizes.get(item.name.path) == item.size_bytes for item in pack.objects)
    }
    records = [one for one in load_records(read(earlier.listing)) if one.pack in there]
    return EarlierFiles(tuple(records), earlier.packs)
