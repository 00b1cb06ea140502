"""Whoever is to do something dangerous is asked for a second factor, once one is enrolled."""

from __future__ import annotations

import base64
import os
import pty
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from conftest import Outcome, Workbench
from hardware_keys import Token
from pgkeep.sealing import totp

TOKEN = "sk-ssh-ed25519@openssh.com"


@pytest.fixture
def shop(workbench: Workbench, new_database: Callable[[], str]) -> Workbench:
    url = new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE notes (id int PRIMARY KEY)")
        connection.execute("INSERT INTO notes SELECT generate_series(1, 9)")
    workbench.init(url)
    workbench.pgkeep("backup", "shop")
    return workbench


class Phone:
    """An authenticator, which waits for a fresh code rather than give one twice."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.step = totp.step_at(datetime.now(UTC)) - 1

    def code(self) -> str:
        self.step += 1  # one step ahead is still good
        return totp.code(self.secret, self.step)


def enroll_phone(bench: Workbench) -> tuple[Phone, list[str]]:
    outcome = bench.pgkeep("factor", "enroll", "--name", "phone", "--json")
    document = outcome.document
    assert isinstance(document, dict)
    text = str(document["address"]).partition("secret=")[2].partition("&")[0]
    phone = Phone(base64.b32decode(text))
    bench.monkeypatch.setenv("PGKEEP_CODE", phone.code())
    bench.pgkeep("factor", "confirm")
    bench.monkeypatch.delenv("PGKEEP_CODE")
    return phone, document["codes"]


def enroll_token(bench: Workbench) -> Token:
    token = Token(TOKEN)
    path = bench.folder / "token.pub"
    path.write_text(token.line + "\n")
    bench.pgkeep("factor", "enroll", "--ssh-key", str(path), "--name", "token")
    return token


def refused(outcome: Outcome, code: str) -> None:
    assert outcome.code == 1, outcome
    assert f"[{code}]" in outcome.err, outcome


def gated(bench: Workbench, new_database: Callable[[], str]) -> list[tuple[str, ...]]:
    bench.monkeypatch.setenv("TARGET_URL", new_database())
    return [
        ("export", "shop", "--output", str(bench.folder / "out.sql")),
        ("restore", "shop", "--target", "env:TARGET_URL", "--allow-non-empty"),
        ("restore", "shop", "--target", "env:TARGET_URL", "--data-only"),
        ("restore", "shop", "--target", "env:TARGET_URL", "--table", "notes"),
        ("recover", "shop", "--target", "env:TARGET_URL", "--yes"),
        ("reseal",),
        ("forget", "local"),
        ("factor", "enroll", "--name", "another"),
        ("factor", "remove", "--name", "token"),
    ]


def test_nobody_is_asked_before_one_is_enrolled(shop: Workbench) -> None:
    shop.pgkeep("export", "shop", "--output", str(shop.folder / "out.sql"))
    assert "no second factor is enrolled" in shop.pgkeep("factor", "list").out


def test_each_dangerous_command_asks(shop: Workbench, new_database: Callable[[], str]) -> None:
    enroll_token(shop)
    for command in gated(shop, new_database):
        refused(shop.pgkeep(*command, expect=None), "E090")
    assert not (shop.folder / "out.sql").exists()
    shop.pgkeep("backup", "shop")
    shop.pgkeep("verify")
    shop.pgkeep("prune")
    shop.pgkeep("drill", "shop")


def test_a_code_lets_one_command_through(shop: Workbench) -> None:
    phone, spare = enroll_phone(shop)
    export = ("export", "shop", "--output", str(shop.folder / "out.sql"))
    shop.monkeypatch.setenv("PGKEEP_CODE", phone.code())
    shop.pgkeep(*export)
    refused(shop.pgkeep(*export, expect=None), "E091")
    shop.monkeypatch.setenv("PGKEEP_CODE", spare[0])
    shop.pgkeep(*export)
    text = (shop.state / "ledger.jsonl").read_text()
    assert '"state":"granted","what":"second factor"' in text
    assert '"state":"refused","what":"second factor"' in text
    assert spare[0] not in text
    assert phone.secret.hex() not in text


def test_a_signature_lets_just_its_command_through(
    shop: Workbench, new_database: Callable[[], str]
) -> None:
    token = enroll_token(shop)
    commands = gated(shop, new_database)
    outcome = shop.pgkeep(*commands[0], expect=None)
    refused(outcome, "E090")
    text = Path(outcome.err.partition("PGKEEP_APPROVAL=")[2].split(".sig")[0])
    assert "what: backup" in text.read_text()
    signature = text.with_name(text.name + ".sig")
    signature.write_bytes(token.sign(text.read_bytes()))
    shop.monkeypatch.setenv("PGKEEP_APPROVAL", str(signature))
    refused(shop.pgkeep(*commands[1], expect=None), "E092")
    shop.pgkeep(*commands[0])
    refused(shop.pgkeep(*commands[0], expect=None), "E092")


def test_a_shorter_retention_asks_and_a_longer_one_does_not(shop: Workbench) -> None:
    phone, _ = enroll_phone(shop)
    text = shop.config.read_text()
    shop.config.write_text(text + "\n[retention]\ndaily_days = 60\n")
    shop.pgkeep("prune")
    shop.config.write_text(text + "\n[retention]\ndaily_days = 90\n")
    shop.pgkeep("prune")
    shop.config.write_text(text + "\n[retention]\ndaily_days = 5\n")
    outcome = shop.pgkeep("prune", expect=None)
    refused(outcome, "E090")
    assert "tier daily: 90 before, 5 now" in outcome.err
    shop.pgkeep("prune", "--dry-run")
    refused(shop.pgkeep("prune", expect=None), "E090")
    shop.monkeypatch.setenv("PGKEEP_CODE", phone.code())
    shop.pgkeep("prune")
    shop.monkeypatch.delenv("PGKEEP_CODE")
    shop.pgkeep("prune")


def test_a_repository_that_is_no_longer_configured_asks(shop: Workbench) -> None:
    enroll_token(shop)
    other = shop.folder / "other"
    text = shop.config.read_text()
    shop.config.write_text(text + f'\n[repositories.other]\nurl = "{other.as_uri()}"\n')
    shop.pgkeep("backup", "shop", "--read-all")
    shop.pgkeep("prune")
    shop.config.write_text(text)
    outcome = shop.pgkeep("prune", expect=None)
    refused(outcome, "E090")
    assert "repository other is no longer configured" in outcome.err


def test_taking_the_file_away_does_not_help(shop: Workbench) -> None:
    enroll_token(shop)
    (shop.state / "factors.json").unlink()
    outcome = shop.pgkeep("export", "shop", "--output", str(shop.folder / "o.sql"), expect=None)
    refused(outcome, "E090")
    assert "they are back from 'local'" in outcome.err
    assert "token" in shop.pgkeep("factor", "list").out


def test_on_a_terminal_the_code_is_asked_for(shop: Workbench) -> None:
    phone, _ = enroll_phone(shop)
    command = [sys.executable, "-m", "pgkeep", "export", "shop", "--output",
               str(shop.folder / "out.sql"), "--config", str(shop.config)]  # fmt: skip
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover
        os.execv(command[0], command)
    said = b""
    while b"path of the signature:" not in said:
        said += os.read(terminal, 4096)
    os.write(terminal, phone.code().encode() + b"\n")
    try:
        while data := os.read(terminal, 4096):
            said += data
    except OSError:
        pass
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said
    assert (shop.folder / "out.sql").exists()


def test_bad_input_is_told_in_a_line(shop: Workbench) -> None:
    outcome = shop.pgkeep("factor", "remove", expect=2)
    assert "which one?" in outcome.err
    outcome = shop.pgkeep("factor", "enroll", "--ssh-key", str(shop.folder / "no.pub"), expect=2)
    assert "cannot read" in outcome.err
    outcome = shop.pgkeep("factor", "confirm", expect=2)
    assert "no code was given" in outcome.err
