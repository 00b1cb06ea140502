"""Metrics: what is emitted, and that the dashboard and the rules name nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pgkeep.config import ObjectivesConfig
from pgkeep.keeper.facts import BackupFact, DatabaseFacts, DiskFact, DrillFact, SlotFact
from pgkeep.keeper.look import Seen
from pgkeep.keeper.metrics import METRICS, Snapshot, registry, samples
from pgkeep.keeper.schedule import Job, Past, Task
from pgkeep.keeper.state import KeeperState, Run
from pgkeep.keeper.watch import Alert, Severity
from pgkeep.model import Kind, Tier

DEPLOY = Path(__file__).parents[2] / "deploy"
NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


def everything() -> Snapshot:
    """A keeper that knows something of every kind."""
    backup = BackupFact("b1", Kind.FULL, Tier.DAILY, NOW - timedelta(hours=6), 60, 10, 100, 50,
                        40, 30, 2, 5, ("local",))  # fmt: skip
    drill = DrillFact("b1", NOW - timedelta(days=1), "failed", 30, 10)
    facts = DatabaseFacts(
        "shop",
        backups=(backup, replace(backup, backup="b0", started=NOW - timedelta(days=1))),
        drills=(drill, replace(drill, started=NOW - timedelta(days=8), outcome="passed")),
        loss_window=timedelta(seconds=3),
        slot=SlotFact(5, 10, False),
    )
    job = Job(Task.FULL, "shop", "0 6 * * *", "UTC")
    alert = Alert("shop/behind/far", Severity.WARNING, "shop", "x", "y", NOW)
    state = KeeperState(
        NOW, runs={job.name: Run(NOW, NOW + timedelta(seconds=9), 0)}, alerts=(alert,)
    )
    return Snapshot(
        now=NOW, state=state, looked=NOW, jobs=(job,), running=frozenset({job.name}),
        seen=Seen({"shop": facts}, {"crm": "no answer"}, (DiskFact("/b", 1, 2),)),
        pasts={job.name: Past(succeeded=NOW, failures=3)},
        capturing=frozenset(), captured=frozenset({"shop"}),
        objectives={"shop": ObjectivesConfig()}, repositories=("local", "far"),
    )  # fmt: skip


def value(name: str, *labels: str, snapshot: Snapshot | None = None) -> float | None:
    found = [v for n, at, v in samples(snapshot or everything()) if (n, at) == (name, labels)]
    return found[0] if found else None


def test_every_metric_is_emitted_and_no_other() -> None:
    emitted = {name for name, _, _ in samples(everything())}
    assert emitted == {one.name for one in METRICS}


def test_prometheus_can_read_them() -> None:
    text = generate_latest(registry(everything)).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {one.name for one in METRICS}
    for one in METRICS:
        for sample in families[one.name].samples:
            assert tuple(sorted(sample.labels)) == tuple(sorted(one.labels))


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("pgkeep_backups", ("shop", "full"), 2),
        ("pgkeep_backup_age_seconds", ("shop", "full"), 6 * 3600),
        ("pgkeep_backup_sent_bytes", ("shop", "full"), 30),
        ("pgkeep_copy_behind", ("shop", "far"), 1),
        ("pgkeep_copy_behind", ("shop", "local"), 0),
        ("pgkeep_loss_window_seconds", ("shop",), 3),
        ("pgkeep_loss_promised_seconds", ("shop",), 300),
        ("pgkeep_capture_running", ("shop",), 0),
        ("pgkeep_drill_passed", ("shop",), 0),
        ("pgkeep_job_failures", ("full-shop", "shop"), 3),
        ("pgkeep_job_duration_seconds", ("full-shop", "shop"), 9),
        ("pgkeep_alerts", ("shop", "warning"), 1),
        ("pgkeep_alerts", ("crm", "critical"), 0),
        ("pgkeep_blind", ("crm",), 1),
    ],
)
def test_metrics_say_what_is_known(name: str, labels: tuple[str, ...], expected: float) -> None:
    assert value(name, *labels) == expected


def test_without_capture_the_age_of_the_newest_backup_is_what_would_be_lost() -> None:
    snapshot = everything()
    facts = replace(snapshot.seen.databases["shop"], loss_window=None, slot=None)
    bare = replace(snapshot, seen=Seen({"shop": facts}))
    assert value("pgkeep_loss_window_seconds", "shop", snapshot=bare) == 6 * 3600
    assert value("pgkeep_loss_promised_seconds", "shop", snapshot=bare) == 24 * 3600
    assert value("pgkeep_slot_wal_bytes", "shop", snapshot=bare) is None


def test_a_keeper_that_knows_nothing_yet_answers() -> None:
    nothing = Snapshot(now=NOW, state=KeeperState(NOW))
    assert b"pgkeep_info" in generate_latest(registry(lambda: nothing))


# --- deploy/ --------------------------------------------------------------------------------

KNOWN = {one.name: set(one.labels) for one in METRICS}


def expressions() -> dict[str, str]:
    """What Grafana and Prometheus are told to ask, by where it stands."""
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    rules = yaml.safe_load((DEPLOY / "prometheus-rules.yml").read_text())
    found = {
        f"panel {panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    found |= {one["name"]: one.get("query", "") for one in dashboard["templating"]["list"]}
    return found | {
        f"alert {rule['alert']}": rule["expr"]
        for group in rules["groups"]
        for rule in group["rules"]
    }


@pytest.mark.parametrize("where", expressions())
def test_dashboard_and_rules_name_only_what_is_emitted(where: str) -> None:
    text = expressions()[where]
    named = set(re.findall(r"\bpgkeep_\w+", text))
    assert named <= KNOWN.keys()
    assert named or where == "datasource"
    for name, selector in re.findall(r"(pgkeep_\w+)\{([^}]*)\}", text):
        assert set(re.findall(r"(\w+)=", selector)) <= KNOWN[name]
    for pair in ("()", "{}", "[]"):
        assert text.count(pair[0]) == text.count(pair[1])


def test_rules_are_whole_and_say_what_to_do() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus-rules.yml").read_text())
    (group,) = rules["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(names) == len(set(names)) >= 10
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        text = " ".join(rule["annotations"].values())
        labels = set().union(*(KNOWN[one] for one in re.findall(r"pgkeep_\w+", rule["expr"])))
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels


def test_no_two_panels_of_the_dashboard_share_a_place() -> None:
    panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
