"""What every command shares: options, configuration, repositories, keys and trust."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TextIO, TypeVar, cast

from rich.console import Console
from rich.markup import escape

from pgkeep import config as configuration
from pgkeep.cli.output import Output
from pgkeep.cli.places import check_way, store_settings
from pgkeep.cli.progress import (
    CliReporter,
    JsonReporter,
    PlainReporter,
    QuietReporter,
    TerminalReporter,
)
from pgkeep.config import Config, RepositoryConfig
from pgkeep.errors import (
    ConfigurationError,
    DamagedObject,
    KeyMissing,
    KeyUnusable,
    NotAuthentic,
    ObjectMissing,
    PgkeepError,
    StoreError,
)
from pgkeep.events import Noticed
from pgkeep.model import BackupId, Contents, Kind, Manifest, ObjectName, Tier
from pgkeep.networks import Rule
from pgkeep.platforms.login import SCHEME, TokenLogins
from pgkeep.platforms.management import Management
from pgkeep.platforms.projects import same_projects
from pgkeep.postgres.address import Address
from pgkeep.postgres.programs import Programs, choose_client
from pgkeep.repository.copies import Copies
from pgkeep.repository.evidence import Outcome, list_evidence
from pgkeep.repository.history import History, JournalCopy
from pgkeep.repository.hostkeys import HostKeys
from pgkeep.repository.journal import Journal
from pgkeep.repository.journal_copies import JournalCopies
from pgkeep.repository.known import KnownRepositories, Where, open_to_write
from pgkeep.repository.objects import ObjectSource
from pgkeep.repository.repository import Listing, Repository, merge_listings, open_contents
from pgkeep.repository.retention import Policy
from pgkeep.repository.state_folder import secure
from pgkeep.repository.sync import Missing, find_missing
from pgkeep.repository.verify import ReadingDates
from pgkeep.sealing import (
    Identity,
    Keyring,
    PublicSigner,
    SealedKey,
    X25519Identity,
    load_epoch_of,
    load_identities,
    open_with,
    read_allowed_signers,
)
from pgkeep.stores import Store, open_store

if TYPE_CHECKING:
    from pgkeep.recovery.survey import JournalReader

IDENTITY_VARIABLE = "PGKEEP_IDENTITY"
REASON_VARIABLE = "PGKEEP_REASON"
PASSPHRASE_VARIABLE = "PGKEEP_PASSPHRASE"  # noqa: S105  (its name, not its value)
SIGNER_COMMENT = "# pgkeep signer: "


@dataclass(frozen=True, slots=True)
class Found:
    """A backup and where its objects may be: the first repository has it and is the nearest."""

    manifest: Manifest
    repositories: tuple[Repository, ...]

    @property
    def source(self) -> ObjectSource:
        """Its objects, from whichever copy gives them."""
        return ObjectSource([repository.store for repository in self.repositories])


# A temporary login is good for many connections of one process.
_LOGINS = TokenLogins()

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True)
class Context:
    """One call of a command. Nothing is read before it is needed."""

    config_path: Path | None
    as_json: bool
    quiet: bool
    repository_urls: tuple[str, ...] = ()
    identity_paths: tuple[Path, ...] = ()
    gpg_home_option: Path | None = None
    signers_path: Path | None = None
    trusted_fingerprints: tuple[str, ...] = ()
    out: Console = field(
        default_factory=lambda: Console(
            file=cast(TextIO, Output()), highlight=False, soft_wrap=True
        )
    )
    err: Console = field(
        default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True)
    )
    needs_attention: bool = False
    """Whether something was found on the way that somebody should look at."""
    _config: Config | None = None
    _identities: tuple[Identity, ...] | None = None
    _identity_signers: tuple[PublicSigner, ...] = ()

    # --- configuration ----------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """The configuration; none is needed where a repository is named on the command line."""
        if self._config is None:
            path = configuration.locate(self.config_path)
            if self.repository_urls and self.config_path is None and not path.exists():
                self._config = Config()
            else:
                self._config = configuration.load(path)
                self._warn_of_secrets(self._config)
            for closed in secure(self._config.state_dir):
                self.warn(closed)
        return self._config

    def _warn_of_secrets(self, config: Config) -> None:
        for setting in config.inline_secrets():
            key = setting.rpartition(".")[2]
            self.warn(
                f"the secret of {setting} stands in {config.origin}:"
                f' better {key} = {{ env = "..." }} or {{ file = "..." }}'
            )

    @property
    def gpg_home(self) -> Path | None:
        """The folder of gpg's keyring, unless it is gpg's own."""
        return self.gpg_home_option or self.config.encryption.gpg_home

    @property
    def keys(self) -> HostKeys:
        """This host's own keys."""
        return HostKeys(self.config.state_dir)

    def recipients(self) -> tuple[str, ...]:
        """Those who are to open the backups; `ConfigurationError` if there is nobody."""
        if not self.config.encryption.recipients:
            raise ConfigurationError(
                "no recipient is configured, so nobody could open a backup",
                hint="Run pgkeep init, or set encryption.recipients to a public key (age1...).",
            )
        return self.config.encryption.recipients

    def retention(self) -> Policy:
        """How long backups are kept."""
        settings = self.config.retention
        days = {tier: getattr(settings, f"{tier.value}_days") for tier in Tier}
        keep = {tier: timedelta(days=value) for tier, value in days.items()}
        return Policy(keep, settings.minimum)

    def address(self, database: str) -> Address:
        """Where a configured database is."""
        url, what = self.url(database), f"database {database!r}"
        if not url.startswith(SCHEME):
            return Address.parse(url).within(self.networks(database), what)
        management = self.management(database)
        if management is None:
            raise ConfigurationError(
                f"{what} is to be logged in to by a token, and none is configured",
                hint=f'Add [databases.{database}.supabase] token = {{ env = "..." }}.',
            )
        return _LOGINS.address(url, management).within(self.networks(database), what)

    def url(self, database: str) -> str:
        """The connection string of a configured database, fetched from where it is kept."""
        return configuration.resolve(
            self.config.database(database).url, f"the URL of database {database!r}"
        )

    def management(self, database: str) -> Management | None:
        """The interface of the platform that a database is on, where a token is configured."""
        settings = self.config.database(database).supabase
        if settings.token is None:
            return None
        token = configuration.resolve(settings.token, f"the token of database {database!r}")
        return Management(token, api=settings.api)

    def networks(self, database: str | None = None) -> Rule:
        """The addresses that a database, or a target beside it, may have."""
        is_bare = self.config_path is None and not configuration.locate(None).exists()
        if database is None and is_bare:
            return Rule()  # on an empty machine nothing is forbidden
        own = self.config.database(database).allowed_networks if database else None
        return Rule.parse(self.config.allowed_networks if own is None else own)

    def jobs(self, given: int | None, configured: int | None = None) -> int:
        """How many connections read at once: one more than processors keeps them all busy."""
        return given or configured or (os.cpu_count() or 1) + 1

    @staticmethod
    def jobs_to_restore(given: int | None) -> int:
        """How many connections write at once: more than processors hold up what takes longest."""
        return given or max(2, os.cpu_count() or 1)

    def choose_client(
        self, server_major: int, *, need_tls: bool, server_version: str = ""
    ) -> Programs:
        """PostgreSQL's client programs for a server."""
        return choose_client(
            server_major,
            need_tls=need_tls,
            server_version=server_version,
            bin_dirs=self.config.postgres_bin_dirs,
        )

    @staticmethod
    def now() -> datetime:
        return datetime.now(UTC)

    # --- output -----------------------------------------------------------------------------

    def reporter(self) -> CliReporter:
        """Progress on standard error, in the form that suits it."""
        if self.as_json:
            return JsonReporter(_write_error, quiet=self.quiet)
        if self.quiet:
            return QuietReporter(self.err)
        if self.err.is_terminal:
            return TerminalReporter(self.err)
        return PlainReporter(self.err)

    def warn(self, message: str) -> None:
        """Say something that a person should know."""
        self.remark(message, mark="[yellow]![/]")

    def remark(self, message: str, *, mark: str) -> None:
        """Say something on standard error, in the form of this call."""
        if self.as_json:
            JsonReporter(_write_error).report(Noticed(message))
        else:
            self.err.print(f"{mark} {escape(message)}")

    def answer(self, document: object) -> None:
        """The one JSON document of a call with --json."""
        output = Output()
        output.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
        output.flush()

    # --- repositories -----------------------------------------------------------------------

    def places(self) -> dict[str, RepositoryConfig]:
        """The repositories to use, by their names."""
        if self.repository_urls:
            return {url: RepositoryConfig(url=url) for url in self.repository_urls}
        if not self.config.repositories:
            raise ConfigurationError(
                "no repository is configured",
                hint='Add to the configuration: [repositories.local] url = "file:///backups".',
            )
        return self.config.repositories

    def open_store(
        self, name: str, place: RepositoryConfig, *, attempts: int | None = None
    ) -> Store:
        """Where a repository is; one that is configured keeps its settings if named by its URL."""
        known = self.as_configured(place)
        if attempts is not None:
            known = known.model_copy(update={"attempts": min(attempts, known.attempts)})
        own = known.allowed_networks
        rule = Rule.parse(self.config.allowed_networks if own is None else own)
        check_way(name, known, rule)
        return open_store(place.url, store_settings(name, known, self.config.state_dir))

    def as_configured(self, place: RepositoryConfig) -> RepositoryConfig:
        """The configured repository that a place is, with all its settings, or the place itself."""
        configured = self.config.repositories.values()
        return next((one for one in configured if one.url == place.url), place)

    def repositories(self) -> tuple[Repository, ...]:
        """All repositories that can be opened. What is wrong with others is a notice."""
        return self._opened(Repository.open)

    def repositories_to_write(self) -> tuple[Repository, ...]:
        """As `repositories`, but a place that is empty becomes a repository."""
        return self._opened(self._open_to_write)

    def _opened(self, opener: Callable[[str, Store], Repository]) -> tuple[Repository, ...]:
        stores = {name: self.open_store(name, place) for name, place in self.places().items()}
        opened: list[Repository] = []
        problems: list[PgkeepError] = []
        for name, store in stores.items():
            try:
                opened.append(opener(name, store))
            except PgkeepError as exc:
                problems.append(exc)
        if not opened:
            raise problems[0]
        for problem in problems:
            self.notice(problem)
        return tuple(opened)

    def copies(self, kind: Kind) -> Copies:
        """The configured repositories as what a backup of this kind is written to."""
        openers, required = self._openers(kind)
        protect, wrong = self.protection(), self._found_wrong()
        return Copies(openers, required=required, protect=protect, wrong=wrong)

    def copies_to_look_at(self, kind: Kind) -> Copies:
        """The configured repositories for a kind, to be asked alone: no place becomes one."""
        openers: dict[str, Callable[[], Repository]] = {
            name: partial(Repository.open, name, store)
            for name, store in self._stores(kind).items()
        }
        return Copies(openers, protect=self.protection(), wrong=self._found_wrong())

    def _found_wrong(self) -> Mapping[str, frozenset[ObjectName]]:
        """No backup builds on what a verify found damaged; not to know it ends none."""
        try:
            return ReadingDates.of_host(self.config.state_dir).wrong()
        except PgkeepError as exc:
            self.notice(exc)
            return {}

    def journal_copies(self, database: str) -> JournalCopies:
        """The configured repositories as what the journal of a database is written to."""
        openers, required = self._openers(Kind.FULL)
        return JournalCopies(database, openers, required=required)

    def _openers(self, kind: Kind) -> tuple[dict[str, Callable[[], Repository]], list[str]]:
        """What opens the repositories for a kind, by name, and which of them are required.

        A place that is empty becomes a repository.
        """
        stores = self._stores(kind)
        return (
            {name: partial(self._open_to_write, name, store) for name, store in stores.items()},
            [name for name in stores if self.places()[name].required],
        )

    def _stores(self, kind: Kind) -> dict[str, Store]:
        places = {name: place for name, place in self.places().items() if kind in place.kinds}
        if not places:
            raise ConfigurationError(
                f"no repository is configured for {kind} backups",
                hint=f'Add "{kind}" to the kinds of a repository.',
            )
        return {name: self.open_store(name, place) for name, place in places.items()}

    def protection(self) -> dict[str, timedelta]:
        """For how long a backup is to be protected, where that is configured."""
        days = {name: place.protect_days for name, place in self.places().items()}
        return {name: timedelta(days=value) for name, value in days.items() if value is not None}

    def _open_to_write(self, name: str, store: Store) -> Repository:
        where = self.where(name, self.places()[name])
        return open_to_write(where, store, self.known_repositories, self.now(), self._tell_of_new)

    def _tell_of_new(self, repository: Repository) -> None:
        self.remark(f"made a new repository at {repository.store.url}", mark="[green]+[/]")

    @property
    def known_repositories(self) -> KnownRepositories:
        """Those that this host has written to."""
        return KnownRepositories(self.config.state_dir)

    def where(self, name: str, place: RepositoryConfig) -> Where:
        """A place as this host remembers it."""
        known = self.as_configured(place)
        return Where(name, known.url, known.endpoint)

    def warn_of_same_project(self, database: str, address: Address) -> None:
        """Tell of each copy that lies in the very project of Supabase that is backed up."""
        endpoints = {name: place.endpoint for name, place in self.places().items()}
        for same in same_projects(endpoints, {database: (address.host, address.user)}):
            self.warn(f"repository {same.repository}: {same.what}. {same.remedy}")

    def keep_everywhere(self, path: str, data: bytes, signer: PublicSigner) -> None:
        """Put a small signed file into every repository. At least one has to take it."""
        problems: list[PgkeepError] = []
        repositories = self.repositories()
        for repository in repositories:
            try:
                repository.introduce(signer)
                repository.store.put(path, data)
            except PgkeepError as exc:
                problems.append(exc)
        if len(problems) == len(repositories):
            raise problems[0]
        for problem in problems:
            self.notice(problem)

    def notice(self, problem: PgkeepError) -> None:
        """Tell of something that does not keep this command from its work."""
        self.warn(problem.message)
        self.needs_attention = True

    def listing(self, repository: Repository, database: str | None) -> Listing:
        """What is there, with signatures checked."""
        return repository.backups(lambda: self.trusted(repository), database)

    def listings(
        self, repositories: Sequence[Repository], database: str | None
    ) -> dict[str, Listing]:
        """What is in each, by its name. One that cannot be listed is left out, and is a notice."""
        found: dict[str, Listing] = {}
        problems: list[StoreError] = []
        for repository in repositories:
            try:
                found[repository.name] = self.listing(repository, database)
            except StoreError as exc:
                problems.append(exc)
        if problems and not found:
            raise problems[0]
        for problem in problems:
            self.notice(problem)
        return found

    def proven(self, repository: Repository) -> frozenset[BackupId]:
        """Backups that a drill has restored and found right, as far as evidence here tells."""
        return frozenset(
            one.head.backup
            for database in repository.databases()
            for one in list_evidence(repository, database, lambda: self.trusted(repository))
            if one.head.outcome is not Outcome.FAILED
        )

    def missing(
        self, listings: Mapping[str, Listing], repositories: Sequence[Repository]
    ) -> tuple[Missing, ...]:
        """What is kept in some repository and should be, and is not, in another."""
        kinds = {name: place.kinds for name, place in self.places().items()}
        return find_missing(listings, repositories, kinds, self.retention(), self.now())

    def find(self, database: str, choose: Callable[[Listing], Manifest]) -> Found:
        """A backup, chosen from those of all repositories. What is wrong in some is a notice."""
        return self.find_all(database, lambda listing: [choose(listing)])[0]

    def find_all(
        self, database: str, choose: Callable[[Listing], Sequence[Manifest]]
    ) -> tuple[Found, ...]:
        """Several, as `find` does it."""
        opened = sorted(self.repositories(), key=lambda one: not one.store.is_near)
        by_name = self.listings(opened, database)
        repositories = [one for one in opened if one.name in by_name]
        listings = list(by_name.values())
        chosen = choose(merge_listings(listings))
        for listing in listings:
            for problem in listing.problems:
                self.notice(problem)
        return tuple(_found(manifest, repositories, listings) for manifest in chosen)

    def journal_reader(self, database: str) -> JournalReader:
        """The journal of a database from all repositories, opened with the operator's keys."""
        from pgkeep.recovery.survey import JournalReader  # not every command needs all this

        repositories = sorted(self.repositories(), key=lambda one: not one.store.is_near)
        copies = [
            JournalCopy(Journal(one.store, database), cache(partial(self.trusted, one)))
            for one in repositories
        ]
        identities: dict[str, list[X25519Identity]] = {}

        def opened(epoch: str) -> list[X25519Identity]:
            if epoch not in identities:
                what = f"the journal of database {database!r}"
                identities[epoch] = [self._identity_of_epoch(epoch, what, repositories)]
            return identities[epoch]

        return JournalReader(History(copies), opened)

    # --- trust ------------------------------------------------------------------------------

    def trusted(self, repository: Repository) -> Sequence[PublicSigner]:
        """Whose signature counts: never merely what the repository itself says."""
        signers = [PublicSigner.parse(line) for line in self.config.encryption.trusted_signers]
        if own := self.keys.existing_signing_key():
            signers.append(own.public)
        if self.signers_path is not None:
            signers += _signers_in(_read(self.signers_path), str(self.signers_path))
        if self.identity_paths:
            self.identities()
            signers += self._identity_signers
        for signer in repository.signers_here():
            if signer.fingerprint in self.trusted_fingerprints:
                signers.append(signer)
        if not signers:
            found = ", ".join(signer.fingerprint for signer in repository.signers_here())
            raise NotAuthentic(
                "nobody is known here whose signature counts"
                f" (the repository names {found or 'nobody'})",
                hint="Compare the fingerprint with the one that pgkeep init told, then pass"
                " --trust FINGERPRINT; or pass --allowed-signers FILE.",
            )
        return signers

    # --- keys -------------------------------------------------------------------------------

    def identities(self) -> tuple[Identity, ...]:
        """The operator's keys, from --identity or the environment. Asked for once."""
        if self._identities is None:
            paths = self._paths_of_identities()
            if not paths:
                raise KeyMissing(
                    "opening a backup needs a key, and none was given",
                    hint=f"Pass --identity FILE (or set {IDENTITY_VARIABLE}): the identity file"
                    " that pgkeep init made, or an SSH private key that is a recipient.",
                )
            found: list[Identity] = []
            for path in paths:
                text = _read(path)
                found += load_identities(text, passphrase=_ask_passphrase, name=str(path))
                self._identity_signers += _signers_in_comments(text)
            self._identities = tuple(found)
        return self._identities

    def _paths_of_identities(self) -> tuple[Path, ...]:
        named = os.environ.get(IDENTITY_VARIABLE)
        return self.identity_paths or ((Path(named),) if named else ())

    def epoch_identity(self, found: Found) -> X25519Identity:
        """The key that a backup's objects are sealed to, opened with the operator's."""
        what = f"backup {found.manifest.backup}"
        return self._identity_of_epoch(found.manifest.epoch, what, found.repositories)

    def _identity_of_epoch(
        self, epoch: str, what: str, repositories: Sequence[Repository]
    ) -> X25519Identity:
        missing: list[ObjectMissing] = []
        for repository in repositories:
            try:
                sealed = repository.sealed_epoch_key(epoch)
            except ObjectMissing as exc:
                missing.append(exc)
            else:
                return load_epoch_of(epoch, self.open_epoch_key(sealed, what))
        raise KeyMissing(
            f"{missing[0].message}, and {what} cannot be opened without it", hint=missing[0].hint
        ) from missing[0]

    def open_epoch_key(self, sealed: SealedKey, what: str) -> bytes:
        """An epoch's private half, which opens `what`: by an identity that was given, else by gpg.

        An error names everything that was tried.
        """
        failure: PgkeepError | None = None
        if sealed.age is not None and (sealed.gpg is None or self._paths_of_identities()):
            try:
                return self._open_with_identities(sealed.age, what)
            except (KeyMissing, DamagedObject) as exc:
                if sealed.gpg is None:
                    raise
                failure = exc
        assert sealed.gpg is not None
        try:
            return Keyring(self.gpg_home).open(sealed.gpg, os.environ.get(PASSPHRASE_VARIABLE))
        except PgkeepError as exc:
            if sealed.age is None:
                raise
            tried = failure.message if failure else "no identity was given"
            raise type(failure or exc)(
                f"{tried}; and {exc.message}",
                hint=f"{exc.hint} Or pass the --identity FILE of a recipient.",
            ) from exc

    def _open_with_identities(self, sealed: bytes, what: str) -> bytes:
        try:
            return open_with(self.identities(), sealed)
        except KeyMissing as exc:
            if not self._identities:
                raise
            given = ", ".join(item.label[:24] + "…" for item in self._identities)
            raise KeyMissing(
                f"none of the keys given opens {what} (given: {given})",
                hint="Pass the identity file that belongs to one of the configured recipients.",
            ) from exc

    def contents(self, found: Found) -> Contents:
        """A table of contents, by this host's index key or else by the operator's."""
        index = self.keys.existing_index_key()
        if index is not None:
            with suppress(KeyMissing):
                return open_contents(found.source, found.manifest, [index])
        return open_contents(found.source, found.manifest, [self.epoch_identity(found)])


