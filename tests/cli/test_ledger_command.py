"""Whatever somebody does is on record: who, from where, why, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comparison import load_statements
from conftest import Workbench
from failures import SMALL_SHOP
from pgkeep.cli.main import COMMANDS
from pgkeep.cli.recording import NOT_RECORDED


@pytest.fixture
def shop(workbench: Workbench, new_database: Callable[[], str]) -> str:
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    return url


def entries(workbench: Workbench) -> list[dict[str, Any]]:
    document = workbench.pgkeep("ledger", "--json").document
    assert isinstance(document, list)
    return document


def test_accesses_are_on_record_with_their_end_and_their_reason(
    workbench: Workbench, shop: str, new_database: Callable[[], str], tmp_path: Path
) -> None:
    workbench.monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 5 192.0.2.1 22")
    target = new_database()
    workbench.pgkeep("backup", "shop")
    workbench.pgkeep("restore", "shop", "--target", target, "--reason", "a look at March")
    workbench.monkeypatch.setenv("PGKEEP_REASON", "for the auditor")
    workbench.pgkeep("export", "shop", "--output", str(tmp_path / "dump.sql"))
    workbench.monkeypatch.delenv("PGKEEP_REASON")
    workbench.pgkeep("restore", "shop", "--target", target, expect=None)  # not empty any more
    workbench.pgkeep("list")
    found = entries(workbench)
    assert [(one["what"], one["state"]) for one in found] == [
        ("init", "done"), ("backup", "began"), ("backup", "done"), ("restore", "began"),
        ("restore", "done"), ("export", "began"), ("export", "done"), ("restore", "began"),
        ("restore", "failed"),
    ]  # fmt: skip
    assert [one["reason"] for one in found[3:7:2]] == ["a look at March", "for the auditor"]
    assert found[4]["began"] == found[3]["sequence"]
    assert "[E041]" in found[-1]["error"]
    assert {one["from"] for one in found[1:]} == {"ssh from 192.0.2.7"}
    assert all("@" in one["who"] for one in found)
    text = (workbench.state / "ledger.jsonl").read_text()
    password = target.partition("@")[0].rpartition(":")[2]
    assert password
    assert password not in text
    assert "a look at March" in workbench.pgkeep("ledger").out


def test_a_key_that_does_not_open_is_on_record(
    workbench: Workbench, shop: str, tmp_path: Path
) -> None:
    workbench.pgkeep("backup", "shop")
    workbench.monkeypatch.delenv("PGKEEP_IDENTITY")
    workbench.pgkeep("export", "shop", "-o", str(tmp_path / "x.sql"), expect=1)
    assert "[E050]" in entries(workbench)[-1]["error"]


def test_a_changed_configuration_is_on_record(workbench: Workbench, shop: str) -> None:
    workbench.pgkeep("verify", expect=None)
    with workbench.config.open("a") as config:
        config.write("[retention]\ndaily_days = 1\n")
    workbench.pgkeep("prune", "--dry-run", expect=None)
    states = [(one["what"], one["state"]) for one in entries(workbench)]
    assert ("configuration", "changed") in states
    assert states.index(("configuration", "changed")) < states.index(("prune", "began"))


def test_the_head_is_anchored_in_every_repository_and_shows_what_was_cut_off(
    workbench: Workbench, shop: str, tmp_path: Path
) -> None:
    with workbench.config.open("a") as config:
        config.write(f'[repositories.second]\nurl = "{(tmp_path / "second").as_uri()}"\n')
    workbench.pgkeep("backup", "shop")
    for place in (workbench.repository, tmp_path / "second"):
        assert len(list(place.glob("ledger/*/*.anchor"))) == 1
    workbench.pgkeep("ledger", "--verify")
    answer = workbench.pgkeep("ledger", "--verify", "--json").document
    assert isinstance(answer, dict)
    assert answer["problems"] == []
    assert set(answer["anchors"].values()) == {2}
    # Cut off together with the head beside it: only the repositories know.
    path = workbench.state / "ledger.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    (workbench.state / "ledger.head").unlink()
    outcome = workbench.pgkeep("ledger", "--verify", expect=1)
    assert "[E083]" in outcome.err
    assert "cut off" in outcome.err


def test_a_ledger_that_cannot_be_written_keeps_nobody_from_a_restore(
    workbench: Workbench, shop: str, new_database: Callable[[], str]
) -> None:
    workbench.pgkeep("backup", "shop")
    ledger = workbench.state / "ledger.jsonl"
    ledger.unlink()
    ledger.mkdir()
    outcome = workbench.pgkeep("restore", "shop", "--target", new_database())
    assert "the ledger was not written" in outcome.err
    assert "this restore is not on record" in outcome.err
    assert "equal to the backup" in outcome.out


def test_no_command_is_forgotten() -> None:
    """A new command is on record unless somebody says here that it shows nothing."""
    assert {"demo", "list", "status", "schedule", "ledger"} == NOT_RECORDED
    assert set(COMMANDS) > NOT_RECORDED


def test_nothing_is_on_record_before_the_first_command(workbench: Workbench) -> None:
    workbench.config.write_text(f"state_dir = {json.dumps(str(workbench.state))}\n")
    assert "nothing is on record yet" in workbench.pgkeep("ledger").out
