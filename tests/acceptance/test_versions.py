"""Real databases on every server version at hand, and from an older one into a newer one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from comparison import assert_same, databases, load_file, take_picture
from conftest import Workbench, available_majors
from pgkeep.demo import story
from pgkeep.postgres.server import ScratchServer

CHINOOK = Path(__file__).parents[1] / "data" / "chinook.sql"


def load_chinook(url: str) -> None:
    load_file(url, CHINOOK)


def load_shop(url: str) -> None:
    story.run_script(url, "shop.sql")


@pytest.mark.parametrize("load", [load_chinook, load_shop], ids=["chinook", "shop"])
@pytest.mark.parametrize(
    ("major", "target_major"), [*((major, major) for major in available_majors()), (17, 18)]
)
def test_a_real_database_comes_back_equal(
    workbench: Workbench,
    servers: Callable[[int], ScratchServer],
    load: Callable[[str], None],
    major: int,
    target_major: int,
) -> None:
    with (
        databases(servers(major), "version_source") as (source,),
        databases(servers(target_major), "version_target") as (target,),
    ):
        load(source)
        workbench.init(source)
        workbench.pgkeep("backup", "shop")
        restored = workbench.pgkeep("restore", "shop", "--target", target)
        assert "proven" in restored.out
        before = take_picture(source, dump_major=target_major)
        assert before.row_count > 15_000
        assert_same(before, take_picture(target, dump_major=target_major))
