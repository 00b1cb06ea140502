"""The documents say what is true: made from the code, linked, and run."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import psycopg
import pytest

from pgkeep.cli.examples import EXAMPLES
from pgkeep.cli.main import COMMANDS, GROUPS, pgkeep
from pgkeep.demo import story

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_examples_that_it_takes(name: str) -> None:
    command = pgkeep.get_command(click.Context(pgkeep), name)
    assert command is not None
    assert EXAMPLES[name]
    for typed, what in EXAMPLES[name]:
        program, called, *arguments = shlex.split(typed.partition(" > ")[0])
        assert (program, called) == ("pgkeep", name)
        command.make_context(name, arguments)  # an error where an option is wrong or missing
        assert what in str(command.epilog)


def test_the_list_of_commands_has_each_once() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(COMMANDS)


def test_the_reference_is_what_the_code_says() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "reference.py"))["text"]()
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert written == made, "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:src|tests|docs|benchmarks)/[\w/.-]+\w)`", text):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_are_named_exist(page: Path) -> None:
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    known = set(re.findall(r"--[a-z][a-z-]+", reference))
    foreign = {"--clean", "--snapshot", "--schema-only"}
    for line in page.read_text(encoding="utf-8").splitlines():
        if "pgkeep" in line:
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line):
                assert option in known | foreign, f"{page.name}: {option} in {line!r}"


def test_the_quickstart_runs_as_it_is_written(
    tmp_path: Path, new_database: Callable[[], str]
) -> None:
    """Every `$` line of it, in one shell, on a database of our own."""
    source, target = new_database(), new_database()
    story.run_script(source, "shop.sql")
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines() if line[:2] == "$ "]
    assert sum("pgkeep" in command for command in commands) == 5
    script = "\n".join(_own_addresses(command, source, target) for command in commands)
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": _path_with_pgkeep()}
    done = subprocess.run(
        ["sh", "-eu", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal to the backup" in done.stdout
    with psycopg.connect(source) as before, psycopg.connect(target) as after:
        query = "SELECT count(*) FROM orders"
        assert before.execute(query).fetchone() == after.execute(query).fetchone()


def _own_addresses(command: str, source: str, target: str) -> str:
    if command.startswith("export SHOP_DATABASE_URL="):
        return f"export SHOP_DATABASE_URL='{source}'"
    if command.startswith("export EMPTY_DATABASE_URL="):
        return f"export EMPTY_DATABASE_URL='{target}'"
    return ":" if command.startswith("createdb ") else command


def _path_with_pgkeep() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
