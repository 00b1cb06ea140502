"""Operators' signatures, of every kind of key that ssh-keygen makes, and of FIDO2 devices."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hardware_keys import TOUCHED, VERIFIED, HardwareKey
from pgkeep.errors import KeyUnusable, NotAuthentic
from pgkeep.sealing.operators import NAMESPACE, OperatorKey, signing_key_of, verify_approval
from pgkeep.sealing.sshsig import ParsedSignature, pack_signature, parse_signature, string

CHALLENGE = b"pgkeep approval 1\naction: export\n"

ORDINARY = [("ed25519", 0), ("ecdsa", 256), ("ecdsa", 384), ("ecdsa", 521), ("rsa", 2048)]
DEVICES = [HardwareKey.ed25519, HardwareKey.ecdsa]


def make_key(folder: Path, kind: str, bits: int) -> Path:
    path = folder / f"{kind}{bits}"
    size = ["-b", str(bits)] if bits else []
    command = ["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", "ada", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


def sign(path: Path, message: bytes, *options: str, namespace: str = NAMESPACE) -> bytes:
    command = ["ssh-keygen", "-q", "-Y", "sign", *options, "-n", namespace, "-f", str(path)]
    return subprocess.run(command, input=message, check=True, capture_output=True).stdout


def public_of(path: Path) -> str:
    return path.with_name(f"{path.name}.pub").read_text()


@pytest.mark.parametrize(("kind", "bits"), ORDINARY)
@pytest.mark.parametrize("hash_name", ["sha512", "sha256"])
def test_what_ssh_keygen_signs_is_believed(
    tmp_path: Path, kind: str, bits: int, hash_name: str
) -> None:
    path = make_key(tmp_path, kind, bits)
    key = OperatorKey.parse(public_of(path))
    signature = sign(path, CHALLENGE, "-O", f"hashalg={hash_name}")
    assert verify_approval(CHALLENGE, signature, key).counter == 0
    assert signing_key_of(signature) == key.fingerprint
    shown = subprocess.run(["ssh-keygen", "-lf", f"{path}.pub"], capture_output=True, text=True)
    assert key.fingerprint in shown.stdout
    assert OperatorKey.parse(key.line) == key
    with pytest.raises(NotAuthentic, match="not of this text"):
        verify_approval(CHALLENGE + b"x", signature, key)


@pytest.mark.parametrize(("kind", "bits"), ORDINARY)
def test_a_flipped_bit_anywhere_in_a_signature_is_refused(
    tmp_path: Path, kind: str, bits: int
) -> None:
    path = make_key(tmp_path, kind, bits)
    key = OperatorKey.parse(public_of(path))
    parsed = parse_signature(sign(path, CHALLENGE))
    for at in range(0, len(parsed.signature), 7):
        changed = bytearray(parsed.signature)
        changed[at] ^= 1
        forged = pack_signature(
            ParsedSignature(parsed.key_blob, parsed.namespace, parsed.hash_name, bytes(changed))
        )
        with pytest.raises(NotAuthentic):
            verify_approval(CHALLENGE, forged, key)


def test_another_namespace_is_refused(tmp_path: Path) -> None:
    path = make_key(tmp_path, "ed25519", 0)
    key = OperatorKey.parse(public_of(path))
    with pytest.raises(NotAuthentic, match="another purpose"):
        verify_approval(CHALLENGE, sign(path, CHALLENGE, namespace="git"), key)


def test_another_key_is_refused(tmp_path: Path) -> None:
    mine, other = make_key(tmp_path, "ed25519", 0), make_key(tmp_path, "ecdsa", 256)
    with pytest.raises(NotAuthentic, match="another key"):
        verify_approval(CHALLENGE, sign(other, CHALLENGE), OperatorKey.parse(public_of(mine)))


def test_an_algorithm_of_another_key_is_refused(tmp_path: Path) -> None:
    path = make_key(tmp_path, "rsa", 2048)
    key = OperatorKey.parse(public_of(path))
    parsed = parse_signature(sign(path, CHALLENGE))
    weak = string(b"ssh-rsa") + parsed.signature[4 + len("rsa-sha2-512") :]
    for signature in (weak, b"", string(b"rsa-sha2-512"), parsed.signature + b"x"):
        forged = pack_signature(
            ParsedSignature(parsed.key_blob, parsed.namespace, b"sha512", signature)
        )
        with pytest.raises(NotAuthentic):
            verify_approval(CHALLENGE, forged, key)


@pytest.mark.parametrize("make", DEVICES)
def test_a_device_is_believed_by_us_and_by_ssh_keygen(
    tmp_path: Path, make: Callable[[], HardwareKey]
) -> None:
    device = make()
    key = OperatorKey.parse(device.line)
    device.counter = 41
    signature = device.sign(CHALLENGE)
    assert verify_approval(CHALLENGE, signature, key).counter == 41
    assert key.is_hardware
    (tmp_path / "signers").write_text(f"ada {device.line}\n")
    (tmp_path / "text.sig").write_bytes(signature)
    command = ["ssh-keygen", "-Y", "verify", "-f", str(tmp_path / "signers"), "-I", "ada",
               "-n", NAMESPACE, "-s", str(tmp_path / "text.sig")]  # fmt: skip
    subprocess.run(command, input=CHALLENGE, check=True, capture_output=True)


@pytest.mark.parametrize("make", DEVICES)
def test_a_device_that_nobody_touched_is_refused(make: Callable[[], HardwareKey]) -> None:
    device = make()
    device.flags = VERIFIED
    with pytest.raises(NotAuthentic, match="nobody touched"):
        verify_approval(CHALLENGE, device.sign(CHALLENGE), OperatorKey.parse(device.line))


@pytest.mark.parametrize("make", DEVICES)
def test_a_device_has_to_verify_its_owner_where_that_was_enrolled(
    make: Callable[[], HardwareKey],
) -> None:
    device = make()
    key = OperatorKey.parse(device.line, must_verify=True)
    with pytest.raises(NotAuthentic, match="did not verify its owner"):
        verify_approval(CHALLENGE, device.sign(CHALLENGE), key)
    device.flags = TOUCHED | VERIFIED
    assert verify_approval(CHALLENGE, device.sign(CHALLENGE), key).counter > 0


@pytest.mark.parametrize("make", DEVICES)
def test_flags_and_counter_are_under_the_signature(make: Callable[[], HardwareKey]) -> None:
    device = make()
    key = OperatorKey.parse(device.line)
    parsed = parse_signature(device.sign(CHALLENGE))
    for at in range(-5, 0):
        changed = bytearray(parsed.signature)
        changed[at] ^= 0x04
        forged = pack_signature(
            ParsedSignature(parsed.key_blob, parsed.namespace, parsed.hash_name, bytes(changed))
        )
        with pytest.raises(NotAuthentic):
            verify_approval(CHALLENGE, forged, key)


def test_a_device_of_another_application_is_refused() -> None:
    device = HardwareKey.ed25519()
    device.application = b"https://example.com"
    with pytest.raises(KeyUnusable):
        OperatorKey.parse(device.line)


def _line(kind: bytes, *fields: bytes) -> str:
    blob = string(kind) + b"".join(string(field) for field in fields)
    return f"{kind.decode()} {base64.b64encode(blob).decode()}"


@pytest.mark.parametrize(
    "line",
    [
        "", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-dss AAAAB3NzaC1kc3M=", "no key at all",
        _line(b"ssh-ed25519", b"short"), _line(b"ssh-ed25519", b"k" * 32, b"more"),
        _line(b"sk-ssh-ed25519@openssh.com", b"k" * 31, b"ssh:"),
        _line(b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp521", b"p", b"ssh:"),
        _line(b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", b"\4" + b"1" * 64, b"ssh:"),
        "ecdsa-sha2-nistp256 " + _line(b"ssh-ed25519", b"k" * 32).split()[1],
    ],
)  # fmt: skip
def test_what_is_no_usable_key_is_refused(line: str) -> None:
    with pytest.raises(KeyUnusable):
        OperatorKey.parse(line)


def test_a_short_rsa_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match="too weak"):
        OperatorKey.parse(public_of(make_key(tmp_path, "rsa", 1024)))


def test_only_a_device_can_verify_its_owner(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match="cannot tell"):
        OperatorKey.parse(public_of(make_key(tmp_path, "ed25519", 0)), must_verify=True)
