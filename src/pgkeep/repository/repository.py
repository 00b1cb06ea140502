"""A repository: a store with a known layout, in which a signed manifest makes a backup.

    repo.json  RESTORE.txt  keys/<epoch>.age (.gpg)  keys/allowed_signers
    objects/<xx>/<sha256>
    <database>/<tier>/<when>/<id>/manifest.json(.sig)

Write order is objects, signature, manifest: what has no manifest is no backup, so a crash at any
moment leaves whole backups and nothing else that is visible.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from pgkeep.errors import (
    BackupMissing,
    DamagedObject,
    ManifestInvalid,
    NotAuthentic,
    ObjectMissing,
    PgkeepError,
    RepositoryMissing,
    RepositoryUnsupported,
    StoreAccessDenied,
    StoreError,
)
from pgkeep.model import (
    CLOCK_TOLERANCE,
    FORMAT,
    RESERVED_FOLDERS,
    BackupId,
    Contents,
    Kind,
    Manifest,
    StoredObject,
    Tier,
)
from pgkeep.repository.hostkeys import Epoch
from pgkeep.repository.instructions import RESTORE_TEXT
from pgkeep.repository.manifests import dump_manifest, load_contents, load_manifest
from pgkeep.repository.objects import ObjectSource, read_objects
from pgkeep.sealing import (
    PublicSigner,
    SealedKey,
    SigningKey,
    X25519Identity,
    allowed_signers,
    read_allowed_signers,
    verify,
)
from pgkeep.stores import Store, StoredFile

_DESCRIPTION = "repo.json"
_RESTORE_TEXT = "RESTORE.txt"
_SIGNERS = "keys/allowed_signers"
_NEWEST = 10
_NUMBERS_END = 10**9  # what claims more is no host's
_KEY_NAME = re.compile(r"keys/([0-9a-f]{16})\.(?:age|gpg)")


@dataclass(frozen=True, slots=True)
class Listing:
    """The backups that were found, newest first, and what looked like one but is none."""

    backups: tuple[Manifest, ...]
    problems: tuple[PgkeepError, ...]


def merge_listings(listings: Sequence[Listing]) -> Listing:
    """Each backup once, newest first, whichever repositories have it."""
    backups = {manifest.backup: manifest for listing in listings for manifest in listing.backups}
    problems = [problem for listing in listings for problem in listing.problems]
    return Listing(newest_first(backups.values()), tuple(problems))


def newest_first(manifests: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """By the time at which each began, but never before one that its host made earlier.

    A host numbers the backups of a database. If its clock was ahead for one of them, that one is
    no younger than the next. Where a number was given twice (a host that lost its state, or two of
    one name), numbers tell nothing.
    """
    chains: dict[tuple[str, str], list[Manifest]] = {}
    for manifest in manifests:
        chains.setdefault((manifest.database, manifest.host), []).append(manifest)
    placed: list[tuple[datetime, int, BackupId, Manifest]] = []
    for chain in chains.values():
        chain.sort(key=lambda one: (one.sequence, one.started), reverse=True)
        latest = chain[0].started
        are_unique = len({one.sequence for one in chain}) == len(chain)
        for one in chain:
            latest = min(latest, one.started) if are_unique else one.started
            placed.append((latest, one.sequence, one.backup, one))
    placed.sort(key=lambda place: place[:3], reverse=True)
    return tuple(manifest for *_, manifest in placed)


class Repository:
    """One place where backups are kept. Holds no key and no connection."""

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self.store = store

    @classmethod
    def open(cls, name: str, store: Store) -> Repository:
        """An existing repository; `RepositoryMissing` or `RepositoryUnsupported` otherwise."""
        try:
            document = json.loads(store.get(_DESCRIPTION))
            found = document["format"]
        except ObjectMissing as exc:
            raise RepositoryMissing(
                f"there is no repository at {store.url}",
                hint="No backup yet? The first pgkeep backup makes a repository. Otherwise check"
                " the URL; is the disk mounted?",
            ) from exc
        except (ValueError, KeyError, TypeError) as exc:
            raise ManifestInvalid(f"{_DESCRIPTION} in {store.url} is damaged") from exc
        if found != FORMAT:
            raise RepositoryUnsupported(
                f"the repository at {store.url} has format {found!r}, and this version of pgkeep"
                f" knows format {FORMAT}",
                hint="Use a newer pgkeep.",
            )
        return cls(name, store)

    @classmethod
    def open_or_create(cls, name: str, store: Store, *, now: datetime) -> tuple[Repository, bool]:
        """The repository at a place, made there if the place is empty; and whether it was made."""
        try:
            return cls.open(name, store), False
        except RepositoryMissing:
            if next(store.list(""), None) is not None:
                raise
        document = {"format": FORMAT, "created": now.astimezone(UTC).isoformat(), "by": "pgkeep"}
        store.put(_DESCRIPTION, json.dumps(document).encode() + b"\n")
        return cls(name, store), True

    @property
    def source(self) -> ObjectSource:
        """Objects from here alone."""
        return ObjectSource((self.store,))

    def exclusive(self, purpose: str) -> AbstractContextManager[None]:
        """Be the only writer while the block runs."""
        return self.store.exclusive(purpose)

    # --- writing ------------------------------------------------------------------------------

    def prepare(self, epoch: Epoch, signer: PublicSigner) -> tuple[str, ...]:
        """See to it that what opens and checks the coming backup is here before the backup is.

        The names of those files are returned that are not up to date, as nothing may be written
        over here.
        """
        return self._prepare(epoch.id, epoch.sealed, [signer])

    def introduce(self, signer: PublicSigner) -> None:
        """Name a signer among those of the repository: to show, never to be trusted unasked.

        Where nothing may be written over, the list stays as it is.
        """
        self._renew(_SIGNERS, self._signers_with([signer]))

    def publish(self, manifest: Manifest, key: SigningKey) -> None:
        """Make a backup of objects that are all here; checked before and after.

        Objects that were used again may have been deleted since: this is the last look.
        """
        data = dump_manifest(manifest)
        self._publish(manifest, data, key.sign(data))

    def adopt(self, manifest: Manifest, holder: Repository) -> None:
        """Make a backup that another repository has one here too, of objects that are all here."""
        sealed = holder.sealed_epoch_key(manifest.epoch)
        self._prepare(manifest.epoch, sealed, holder.signers_here())
        signature = holder.store.get(f"{manifest.path}.sig")
        self._publish(manifest, holder.store.get(manifest.path), signature)

    def take_keys_from(self, holder: Repository) -> None:
        """Have what opens and checks everything that another repository has."""
        for epoch in set(holder.epochs()) - set(self.epochs()):
            self._prepare(epoch, holder.sealed_epoch_key(epoch), holder.signers_here())

    def withdraw(self, manifest: Manifest) -> None:
        """Take back a backup that was just published; its objects stay."""
        self.store.delete(manifest.path)
        self.store.delete(f"{manifest.path}.sig")

    def lasting_files(self, epoch: str) -> tuple[str, ...]:
        """What a backup of this epoch needs beside its own objects, and older ones needed too."""
        forms = self.sealed_epoch_key(epoch).files
        return (_DESCRIPTION, _RESTORE_TEXT, _SIGNERS, *(_key_path(epoch, form) for form in forms))

    def _prepare(
        self, epoch: str, sealed: SealedKey, signers: Sequence[PublicSigner]
    ) -> tuple[str, ...]:
        wanted = {_RESTORE_TEXT: RESTORE_TEXT.encode()}
        for ending, data in sealed.files.items():
            if self._missing(_key_path(epoch, ending)):
                self.store.put(_key_path(epoch, ending), data)
        wanted[_SIGNERS] = self._signers_with(signers)
        return tuple(name for name, data in wanted.items() if not self._renew(name, data))

    def _signers_with(self, signers: Sequence[PublicSigner]) -> bytes:
        """The list of signers with these among them."""
        known = self._signers_text()
        here = read_allowed_signers(known)
        return (known + allowed_signers([one for one in signers if one not in here])).encode()

    def _renew(self, name: str, data: bytes) -> bool:
        """Put a file unless it is the same; `False` if another may not be written over."""
        before = self._found(name)
        if before == data:
            return True
        try:
            self.store.put(name, data)
        except StoreAccessDenied:
            if before is None:
                raise
            return False
        return True

    def _publish(self, manifest: Manifest, data: bytes, signature: bytes) -> None:
        if lacking := self.lacks(manifest.all_objects):
            self.source.check_presence(lacking[0])
        self.store.put(f"{manifest.path}.sig", signature)
        self.store.put(manifest.path, data)
        if self.store.get(manifest.path) != data:
            raise StoreError(
                f"{self.store.url} does not give back the manifest that was written to it",
                hint="The backup does not count. Check the disk or the provider.",
            )

    def lacks(self, objects: Sequence[StoredObject]) -> list[StoredObject]:
        """Those that are not here with their right size."""
        sizes = self.object_sizes()
        return [item for item in objects if sizes.get(item.name.path) != item.size_bytes]

    def objects(self) -> tuple[StoredFile, ...]:
        """All objects here, from one listing."""
        return tuple(self.store.list("objects/"))

    def object_sizes(self) -> dict[str, int]:
        """The size of each object here by its path."""
        return {file.name: file.size_bytes for file in self.objects()}

    # --- reading ------------------------------------------------------------------------------

    def databases(self) -> tuple[str, ...]:
        """Names of the databases that have something here."""
        return tuple(folder for folder in self.store.folders("") if folder not in RESERVED_FOLDERS)

    def backups(
        self, trusted: Callable[[], Sequence[PublicSigner]], database: str | None = None
    ) -> Listing:
        """All whole backups, newest first. A wrong one is reported, and hides no other.

        `trusted` is asked once, if there is anything to check; what it raises is raised.
        """
        return self._listing(list(self._manifest_paths(database)), trusted)

    def newest_backups(
        self, trusted: Callable[[], Sequence[PublicSigner]], database: str, now: datetime
    ) -> Listing:
        """The last few, by their ids: enough to go on from, however many there are.

        Those filed as schemas apart: there may be many of them for one that has rows. Those with
        ids of the future apart too: a clock that was ahead must not hide what came after.
        """
        return self._listing(self._newest_paths(database, now), trusted)

    def highest_number(self, database: str, now: datetime) -> tuple[int, str]:
        """The highest number among those, whoever signed them, and its manifest's hash.

        For a host that knows none of its own: nothing but a number is taken from them.
        """
        highest = (0, "")
        for path in self._newest_paths(database, now):
            with suppress(ManifestInvalid, ObjectMissing):
                data = self.store.get(path)
                manifest = load_manifest(data, name=path)
                if manifest.database == database and manifest.sequence < _NUMBERS_END:
                    highest = max(highest, (manifest.sequence, sha256(data).hexdigest()))
        return highest

    def _newest_paths(self, database: str, now: datetime) -> list[str]:
        soonest = BackupId.begin(now + CLOCK_TOLERANCE)
        kinds: dict[tuple[bool, bool], list[str]] = {}
        for path in sorted(self._manifest_paths(database), key=lambda path: path.split("/")[-2]):
            folders = path.split("/")
            kind = (folders[1] == Tier.SCHEMA, folders[-2] > soonest)
            kinds.setdefault(kind, []).append(path)
        return [one for some in kinds.values() for one in some[-_NEWEST:]]

    def _listing(
        self, paths: Sequence[str], trusted: Callable[[], Sequence[PublicSigner]]
    ) -> Listing:
        found: list[Manifest] = []
        problems: list[PgkeepError] = []
        signers = trusted() if paths else ()
        for path in paths:
            try:
                found.append(self._checked_manifest(path, signers))
            except PgkeepError as exc:
                problems.append(exc)
        return Listing(newest_first(found), tuple(problems))

    def contents(self, manifest: Manifest, identities: Sequence[X25519Identity]) -> Contents:
        """The sealed table of contents of a backup, from here alone."""
        return open_contents(self.source, manifest, identities)

    def epochs(self) -> tuple[str, ...]:
        """The epochs whose private half is here, sealed."""
        found = (_KEY_NAME.fullmatch(file.name) for file in self.store.list("keys/"))
        return tuple(sorted({match[1] for match in found if match}))

    def sealed_epoch_key(self, epoch: str) -> SealedKey:
        """The sealed private half of an epoch; `ObjectMissing` if it is here in no form."""
        age = self._found(_key_path(epoch, "age"))
        gpg = self._found(_key_path(epoch, "gpg"))
        if age is None and gpg is None:
            raise ObjectMissing(
                f"{_key_path(epoch, 'age')} is missing from {self.store.url}",
                hint="Copy that file from another repository of the same databases.",
            )
        return SealedKey(age, gpg)

    def replace_epoch_key(self, epoch: str, sealed: SealedKey) -> None:
        """Put another sealing in place: old files go only when the new are here and whole."""
        for ending, data in sealed.files.items():
            path = _key_path(epoch, ending)
            self.store.put(path, data)
            if self.store.get(path) != data:
                raise StoreError(
                    f"{self.store.url} does not give back {path} as it was written",
                    hint="Do the same again, or copy that file from another repository.",
                )
        for ending in {"age", "gpg"} - sealed.files.keys():
            self.store.delete(_key_path(epoch, ending))

    def signers_here(self) -> tuple[PublicSigner, ...]:
        """The signers that the repository itself names: to show, never to trust unasked."""
        return tuple(read_allowed_signers(self._signers_text()))

    def _manifest_paths(self, database: str | None) -> Iterator[str]:
        for name in (database,) if database else self.databases():
            for tier in Tier:
                for file in self.store.list(f"{name}/{tier}/"):
                    if file.name.endswith("/manifest.json"):
                        yield file.name

    def _checked_manifest(self, path: str, trusted: Sequence[PublicSigner]) -> Manifest:
        data = self.store.get(path)
        try:
            signature = self.store.get(f"{path}.sig")
        except ObjectMissing as exc:
            raise NotAuthentic(f"{path} in {self.store.url} has no signature") from exc
        try:
            verify(data, signature, trusted)
        except NotAuthentic as exc:
            raise NotAuthentic(f"{path} in {self.store.url}: {exc.message}", hint=exc.hint) from exc
        manifest = load_manifest(data, name=path)
        if manifest.path != path:
            raise NotAuthentic(f"{path} in {self.store.url} is a copy of {manifest.path}")
        return manifest

    def _missing(self, name: str) -> bool:
        try:
            self.store.size(name)
        except ObjectMissing:
            return True
        return False

    def _found(self, name: str) -> bytes | None:
        with suppress(ObjectMissing):
            return self.store.get(name)
        return None

    def _signers_text(self) -> str:
        return (self._found(_SIGNERS) or b"").decode("utf-8", "replace")


def _key_path(epoch: str, ending: str) -> str:
    return f"keys/{epoch}.{ending}"


def open_contents(
    source: ObjectSource, manifest: Manifest, identities: Sequence[X25519Identity]
) -> Contents:
    """The sealed table of contents of a backup."""
    name = f"the table of contents of {manifest.backup}"
    try:
        data = b"".join(read_objects(source, manifest.contents, identities))
    except (DamagedObject, ObjectMissing) as exc:
        raise type(exc)(f"{exc.message}; it is {name}") from exc
    contents = load_contents(data, name=name)
    if contents.backup != manifest.backup:
        raise NotAuthentic(f"{name} belongs to backup {contents.backup}")
    return contents


def choose_backup(
    listing: Listing, wanted: str | None, *, database: str, kinds: set[Kind]
) -> Manifest:
    """The newest backup of one of the kinds, or the one whose id begins with `wanted`.

    Where there is none, the error is what is wrong with the one that might have been it.
    """
    if wanted is not None:
        matching = [item for item in listing.backups if item.backup.startswith(wanted)]
        if len(matching) == 1:
            return matching[0]
        if problem := next((one for one in listing.problems if f"/{wanted}" in one.message), None):
            raise problem
        what = "no backup" if not matching else f"{len(matching)} backups"
        raise BackupMissing(
            f"{what} of database {database!r} begin{'s' if not matching else ''} with {wanted!r}",
            hint=f"Run: pgkeep list {database}",
        )
    for manifest in listing.backups:
        if manifest.kind in kinds:
            return manifest
    if listing.problems:
        raise listing.problems[0]
    words = " or ".join(sorted(kinds))
    raise BackupMissing(
        f"there is no {words} backup of database {database!r}",
        hint=f"Run: pgkeep backup {database}",
    )
