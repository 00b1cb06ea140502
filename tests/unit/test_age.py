"""The age format: what others write is read, what is written others read, no damage passes."""

from __future__ import annotations

import hashlib
import hmac
import os
import random
import shutil
import subprocess
from array import array
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pyrage  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from pgkeep.errors import DamagedObject, KeyMissing, KeyUnusable
from pgkeep.sealing import AgeWriter, X25519Identity, X25519Recipient, open_sealed

CHUNK = 65536
SEALED_CHUNK = CHUNK + 16
SIZES = [0, 1, 65535, 65536, 65537, 2 * 65536, 1024 * 1024 + 3]
IDENTITY = X25519Identity.parse(
    "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
)
FILE_KEY = b"YELLOW SUBMARINE"
# Headers of C2SP/CCTV's age test suite, through FiloSottile/age, testdata/testkit. The payloads,
# which are binary and the same in each, are made here.
VECTORS = Path(__file__).parent.parent / "data" / "age"


def seal(plain: bytes, *recipients: X25519Recipient) -> bytes:
    sealed = bytearray()
    writer = AgeWriter(recipients or [IDENTITY.recipient], sealed.extend)
    writer.write(plain)
    writer.close()
    return bytes(sealed)


def unsealed(sealed: bytes, *identities: X25519Identity) -> bytes:
    return b"".join(open_sealed(sealed, identities or [IDENTITY]))


# A second implementation of the format, with the standard library, to make what no writer makes.


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def base64(data: bytes) -> bytes:
    return b64encode(data).rstrip(b"=")


def x25519_stanza(file_key: bytes = FILE_KEY) -> bytes:
    ephemeral = X25519PrivateKey.generate()
    share, key = ephemeral.public_key().public_bytes_raw(), IDENTITY.recipient.key
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(key))
    wrapping = derive(shared, share + key, b"age-encryption.org/v1/X25519")
    body = ChaCha20Poly1305(wrapping).encrypt(bytes(12), file_key, None)
    return b"-> X25519 %s\n%s\n" % (base64(share), base64(body))


def header(stanzas: bytes) -> bytes:
    signed = b"age-encryption.org/v1\n" + stanzas + b"---"
    mac = hmac.digest(derive(FILE_KEY, b"", b"header"), signed, "sha256")
    return signed + b" " + base64(mac) + b"\n"


def payload(*chunks: bytes, last: bool = True) -> bytes:
    nonce = os.urandom(16)
    cipher = ChaCha20Poly1305(derive(FILE_KEY, nonce, b"payload"))
    sealed = [nonce]
    for number, chunk in enumerate(chunks):
        flag = last and number == len(chunks) - 1
        sealed.append(cipher.encrypt(number.to_bytes(11, "big") + bytes([flag]), chunk, None))
    return b"".join(sealed)


# --- interoperability -----------------------------------------------------------------------


def pyrage_seal(plain: bytes, recipient: str) -> bytes:
    sealed: bytes = pyrage.encrypt(plain, [pyrage.x25519.Recipient.from_str(recipient)])
    return sealed


def pyrage_open(sealed: bytes, identity: str, _: Path) -> bytes:
    plain: bytes = pyrage.decrypt(sealed, [pyrage.x25519.Identity.from_str(identity)])
    return plain


def command_seal(plain: bytes, recipient: str) -> bytes:
    command = ["age", "-r", recipient]
    return subprocess.run(command, input=plain, capture_output=True, check=True).stdout


def command_open(sealed: bytes, identity: str, folder: Path) -> bytes:
    key_file = folder / "key.txt"
    key_file.write_text(identity + "\n")
    command = ["age", "-d", "-i", str(key_file)]
    return subprocess.run(command, input=sealed, capture_output=True, check=True).stdout


