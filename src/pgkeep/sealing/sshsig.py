"""The SSHSIG format: what is signed, and the armored text around a signature.

https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from pgkeep.errors import NotAuthentic

HASHES = {b"sha512": hashlib.sha512, b"sha256": hashlib.sha256}

_MAGIC = b"SSHSIG"
_VERSION = (1).to_bytes(4, "big")
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_ARMOR_CHARACTERS = 70


@dataclass(frozen=True, slots=True)
class ParsedSignature:
    """A signature that is well-formed; whether it is right is not known yet."""

    key_blob: bytes
    namespace: bytes
    hash_name: bytes
    signature: bytes
    """As in SSH: a string that names the algorithm, then what that algorithm says."""


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

    def take_bytes(self, size: int) -> bytes:
        """The next bytes, which have no length before them."""
        if len(self._rest) < size:
            raise ValueError("cut off")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def end(self) -> None:
        """Nothing may follow."""
        if self._rest:
            raise ValueError("something follows")


def string(data: bytes) -> bytes:
    """An SSH string."""
    return len(data).to_bytes(4, "big") + data


def fingerprint(key_blob: bytes) -> str:
    """`SHA256:...`, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(key_blob).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def signed_data(message: bytes | memoryview, namespace: bytes, hash_name: bytes) -> bytes:
    """What the key itself signs for a message."""
    digest = HASHES[hash_name](message).digest()
    return _MAGIC + string(namespace) + string(b"") + string(hash_name) + string(digest)


def pack_signature(parsed: ParsedSignature) -> bytes:
    """The armored text."""
    return _armor(
        _MAGIC
        + _VERSION
        + string(parsed.key_blob)
        + string(parsed.namespace)
        + string(b"")
        + string(parsed.hash_name)
        + string(parsed.signature)
    )


def parse_signature(armored: bytes) -> ParsedSignature:
    """An armored signature; `NotAuthentic` if it is none."""
    try:
        return _parse_blob(_dearmor(armored))
    except ValueError as exc:
        raise NotAuthentic(f"not a signature: {exc}") from None


def _parse_blob(blob: bytes) -> ParsedSignature:
    if not blob.startswith(_MAGIC + _VERSION):
        raise ValueError("not SSHSIG version 1")
    fields = Fields(blob[len(_MAGIC + _VERSION) :])
    key_blob, namespace, reserved = fields.take(), fields.take(), fields.take()
    hash_name, signature = fields.take(), fields.take()
    fields.end()
    if reserved or hash_name not in HASHES:
        raise ValueError("an unknown hash or field")
    return ParsedSignature(key_blob, namespace, hash_name, signature)


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
