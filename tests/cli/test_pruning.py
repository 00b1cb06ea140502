"""pgkeep prune: what it shows, condemns, and a day later deletes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from comparison import assert_same, load_statements, take_picture
from conftest import Workbench
from failures import SMALL_SHOP, backups
from pgkeep.cli.context import Context


@pytest.fixture
def shop(workbench: Workbench, new_database: Callable[[], str]) -> str:
    """Five backups, each with a table that changed."""
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    for number in range(5):
        load_statements(url, (f"CREATE TABLE t{number} AS SELECT {number} AS x",))
        workbench.pgkeep("backup", "shop", "--tier", "daily")
    with workbench.config.open("a") as config:
        config.write("\n[retention]\ndaily_days = 0.000001\nminimum = 2\n")
    return url


def later(workbench: Workbench, by: timedelta) -> None:
    workbench.monkeypatch.setattr(Context, "now", staticmethod(lambda: datetime.now(UTC) + by))


def pruned(workbench: Workbench, *options: str) -> dict[str, Any]:
    document = workbench.pgkeep("prune", "--json", *options).document
    assert isinstance(document, dict)
    (only,) = document.values()
    assert isinstance(only, dict)
    return only


def test_a_dry_run_tells_why_and_changes_nothing(workbench: Workbench, shop: str) -> None:
    before = sorted(workbench.repository.rglob("*"))
    shown = workbench.pgkeep("prune", "--dry-run").out
    assert shown.count("to go") == 3
    assert "the newest full backup" in shown
    assert "one of the newest 2" in shown
    assert len(pruned(workbench, "--dry-run")["backups"]) == 5
    assert sorted(workbench.repository.rglob("*")) == before


def test_what_expired_is_deleted_a_day_later_and_the_rest_restores(
    workbench: Workbench, shop: str, new_database: Callable[[], str]
) -> None:
    first = pruned(workbench)
    assert (first["condemned_backups"], first["deleted_backups"]) == (3, [])
    assert len(backups(workbench)) == 5
    load_statements(shop, ("INSERT INTO t0 VALUES (7)",))
    workbench.pgkeep("backup", "shop", "--tier", "daily")
    later(workbench, timedelta(hours=25))
    second = pruned(workbench)
    assert len(second["deleted_backups"]) == 3
    assert second["deleted_objects"] == first["condemned_objects"] > 0
    assert len(backups(workbench)) == 3
    workbench.pgkeep("verify", "--read", "all")
    target = new_database()
    workbench.pgkeep("restore", "shop", "--target", target)
    assert_same(take_picture(shop), take_picture(target))


def test_a_harmed_manifest_stops_it(workbench: Workbench, shop: str) -> None:
    path = next(workbench.repository.glob("shop/*/*/*/manifest.json"))
    path.write_bytes(b"{}")
    before = sorted(workbench.repository.rglob("*"))
    workbench.pgkeep("prune", expect=3)
    assert [path for path in sorted(workbench.repository.rglob("*")) if path.name != "lock"] == [
        path for path in before if path.name != "lock"
    ]
