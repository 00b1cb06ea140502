"""Standard output that is full or closed: one line that says so, and no second complaint."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from conftest import Outcome, Workbench
from failures import MAIN, SMALL_SHOP, first_backup, run_sql, told

NewDatabase = Callable[[], str]

COMMANDS: dict[str, Sequence[str]] = {
    "list": ("list",),
    "list as JSON": ("list", "--json"),
    "show": ("show", "shop"),
    "export": ("export", "shop", "-o", "-", "--quiet"),
    "plan": ("backup", "shop", "--dry-run"),
}


@pytest.fixture
def shop(workbench: Workbench, new_database: NewDatabase) -> str:
    source = new_database()
    run_sql(source, *SMALL_SHOP)
    return first_backup(workbench, source)


def written_to(sink: str, workbench: Workbench, arguments: Sequence[str]) -> Outcome:
    """How a command ends whose output goes to a full device or to a pipe that nobody reads."""
    command = [sys.executable, "-c", MAIN, *arguments, "--config", str(workbench.config)]
    if sink == "full":
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    else:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        err = process.communicate(timeout=60)[1]
        return Outcome(process.returncode, "", err)
    return Outcome(done.returncode, "", done.stderr)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("sink", "message"),
    [
        ("full", "cannot write to standard output: no space left on device"),
        ("closed", "whoever read the output has gone before its end"),
    ],
)
def test_output_that_goes_nowhere_is_told(
    workbench: Workbench, shop: str, command: str, sink: str, message: str
) -> None:
    outcome = written_to(sink, workbench, COMMANDS[command])
    assert told(outcome, "E005").message == message
    assert "Exception ignored" not in outcome.err
    assert "BrokenPipe" not in outcome.err
