"""pgkeep schedule, as a person reads it."""

from __future__ import annotations

import re

from conftest import Workbench


def test_times_and_names_are_whole_on_a_narrow_terminal(workbench: Workbench) -> None:
    workbench.init("postgresql://shop@host/shop")
    workbench.monkeypatch.setenv("COLUMNS", "80")
    shown = workbench.pgkeep("schedule").out
    assert "…" not in shown
    jobs = re.findall(r"^\w{3} \d{4}-\d\d-\d\d \d\d:\d\d UTC +([\w-]+)", shown, re.MULTILINE)
    assert {"full-shop", "recovery-test-shop", "review"} <= set(jobs)