OTHERS = [pytest.param(pyrage_seal, pyrage_open, id="pyrage")]
if shutil.which("age"):
    OTHERS.append(pytest.param(command_seal, command_open, id="age"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("other_seal", "other_open"), OTHERS)
def test_each_side_opens_what_the_other_sealed(
    other_seal: Callable[[bytes, str], bytes],
    other_open: Callable[[bytes, str, Path], bytes],
    size: int,
    tmp_path: Path,
) -> None:
    plain = random.Random(size).randbytes(size)

    assert other_open(seal(plain), str(IDENTITY), tmp_path) == plain
    assert unsealed(other_seal(plain, str(IDENTITY.recipient))) == plain


def test_each_of_several_recipients_opens_alone() -> None:
    identities = [X25519Identity.generate() for _ in range(3)]
    sealed = seal(b"rows", *(identity.recipient for identity in identities))

    for identity in identities:
        assert unsealed(sealed, identity) == b"rows"
        assert pyrage_open(sealed, str(identity), Path()) == b"rows"


def test_the_one_identity_that_fits_is_found_among_others() -> None:
    others = [X25519Identity.generate() for _ in range(3)]
    assert unsealed(seal(b"rows"), *others, IDENTITY) == b"rows"


def test_stanzas_of_other_kinds_are_skipped() -> None:
    ssh = pyrage.ssh.Recipient.from_str(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHzuTiB1pZTmrMeGt3W4lMXx+k/hkv16ccc6MCBlxHP0"
    )
    ours = pyrage.x25519.Recipient.from_str(str(IDENTITY.recipient))
    assert unsealed(pyrage.encrypt(b"rows", [ssh, ours])) == b"rows"


def test_the_second_implementation_agrees() -> None:
    sealed = header(x25519_stanza()) + payload(bytes(CHUNK), b"rest")
    assert unsealed(sealed) == bytes(CHUNK) + b"rest"


# --- writing --------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    sizes=st.lists(
        st.one_of(st.integers(0, 3 * CHUNK), st.sampled_from([1, CHUNK - 1, CHUNK, CHUNK + 1])),
        max_size=12,
    )
)
def test_the_pieces_that_are_written_do_not_matter(sizes: list[int]) -> None:
    plain = random.Random(1).randbytes(sum(sizes))
    sealed = bytearray()
    writer = AgeWriter([IDENTITY.recipient], sealed.extend)
    rest = memoryview(plain)
    for size in sizes:
        writer.write(rest[:size])
        rest = rest[size:]
    writer.close()

    assert len(sealed) == len(seal(plain))
    assert unsealed(bytes(sealed)) == plain


def test_items_wider_than_a_byte_are_written_as_their_bytes() -> None:
    numbers = array("q", range(100))
    sealed = bytearray()
    writer = AgeWriter([IDENTITY.recipient], sealed.extend)
    writer.write(memoryview(numbers))
    writer.close()
    assert unsealed(bytes(sealed)) == numbers.tobytes()


def test_the_sink_gets_large_blocks_of_bounded_size() -> None:
    sizes: list[int] = []
    writer = AgeWriter([IDENTITY.recipient], lambda block: sizes.append(len(block)))
    writer.write(bytes(40 * CHUNK))
    writer.close()
    assert sizes[1:] == [16 * SEALED_CHUNK, 16 * SEALED_CHUNK, 8 * SEALED_CHUNK]


def test_the_same_plaintext_is_never_sealed_the_same_way() -> None:
    assert seal(b"rows")[-20:] != seal(b"rows")[-20:]


def test_a_closed_writer_stays_closed() -> None:
    sealed = bytearray()
    writer = AgeWriter([IDENTITY.recipient], sealed.extend)
    writer.write(b"rows")
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"more")
    assert unsealed(bytes(sealed)) == b"rows"


def test_a_file_that_was_not_closed_does_not_open() -> None:
    sealed = bytearray()
    writer = AgeWriter([IDENTITY.recipient], sealed.extend)
    writer.write(bytes(18 * CHUNK))
    assert len(sealed) > 16 * CHUNK
    with pytest.raises(DamagedObject):
        unsealed(bytes(sealed))


def test_sealing_to_nobody_is_refused() -> None:
    with pytest.raises(KeyMissing, match="no recipient"):
        AgeWriter([], print)


def test_sealing_to_a_point_of_low_order_is_refused() -> None:
    with pytest.raises(KeyUnusable, match="not a usable point"):
        AgeWriter([X25519Recipient(bytes(32))], print)


# --- damage ---------------------------------------------------------------------------------


def test_a_key_that_does_not_fit_is_told_from_damage() -> None:
    with pytest.raises(KeyMissing, match=r"no key was given that opens this \(tried: 1\)"):
        unsealed(seal(b"rows"), X25519Identity.generate())
    with pytest.raises(KeyMissing):
        open_sealed(seal(b"rows"), [])


def test_a_file_that_only_a_passphrase_opens_has_no_key_here() -> None:
    stanza = b"-> scrypt 3d9y0G+8q1ffPQ0xJJatIQ 10\nfoZolxuhRSL7IG7oaR+456IzkHtvue7j4mUjh3DB6EI\n"
    with pytest.raises(KeyMissing):
        unsealed(header(stanza) + payload(b"rows"))


def test_every_flipped_bit_is_found() -> None:
    sealed = seal(b"some rows of a table")
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DamagedObject, KeyMissing)):
            unsealed(bytes(damaged))


def test_every_cut_of_a_small_file_is_found() -> None:
    sealed = seal(b"some rows of a table")
    for size in range(len(sealed)):
        with pytest.raises(DamagedObject):
            unsealed(sealed[:size])


