"""Ed25519 signatures in OpenSSH's SSHSIG format, which `ssh-keygen -Y verify` checks.

The format: https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from pgkeep.errors import KeyUnusable, NotAuthentic

PRINCIPAL = "pgkeep"
NAMESPACE = "pgkeep"

_KEY_TYPE = b"ssh-ed25519"
_KEY_BYTES = 32
_MAGIC = b"SSHSIG"
_VERSION = (1).to_bytes(4, "big")
_HASHES = {b"sha512": hashlib.sha512, b"sha256": hashlib.sha256}
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_ARMOR_CHARACTERS = 70


@dataclass(frozen=True)
class PublicSigner:
    """The public half of a signing key."""

    key: bytes

    @classmethod
    def parse(cls, line: str) -> PublicSigner:
        """Reads `ssh-ed25519 AAAA... [comment]`. KeyUnusable if it is anything else."""
        kind, blob = [*line.split(), "", ""][:2]
        try:
            fields = Fields(base64.b64decode(blob, validate=True))
            key_type, key = fields.take(), fields.take()
            fields.end()
        except ValueError as exc:
            raise _not_a_signer() from exc
        if (kind.encode(), key_type, len(key)) != (_KEY_TYPE, _KEY_TYPE, _KEY_BYTES):
            raise _not_a_signer()
        return cls(key)

    @property
    def line(self) -> str:
        """`ssh-ed25519 AAAA...`, as in a .pub file, without a comment."""
        return f"{_KEY_TYPE.decode()} {base64.b64encode(self._blob).decode()}"

    @property
    def fingerprint(self) -> str:
        """`SHA256:...`, as `ssh-keygen -l` prints it."""
        return fingerprint_of(self._blob)

    @property
    def _blob(self) -> bytes:
        return _string(_KEY_TYPE) + _string(self.key)

    def __str__(self) -> str:
        return self.line


class SigningKey:
    """The private half. Its `repr` shows the fingerprint only."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, data: bytes) -> SigningKey:
        """Reads an OpenSSH private key file without a passphrase. KeyUnusable otherwise."""
        try:
            private = load_ssh_private_key(data, password=None)
        except TypeError:
            raise KeyUnusable(
                "the signing key is protected by a passphrase",
                hint="A signing key is used unattended: remove its passphrase (ssh-keygen -p).",
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            # Not chained: the parser's message may quote the file.
            raise KeyUnusable("the signing key is not an OpenSSH private key") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyUnusable("the signing key is not an Ed25519 key")
        return cls(private)

    def dump(self) -> bytes:
        """The key as an OpenSSH private key file, not encrypted."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())

    @property
    def public(self) -> PublicSigner:
        return PublicSigner(self._private.public_key().public_bytes_raw())

    def sign(self, message: bytes | memoryview) -> bytes:
        """An armored signature in namespace `pgkeep`. The same message gives the same bytes."""
        signature = self._private.sign(signed_data(message, b"sha512"))
        blob = (
            _MAGIC
            + _VERSION
            + _string(self.public._blob)
            + _string(NAMESPACE.encode())
            + _string(b"")
            + _string(b"sha512")
            + _string(_string(_KEY_TYPE) + _string(signature))
        )
        return _armor(blob)

    def __repr__(self) -> str:
        return f"SigningKey({self.public.fingerprint})"


def verify(
    message: bytes | memoryview, signature: bytes, trusted: Iterable[PublicSigner]
) -> PublicSigner:
    """Who of `trusted` signed `message`. NotAuthentic, which says why, if nobody did."""
    parsed = parse_signature(signature)
    signers = {signer._blob: signer for signer in trusted}
    signer = signers.get(parsed.key_blob)
    if signer is None:
        raise NotAuthentic(
            f"signed by another key: {fingerprint_of(parsed.key_blob)}",
            hint="Trust this key only if its owner confirms the fingerprint.",
        )
    if parsed.namespace != NAMESPACE.encode():
        raise NotAuthentic(f"signed for another purpose than {NAMESPACE}")
    try:
        Ed25519PublicKey.from_public_bytes(signer.key).verify(
            _take_ed25519(parsed.signature), signed_data(message, parsed.hash_name)
        )
    except InvalidSignature:
        raise NotAuthentic(
            f"the bytes do not match the signature by {signer.fingerprint}",
            hint="The file or its signature was changed after it was signed.",
        ) from None
    return signer


def allowed_signers(signers: Iterable[PublicSigner]) -> str:
    """The text of a file for `ssh-keygen -Y verify -f`, with the one principal `pgkeep`."""
    return "".join(f'{PRINCIPAL} namespaces="{NAMESPACE}" {signer.line}\n' for signer in signers)


def read_allowed_signers(text: str) -> list[PublicSigner]:
    """The Ed25519 signers that a file in this form names; what else it holds is passed over."""
    signers = []
    for line in text.splitlines():
        at = line.find("ssh-ed25519 ")
        if at >= 0 and not line.lstrip().startswith("#"):
            with suppress(KeyUnusable):
                signers.append(PublicSigner.parse(line[at:]))
    return signers


def parse_key_line(line: str) -> tuple[str, bytes]:
    """Kind and wire form of a public key of any kind: `KIND AAAA... [comment]`."""
    kind, text = [*line.split(), "", ""][:2]
    try:
        blob = base64.b64decode(text, validate=True)
        named = Fields(blob).take()
    except ValueError:
        named, blob = b"", b""
    if not kind or named != kind.encode():
        raise KeyUnusable(
            "not an SSH public key", hint="It has the form: ssh-ed25519 AAAA... comment."
        )
    return kind, blob


class Signature(NamedTuple):
    """An SSHSIG signature, taken apart."""

    key_blob: bytes
    namespace: bytes
    hash_name: bytes
    signature: bytes


def parse_signature(armored: bytes) -> Signature:
    """`NotAuthentic` if it is none."""
    try:
        return _parse_blob(_dearmor(armored))
    except ValueError as exc:
        raise NotAuthentic(f"not a signature: {exc}") from None


def _parse_blob(blob: bytes) -> Signature:
    if not blob.startswith(_MAGIC + _VERSION):
        raise ValueError("not SSHSIG version 1")
    fields = Fields(blob[len(_MAGIC + _VERSION) :])
    key_blob, namespace, reserved = fields.take(), fields.take(), fields.take()
    hash_name, signature = fields.take(), fields.take()
    fields.end()
    if reserved or hash_name not in _HASHES:
        raise ValueError("an unknown hash or field")
    return Signature(key_blob, namespace, hash_name, signature)


def _take_ed25519(signature: bytes) -> bytes:
    prefix = _string(_KEY_TYPE) + (64).to_bytes(4, "big")
    if not signature.startswith(prefix):
        raise InvalidSignature
    return signature[len(prefix) :]


def signed_data(message: bytes | memoryview, hash_name: bytes, namespace: str = NAMESPACE) -> bytes:
    """What a signature of a message is over."""
    digest = _HASHES[hash_name](message).digest()
    purpose = _string(namespace.encode())
    return _MAGIC + purpose + _string(b"") + _string(hash_name) + _string(digest)


class Fields:
    """SSH strings: four bytes of length, then that many bytes. ValueError if they do not fit."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def take(self) -> bytes:
        """The next string."""
        end = 4 + int.from_bytes(self._rest[:4], "big")
        if len(self._rest) < max(end, 4):
            raise ValueError("cut off")
        taken, self._rest = self._rest[4:end], self._rest[end:]
        return taken

    def rest(self) -> bytes:
        """All that follows, as it is."""
        taken, self._rest = self._rest, b""
        return taken

    def end(self) -> None:
        """`ValueError` unless all was taken."""
        if self._rest:
            raise ValueError("something follows")


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def fingerprint_of(key_blob: bytes) -> str:
    """`SHA256:...`, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(key_blob).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _armor(blob: bytes) -> bytes:
    text = base64.b64encode(blob).decode()
    lines = [text[i : i + _ARMOR_CHARACTERS] for i in range(0, len(text), _ARMOR_CHARACTERS)]
    return "\n".join([_BEGIN, *lines, _END, ""]).encode()


def _dearmor(armored: bytes) -> bytes:
    lines = armored.decode("ascii", "replace").split()
    begin, end = _BEGIN.split(), _END.split()
    if lines[: len(begin)] != begin or lines[-len(end) :] != end:
        raise ValueError("no BEGIN and END line")
    text = "".join(lines[len(begin) : -len(end)])
    try:
        blob = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("not base64") from None
    if base64.b64encode(blob).decode() != text:
        raise ValueError("base64 that is not canonical")
    return blob


def _not_a_signer() -> KeyUnusable:
    return KeyUnusable(
        "not an Ed25519 public key", hint="It has the form: ssh-ed25519 AAAA... comment."
    )
