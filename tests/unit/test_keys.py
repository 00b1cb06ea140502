"""Operators' keys: what can be sealed to, what opens, and what a refusal says."""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
from base64 import b64encode

import pyrage  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pgkeep.errors import DamagedObject, KeyMissing, KeyUnusable
from pgkeep.sealing import (
    EpochKey,
    Identity,
    Sealer,
    X25519Identity,
    load_epoch,
    load_identities,
    new_epoch,
    open_with,
    open_with_passphrase,
    parse_recipient,
    seal_to,
    seal_with_passphrase,
    unseal,
)

AGE = X25519Identity.generate()
AGE_FILE = f"# created: today\n# public key: {AGE.recipient}\n{AGE}\n".encode()
PASSPHRASE = "correct horse"

# Made with ssh-keygen 9.2 for this test, with that passphrase.
PROTECTED_SSH_KEY = b"""\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABAxCOR/rn
HVgfasboteVExSAAAAAQAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIEWrTPQxDTJudNyk
dRFWBB09gTd6k5EgV7vYMrEmnssvAAAAkG8VG+dkyKaw/RZLYG4dB3yl6YRFRc0tU4aX9r
ch3PVPvWTLArFUKmtM0BE+b0hPCaCTOxdoBk6sCG46cyDOrLk1fuy2C9G6Vd48n+NrGETi
22r/eWmi8qqEgOQ0UwXAVKQCrkr02TgNDC0ji80DkoEi/tj1205en8fefWYkA+nV/0N7T0
PmYWUe90drv+fWmA==
-----END OPENSSH PRIVATE KEY-----
"""
PROTECTED_SSH_RECIPIENT = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEWrTPQxDTJudNykdRFWBB09gTd6k5EgV7vYMrEmnssv"
)