def _found(
    manifest: Manifest, repositories: Sequence[Repository], listings: Sequence[Listing]
) -> Found:
    has = [manifest in listing.backups for listing in listings]
    ordered = [one for one, has_it in zip(repositories, has, strict=True) if has_it]
    others = [one for one, has_it in zip(repositories, has, strict=True) if not has_it]
    return Found(manifest, (*ordered, *others))


def _write_error(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise KeyUnusable(
            f"cannot read {str(path)!r}: {reason}", hint="Check the path and its rights."
        ) from exc


def _signers_in(data: bytes, name: str) -> list[PublicSigner]:
    signers = read_allowed_signers(data.decode("utf-8", "replace"))
    if not signers:
        raise KeyUnusable(f"{name!r} names no signer", hint="Give an allowed_signers file.")
    return signers


def _signers_in_comments(data: bytes) -> tuple[PublicSigner, ...]:
    """An identity file may say whose backups it belongs to: it was kept apart from them."""
    lines = data.decode("utf-8", "replace").splitlines()
    return tuple(
        PublicSigner.parse(line.removeprefix(SIGNER_COMMENT))
        for line in lines
        if line.startswith(SIGNER_COMMENT)
    )


def _ask_passphrase(prompt: str) -> str:
    if value := os.environ.get(PASSPHRASE_VARIABLE):
        return value
    if not sys.stdin.isatty():
        raise KeyMissing(
            "a key has a passphrase, and there is no terminal to ask for it",
            hint=f"Set {PASSPHRASE_VARIABLE}, or run this in a terminal.",
        )
    return getpass(f"{prompt}: ")
