"""Operators' keys (age, SSH, passphrases), and the epoch keys that are sealed to them.

Objects are sealed to an epoch's X25519 key; only the epoch's private half, a few hundred bytes, is
sealed to operators. So what is slow or rare (SSH keys, scrypt, mixed recipients) is pyrage's work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyrage  # type: ignore[import-untyped]  # it ships without types
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from pgkeep.errors import DamagedObject, KeyMissing, KeyUnusable, NotAuthentic, RecipientUnusable
from pgkeep.sealing.age import X25519Identity, X25519Recipient

PassphraseCallback = Callable[[str], str]
"""Asks a person for a passphrase with the prompt that it is given."""

_AGE_HEADER = b"age-encryption.org/"
_AGE_ARMOR = b"-----BEGIN AGE ENCRYPTED FILE-----"
_PEM = b"-----BEGIN "
_SECRET = "AGE-SECRET-KEY-"  # noqa: S105  # what a secret begins with, not a secret
# pyrage has one exception for everything; this text of it is the only way to tell the cases apart.
_NO_KEY_FITS = "No matching keys found"


# --- recipients: sealing --------------------------------------------------------------------


@dataclass(frozen=True)
class Recipient:
    """A public key of an operator. `text` is canonical: without comment and surplus space."""

    text: str
    _key: Any = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.text


def parse_recipient(text: str) -> Recipient:
    """Reads `age1...`, `ssh-ed25519 AAAA... comment` or `ssh-rsa AAAA... comment`.

    RecipientUnusable for anything else; the error never shows a secret that was pasted by mistake.
    """
    words = text.split()
    if _holds_a_secret(text):
        raise RecipientUnusable(
            "this is a private key, and a recipient must be a public one",
            hint="Give the recipient that belongs to it (age1..., or the .pub file), and keep the"
            " private key off this host.",
        )
    if len(words) == 1 and words[0].startswith("age1"):
        return _parse_age_recipient(words[0])
    if len(words) >= 2 and words[0] in ("ssh-ed25519", "ssh-rsa"):
        return _parse_ssh_recipient(f"{words[0]} {words[1]}")
    raise RecipientUnusable(
        f'not a recipient that can be sealed to: "{_shorten(text)}"',
        hint="A recipient is age1..., ssh-ed25519 AAAA..., ssh-rsa AAAA... or gpg:NAME.",
    )


def seal_to(recipients: Sequence[Recipient], plaintext: bytes) -> bytes:
    """An age file that each of `recipients` opens alone."""
    if not recipients:
        raise KeyMissing("no recipient to seal to", hint="Name at least one recipient.")
    try:
        sealed: bytes = pyrage.encrypt(plaintext, [recipient._key for recipient in recipients])
    except pyrage.EncryptError as exc:
        raise KeyUnusable(f"cannot seal to these recipients: {exc}") from exc
    return sealed


def seal_with_passphrase(plaintext: bytes, passphrase: str) -> bytes:
    """An age file that the passphrase opens. Slow on purpose: several seconds."""
    if not passphrase:
        raise KeyUnusable("an empty passphrase protects nothing", hint="Choose another passphrase.")
    sealed: bytes = pyrage.passphrase.encrypt(plaintext, passphrase)
    return sealed


def _holds_a_secret(text: str) -> bool:
    return _SECRET in text.upper() or "PRIVATE KEY" in text.upper()


def _parse_age_recipient(text: str) -> Recipient:
    try:
        return Recipient(text, pyrage.x25519.Recipient.from_str(text))
    except pyrage.RecipientError:
        raise RecipientUnusable(
            f'not an age recipient: "{_shorten(text)}"',
            hint="It may be cut off or mistyped, or of a kind that is not supported: an X25519"
            " recipient has 62 characters.",
        ) from None


def _parse_ssh_recipient(text: str) -> Recipient:
    try:
        return Recipient(text, pyrage.ssh.Recipient.from_str(text))
    except pyrage.RecipientError:
        raise RecipientUnusable(
            f'not an SSH public key: "{_shorten(text)}"',
            hint="Give the whole line of the .pub file.",
        ) from None


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:39] + "…"


# --- identities: opening --------------------------------------------------------------------


@dataclass(frozen=True)
class Identity:
    """A private key of an operator. `label` is the public half, and all that is ever shown."""

    label: str
    _key: Any = field(repr=False, compare=False)


def load_identities(
    text: bytes, *, passphrase: PassphraseCallback | None, name: str
) -> list[Identity]:
    """The keys of an age identity file (in the clear or sealed with a passphrase) or an SSH key.

    `name` is what prompts and errors call the file. `passphrase` is called once if one is needed;
    None means that nobody can be asked. KeyUnusable if the file yields no key.
    """
    content = text.strip()
    if content.startswith((_AGE_HEADER, _AGE_ARMOR)):
        # Only on the left: the last bytes of a binary file may look like white space.
        plain = open_with_passphrase(text.lstrip(), _ask(passphrase, name), name=name)
        return _load_age_identities(plain, name)
    if content.startswith(_PEM):
        return [_load_ssh_identity(content + b"\n", passphrase, name)]
    return _load_age_identities(text, name)


def open_with(identities: Sequence[Identity], sealed: bytes) -> bytes:
    """What `seal_to` sealed. KeyMissing if no identity fits, DamagedObject if it was changed."""
    if not identities:
        raise KeyMissing("no key was given that opens this", hint="Give an identity file.")
    try:
        plaintext: bytes = pyrage.decrypt(sealed, [identity._key for identity in identities])
    except pyrage.DecryptError as exc:
        if str(exc) == _NO_KEY_FITS:
            tried = ", ".join(_shorten(identity.label) for identity in identities)
            raise KeyMissing(
                f"no key was given that opens this (tried: {tried})",
                hint="Give the identity of one of the recipients that this was sealed to.",
            ) from None
        raise DamagedObject(f"damaged age file: {exc}") from exc
    return plaintext


def open_with_passphrase(sealed: bytes, passphrase: str, *, name: str) -> bytes:
    """What `seal_with_passphrase` sealed. KeyUnusable if the passphrase is wrong.

    (Or if the file was changed: a wrong passphrase looks the same as a changed key stanza.)
    """
    try:
        plaintext: bytes = pyrage.passphrase.decrypt(sealed, passphrase)
    except pyrage.DecryptError as exc:
        if str(exc) == _NO_KEY_FITS:
            raise KeyUnusable(
                f'"{name}" is sealed to other keys, not with a passphrase',
                hint="Open it with age first, or give an identity file.",
            ) from None
        raise KeyUnusable(
            f'"{name}" does not open: the passphrase is wrong, or the file is damaged',
            hint="Try again; nothing was changed.",
        ) from exc
    return plaintext


def _ask(passphrase: PassphraseCallback | None, name: str) -> str:
    if passphrase is None:
        raise KeyUnusable(
            f'"{name}" is protected by a passphrase, and nobody can be asked for it',
            hint="Run this in a terminal, or give a key without a passphrase.",
        )
    answer = passphrase(f'Passphrase for "{name}": ')
    if not answer:
        raise KeyUnusable(f'no passphrase was given for "{name}"', hint="Try again.")
    return answer


def _load_age_identities(text: bytes, name: str) -> list[Identity]:
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise KeyUnusable(f'"{name}" holds no key', hint="An age identity begins AGE-SECRET-KEY-1.")
    return [_load_age_identity(key, name) for key in keys]


def _load_age_identity(line: str, name: str) -> Identity:
    try:
        identity = pyrage.x25519.Identity.from_str(line)
    except pyrage.IdentityError:
        # Never quoted: a mistyped secret is still a secret.
        raise KeyUnusable(f'"{name}" is not an identity file', hint=_identity_hint(line)) from None
    return Identity(str(identity.to_public()), identity)


def _identity_hint(line: str) -> str:
    if line.startswith(("age1", "ssh-")):
        return "It holds a recipient, the public half; the private half is needed to open."
    if line.startswith("AGE-PLUGIN-"):
        return "Identities of age plugins are not supported: open the file with age itself."
    return "Give an age identity (AGE-SECRET-KEY-1...) or an OpenSSH private key."


def _load_ssh_identity(pem: bytes, passphrase: PassphraseCallback | None, name: str) -> Identity:
    private = _load_ssh_private_key(pem, passphrase, name)
    plain = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    try:
        return Identity(public.decode(), pyrage.ssh.Identity.from_buffer(plain))
    except pyrage.IdentityError as exc:
        raise KeyUnusable(f'"{name}" cannot be used: {exc}') from None


def _load_ssh_private_key(
    pem: bytes, passphrase: PassphraseCallback | None, name: str
) -> Ed25519PrivateKey | RSAPrivateKey:
    try:
        private = _parse_ssh_private_key(pem, None, name)
    except TypeError:  # cryptography's answer to a protected key without a password
        private = _parse_ssh_private_key(pem, _ask(passphrase, name).encode(), name)
    if not isinstance(private, Ed25519PrivateKey | RSAPrivateKey):
        raise KeyUnusable(
            f'"{name}" is an SSH key of a kind that age cannot use',
            hint="Only ssh-ed25519 and ssh-rsa keys can open what is sealed.",
        )
    return private


def _parse_ssh_private_key(pem: bytes, password: bytes | None, name: str) -> object:
    try:
        return load_ssh_private_key(pem, password)
    except UnsupportedAlgorithm as exc:
        raise KeyUnusable(
            f'"{name}" cannot be read: {exc}',
            hint="A passphrase on an SSH key needs the package bcrypt; other ciphers and kinds of"
            " key are not supported.",
        ) from None
    except ValueError:
        # Not chained: the parser's message may quote the file.
        reason = "is not an OpenSSH private key, or is damaged"
        if password is not None:
            reason = "does not open: the passphrase is wrong, or the file is damaged"
        raise KeyUnusable(
            f'"{name}" {reason}',
            hint="ssh-keygen -p -f FILE rewrites a key that OpenSSH can read in its own format.",
        ) from None


# --- epochs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class EpochKey:
    """The public half of an epoch: what a host needs to seal, and cannot open anything with."""

    recipient: X25519Recipient

    @cached_property  # asked for with each part
    def id(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the recipient's text."""
        return hashlib.sha256(str(self.recipient).encode("ascii")).hexdigest()[:16]


