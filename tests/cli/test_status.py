"""pgkeep status at 3 a.m.: what is lost, and the one command to type."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable

import psycopg
import pytest

from comparison import load_statements
from conftest import Outcome, Workbench
from failures import SMALL_SHOP, configure

NewDatabase = Callable[[], str]


@pytest.fixture
def shop(workbench: Workbench, new_database: NewDatabase) -> str:
    """A small shop that was backed up; its URL."""
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    workbench.pgkeep("backup", "shop")
    return url


def command_in(out: str) -> str:
    """The command that status tells to type."""
    (line,) = [line for line in out.splitlines() if line.startswith("  bring back ")]
    return line.removeprefix("  bring back ").strip()


def type_in(workbench: Workbench, command: str, *, expect: int = 0) -> Outcome:
    """Run it as it is written, with the key's own path."""
    program, *arguments = shlex.split(command)
    assert program == "pgkeep"
    key = str(workbench.identity)
    return workbench.pgkeep(*(key if one == "KEY" else one for one in arguments), expect=expect)


def test_the_command_that_it_tells_brings_the_backup_back(
    workbench: Workbench, shop: str, new_database: NewDatabase
) -> None:
    target = new_database()
    workbench.monkeypatch.setenv("EMPTY_DATABASE_URL", target)
    workbench.monkeypatch.delenv("PGKEEP_IDENTITY")
    type_in(workbench, command_in(workbench.pgkeep("status").out))
    with psycopg.connect(target) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone()


def test_where_changes_are_captured_the_command_brings_them_too(
    workbench: Workbench, shop: str, new_database: NewDatabase
) -> None:
    configure(workbench, "[capture]", "backups = false", "poll_seconds = 0.05")
    workbench.pgkeep("capture", "shop", "--once", "--yes", expect=3)  # a new journal
    workbench.pgkeep("backup", "shop")
    time.sleep(1.1)  # what can be reached is told to the second
    load_statements(shop, ("INSERT INTO users VALUES (7777, 'late')",))
    again = workbench.pgkeep("capture", "shop", "--once", expect=3)
    assert "table public.notes has no primary key" in again.err  # why it ends with 3
    target = new_database()
    workbench.monkeypatch.setenv("EMPTY_DATABASE_URL", target)
    told = type_in(workbench, command_in(workbench.pgkeep("status").out), expect=3)
    assert "1 change of 1 transaction\n" in told.err
    with psycopg.connect(target) as connection:
        assert connection.execute("SELECT name FROM users WHERE id = 7777").fetchone() == ("late",)


def test_with_a_place_to_recover_into_it_tells_the_whole_procedure(
    workbench: Workbench, shop: str
) -> None:
    configure(workbench, "[databases.shop.recovery]", 'target = { env = "NEW_DATABASE_URL" }')
    assert command_in(workbench.pgkeep("status").out) == "pgkeep recover shop --identity KEY"


def test_nobody_is_told_two_ratios_of_one_backup(workbench: Workbench, shop: str) -> None:
    """Indexes, catalogs and free space are in the database's size: they are nothing that shrank."""
    for command in ("list", "show"):
        shown = workbench.pgkeep(command, "shop").out
        assert " stored" in shown
        assert not re.search(r"\d\.\dx", shown)


def test_commands_that_it_tells_name_the_database(workbench: Workbench, shop: str) -> None:
    assert "changes      are not captured: pgkeep capture shop" in workbench.pgkeep("status").out


def test_before_the_first_backup_it_says_what_to_run(
    workbench: Workbench, new_database: NewDatabase
) -> None:
    workbench.init(new_database())
    assert "no backup   run: pgkeep backup shop" in workbench.pgkeep("status", expect=3).out
    workbench.pgkeep("backup", "shop")
    workbench.repository.rename(workbench.repository.with_name("unmounted"))
    assert "[E064]" in workbench.pgkeep("status", expect=1).err  # there are some, elsewhere
    for path in (workbench.state / "index.key", *(workbench.state / "repositories").iterdir()):
        path.unlink()
    assert "[E064]" in workbench.pgkeep("status", expect=1).err
