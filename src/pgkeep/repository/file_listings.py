"""The list of files that a backup keeps beside the database, as it is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pgkeep.errors import ManifestInvalid
from pgkeep.model import FileRecord
from pgkeep.records import JsonForm

_RECORD = JsonForm(FileRecord)


def dump_records(records: Iterable[FileRecord]) -> Iterator[bytes]:
    """One line of JSON each."""
    for one in records:
        yield _RECORD.dump(one) + b"\n"


def load_records(data: bytes) -> tuple[FileRecord, ...]:
    """What `dump_records` wrote; `ManifestInvalid` for anything else."""
    try:
        return tuple(_RECORD.load(line) for line in data.splitlines())
    except ValueError as exc:
        raise ManifestInvalid("the list of files of the backup is not valid") from exc
