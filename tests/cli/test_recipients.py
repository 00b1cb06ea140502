"""Who opens backups: gpg keys wherever age keys work, and others for what is there already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from comparison import assert_same, load_statements, take_picture
from conftest import Outcome, Workbench
from failures import configure, told
from keyrings import ThrowAwayKeyring
from pgkeep.sealing import X25519Identity

SMALL = ("CREATE TABLE small AS SELECT n AS id FROM generate_series(1, 100) AS n",)
NewDatabase = Callable[[], str]


@pytest.fixture
def source(new_database: NewDatabase) -> str:
    url = new_database()
    load_statements(url, SMALL)
    return url


@pytest.fixture
def keyring(new_keyring: Callable[[], ThrowAwayKeyring]) -> ThrowAwayKeyring:
    made = new_keyring()
    made.new_key("Ann <ann@example.com>")
    return made


def init(workbench: Workbench, source: str, keyring: ThrowAwayKeyring, *recipients: str) -> Outcome:
    """A configuration with these recipients and that keyring, and nobody's identity at hand."""
    options = [word for text in recipients for word in ("--recipient", text)]
    outcome = workbench.init(source, "shop", *options, "--gpg-home", str(keyring.home))
    workbench.monkeypatch.delenv("PGKEEP_IDENTITY")
    return outcome


def set_recipients(workbench: Workbench, *recipients: str) -> None:
    lines = workbench.config.read_text().splitlines()
    quoted = ", ".join(f'"{text}"' for text in recipients)
    changed = [f"recipients = [{quoted}]" if line.startswith("recipients") else line
               for line in lines]  # fmt: skip
    workbench.config.write_text("\n".join([*changed, ""]))


def new_identity(workbench: Workbench, name: str) -> tuple[Path, str]:
    identity = X25519Identity.generate()
    path = workbench.folder / name
    path.write_text(f"{identity}\n")
    return path, str(identity.recipient)


def key_files(workbench: Workbench) -> list[str]:
    folder = workbench.repository / "keys"
    return sorted(path.suffix for path in folder.iterdir() if path.suffix)


@pytest.fixture
def restore(workbench: Workbench, new_database: NewDatabase, source: str) -> Callable[..., None]:
    def run(*options: str) -> None:
        target = new_database()
        workbench.pgkeep("restore", "shop", "--target", target, *options)
        assert_same(take_picture(source), take_picture(target))

    return run


# --- gpg ------------------------------------------------------------------------------------


def test_a_gpg_key_alone_opens_a_backup(
    workbench: Workbench, source: str, keyring: ThrowAwayKeyring, restore: Callable[..., None]
) -> None:
    told_by_init = init(workbench, source, keyring, "gpg:ann@example.com").err
    assert f"gpg:ann@example.com is the key {keyring.parts('Ann')[0]}" in told_by_init
    assert not workbench.identity.exists()
    workbench.pgkeep("backup", "shop")
    assert key_files(workbench) == [".gpg"]
    restore()
    dump = workbench.folder / "dump.sql"
    workbench.pgkeep("export", "shop", "-o", str(dump))
    assert dump.read_text().endswith("-- pgkeep: complete\n")


def test_a_keyring_of_gpgs_own_is_used_where_none_is_named(
    workbench: Workbench, source: str, keyring: ThrowAwayKeyring, restore: Callable[..., None]
) -> None:
    workbench.monkeypatch.setenv("GNUPGHOME", str(keyring.home))
    workbench.init(source, "shop", "--recipient", "gpg:ann@example.com")
    workbench.monkeypatch.delenv("PGKEEP_IDENTITY")
    workbench.pgkeep("backup", "shop")
    restore()


def test_a_keyring_elsewhere_and_no_configuration_are_enough(
    workbench: Workbench,
    new_database: NewDatabase,
    source: str,
    keyring: ThrowAwayKeyring,
    new_keyring: Callable[[], ThrowAwayKeyring],
) -> None:
    host = new_keyring()
    keyring.hand_public_keys_to(host)
    init(workbench, source, host, "gpg:ann@example.com")
    workbench.pgkeep("backup", "shop")
    target = new_database()
    error = told(workbench.pgkeep("restore", "shop", "--target", target, expect=None), "E050")
    part = keyring.parts("Ann")[1]
    assert error.message == f"the keyring '{host.home}' has no secret key for {part[-16:]}"
    assert "--gpg-home" in error.hint
    workbench.pgkeep("restore", "shop", "--target", target, "--gpg-home", str(keyring.home))
    assert_same(take_picture(source), take_picture(target))


def test_either_of_two_kinds_of_key_opens_a_backup(
    workbench: Workbench, source: str, keyring: ThrowAwayKeyring, restore: Callable[..., None]
) -> None:
    identity, recipient = new_identity(workbench, "mine.txt")
    stranger, _ = new_identity(workbench, "stranger.txt")
    init(workbench, source, keyring, "gpg:ann@example.com", recipient)
    workbench.pgkeep("backup", "shop")
    assert key_files(workbench) == [".age", ".gpg"]
    restore()
    restore("--identity", str(stranger))  # it does not fit, and gpg does
    with workbench.monkeypatch.context() as patch:
        patch.setenv("PATH", "/nonexistent")  # gpg is not needed
        restore("--identity", str(identity))


