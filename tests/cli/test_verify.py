"""pgkeep verify: what is harmed is found, put right where a sibling can, and named where not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comparison import load_statements
from conftest import Workbench
from failures import SMALL_SHOP, told
from pgkeep.stores import LocalStore


@pytest.fixture
def shop(workbench: Workbench, new_database: Callable[[], str]) -> str:
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    with workbench.config.open("a") as config:
        config.write(f'\n[repositories.second]\nurl = "{second(workbench).as_uri()}"\n')
    workbench.pgkeep("backup", "shop")
    workbench.monkeypatch.delenv("PGKEEP_IDENTITY")  # nothing here may need it
    return url


def second(workbench: Workbench) -> Path:
    return workbench.folder / "second"


def verified(workbench: Workbench, *options: str, expect: int) -> dict[str, Any]:
    document = workbench.pgkeep("verify", *options, "--json", expect=expect).document
    assert isinstance(document, dict)
    return document


def an_object(folder: Path) -> Path:
    """The largest: rows of a table."""
    return max(folder.glob("objects/*/*"), key=lambda path: path.stat().st_size)


HARM: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a bit flipped": lambda path: path.write_bytes(
        path.read_bytes()[:50] + bytes([path.read_bytes()[50] ^ 1]) + path.read_bytes()[51:]
    ),
    "swapped": lambda path: path.write_bytes(b"x" * path.stat().st_size),
}


def test_whole_repositories_are_told_to_be(workbench: Workbench, shop: str) -> None:
    looked = verified(workbench, expect=0)
    assert {item["whole"] for item in looked.values()} == {True}
    assert {item["objects_read"] for item in looked.values()} == {0}
    read = verified(workbench, "--read", "all", expect=0)
    assert all(item["objects_read"] == item["objects"] > 3 for item in read.values())


@pytest.mark.parametrize("harm", HARM)
def test_what_a_sibling_has_is_put_right(workbench: Workbench, shop: str, harm: str) -> None:
    path = an_object(workbench.repository)
    before = path.read_bytes()
    HARM[harm](path)
    found = verified(workbench, "--read", "all", "--no-heal", expect=1)
    assert [item["healed"] for item in found["local"]["damage"]] == [False]
    found = verified(workbench, "--read", "all", expect=3)
    (damage,) = found["local"]["damage"]
    assert damage["healed"]
    assert path.name in damage["problem"]
    assert path.read_bytes() == before
    verified(workbench, "--read", "all", expect=0)


def test_what_nobody_has_is_named_with_its_backups_and_tables(
    workbench: Workbench, shop: str
) -> None:
    path = an_object(workbench.repository)
    path.unlink()
    (second(workbench) / "objects" / path.name[:2] / path.name).write_bytes(b"no")
    found = verified(workbench, expect=1)
    (damage,) = found["local"]["damage"]
    (backup,) = workbench.repository.glob("shop/*/*/*/manifest.json")
    assert damage["backups"] == [backup.parent.name]
    assert len(damage["tables"]) == 1
    assert damage["tables"][0].startswith("table ")
    shown = workbench.pgkeep("verify", expect=1).out.replace("\n", " ")
    assert "no other repository has it" in shown
    assert damage["tables"][0] in shown


def test_a_repository_that_was_rolled_back_is_told(workbench: Workbench, shop: str) -> None:
    old = workbench.folder / "old"
    shutil.copytree(second(workbench), old)
    load_statements(shop, ("CREATE TABLE later AS SELECT 1 AS x",))
    workbench.pgkeep("backup", "shop")
    shutil.rmtree(second(workbench))
    shutil.copytree(old, second(workbench))
    found = verified(workbench, expect=3)
    assert len(found["second"]["lacks"]) == 1
    assert found["local"]["lacks"] == []
    assert "run pgkeep sync" in workbench.pgkeep("verify", expect=3).out
    workbench.pgkeep("sync")
    verified(workbench, expect=0)


def test_a_budget_reads_what_was_not_read_for_longest(workbench: Workbench, shop: str) -> None:
    count = verified(workbench, expect=0)["local"]["objects"]
    read = 0
    for _ in range(count):
        read += verified(workbench, "--read", "1", expect=0)["local"]["objects_read"]
    assert read == count
    path = an_object(workbench.repository)
    HARM["swapped"](path)
    outcomes = [workbench.pgkeep("verify", "--read", "1", expect=None).code for _ in range(count)]
    assert 3 in outcomes  # found by the time that each was read once more


def test_a_forged_manifest_is_told(workbench: Workbench, shop: str) -> None:
    (path,) = workbench.repository.glob("shop/*/*/*/manifest.json")
    path.write_bytes(path.read_bytes().replace(b'"manual"', b'"daily"', 1))
    found = verified(workbench, expect=1)
    assert len(found["local"]["problems"]) == 1


def test_a_size_that_is_none_is_refused(workbench: Workbench, shop: str) -> None:
    told(workbench.pgkeep("verify", "--read", "much", expect=None), "E002", exit_code=2)


def test_backups_made_while_repositories_were_down_in_turn_harm_no_chain(
    workbench: Workbench, shop: str
) -> None:
    """Each got a second backup that the other did not see; a third follows one of them."""
    for here in (workbench.repository, second(workbench)):
        away = here.with_name("away")
        here.rename(away)
        here.touch()  # a place where nothing can be read or written
        workbench.pgkeep("backup", "shop", expect=3)
        here.unlink()
        away.rename(here)
    workbench.pgkeep("backup", "shop")
    looked = verified(workbench, expect=3)  # each lacks one of the others
    assert [item["problems"] for item in looked.values()] == [[], []]
    workbench.pgkeep("sync")
    assert [item["problems"] for item in verified(workbench, expect=0).values()] == [[], []]


def test_one_that_is_busy_keeps_no_other_from_being_verified(
    workbench: Workbench, shop: str
) -> None:
    with LocalStore(workbench.repository).exclusive("a backup"):
        looked = workbench.pgkeep("verify", "--json", expect=3)
    assert isinstance(looked.document, dict)
    assert list(looked.document) == ["second"]
    assert "another process" in looked.err
