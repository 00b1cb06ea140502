"""Evidence: what was proven when, by a restore, signed and kept beside the backups.

    <database>/drills/<time>-<random>.evidence

The head is public and names no table; the details are sealed to the operators and to the host.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256

from pgkeep.errors import DamagedObject, ManifestInvalid, NotAuthentic, PgkeepError
from pgkeep.model import BackupId
from pgkeep.records import JsonForm
from pgkeep.repository.envelope import pack, unpack
from pgkeep.repository.manifests import check_format
from pgkeep.repository.repository import Repository
from pgkeep.sealing import PublicSigner, Sealer, SigningKey, X25519Identity, X25519Recipient, unseal

FIRST_LINE = b"pgkeep evidence\n"
_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}\.evidence")


class Outcome(StrEnum):
    """What came of a restore that was made to prove something."""

    PASSED = "passed"
    PARTIAL = "partial"
    """All that could be compared is right, and something could not be."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of it and how long it took."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Compared:
    """How much was held against the backup."""

    tables: int = 0
    rows: int = 0
    definitions: int = 0
    sequences: int = 0


@dataclass(frozen=True, slots=True)
class NotCovered:
    """Something that was not proven, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One of the user's own checks, or ours, on the restored database."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True)
class Details:
    """What names things: sealed."""

    problem: str = ""
    differences: tuple[str, ...] = ()
    not_covered: tuple[NotCovered, ...] = ()
    checks: tuple[CheckResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """The public head."""

    format: int
    kind: str
    """`drill`, or `recovery` for the restore of a disaster."""
    database: str
    backup: BackupId
    moment: datetime | None
    """The moment that was restored, where the journal was replayed to one."""
    repository: str
    started: datetime
    seconds: float
    steps: tuple[Step, ...]
    outcome: Outcome
    server: str
    tables: int
    rows: int
    text_bytes: int
    definitions: int
    sequences: int
    differences: int
    checks: int
    checks_failed: int
    not_covered: int
    host: str
    tool: str
    epoch: str
    details_bytes: int = 0
    details_sha256: str = ""


@dataclass(frozen=True, slots=True)
class SealedEvidence:
    """Evidence as it was read, its details still sealed."""

    head: Evidence
    body: bytes

    def details(self, identities: Sequence[X25519Identity]) -> Details:
        """What names things; `KeyMissing` without a key that opens it."""
        return _DETAILS.load(b"".join(unseal(self.body, identities)))


_HEAD = JsonForm(Evidence)
_DETAILS = JsonForm(Details)


def seal_evidence(
    head: Evidence, details: Details, recipients: Sequence[X25519Recipient], key: SigningKey
) -> tuple[str, bytes]:
    """Where evidence is kept, and its file."""
    body = bytearray()
    sealer = Sealer(recipients, level=3, sink=body.extend)
    sealer.write(_DETAILS.dump(details))
    sealer.close()
    whole = replace(head, details_bytes=len(body), details_sha256=sha256(body).hexdigest())
    text = _HEAD.dump(whole) + b"\n"
    name = f"{_beginning_of_name(head)}{secrets.token_hex(4)}.evidence"
    return name, pack(FIRST_LINE, text, bytes(body), key)


def _beginning_of_name(head: Evidence) -> str:
    return f"{head.database}/drills/{head.started.astimezone(UTC):%Y%m%dT%H%M%SZ}-"


def parse_evidence(data: bytes, trusted: Sequence[PublicSigner], *, name: str) -> SealedEvidence:
    """Evidence out of its file: signature, form, body and place checked.

    Under another name it could pass for that of another database, or for newer than it is.
    """
    try:
        text, body = unpack(data, FIRST_LINE, trusted)
        check_format(text, name)
        head = _HEAD.load(text)
    except NotAuthentic as exc:
        raise NotAuthentic(f"{name}: {exc.message}", hint=exc.hint) from exc
    except ValueError as exc:
        raise ManifestInvalid(f"{name} is not evidence that can be read") from exc
    if len(body) != head.details_bytes or sha256(body).hexdigest() != head.details_sha256:
        raise DamagedObject(f"{name} is damaged: its body is not the one that was written")
    if not name.startswith(_beginning_of_name(head)):
        raise NotAuthentic(f"{name} is evidence of database {head.database!r}, {head.started}")
    return SealedEvidence(head, body)


def list_evidence(
    repository: Repository,
    database: str,
    trusted: Callable[[], Sequence[PublicSigner]],
    *,
    newest: int = 50,
    on_problem: Callable[[PgkeepError], None] = lambda _: None,
) -> tuple[SealedEvidence, ...]:
    """The newest evidence of a database, newest first. What cannot be believed is left out, and
    given to `on_problem`.

    `trusted` is asked once, if there is anything to check.
    """
    names = [
        file.name
        for file in repository.store.list(f"{database}/drills/")
        if _NAME.fullmatch(file.name.rpartition("/")[2])
    ]
    found = []
    signers = trusted() if names else ()
    for name in sorted(names, reverse=True)[:newest]:
        try:
            found.append(parse_evidence(repository.store.get(name), signers, name=name))
        except PgkeepError as exc:
            on_problem(exc)
    return tuple(found)


def copy_missing_evidence(
    database: str,
    target: Repository,
    others: Sequence[Repository],
    trusted: Callable[[Repository], Sequence[PublicSigner]],
    *,
    dry_run: bool = False,
) -> int:
    """Give a repository what others have and it lacks, as it is; how many files those are.

    What the signers that one believes did not sign is left where it is.
    """
    folder = f"{database}/drills/"
    known = {file.name for file in target.store.list(folder)}
    copied = 0
    for other in others:
        names = [file.name for file in other.store.list(folder) if file.name not in known]
        signers = trusted(other) if names else ()
        for name in filter(lambda name: _NAME.fullmatch(name.rpartition("/")[2]), names):
            data = other.store.get(name)
            try:
                parse_evidence(data, signers, name=name)
            except (NotAuthentic, ManifestInvalid, DamagedObject):
                continue
            if not dry_run:
                target.store.put(name, data)
            known.add(name)
            copied += 1
    return copied
