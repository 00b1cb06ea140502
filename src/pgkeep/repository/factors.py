"""Second factors that are enrolled: signed records in the state folder and in every repository.

    factors/<id>.enrolled   <id>.removed   <id>-<number>.spent   <serial>-<random>.terms

Records are only ever added, so nobody has to write over or delete anything, and several places can
be put together: a factor is enrolled if one place says so and none says that it was removed. So a
state folder that was emptied, or a fresh machine, finds it in the repositories, and a repository
that was emptied changes nothing here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Protocol

from pgkeep.errors import NotAuthentic, PgkeepError
from pgkeep.model import FORMAT
from pgkeep.records import JsonForm
from pgkeep.repository.envelope import pack, unpack
from pgkeep.repository.hostkeys import write_private
from pgkeep.repository.repository import Repository
from pgkeep.repository.state_folder import unusable
from pgkeep.sealing import PublicSigner, SigningKey

FOLDER = "factors/"
RECOVERY_CODES = 10

_FIRST_LINE = b"pgkeep factor\n"
_ENROLLED = re.compile(r"([0-9a-f]{16})\.enrolled")
_REMOVED = re.compile(r"([0-9a-f]{16})\.removed")
_SPENT = re.compile(r"([0-9a-f]{16})-(\d{1,3})\.spent")
_CODE_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that look alike
_CODE_LENGTH = 16


class FactorKind(StrEnum):
    """What somebody has."""

    TOTP = "totp"
    """An authenticator app."""
    SSH = "ssh"
    """An SSH key, FIDO2 devices included."""
    RECOVERY = "recovery"
    """Codes on paper, each good once."""


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """An app's secret, in base64: once for the host that checks codes, once for the operators."""

    host: str
    age: str = ""
    gpg: str = ""


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor. Nothing in it lets anybody pass who only reads it."""

    id: str
    name: str
    kind: FactorKind
    enrolled: datetime
    host: str
    key: str = ""
    """Of an SSH key, its public line."""
    must_verify: bool = False
    """Of a FIDO2 key: whether a touch alone is not enough."""
    secret: SealedSecret | None = None
    """Of an app."""
    codes: tuple[str, ...] = ()
    """Of recovery codes, a salted SHA-256 of each: 78 random bits need no slower hash."""
    format: int = FORMAT
    record: Literal["enrolled"] = "enrolled"


@dataclass(frozen=True, slots=True)
class Removal:
    """A factor counts no more."""

    id: str
    at: datetime
    host: str
    format: int = FORMAT
    record: Literal["removed"] = "removed"


@dataclass(frozen=True, slots=True)
class Spent:
    """A recovery code was used."""

    id: str
    number: int
    at: datetime
    host: str
    format: int = FORMAT
    record: Literal["spent"] = "spent"


Record = Factor | Removal | Spent


class Files(Protocol):
    """Where records are kept: small files by name. What cannot be done is a `PgkeepError`."""

    def names(self) -> Sequence[str]:
        """All that is there."""

    def read(self, name: str) -> bytes:
        """One of them."""

    def write(self, name: str, data: bytes) -> None:
        """Another one."""


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """The state folder's (0600)."""

    folder: Path

    def names(self) -> Sequence[str]:
        try:
            return sorted(path.name for path in self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as exc:
            raise unusable(self.folder, exc) from exc

    def read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as exc:
            raise unusable(self.folder / name, exc) from exc

    def write(self, name: str, data: bytes) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self.folder / name, data)
        except OSError as exc:
            raise unusable(self.folder, exc) from exc


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """A repository's."""

    repository: Repository

    def names(self) -> Sequence[str]:
        return [file.name.removeprefix(FOLDER) for file in self.repository.store.list(FOLDER)]

    def read(self, name: str) -> bytes:
        return self.repository.store.get(FOLDER + name)

    def write(self, name: str, data: bytes) -> None:
        self.repository.store.put(FOLDER + name, data)


@dataclass(frozen=True, slots=True)
class Shelf:
    """A place with records, and whose signature counts there."""

    name: str
    files: Files
    trusted: tuple[PublicSigner, ...]
    named: tuple[PublicSigner, ...] = ()
    """Those whom the place itself names. Other hosts, if they are not trusted."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """What all places together say."""

    factors: tuple[Factor, ...]
    doubtful: tuple[str, ...]
    """Files that say that a factor is enrolled, and cannot be believed."""
    foreign: tuple[str, ...]
    """The same, well signed by another host, which is not trusted here."""
    spent: frozenset[tuple[str, int]]
    """Recovery codes that were used."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """All records that can be believed, as they are."""
    present: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By the name of the place, which files it has right."""
    problems: tuple[PgkeepError, ...] = ()
    """Places that could not be looked at."""

    @property
    def is_enrolled(self) -> bool:
        """Whether a second factor is asked for."""
        return bool(self.factors or self.doubtful)

    def named(self, name: str) -> Factor | None:
        """A factor by its name or id."""
        return next((one for one in self.factors if name in (one.name, one.id)), None)

    def codes_left(self, factor: Factor) -> int:
        """Recovery codes that were not used yet."""
        return sum((factor.id, number) not in self.spent for number in range(len(factor.codes)))


_FORMS: tuple[tuple[re.Pattern[str], JsonForm[Any]], ...] = (
    (_ENROLLED, JsonForm(Factor)),
    (_REMOVED, JsonForm(Removal)),
    (_SPENT, JsonForm(Spent)),
)
_ANY_RECORD: JsonForm[Record] = JsonForm(Record)  # type: ignore[arg-type]  # a union


