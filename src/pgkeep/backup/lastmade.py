"""Which number this host gave to a database's last backup.

Repositories say so too, but are asked for the few backups with the newest ids. While a clock was
behind, backups got older ids than those made before; once it is right again these are not among
the few, and the next backup would take a number that was given out before: it would be listed as
older than they are.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pgkeep.records import JsonForm
from pgkeep.repository.hostkeys import write_private


@dataclass(frozen=True, slots=True)
class LastMade:
    """The number of a backup, and the hash of its manifest; 0 if none is known."""

    sequence: int = 0
    digest: str = ""


_RECORD = JsonForm(LastMade)


def read_last_made(path: Path) -> LastMade:
    """What is noted; a lost or damaged note only loses what repositories do not tell."""
    try:
        return _RECORD.load(path.read_bytes())
    except (OSError, ValueError):
        return LastMade()


def note_last_made(path: Path, made: LastMade) -> None:
    """Note it. A backup that is published does not fail for that."""
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, _RECORD.dump(made))
