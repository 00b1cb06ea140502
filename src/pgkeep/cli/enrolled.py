"""The second factors that count for a command: the state folder and the repositories together."""

from __future__ import annotations

import base64
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pgkeep.cli.context import Context
from pgkeep.errors import ConfigurationError, KeyMissing, NotAuthentic, PgkeepError
from pgkeep.repository.approvals import Challenges
from pgkeep.repository.factors import (
    Factor,
    FactorKind,
    Gathered,
    LocalFiles,
    Record,
    SealedSecret,
    Shelf,
    StoredFiles,
    dump,
    gather,
    keep,
    mend,
)
from pgkeep.repository.guard import App, Guard
from pgkeep.repository.repository import Repository
from pgkeep.sealing import (
    AgeWriter,
    PublicSigner,
    Recipients,
    SealedKey,
    X25519Recipient,
    open_sealed,
)

LOCAL = "the state folder"


@dataclass(slots=True)
class Enrolled:
    """What is enrolled, and how codes and signatures are checked here."""

    context: Context
    shelves: tuple[Shelf, ...]
    gathered: Gathered

    @property
    def folder(self) -> Path:
        """Where this host keeps what it remembers of factors."""
        return _folder(self.context)

    @property
    def guard(self) -> Guard:
        """Against guessing, and against using a code twice."""
        return Guard(self.folder)

    @property
    def challenges(self) -> Challenges:
        """Questions to the operators."""
        return Challenges(self.folder / "challenges")

    def of_kind(self, kind: FactorKind) -> tuple[Factor, ...]:
        """Those that can be believed."""
        return tuple(one for one in self.gathered.factors if one.kind is kind)

    def clock(self) -> datetime:
        """Now, or the latest time that was seen here if the clock was set back since."""
        now = self.context.now()
        return max(now, self.guard.look(now).seen)

    def apps(self) -> tuple[tuple[App, ...], tuple[PgkeepError, ...]]:
        """Authenticator apps whose secret can be opened here, and why others' cannot."""
        apps: list[App] = []
        problems: list[PgkeepError] = []
        for factor in self.of_kind(FactorKind.TOTP):
            try:
                apps.append(App(factor, open_secret(self.context, factor)))
            except PgkeepError as exc:
                problems.append(exc)
        return tuple(apps), tuple(problems)

    def record(self, record: Record) -> None:
        """Write a record into the state folder, which must be, and into every repository."""
        name, data = dump(record, self.context.keys.signing_key())
        first, *others = self.shelves
        problems = keep([first], {name: data})
        if problems:
            raise problems[0]
        for problem in self.keep_elsewhere({name: data}, others):
            self.context.notice(problem)

    def keep_elsewhere(self, files: dict[str, bytes], others: Sequence[Shelf]) -> list[PgkeepError]:
        """Put records into repositories, which then name this host among their signers too."""
        signer = self.context.keys.signing_key().public
        problems: list[PgkeepError] = []
        for shelf in others:
            if isinstance(shelf.files, StoredFiles):
                with suppress(PgkeepError):
                    shelf.files.repository.introduce(signer)
            problems += keep([shelf], files)
        return problems

    def mend(self) -> None:
        """Give every place the records that it lacks."""
        mend(self.shelves, self.gathered)


def look_up(
    context: Context, repositories: Sequence[Repository] | None = None, *, strict: bool = False
) -> Enrolled:
    """What is enrolled.

    Without `repositories` those of the configuration are asked, as far as they can be opened. With
    `strict`, records of hosts that are not trusted here ask for a factor too.
    """
    opened = open_quietly(context) if repositories is None else repositories
    local = Shelf(LOCAL, LocalFiles(_folder(context)), _own_signers(context))
    shelves = (local, *(_shelf(context, one, strict=strict) for one in opened))
    enrolled = Enrolled(context, shelves, gather(shelves))
    if LOCAL not in enrolled.gathered.present:  # what cannot be read must not count as nothing
        raise enrolled.gathered.problems[0]
    if enrolled.gathered.is_enrolled and not _was_known_here(local):
        enrolled.guard.begin(context.now())
    return enrolled


def is_enrolled_here(context: Context) -> bool:
    """Whether the state folder alone says that a factor is enrolled: no repository is asked."""
    return _gathered_here(context).is_enrolled


def enrolled_here(context: Context) -> tuple[Factor, ...]:
    """What the state folder alone says, codes on paper apart."""
    factors = _gathered_here(context).factors
    return tuple(one for one in factors if one.kind is not FactorKind.RECOVERY)


def _gathered_here(context: Context) -> Gathered:
    return gather([Shelf(LOCAL, LocalFiles(_folder(context)), _own_signers(context))])


def open_quietly(context: Context) -> tuple[Repository, ...]:
    """The repositories of this call that can be opened; the command tells of others."""
    opened = []
    try:
        places = context.places()
    except ConfigurationError:
        return ()
    for name, place in places.items():
        with suppress(PgkeepError):
            opened.append(Repository.open(name, context.open_store(name, place)))
    return tuple(opened)


def host_name() -> str:
    """This host, as records and challenges name it."""
    return socket.gethostname()


def _folder(context: Context) -> Path:
    return context.config.state_dir / "factors"


def _was_known_here(local: Shelf) -> bool:
    """Whether something was enrolled here before: then a memory that is gone was removed."""
    return any(name.endswith(".enrolled") for name in local.files.names())


def _own_signers(context: Context) -> tuple[PublicSigner, ...]:
    own = context.keys.existing_signing_key()
    configured = context.config.encryption.trusted_signers
    signers = [PublicSigner.parse(line) for line in configured]
    return (*signers, *([own.public] if own else []))


def _shelf(context: Context, repository: Repository, *, strict: bool) -> Shelf:
    try:
        trusted = tuple(context.trusted(repository))
    except NotAuthentic:  # nobody is known here: then every record is one to be in doubt of
        return Shelf(repository.name, StoredFiles(repository), ())
    named: tuple[PublicSigner, ...] = ()
    if not strict:
        with suppress(PgkeepError):
            named = repository.signers_here()
    return Shelf(repository.name, StoredFiles(repository), trusted, named)


# --- the secret of an app -------------------------------------------------------------------


def seal_secret(context: Context, secret: bytes) -> SealedSecret:
    """For this host, which checks codes unattended, and for the operators on another machine."""
    recipients = Recipients.find(context.recipients(), context.gpg_home)
    sealed = recipients.seal(secret)
    own = _sealed_to(context.keys.index_key().recipient, secret)
    return SealedSecret(_text(own), _text(sealed.age or b""), _text(sealed.gpg or b""))


def open_secret(context: Context, factor: Factor) -> bytes:
    """The secret of an app; `KeyMissing` or the like where neither key is."""
    assert factor.secret is not None
    index = context.keys.existing_index_key()
    if index is not None:
        with suppress(KeyMissing):
            return b"".join(open_sealed(base64.b64decode(factor.secret.host), [index]))
    forms = (base64.b64decode(text) or None for text in (factor.secret.age, factor.secret.gpg))
    return context.open_epoch_key(SealedKey(*forms), f"the secret of factor {factor.name!r}")


def _sealed_to(recipient: X25519Recipient, secret: bytes) -> bytes:
    sealed = bytearray()
    writer = AgeWriter([recipient], sealed.extend)
    writer.write(secret)
    writer.close()
    return bytes(sealed)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