def test_an_error_names_all_that_was_tried(
    workbench: Workbench,
    source: str,
    keyring: ThrowAwayKeyring,
    new_keyring: Callable[[], ThrowAwayKeyring],
) -> None:
    _, recipient = new_identity(workbench, "mine.txt")
    stranger, _ = new_identity(workbench, "stranger.txt")
    init(workbench, source, keyring, "gpg:ann@example.com", recipient)
    workbench.pgkeep("backup", "shop")
    nobody = ("restore", "shop", "--target", source, "--gpg-home", str(new_keyring().home))
    message = told(workbench.pgkeep(*nobody, expect=None), "E050").message
    assert message.startswith("no identity was given; and the keyring ")
    arguments = (*nobody, "--identity", str(stranger))
    error = told(workbench.pgkeep(*arguments, expect=None), "E050")
    assert error.message.startswith("none of the keys given opens backup ")
    assert "; and the keyring " in error.message
    assert "--gpg-home" in error.hint
    assert "--identity" in error.hint


def test_a_damaged_form_of_a_key_is_told_unless_the_other_opens(
    workbench: Workbench, source: str, keyring: ThrowAwayKeyring, restore: Callable[..., None]
) -> None:
    identity, recipient = new_identity(workbench, "mine.txt")
    init(workbench, source, keyring, "gpg:ann@example.com", recipient)
    workbench.pgkeep("backup", "shop")
    (sealed,) = workbench.repository.glob("keys/*.gpg")
    (other,) = workbench.repository.glob("keys/*.age")
    whole = sealed.read_bytes()
    arguments = ("restore", "shop", "--target", source)
    for damaged in (whole[:-20], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"nonsense"):
        sealed.chmod(0o600)
        sealed.write_bytes(damaged)
        message = told(workbench.pgkeep(*arguments, expect=None), "E053").message
        assert "damaged gpg file: " in message
    restore("--identity", str(identity))
    other.unlink()
    told(workbench.pgkeep(*arguments, "--identity", str(identity), expect=None), "E053")
    sealed.write_bytes(whole)
    restore("--identity", str(identity))


def test_a_passphrase_in_the_environment_opens_a_backup(
    workbench: Workbench,
    source: str,
    new_keyring: Callable[[], ThrowAwayKeyring],
    restore: Callable[..., None],
) -> None:
    keyring = new_keyring()
    keyring.new_key("Bob <bob@example.com>", passphrase="sesame")
    keyring.forget_passphrases()
    init(workbench, source, keyring, "gpg:bob@example.com")
    workbench.pgkeep("backup", "shop")
    arguments = ("restore", "shop", "--target", source)
    error = told(workbench.pgkeep(*arguments, expect=None), "E051")
    assert error.message.startswith("gpg may not use its secret key: ")
    assert "PGKEEP_PASSPHRASE" in error.hint
    workbench.monkeypatch.setenv("PGKEEP_PASSPHRASE", "open")
    outcome = workbench.pgkeep(*arguments, expect=None)
    assert told(outcome, "E051").message == "the passphrase of the gpg key is wrong"
    workbench.monkeypatch.setenv("PGKEEP_PASSPHRASE", "sesame")
    restore()


def test_a_key_that_nothing_can_be_sealed_to_is_found_before_anything_is_read(
    workbench: Workbench, source: str, keyring: ThrowAwayKeyring
) -> None:
    init(workbench, source, keyring, "gpg:ann@example.com")
    workbench.pgkeep("backup", "shop")
    before = sorted(workbench.repository.rglob("*"))
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/shop")
    keyring.revoke(keyring.parts("Ann")[0])
    message = told(workbench.pgkeep("backup", "shop", expect=None), "E054", exit_code=2).message
    assert message.startswith("gpg key 'ann@example.com' cannot be sealed to: ")
    assert message.endswith(" was revoked")
    set_recipients(workbench, "gpg:nobody@example.com")
    message = told(workbench.pgkeep("backup", "shop", expect=None), "E054", exit_code=2).message
    assert message.startswith("there is no key 'nobody@example.com' in ")
    assert sorted(workbench.repository.rglob("*")) == before


def test_a_key_that_soon_expires_is_noticed(
    workbench: Workbench, source: str, keyring: ThrowAwayKeyring
) -> None:
    keyring.new_key("Soon <soon@example.com>", expires="5d")
    init(workbench, source, keyring, "gpg:soon@example.com", "gpg:ann@example.com")
    told_by_backup = workbench.pgkeep("backup", "shop", "--quiet").err
    assert told_by_backup.count("expires on ") == 1
    assert "! gpg key 'soon@example.com' expires on 2" in told_by_backup
    assert "gpg --quick-set-expire" in told_by_backup


