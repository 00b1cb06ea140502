"""Drills: a backup is restored where it harms nobody, compared, asked, and the evidence kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from comparison import load_statements
from conftest import Workbench
from failures import SMALL_SHOP, backups
from pgkeep.cli.context import Context
from pgkeep.cli.main import run
from pgkeep.postgres.server import ScratchServer


@pytest.fixture
def shop(workbench: Workbench, new_database: Callable[[], str]) -> str:
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    workbench.pgkeep("backup", "shop")
    return url


def drill(workbench: Workbench, *options: str, expect: int = 0) -> dict[str, Any]:
    document = workbench.pgkeep("drill", "shop", "--json", *options, expect=expect).document
    assert isinstance(document, dict)
    return document


def configure(workbench: Workbench, text: str) -> None:
    with workbench.config.open("a") as config:
        config.write(text)


def databases(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


@pytest.fixture
def other_server(
    workbench: Workbench, servers: Callable[[int], ScratchServer]
) -> Iterator[ScratchServer]:
    """A server of version 18, configured as the one where drills are made."""
    server = servers(18)
    before = databases(server.url())
    workbench.monkeypatch.setenv("DRILL_URL", server.url())
    yield server
    assert databases(server.url()) == before, "a drill left a database behind"


def test_a_drill_passes_and_leaves_signed_evidence_and_nothing_else(
    workbench: Workbench, shop: str
) -> None:
    document = drill(workbench)
    assert document["outcome"] == "passed"
    assert document["rows"] > 0
    assert document["server"].endswith("scratch")
    assert {step["name"] for step in document["steps"]} >= {"starting", "restoring", "proving"}
    assert (workbench.repository / document["evidence"]).exists()
    (status,) = json.loads(workbench.pgkeep("status", "--json").out)
    assert status["drills"][0]["backup"] == document["backup"]
    met = {one["name"]: one["met"] for one in status["objectives"]}
    assert met["whole database back"] is True


def test_forged_evidence_counts_for_nothing(workbench: Workbench, shop: str) -> None:
    path = workbench.repository / drill(workbench)["evidence"]
    path.write_bytes(path.read_bytes().replace(b'"rows":', b'"rows":1'))
    (status,) = json.loads(workbench.pgkeep("status", "--json").out)
    assert status["drills"] == []


@pytest.mark.parametrize(
    ("check", "found"),
    [
        ('sql = "SELECT 1 FROM users WHERE false"', "no rows"),
        ('sql = "SELECT 7"\nexpect = "no rows"', "a row: 7"),
        ('sql = "SELECT count(*) FROM users"\nminimum = 1000000', "not a value at least 1e+06"),
        ('sql = "SELECT 5"\nmaximum = 4', "5, not a value at most 4"),
        ("sql = \"SELECT 'x'\"\nminimum = 1", "no number"),
        ('sql = "SELECT * FROM nothing_like_it"', "it failed: relation"),
        ('sql = "DELETE FROM users"', "it failed: cannot execute DELETE"),
    ],
)
def test_a_check_that_fails_is_told(
    workbench: Workbench, shop: str, check: str, found: str
) -> None:
    configure(workbench, f'\n[[databases.shop.checks]]\nname = "mine"\n{check}\n')
    outcome = workbench.pgkeep("drill", "shop", expect=1)
    assert "check 'mine'" in outcome.err
    assert found in outcome.err


def test_checks_that_hold_pass(workbench: Workbench, shop: str) -> None:
    configure(
        workbench,
        """
