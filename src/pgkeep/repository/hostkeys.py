"""The keys of the backup host itself, in its state folder, none of which opens any data.

- the signing key: says that a manifest comes from this host;
- the index key: opens tables of contents (names, counts, sizes), never rows;
- the current epoch: the public key to which objects are sealed, and the sealed copy of its
  private half, which only the operators' keys open and which this host has forgotten.

Beside them is an empty file for each database of which stored parts turned out to be wrong, until
everything has been read.

An epoch lets operators come and go, and keys be of any kind, without sealing each object again.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from pgkeep.errors import ConfigurationError, KeyUnusable
from pgkeep.sealing import (
    EpochKey,
    Recipients,
    SealedKey,
    SigningKey,
    X25519Identity,
    X25519Recipient,
    new_epoch,
)

EPOCH_AGE = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Epoch:
    """Where objects of a period are sealed to; `sealed` may be shown to anybody."""

    key: EpochKey
    sealed: SealedKey

    @property
    def id(self) -> str:
        return self.key.id


class HostKeys:
    """The state folder's keys; each is made when it is first asked for (files 0600)."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir

    @property
    def folder(self) -> Path:
        """The state folder."""
        return self._folder

    @property
    def signing_path(self) -> Path:
        return self._folder / "signing.key"

    @property
    def index_path(self) -> Path:
        return self._folder / "index.key"

    def signing_key(self) -> SigningKey:
        """The key that signs manifests."""
        data = self._read_or_make(self.signing_path, lambda: SigningKey.generate().dump())
        return SigningKey.load(data)

    def index_key(self) -> X25519Identity:
        """The key that opens tables of contents."""
        data = self._read_or_make(
            self.index_path,
            lambda: f"# pgkeep index key of this host\n{X25519Identity.generate()}\n".encode(),
        )
        return _identity_in(data, self.index_path)

    def existing_index_key(self) -> X25519Identity | None:
        """The index key, if this host has one."""
        try:
            return _identity_in(self.index_path.read_bytes(), self.index_path)
        except OSError:
            return None

    def existing_signing_key(self) -> SigningKey | None:
        """The signing key, if this host has one."""
        try:
            return SigningKey.load(self.signing_path.read_bytes())
        except OSError:
            return None

    def distrust(self, database: str) -> None:
        """Remember that stored parts of a database were wrong, until `trust_again`."""
        self._write(self._distrust_path(database), b"")

    def is_distrusted(self, database: str) -> bool:
        """Whether a part was found wrong and no full read has ended since."""
        return self._distrust_path(database).exists()

    def trust_again(self, database: str) -> None:
        """Everything was read and published."""
        with suppress(OSError):  # one full read more does no harm
            self._distrust_path(database).unlink(missing_ok=True)

    def _distrust_path(self, database: str) -> Path:
        return self._folder / f"{database}.read-everything"

    def epoch(
        self, recipients: Sequence[str], *, now: datetime, gpg_home: Path | None = None
    ) -> Epoch:
        """The current epoch for exactly these recipients; a new one when they or time changed."""
        if not recipients:
            raise ConfigurationError(
                "no recipient is configured, so nobody could open a backup",
                hint="Run pgkeep init, or set encryption.recipients to a public key (age1...).",
            )
        operators = Recipients.find(recipients, gpg_home)
        wanted, path = _made_for(operators), self._folder / "epoch.json"
        current = _load_epoch(path, wanted, now)
        if current is not None:
            return current
        key, private = new_epoch()
        epoch = Epoch(key, operators.seal(private))
        document = {
            "recipient": str(key.recipient),
            "sealed": (epoch.sealed.age or b"").hex(),
            "sealed_gpg": (epoch.sealed.gpg or b"").hex(),
            "for": wanted,
            "begun": now.astimezone(UTC).isoformat(),
        }
        document["check"] = _epoch_check(document)
        self._write(path, json.dumps(document).encode())
        return epoch

    def existing_epoch(
        self, recipients: Sequence[str], *, now: datetime, gpg_home: Path | None = None
    ) -> Epoch | None:
        """The current epoch for exactly these recipients, if there is one; none is made."""
        wanted = _made_for(Recipients.find(recipients, gpg_home))
        return _load_epoch(self._folder / "epoch.json", wanted, now)

    def _read_or_make(self, path: Path, make: Callable[[], bytes]) -> bytes:
        try:
            with suppress(FileNotFoundError):
                data = path.read_bytes()
                if path.stat().st_mode & 0o077:
                    raise ConfigurationError(
                        f"others may read the key {str(path)!r}", hint=f"Run: chmod 600 {path}"
                    )
                return data
            self._write(path, make(), replace=False)
            return path.read_bytes()
        except OSError as exc:
            reason = (exc.strerror or str(exc)).lower()
            raise ConfigurationError(
                f"cannot read {str(path)!r} in the state folder: {reason}",
                hint="Run pgkeep as the user who owns it, or set state_dir to a folder of your"
                " own.",
            ) from exc

    def _write(self, path: Path, data: bytes, *, replace: bool = True) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, data, replace=replace)
        except OSError as exc:
            reason = (exc.strerror or str(exc)).lower()
            raise ConfigurationError(
                f"cannot write to the state folder {str(self._folder)!r}: {reason}",
                hint="Set state_dir to a folder of your own, on a disk with room.",
            ) from exc


def write_private(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file (0600) so that it is there whole or not at all.

    Without `replace`, a file that somebody else has just made is left as it is.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            temporary.rename(path)
        else:
            _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        temporary.rename(path)


def _identity_in(data: bytes, path: Path) -> X25519Identity:
    for line in data.decode("utf-8", "replace").splitlines():
        if line and not line.startswith("#"):
            return X25519Identity.parse(line)
    raise KeyUnusable(f"there is no key in {str(path)!r}")


def _made_for(operators: Recipients) -> str:
    return sha256("\n".join(operators.names).encode()).hexdigest()


def _epoch_check(document: dict[str, str]) -> str:
    """A hash of the rest: a damaged `sealed` would go unseen until nobody can open a backup."""
    names = ("recipient", "sealed", "sealed_gpg", "for", "begun")
    fields = [str(document[name]) for name in names]
    return sha256("\n".join(fields).encode()).hexdigest()


def _load_epoch(path: Path, wanted: str, now: datetime) -> Epoch | None:
    try:
        document = json.loads(path.read_bytes())
        if document["check"] != _epoch_check(document):
            return None
        begun = datetime.fromisoformat(document["begun"])
        if document["for"] != wanted or not timedelta(0) <= now - begun < EPOCH_AGE:
            return None
        recipient = X25519Recipient.parse(document["recipient"])
        forms = (bytes.fromhex(document[name]) or None for name in ("sealed", "sealed_gpg"))
        return Epoch(EpochKey(recipient), SealedKey(*forms))
    except (OSError, ValueError, KeyError, TypeError, KeyUnusable):
        return None
