"""A backup as plain SQL that `psql -v ON_ERROR_STOP=1` loads, with pg_restore's own words.

The definitions come from pg_restore; the rows go between those that are made before the data and
those that are made after it. The rows are checked against their hashes while they are written, so
an export that ends well is whole.
"""

from __future__ import annotations

import errno
import gzip
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from pgkeep.errors import DamagedObject, ObjectMissing, StoreError, StoreFull, UsageError
from pgkeep.events import Progressed, Reporter, StageBegan, StageEnded, counted
from pgkeep.model import Contents, TableContents
from pgkeep.postgres.archive import Entry, read_archive, use_list
from pgkeep.postgres.dumping import script_from_archive
from pgkeep.postgres.programs import Programs
from pgkeep.postgres.statements import (
    COPY_LARGE_OBJECTS_IN,
    CREATE_LARGE_OBJECT_STAGING,
    DROP_LARGE_OBJECTS,
    LARGE_OBJECTS_FROM_STAGING,
    copy_in,
    large_object_properties,
    refresh,
    set_sequence,
)
from pgkeep.recovery.load import Sealed
from pgkeep.recovery.plan import RestorePlan, Scope, plan_restore

STAGE = "exporting"

_SETTINGS = """\
SET client_encoding = '{encoding}';
SET standard_conforming_strings = on;
SET IntervalStyle = 'postgres';
SET lc_monetary = 'C';
SET row_security = off;
"""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and how its definitions are written."""

    contents: Contents
    sealed: Sealed
    programs: Programs
    scope: Scope
    clean: bool = False
    owners: bool = True
    privileges: bool = True


class Sink(Protocol):
    """Somewhere to write bytes to."""

    def write(self, data: bytes, /) -> object: ...


def check_name(path: Path) -> None:
    """`UsageError` unless a file's name says how to write it."""
    if path.suffix not in (".sql", ".gz", ".zst"):
        raise UsageError(
            f"{path.name!r} does not say how to write it" if path.name else "no file is named",
            hint="End the name in .sql, .sql.gz or .sql.zst.",
        )


def export(request: ExportRequest, path: Path, reporter: Reporter) -> int:
    """Write a `.sql`, `.sql.gz` or `.sql.zst` file, private, whole or not at all; rows written."""
    check_name(path)
    with _whole_file(path) as stream, _compressed(stream, path) as sink:
        return write_sql(request, sink, reporter)


def write_sql(request: ExportRequest, sink: Sink, reporter: Reporter) -> int:
    """Write the SQL to an open sink; rows written."""
    archive_bytes = _archive_bytes(request) if request.scope.schema else b""
    archive = read_archive(archive_bytes) if archive_bytes else None
    plan = plan_restore(request.contents, archive, request.scope)
    reporter.report(StageBegan(STAGE, plan.text_bytes, plan.rows))
    definitions = _definitions(request, archive_bytes, plan)
    sink.write(_heading(request).encode())
    sink.write(definitions.before)
    encoding = "SQL_ASCII" if request.contents.database.encoding == "SQL_ASCII" else "UTF8"
    sink.write(_SETTINGS.format(encoding=encoding).encode())
    if archive is None:
        sink.write(b"SET session_replication_role = 'replica';\n")
    for table in plan.tables:
        _write_table(request, table.source, sink, reporter)
    _write_large_objects(request, plan, sink)
    for value in plan.sequences:
        sink.write(f"{set_sequence(value)};\n".encode())
    sink.write(definitions.after)
    for name in plan.matviews:
        sink.write(f"{refresh(name)};\n".encode())
    sink.write(definitions.guards)
    sink.write(definitions.end)
    sink.write(b"\n-- pgkeep: complete\n")
    text = f"{counted(plan.rows, 'row')} in {counted(len(plan.tables), 'table')}"
    reporter.report(StageEnded(STAGE, text))
    return plan.rows


def _heading(request: ExportRequest) -> str:
    contents = request.contents
    return (
        f"-- pgkeep: backup {contents.backup}, as of {contents.point.taken.isoformat()}\n"
        f"-- from PostgreSQL {contents.point.server_version}. Load it with:\n"
        "--   psql -X -v ON_ERROR_STOP=1 -f THIS-FILE DATABASE\n"
    )


# --- definitions ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Definitions:
    """SQL before the rows, after them, and what ends psql's restricted mode, if it is on.

    `guards` are the event triggers, which would act on what comes after them, or forbid it.
    """

    before: bytes = b""
    after: bytes = b""
    guards: bytes = b""
    end: bytes = b""


def _archive_bytes(request: ExportRequest) -> bytes:
    schema = request.contents.schema
    if schema is None:
        return b""
    return b"".join(request.sealed.open(schema))


def _definitions(request: ExportRequest, archive: bytes, plan: RestorePlan) -> _Definitions:
    if not archive:
        return _Definitions()
    late = {entry.dump_id for entry in plan.after}
    late |= {entry.dump_id for table in plan.tables for entry in table.indexes}
    entries = read_archive(archive).entries
    before = [entry for entry in entries if entry in plan.before]
    after = [entry for entry in entries if entry.dump_id in late]
    guards = list(plan.guards)
    last, final = _script(request, archive, after).body, _script(request, archive, guards).body
    if not request.clean:
        first = _script(request, archive, before)
        return _Definitions(first.restrict + first.body, last, final, first.unrestrict)
    # With --clean, pg_restore drops everything before it makes anything, so it has to be asked
    # for all at once; what it writes for the late entries alone is how that script ends.
    whole = _script(request, archive, entries=[*before, *after, *guards], clean=True)
    body, end = whole.body, len(whole.body)
    if guards:  # each script ends in the same remark, which stands behind the event triggers here
        end = len(body[: end - _common_ending(body, final)].rstrip())
        last = last[: len(last) - _common_ending(last, final)].rstrip()
    cut = end - _common_ending(body[:end], last)
    return _Definitions(whole.restrict + body[:cut], body[cut:end], body[end:], whole.unrestrict)


