"""The age v1 format with X25519 recipients (https://age-encryption.org/v1), over `cryptography`.

Our own writer and reader, because pyrage holds the GIL for the whole call: measured on one core,
ChaCha20-Poly1305 into a reused buffer seals 4 GB/s and leaves other threads running, pyrage 0.6.
The age command and pyrage open what is written here, and the other way round.
"""

from __future__ import annotations

import binascii
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pgkeep.errors import DamagedObject, KeyMissing, KeyUnusable
from pgkeep.sealing import bech32

Sink = Callable[[bytes | memoryview], object]

_VERSION_LINE = b"age-encryption.org/v1"
_X25519_INFO = b"age-encryption.org/v1/X25519"
_RECIPIENT_PREFIX = "age"
_IDENTITY_PREFIX = "AGE-SECRET-KEY-"
_KEY_BYTES = 32
_FILE_KEY_BYTES = 16
_NONCE_BYTES = 16
_TAG_BYTES = 16
_CHUNK_BYTES = 64 * 1024
_SEALED_CHUNK_BYTES = _CHUNK_BYTES + _TAG_BYTES
_BLOCK_BYTES = 16 * _SEALED_CHUNK_BYTES
_BODY_LINE_CHARACTERS = 64
# The format sets no limit. Ours has room for hundreds of recipients and bounds what is parsed.
_HEADER_LIMIT_BYTES = 64 * 1024


# --- keys -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class X25519Recipient:
    """A public key: what is sealed to it, its identity opens."""

    key: bytes

    @classmethod
    def parse(cls, text: str) -> X25519Recipient:
        """Reads `age1...`. KeyUnusable if it is anything else."""
        return cls(_decode_key(_RECIPIENT_PREFIX, text, "an age recipient"))

    def __str__(self) -> str:
        return bech32.encode(_RECIPIENT_PREFIX, self.key)