def private_file(key: Ed25519PrivateKey | RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def public_line(key: Ed25519PrivateKey | RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


ED25519 = Ed25519PrivateKey.generate()
RSA = generate_rsa_key(65537, 2048)
KEYS = [
    pytest.param(str(AGE.recipient), AGE_FILE, id="age"),
    pytest.param(public_line(ED25519), private_file(ED25519), id="ssh-ed25519"),
    pytest.param(public_line(RSA), private_file(RSA), id="ssh-rsa"),
]


def load(text: bytes, passphrase: str | None = None) -> list[Identity]:
    def ask(prompt: str) -> str:
        assert passphrase is not None, "nothing had to be asked"
        assert prompt == 'Passphrase for "key.txt": '
        return passphrase

    return load_identities(text, passphrase=ask, name="key.txt")


def seal_cheaply(plain: bytes, passphrase: str) -> bytes:
    """As seal_with_passphrase, with a work factor of 2 instead of about a million."""
    salt, file_key, nonce = b"s" * 16, b"f" * 16, b"n" * 16
    wrapping = hashlib.scrypt(
        passphrase.encode(), salt=b"age-encryption.org/v1/scrypt" + salt, n=2, r=8, p=1, dklen=32
    )
    body = ChaCha20Poly1305(wrapping).encrypt(bytes(12), file_key, None)
    signed = b"age-encryption.org/v1\n-> scrypt %s 1\n%s\n---" % (base64(salt), base64(body))
    mac = mac_of(derive(file_key, b"", b"header"), signed)
    sealed = ChaCha20Poly1305(derive(file_key, nonce, b"payload")).encrypt(
        bytes(11) + b"\x01", plain, None
    )
    return signed + b" " + base64(mac) + b"\n" + nonce + sealed


def base64(data: bytes) -> bytes:
    return b64encode(data).rstrip(b"=")


def mac_of(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return mac_of(mac_of(salt or bytes(32), secret), info + b"\x01")


# --- recipients and identities --------------------------------------------------------------


@pytest.mark.parametrize(("recipient", "identity_file"), KEYS)
def test_an_identity_opens_what_was_sealed_to_its_recipient(
    recipient: str, identity_file: bytes
) -> None:
    sealed = seal_to([parse_recipient(recipient)], b"an epoch's key")
    assert open_with(load(identity_file), sealed) == b"an epoch's key"


@pytest.mark.parametrize(("recipient", "identity_file"), KEYS)
def test_an_identity_is_labelled_with_its_recipient(recipient: str, identity_file: bytes) -> None:
    (identity,) = load(identity_file)
    assert identity.label == parse_recipient(recipient).text == recipient
    assert "PRIVATE" not in repr(identity)
    assert "SECRET" not in repr(identity)


def test_each_of_several_recipients_opens_alone() -> None:
    recipients = [parse_recipient(str(key.values[0])) for key in KEYS]
    sealed = seal_to(recipients, b"an epoch's key")
    for key in KEYS:
        assert isinstance(key.values[1], bytes)
        assert open_with(load(key.values[1]), sealed) == b"an epoch's key"


def test_comments_and_spaces_of_a_recipient_do_not_count() -> None:
    line = public_line(ED25519)
    assert parse_recipient(f"  {line}   anna@laptop of the office\n") == parse_recipient(line)
    assert str(parse_recipient(f" {AGE.recipient}\n")) == str(AGE.recipient)


def test_all_keys_of_an_identity_file_are_loaded() -> None:
    other = X25519Identity.generate()
    identities = load(b"\n" + AGE_FILE.replace(b"\n", b"\r\n") + f"\n# second\n{other}".encode())
    assert [i.label for i in identities] == [str(AGE.recipient), str(other.recipient)]
    sealed = seal_to([parse_recipient(str(other.recipient))], b"an epoch's key")
    assert open_with(identities, sealed) == b"an epoch's key"


@pytest.mark.parametrize(
    "text",
    [
        str(AGE),
        f"  {AGE}\n",
        str(AGE).lower(),
        f"# public key: {AGE.recipient}\n{AGE}",
        private_file(ED25519).decode(),
        str(AGE).replace("KEY-1", "KEY-PQ-1"),
    ],
)
def test_a_private_key_in_place_of_a_recipient_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(KeyUnusable, match="this is a private key") as caught:
        parse_recipient(text)
    shown = f"{caught.value}{caught.value.hint}{caught.value.__cause__}".upper()
    assert str(AGE)[20:30] not in shown
    assert "B3BLBNNZ" not in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a recipient"),
        ("anna@example.org", 'not a recipient that can be sealed to: "anna@example.org"'),
        ("ssh-ed25519", "not a recipient"),
        ("ssh-ed25519 zzz", "not an SSH public key"),
        ("ssh-rsa AAAA", "not an SSH public key"),
        ("ecdsa-sha2-nistp256 AAAA", "not a recipient"),
        (str(AGE.recipient)[:-1], "not an age recipient"),
        (str(AGE.recipient).upper(), "not a recipient"),
        (f"{AGE.recipient} {AGE.recipient}", "not a recipient"),
        ("age1yubikey1q2w7u3vpya839jxxuq8g0sedh3d740d4xvn639sqhr95ejj8vu3hyfumptt", "not an age"),
    ],
)
def test_what_is_not_a_recipient_is_refused(text: str, message: str) -> None:
    with pytest.raises(KeyUnusable, match=message) as caught:
        parse_recipient(text)
    assert caught.value.hint


def test_sealing_to_nobody_is_refused() -> None:
    with pytest.raises(KeyMissing, match="no recipient"):
        seal_to([], b"an epoch's key")


def test_a_key_that_does_not_fit_is_told_from_damage() -> None:
    sealed = seal_to([parse_recipient(str(AGE.recipient))], b"an epoch's key")
    with pytest.raises(KeyMissing, match=r"no key was given that opens this \(tried: ssh-ed25519"):
        open_with(load(private_file(ED25519)), sealed)
    with pytest.raises(KeyMissing, match="no key was given"):
        open_with([], sealed)
    with pytest.raises(DamagedObject):
        open_with(load(AGE_FILE), sealed[:-1])
    with pytest.raises(DamagedObject):
        open_with(load(AGE_FILE), b"nonsense")


# --- files that are not, or not easily, identities ------------------------------------------


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (b"", '"key.txt" holds no key', "AGE-SECRET-KEY-1"),
        (b"# only a comment\n", "holds no key", "AGE-SECRET-KEY-1"),
        (str(AGE.recipient).encode(), "not an identity file", "the private half is needed"),
        (b"AGE-PLUGIN-YUBIKEY-1QQ", "not an identity file", "plugins are not supported"),
        (AGE_FILE[:-3], "not an identity file", "Give an age identity"),
        (b"\x00\xff binary", "not an identity file", "Give an age identity"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "not an OpenSSH private key", "ssh-keygen"),
        (private_file(ED25519)[:-60], "not an OpenSSH private key", "ssh-keygen"),
        (b"-----BEGIN RSA PRIVATE KEY-----\n", "not an OpenSSH private key", "ssh-keygen"),
    ],
)
def test_a_file_that_is_no_identity_is_refused_and_not_shown(
    text: bytes, message: str, hint: str
) -> None:
    with pytest.raises(KeyUnusable, match=message) as caught:
        load(text)
    assert hint in caught.value.hint
    assert str(AGE)[20:30] not in f"{caught.value}{caught.value.hint}{caught.value.__cause__}"


def test_an_ssh_key_of_a_kind_that_age_lacks_is_refused() -> None:
    key = generate_ec_key(SECP256R1())
    text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    with pytest.raises(KeyUnusable, match="of a kind that age cannot use"):
        load(text)


