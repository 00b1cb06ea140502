"""Operators' SSH signatures, of all kinds of keys, hardware tokens (FIDO2) included.

The formats: OpenSSH's PROTOCOL.sshsig and PROTOCOL.u2f, RFC 4253 and RFC 5656.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from pgkeep.errors import KeyUnusable, NotAuthentic
from pgkeep.sealing.signing import (
    Fields,
    fingerprint_of,
    parse_key_line,
    parse_signature,
    signed_data,
)

NAMESPACE = "pgkeep-approve"

_CURVES: dict[bytes, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    b"nistp256": (ec.SECP256R1(), hashes.SHA256()),
    b"nistp384": (ec.SECP384R1(), hashes.SHA384()),
    b"nistp521": (ec.SECP521R1(), hashes.SHA512()),
}
_RSA_HASHES: dict[bytes, hashes.HashAlgorithm] = {
    b"rsa-sha2-256": hashes.SHA256(),
    b"rsa-sha2-512": hashes.SHA512(),
}
_FEWEST_RSA_BITS = 2048
_USER_PRESENT, _USER_VERIFIED = 0x01, 0x04

Check = Callable[[bytes, bytes, bytes], None]
"""Signature type, signature fields, message; `InvalidSignature` or `ValueError`."""


@dataclass(frozen=True, slots=True)
class OperatorKey:
    """A public key whose owner may approve; `blob` is its form on the wire."""

    kind: str
    blob: bytes

    @classmethod
    def parse(cls, line: str) -> OperatorKey:
        """Reads a line of a .pub file; `KeyUnusable` for a kind that cannot be verified."""
        kind, blob = parse_key_line(line)
        key = cls(kind, blob)
        key._checker()
        return key

    @property
    def fingerprint(self) -> str:
        """`SHA256:...`, as `ssh-keygen -l` prints it."""
        return fingerprint_of(self.blob)

    @property
    def is_hardware(self) -> bool:
        """Whether the key is in a token that wants to be touched."""
        return self.kind.startswith("sk-")

    def verify(self, message: bytes, signature: bytes, *, verified_user: bool = False) -> None:
        """`NotAuthentic` unless this key has signed the message, for approving.

        A token must have been touched; with `verified_user` it must have asked for its PIN too.
        """
        parsed = parse_signature(signature)
        if parsed.key_blob != self.blob:
            raise NotAuthentic(f"signed by another key: {fingerprint_of(parsed.key_blob)}")
        if parsed.namespace != NAMESPACE.encode():
            raise NotAuthentic(
                f"signed for another purpose than {NAMESPACE}",
                hint=f"Sign with: ssh-keygen -Y sign -n {NAMESPACE} -f KEY FILE.",
            )
        data = signed_data(message, parsed.hash_name, NAMESPACE)
        try:
            fields = Fields(parsed.signature)
            kind = fields.take()
            self._checker(verified_user=verified_user)(kind, fields.rest(), data)
        except (InvalidSignature, ValueError) as exc:
            reason = str(exc) or "the bytes do not match the signature"
            raise NotAuthentic(f"{self.fingerprint}: {reason}") from None

    def _checker(self, *, verified_user: bool = False) -> Check:
        fields = Fields(self.blob)
        try:
            named = fields.take().decode()
            if named != self.kind:
                raise ValueError("another kind than its line says")
            if self.kind == "ssh-ed25519":
                return _ed25519(fields)
            if self.kind.startswith("ecdsa-sha2-"):
                return _ecdsa(fields)
            if self.kind == "ssh-rsa":
                return _rsa(fields)
            if self.kind == "sk-ssh-ed25519@openssh.com":
                return _token(fields, _ed25519, verified_user)
            if self.kind == "sk-ecdsa-sha2-nistp256@openssh.com":
                return _token(fields, _ecdsa, verified_user)
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise KeyUnusable(f"not a key that can be used: {exc}") from None
        raise KeyUnusable(
            f"keys of kind {self.kind!r} cannot approve",
            hint="Use ssh-ed25519, ecdsa, rsa (2048 bits or more), or one in a hardware token"
            " (ssh-keygen -t ed25519-sk).",
        )


def _ed25519(fields: Fields) -> Check:
    key = Ed25519PublicKey.from_public_bytes(fields.take())

    def check(kind: bytes, signature: bytes, message: bytes) -> None:
        if not kind.endswith(b"ssh-ed25519") and kind != b"sk-ssh-ed25519@openssh.com":
            raise InvalidSignature
        inner = Fields(signature)
        raw = inner.take()
        inner.end()
        key.verify(raw, message)

    return check


def _ecdsa(fields: Fields) -> Check:
    name = fields.take()
    if name not in _CURVES:
        raise ValueError("an unknown curve")
    curve, algorithm = _CURVES[name]
    key = ec.EllipticCurvePublicKey.from_encoded_point(curve, fields.take())

    def check(kind: bytes, signature: bytes, message: bytes) -> None:
        if kind not in (b"ecdsa-sha2-" + name, b"sk-ecdsa-sha2-nistp256@openssh.com"):
            raise InvalidSignature
        outer = Fields(signature)
        numbers = Fields(outer.take())
        outer.end()
        r, s = _integer(numbers.take()), _integer(numbers.take())
        numbers.end()
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(algorithm))

    return check


def _rsa(fields: Fields) -> Check:
    exponent, modulus = _integer(fields.take()), _integer(fields.take())
    fields.end()
    if modulus.bit_length() < _FEWEST_RSA_BITS:
        raise ValueError(f"an RSA key of {modulus.bit_length()} bits is too short")
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()

    def check(kind: bytes, signature: bytes, message: bytes) -> None:
        if kind not in _RSA_HASHES:  # not ssh-rsa, whose hash is SHA-1
            raise InvalidSignature
        inner = Fields(signature)
        raw = inner.take()
        inner.end()
        key.verify(raw, message, padding.PKCS1v15(), _RSA_HASHES[kind])

    return check


def _token(fields: Fields, make: Callable[[Fields], Check], verified_user: bool) -> Check:
    """A token signs the hash of the message with what it asked its user for."""
    within = make(fields)
    application = fields.take()
    fields.end()

    def check(kind: bytes, signature: bytes, message: bytes) -> None:
        if not kind.startswith(b"sk-") or len(signature) < 5:
            raise InvalidSignature
        told, raw = signature[-5:], signature[:-5]
        flags = told[0]
        within(kind, raw, sha256(application).digest() + told + sha256(message).digest())
        if not flags & _USER_PRESENT:
            raise ValueError("the token was not touched")
        if verified_user and not flags & _USER_VERIFIED:
            raise ValueError("the token did not ask for its PIN")

    return check


def _integer(data: bytes) -> int:
    if not data or data[0] & 0x80:
        raise ValueError("not a positive number")
    return int.from_bytes(data, "big")
