"""What earlier backups left: the chain to continue, and the parts that may be used again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from pgkeep.errors import PgkeepError
from pgkeep.model import Contents, Manifest, TableContents
from pgkeep.repository.copies import Copies
from pgkeep.repository.hostkeys import HostKeys
from pgkeep.repository.manifests import dump_manifest
from pgkeep.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Earlier:
    """The newest number and manifest hash of a database's backups, and contents to build on.

    Without `contents` everything is read; `why` then says why, if nobody would expect it.
    """

    sequence: int = 0
    previous: str = ""
    contents: Contents | None = None
    why: str = ""


def look_back(
    copies: Copies,
    database: str,
    keys: HostKeys,
    *,
    epoch: str,
    now: datetime,
    full_read_days: float,
) -> Earlier:
    """The newest backup that this host signed, and its contents if parts of it may serve again."""
    trusted = (keys.signing_key().public,)
    newest: Manifest | None = None
    base: tuple[Manifest, Repository] | None = None
    listings = copies.ask(lambda one: one.newest_backups(lambda: trusted, database))
    for repository, listing in listings:
        for manifest in listing.backups:
            if newest is None or manifest.sequence > newest.sequence:
                newest = manifest
            if manifest.kind.has_data and (base is None or manifest.sequence > base[0].sequence):
                base = manifest, repository
    if newest is None:
        return Earlier()
    link = Earlier(newest.sequence, sha256(dump_manifest(newest)).hexdigest())
    if base is None:
        return link
    contents, why = _contents(*base, keys, epoch, now, full_read_days)
    return Earlier(link.sequence, link.previous, contents, why)


def _contents(
    manifest: Manifest,
    repository: Repository,
    keys: HostKeys,
    epoch: str,
    now: datetime,
    full_read_days: float,
) -> tuple[Contents | None, str]:
    if manifest.epoch != epoch:
        return None, "backups are sealed to a new key from now on"
    try:
        contents = repository.contents(manifest, [keys.index_key()])
    except PgkeepError as exc:
        return None, f"the table of contents of {manifest.backup} cannot be used: {exc.message}"
    if contents.full_read is None or now - contents.full_read >= timedelta(days=full_read_days):
        return None, f"the last full read is more than {full_read_days:g} days ago"
    if now < contents.full_read:
        return None, "this host's clock was put back"
    return contents, ""


def whole_tables(contents: Contents, sizes: Mapping[str, int]) -> tuple[TableContents, ...]:
    """The tables whose every object is among those that may be used again, with its size."""
    return tuple(
        table
        for table in contents.tables
        if table.key
        and all(
            sizes.get(item.name.path) == item.size_bytes
            for part in table.parts
            for item in part.text.objects
        )
    )
