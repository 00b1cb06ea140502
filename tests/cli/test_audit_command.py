"""pgkeep checklist and pgkeep audit on a real repository."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg
import pytest

from conftest import Workbench

MONTH = f"{datetime.now(UTC):%Y-%m}"


@pytest.fixture
def shop(workbench: Workbench, new_database: Callable[[], str]) -> Workbench:
    url = new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE notes (id int PRIMARY KEY)")
        connection.execute("INSERT INTO notes SELECT generate_series(1, 9)")
    workbench.init(url)
    workbench.pgkeep("backup", "shop")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO notes SELECT generate_series(10, 99)")
    workbench.pgkeep("backup", "shop")
    return workbench


def ticked(bench: Workbench) -> dict[str, bool]:
    document = bench.pgkeep("checklist", "shop", "--json", expect=3).document
    assert isinstance(document, list)
    return {one["item"]: one["done"] for one in document}


def test_doing_things_ticks_them(shop: Workbench) -> None:
    before = ticked(shop)
    assert before["full"]
    assert not any(before[one] for one in ("weekly-restore", "retention", "monthly-verify", "team"))
    shop.pgkeep("drill", "shop")
    shop.pgkeep("prune")
    shop.pgkeep("verify", "--read", "all")
    shop.pgkeep("checklist", "--sign", "team", "--name", "Ada Lovelace", "--note", "all of us")
    after = ticked(shop)
    assert all(after[one] for one in ("weekly-restore", "retention", "monthly-verify", "team"))
    text = shop.pgkeep("checklist", expect=3).out
    assert "signed off by Ada Lovelace: all of us" in text
    assert "pgkeep capture shop" in text


def test_a_dry_run_ticks_nothing(shop: Workbench) -> None:
    shop.pgkeep("prune", "--dry-run")
    shop.pgkeep("verify")
    after = ticked(shop)
    assert not after["retention"]
    assert not after["monthly-verify"]


def test_only_what_a_person_must_say_can_be_signed(shop: Workbench) -> None:
    assert "is ticked by evidence" in shop.pgkeep("checklist", "--sign", "full", expect=2).err
    assert "is on no list" in shop.pgkeep("checklist", "--sign", "x", expect=2).err
    assert "who signs it off?" in shop.pgkeep("checklist", "--sign", "team", expect=2).err


def test_a_forged_sign_off_does_not_count(shop: Workbench) -> None:
    shop.pgkeep("checklist", "--sign", "team", "--name", "Ada")
    (file,) = (shop.repository / "signoffs").iterdir()
    file.write_bytes(file.read_bytes().replace(b'"Ada"', b'"Eve"'))
    assert not ticked(shop)["team"]


def test_the_audit_is_written_and_kept(shop: Workbench) -> None:
    folder = shop.folder / "reports"
    shop.pgkeep("drill", "shop")
    shop.pgkeep("audit", "--month", MONTH, "--output", str(folder))
    names = sorted(one.name for one in folder.iterdir())
    assert names == [f"audit-{MONTH}.{kind}" for kind in ("html", "json", "md")]
    document = json.loads((folder / f"audit-{MONTH}.json").read_bytes())
    assert document["clean"] is True
    (database,) = document["databases"]
    assert len(database["backups"]) == 2
    assert database["drills"][0]["outcome"] == "passed"
    assert database["tables"] == [{"table": "public.notes", "rows_before": 9, "rows_after": 99}]
    assert {one["command"]: one["ended"] for one in document["access"]}["backup"] == 2
    (kept,) = (shop.repository / "audits" / MONTH).iterdir()
    assert kept.read_bytes().startswith(b"pgkeep audit\n")
    page = (folder / f"audit-{MONTH}.html").read_text()
    assert "Everything that was checked is in order." in page
    assert ticked(shop)["monthly-audit"]


def test_damage_is_in_the_audit(shop: Workbench) -> None:
    victim = next(one for one in (shop.repository / "objects").rglob("*") if one.is_file())
    victim.unlink()
    document = shop.pgkeep("audit", "--month", MONTH, "--json", expect=3).document
    assert isinstance(document, dict)
    assert document["clean"] is False
    assert document["copies"][0]["problems"]
    assert document["recommendations"][0].startswith("Heal repository local")


@pytest.mark.parametrize(("month", "said"), [("2099-01", "has not begun"), ("x", "not a month")])
def test_a_month_that_is_none_is_told(shop: Workbench, month: str, said: str) -> None:
    assert said in shop.pgkeep("audit", "--month", month, expect=2).err


def test_a_month_without_anything_is_no_error(shop: Workbench) -> None:
    document = shop.pgkeep("audit", "--month", "2020-02", "--json", expect=3).document
    assert isinstance(document, dict)
    assert document["databases"][0]["backups"] == []


def test_a_ledger_that_was_cut_off_shows_by_what_manifests_hold(shop: Workbench) -> None:
    for anchor in (shop.repository / "ledger").rglob("*.anchor"):
        anchor.unlink()
    shop.pgkeep("ledger", "--verify")
    path = shop.state / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    (shop.state / "ledger.head").unlink()
    outcome = shop.pgkeep("ledger", "--verify", expect=1)
    assert "the anchor in local knows entry" in outcome.err
    path.unlink()
    assert "entries were cut off" in shop.pgkeep("ledger", "--verify", expect=1).err