@pytest.mark.parametrize("plain_size", [3 * CHUNK, 3 * CHUNK + 100])
def test_a_cut_at_or_near_a_chunk_boundary_is_found(plain_size: int) -> None:
    sealed = seal(bytes(plain_size))
    start = sealed.index(b"\n--- ") + 5 + 43 + 1 + 16
    for boundary in range(start, len(sealed), SEALED_CHUNK):
        for size in (boundary - 1, boundary, boundary + 1, boundary + 15, boundary + 16):
            if size < len(sealed):
                with pytest.raises(DamagedObject):
                    unsealed(sealed[:size])


@pytest.mark.parametrize("plain_size", [0, 5, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
@pytest.mark.parametrize("extra_size", [1, 16, 17, SEALED_CHUNK])
def test_trailing_bytes_are_found(plain_size: int, extra_size: int) -> None:
    with pytest.raises(DamagedObject):
        unsealed(seal(bytes(plain_size)) + bytes(extra_size))


def test_two_files_in_a_row_are_not_one() -> None:
    with pytest.raises(DamagedObject):
        unsealed(seal(b"one") + seal(b"two"))


@pytest.mark.parametrize(
    "order",
    [(1, 0, 2), (0, 2, 1), (0, 0, 1, 2), (1, 2), (0, 2), (0, 1), (0, 1, 2, 2)],
    ids=str,
)
def test_chunks_that_are_swapped_repeated_or_dropped_are_found(order: tuple[int, ...]) -> None:
    sealed = seal(bytes(3 * CHUNK))
    start = len(sealed) - 3 * SEALED_CHUNK
    chunks = [sealed[start + i * SEALED_CHUNK :][:SEALED_CHUNK] for i in range(3)]
    with pytest.raises(DamagedObject):
        unsealed(sealed[:start] + b"".join(chunks[i] for i in order))


def test_a_piece_that_is_yielded_before_the_damage_is_authentic() -> None:
    sealed = bytearray(seal(b"a" * CHUNK + b"b" * CHUNK))
    sealed[-1] ^= 1
    pieces = open_sealed(bytes(sealed), [IDENTITY])
    assert next(pieces) == b"a" * CHUNK
    with pytest.raises(DamagedObject, match="chunk 1 was changed"):
        next(pieces)


@pytest.mark.parametrize(
    ("sealed_payload", "reason"),
    [
        (payload(bytes(CHUNK), b""), "an empty chunk after others"),
        (payload(b"rows", last=False), "not the last one"),
        (payload(bytes(CHUNK), last=False), "not the last one"),
        (payload(b"short", b"rows"), "changed"),
        (payload(), "changed"),
        (bytes(15), "cut off after the header"),
    ],
)
def test_a_payload_of_another_form_is_found(sealed_payload: bytes, reason: str) -> None:
    with pytest.raises(DamagedObject, match=reason):
        unsealed(header(x25519_stanza()) + sealed_payload)


@pytest.mark.parametrize(
    ("stanzas", "reason"),
    [
        (b"", "another form"),
        (b"-> \n\n", "empty or unprintable"),
        (b"-> a  b\n\n", "empty or unprintable"),
        (b"-> a \n\n", "empty or unprintable"),
        (b"-> a\tb\n\n", "empty or unprintable"),
        ("-> ä\n\n".encode(), "empty or unprintable"),
        (b"-> a\r\n\r\n", "empty or unprintable"),
        (b"->a\n\n", "another form"),
        (b"-> a\nQUFB\nQUFB\n", "another form"),
        (b"-> a\nQUE=\n", "not canonical"),
        (b"-> a\nQUF\n", "not canonical"),
        (b"-> a\nQ\n", "not base64"),
        (b"-> a\nQU-_\n", "not base64"),
        (b"-> a\nQU FB\n", "not base64"),
        (b"-> a\n" + b"A" * 68 + b"\n\n", "too long"),
        (b"-> a\n" + b"A" * 64 + b"\n", "not base64|another form|too long"),
        (b"-> a\n" + 1024 * (b"A" * 64 + b"\n") + b"\n", "does not end"),
        (x25519_stanza().replace(b"X25519 ", b"X25519 AA"), "another length|not base64"),
        (x25519_stanza(b"a file key of 25 bytes ..."), "body of another length"),
        (b"-> X25519\n\n", "exactly one argument"),
        (b"-> X25519 AAAA\n" + b"A" * 43 + b"\n", "another length"),
        (b"-> X25519 " + b"A" * 43 + b"\n" + b"A" * 42 + b"w\n", "low order"),
    ],
)
def test_a_header_of_another_form_is_found(stanzas: bytes, reason: str) -> None:
    with pytest.raises(DamagedObject, match=reason):
        unsealed(header(stanzas + (x25519_stanza() if stanzas else b"")) + payload(b"rows"))


def test_a_stanza_that_was_removed_is_found() -> None:
    sealed = header(b"-> other\n\n" + x25519_stanza()) + payload(b"rows")
    assert unsealed(sealed) == b"rows"
    with pytest.raises(DamagedObject, match="check value"):
        unsealed(sealed.replace(b"-> other\n\n", b""))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hmac_not_canonical", "not canonical"),
        ("scrypt_and_x25519", "a passphrase stanza beside others"),
        ("stanza_missing_final_line", "not base64"),
        ("stanza_not_canonical", "not canonical"),
        ("x25519_extra_argument", "exactly one argument"),
        ("x25519_low_order", "low order"),
        ("x25519_not_canonical_share", "not canonical"),
    ],
)
def test_published_headers_that_must_fail_do(name: str, reason: str) -> None:
    identity, sealed_header = read_vector(name, expected="header failure")
    with pytest.raises(DamagedObject, match=reason):
        unsealed(sealed_header + payload(b"age"), identity)


