"""Second factors: replay, lock-out, approvals for one action, and files that were tampered with."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hardware_keys import Token
from pgkeep.errors import (
    ApprovalInvalid,
    ConfigurationError,
    FactorNeeded,
    FactorRefused,
    UsageError,
)
from pgkeep.repository.factors import Action, FactorStore, Given
from pgkeep.sealing import SigningKey, X25519Identity, totp

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
EXPORT = Action("export", "backup X to /tmp/file.sql")
TOKEN = "sk-ssh-ed25519@openssh.com"


def with_codes(folder: Path) -> tuple[FactorStore, bytes, tuple[str, ...]]:
    store = FactorStore(folder)
    _, secret, spare = store.enroll_totp("phone", NOW - timedelta(days=1))
    store.confirm(code_at(secret, NOW - timedelta(days=1)), NOW - timedelta(days=1))
    return store, secret, spare


def code_at(secret: bytes, moment: datetime) -> str:
    return totp.code(secret, totp.step_at(moment))


def wrong(secret: bytes, moment: datetime) -> str:
    near = {code_at(secret, moment + timedelta(seconds=30 * n)) for n in range(-2, 3)}
    return next(f"{n:06}" for n in range(10) if f"{n:06}" not in near)


def test_a_factor_counts_once_it_is_confirmed(tmp_path: Path) -> None:
    store = FactorStore(tmp_path)
    _, secret, _ = store.enroll_totp("phone", NOW)
    assert store.load().confirmed == ()
    with pytest.raises(FactorRefused):
        store.confirm(wrong(secret, NOW), NOW)
    store.confirm(code_at(secret, NOW), NOW)
    assert [one.name for one in store.load().confirmed] == ["phone"]
    assert secret.hex() not in repr(store.load())


def test_a_code_is_good_once(tmp_path: Path) -> None:
    store, secret, _ = with_codes(tmp_path)
    assert store.check(EXPORT, Given(code_at(secret, NOW)), NOW).name == "phone"
    with pytest.raises(FactorRefused, match="used before"):
        store.check(EXPORT, Given(code_at(secret, NOW)), NOW)
    with pytest.raises(FactorRefused):  # a clock that was put back brings no old code back
        store.check(EXPORT, Given(code_at(secret, NOW - timedelta(minutes=5))),
                    NOW - timedelta(minutes=5))  # fmt: skip


def test_of_two_who_give_the_same_code_at_once_one_is_let_in(tmp_path: Path) -> None:
    store, secret, _ = with_codes(tmp_path)
    answers: list[bool] = []
    gate = threading.Barrier(8)

    def give() -> None:
        gate.wait()
        try:
            FactorStore(tmp_path).check(EXPORT, Given(code_at(secret, NOW)), NOW)
            answers.append(True)
        except FactorRefused:
            answers.append(False)

    threads = [threading.Thread(target=give) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert answers.count(True) == 1
    assert store.load().confirmed


def test_wrong_codes_lock_for_longer_and_longer(tmp_path: Path) -> None:
    store, secret, _ = with_codes(tmp_path)
    now = NOW
    for minutes in (1, 2, 4):
        for _ in range(5):
            with pytest.raises(FactorRefused):
                store.check(EXPORT, Given(wrong(secret, now)), now)
        with pytest.raises(FactorRefused, match="locked until"):
            store.check(EXPORT, Given(code_at(secret, now)), now)
        with pytest.raises(FactorRefused, match="locked until"):  # a clock that is put back
            store.check(EXPORT, Given(code_at(secret, now)), now - timedelta(days=1))
        now += timedelta(minutes=minutes)
    assert store.check(EXPORT, Given(code_at(secret, now)), now)


def test_a_spare_code_is_good_once(tmp_path: Path) -> None:
    store, _, spare = with_codes(tmp_path)
    assert store.check(EXPORT, Given(spare[3].upper()), NOW)
    with pytest.raises(FactorRefused):
        store.check(EXPORT, Given(spare[3]), NOW)
    assert store.check(EXPORT, Given(spare[4]), NOW)
    text = (tmp_path / "factors.json").read_text()
    assert not any(one in text for one in spare)


def test_nothing_given_is_told_what_is_needed(tmp_path: Path) -> None:
    store, _, _ = with_codes(tmp_path)
    with pytest.raises(FactorNeeded, match="a second factor is needed to export: backup X"):
        store.check(EXPORT, Given(), NOW)


def approved(store: FactorStore, token: Token, action: Action, now: datetime) -> Path:
    path = store.challenge(action, now)
    signature = path.with_name(f"{path.name}.sig")
    signature.write_bytes(token.sign(path.read_bytes()))
    return signature


def test_a_signature_approves_one_action_once(tmp_path: Path) -> None:
    store, token = FactorStore(tmp_path), Token(TOKEN)
    store.enroll_ssh("yubikey", token.line, NOW, verified_user=False)
    signature = approved(store, token, EXPORT, NOW)
    assert store.check(EXPORT, Given(approval=signature), NOW).name == "yubikey"
    with pytest.raises(ApprovalInvalid, match="was used, or is too old"):
        store.check(EXPORT, Given(approval=signature), NOW)


def test_a_signature_is_good_for_its_action_alone(tmp_path: Path) -> None:
    store, token = FactorStore(tmp_path), Token(TOKEN)
    store.enroll_ssh("yubikey", token.line, NOW, verified_user=False)
    signature = approved(store, token, EXPORT, NOW)
    other = Action("restore", "backup X into postgresql://db/shop")
    with pytest.raises(ApprovalInvalid, match="not for this action"):
        store.check(other, Given(approval=signature), NOW)


@pytest.mark.parametrize("later", [timedelta(hours=1), timedelta(hours=-1), timedelta(days=400)])
def test_a_signature_is_good_for_an_hour(tmp_path: Path, later: timedelta) -> None:
    store, token = FactorStore(tmp_path), Token(TOKEN)
    store.enroll_ssh("yubikey", token.line, NOW, verified_user=False)
    signature = approved(store, token, EXPORT, NOW)
    with pytest.raises(ApprovalInvalid, match="too old"):
        store.check(EXPORT, Given(approval=signature), NOW + later)


def test_a_stranger_or_an_untouched_token_does_not_approve(tmp_path: Path) -> None:
    store, token = FactorStore(tmp_path), Token(TOKEN)
    store.enroll_ssh("yubikey", token.line, NOW, verified_user=True)
    with pytest.raises(ApprovalInvalid, match="signed by another key"):
        store.check(EXPORT, Given(approval=approved(store, Token(TOKEN), EXPORT, NOW)), NOW)
    with pytest.raises(ApprovalInvalid, match="PIN"):
        store.check(EXPORT, Given(approval=approved(store, token, EXPORT, NOW)), NOW)


def test_an_approval_must_lie_among_those_that_wait(tmp_path: Path) -> None:
    """A text of one's own, signed by the very operator for something else, is none."""
    store, token = FactorStore(tmp_path / "state"), Token(TOKEN)
    store.enroll_ssh("yubikey", token.line, NOW, verified_user=False)
    forged = tmp_path / "0123.txt"
    forged.write_text("pgkeep asks for your approval\naction: export\n")
    signature = tmp_path / "0123.txt.sig"
    signature.write_bytes(token.sign(forged.read_bytes()))
    with pytest.raises(ApprovalInvalid):
        store.check(EXPORT, Given(approval=signature), NOW)


