"""Files out of a backup: into a folder, into a project's storage, or just opened and compared."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from hashlib import sha256
from pathlib import Path

import psycopg

from pgkeep.errors import FilesNotWhole, PgkeepError, StoreFull, UsageError
from pgkeep.events import Progressed, Reporter, StageBegan, StageEnded
from pgkeep.model import Contents, FileRecord, FilesContents
from pgkeep.platforms.file_services import FileService, NewFile
from pgkeep.postgres.address import Address
from pgkeep.postgres.session import Connection, connect, translated
from pgkeep.recovery.load import Sealed
from pgkeep.repository.evidence import CheckResult
from pgkeep.repository.file_listings import load_records

STAGE = "files"
_CACHED_PACKS = 2
_NAME_BYTES = 200
_ODD = re.compile(r"[\x00-\x1f\x7f<>:\"\\|?*]")


@dataclass(frozen=True, slots=True)
class Failed:
    """A file that could not be put back, and why."""

    bucket: str
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class FilesRestored:
    """What came of it."""

    files: int
    size_bytes: int
    failed: tuple[Failed, ...]
    renamed: tuple[tuple[str, str], ...] = ()
    """(bucket/name, path) of files whose name no folder can have."""


def records_of(contents: Contents, sealed: Sealed) -> tuple[FileRecord, ...]:
    """The files that a backup keeps; `UsageError` if it keeps none."""
    if contents.files is None:
        raise UsageError(
            "the backup keeps no files",
            hint="They are kept where [databases.DB.files] is configured.",
        )
    return load_records(b"".join(sealed.open(contents.files.listing)))


def chosen(records: Iterable[FileRecord], patterns: Sequence[str]) -> tuple[FileRecord, ...]:
    """Those whose `bucket/name` matches one of some patterns (`*` crosses slashes); all if none."""
    return tuple(
        one
        for one in records
        if not patterns or any(fnmatchcase(f"{one.bucket}/{one.name}", each) for each in patterns)
    )


class _Bytes:
    """The bytes of files, checked against their hashes; packs are opened once in a row."""

    def __init__(self, files: FilesContents, sealed: Sealed) -> None:
        self._files = files
        self._sealed = sealed
        self._open: dict[int, bytes] = {}

    def of(self, one: FileRecord) -> Iterator[bytes]:
        """A large file in pieces, a small one in one. `FilesNotWhole` at the end if it differs."""
        digest, size = sha256(), 0
        for piece in self._pieces(one):
            digest.update(piece)
            size += len(piece)
            yield piece
        if (digest.hexdigest(), size) != (one.sha256, one.size_bytes):
            raise FilesNotWhole(f"{one.bucket}/{one.name} is not what was backed up")

    def _pieces(self, one: FileRecord) -> Iterator[bytes]:
        stream = self._files.packs[one.pack]
        if len(stream.objects) > 1 or stream.plain_bytes == one.size_bytes:
            yield from self._sealed.open(stream)
            return
        if one.pack not in self._open:
            while len(self._open) >= _CACHED_PACKS:
                self._open.pop(next(iter(self._open)))
            self._open[one.pack] = b"".join(self._sealed.open(stream))
        yield self._open[one.pack][one.offset : one.offset + one.size_bytes]


def _in_order(records: Iterable[FileRecord]) -> list[FileRecord]:
    """By pack, so that each is opened once."""
    return sorted(records, key=lambda one: (one.pack, one.offset))


# --- into a folder ----------------------------------------------------------------------------


def to_folder(
    contents: Contents,
    sealed: Sealed,
    records: Sequence[FileRecord],
    folder: Path,
    reporter: Reporter,
) -> FilesRestored:
    """Write files as `folder/bucket/name`; what is there already is refused before anything is."""
    assert contents.files is not None
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"folder {str(folder)!r} is not empty", hint="Choose another.")
    paths = dict(_paths(records))
    source = _Bytes(contents.files, sealed)

    def write(one: FileRecord) -> None:
        path = folder / paths[one.bucket, one.name]
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{sha256(path.name.encode()).hexdigest()[:16]}.part")
        try:
            with unfinished.open("xb") as stream:
                for piece in source.of(one):
                    stream.write(piece)
            unfinished.rename(path)
        except OSError as exc:
            raise StoreFull(f"cannot write {str(path)!r}: {(exc.strerror or '').lower()}") from exc
        finally:
            unfinished.unlink(missing_ok=True)

    done = _each(records, write, reporter)
    renamed = tuple(
        (f"{bucket}/{name}", path)
        for (bucket, name), path in paths.items()
        if path != f"{bucket}/{name}"
    )
    return FilesRestored(done.files, done.size_bytes, done.failed, renamed)


def _paths(records: Iterable[FileRecord]) -> Iterator[tuple[tuple[str, str], str]]:
    """A path within the folder for each, none of which leads out of it or to another's."""
    taken: set[str] = set()
    for one in sorted(records, key=lambda each: (each.bucket, each.name)):
        parts = [_safe(part) for part in (one.bucket, *one.name.split("/"))]
        path = "/".join(parts)
        if _clashes(path.lower(), taken):
            digest = sha256(f"{one.bucket}/{one.name}".encode()).hexdigest()[:12]
            path = f"{parts[0]}/{digest}~{parts[-1]}"
        taken |= {path.lower(), *(f"{parent}/" for parent in _parents(path.lower()))}
        yield (one.bucket, one.name), path