def new_epoch() -> tuple[EpochKey, bytes]:
    """A new epoch, and its private half as an age identity file.

    The caller seals the file to the operators (`seal_to`, `seal_with_passphrase`) and forgets it.
    """
    identity = X25519Identity.generate()
    epoch = EpochKey(identity.recipient)
    text = (
        f"# private key of pgkeep epoch {epoch.id}: it opens every object that was sealed in it\n"
        f"# public key: {epoch.recipient}\n"
        f"{identity}\n"
    )
    return epoch, text.encode("ascii")


def load_epoch(text: bytes) -> X25519Identity:
    """The private half of an epoch from the file that `new_epoch` made. KeyUnusable if it is not
    one, with exactly one key."""
    lines = text.decode("ascii", "replace").splitlines()
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if len(keys) != 1:
        raise KeyUnusable(f"an epoch's identity file holds {len(keys)} keys instead of one")
    return X25519Identity.parse(keys[0])


def load_epoch_of(epoch: str, text: bytes) -> X25519Identity:
    """As `load_epoch`; `NotAuthentic` if it is not the key of the epoch with this id.

    A signed manifest names its epoch, so that nobody can put a key of their own in its place.
    """
    try:
        identity = load_epoch(text)
    except KeyUnusable as exc:
        raise NotAuthentic(f"the sealed key of epoch {epoch} holds something else") from exc
    if EpochKey(identity.recipient).id != epoch:
        raise NotAuthentic(f"the sealed key of epoch {epoch} holds another key")
    return identity
