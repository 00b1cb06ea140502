"""Signatures: ssh-keygen accepts ours, we accept its own, and each refusal says why."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pgkeep.errors import KeyUnusable, NotAuthentic
from pgkeep.sealing import PublicSigner, SigningKey, allowed_signers, verify

MESSAGE = b"a manifest\n"

# Made with ssh-keygen 9.2 for this test.
PRIVATE_KEY = b"""\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACB87k4gdaWU5qzHhrd1uJTF8fpP4ZL9enHHOjAgZcRz9AAAAIjOnPtqzpz7
agAAAAtzc2gtZWQyNTUxOQAAACB87k4gdaWU5qzHhrd1uJTF8fpP4ZL9enHHOjAgZcRz9A
AAAECkTmgFERm1QIV43EEfi65zlRtz8VwHB/yOi19/tC09yHzuTiB1pZTmrMeGt3W4lMXx
+k/hkv16ccc6MCBlxHP0AAAABHRlc3QB
-----END OPENSSH PRIVATE KEY-----
"""
PUBLIC_LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHzuTiB1pZTmrMeGt3W4lMXx+k/hkv16ccc6MCBlxHP0"
FINGERPRINT = "SHA256:9uzk9LRpBv5TsXrxRHpIjBRllZLYYw4WnDnQRN6L100"
SIGNATURE = b"""\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgfO5OIHWllOasx4a3dbiUxfH6T+
GS/XpxxzowIGXEc/QAAAAGcGdrZWVwAAAAAAAAAAZzaGE1MTIAAABTAAAAC3NzaC1lZDI1
NTE5AAAAQLmziaotXunBlYwh8VaTM/EG+uirUUcYhROFKVdXRVvYLT6WX3rGxXTGIOYr25
9CBP5GHIZS52y1pMvwArCylA4=
-----END SSH SIGNATURE-----
"""
PROTECTED_KEY = b"""\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABAxCOR/rn
HVgfasboteVExSAAAAAQAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIEWrTPQxDTJudNyk
dRFWBB09gTd6k5EgV7vYMrEmnssvAAAAkG8VG+dkyKaw/RZLYG4dB3yl6YRFRc0tU4aX9r
ch3PVPvWTLArFUKmtM0BE+b0hPCaCTOxdoBk6sCG46cyDOrLk1fuy2C9G6Vd48n+NrGETi
22r/eWmi8qqEgOQ0UwXAVKQCrkr02TgNDC0ji80DkoEi/tj1205en8fefWYkA+nV/0N7T0
PmYWUe90drv+fWmA==
-----END OPENSSH PRIVATE KEY-----
"""

Check = Callable[[bytes, bytes, PublicSigner, Path], bool]
Sign = Callable[[bytes, SigningKey, Path], bytes]


def check_here(message: bytes, signature: bytes, signer: PublicSigner, _: Path) -> bool:
    try:
        return verify(message, signature, [signer]) == signer
    except NotAuthentic:
        return False


def sign_here(message: bytes, key: SigningKey, _: Path) -> bytes:
    return key.sign(message)


def check_with_ssh_keygen(
    message: bytes, signature: bytes, signer: PublicSigner, folder: Path
) -> bool:
    (folder / "allowed_signers").write_text(allowed_signers([signer]))
    (folder / "message.sig").write_bytes(signature)
    command = ["ssh-keygen", "-Y", "verify", "-f", "allowed_signers"]
    command += ["-I", "pgkeep", "-n", "pgkeep", "-s", "message.sig"]
    return not subprocess.run(command, input=message, cwd=folder, capture_output=True).returncode


def sign_with_ssh_keygen(message: bytes, key: SigningKey, folder: Path) -> bytes:
    key_file = folder / "key"
    key_file.touch(mode=0o600)
    key_file.write_bytes(key.dump())
    command = ["ssh-keygen", "-Y", "sign", "-n", "pgkeep", "-f", str(key_file)]
    return subprocess.run(command, input=message, capture_output=True, check=True).stdout


CHECKS = [pytest.param(check_here, id="pgkeep")]
SIGNS = [pytest.param(sign_here, id="pgkeep")]
if shutil.which("ssh-keygen"):
    CHECKS.append(pytest.param(check_with_ssh_keygen, id="ssh-keygen"))
    SIGNS.append(pytest.param(sign_with_ssh_keygen, id="ssh-keygen"))


@pytest.mark.parametrize("message", [b"", MESSAGE, bytes(100_000)], ids=len)
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("check", CHECKS)
def test_a_signature_is_accepted_for_its_message_only(
    check: Check, sign: Sign, message: bytes, tmp_path: Path
) -> None:
    key = SigningKey.generate()
    signature = sign(message, key, tmp_path)

    assert check(message, signature, key.public, tmp_path)
    assert not check(message + b".", signature, key.public, tmp_path)
    assert not check(message, signature, SigningKey.generate().public, tmp_path)


def test_a_signature_is_the_bytes_that_ssh_keygen_makes() -> None:
    key = SigningKey.load(PRIVATE_KEY)
    assert key.sign(MESSAGE) == SIGNATURE
    assert key.sign(memoryview(MESSAGE)) == SIGNATURE
    assert verify(MESSAGE, SIGNATURE, [key.public]) == key.public


def test_a_public_key_reads_as_in_openssh() -> None:
    signer = SigningKey.load(PRIVATE_KEY).public
    assert signer.line == str(signer) == PUBLIC_LINE
    assert signer.fingerprint == FINGERPRINT
    assert PublicSigner.parse(PUBLIC_LINE + " a comment\n") == signer


def test_a_key_survives_its_file() -> None:
    key = SigningKey.generate()
    again = SigningKey.load(key.dump())
    assert again.public == key.public
    assert again.sign(MESSAGE) == key.sign(MESSAGE)


def test_repr_shows_the_fingerprint_only() -> None:
    assert repr(SigningKey.load(PRIVATE_KEY)) == f"SigningKey({FINGERPRINT})"


def test_verify_says_who_of_several_signed() -> None:
    first, second = SigningKey.generate(), SigningKey.generate()
    trusted = [first.public, second.public]
    assert verify(MESSAGE, second.sign(MESSAGE), iter(trusted)) == second.public


def test_changed_bytes_are_told_from_a_stranger() -> None:
    signer = PublicSigner.parse(PUBLIC_LINE)
    with pytest.raises(
        NotAuthentic, match=f"the bytes do not match the signature by {FINGERPRINT}"
    ):
        verify(MESSAGE + b" ", SIGNATURE, [signer])


@pytest.mark.parametrize("trusted", [[], [SigningKey.generate().public]], ids=["nobody", "other"])
def test_a_stranger_is_named_by_fingerprint(trusted: list[PublicSigner]) -> None:
    with pytest.raises(NotAuthentic, match=f"signed by another key: {FINGERPRINT}"):
        verify(MESSAGE, SIGNATURE, trusted)


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"nonsense",
        b"\xff\xfe",
        SIGNATURE[:-40],
        SIGNATURE.replace(b"U1NI", b"U1NJ"),
        SIGNATURE.replace(b"U1NI", b"U1N*"),
        SIGNATURE.replace(b"HAAAAAQ", b"HAAAAAg"),
        SIGNATURE.replace(b"CylA4=", b"CylA5="),
        SIGNATURE.replace(b"CylA4=", b"Cyg=="),
        SIGNATURE.replace(b"SSH SIGNATURE", b"PGP SIGNATURE"),
        PRIVATE_KEY,
    ],
)
def test_what_is_not_a_signature_is_said_to_be_none(signature: bytes) -> None:
    with pytest.raises(NotAuthentic, match="not a signature"):
        verify(MESSAGE, signature, [PublicSigner.parse(PUBLIC_LINE)])


def test_a_signature_for_another_purpose_is_refused() -> None:
    # "pgkeep" -> "pgkeeq": four base64 digits of the namespace.
    other = SIGNATURE.replace(b"cGdrZWVw", b"cGdrZWVx")
    with pytest.raises(NotAuthentic, match="another purpose"):
        verify(MESSAGE, other, [PublicSigner.parse(PUBLIC_LINE)])


def test_every_changed_character_of_a_signature_is_found() -> None:
    signer = PublicSigner.parse(PUBLIC_LINE)
    for position, byte in enumerate(SIGNATURE):
        for other in b"AQgw=":
            if byte != other and chr(byte).strip():
                changed = SIGNATURE[:position] + bytes([other]) + SIGNATURE[position + 1 :]
                with pytest.raises(NotAuthentic):
                    verify(MESSAGE, changed, [signer])


def test_allowed_signers_name_one_principal_and_purpose() -> None:
    signer = PublicSigner.parse(PUBLIC_LINE)
    line = f'pgkeep namespaces="pgkeep" {PUBLIC_LINE}\n'
    assert allowed_signers([signer, signer]) == line + line
    assert allowed_signers([]) == ""


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 zzz",
        "ssh-ed25519 é",
        PUBLIC_LINE[:-4],
        PUBLIC_LINE[12:],
        PUBLIC_LINE.replace("ssh-ed25519", "ssh-rsa"),
        "ssh-ed25519 AAAAB3NzaC1yc2EAAAADAQAB",
    ],
)
def test_what_is_not_an_ed25519_public_key_is_refused(line: str) -> None:
    with pytest.raises(KeyUnusable, match="not an Ed25519 public key"):
        PublicSigner.parse(line)


def test_a_key_file_that_cannot_sign_is_refused() -> None:
    with pytest.raises(KeyUnusable, match="not an OpenSSH private key"):
        SigningKey.load(b"nonsense")
    with pytest.raises(KeyUnusable, match="not an OpenSSH private key"):
        SigningKey.load(PRIVATE_KEY.replace(b"AAAAB", b"*****"))
    with pytest.raises(KeyUnusable, match="protected by a passphrase"):
        SigningKey.load(PROTECTED_KEY)
    ecdsa = generate_private_key(SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    with pytest.raises(KeyUnusable, match="not an Ed25519 key"):
        SigningKey.load(ecdsa)