@dataclass(frozen=True)
class X25519Identity:
    """A private key. Neither `repr` nor an error shows it; `str` does, to write it to a file."""

    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> X25519Identity:
        return cls(os.urandom(_KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> X25519Identity:
        """Reads `AGE-SECRET-KEY-1...`. KeyUnusable if it is anything else."""
        return cls(_decode_key(_IDENTITY_PREFIX, text, "an age identity"))

    @cached_property  # asked for with each part
    def recipient(self) -> X25519Recipient:
        private = X25519PrivateKey.from_private_bytes(self.secret)
        return X25519Recipient(private.public_key().public_bytes_raw())

    def __str__(self) -> str:
        return bech32.encode(_IDENTITY_PREFIX, self.secret)


def _decode_key(prefix: str, text: str, kind: str) -> bytes:
    try:
        key = bech32.decode(prefix, text)
    except ValueError as exc:
        raise KeyUnusable(f"not {kind}: {exc}") from None
    if len(key) != _KEY_BYTES:
        raise KeyUnusable(f"not {kind}: {len(key)} bytes instead of {_KEY_BYTES}")
    return key


# --- writing --------------------------------------------------------------------------------


class AgeWriter:
    """Seals a stream of any length in constant memory.

    `sink` gets the header at once and then blocks of up to about 1 MiB. It must have used
    what it is given (written, hashed or copied it) before it returns: the buffer is reused.
    Only `close` makes the file complete; a file that was not closed does not open. A writer whose
    `sink` has raised is of no further use.
    """

    def __init__(self, recipients: Sequence[X25519Recipient], sink: Sink) -> None:
        file_key, nonce = os.urandom(_FILE_KEY_BYTES), os.urandom(_NONCE_BYTES)
        self._sink = sink
        self._cipher = ChaCha20Poly1305(_derive(file_key, salt=nonce, info=b"payload"))
        self._counter = 0
        # A full chunk stays here until more comes, because the last one is sealed differently.
        self._chunk = memoryview(bytearray(_CHUNK_BYTES))
        self._chunk_bytes = 0
        self._block = memoryview(bytearray(_BLOCK_BYTES))
        self._block_bytes = 0
        self._closed = False
        sink(_write_header(file_key, recipients) + nonce)

    def write(self, data: bytes | memoryview) -> None:
        if self._closed:
            raise ValueError("write to a closed AgeWriter")
        rest = memoryview(data).cast("B")
        while rest:
            if self._chunk_bytes == _CHUNK_BYTES:
                self._seal_chunk(self._chunk, is_last=False)
                self._chunk_bytes = 0
            if self._chunk_bytes == 0 and len(rest) > _CHUNK_BYTES:
                self._seal_chunk(rest[:_CHUNK_BYTES], is_last=False)
                rest = rest[_CHUNK_BYTES:]
            else:
                rest = self._hold(rest)

    def close(self) -> None:
        """Seals the last chunk and hands on what is left. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._seal_chunk(self._chunk[: self._chunk_bytes], is_last=True)
        self._hand_over()
        self._chunk = self._block = memoryview(b"")

    def _hold(self, data: memoryview) -> memoryview:
        held = data[: _CHUNK_BYTES - self._chunk_bytes]
        end = self._chunk_bytes + len(held)
        self._chunk[self._chunk_bytes : end] = held
        self._chunk_bytes = end
        return data[len(held) :]

    def _seal_chunk(self, plain: memoryview, *, is_last: bool) -> None:
        if self._block_bytes + _SEALED_CHUNK_BYTES > _BLOCK_BYTES:
            self._hand_over()
        end = self._block_bytes + len(plain) + _TAG_BYTES
        nonce = _chunk_nonce(self._counter, is_last=is_last)
        self._cipher.encrypt_into(nonce, plain, None, self._block[self._block_bytes : end])
        self._block_bytes = end
        self._counter += 1

    def _hand_over(self) -> None:
        if self._block_bytes:
            self._sink(self._block[: self._block_bytes])
            self._block_bytes = 0


def _write_header(file_key: bytes, recipients: Sequence[X25519Recipient]) -> bytes:
    if not recipients:
        raise KeyMissing("no recipient to seal to", hint="Name at least one recipient.")
    stanzas = b"".join(_write_stanza(file_key, recipient) for recipient in recipients)
    signed = _VERSION_LINE + b"\n" + stanzas + b"---"
    return signed + b" " + _encode_base64(_header_mac(file_key, signed).finalize()) + b"\n"


def _write_stanza(file_key: bytes, recipient: X25519Recipient) -> bytes:
    ephemeral = X25519Identity.generate()
    share = ephemeral.recipient.key
    shared = _exchange(ephemeral, share_of_other=recipient.key)
    if shared is None:
        raise KeyUnusable(f'recipient "{recipient}" is not a usable point on the curve')
    wrapping = _derive(shared, salt=share + recipient.key, info=_X25519_INFO)
    body = ChaCha20Poly1305(wrapping).encrypt(bytes(12), file_key, None)
    return b"-> X25519 " + _encode_base64(share) + b"\n" + _encode_base64(body) + b"\n"


# --- reading --------------------------------------------------------------------------------


def open_sealed(data: bytes | memoryview, identities: Sequence[X25519Identity]) -> Iterator[bytes]:
    """The plaintext of a complete age file, in pieces of 64 KiB.

    The header is checked before this returns: DamagedObject if it is wrong, KeyMissing if none of
    `identities` opens it. (A changed key stanza cannot be told from one for somebody else.)
    Each piece is authentic, but whether the file is whole is known only at the end: whoever acts
    on a piece before the iterator is exhausted must be able to undo it on DamagedObject.
    """
    view = memoryview(data).cast("B")
    header = _parse_header(bytes(view[:_HEADER_LIMIT_BYTES]))
    file_key = _unwrap_file_key(header.stanzas, identities)
    try:
        _header_mac(file_key, header.signed).verify(header.mac)
    except InvalidSignature:
        raise _damaged("the header's check value is wrong") from None
    nonce = bytes(view[header.end : header.end + _NONCE_BYTES])
    if len(nonce) != _NONCE_BYTES:
        raise _damaged("cut off after the header")
    cipher = ChaCha20Poly1305(_derive(file_key, salt=nonce, info=b"payload"))
    return _open_chunks(cipher, view[header.end + _NONCE_BYTES :])


def _open_chunks(cipher: ChaCha20Poly1305, sealed: memoryview) -> Iterator[bytes]:
    counter, is_last = 0, False
    while not is_last:
        start = counter * _SEALED_CHUNK_BYTES
        chunk = sealed[start : start + _SEALED_CHUNK_BYTES]
        is_last = start + _SEALED_CHUNK_BYTES >= len(sealed)
        try:
            plain = cipher.decrypt(_chunk_nonce(counter, is_last=is_last), chunk, None)
        except InvalidTag:
            raise _damaged(f"chunk {counter} was changed, or is not the last one") from None
        if not plain and counter:
            raise _damaged("an empty chunk after others")
        if plain:
            yield plain
        counter += 1


def _damaged(reason: str) -> DamagedObject:
    return DamagedObject(f"damaged age file: {reason}")


class _Stanza(NamedTuple):
    arguments: list[bytes]
    body: bytes


class _Header(NamedTuple):
    stanzas: list[_Stanza]
    signed: bytes
    mac: bytes
    end: int


def _parse_header(data: bytes) -> _Header:
    lines = _Lines(data)
    if lines.take() != _VERSION_LINE:
        raise _damaged("not an age v1 file")
    stanzas = []
    while (line := lines.take()).startswith(b"-> "):
        stanzas.append(_Stanza(_parse_arguments(line[3:]), _parse_body(lines)))
    if not stanzas or not line.startswith(b"--- "):
        raise _damaged("the header has another form")
    signed_end = lines.position - len(line) - 1 + len(b"---")
    mac = _decode_base64(line[4:], expected_bytes=32)
    return _Header(stanzas, data[:signed_end], mac, lines.position)


class _Lines:
    """Takes lines off the front of a header; `position` is where the next one begins."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self) -> bytes:
        end = self._data.find(b"\n", self.position)
        if end < 0:
            raise _damaged("the header does not end")
        line = self._data[self.position : end]
        self.position = end + 1
        return line


def _parse_arguments(text: bytes) -> list[bytes]:
    arguments = text.split(b" ")
    if not all(arguments) or not all(0x21 <= byte <= 0x7E or byte == 0x20 for byte in text):
        raise _damaged("a key stanza has an empty or unprintable argument")
    return arguments


def _parse_body(lines: _Lines) -> bytes:
    parts = []
    while len(line := lines.take()) == _BODY_LINE_CHARACTERS:
        parts.append(_decode_base64(line))
    if len(line) > _BODY_LINE_CHARACTERS:
        raise _damaged("a key stanza has a line that is too long")
    return b"".join([*parts, _decode_base64(line)])


def _unwrap_file_key(stanzas: list[_Stanza], identities: Sequence[X25519Identity]) -> bytes:
    kinds = [stanza.arguments[0] for stanza in stanzas]
    if b"scrypt" in kinds and len(kinds) > 1:
        raise _damaged("a passphrase stanza beside others")
    ours = [_parse_x25519(stanza) for stanza in stanzas if stanza.arguments[0] == b"X25519"]
    for share, body in ours:
        for identity in identities:
            file_key = _unwrap(share, body, identity)
            if file_key is not None:
                return file_key
    raise KeyMissing(
        f"no key was given that opens this (tried: {len(identities)})",
        hint="Give the identity of one of the recipients that this was sealed to.",
    )


def _parse_x25519(stanza: _Stanza) -> tuple[bytes, bytes]:
    if len(stanza.arguments) != 2:
        raise _damaged("an X25519 stanza without exactly one argument")
    if len(stanza.body) != _FILE_KEY_BYTES + _TAG_BYTES:
        raise _damaged("an X25519 stanza with a body of another length")
    return _decode_base64(stanza.arguments[1], expected_bytes=_KEY_BYTES), stanza.body


def _unwrap(share: bytes, body: bytes, identity: X25519Identity) -> bytes | None:
    shared = _exchange(identity, share_of_other=share)
    if shared is None:
        raise _damaged("an X25519 stanza with a point of low order")
    wrapping = _derive(shared, salt=share + identity.recipient.key, info=_X25519_INFO)
    try:
        return ChaCha20Poly1305(wrapping).decrypt(bytes(12), body, None)
    except InvalidTag:
        return None


# --- what writing and reading share ---------------------------------------------------------


def _exchange(identity: X25519Identity, *, share_of_other: bytes) -> bytes | None:
    """The shared secret; None if it is all zeros, which the other side's low order causes."""
    private = X25519PrivateKey.from_private_bytes(identity.secret)
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(share_of_other))
    except ValueError:
        return None


def _derive(secret: bytes, *, salt: bytes | None, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), length=32, salt=salt, info=info).derive(secret)


def _header_mac(file_key: bytes, signed: bytes) -> HMAC:
    mac = HMAC(_derive(file_key, salt=None, info=b"header"), hashes.SHA256())
    mac.update(signed)
    return mac


def _chunk_nonce(counter: int, *, is_last: bool) -> bytes:
    return (counter << 8 | is_last).to_bytes(12, "big")


def _encode_base64(data: bytes) -> bytes:
    return b64encode(data).rstrip(b"=")


def _decode_base64(text: bytes, *, expected_bytes: int | None = None) -> bytes:
    try:
        decoded = b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise _damaged("the header has text that is not base64") from None
    if _encode_base64(decoded) != text:
        raise _damaged("the header has base64 that is not canonical")
    if expected_bytes is not None and len(decoded) != expected_bytes:
        raise _damaged("the header has a value of another length")
    return decoded
