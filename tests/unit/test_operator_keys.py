"""Operators' SSH signatures, against those that ssh-keygen makes, and of hardware tokens."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hardware_keys import Token
from pgkeep.errors import KeyUnusable, NotAuthentic
from pgkeep.sealing.operators import NAMESPACE, OperatorKey

MESSAGE = b"pgkeep asks for your approval\n"
KINDS = [("ed25519", ""), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521"), ("rsa", "2048")]
TOKENS = ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"]


needs_ssh_keygen = pytest.mark.skipif(
    not shutil.which("ssh-keygen") and "CI" not in os.environ, reason="there is no ssh-keygen"
)


def run(*arguments: object) -> None:
    subprocess.run([str(one) for one in arguments], check=True, capture_output=True)


def key_of(folder: Path, kind: str, bits: str) -> tuple[Path, OperatorKey]:
    path = folder / f"{kind}{bits}"
    run("ssh-keygen", "-q", "-t", kind, *(["-b", bits] if bits else []), "-N", "", "-f", path)
    return path, OperatorKey.parse(path.with_name(f"{path.name}.pub").read_text())


def signature_of(path: Path, message: bytes, namespace: str = NAMESPACE) -> bytes:
    file = path.with_name("message")
    file.write_bytes(message)
    run("ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", path, file)
    signature = file.with_name("message.sig")
    data = signature.read_bytes()
    signature.unlink()
    return data


@needs_ssh_keygen
@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_what_ssh_keygen_signs_is_verified(tmp_path: Path, kind: str, bits: str) -> None:
    path, key = key_of(tmp_path, kind, bits)
    signature = signature_of(path, MESSAGE)
    key.verify(MESSAGE, signature)
    with pytest.raises(NotAuthentic):
        key.verify(MESSAGE + b"more", signature)
    with pytest.raises(NotAuthentic, match="another purpose"):
        key.verify(MESSAGE, signature_of(path, MESSAGE, "file"))


@needs_ssh_keygen
def test_another_key_does_not_approve(tmp_path: Path) -> None:
    path, _ = key_of(tmp_path, "ed25519", "")
    _, other = key_of(tmp_path, "rsa", "2048")
    with pytest.raises(NotAuthentic, match="signed by another key: SHA256:"):
        other.verify(MESSAGE, signature_of(path, MESSAGE))


@pytest.mark.parametrize("kind", TOKENS)
def test_a_token_that_was_touched_approves(kind: str) -> None:
    token = Token(kind)
    key = OperatorKey.parse(token.line)
    assert key.is_hardware
    key.verify(MESSAGE, token.sign(MESSAGE))
    key.verify(MESSAGE, token.sign(MESSAGE, flags=5), verified_user=True)
    with pytest.raises(NotAuthentic, match="was not touched"):
        key.verify(MESSAGE, token.sign(MESSAGE, flags=0))
    with pytest.raises(NotAuthentic, match="did not ask for its PIN"):
        key.verify(MESSAGE, token.sign(MESSAGE), verified_user=True)
    with pytest.raises(NotAuthentic):
        key.verify(b"another", token.sign(MESSAGE))


@pytest.mark.parametrize("kind", TOKENS)
def test_every_flipped_byte_of_a_signature_is_found(kind: str) -> None:
    token = Token(kind)
    key = OperatorKey.parse(token.line)
    good = token.sign(MESSAGE)
    lines = good.decode().splitlines()
    for at in range(0, len(lines[1]), 3):
        was = lines[1][at]
        lines_now = [*lines]
        lines_now[1] = lines[1][:at] + ("A" if was != "A" else "B") + lines[1][at + 1 :]
        with pytest.raises(NotAuthentic):
            key.verify(MESSAGE, "\n".join([*lines_now, ""]).encode())


@pytest.mark.parametrize(
    "line",
    ["", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-dss AAAAB3NzaC1kc3M=", "hello world",
     "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIJ8c0ZtTtWjCkp1pGyEUp0Y5bS5UOQ=="],
)  # fmt: skip
def test_what_is_no_usable_key_is_refused(line: str) -> None:
    with pytest.raises(KeyUnusable):
        OperatorKey.parse(line)


@needs_ssh_keygen
def test_a_short_rsa_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match="1024 bits is too short"):
        key_of(tmp_path, "rsa", "1024")


@pytest.mark.parametrize("data", [b"", b"junk", b"-----BEGIN SSH SIGNATURE-----\n"])
def test_what_is_no_signature_is_refused(data: bytes) -> None:
    with pytest.raises(NotAuthentic, match="not a signature"):
        OperatorKey.parse(Token(TOKENS[0]).line).verify(MESSAGE, data)
