"""FIDO2 keys made of software, which sign as a device does: OpenSSH's PROTOCOL.u2f.

`ssh-keygen -Y verify` believes them too (tests/unit/test_operators.py), so the form is right.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pgkeep.sealing.operators import NAMESPACE
from pgkeep.sealing.sshsig import ParsedSignature, pack_signature, signed_data, string

TOUCHED, VERIFIED = 0x01, 0x04

Private = Ed25519PrivateKey | ec.EllipticCurvePrivateKey


@dataclass(slots=True)
class HardwareKey:
    """A device with one key. `counter` is how often it has signed; 0 for one that never counts."""

    private: Private
    application: bytes = b"ssh:"
    flags: int = TOUCHED
    counter: int = 1
    namespace: bytes = field(default=NAMESPACE.encode())

    @classmethod
    def ed25519(cls) -> HardwareKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def ecdsa(cls) -> HardwareKey:
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @property
    def kind(self) -> bytes:
        if isinstance(self.private, Ed25519PrivateKey):
            return b"sk-ssh-ed25519@openssh.com"
        return b"sk-ecdsa-sha2-nistp256@openssh.com"

    @property
    def blob(self) -> bytes:
        public = self.private.public_key()
        if isinstance(public, ec.EllipticCurvePublicKey):
            point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            middle = string(b"nistp256") + string(point)
        else:
            middle = string(public.public_bytes_raw())
        return string(self.kind) + middle + string(self.application)

    @property
    def line(self) -> str:
        return f"{self.kind.decode()} {base64.b64encode(self.blob).decode()} token"

    def sign(self, message: bytes) -> bytes:
        """An armored signature, as `ssh-keygen -Y sign` writes it."""
        data = signed_data(message, self.namespace, b"sha512")
        tail = bytes([self.flags]) + self.counter.to_bytes(4, "big")
        whole = sha256(self.application).digest() + tail + sha256(data).digest()
        if self.counter:
            self.counter += 1
        signature = string(self.kind) + string(self._sign(whole)) + tail
        return pack_signature(ParsedSignature(self.blob, self.namespace, b"sha512", signature))

    def _sign(self, data: bytes) -> bytes:
        if isinstance(self.private, Ed25519PrivateKey):
            return self.private.sign(data)
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(SHA256())))
        return string(_positive(r)) + string(_positive(s))


def _positive(number: int) -> bytes:
    """SSH's form of a whole number: a zero in front where the first bit would say minus."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")
