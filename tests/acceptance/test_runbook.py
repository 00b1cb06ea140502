"""The runbook is followed to the letter, on a machine that knows nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

import pytest

from comparison import assert_same, load_statements, take_picture
from conftest import Workbench
from failures import SMALL_SHOP
from journals import captured
from object_servers import ACCESS_KEY, SECRET_KEY, S3Server

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


def _without_postgresql(folder: Path) -> str:
    """A PATH that has what every machine has, and nothing of PostgreSQL or pgkeep."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("sh", "env", "rm", "mkdir", "cat"):
        with suppress(FileExistsError):
            (programs / name).symlink_to(shutil.which(name) or name)
    return str(programs)


def follow(script: str, folder: Path, settings: dict[str, str], *, expect: int = 0) -> str:
    """Run blocks with the values that a person would put in, in an empty environment."""
    for name, value in settings.items():
        old = re.findall(rf'export {name}="[^"]*"', script)
        assert len(old) == 1, name
        script = script.replace(old[0], f'export {name}="{value}"')
    source = folder / "pgkeep"
    source.mkdir(exist_ok=True)
    (source / ".venv").unlink(missing_ok=True)
    (source / ".venv").symlink_to(sys.prefix)
    done = subprocess.run(
        [shutil.which("bash") or "bash", "-euc", script],
        cwd=folder,
        env={"HOME": str(folder), "PATH": _without_postgresql(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expect, done
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


@pytest.fixture
def odd_shop(workbench: Workbench, new_database: Callable[[], str]) -> str:
    """A database whose names, checks and repository need every kind of quoting."""
    url = new_database()
    load_statements(
        url,
        (f"CREATE TABLE {ODD} (id int PRIMARY KEY, note text)",
         f"INSERT INTO {ODD} SELECT g, 'n' || g FROM generate_series(1, 100) g"),
    )  # fmt: skip
    workbench.init(url)
    text = workbench.config.read_text()
    text = text.replace("[databases.shop]\n", f"[databases.shop]\ncritical_tables = ['{ODD}']\n")
    text = text.replace(workbench.repository.as_uri(), odd_repository(workbench).as_uri())
    workbench.config.write_text(
        text + CHECKS + '\n[databases.shop.recovery]\nstop = [["echo", "stop it\'s $HOME"]]\n'
        'start = [["true"]]\n'
    )
    workbench.pgkeep("backup", "shop")
    return url


ODD = 'public."Order Items `$x` €, no. 1"'
CHECKS = """
[[databases.shop.checks]]
name = "all <b>is</b> *well* | <script>alert(1)</script>"
sql = \"\"\"
SELECT '```' AS fence,
       1 < 2
\"\"\"
"""


def odd_repository(workbench: Workbench) -> Path:
    return workbench.folder / "a $HOME `disk`"


@pytest.mark.parametrize("odd", [False, True], ids=["plain", "odd"])
def test_rows_come_back_beside_the_live_ones(
    workbench: Workbench,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    odd: bool,
) -> None:
    live = str(request.getfixturevalue("odd_shop" if odd else "shop"))
    table = ODD if odd else "public.orders"
    wanted = take_picture(live)
    blocks = page(workbench)
    load_statements(live, (f"DELETE FROM {table} WHERE id <= 10",))
    folder = tmp_path_factory.mktemp("empty-machine")
    values = {"PGKEEP_IDENTITY": str(workbench.identity), "LIVE_URL": live}
    values |= {} if odd else {"LIVE_TABLE": table}
    (settings,), (more,) = blocks["sh set"], blocks["sh set-rows"]
    follow(settings + more + blocks["sh rows"][0], folder, values)
    shown = follow(settings + more + blocks["sh diff"][0], folder, values, expect=3)
    assert "10 rows" in shown, shown
    follow(settings + more + blocks["sh put-back"][0], folder, values)
    follow(settings + more + blocks["sh diff"][0], folder, values)
    load_statements(live, ("DROP SCHEMA recovered CASCADE",))
    assert_same(wanted, take_picture(live))


def test_odd_names_do_not_lead_a_stranger_astray(
    workbench: Workbench,
    odd_shop: str,
    new_database: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    blocks = page(workbench)
    (settings,), (look, whole) = blocks["sh set"], blocks["sh"]
    target = new_database()
    values = {"PGKEEP_IDENTITY": str(workbench.identity), "TARGET_URL": target}
    folder = tmp_path_factory.mktemp("empty-machine")
    assert "proven" in follow(settings + look + whole, folder, values)
    assert_same(take_picture(odd_shop), take_picture(target))
    assert follow(blocks["sh stop"][0], folder, {}) == "stop it's $HOME\n"


def test_the_moment_of_the_page_can_be_reached(
    workbench: Workbench,
    shop: str,
    new_database: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with captured(workbench, shop, "pgkeep_shop") as journal:
        workbench.pgkeep("backup", "shop")
        time.sleep(2)  # names of segments have whole seconds
        load_statements(shop, ("UPDATE users SET name = 'right' WHERE id = 1",))
        journal.cut()
        blocks = page(workbench)
        (settings,), (moment,) = blocks["sh set"], blocks["sh moment"]
        values = {"PGKEEP_IDENTITY": str(workbench.identity), "TARGET_URL": new_database()}
        folder = tmp_path_factory.mktemp("empty-machine")
        # Tables without a primary key are not exact: code 3.
        assert "replayed" in follow(settings + moment, folder, values, expect=3)


def test_a_stranger_follows_the_page_to_a_bucket(
    workbench: Workbench,
    new_database: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
    moto: S3Server,
) -> None:
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    bucket = moto.new_bucket()
    text = workbench.config.read_text().replace(
        f'url = "{workbench.repository.as_uri()}"',
        f'url = "s3://{bucket}/some/folder"\nendpoint = "{moto.endpoint}"\nregion = "us-east-1"\n'
        'access_key_id = { env = "THE_KEY" }\nsecret_access_key = { env = "THE_SECRET" }',
    )
    workbench.config.write_text(text)
    workbench.monkeypatch.setenv("THE_KEY", ACCESS_KEY)
    workbench.monkeypatch.setenv("THE_SECRET", SECRET_KEY)
    workbench.pgkeep("backup", "shop")
    blocks = page(workbench)
    (settings,), (look, whole) = blocks["sh set"], blocks["sh"]
    target = new_database()
    values = {
        "PGKEEP_IDENTITY": str(workbench.identity),
        "TARGET_URL": target,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    folder = tmp_path_factory.mktemp("empty-machine")
    assert "proven" in follow(settings + look + whole, folder, values)
    assert_same(take_picture(url), take_picture(target))


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
    workbench.pgkeep("drill", "shop")
    workbench.pgkeep("runbook", "shop", "-o", str(path))
    text = path.read_text()
    assert text.startswith("<!doctype html>")
    assert "<h1>How to get <code>shop</code> back</h1>" in text
    assert "<td>whole database back</td>" in text
    assert "| what |" not in text


class Tags(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "br", "hr", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_users_have_written_is_text_in_the_page(workbench: Workbench, odd_shop: str) -> None:
    path = workbench.folder / "runbook.html"
    workbench.pgkeep("runbook", "shop", "-o", str(path))
    tags = Tags()
    tags.feed(path.read_text())
    assert tags.open == []
    assert not tags.seen & {"script", "b", "em"}
    assert "all <b>is</b> *well* | <script>alert(1)</script>:" in tags.text
    assert "SELECT '```' AS fence,\n       1 < 2\n" in tags.text
    assert "take version 17 or a newer one" in tags.text
