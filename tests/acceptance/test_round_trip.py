"""Back up, restore, compare: the promise itself."""

from __future__ import annotations

from collections.abc import Callable

from conftest import Workbench

from pgkeep.demo import story


def test_the_shop_comes_back_whole(workbench: Workbench, new_database: Callable[[], str]) -> None:
    source, target = new_database(), new_database()
    story.run_script(source, "shop.sql")
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    outcome = workbench.pgkeep("restore", "shop", "--target", target, "--json")
    document = outcome.document
    assert isinstance(document, dict)
    assert document["proven"] is True
    assert document["rows"] > 400_000