@pytest.mark.parametrize("recipient", ["gpg:", "gpg:nobody@example.com", "gpg:*", "gpgg:x"])
def test_init_refuses_a_recipient_that_nothing_can_be_sealed_to(
    workbench: Workbench, source: str, keyring: ThrowAwayKeyring, recipient: str
) -> None:
    workbench.monkeypatch.setenv("GNUPGHOME", str(keyring.home))
    keyring.new_key("Bob <bob@example.com>")
    arguments = ("init", "shop", "--recipient", recipient, "--state-dir", str(workbench.state))
    told(workbench.pgkeep(*arguments, expect=None), "E054", exit_code=2)
    assert not workbench.config.exists()
    arguments = ("init", "shop", "--recipient", "gpg:a@b.c", "--gpg-home", "/nonexistent")
    told(workbench.pgkeep(*arguments, expect=None), "E002", exit_code=2)


# --- other operators for what is there ------------------------------------------------------


def test_backups_move_from_age_to_gpg_and_back(
    workbench: Workbench, source: str, keyring: ThrowAwayKeyring, restore: Callable[..., None]
) -> None:
    old, to_old = new_identity(workbench, "old.txt")
    init(workbench, source, keyring, to_old)
    workbench.pgkeep("backup", "shop")
    objects = {path: path.stat().st_mtime_ns for path in workbench.repository.glob("objects/*/*")}
    workbench.monkeypatch.delenv("SHOP_DATABASE_URL")  # the database is not needed

    set_recipients(workbench, "gpg:ann@example.com")
    said = workbench.pgkeep("reseal", "--identity", str(old)).out
    assert "sealed to 1 recipient, in local" in said
    assert key_files(workbench) == [".gpg"]
    restore()

    new, to_new = new_identity(workbench, "new.txt")
    set_recipients(workbench, to_new, "gpg:ann@example.com")
    workbench.pgkeep("reseal")
    assert key_files(workbench) == [".age", ".gpg"]
    restore("--identity", str(new))
    set_recipients(workbench, to_new)
    workbench.pgkeep("reseal", "--identity", str(new))
    assert key_files(workbench) == [".age"]
    restore("--identity", str(new))
    arguments = ("restore", "shop", "--target", source, "--identity", str(old))
    told(workbench.pgkeep(*arguments, expect=None), "E050")
    after = {path: path.stat().st_mtime_ns for path in workbench.repository.glob("objects/*/*")}
    assert after == objects


def test_epochs_that_do_not_open_are_named(workbench: Workbench, source: str) -> None:
    mine, to_me = new_identity(workbench, "mine.txt")
    _, to_another = new_identity(workbench, "another.txt")
    workbench.init(source, "shop", "--recipient", to_another)
    workbench.pgkeep("backup", "shop")
    (foreign,) = workbench.repository.glob("keys/*.age")
    before = foreign.read_bytes()
    set_recipients(workbench, to_me)
    error = told(workbench.pgkeep("reseal", "--identity", str(mine), expect=None), "E050")
    assert error.message.startswith(f"none of the keys given opens the key of epoch {foreign.stem}")

    workbench.pgkeep("backup", "shop")
    dry = workbench.pgkeep("reseal", "--identity", str(mine), "--dry-run", expect=3).out
    assert dry.count("would be sealed to 1 recipient, in local") == 1
    outcome = workbench.pgkeep("reseal", "--identity", str(mine), "--json", expect=3)
    document = outcome.document
    assert isinstance(document, dict)
    assert (document["dry_run"], document["recipients"]) == (False, [to_me])
    told_of = {item["epoch"]: item for item in document["epochs"]}
    assert len(told_of) == 2
    assert told_of[foreign.stem]["resealed"] is False
    assert told_of[foreign.stem]["problem"].startswith("none of the keys given opens ")
    assert [item["resealed"] for item in document["epochs"]].count(True) == 1
    assert foreign.read_bytes() == before


def test_sealing_anew_needs_recipients_and_a_key(workbench: Workbench, source: str) -> None:
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    workbench.monkeypatch.delenv("PGKEEP_IDENTITY")
    error = told(workbench.pgkeep("reseal", expect=None), "E050")
    assert error.message == "opening a backup needs a key, and none was given"
    set_recipients(workbench, "age1nonsense")
    told(workbench.pgkeep("reseal", expect=None), "E054", exit_code=2)
    set_recipients(workbench)
    told(workbench.pgkeep("reseal", expect=None), "E002", exit_code=2)


def test_without_a_backup_there_is_nothing_to_seal_anew(workbench: Workbench, source: str) -> None:
    workbench.init(source)
    configure(workbench, "[repositories.other]", f'url = "{(workbench.folder / "o").as_uri()}"')
    told(workbench.pgkeep("reseal", expect=None), "E064")


def test_a_repository_that_was_out_of_reach_is_not_sealed_anew_in_silence(
    workbench: Workbench, source: str
) -> None:
    """Whoever was shut out opens its backups still."""
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    (workbench.folder / "file").write_text("not a folder")
    other = (workbench.folder / "file" / "second").as_uri()
    configure(workbench, "[repositories.other]", f'url = "{other}"')
    outcome = workbench.pgkeep("reseal", expect=3)
    assert "sealed to 1 recipient, in local" in outcome.out
    assert "file/second" in outcome.err
