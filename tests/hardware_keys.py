"""Keys in hardware tokens, made of software: signatures as in OpenSSH's PROTOCOL.u2f."""

from __future__ import annotations

import base64
from hashlib import sha256, sha512

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pgkeep.sealing.operators import NAMESPACE

APPLICATION = b"ssh:"


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def integer(number: int) -> bytes:
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


class Token:
    """A token with one key; `flags` say what it asked its user for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind.encode()
        self.edwards = Ed25519PrivateKey.generate()
        self.curve = ec.generate_private_key(ec.SECP256R1())

    @property
    def is_edwards(self) -> bool:
        return b"ed25519" in self.kind

    @property
    def blob(self) -> bytes:
        if self.is_edwards:
            public = string(self.edwards.public_key().public_bytes_raw())
        else:
            point = self.curve.public_key().public_bytes(
                Encoding.X962, PublicFormat.UncompressedPoint
            )
            public = string(b"nistp256") + string(point)
        return string(self.kind) + public + string(APPLICATION)

    @property
    def line(self) -> str:
        return f"{self.kind.decode()} {base64.b64encode(self.blob).decode()} token"

    def sign(self, message: bytes, *, flags: int = 1, namespace: str = NAMESPACE) -> bytes:
        preamble = b"SSHSIG" + string(namespace.encode()) + string(b"") + string(b"sha512")
        data = preamble + string(sha512(message).digest())
        told = bytes([flags]) + (7).to_bytes(4, "big")
        signed = sha256(APPLICATION).digest() + told + sha256(data).digest()
        if self.is_edwards:
            raw = string(self.edwards.sign(signed))
        else:
            r, s = decode_dss_signature(self.curve.sign(signed, ec.ECDSA(hashes.SHA256())))
            raw = string(integer(r) + integer(s))
        blob = (
            b"SSHSIG" + (1).to_bytes(4, "big") + string(self.blob) + string(namespace.encode())
            + string(b"") + string(b"sha512") + string(string(self.kind) + raw + told)
        )  # fmt: skip
        text = base64.b64encode(blob).decode()
        lines = [text[at : at + 70] for at in range(0, len(text), 70)]
        return "\n".join(
            ["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""]
        ).encode()
