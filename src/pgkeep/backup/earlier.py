"""What earlier backups left: the chain to continue, and the parts that may be used again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pgkeep.backup.lastmade import LastMade
from pgkeep.backup.plan import StoredTable
from pgkeep.backup.unfinished import StoredPart, whole_parts
from pgkeep.errors import PgkeepError
from pgkeep.model import Contents, Manifest, TableContents, TableName
from pgkeep.repository.copies import Copies
from pgkeep.repository.hostkeys import HostKeys
from pgkeep.repository.manifests import manifest_digest
from pgkeep.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Earlier:
    """The newest number and manifest hash of a database's backups, and contents to build on.

    Without `contents` everything is read but what is `unfinished`: the parts that backups which
    came to no end have stored since. `why` says why there are no contents, if nobody would expect
    it.
    """

    sequence: int = 0
    previous: str = ""
    contents: Contents | None = None
    why: str = ""
    unfinished: tuple[StoredPart, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to build on."""
        return self.contents is None and not self.unfinished

    @property
    def full_read(self) -> datetime | None:
        """When everything in it was read, or before then nothing was."""
        moments = [one.read for one in self.unfinished]
        if self.contents is not None and self.contents.full_read is not None:
            moments.append(self.contents.full_read)
        return min(moments, default=None)


def look_back(
    copies: Copies,
    database: str,
    keys: HostKeys,
    *,
    epoch: str,
    now: datetime,
    full_read_days: float,
    last: LastMade,
) -> Earlier:
    """The newest backup that this host signed, and its contents if parts of it may serve again."""
    trusted = (keys.signing_key().public,)
    newest: Manifest | None = None
    base: tuple[Manifest, Repository] | None = None
    listings = copies.ask(lambda one: one.newest_backups(lambda: trusted, database, now))
    for repository, listing in listings:
        for manifest in listing.backups:
            if newest is None or manifest.sequence > newest.sequence:
                newest = manifest
            if manifest.kind.has_data and (base is None or manifest.sequence > base[0].sequence):
                base = manifest, repository
    link = Earlier(last.sequence, last.digest)
    if newest is not None and newest.sequence >= last.sequence:
        link = Earlier(newest.sequence, manifest_digest(newest))
    elif newest is None and not last.sequence:  # the state was lost, but numbers go on
        numbers = copies.ask(lambda one: one.highest_number(database, now))
        link = Earlier(*max((number for _, number in numbers), default=(0, "")))
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


def stored_tables(earlier: Earlier, sizes: Mapping[str, int]) -> dict[TableName, StoredTable]:
    """What may be used again, given the size of each object that may: published, or noted since.

    A published table must be whole, a part of an unfinished backup only itself. Of two parts for
    one range, the one of the unfinished backup was read later.
    """
    found: dict[TableName, StoredTable] = {}
    for table in _whole_tables(earlier.contents, sizes) if earlier.contents else ():
        found[table.name] = StoredTable(table.key, table.parts)
    for (name, key), parts in whole_parts(earlier.unfinished, sizes).items():
        published = found.get(name)
        rest = published.parts if published is not None and published.key == key else ()
        others = (part for part in rest if part.first_page not in parts)
        found[name] = StoredTable(key, (*parts.values(), *others))
    return found


def _whole_tables(contents: Contents, sizes: Mapping[str, int]) -> tuple[TableContents, ...]:
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
