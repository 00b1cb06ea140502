"""tools/live-check, against a project that answers as the facts say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from supabase_server import PASSWORD, ProjectServer

TOOL = Path(__file__).parents[2] / "tools" / "live-check"


def run(*options: str, url: str | None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "LIVE_CHECK_URL"}
    if url is not None:
        environment["LIVE_CHECK_URL"] = url
    return subprocess.run(
        [sys.executable, str(TOOL), *options], env=environment, text=True, capture_output=True,
        check=False,
    )  # fmt: skip


def test_each_point_is_answered_and_nothing_stays(sample_project: ProjectServer) -> None:
    objects = (
        "SELECT (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_publication),"
        " (SELECT count(*) FROM pg_event_trigger)"
    )
    before = sample_project.ask(objects)
    done = run("--allow-writes", "--json", url=sample_project.url)
    answers = {one["point"][:2].strip(): one for one in json.loads(done.stdout)}
    assert PASSWORD not in done.stdout + done.stderr
    for point in ("0", "1", "2", "3", "4", "5", "7", "9", "12"):
        assert answers[point]["verdict"] == "confirmed", answers[point]
    assert answers["6"]["verdict"] == "not tried"
    assert sample_project.ask(objects) == before


def test_without_being_told_it_writes_nothing(sample_project: ProjectServer) -> None:
    done = run(url=sample_project.url)
    assert "not tried  1 a slot" in done.stdout
    assert "add --allow-writes" in done.stdout
    assert "confirmed  5 a snapshot" in done.stdout


def test_the_address_comes_by_a_variable() -> None:
    done = run(url=None)
    assert done.returncode == 2
    assert "$LIVE_CHECK_URL is not set" in done.stderr
    done = run(url="postgresql://postgres:secret@127.0.0.1:1/x")
    assert done.returncode == 1
    assert "secret" not in done.stderr
