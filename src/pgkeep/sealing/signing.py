"""Ed25519 signatures in OpenSSH's SSHSIG format, which `ssh-keygen -Y verify` checks.

The format: https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from pgkeep.errors import KeyUnusable, NotAuthentic
from pgkeep.sealing.sshsig import (
    Fields,
    ParsedSignature,
    fingerprint,
    pack_signature,
    parse_signature,
    signed_data,
    string,
)

PRINCIPAL = "pgkeep"
NAMESPACE = "pgkeep"

_KEY_TYPE = b"ssh-ed25519"
_KEY_BYTES = 32


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
        return fingerprint(self._blob)

    @property
    def _blob(self) -> bytes:
        return string(_KEY_TYPE) + string(self.key)

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
        namespace = NAMESPACE.encode()
        signature = self._private.sign(signed_data(message, namespace, b"sha512"))
        named = string(_KEY_TYPE) + string(signature)
        return pack_signature(ParsedSignature(self.public._blob, namespace, b"sha512", named))

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
            f"signed by another key: {fingerprint(parsed.key_blob)}",
            hint="Trust this key only if its owner confirms the fingerprint.",
        )
    if parsed.namespace != NAMESPACE.encode():
        raise NotAuthentic(f"signed for another purpose than {NAMESPACE}")
    try:
        Ed25519PublicKey.from_public_bytes(signer.key).verify(
            _take_ed25519(parsed.signature),
            signed_data(message, parsed.namespace, parsed.hash_name),
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


def _take_ed25519(signature: bytes) -> bytes:
    prefix = string(_KEY_TYPE) + (64).to_bytes(4, "big")
    if not signature.startswith(prefix):
        raise InvalidSignature
    return signature[len(prefix) :]


def _not_a_signer() -> KeyUnusable:
    return KeyUnusable(
        "not an Ed25519 public key", hint="It has the form: ssh-ed25519 AAAA... comment."
    )
