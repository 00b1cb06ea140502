"""Several repositories side by side: one is down, one is damaged, and nothing is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from comparison import assert_same, load_statements, take_picture
from conftest import Workbench
from failures import SMALL_SHOP, told


@pytest.fixture
def shop(workbench: Workbench, new_database: Callable[[], str]) -> str:
    """A small shop with a second repository beside the first; its URL."""
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    second(workbench, second_place(workbench).as_uri())
    return url


def second_place(workbench: Workbench) -> Path:
    return workbench.folder / "second"


def second(workbench: Workbench, url: str, *lines: str) -> None:
    text = workbench.config.read_text().partition("\n[repositories.second]")[0]
    section = "\n".join(("", "[repositories.second]", f'url = "{url}"', *lines, ""))
    workbench.config.write_text(text + section)


def files(folder: Path) -> dict[str, bytes]:
    own = ("lock", "repo.json")
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in own)
    # Each has the anchors of the ledger that were written while it was there.
    kept = (path for path in found if path.suffix != ".anchor")
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def out_of_order(workbench: Workbench) -> str:
    """A URL where nothing can be written: a file stands in the way."""
    (workbench.folder / "file").write_text("not a folder")
    return (workbench.folder / "file" / "second").as_uri()


def test_each_repository_gets_the_same_bytes(workbench: Workbench, shop: str) -> None:
    workbench.pgkeep("backup", "shop")
    load_statements(shop, ("CREATE TABLE later AS SELECT 1 AS x",))
    workbench.pgkeep("backup", "shop")
    first, other = files(workbench.repository), files(second_place(workbench))
    assert first == other
    assert sum(name.endswith("manifest.json") for name in first) == 2


def test_one_that_is_down_falls_behind_and_sync_catches_up(workbench: Workbench, shop: str) -> None:
    second(workbench, out_of_order(workbench))
    made = workbench.pgkeep("backup", "shop", "--json", expect=3)
    assert isinstance(made.document, dict)
    assert [item["repository"] for item in made.document["behind"]] == ["second"]
    assert "pgkeep sync" in made.err
    second(workbench, second_place(workbench).as_uri())
    looked = workbench.pgkeep("sync", "--dry-run", expect=None)
    assert looked.code == 3
    assert "every repository that answered has every backup" in looked.out
    assert not second_place(workbench).exists()
    workbench.monkeypatch.delenv("PGKEEP_IDENTITY")  # no key that opens anything
    outcome = workbench.pgkeep("sync")
    assert f"{made.document['backup']} is now in second" in outcome.out
    assert files(workbench.repository) == files(second_place(workbench))
    again = workbench.pgkeep("sync")
    assert "every repository has every backup that it should have" in again.out


def test_sync_brings_nothing_back_that_expired(workbench: Workbench, shop: str) -> None:
    workbench.pgkeep("backup", "shop")
    old = next(second_place(workbench).glob("shop/*/*/*/manifest.json"))
    old.unlink()  # as a prune does there
    workbench.pgkeep("backup", "shop")
    with workbench.config.open("a") as config:
        config.write("\n[retention]\nmanual_days = 0.000001\nminimum = 1\n")
    assert "every repository has every backup" in workbench.pgkeep("sync").out
    workbench.pgkeep("verify")
    assert not old.exists()


def test_a_required_one_that_is_down_fails_the_backup(workbench: Workbench, shop: str) -> None:
    second(workbench, out_of_order(workbench), "required = true")
    told(workbench.pgkeep("backup", "shop", expect=None), "E060")
    assert not list(workbench.repository.glob("shop/*/*/*/manifest.json"))


def test_a_kind_goes_only_where_it_belongs(workbench: Workbench, shop: str) -> None:
    second(workbench, second_place(workbench).as_uri(), 'kinds = ["schema"]')
    workbench.pgkeep("backup", "shop")
    assert not second_place(workbench).exists()
    workbench.pgkeep("backup", "shop", "--kind", "schema")
    workbench.pgkeep("sync")
    (only,) = second_place(workbench).glob("shop/*/*/*/manifest.json")
    assert "/schema/" in str(only)


def test_a_restore_takes_each_object_from_a_copy_that_has_it(
    workbench: Workbench, shop: str, new_database: Callable[[], str]
) -> None:
    workbench.pgkeep("backup", "shop")
    harmed = sorted(workbench.repository.glob("objects/*/*"))
    others = sorted(second_place(workbench).glob("objects/*/*"))
    for number, (here, there) in enumerate(zip(harmed, others, strict=True)):
        if number % 2:
            here.unlink()
        else:
            there.write_bytes(b"damaged" + there.read_bytes()[7:])
    target = new_database()
    workbench.pgkeep("restore", "shop", "--target", target)
    assert_same(take_picture(shop), take_picture(target))


def test_a_restore_needs_only_one_of_them(
    workbench: Workbench, shop: str, new_database: Callable[[], str]
) -> None:
    workbench.pgkeep("backup", "shop")
    shutil.rmtree(workbench.repository)
    target = new_database()
    workbench.pgkeep("restore", "shop", "--target", target, expect=3)  # the other needs a look
    assert_same(take_picture(shop), take_picture(target))


def test_the_newest_backup_is_found_wherever_it_is(workbench: Workbench, shop: str) -> None:
    workbench.pgkeep("backup", "shop")
    text = workbench.config.read_text()
    local = f'[repositories.local]\nurl = "{workbench.repository.as_uri()}"\n'
    assert local in text
    workbench.config.write_text(text.replace(local, ""))
    newest = workbench.pgkeep("backup", "shop", "--json").document
    assert isinstance(newest, dict)
    workbench.config.write_text(text)
    shown = workbench.pgkeep("show", "shop", "--json").document
    assert isinstance(shown, dict)
    assert shown["backup"] == newest["backup"]
