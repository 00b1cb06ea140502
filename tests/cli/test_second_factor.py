"""What cannot be undone asks for a second factor, once one is enrolled, and for nobody else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from comparison import load_statements
from conftest import Workbench
from failures import SMALL_SHOP, told
from pgkeep.repository.factors import Factor, FactorKind, dump
from pgkeep.sealing import SigningKey, allowed_signers
from second_factors import Person

NewDatabase = Callable[[], str]


@pytest.fixture
def shop(workbench: Workbench, new_database: NewDatabase) -> str:
    """A small shop with a backup; its URL."""
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    workbench.pgkeep("backup", "shop")
    return url


@pytest.fixture
def person(workbench: Workbench, shop: str) -> Person:
    """Somebody who has enrolled an app."""
    made = Person(workbench)
    made.enroll_app()
    return made


def decisions(workbench: Workbench) -> list[dict[str, Any]]:
    document = workbench.pgkeep("ledger", "--json", "--last", "500").document
    assert isinstance(document, list)
    return [one for one in document if one["what"] == "second factor"]


def dump_of(workbench: Workbench) -> tuple[str, ...]:
    return ("export", "shop", "-o", str(workbench.folder / "dump.sql"))


# --- an app ---------------------------------------------------------------------------------


def test_an_export_needs_a_code_and_each_code_is_good_once(
    workbench: Workbench, person: Person
) -> None:
    error = told(person.run(*dump_of(workbench), expect=1), "E090")
    assert error.message == "export of 'shop' needs a second factor, and none was given"
    assert "PGKEEP_CODE" in error.hint
    assert not (workbench.folder / "dump.sql").exists()
    code = person.code()
    person.run(*dump_of(workbench), code=code)
    error = told(person.run(*dump_of(workbench), expect=1, code=code), "E091")
    assert error.message == "this code was used already"
    person.run(*dump_of(workbench), code=person.code())
    states = [(one["state"], one["details"]["action"]) for one in decisions(workbench)]
    assert states == [
        ("enrolled", "enroll a factor"), ("refused", "export"), ("granted", "export"),
        ("refused", "export"), ("granted", "export"),
    ]  # fmt: skip
    ledger = (workbench.state / "ledger.jsonl").read_text()
    assert code not in ledger
    workbench.pgkeep("ledger", "--verify")


def test_a_code_may_come_from_a_file_or_a_command(workbench: Workbench, person: Person) -> None:
    path = workbench.folder / "code"
    path.write_text(person.code())
    path.chmod(0o600)
    person.run(*dump_of(workbench), code=f"file:{path}")
    path.write_text(person.code())
    person.run(*dump_of(workbench), code=f"command:cat '{path}'")
    told(person.run(*dump_of(workbench), expect=2, code="file:/nowhere"), "E002", exit_code=2)


def test_wrong_codes_lock_it_and_a_recovery_code_still_opens(
    workbench: Workbench, shop: str
) -> None:
    person = Person(workbench)
    codes = person.enroll_app()
    assert len(codes) == 10
    for _ in range(5):
        told(person.run(*dump_of(workbench), expect=1, code=person.wrong_code()), "E091")
    error = told(person.run(*dump_of(workbench), expect=1, code="000000"), "E091")
    assert error.message.startswith("after 5 wrong codes")
    assert "no code is looked at before" in workbench.pgkeep("factor", "list", expect=3).out
    person.run(*dump_of(workbench), code=codes[3].upper().replace("-", " "))
    error = told(person.run(*dump_of(workbench), expect=1, code=codes[3]), "E091")
    assert error.message == "this recovery code was used already"
    assert "9 of 10 left" in workbench.pgkeep("factor", "list").out
    told(person.run(*dump_of(workbench), expect=1, code="no code at all"), "E091")


def test_a_lock_out_holds_over_restarts_and_grows(workbench: Workbench, person: Person) -> None:
    for _ in range(5):
        person.run(*dump_of(workbench), expect=1, code=person.wrong_code())
    error = told(person.run(*dump_of(workbench), expect=1, code="000000"), "E091")
    assert error.message.startswith("after 5 wrong codes none is looked at before")
    person.wait(seconds=61)
    person.run(*dump_of(workbench), expect=1, code=person.wrong_code())
    person.wait(minutes=2)
    error = told(person.run(*dump_of(workbench), expect=1, code="000000"), "E091")
    assert error.message.startswith("after 6 wrong codes")
    person.wait(minutes=4)
    person.run(*dump_of(workbench), code=person.code())
    error = told(person.run(*dump_of(workbench), expect=1, code=person.wrong_code()), "E091")
    assert error.message == "this code is wrong; 4 more, and none is looked at for a while"


# --- a signature ----------------------------------------------------------------------------


def test_a_signature_approves_one_action_once(workbench: Workbench, shop: str) -> None:
    person = Person(workbench)
    person.enroll_key()
    error = told(person.run(*dump_of(workbench), expect=1), "E090")
    assert "ssh-keygen -Y sign -n pgkeep-approve" in error.hint
    (challenge,) = person.challenges()
    assert (challenge["action"], challenge["database"]) == ("export", "shop")
    signature = person.sign(challenge)
    kept = Path(signature).read_bytes()
    other = ("export", "shop", "-o", str(workbench.folder / "other.sql"))
    error = told(person.run(*other, expect=1, approval=signature), "E092")
    assert error.message.startswith("the approval is for another action: output")
    less = (*dump_of(workbench), "--schema-only")
    error = told(person.run(*less, expect=1, approval=signature), "E092")
    assert error.message == "the approval is for another action: schema only '', not 'yes'"
    person.run(*dump_of(workbench), approval=signature)
    again = workbench.folder / "again.sig"
    again.write_bytes(kept)
    error = told(person.run(*dump_of(workbench), expect=1, approval=str(again)), "E092")
    assert error.message.endswith("was used already")


def test_an_approval_ends(workbench: Workbench, shop: str) -> None:
    person = Person(workbench)
    person.enroll_key()
    person.run(*dump_of(workbench), expect=1)
    signature = person.sign(person.challenges()[0])
    person.wait(minutes=31)
    error = told(person.run(*dump_of(workbench), expect=1, approval=signature), "E092")
    assert error.message.startswith("the approval was good until")


def test_a_signature_by_a_stranger_or_of_another_text_is_refused(
    workbench: Workbench, shop: str
) -> None:
    person = Person(workbench)
    person.enroll_key()
    person.run(*dump_of(workbench), expect=1)
    stranger = Person(workbench)
    signature = stranger.sign(person.challenges()[0])
    error = told(person.run(*dump_of(workbench), expect=1, approval=signature), "E092")
    assert "which is not enrolled" in error.message
    Path(signature).write_bytes(person.device.sign(b"something else"))
    error = told(person.run(*dump_of(workbench), expect=1, approval=signature), "E092")
    assert "approves nothing" in error.message
    Path(signature).write_bytes(b"nothing")
    told(person.run(*dump_of(workbench), expect=1, approval=signature), "E092")
    told(person.run(*dump_of(workbench), expect=1, approval="/nowhere.sig"), "E092")


def test_a_device_whose_count_goes_back_is_a_copy(workbench: Workbench, shop: str) -> None:
    person = Person(workbench)
    person.device.counter = 7
    person.enroll_key()
    person.run(*dump_of(workbench), expect=1)
    person.device.counter = 7
    signature = person.sign(person.challenges()[0])
    error = told(person.run(*dump_of(workbench), expect=1, approval=signature), "E092")
    assert "counts 7 signatures, and it had counted 7 before" in error.message


# --- where the records are ------------------------------------------------------------------


def test_an_emptied_state_folder_finds_it_in_the_repository(
    workbench: Workbench, person: Person
) -> None:
    shutil.rmtree(workbench.state / "factors")
    told(person.run(*dump_of(workbench), expect=1), "E090")
    person.run(*dump_of(workbench), code=person.code())
    assert list((workbench.state / "factors").glob("*.enrolled")), "they are put back"


def test_a_fresh_machine_asks_too_and_checks_with_the_operators_key(
    workbench: Workbench, person: Person
) -> None:
    text = workbench.config.read_text()
    elsewhere = workbench.folder / "elsewhere"
    workbench.config.write_text(text.replace(str(workbench.state), str(elsewhere)))
    told(person.run(*dump_of(workbench), expect=1), "E090")
    told(person.run(*dump_of(workbench), expect=1, code=person.wrong_code()), "E091")
    person.run(*dump_of(workbench), code=person.code())
    assert not (elsewhere / "index.key").exists()


def test_a_repository_that_lost_the_record_changes_nothing(
    workbench: Workbench, person: Person
) -> None:
    shutil.rmtree(workbench.repository / "factors")
    told(person.run(*dump_of(workbench), expect=1), "E090")
    workbench.pgkeep("backup", "shop")
    assert list((workbench.repository / "factors").glob("*.enrolled")), "it is put back"


@pytest.mark.parametrize("harm", [b"", b"nothing that can be read", None])
def test_a_record_that_was_tampered_with_still_asks(
    workbench: Workbench, person: Person, harm: bytes | None
) -> None:
    shutil.rmtree(workbench.state / "factors")
    for path in (workbench.repository / "factors").glob("*.enrolled"):
        data = path.read_bytes()
        path.write_bytes(data.replace(b'"phone"', b'"mine!"') if harm is None else harm)
        if harm is None and b'"phone"' not in data:
            path.unlink()
    error = told(person.run(*dump_of(workbench), expect=1, code=person.code()), "E091")
    assert "no authenticator app is enrolled" in error.message
    error = told(person.run(*dump_of(workbench), expect=1), "E090")
    assert "cannot be believed here" in error.message
    assert workbench.pgkeep("factor", "list", expect=3).err.count("cannot be believed") >= 1


def test_the_memory_of_codes_cannot_simply_be_removed(workbench: Workbench, person: Person) -> None:
    (workbench.state / "factors" / "guard.json").unlink()
    error = told(person.run(*dump_of(workbench), expect=1, code=person.code()), "E091")
    assert error.message.startswith("after 5 wrong codes none is looked at before")
    person.wait(minutes=2)
    person.run(*dump_of(workbench), code=person.code())
    (workbench.state / "factors" / "guard.json").write_text("{}")
    told(person.run(*dump_of(workbench), expect=1, code=person.code()), "E091")


def test_nothing_readable_of_a_secret_is_kept_anywhere(
    workbench: Workbench, person: Person
) -> None:
    for folder in (workbench.state, workbench.repository):
        for path in folder.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert person.secret not in data
                assert b"MEQHGZLDOJSXIIDPMYQDEMBAMJ4XIZLT" not in data
                assert path.stat().st_mode & 0o077 == 0, path


def test_the_factor_of_another_host_is_told_and_asked_for_where_it_matters(
    workbench: Workbench, shop: str
) -> None:
    stranger = SigningKey.generate()
    factor = Factor("f" * 16, "theirs", FactorKind.SSH, datetime.now(UTC), "elsewhere")
    name, data = dump(factor, stranger)
    (workbench.repository / "factors").mkdir()
    (workbench.repository / "factors" / name).write_bytes(data)
    with (workbench.repository / "keys" / "allowed_signers").open("a") as signers:
        signers.write(allowed_signers([stranger.public]))
    told_of = "a second factor of another host is not asked for here"
    assert told_of in workbench.pgkeep(*dump_of(workbench)).err
    assert "of another host, not asked for here" in workbench.pgkeep("factor", "list").out
    error = told(workbench.pgkeep("reseal", expect=1), "E090")
    assert "cannot be believed here" in error.message
    assert "trusted_signers" in error.hint


# --- the gates ------------------------------------------------------------------------------


def test_a_restore_into_an_empty_database_asks_nobody(
    workbench: Workbench, person: Person, new_database: NewDatabase
) -> None:
    target = new_database()
    person.run("restore", "shop", "--target", target)
    arguments = ("restore", "shop", "--target", target, "--table", "notes", "--into-schema", "old")
    error = told(person.run(*arguments, expect=1), "E090")
    assert error.message == "restore of 'shop' needs a second factor, and none was given"
    person.run(*arguments, code=person.code())
    with psycopg.connect(target) as connection:
        assert connection.execute("SELECT count(*) FROM old.notes").fetchone() == (500,)


def test_tables_and_rows_into_what_is_there_ask(
    workbench: Workbench, person: Person, new_database: NewDatabase
) -> None:
    target = new_database()
    table = ("restore", "shop", "--target", target, "--table", "notes")
    person.run(*table)  # the database is empty
    other = ("restore", "shop", "--target", target, "--table", "users")
    told(person.run(*other, expect=1), "E090")
    person.run(*other, code=person.code())
    load_statements(target, ("TRUNCATE notes",))
    rows = (*table, "--data-only")
    told(person.run(*rows, expect=1), "E090")
    person.run(*rows, code=person.code())
    beside = ("restore", "shop", "--target", target, "--allow-non-empty")
    told(person.run(*beside, expect=1), "E090")
    assert person.run(*beside, "--dry-run").code == 0


def test_beside_the_live_tables_asks(workbench: Workbench, person: Person, shop: str) -> None:
    arguments = ("restore", "shop", "--target", "env:SHOP_DATABASE_URL", "--table", "notes",
                 "--into-schema", "old")  # fmt: skip
    told(person.run(*arguments, expect=1), "E090")
    with psycopg.connect(shop) as connection:
        assert connection.execute("SELECT to_regnamespace('old')").fetchone() == (None,)


def test_reseal_and_forget_ask(workbench: Workbench, person: Person) -> None:
    told(person.run("reseal", expect=1), "E090")
    person.run("reseal", "--dry-run")
    person.run("reseal", code=person.code())
    told(person.run("forget", "local", expect=1), "E090")
    person.run("forget", "local", code=person.code())


def test_recover_asks_before_anything_is_touched(
    workbench: Workbench, person: Person, new_database: NewDatabase, shop: str
) -> None:
    target = new_database()
    arguments = ("recover", "shop", "--target", target, "--yes")
    told(person.run(*arguments, expect=1), "E090")
    with psycopg.connect(target) as connection:
        assert connection.execute("SELECT to_regclass('public.users')").fetchone() == (None,)
    person.run(*arguments, "--dry-run")
    person.run(*arguments, code=person.code())


def test_prune_asks_only_for_keeping_less(workbench: Workbench, person: Person) -> None:
    person.run("prune")
    text = workbench.config.read_text()
    workbench.config.write_text(text + "\n[retention]\ndaily_days = 60\nminimum = 5\n")
    person.run("prune")  # longer
    workbench.config.write_text(text + "\n[retention]\ndaily_days = 7\nminimum = 1\n")
    shutil.rmtree(workbench.state / "factors")  # it is on record in the repository too
    person.run("prune", "--dry-run")
    told(person.run("prune", expect=1), "E090")
    person.run("prune", code=person.code())
    about = decisions(workbench)[-1]["details"]["shortens"]
    assert about == "daily from 60 to 7 days, the minimum from 5 to 1 backups"
    person.run("prune")  # agreed on


def test_prune_asks_from_the_first_time_on(workbench: Workbench, person: Person) -> None:
    with workbench.config.open("a") as config:
        config.write("\n[retention]\ndaily_days = 1\n[capture]\nkeep_days = 1\n")
    told(person.run("prune", expect=1), "E090")
    person.run("prune", code=person.code())
    about = decisions(workbench)[-1]["details"]["shortens"]
    assert about.startswith("daily from 30 to 1 days, the journal from ")


def test_a_repository_that_is_configured_no_more_is_noticed(
    workbench: Workbench, person: Person, tmp_path: Path
) -> None:
    text = workbench.config.read_text()
    second = f'\n[repositories.second]\nurl = "{(tmp_path / "second").as_uri()}"\n'
    workbench.config.write_text(text + second)
    workbench.pgkeep("backup", "shop")
    assert list((tmp_path / "second" / "factors").glob("*.enrolled"))
    workbench.config.write_text(text)
    for command in (("backup", "shop"), ("verify",)):
        shown = workbench.pgkeep(*command, expect=3).err
        assert "repository 'second' is configured no more" in shown
    told(person.run("prune", expect=1), "E090")
    told(person.run("forget", "second", expect=1), "E090")
    person.run("forget", "second", code=person.code())
    workbench.pgkeep("backup", "shop")
    person.run("prune")


def test_what_runs_unattended_asks_nobody(workbench: Workbench, person: Person) -> None:
    for arguments in (("backup", "shop"), ("drill", "shop"), ("verify",), ("sync",), ("prune",),
                      ("status",), ("list",), ("runbook", "shop")):  # fmt: skip
        assert person.run(*arguments, expect=None).code in (0, 3), arguments
    assert not [one for one in decisions(workbench) if one["state"] in ("granted", "refused")]


def test_nothing_changes_where_none_is_enrolled(
    workbench: Workbench, shop: str, new_database: NewDatabase
) -> None:
    workbench.pgkeep(*dump_of(workbench))
    target = new_database()
    workbench.pgkeep("restore", "shop", "--target", target)
    workbench.pgkeep("restore", "shop", "--target", target, "--table", "notes",
                     "--into-schema", "old")  # fmt: skip
    workbench.pgkeep("reseal")
    workbench.pgkeep("prune")
    workbench.pgkeep("forget", "local")
    assert not (workbench.state / "factors").exists()
    assert not (workbench.repository / "factors").exists()
    assert "no second factor is enrolled" in workbench.pgkeep("factor", "list").out


# --- looking after them ---------------------------------------------------------------------


def test_another_factor_needs_one_that_is_there(workbench: Workbench, person: Person) -> None:
    key = workbench.folder / "token.pub"
    key.write_text(person.device.line)
    arguments = ("factor", "enroll", "token", "--ssh-key", str(key))
    told(person.run(*arguments, expect=1), "E090")
    person.enroll_key(code=person.code())
    names = [line.split()[0] for line in workbench.pgkeep("factor", "list").out.splitlines()]
    assert sorted(names) == ["phone", "recovery-codes", "token"]
    told(person.run(*arguments, expect=2), "E001", exit_code=2)
    again = ("factor", "enroll", "again", "--ssh-key", str(key))
    error = told(person.run(*again, expect=2), "E001", exit_code=2)
    assert error.message == "this key is enrolled already, as 'token'"


def test_a_factor_counts_only_once_it_was_proven(workbench: Workbench, shop: str) -> None:
    person = Person(workbench)
    workbench.monkeypatch.setenv("APP_SECRET", "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
    arguments = ("factor", "enroll", "phone", "--secret", "env:APP_SECRET")
    told(person.run(*arguments, expect=1), "E090")
    told(person.run(*arguments, expect=1, new_code=person.wrong_code()), "E091")
    told(person.run("factor", "enroll", "phone", expect=1), "E090")
    workbench.pgkeep(*dump_of(workbench))


def test_removing_needs_a_factor_and_the_last_one_takes_the_codes_along(
    workbench: Workbench, shop: str
) -> None:
    person = Person(workbench)
    codes = person.enroll_app()
    told(person.run("factor", "remove", "phone", expect=1), "E090")
    told(person.run("factor", "remove", "nobody", expect=2), "E001", exit_code=2)
    person.run("factor", "remove", "phone", code=codes[0])
    assert "no second factor is enrolled" in workbench.pgkeep("factor", "list").out
    workbench.pgkeep(*dump_of(workbench))
    shutil.rmtree(workbench.state / "factors")
    workbench.pgkeep(*dump_of(workbench))
    assert [one["state"] for one in decisions(workbench)][-2:] == ["granted", "removed"]


def test_new_recovery_codes_replace_the_old(workbench: Workbench, shop: str) -> None:
    person = Person(workbench)
    old = person.enroll_app()
    outcome = person.run("factor", "enroll", "--recovery-codes", "--json", code=person.code())
    assert isinstance(outcome.document, dict)
    new = outcome.document["recovery_codes"]
    told(person.run(*dump_of(workbench), expect=1, code=old[0]), "E091")
    person.run(*dump_of(workbench), code=new[0])


def test_a_challenge_can_be_carried_elsewhere(workbench: Workbench, shop: str) -> None:
    person = Person(workbench)
    person.enroll_key()
    person.run(*dump_of(workbench), expect=1)
    (challenge,) = person.challenges()
    text = workbench.pgkeep("factor", "challenge", challenge["nonce"]).out
    assert text == Path(challenge["file"]).read_text()
    assert text.startswith('pgkeep approval 1\naction: "export"\ndatabase: "shop"\nbackup: ')
    told(workbench.pgkeep("factor", "challenge", "nonsense", expect=1), "E092")
    signature = workbench.folder / "brought.sig"
    signature.write_bytes(person.device.sign(text.encode()))
    person.run(*dump_of(workbench), approval=str(signature))


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "--recovery-codes"), ("enroll", " "), ("enroll", "recovery-codes"),
        ("enroll", "a\nb"), ("enroll", "x", "--verify-required"), ("remove",),
        ("enroll", "x", "--secret", "GEZDGNBVGY3TQOJQ"), ("enroll", "--recovery-codes"),
        ("enroll", "x", "--secret", "env:A", "--recovery-codes"),
    ],
)  # fmt: skip
def test_calls_that_cannot_be_meant_are_refused(
    workbench: Workbench, shop: str, arguments: tuple[str, ...]
) -> None:
    told(workbench.pgkeep("factor", *arguments, expect=2), "E001", exit_code=2)