def test_an_ssh_key_with_a_passphrase_is_opened() -> None:
    sealed = seal_to([parse_recipient(PROTECTED_SSH_RECIPIENT)], b"an epoch's key")
    if importlib.util.find_spec("bcrypt") is None:
        with pytest.raises(KeyUnusable, match="cannot be read") as caught:
            load(PROTECTED_SSH_KEY, PASSPHRASE)
        assert "needs the package bcrypt" in caught.value.hint
    else:
        (identity,) = load(PROTECTED_SSH_KEY, PASSPHRASE)
        assert identity.label == PROTECTED_SSH_RECIPIENT
        assert open_with([identity], sealed) == b"an epoch's key"
        with pytest.raises(KeyUnusable, match="the passphrase is wrong"):
            load(PROTECTED_SSH_KEY, "wrong")


@pytest.mark.parametrize(
    "text", [PROTECTED_SSH_KEY, seal_cheaply(AGE_FILE, PASSPHRASE)], ids=["ssh", "age"]
)
def test_a_protected_key_is_refused_if_nobody_can_be_asked(text: bytes) -> None:
    with pytest.raises(KeyUnusable, match="nobody can be asked"):
        load_identities(text, passphrase=None, name="key.txt")


@pytest.mark.parametrize(
    "text", [PROTECTED_SSH_KEY, seal_cheaply(AGE_FILE, PASSPHRASE)], ids=["ssh", "age"]
)
def test_an_empty_answer_is_no_passphrase(text: bytes) -> None:
    with pytest.raises(KeyUnusable, match='no passphrase was given for "key'):
        load(text, "")


def test_an_identity_file_with_a_passphrase_is_opened() -> None:
    identities = load(seal_cheaply(AGE_FILE, PASSPHRASE), PASSPHRASE)
    assert [identity.label for identity in identities] == [str(AGE.recipient)]


def test_an_armored_identity_file_with_a_passphrase_is_opened() -> None:
    sealed = b64encode(seal_cheaply(AGE_FILE, PASSPHRASE)).decode()
    lines = [sealed[start : start + 64] for start in range(0, len(sealed), 64)]
    armored = "\n".join(
        ["-----BEGIN AGE ENCRYPTED FILE-----", *lines, "-----END AGE ENCRYPTED FILE-----", ""]
    )
    (identity,) = load(armored.encode(), PASSPHRASE)
    assert identity.label == str(AGE.recipient)


def test_a_wrong_passphrase_is_refused() -> None:
    with pytest.raises(KeyUnusable, match="does not open: the passphrase is wrong"):
        load(seal_cheaply(AGE_FILE, PASSPHRASE), "wrong")


def test_an_identity_file_sealed_to_a_key_is_told_from_a_passphrase() -> None:
    sealed = seal_to([parse_recipient(str(AGE.recipient))], AGE_FILE)
    with pytest.raises(KeyUnusable, match="sealed to other keys, not with a passphrase"):
        load(sealed, PASSPHRASE)


def test_what_a_passphrase_sealed_it_opens() -> None:
    sealed = seal_with_passphrase(AGE_FILE, PASSPHRASE)
    assert open_with_passphrase(sealed, PASSPHRASE, name="key.txt") == AGE_FILE


def test_an_empty_passphrase_is_refused() -> None:
    with pytest.raises(KeyUnusable, match="empty passphrase"):
        seal_with_passphrase(AGE_FILE, "")


# --- epochs ---------------------------------------------------------------------------------


def test_an_epoch_is_opened_through_an_operators_key() -> None:
    epoch, private = new_epoch()
    bundle = seal_to([parse_recipient(public_line(ED25519))], private)
    sealed = bytearray()
    sealer = Sealer([epoch.recipient], level=1, sink=sealed.extend)
    sealer.write(b"rows")
    sealer.close()

    identity = load_epoch(open_with(load(private_file(ED25519)), bundle))
    assert EpochKey(identity.recipient) == epoch
    assert b"".join(unseal(bytes(sealed), [identity])) == b"rows"


def test_an_epochs_file_is_an_age_identity_file_that_says_what_it_is() -> None:
    epoch, private = new_epoch()
    comment, public, secret = private.decode().splitlines()
    assert comment.startswith(f"# private key of pgkeep epoch {epoch.id}:")
    assert public == f"# public key: {epoch.recipient}"
    assert str(pyrage.x25519.Identity.from_str(secret).to_public()) == str(epoch.recipient)
    assert [identity.label for identity in load(private)] == [str(epoch.recipient)]


def test_an_epochs_id_is_the_digest_of_its_recipient() -> None:
    epoch, _ = new_epoch()
    assert epoch.id == hashlib.sha256(str(epoch.recipient).encode()).hexdigest()[:16]
    assert new_epoch()[0].id != epoch.id


@pytest.mark.parametrize("text", [b"", b"# nothing\n", AGE_FILE + AGE_FILE, b"nonsense", b"\xff"])
def test_an_epochs_file_with_anything_but_one_key_is_refused(text: bytes) -> None:
    with pytest.raises(KeyUnusable):
        load_epoch(text)