def _clashes(path: str, taken: set[str]) -> bool:
    """Whether a file has that path, or is where this one needs a folder, or the other way round."""
    return path in taken or f"{path}/" in taken or any(one in taken for one in _parents(path))


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:at]) for at in range(1, len(parts))]


def _safe(part: str) -> str:
    """A part of a path that every file system takes: not empty, no way up, not too long."""
    text = _ODD.sub("_", part).rstrip(" .") or "_"
    if len(text.encode()) > _NAME_BYTES:
        digest = sha256(part.encode()).hexdigest()[:12]
        text = text.encode()[:_NAME_BYTES].decode("utf-8", "ignore") + f"~{digest}"
    return text


# --- into a project ---------------------------------------------------------------------------


def to_storage(
    contents: Contents,
    sealed: Sealed,
    records: Sequence[FileRecord],
    service: FileService,
    target: Address | None,
    reporter: Reporter,
) -> FilesRestored:
    """Upload files; then say in the database, if it is named, whose they are and since when.

    Buckets must be there (a restore of the database makes them). The storage gives each file a new
    version, which must stay: the bytes lie under it.
    """
    assert contents.files is not None
    source = _Bytes(contents.files, sealed)
    connection = connect(target) if target is not None else None
    try:

        def put(one: FileRecord) -> None:
            new = NewFile(one.bucket, one.name, one.mime_type, one.cache_control, one.size_bytes)
            service.write(new, partial(source.of, one))
            if connection is not None and target is not None:
                with translated(target):
                    _describe(connection, one)

        return _each(records, put, reporter)
    finally:
        if connection is not None:
            connection.close()


def _describe(connection: Connection, one: FileRecord) -> None:
    """Owner, own metadata and age: the upload knows none of them."""
    values = {"bucket": one.bucket, "name": one.name, "owner": one.owner_id or None,
              "created": one.created or None, "user": one.user_metadata or None}  # fmt: skip
    try:
        connection.execute(
            "UPDATE storage.objects SET owner_id = %(owner)s, user_metadata = %(user)s::jsonb,"
            " created_at = COALESCE(%(created)s::timestamptz, created_at)"
            " WHERE bucket_id = %(bucket)s AND name = %(name)s",
            values,
        )
    except psycopg.errors.UndefinedColumn:  # an older project
        connection.execute(
            "UPDATE storage.objects SET created_at = COALESCE(%(created)s::timestamptz, created_at)"
            " WHERE bucket_id = %(bucket)s AND name = %(name)s",
            values,
        )


def _each(
    records: Sequence[FileRecord], do: Callable[[FileRecord], None], reporter: Reporter
) -> FilesRestored:
    """One after the other; what fails is noted, and the others go on."""
    reporter.report(StageBegan(STAGE, sum(one.size_bytes for one in records)))
    done, size, failed = 0, 0, []
    for one in _in_order(records):
        try:
            do(one)
        except StoreFull:
            raise
        except PgkeepError as exc:
            failed.append(Failed(one.bucket, one.name, exc.message))
            continue
        done, size = done + 1, size + one.size_bytes
        reporter.report(Progressed(STAGE, one.size_bytes, 0))
    reporter.report(StageEnded(STAGE, f"{done:,} files"))
    return FilesRestored(done, size, tuple(failed))


# --- for a drill ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """How much of the files a drill opens: so many, chosen at random, up to so many bytes."""

    files: int = 50
    size_bytes: int = 256 << 20
    random: random.Random = field(default_factory=random.SystemRandom)


def check_files(contents: Contents, sealed: Sealed, sample: Sample) -> CheckResult | None:
    """Open some files and compare each with its hash; None if the backup keeps none."""
    if contents.files is None:
        return None
    records = list(records_of(contents, sealed))
    sample.random.shuffle(records)
    source, opened, size = _Bytes(contents.files, sealed), 0, 0
    some: list[FileRecord] = []
    for one in records:
        if len(some) < sample.files and size + one.size_bytes <= sample.size_bytes:
            some.append(one)
            size += one.size_bytes
    for one in _in_order(some):
        try:
            for _ in source.of(one):
                pass
        except PgkeepError as exc:
            return CheckResult("files", False, f"{one.bucket}/{one.name}: {exc.message}")
        opened += 1
    return CheckResult("files", True, f"{opened} of {len(records)} files opened, equal")


def as_json_lines(records: Iterable[FileRecord]) -> Iterator[dict[str, object]]:
    """Files as documents."""
    for one in records:
        yield {
            "bucket": one.bucket, "name": one.name, "bytes": one.size_bytes,
            "sha256": one.sha256, "mime_type": one.mime_type, "owner": one.owner_id or None,
            "created": one.created or None,
            "metadata": json.loads(one.user_metadata) if one.user_metadata else None,
        }  # fmt: skip


def missing_buckets(records: Iterable[FileRecord], target: Address) -> tuple[str, ...]:
    """Buckets that a project has not."""
    wanted = sorted({one.bucket for one in records})
    with closing(connect(target)) as connection, translated(target):
        rows = connection.execute(
            "SELECT id FROM storage.buckets WHERE id = ANY (%s)", (wanted,)
        ).fetchall()
    there = {name for (name,) in rows}
    return tuple(name for name in wanted if name not in there)