[[databases.shop.checks]]
name = "users"
sql = "SELECT count(*) FROM users"
minimum = 1
[[databases.shop.checks]]
name = "orphans"
sql = "SELECT 1 WHERE false"
expect = "no rows"
""",
    )
    document = drill(workbench)
    assert [one["passed"] for one in document["checks"][:2]] == [True, True]


def test_damage_fails_the_drill_and_the_evidence_says_so(workbench: Workbench, shop: str) -> None:
    objects = (path for path in workbench.repository.glob("objects/*/*"))
    path = max(objects, key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    document = workbench.pgkeep("drill", "shop", "--json", expect=1)
    assert "[E043]" in document.err
    (status,) = json.loads(workbench.pgkeep("status", "--json", expect=3).out)
    assert status["drills"][0]["outcome"] == "failed"


def test_what_needs_a_missing_extension_is_not_proven_and_all_the_rest_is(
    workbench: Workbench, new_database: Callable[[], str], other_server: ScratchServer
) -> None:
    url = new_database()
    load_statements(
        url,
        (
            "CREATE EXTENSION pgcrypto",
            "CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain VALUES (1), (2)",
            "CREATE TABLE hashed (id int PRIMARY KEY,"
            " h bytea GENERATED ALWAYS AS (digest('a', 'md5')) STORED)",
            "INSERT INTO hashed (id) VALUES (1)",
            "CREATE VIEW seen AS SELECT * FROM hashed",
            "CREATE MATERIALIZED VIEW kept AS SELECT * FROM hashed",
        ),
    )
    workbench.init(url)
    configure(workbench, '\n[drills]\nserver = { env = "DRILL_URL" }\n')
    workbench.pgkeep("backup", "shop")
    document = drill(workbench, expect=3)
    assert document["outcome"] == "partial"
    assert (document["rows"], document["tables"]) == (2, 1)
    missing = {one["what"] for one in document["not_covered"]}
    assert {"extension pgcrypto", "table public.hashed", "view public.seen"} <= missing
    assert "materialized view public.kept" in missing


def test_any_backup_can_be_drilled(workbench: Workbench, shop: str) -> None:
    load_statements(shop, ("CREATE TABLE more AS SELECT 1 AS x",))
    workbench.pgkeep("backup", "shop")
    new, old = backups(workbench)
    assert drill(workbench, "--backup", old)["backup"] == old
    assert drill(workbench, "--random")["backup"] in (old, new)


def test_the_newest_proven_backup_is_never_pruned(workbench: Workbench, shop: str) -> None:
    proven = drill(workbench)["backup"]
    for number in range(3):
        load_statements(shop, (f"CREATE TABLE t{number} AS SELECT 1 AS x",))
        workbench.pgkeep("backup", "shop")
    configure(workbench, "\n[retention]\nmanual_days = 0.000001\nminimum = 1\n")
    workbench.monkeypatch.setattr(
        Context, "now", staticmethod(lambda: datetime.now(UTC) + timedelta(days=2))
    )
    shown = workbench.pgkeep("prune", "--dry-run").out
    line = next(line for line in shown.splitlines() if proven in line)
    assert "the newest that a drill has proven" in line
    assert shown.count("to go") == 2


def test_a_drill_needs_no_configuration(
    workbench: Workbench, shop: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    workbench.monkeypatch.chdir(elsewhere)
    workbench.monkeypatch.setenv("XDG_STATE_HOME", str(elsewhere))
    workbench.monkeypatch.setenv("XDG_CONFIG_HOME", str(elsewhere))
    url = Path(workbench.repository).as_uri()
    key = str(workbench.identity)
    assert run(["drill", "shop", "--repository", url, "--identity", key, "--json"]) == 0


def test_critical_tables_come_back_first_and_their_time_is_measured(
    workbench: Workbench, shop: str
) -> None:
    text = workbench.config.read_text()
    text = text.replace("[databases.shop]\n", '[databases.shop]\ncritical_tables = ["orders"]\n')
    workbench.config.write_text(text)
    steps = [step["name"] for step in drill(workbench)["steps"]]
    assert steps.index("critical") < steps.index("restoring")
    (status,) = json.loads(workbench.pgkeep("status", "--json").out)
    met = {one["name"]: one["met"] for one in status["objectives"]}
    assert met["critical tables back"] is True
