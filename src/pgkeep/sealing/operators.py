"""An operator's SSH signature, FIDO2 keys included: `ssh-keygen -Y sign -n pgkeep-approve`.

The host that backs up signs with Ed25519 alone (`pgkeep.sealing.signing`); people have whatever key
they have. Of a FIDO2 key (`sk-...`) the device signs a hash of the message together with flags and
a counter: https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.u2f
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from pgkeep.errors import KeyUnusable, NotAuthentic
from pgkeep.sealing.sshsig import Fields, ParsedSignature, fingerprint, parse_signature, signed_data

NAMESPACE = "pgkeep-approve"

_SK_ED25519 = b"sk-ssh-ed25519@openssh.com"
_SK_ECDSA = b"sk-ecdsa-sha2-nistp256@openssh.com"
_TOUCHED, _VERIFIED = 0x01, 0x04
_LEAST_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class OperatorKey:
    """A public key of an operator's."""

    blob: bytes
    must_verify: bool = False
    """Of a FIDO2 key: a touch is not enough, its PIN or a finger is asked for too."""

    @classmethod
    def parse(cls, line: str, *, must_verify: bool = False) -> OperatorKey:
        """Reads the line of a .pub file. `KeyUnusable` if it is of no kind that can be checked."""
        kind, text = [*line.split(), "", ""][:2]
        try:
            blob = base64.b64decode(text, validate=True)
            named = Fields(blob).take()
        except ValueError:
            raise _not_usable(f"{kind[:40]!r} is no line of a public SSH key") from None
        if named != kind.encode() or named not in _KINDS:
            raise _not_usable(f"an SSH key of kind {kind[:40]!r} cannot approve anything")
        key = cls(blob, must_verify)
        if must_verify and not key.is_hardware:
            raise _not_usable(f"a key of kind {kind!r} cannot tell that its owner was verified")
        try:
            _KINDS[named].check(blob)
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise _not_usable(f"the key of kind {kind!r} is damaged or too weak") from exc
        return key

    @property
    def kind(self) -> str:
        """`ssh-ed25519`, `sk-ssh-ed25519@openssh.com` and so on."""
        return Fields(self.blob).take().decode()

    @property
    def is_hardware(self) -> bool:
        """Whether it is a FIDO2 key, whose private half never leaves the device."""
        return self.kind.startswith("sk-")

    @property
    def line(self) -> str:
        """As in a .pub file, without a comment."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"

    @property
    def fingerprint(self) -> str:
        """`SHA256:...`, as `ssh-keygen -l` prints it."""
        return fingerprint(self.blob)


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that is right."""

    key: OperatorKey
    counter: int
    """How often the FIDO2 device has signed, if it counts; 0 otherwise."""


def signing_key_of(signature: bytes) -> str:
    """The fingerprint of the key that an armored signature says it is by. Proves nothing."""
    return fingerprint(parse_signature(signature).key_blob)


def verify_approval(message: bytes, signature: bytes, key: OperatorKey) -> Signed:
    """`NotAuthentic`, which says why, unless this key signed this message in our namespace."""
    parsed = parse_signature(signature)
    if parsed.key_blob != key.blob:
        raise NotAuthentic(f"signed by another key: {fingerprint(parsed.key_blob)}")
    if parsed.namespace != NAMESPACE.encode():
        raise NotAuthentic(
            f"signed for another purpose than {NAMESPACE}",
            hint=f"Sign with: ssh-keygen -Y sign -n {NAMESPACE} -f KEY FILE",
        )
    data = signed_data(message, parsed.namespace, parsed.hash_name)
    try:
        return Signed(key, _KINDS[key.kind.encode()].verify(key, parsed, data))
    except (InvalidSignature, ValueError):
        raise NotAuthentic(f"the signature by {key.fingerprint} is not of this text") from None