def gather(shelves: Sequence[Shelf]) -> Gathered:
    """Read all places, and put together what can be believed."""
    files: dict[str, bytes] = {}
    records: dict[str, Record] = {}
    present: dict[str, frozenset[str]] = {}
    problems: list[PgkeepError] = []
    wrong: dict[str, str] = {}
    foreign: dict[str, str] = {}
    for shelf in shelves:
        try:
            read = {name: shelf.files.read(name) for name in shelf.files.names() if _is_ours(name)}
        except PgkeepError as exc:
            problems.append(exc)
            continue
        right = set()
        for name, data in read.items():
            if record := _believed(name, data, shelf.trusted):
                right.add(name)
                files.setdefault(name, data)
                records.setdefault(name, record)
            else:
                is_foreign = _believed(name, data, shelf.named) is not None
                (foreign if is_foreign else wrong)[name] = f"{name} in {shelf.name}"
        present[shelf.name] = frozenset(right)
    factors, spent, gone = _put_together(records.values())
    return Gathered(
        factors,
        _without(wrong, files, gone),
        _without(foreign, files, gone),
        spent,
        files,
        present,
        tuple(problems),
    )


def _is_ours(name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern, _ in _FORMS)


def _without(
    found: Mapping[str, str], right: Mapping[str, bytes], gone: frozenset[str]
) -> tuple[str, ...]:
    """Of records of enrolment, those that no place has right and that were not removed."""
    return tuple(
        where
        for name, where in sorted(found.items())
        if (match := _ENROLLED.fullmatch(name)) and name not in right and match[1] not in gone
    )


def _believed(name: str, data: bytes, signers: Sequence[PublicSigner]) -> Record | None:
    """The record, if it is well signed and what its name says."""
    form = next(adapter for pattern, adapter in _FORMS if pattern.fullmatch(name))
    try:
        head, _ = unpack(data, _FIRST_LINE, signers)
        record: Record = form.load(head)
    except (ValueError, NotAuthentic):
        return None
    return record if _name_of(record) == name else None


def _name_of(record: Record) -> str:
    if isinstance(record, Spent):
        return f"{record.id}-{record.number}.spent"
    return f"{record.id}.{record.record}"


def _put_together(
    records: Iterable[Record],
) -> tuple[tuple[Factor, ...], frozenset[tuple[str, int]], frozenset[str]]:
    """The factors that count, the codes that were spent, and the factors that were removed."""
    enrolled: list[Factor] = []
    removed: set[str] = set()
    spent: set[tuple[str, int]] = set()
    for record in records:
        match record:
            case Factor():
                enrolled.append(record)
            case Removal():
                removed.add(record.id)
            case Spent():
                spent.add((record.id, record.number))
    left = (factor for factor in enrolled if factor.id not in removed)
    factors = tuple(sorted(left, key=lambda one: (one.enrolled, one.id)))
    return factors, frozenset(spent), frozenset(removed)


# --- writing --------------------------------------------------------------------------------


def dump(record: Record, key: SigningKey) -> tuple[str, bytes]:
    """The name and the bytes of a record."""
    text = _ANY_RECORD.dump(record) + b"\n"
    return _name_of(record), pack(_FIRST_LINE, text, b"", key)


def keep(shelves: Iterable[Shelf], files: Mapping[str, bytes]) -> tuple[PgkeepError, ...]:
    """Put records into each place, as far as it takes them; what went wrong."""
    problems: list[PgkeepError] = []
    for shelf in shelves:
        try:
            for name, data in files.items():
                shelf.files.write(name, data)
        except PgkeepError as exc:
            problems.append(exc)
    return tuple(problems)


def mend(shelves: Iterable[Shelf], gathered: Gathered) -> None:
    """Give each place what others have and it has not; one that takes nothing stays as it is."""
    for shelf in shelves:
        there = gathered.present.get(shelf.name)
        if there is None:
            continue
        with suppress(PgkeepError):
            for name, data in gathered.files.items():
                if name not in there:
                    shelf.files.write(name, data)


def new_id() -> str:
    """Of a factor."""
    return secrets.token_hex(8)


# --- recovery codes -------------------------------------------------------------------------


def new_recovery_codes() -> tuple[str, ...]:
    """Codes to be written down: `abcd-efgh-jkmn-pqrs`."""
    return tuple(_new_code() for _ in range(RECOVERY_CODES))


def _new_code() -> str:
    letters = "".join(secrets.choice(_CODE_LETTERS) for _ in range(_CODE_LENGTH))
    return "-".join(letters[i : i + 4] for i in range(0, _CODE_LENGTH, 4))


def normal_recovery_code(text: str) -> str | None:
    """A recovery code as it is hashed, however it was typed; None if it is of another form."""
    letters = re.sub(r"[\s-]", "", text).lower()
    is_one = len(letters) == _CODE_LENGTH and set(letters) <= set(_CODE_LETTERS)
    return letters if is_one else None


def hash_recovery_code(factor_id: str, code: str) -> str:
    """What is kept of it. The factor's id is the salt."""
    normal = normal_recovery_code(code) or ""
    return sha256(f"pgkeep recovery code {factor_id} {normal}".encode()).hexdigest()


def recovery_factor(codes: Sequence[str], name: str, host: str, now: datetime) -> Factor:
    """The record of a set of recovery codes."""
    id_ = new_id()
    hashes = tuple(hash_recovery_code(id_, code) for code in codes)
    return Factor(id_, name, FactorKind.RECOVERY, now.astimezone(UTC), host, codes=hashes)
