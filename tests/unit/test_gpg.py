"""Keys in real keyrings of gpg: which one a name means, what opens, and what a refusal says."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyrings import PAST, ThrowAwayKeyring
from pgkeep.errors import (
    ConfigurationError,
    DamagedObject,
    KeyMissing,
    KeyUnusable,
    PgkeepError,
    ProgramMissing,
)
from pgkeep.sealing import Keyring, Recipients, SealedKey, X25519Identity, check_recipients
from pgkeep.sealing.gpg import parse_listing

PLAIN = b"the private half of an epoch\n"
NewKeyring = Callable[[], ThrowAwayKeyring]


@pytest.fixture(scope="module")
def operators() -> Iterator[ThrowAwayKeyring]:
    """Alice (without a passphrase), Bob (with one), and keys that nothing may be sealed to."""
    keyring = ThrowAwayKeyring.make()
    try:
        keyring.new_key("Alice <alice@example.com>")
        keyring.new_key("Bob <bob@example.com>", passphrase="sesame")
        keyring.new_key("Sysalice <sysalice@example.com>")
        keyring.new_key("Past <past@example.com>", at=PAST, expires="1d")
        keyring.revoke(keyring.new_key("Gone <gone@example.com>"))
        keyring.new_key("Signer <signer@example.com>", algorithm="ed25519")
        keyring.edit(keyring.new_key("Off <off@example.com>"), "disable")
        keyring.new_key("Twin <twin@example.com>")
        keyring.new_key("Other Twin <twin@example.com>")
        keyring.new_key("Back <back@example.com>", at=PAST, expires="1d")
        keyring.new_key("Back again <back@example.com>")
        yield keyring
    finally:
        keyring.remove()


@pytest.fixture(autouse=True)
def forgotten(request: pytest.FixtureRequest) -> None:
    """No test profits from a passphrase that another gave."""
    if "operators" in request.fixturenames:
        request.getfixturevalue("operators").forget_passphrases()


def refused(operators: ThrowAwayKeyring, name: str) -> KeyUnusable:
    with pytest.raises(KeyUnusable) as caught:
        operators.ours.find(name)
    return caught.value


# --- which key a name means -----------------------------------------------------------------


def test_a_name_may_be_an_address_a_name_an_id_or_a_fingerprint(
    operators: ThrowAwayKeyring,
) -> None:
    primary, part = operators.parts("Bob")
    for name in (
        "bob@example.com", "BOB@example.com", "<bob@example.com>", "Bob", "=Bob <bob@example.com>",
        primary, primary.lower(), f"0x{primary[-16:]}",
    ):  # fmt: skip
        found = operators.ours.find(name)
        assert (found.fingerprint, found.part, found.expires) == (primary, part, None)


def test_an_address_is_not_a_part_of_a_longer_one(operators: ThrowAwayKeyring) -> None:
    found = operators.ours.find("alice@example.com")
    assert found.fingerprint == operators.parts("=Alice <alice@example.com>")[0]


def test_a_name_of_two_keys_is_refused_with_their_fingerprints(
    operators: ThrowAwayKeyring,
) -> None:
    first = operators.parts("=Twin <twin@example.com>")[0]
    second = operators.parts("=Other Twin <twin@example.com>")[0]
    error = refused(operators, "twin@example.com")
    assert "'twin@example.com' means 2 keys in the keyring " in error.message
    assert f"{first} (Twin <twin@example.com>)" in error.message
    assert f"{second} (Other Twin <twin@example.com>)" in error.message
    assert error.hint.startswith("Name one by its fingerprint, gpg:")
    assert operators.ours.find(second).fingerprint == second


def test_a_key_that_cannot_be_used_stands_in_nobodys_way(operators: ThrowAwayKeyring) -> None:
    found = operators.ours.find("back@example.com")
    assert found.fingerprint == operators.parts("=Back again <back@example.com>")[0]


@pytest.mark.parametrize(
    ("name", "flaw"),
    [
        ("past@example.com", "expired on 2020-01-02"),
        ("gone@example.com", "was revoked"),
        ("signer@example.com", "is not for encryption"),
        ("off@example.com", "is disabled"),
    ],
)
def test_a_key_that_cannot_be_sealed_to_is_told(
    operators: ThrowAwayKeyring, name: str, flaw: str
) -> None:
    for spelling in (name, operators.parts(name)[0]):
        error = refused(operators, spelling)
        assert error.message.startswith(f"gpg key {spelling!r} cannot be sealed to: ")
        assert error.message.endswith(flaw)
        assert operators.parts(name)[0] in error.message


def test_a_key_that_is_not_there_is_told(operators: ThrowAwayKeyring) -> None:
    error = refused(operators, "nobody@example.com")
    assert (
        error.message == f"there is no key 'nobody@example.com' in the keyring '{operators.home}'"
    )
    assert error.hint == "Import it there: gpg --import FILE."


@pytest.mark.parametrize(
    "name", ["", "a\nb", "a\x00b", "*", "&", "-", "--version", "<>", "ünï", "%s"]
)
def test_a_name_can_do_no_harm(operators: ThrowAwayKeyring, name: str) -> None:
    assert refused(operators, name).hint


def test_the_newest_part_that_can_be_used_is_sealed_to(new_keyring: NewKeyring) -> None:
    keyring = new_keyring()
    primary = keyring.new_key("Ann <ann@example.com>", at=PAST)
    old = keyring.ours.find("ann@example.com")
    keyring.gpg("--passphrase", "", "--quick-add-key", primary, "cv25519", "encr", "20d")
    new = keyring.ours.find("ann@example.com")
    assert (new.fingerprint, new.part) == (primary, keyring.parts(primary)[-1])
    assert new.part != old.part
    assert new.expires is not None
    assert timedelta(days=19) < new.expires - datetime.now(UTC) <= timedelta(days=20)
    keyring.edit(primary, "key 2", "revkey", "y", "0", "", "y")
    assert keyring.ours.find("ann@example.com") == old


def test_an_encryption_part_that_expired_is_told(new_keyring: NewKeyring) -> None:
    keyring = new_keyring()
    primary = keyring.new_key("Ann <ann@example.com>", at=PAST, algorithm="ed25519")
    keyring.gpg(
        "--faked-system-time", PAST, "--passphrase", "",
        "--quick-add-key", primary, "cv25519", "encr", "1d",
    )  # fmt: skip
    message = refused(keyring, "ann@example.com").message
    assert message.endswith("has an encryption key that expired on 2020-01-02")


def test_an_address_that_was_given_up_is_told(new_keyring: NewKeyring) -> None:
    keyring = new_keyring()
    primary = keyring.new_key("Ann <ann@example.com>")
    keyring.gpg("--quick-add-uid", primary, "Ann <ann@elsewhere.example>")
    keyring.gpg("--quick-revoke-uid", primary, "Ann <ann@example.com>")
    error = refused(keyring, "ann@example.com")
    assert error.message.endswith("has given up this address: its user ID was revoked")
    assert keyring.ours.find("ann@elsewhere.example").fingerprint == primary
    assert keyring.ours.find(primary).fingerprint == primary


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "fpr:",
        "uid:u::::::::Nobody",
        "sub:u",
        "pub",
        "pub:u:255\nfpr\nsub:\nuid",
        ":\n::\n",
    ],
)
def test_a_listing_of_nonsense_is_no_usable_key(text: str) -> None:
    assert all(key.flaw("name") for key in parse_listing(text))


# --- sealing and opening --------------------------------------------------------------------


def sealed_to(operators: ThrowAwayKeyring, *names: str) -> bytes:
    return operators.ours.seal([operators.ours.find(name) for name in names], PLAIN)


def test_each_recipient_opens_alone(operators: ThrowAwayKeyring, new_keyring: NewKeyring) -> None:
    ann, host = new_keyring(), new_keyring()
    ann.new_key("Ann <ann@example.com>")
    for keyring in (ann, operators):
        keyring.hand_public_keys_to(host)
    sealed = sealed_to(host, "ann@example.com", "bob@example.com")
    assert PLAIN.strip() not in sealed
    assert ann.ours.open(sealed) == PLAIN
    assert operators.ours.open(sealed, "sesame") == PLAIN


def test_a_backup_host_needs_public_keys_only(
    operators: ThrowAwayKeyring, new_keyring: NewKeyring
) -> None:
    host = new_keyring()
    operators.hand_public_keys_to(host)
    sealed = sealed_to(host, "alice@example.com")
    with pytest.raises(KeyMissing) as caught:
        host.ours.open(sealed)
    part = operators.parts("=Alice <alice@example.com>")[1]
    assert caught.value.message == f"the keyring '{host.home}' has no secret key for {part[-16:]}"
    assert "--gpg-home" in caught.value.hint
    assert operators.ours.open(sealed) == PLAIN


def test_a_keyring_that_may_not_be_written_is_enough(
    operators: ThrowAwayKeyring, new_keyring: NewKeyring
) -> None:
    host = new_keyring()
    operators.hand_public_keys_to(host)
    (host.home / "trustdb.gpg").unlink()
    before = {path.name for path in host.home.iterdir()}
    sealed_to(host, "alice@example.com")
    assert {path.name for path in host.home.iterdir()} - before <= {"random_seed"}


def test_settings_of_gpg_change_nothing_about_who_opens(
    operators: ThrowAwayKeyring, new_keyring: NewKeyring
) -> None:
    host = new_keyring()
    operators.hand_public_keys_to(host)
    stranger = operators.parts("=Sysalice <sysalice@example.com>")[0]
    (host.home / "gpg.conf").write_text(f"encrypt-to {stranger}\narmor\ntrust-model pgp\n")
    sealed = sealed_to(host, "alice@example.com")
    listed = operators.gpg("--list-packets", given=sealed)
    assert listed.count(b":pubkey enc packet:") == 1
    assert not sealed.startswith(b"-----BEGIN")


def test_a_passphrase_that_is_wrong_missing_or_cannot_be_asked_for_is_told(
    operators: ThrowAwayKeyring,
) -> None:
    sealed = sealed_to(operators, "bob@example.com")
    with pytest.raises(KeyUnusable, match="the passphrase of the gpg key is wrong"):
        operators.ours.open(sealed, "Sesame")
    with (
        operators.asking_with("/nonexistent/pinentry"),
        pytest.raises(KeyUnusable, match=r"may not use its secret key: .*No pinentry") as caught,
    ):
        operators.ours.open(sealed)
    assert "PGKEEP_PASSPHRASE" in caught.value.hint
    assert operators.ours.open(sealed, "sesame") == PLAIN


def test_the_agent_asks_with_the_pinentry_of_the_user(
    operators: ThrowAwayKeyring, tmp_path: Path
) -> None:
    pinentry = tmp_path / "pinentry"
    pinentry.write_text(
        "#!/bin/sh\necho OK ready\nwhile read -r word rest; do\n"
        'case $word in GETPIN) echo "D sesame"; echo OK;; BYE) echo OK; exit;; *) echo OK;; esac\n'
        "done\n"
    )
    pinentry.chmod(0o755)
    sealed = sealed_to(operators, "bob@example.com")
    with operators.asking_with(str(pinentry)):
        assert operators.ours.open(sealed) == PLAIN


def test_a_changed_message_never_opens_as_something_else(operators: ThrowAwayKeyring) -> None:
    sealed = sealed_to(operators, "alice@example.com")
    opened = 0
    for place in range(0, len(sealed), 5):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with suppress(DamagedObject, KeyMissing):
            assert operators.ours.open(bytes(changed)) == PLAIN, place
            opened += 1
    assert opened < 3  # some bits of the format mean nothing


@pytest.mark.parametrize("sealed", [b"", b"nonsense\n", b"\xff" * 100])
def test_what_is_no_message_of_gpg_is_damaged(operators: ThrowAwayKeyring, sealed: bytes) -> None:
    with pytest.raises(DamagedObject, match="damaged gpg file: "):
        operators.ours.open(sealed)


def test_what_is_not_sealed_at_all_is_not_taken(operators: ThrowAwayKeyring) -> None:
    with pytest.raises(DamagedObject):
        operators.ours.open(operators.gpg("--store", given=PLAIN))


def test_a_cut_message_is_damaged(operators: ThrowAwayKeyring) -> None:
    sealed = sealed_to(operators, "alice@example.com")
    for size in (1, 50, len(sealed) - 30, len(sealed) - 1):
        with pytest.raises(DamagedObject):
            operators.ours.open(sealed[:size])


# --- the program ----------------------------------------------------------------------------


def test_no_secret_is_in_an_argument_or_in_the_environment(
    operators: ThrowAwayKeyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, log = shutil.which("gpg"), tmp_path / "log"
    spy = tmp_path / "bin" / "gpg"
    spy.parent.mkdir()
    spy.write_text(f'#!/bin/sh\n{{ echo "$@"; env; }} >> {log}\nexec {real} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PGKEEP_PASSPHRASE", "sesame")
    monkeypatch.setenv("SHOP_DATABASE_URL", "postgresql://u:sesame@host/shop")
    sealed = sealed_to(operators, "bob@example.com")
    assert operators.ours.open(sealed, "sesame") == PLAIN
    text = log.read_text()
    assert "--decrypt" in text
    assert "LC_ALL=C.UTF-8" in text
    assert "sesame" not in text
    assert "private half" not in text


def test_a_missing_gpg_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for call in (lambda: Keyring().find("a@b.c"), lambda: Keyring().open(b"x")):
        with pytest.raises(ProgramMissing, match="gpg is not installed"):
            call()


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no folder '.*nowhere'"):
        Keyring(tmp_path / "nowhere").find("a@b.c")
    assert not (tmp_path / "nowhere").exists()


def test_a_gpg_that_cannot_be_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "gpg"
    broken.write_text("no program\n")
    broken.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KeyUnusable, match="gpg cannot be run: exec format error"):
        Keyring(tmp_path).find("a@b.c")


# --- recipients of every kind ---------------------------------------------------------------

AGE = str(X25519Identity.generate().recipient)


def test_recipients_of_both_kinds_have_a_file_each(operators: ThrowAwayKeyring) -> None:
    both = Recipients.find([AGE, " gpg: alice@example.com "], operators.home).seal(PLAIN)
    assert set(both.files) == {"age", "gpg"}
    assert both.gpg is not None
    assert operators.ours.open(both.gpg) == PLAIN
    assert set(Recipients.find([AGE], operators.home).seal(PLAIN).files) == {"age"}
    only = Recipients.find(["gpg:alice@example.com"], operators.home).seal(PLAIN)
    assert only == SealedKey(None, only.gpg)


def test_recipients_are_told_apart_by_fingerprint(operators: ThrowAwayKeyring) -> None:
    primary, part = operators.parts("Bob")
    one = Recipients.find([AGE, "gpg:bob@example.com", f"gpg:{primary}"], operators.home)
    assert one.names == (AGE, f"gpg:{primary}/{part}")


def test_what_is_wrong_with_recipients_is_found(
    operators: ThrowAwayKeyring, new_keyring: NewKeyring
) -> None:
    now = datetime.now(UTC)
    texts = [AGE, "age1nonsense", "gpg:alice@example.com", "gpg:past@example.com", "gpg:nobody"]
    found = check_recipients(texts, operators.home, now=now)
    assert [problem.recipient for problem in found] == [texts[1], texts[3], texts[4]]
    assert all(isinstance(problem.error, KeyUnusable) and problem.hint for problem in found)
    keyring = new_keyring()
    keyring.new_key("Soon <soon@example.com>", expires="20d")
    assert check_recipients(["gpg:soon@example.com"], keyring.home, now=now) == []
    later = now + timedelta(days=7)
    (problem,) = check_recipients(["gpg:soon@example.com"], keyring.home, now=later)
    assert problem.error is None
    assert problem.message.startswith("gpg key 'soon@example.com' expires on 20")
    assert "gpg --quick-set-expire " in problem.hint


def test_recipients_without_gpg_do_not_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_recipients([AGE], tmp_path / "nowhere", now=datetime.now(UTC)) == []
    (problem,) = check_recipients(["gpg:a@b.c"], now=datetime.now(UTC))
    assert isinstance(problem.error, PgkeepError)
    assert problem.message == "gpg is not installed, and a key is in a keyring of gpg"
