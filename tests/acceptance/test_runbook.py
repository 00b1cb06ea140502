"""The runbook is followed to the letter, on a machine that knows nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from comparison import assert_same, load_statements, take_picture
from conftest import Workbench
from failures import SMALL_SHOP

BLOCK = re.compile(r"```(sh[^\n]*)\n(.*?)```", re.DOTALL)


@pytest.fixture
def shop(workbench: Workbench, new_database: Callable[[], str]) -> str:
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    workbench.pgkeep("backup", "shop")
    return url


def page(workbench: Workbench) -> dict[str, list[str]]:
    """The blocks of the page by their labels."""
    path = workbench.folder / "runbook.md"
    workbench.pgkeep("runbook", "shop", "-o", str(path))
    blocks: dict[str, list[str]] = {}
    for label, text in BLOCK.findall(path.read_text()):
        blocks.setdefault(label, []).append(text)
    return blocks


def follow(script: str, folder: Path, settings: dict[str, str]) -> str:
    """Run blocks with the values that a person would put in, in an empty environment."""
    for name, value in settings.items():
        script, found = re.subn(rf'export {name}="[^"]*"', f'export {name}="{value}"', script)
        assert found == 1, name
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env={"HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.parametrize("procedure", ["whole", "schema then data"])
def test_a_stranger_follows_the_page(
    workbench: Workbench,
    shop: str,
    new_database: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
    procedure: str,
) -> None:
    blocks = page(workbench)
    (settings,), (look, whole) = blocks["sh set"], blocks["sh"]
    steps = whole if procedure == "whole" else blocks["sh schema-then-data"][0]
    target = new_database()
    shown = follow(
        settings + look + steps,
        tmp_path_factory.mktemp("empty-machine"),
        {"PGKEEP_IDENTITY": str(workbench.identity), "TARGET_URL": target},
    )
    assert "proven" in shown
    assert_same(take_picture(shop), take_picture(target))


def test_rows_come_back_beside_the_live_ones(
    workbench: Workbench, shop: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with workbench.config.open("a") as config:
        config.write("\n[databases.shop.objectives]\nfull_rto_minutes = 30\n")
    text = workbench.config.read_text()
    text = text.replace("[databases.shop]\n", '[databases.shop]\ncritical_tables = ["orders"]\n')
    workbench.config.write_text(text)
    blocks = page(workbench)
    load_statements(shop, ("DELETE FROM orders WHERE id <= 10",))
    script = blocks["sh set"][0] + blocks["sh rows"][0].replace(
        "put-back.sql\n", "put-back.sql || true\n"
    )
    folder = tmp_path_factory.mktemp("empty-machine")
    shown = follow(script, folder, {"PGKEEP_IDENTITY": str(workbench.identity), "TARGET_URL": shop})
    assert "10 rows" in shown, shown
    load_statements(shop, ((folder / "put-back.sql").read_text(),))
    assert "the same rows" in workbench.pgkeep("diff", "--target", shop, "--table", "orders").out


def test_the_page_holds_no_secret_and_says_where_they_are(workbench: Workbench, shop: str) -> None:
    with workbench.config.open("a") as config:
        config.write(
            '\n[repositories.far]\nurl = "s3://bucket/x"\nendpoint = "http://127.0.0.1:1"\n'
            'access_key_id = "AKIDEXAMPLE"\nsecret_access_key = { env = "FAR_SECRET" }\n'
        )
    workbench.monkeypatch.setenv("FAR_SECRET", "verysecret")
    text = workbench.pgkeep("runbook", "shop", expect=None).out
    password = re.search(r"://[^:]+:([^@]+)@", shop)
    assert password
    assert password[1] not in text
    assert "verysecret" not in text
    assert "AKIDEXAMPLE" not in text


def test_html_is_a_page(workbench: Workbench, shop: str) -> None:
    path = workbench.folder / "runbook.html"
    workbench.pgkeep("runbook", "shop", "-o", str(path))
    text = path.read_text()
    assert text.startswith("<!doctype html>")
    assert "<h1>How to get <code>shop</code> back</h1>" in text
