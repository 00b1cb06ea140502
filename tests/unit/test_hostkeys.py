"""The backup host's own keys: made once, private, and an epoch that anybody configured can open."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from keyrings import ThrowAwayKeyring
from pgkeep.errors import ConfigurationError, KeyUnusable
from pgkeep.repository.hostkeys import Epoch, HostKeys, write_private
from pgkeep.sealing import (
    EpochKey,
    X25519Identity,
    load_epoch,
    load_identities,
    open_with,
)
from pgkeep.testing import FakeClock

ALICE, BOB = X25519Identity.generate(), X25519Identity.generate()
TO_ALICE, TO_BOB = str(ALICE.recipient), str(BOB.recipient)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "new" / "state"


@pytest.fixture
def keys(folder: Path) -> HostKeys:
    return HostKeys(folder)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def opens(identity: X25519Identity, epoch: Epoch) -> bool:
    """Whether an operator's key opens the epoch's private half, and it is the right one."""
    operators = load_identities(f"{identity}\n".encode(), passphrase=None, name="test")
    private = load_epoch(open_with(operators, epoch.sealed.age or b""))
    return EpochKey(private.recipient).id == epoch.id


# --- the signing key and the index key ---------------------------------------------------------


def test_keys_are_made_when_first_asked_for_and_stay(keys: HostKeys, folder: Path) -> None:
    assert keys.existing_signing_key() is None
    assert keys.existing_index_key() is None
    assert not folder.exists()
    signer, index = keys.signing_key().public, keys.index_key().recipient
    again = HostKeys(folder)
    existing_signer, existing_index = again.existing_signing_key(), again.existing_index_key()
    assert existing_signer is not None
    assert existing_index is not None
    assert again.signing_key().public == existing_signer.public == signer
    assert str(again.index_key().recipient) == str(existing_index.recipient) == str(index)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_keys_are_private_whatever_the_umask(
    keys: HostKeys, folder: Path, clock: FakeClock, mask: int
) -> None:
    before = os.umask(mask)
    try:
        keys.signing_key()
        keys.index_key()
        keys.epoch([TO_ALICE], now=clock())
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"signing.key": 0o600, "index.key": 0o600, "epoch.json": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
@pytest.mark.parametrize("name", ["signing.key", "index.key"])
def test_a_key_that_others_may_reach_is_refused(
    keys: HostKeys, folder: Path, name: str, mode: int
) -> None:
    keys.signing_key()
    keys.index_key()
    (folder / name).chmod(mode)
    with pytest.raises(ConfigurationError) as caught:
        (keys.signing_key if name == "signing.key" else keys.index_key)()
    assert caught.value.message == f"others may read the key {str(folder / name)!r}"
    assert caught.value.hint == f"Run: chmod 600 {folder / name}"


@pytest.mark.parametrize("text", [b"", b"# a comment\n", b"nonsense\n", b"\xff\n"])
def test_a_damaged_key_is_never_replaced_in_silence(
    keys: HostKeys, folder: Path, text: bytes
) -> None:
    folder.mkdir(parents=True)
    for name in ("signing.key", "index.key"):
        write_private(folder / name, text)
    with pytest.raises(KeyUnusable):
        keys.signing_key()
    with pytest.raises(KeyUnusable):
        keys.index_key()
    assert (folder / "signing.key").read_bytes() == text
    assert (folder / "index.key").read_bytes() == text


def test_a_state_folder_that_cannot_be_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    keys = HostKeys(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="not a directory"):
        keys.signing_key()
    with pytest.raises(ConfigurationError, match=r"cannot write to the state folder .*file"):
        keys.epoch([TO_ALICE], now=FakeClock()())


# --- epochs ---------------------------------------------------------------------------------


def test_an_epoch_is_used_again_until_it_is_90_days_old(
    keys: HostKeys, folder: Path, clock: FakeClock
) -> None:
    first = keys.epoch([TO_ALICE], now=clock())
    assert opens(ALICE, first)
    assert keys.epoch([TO_ALICE], now=clock()) == first
    assert HostKeys(folder).epoch([TO_ALICE], now=clock.advance(timedelta(days=89))) == first
    assert keys.epoch([TO_ALICE], now=clock.advance(timedelta(hours=23))) == first
    second = keys.epoch([TO_ALICE], now=clock.advance(timedelta(hours=1)))
    assert second.id != first.id
    assert opens(ALICE, second)
    assert keys.epoch([TO_ALICE], now=clock()) == second


def test_an_epoch_is_for_exactly_its_recipients(keys: HostKeys, clock: FakeClock) -> None:
    alone = keys.epoch([TO_ALICE], now=clock())
    both = keys.epoch([TO_ALICE, TO_BOB], now=clock())
    assert both.id != alone.id
    assert opens(ALICE, both)
    assert opens(BOB, both)
    assert keys.epoch([TO_BOB, TO_ALICE], now=clock()) == both
    bobs = keys.epoch([TO_BOB], now=clock())
    assert bobs.id not in (alone.id, both.id)
    with pytest.raises(Exception, match=r"fit|open"):
        opens(ALICE, bobs)


def test_a_clock_that_went_back_begins_a_new_epoch(keys: HostKeys, clock: FakeClock) -> None:
    first = keys.epoch([TO_ALICE], now=clock())
    assert keys.epoch([TO_ALICE], now=clock.advance(timedelta(seconds=-1))).id != first.id


def test_a_backup_that_nobody_could_open_is_refused(keys: HostKeys, clock: FakeClock) -> None:
    with pytest.raises(ConfigurationError, match="nobody could open a backup"):
        keys.epoch([], now=clock())
    with pytest.raises(KeyUnusable):
        keys.epoch(["age1nonsense"], now=clock())


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"null", b"[]", b"{}", b"\xff", b'{"begun": 1}', b'{"begun": "2026-01-15"}'],
)
def test_a_damaged_epoch_is_replaced(
    keys: HostKeys, folder: Path, clock: FakeClock, text: bytes
) -> None:
    first = keys.epoch([TO_ALICE], now=clock())
    (folder / "epoch.json").write_bytes(text)
    second = keys.epoch([TO_ALICE], now=clock())
    assert second.id != first.id
    assert opens(ALICE, second)


@pytest.mark.parametrize("field", ["recipient", "sealed", "for", "begun"])
@pytest.mark.parametrize("change", ["cut", "missing", "number", "changed"])
def test_an_epoch_that_is_damaged_in_one_field_is_replaced(
    keys: HostKeys, folder: Path, clock: FakeClock, field: str, change: str
) -> None:
    first = keys.epoch([TO_ALICE], now=clock())
    path = folder / "epoch.json"
    document = json.loads(path.read_bytes())
    value = document.pop(field)
    if change == "cut":
        document[field] = value[:-4]
    elif change == "number":
        document[field] = 7
    elif change == "changed":
        document[field] = value[:-1] + ("0" if value[-1] != "0" else "1")
    path.write_text(json.dumps(document))
    second = keys.epoch([TO_ALICE], now=clock.advance(timedelta(hours=1)))
    assert second.id != first.id
    assert opens(ALICE, second)


def test_an_epoch_for_gpg_keys_is_for_their_fingerprints(
    keys: HostKeys, folder: Path, clock: FakeClock, new_keyring: Callable[[], ThrowAwayKeyring]
) -> None:
    keyring = new_keyring()
    first_key = keyring.new_key("Ann <ann@example.com>")

    def current(*recipients: str) -> Epoch:
        return HostKeys(folder).epoch(recipients, now=clock(), gpg_home=keyring.home)

    both = current("gpg:ann@example.com", TO_BOB)
    assert opens(BOB, both)
    assert both.sealed.gpg is not None
    private = load_epoch(keyring.ours.open(both.sealed.gpg))
    assert EpochKey(private.recipient).id == both.id
    assert current(TO_BOB, f"gpg:{first_key}") == both
    alone = current("gpg:ann@example.com")
    assert (alone.id != both.id, alone.sealed.age) == (True, None)
    keyring.revoke(first_key)
    with pytest.raises(KeyUnusable, match="was revoked"):
        current("gpg:ann@example.com")
    keyring.new_key("Ann Again <ann@example.com>")
    assert current("gpg:ann@example.com").id not in (alone.id, both.id)


def test_an_epoch_whose_form_for_gpg_is_damaged_is_replaced(
    keys: HostKeys, folder: Path, clock: FakeClock
) -> None:
    first = keys.epoch([TO_ALICE], now=clock())
    path = folder / "epoch.json"
    document = json.loads(path.read_bytes())
    assert document["sealed_gpg"] == ""
    for text in ("00", None, 7):
        path.write_text(json.dumps({**document, "sealed_gpg": text}))
        assert keys.epoch([TO_ALICE], now=clock()).id != first.id


def test_the_private_half_of_an_epoch_is_not_kept(keys: HostKeys, folder: Path) -> None:
    keys.signing_key()
    keys.index_key()
    keys.epoch([TO_ALICE], now=FakeClock()())
    texts = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert [name for name, text in texts.items() if b"AGE-SECRET-KEY-" in text] == ["index.key"]


def test_a_private_file_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    write_private(path, b"old")

    def broken(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="No space"):
            write_private(path, b"new")
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == {"key": b"old"}
    write_private(path, b"new", replace=False)
    assert path.read_bytes() == b"old"
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