Check = Callable[[bytes], object]
Verify = Callable[[OperatorKey, ParsedSignature, bytes], int]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is particular about a kind of key. Both raise `ValueError` or `InvalidSignature`."""

    check: Check
    verify: Verify


def _ordinary(blob: bytes) -> Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    kind = Fields(blob).take()
    key = load_ssh_public_key(kind + b" " + base64.b64encode(blob))
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _LEAST_RSA_BITS:
        raise ValueError("too few bits")
    if not isinstance(key, Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise ValueError("another kind of key")
    return key


def _verify_ed25519(key: OperatorKey, parsed: ParsedSignature, data: bytes) -> int:
    public = _ordinary(key.blob)
    assert isinstance(public, Ed25519PublicKey)
    public.verify(_named(parsed, b"ssh-ed25519"), data)
    return 0


_CURVE_HASHES: dict[bytes, hashes.HashAlgorithm] = {
    b"ecdsa-sha2-nistp256": hashes.SHA256(),
    b"ecdsa-sha2-nistp384": hashes.SHA384(),
    b"ecdsa-sha2-nistp521": hashes.SHA512(),
}


def _verify_ecdsa(key: OperatorKey, parsed: ParsedSignature, data: bytes) -> int:
    public, kind = _ordinary(key.blob), key.kind.encode()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(_dss(_named(parsed, kind)), data, ec.ECDSA(_CURVE_HASHES[kind]))
    return 0


# Not ssh-rsa, which is SHA-1.
_RSA_HASHES: dict[bytes, hashes.HashAlgorithm] = {
    b"rsa-sha2-256": hashes.SHA256(),
    b"rsa-sha2-512": hashes.SHA512(),
}


def _verify_rsa(key: OperatorKey, parsed: ParsedSignature, data: bytes) -> int:
    public = _ordinary(key.blob)
    assert isinstance(public, rsa.RSAPublicKey)
    algorithm = Fields(parsed.signature).take()
    if algorithm not in _RSA_HASHES:
        raise ValueError("a weak hash")
    signature = _named(parsed, algorithm)
    size = (public.key_size + 7) // 8  # leading zeros may have been left out
    public.verify(signature.rjust(size, b"\0"), data, padding.PKCS1v15(), _RSA_HASHES[algorithm])
    return 0


@dataclass(frozen=True, slots=True)
class _HardwareKey:
    point: bytes
    application: bytes

    @classmethod
    def parse(cls, blob: bytes) -> _HardwareKey:
        fields = Fields(blob)
        if fields.take() == _SK_ECDSA and fields.take() != b"nistp256":
            raise ValueError("another curve")
        key = cls(fields.take(), fields.take())
        fields.end()
        if not key.application.startswith(b"ssh:"):
            raise ValueError("not a key for SSH")
        return key


def _sk_ed25519(blob: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(_HardwareKey.parse(blob).point)


def _sk_ecdsa(blob: bytes) -> ec.EllipticCurvePublicKey:
    point = _HardwareKey.parse(blob).point
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)


def _verify_sk_ed25519(key: OperatorKey, parsed: ParsedSignature, data: bytes) -> int:
    signature, counter, whole = _from_device(key, parsed, _SK_ED25519, data)
    _sk_ed25519(key.blob).verify(signature, whole)
    return counter


def _verify_sk_ecdsa(key: OperatorKey, parsed: ParsedSignature, data: bytes) -> int:
    signature, counter, whole = _from_device(key, parsed, _SK_ECDSA, data)
    _sk_ecdsa(key.blob).verify(_dss(signature), whole, ec.ECDSA(hashes.SHA256()))
    return counter


def _from_device(
    key: OperatorKey, parsed: ParsedSignature, kind: bytes, data: bytes
) -> tuple[bytes, int, bytes]:
    """The signature itself, the device's counter, and what the device has signed."""
    fields = Fields(parsed.signature)
    if fields.take() != kind:
        raise ValueError("another algorithm")
    signature = fields.take()
    flags, counter = fields.take_bytes(1), fields.take_bytes(4)
    fields.end()
    if not flags[0] & _TOUCHED:
        raise NotAuthentic(f"nobody touched the device of {key.fingerprint}")
    if key.must_verify and not flags[0] & _VERIFIED:
        raise NotAuthentic(
            f"the device of {key.fingerprint} did not verify its owner",
            hint="Make the key with: ssh-keygen -t ed25519-sk -O verify-required",
        )
    application = _HardwareKey.parse(key.blob).application
    whole = sha256(application).digest() + flags + counter + sha256(data).digest()
    return signature, int.from_bytes(counter, "big"), whole


def _named(parsed: ParsedSignature, algorithm: bytes) -> bytes:
    fields = Fields(parsed.signature)
    if fields.take() != algorithm:
        raise ValueError("another algorithm")
    signature = fields.take()
    fields.end()
    return signature


def _dss(blob: bytes) -> bytes:
    """Two numbers in SSH's form, in that which `cryptography` takes."""
    fields = Fields(blob)
    r, s = (int.from_bytes(fields.take(), "big", signed=True) for _ in range(2))
    fields.end()
    return encode_dss_signature(r, s)


def _not_usable(message: str) -> KeyUnusable:
    return KeyUnusable(
        message,
        hint="Give the .pub file of an ed25519, ecdsa, rsa (2048 bits or more), ed25519-sk or"
        " ecdsa-sk key.",
    )


_KINDS = {
    b"ssh-ed25519": _Kind(_ordinary, _verify_ed25519),
    b"ecdsa-sha2-nistp256": _Kind(_ordinary, _verify_ecdsa),
    b"ecdsa-sha2-nistp384": _Kind(_ordinary, _verify_ecdsa),
    b"ecdsa-sha2-nistp521": _Kind(_ordinary, _verify_ecdsa),
    b"ssh-rsa": _Kind(_ordinary, _verify_rsa),
    _SK_ED25519: _Kind(_sk_ed25519, _verify_sk_ed25519),
    _SK_ECDSA: _Kind(_sk_ecdsa, _verify_sk_ecdsa),
}
