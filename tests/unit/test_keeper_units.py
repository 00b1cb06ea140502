"""The schedule for other schedulers, each read by its own tool where that runs here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from cronsim import CronSim

import pgkeep
from pgkeep.config import parse
from pgkeep.errors import UsageError
from pgkeep.keeper.calendar import Calendar
from pgkeep.keeper.schedule import Job, plan_jobs
from pgkeep.keeper.units import FORMS, Host

BEGIN = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
EXPRESSIONS = [
    "0 6 * * *", "*/15 1-5 * * *", "0 2 * * SUN", "0 8 * * SUN#1", "30 4 * * 2#5", "5 4 1,15 * *",
    "0 0 1 JAN *", "0 3 13 * 5", "0 1 * * 7", "10 */6 * 3-5 MON-FRI",
]  # fmt: skip
systemd_analyze = shutil.which("systemd-analyze")


def jobs(zone: str = "UTC") -> tuple[Job, ...]:
    database = {"url": {"env": "SHOP_URL"}}
    config = {"databases": {"shop": database}, "schedule": {"zone": zone}}
    return plan_jobs(parse(config))


def host(folder: Path) -> Host:
    program = folder / "pgkeep"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    config = folder / "with space %.toml"
    return Host((str(program),), config, folder / "state", ("SHOP_URL",), "a = 1\n[b]\nc = 2\n")


def times(text: str, zone: str = "UTC", count: int = 5) -> list[datetime]:
    found = islice(CronSim(text, BEGIN.astimezone(ZoneInfo(zone))), count)
    return [one.astimezone(UTC) for one in found]


# --- systemd --------------------------------------------------------------------------------


def elapses(text: str, count: int) -> list[datetime]:
    """When systemd itself would start it."""
    assert systemd_analyze
    done = subprocess.run(
        [systemd_analyze, "calendar", f"--base-time={BEGIN:%Y-%m-%d %H:%M:%S} UTC",
         f"--iterations={count}", text],
        capture_output=True, text=True, check=True, env={"TZ": "UTC", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    found = re.findall(
        r"(?:elapse|Iteration #\d+|Iter\. #\d+): \w+ ([-\d]+ [:\d]+) UTC", done.stdout
    )
    return [datetime.fromisoformat(one).replace(tzinfo=UTC) for one in found]


@pytest.mark.skipif(systemd_analyze is None, reason="systemd-analyze is not on this machine")
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
@pytest.mark.parametrize("text", EXPRESSIONS)
def test_systemd_runs_it_at_the_same_times(text: str, zone: str) -> None:
    found = {when for one in Calendar.parse(text).systemd(zone) for when in elapses(one, 5)}
    assert sorted(found)[:5] == times(text, zone)


CALENDAR = re.compile(
    r"((Sun|Mon|Tue|Wed|Thu|Fri|Sat)(,\w{3})* )?\*-(\*|[\d,]+)-(\*|[\d,]+)"
    r" (\*|[\d,]+):(\*|[\d,]+):00 [A-Za-z/_]+"
)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_what_systemd_is_told_has_its_form(text: str) -> None:
    for one in Calendar.parse(text).systemd("Europe/Berlin"):
        assert CALENDAR.fullmatch(one)


def test_the_units_of_systemd_are_whole(tmp_path: Path) -> None:
    files = FORMS["systemd"](jobs(), host(tmp_path))
    assert {"pgkeep-full-shop.service", "pgkeep-full-shop.timer", "pgkeep-prune.timer"} <= set(
        files
    )
    assert "pgkeep-review.timer" not in files, "a reminder is no command"
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert "flock" in files["pgkeep-full-shop.service"], "writers take turns"
    assert "flock" not in files["pgkeep-drill-shop.service"]
    if systemd_analyze is not None:
        done = subprocess.run(
            [systemd_analyze, "verify", "--man=no", *(str(tmp_path / name) for name in files)],
            capture_output=True, text=True,
        )  # fmt: skip
        ours = [line for line in done.stderr.splitlines() if "pgkeep" in line]
        assert ours == []


# --- cron -----------------------------------------------------------------------------------


def test_cron_runs_it_at_the_same_times() -> None:
    for text in EXPRESSIONS:
        when, test = Calendar.parse(text).cron()
        if not test:
            assert times(when) == times(text), text


def test_what_cron_cannot_say_is_tested_by_the_shell() -> None:
    when, test = Calendar.parse("0 8 * * SUN#2").cron()
    assert when == "0 8 * * 0"
    for day, expected in ((7, 1), (8, 0), (14, 0), (15, 1)):
        script = test.replace("$(date +%-d)", str(day))
        assert subprocess.run(["sh", "-c", script]).returncode == expected


def test_a_crontab_has_five_fields_and_a_command_and_no_bare_percent(tmp_path: Path) -> None:
    text = FORMS["cron"](jobs("Europe/Berlin"), host(tmp_path))["pgkeep.cron"]
    assert "CRON_TZ=Europe/Berlin" in text
    lines = [one for one in text.splitlines() if one[:1].isdigit()]
    assert len(lines) == sum(bool(job.arguments) for job in jobs())
    for line in lines:
        fields = line.split(maxsplit=5)
        CronSim(" ".join(fields[:5]), BEGIN)
        command = re.sub(r"\\%", "%", fields[5])
        assert not re.search(r"(?<!\\)%", fields[5])
        assert subprocess.run(["sh", "-n", "-c", command]).returncode == 0
        assert "with space %.toml" in command


# --- GitHub and Kubernetes ------------------------------------------------------------------


def test_a_workflow_of_github_names_each_time_and_each_secret(tmp_path: Path) -> None:
    text = FORMS["github-actions"](jobs(), host(tmp_path))["pgkeep.yml"]
    found: dict[Any, Any] = yaml.safe_load(text)
    crons = {one["cron"] for one in found[True]["schedule"]}  # YAML reads "on" as true
    for one in crons:
        CronSim(one, BEGIN)
    job = found["jobs"]["pgkeep"]
    assert job["env"]["SHOP_URL"] == "${{ secrets.SHOP_URL }}"
    steps = [one for one in job["steps"] if "github.event.schedule" in one.get("if", "")]
    assert {one["if"].split("'")[1] for one in steps} == crons
    assert {one["name"] for one in steps} == {job.name for job in jobs() if job.arguments}
    for step in job["steps"]:
        assert subprocess.run(["bash", "-n", "-c", step.get("run", "")]).returncode == 0
    assert found["concurrency"]["cancel-in-progress"] is False


def test_a_workflow_of_github_runs_the_source_that_was_checked_out(tmp_path: Path) -> None:
    """Never a package of that name from an index, whoever put it there."""
    text = FORMS["github-actions"](jobs(), host(tmp_path))["pgkeep.yml"]
    (install,) = [one["run"] for one in yaml.safe_load(text)["jobs"]["pgkeep"]["steps"]
                  if one.get("name") == "install"]  # fmt: skip
    source = Path(pgkeep.__file__).parents[2]
    (tmp_path / ".pgkeep").mkdir()
    (tmp_path / ".pgkeep" / "src").symlink_to(source / "src")
    (tmp_path / ".pgkeep" / ".venv").symlink_to(sys.prefix)
    lines = [line for line in install.splitlines() if "venv .pgkeep" not in line]
    script = "\n".join(line for line in lines if "pip install" not in line)
    paths = tmp_path / "paths"
    subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, check=True,
                   env={"PATH": os.environ["PATH"], "GITHUB_PATH": str(paths)})  # fmt: skip
    done = subprocess.run([f"{paths.read_text().strip()}/pgkeep", "--version"],
                          capture_output=True, text=True)  # fmt: skip
    assert pgkeep.__version__ in done.stdout
    assert "--require-hashes" in install


def test_github_knows_no_zones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="UTC"):
        FORMS["github-actions"](jobs("Europe/Berlin"), host(tmp_path))


def test_cron_jobs_of_kubernetes_are_whole(tmp_path: Path) -> None:
    text = FORMS["kubernetes"](jobs("Europe/Berlin"), host(tmp_path))["pgkeep.yaml"]
    documents = list(yaml.safe_load_all(text))
    assert documents[0]["data"]["pgkeep.toml"] == "a = 1\n[b]\nc = 2\n"
    cron_jobs = [one for one in documents if one["kind"] == "CronJob"]
    assert len(cron_jobs) == sum(bool(job.arguments) for job in jobs())
    for one in cron_jobs:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?", one["metadata"]["name"])
        spec = one["spec"]
        CronSim(spec["schedule"], BEGIN)
        assert spec["timeZone"] == "Europe/Berlin"
        assert spec["concurrencyPolicy"] == "Forbid"
        (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        shell, option, script = container["command"]
        assert subprocess.run([shell, "-n", option, script]).returncode == 0
        assert "--config /etc/pgkeep/pgkeep.toml" in script


@pytest.mark.parametrize("text", ["0 0 L * *", "0 0 * * 5L", "0 0 * * 1#1,2#2", "0 0 LW * *"])
def test_what_only_the_keeper_understands_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be said"):
        Calendar.parse(text)


def test_the_first_sunday_is_the_first_sunday() -> None:
    found = times("0 8 * * SUN#1", count=12)
    assert all(one.weekday() == 6 and one.day <= 7 for one in found)
    assert found[1] - found[0] == timedelta(days=28)