@dataclass(frozen=True, slots=True)
class _Script:
    """A script of pg_restore without its lines that switch psql's restricted mode on and off.

    That mode keeps a hostile source from smuggling commands for psql into a dump
    (CVE-2025-8714); it has to be on from before the first definition to the end.
    """

    restrict: bytes
    body: bytes
    unrestrict: bytes


def _script(
    request: ExportRequest, archive: bytes, entries: list[Entry], *, clean: bool = False
) -> _Script:
    if not entries:
        return _Script(b"", b"", b"")
    options = ["--clean", "--if-exists"] if clean else []
    options += [] if request.owners else ["--no-owner"]
    options += [] if request.privileges else ["--no-privileges"]
    in_order = sorted(entries, key=_position(archive))
    text = script_from_archive(
        request.programs,
        archive,
        options,
        use_list=use_list(in_order),
        for_major=int(request.contents.point.server_version.split(".")[0]),
    )
    head, marker, rest = text.partition(b"\n\\restrict ")
    if not marker or b";" in head:
        return _Script(b"", text, b"")
    key, _, body = rest.partition(b"\n")
    body, _, end = body.rpartition(b"\n\\unrestrict ")
    return _Script(head + marker + key + b"\n", body + b"\n", b"\n\\unrestrict " + end)


def _position(archive: bytes) -> Callable[[Entry], tuple[int, int, int]]:
    """The archive's own order, but a partition's key before the key of its parent.

    Drops come in reverse, and the key of a partition cannot be dropped before its parent's, with
    which it goes away; pg_dump --clean fails there.
    """
    entries = read_archive(archive).entries
    places = {entry.dump_id: at for at, entry in enumerate(entries)}
    keys = {entry.dump_id: entry for entry in entries if entry.kind == "CONSTRAINT"}

    def position(entry: Entry) -> tuple[int, int, int]:
        root, depth = entry, 0
        while parents := [
            keys[n] for n in root.dependencies if n in keys and entry.dump_id in keys
        ]:
            root, depth = parents[0], depth + 1
        return places[root.dump_id], -depth, places[entry.dump_id]

    return position


def _common_ending(one: bytes, other: bytes) -> int:
    """The length of the longest common ending that begins with a line."""
    limit = min(len(one), len(other))
    length = next((n for n in range(limit) if one[-1 - n] != other[-1 - n]), limit)
    if length == len(one):
        return length
    at = one.find(b"\n", len(one) - length)
    return len(one) - at - 1 if at >= 0 else 0


# --- rows -----------------------------------------------------------------------------------


def _write_table(
    request: ExportRequest, table: TableContents, sink: Sink, reporter: Reporter
) -> None:
    for part in table.parts:
        if not part.rows:
            continue
        sink.write(
            f"\n{copy_in(table.load_name, table.columns)};\n".replace("STDIN", "stdin").encode()
        )
        try:
            for piece in request.sealed.text(part):
                sink.write(piece)
                reporter.report(Progressed(STAGE, len(piece), piece.count(b"\n")))
        except (DamagedObject, ObjectMissing) as exc:
            raise type(exc)(
                f"{exc.message}; it belongs to table {table.name}",
                hint="Use another copy or backup.",
            ) from exc
        sink.write(b"\\.\n")


def _write_large_objects(request: ExportRequest, plan: RestorePlan, sink: Sink) -> None:
    objects = plan.large_objects
    for part in objects.parts:
        sink.write(f"\n{CREATE_LARGE_OBJECT_STAGING};\n{COPY_LARGE_OBJECTS_IN};\n".encode())
        for piece in request.sealed.text(part):
            sink.write(piece)
        sink.write(b"\\.\n")
        if request.clean:
            sink.write(f"{DROP_LARGE_OBJECTS};\n".encode())
        for statement in LARGE_OBJECTS_FROM_STAGING:
            sink.write(f"{statement};\n".encode())
    for statement in large_object_properties(
        objects, owners=request.owners, privileges=request.privileges
    ):
        sink.write(f"{statement};\n".encode())


# --- files ----------------------------------------------------------------------------------


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """A private file that gets its name only when it is complete."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        kind = StoreFull if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else StoreError
        raise kind(
            f"cannot write {str(path)!r}: {reason}",
            hint="Choose a folder that can be written to and has room; nothing was left.",
        ) from exc


@contextmanager
def _compressed(stream: BinaryIO, path: Path) -> Iterator[Sink]:
    match path.suffix:
        case ".sql":
            yield stream
        case ".gz":
            with gzip.GzipFile(
                filename="", fileobj=stream, mode="wb", compresslevel=6, mtime=0
            ) as zipped:
                yield zipped
        case _:
            compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
            with compressor.stream_writer(stream, closefd=False) as squeezed:
                yield squeezed