def test_factors_that_were_taken_away_come_back_from_a_repository(tmp_path: Path) -> None:
    store, secret, _ = with_codes(tmp_path)
    key, index = SigningKey.generate(), X25519Identity.generate()
    name, data = store.copy("host", key, index)
    assert name == "factors/host.factors"
    assert secret.hex().encode() not in data
    assert not store.take_back(data, key.public, index), "it is no newer"
    (tmp_path / "factors.json").unlink()
    assert store.take_back(data, key.public, index)
    assert store.check(EXPORT, Given(code_at(secret, NOW)), NOW)


def test_a_copy_that_another_wrote_is_not_believed(tmp_path: Path) -> None:
    store, _, _ = with_codes(tmp_path / "a")
    key, index = SigningKey.generate(), X25519Identity.generate()
    _, data = store.copy("host", SigningKey.generate(), index)
    _, good = store.copy("host", key, index)
    fresh = FactorStore(tmp_path / "b")
    assert not fresh.take_back(data, key.public, index)
    assert not fresh.take_back(good[:-5] + b"xxxxx", key.public, index)
    assert not fresh.take_back(b"junk", key.public, index)
    assert fresh.load().factors == ()


def test_a_file_that_is_broken_lets_nobody_in(tmp_path: Path) -> None:
    store, secret, _ = with_codes(tmp_path)
    (tmp_path / "factors.state").write_text("{")
    with pytest.raises(FactorRefused, match="locked until"):
        store.check(EXPORT, Given(code_at(secret, datetime.now(UTC))), datetime.now(UTC))
    (tmp_path / "factors.json").write_text("{")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        store.load()


def test_files_are_private(tmp_path: Path) -> None:
    store, _, _ = with_codes(tmp_path / "state")
    store.challenge(EXPORT, NOW)
    for path in (tmp_path / "state").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("name", ["", "a/b", "x" * 64, "-a", "new\nline"])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        FactorStore(tmp_path).enroll_totp(name, NOW)


def test_names_are_given_once(tmp_path: Path) -> None:
    store, _, _ = with_codes(tmp_path)
    with pytest.raises(UsageError, match="already"):
        store.enroll_totp("phone", NOW)
    with pytest.raises(UsageError, match="hardware token"):
        store.enroll_ssh("soft", "ssh-ed25519 "
                         "AAAAC3NzaC1lZDI1NTE5AAAAIJ7vS1LfLDuZwS3q9uZr3xgTIzS2wP1gZzvXo4mZqE2v",
                         NOW, verified_user=True)  # fmt: skip
