"""`--json`: one document on standard output, events on standard error, whatever the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Outcome, Workbench
from failures import SMALL_SHOP, configure, first_backup, run_sql, told

NewDatabase = Callable[[], str]


@pytest.fixture
def shop(workbench: Workbench, new_database: NewDatabase) -> str:
    """A small shop with one backup; the backup's id."""
    source = new_database()
    run_sql(source, *SMALL_SHOP)
    return first_backup(workbench, source)


def events(outcome: Outcome) -> list[dict[str, Any]]:
    """What is on standard error, every line of it."""
    return [json.loads(line) for line in outcome.err.splitlines()]


def document(outcome: Outcome) -> dict[str, Any]:
    found = outcome.document
    assert isinstance(found, dict)
    return found


def stages(outcome: Outcome) -> list[str]:
    return [one["stage"] for one in events(outcome) if one["event"] == "ended"]


def test_a_backup_tells_of_its_stages(workbench: Workbench, shop: str) -> None:
    outcome = workbench.pgkeep("backup", "shop", "--read-all", "--json")
    assert stages(outcome) == ["reading", "publishing"]
    answer = document(outcome)
    (reading,) = [e for e in events(outcome) if e["event"] == "ended" and e["stage"] == "reading"]
    assert reading["rows"] == answer["rows"] + 1, "and one piece of a large object"
    assert 0 < reading["bytes"] <= answer["bytes_read"]
    began = events(outcome)[0]
    assert began["event"] == "began"
    assert began["total_bytes"] > 0


def test_a_new_repository_is_told_as_an_event(
    workbench: Workbench, shop: str, tmp_path: Path
) -> None:
    configure(workbench, "[repositories.second]", f'url = "{(tmp_path / "second").as_uri()}"')
    outcome = workbench.pgkeep("backup", "shop", "--json")
    notices = [one for one in events(outcome) if one["event"] == "notice"]
    assert [one["message"][:25] for one in notices] == ["made a new repository at "]


def test_a_restore_tells_of_its_stages(
    workbench: Workbench, shop: str, new_database: NewDatabase
) -> None:
    outcome = workbench.pgkeep("restore", "shop", "--target", new_database(), "--json")
    assert stages(outcome) == [
        "checking", "defining", "restoring", "finishing", "settling", "proving",
    ]  # fmt: skip
    assert document(outcome)["proven"] is True


def test_quiet_leaves_the_document(workbench: Workbench, shop: str) -> None:
    outcome = workbench.pgkeep("backup", "shop", "--json", "--quiet")
    assert outcome.err == ""
    assert document(outcome)["kind"] == "full"


def test_a_failure_gives_no_document_and_its_error_in_words(
    workbench: Workbench, shop: str, new_database: NewDatabase
) -> None:
    target = new_database()
    run_sql(target, "CREATE TABLE t (n int)")
    outcome = workbench.pgkeep("restore", "shop", "--target", target, "--json", expect=1)
    assert outcome.out == ""
    told(outcome, "E041")
    *lines, error, hint = outcome.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("HINT: ")
    assert [json.loads(line)["event"] for line in lines] == ["began", "ended"]


def test_the_plan_of_a_backup_is_a_document(workbench: Workbench, shop: str) -> None:
    before = sorted(workbench.repository.rglob("*"))
    answer = document(workbench.pgkeep("backup", "shop", "--dry-run", "--json"))
    assert answer["dry_run"] is True
    assert (answer["database"], answer["kind"]) == ("shop", "full")
    tables = {table["table"]: table for table in answer["tables"]}
    assert set(tables) == {"users", "orders", "notes"}
    assert tables["orders"]["parts"] > 1
    assert tables["orders"]["table_bytes"] > 0
    assert answer["large_objects"] == 1
    assert answer["not_kept"] == []
    assert sorted(workbench.repository.rglob("*")) == before


def test_the_plan_of_a_restore_is_a_document(
    workbench: Workbench, shop: str, new_database: NewDatabase
) -> None:
    answer = document(
        workbench.pgkeep("restore", "shop", "--target", new_database(), "--dry-run", "--json")
    )
    assert answer["dry_run"] is True
    assert answer["backup"] == shop
    assert {table["table"]: table["rows"] for table in answer["tables"]} == {
        "users": 3000, "orders": 6000, "notes": 500,
    }  # fmt: skip
    assert answer["rows"] == 9500
    assert answer["materialized_views"] == ["public.totals"]
    assert answer["sequences"] == answer["large_objects"] == 1
    assert "password" not in answer["into"]


def test_the_demonstration_answers_with_a_document(workbench: Workbench, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for name in ("SHOP_DATABASE_URL", "RESTORE_URL", "PGKEEP_IDENTITY"):
        workbench.monkeypatch.setenv(name, "")  # it sets them, and they are put back in the end
    outcome = workbench.pgkeep("demo", "--keep", str(kept), "--json")
    answer = document(outcome)
    assert answer["recovered"] is True
    assert answer["folder"] == str(kept)
    answers = answer["answers"]
    assert answers["now"] == answers["before"] != answers["wrecked"]
    assert stages(outcome)[:2] == ["reading", "publishing"]
    assert (kept / "pgkeep.toml").exists()


def test_sql_on_standard_output_leaves_no_room_for_a_document(
    workbench: Workbench, shop: str
) -> None:
    outcome = workbench.pgkeep("export", "shop", "-o", "-", "--json", expect=2)
    assert told(outcome, "E001", exit_code=2).message == "--output - and --json exclude each other"