@pytest.mark.parametrize("name", ["x25519", "stanza_empty_last_line"])
def test_published_headers_that_must_pass_do(name: str) -> None:
    identity, sealed_header = read_vector(name, expected="success")
    assert unsealed(sealed_header + payload(b"age"), identity) == b"age"


def read_vector(name: str, *, expected: str) -> tuple[X25519Identity, bytes]:
    description, sealed_header = (VECTORS / name).read_bytes().split(b"\n\n", 1)
    fields = dict(line.split(": ") for line in description.decode().splitlines())
    assert fields["expect"] == expected
    assert bytes.fromhex(fields["file key"]) == FILE_KEY
    return X25519Identity.parse(fields["identity"]), sealed_header


# --- keys -----------------------------------------------------------------------------------


def test_keys_are_written_as_age_writes_them() -> None:
    assert IDENTITY.secret == b"B" * 32
    recipient = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"
    assert str(IDENTITY.recipient) == recipient
    assert X25519Recipient.parse(recipient) == IDENTITY.recipient


def test_generated_keys_are_the_same_to_pyrage() -> None:
    identity = X25519Identity.generate()
    theirs = pyrage.x25519.Identity.from_str(str(identity))
    assert str(theirs) == str(identity)
    assert str(theirs.to_public()) == str(identity.recipient)
    assert X25519Identity.parse(str(identity)) == identity
    assert X25519Identity.generate() != identity


@given(st.binary(min_size=32, max_size=32))
def test_every_key_survives_its_text(key: bytes) -> None:
    assert X25519Recipient.parse(str(X25519Recipient(key))).key == key
    assert X25519Identity.parse(str(X25519Identity(key))).secret == key


def test_every_mistyped_character_of_a_recipient_is_found() -> None:
    text = str(IDENTITY.recipient)
    for position in range(len(text)):
        for character in "qz1b7A ":
            mistyped = text[:position] + character + text[position + 1 :]
            if mistyped != text:
                with pytest.raises(KeyUnusable):
                    X25519Recipient.parse(mistyped)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "age1",
        "age",
        str(IDENTITY.recipient).upper(),
        str(IDENTITY.recipient) + "\n",
        str(IDENTITY.recipient)[:-1],
        str(IDENTITY),
        "age1ssqqqqqqqqq",
    ],
)
def test_a_recipient_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(KeyUnusable, match="not an age recipient"):
        X25519Recipient.parse(text)


def test_neither_repr_nor_errors_show_a_secret() -> None:
    assert repr(IDENTITY) == "X25519Identity()"
    mistyped = str(IDENTITY)[:-1] + "Q"
    with pytest.raises(KeyUnusable) as caught:
        X25519Identity.parse(mistyped)
    assert "GFPYY" not in str(caught.value) + caught.value.hint
    with pytest.raises(KeyUnusable, match="not an age identity"):
        X25519Identity.parse(str(IDENTITY).lower())


def test_the_digest_of_what_the_sink_gets_is_that_of_the_file() -> None:
    digest, sealed = hashlib.sha256(), bytearray()

    def sink(block: bytes | memoryview) -> None:
        digest.update(block)
        sealed.extend(block)

    writer = AgeWriter([IDENTITY.recipient], sink)
    writer.write(bytes(40 * CHUNK))
    writer.close()
    assert digest.digest() == hashlib.sha256(sealed).digest()
    assert unsealed(bytes(sealed)) == bytes(40 * CHUNK)
