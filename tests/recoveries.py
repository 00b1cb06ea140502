"""What tests of recoveries share: a shop with hooks that keep a diary, and an accident."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from comparison import load_statements
from conftest import Workbench
from failures import SMALL_SHOP
from pgkeep.postgres.server import ScratchServer

ACCIDENT = ("DROP TABLE orders CASCADE", "DELETE FROM users")


def databases(server: ScratchServer) -> set[str]:
    with psycopg.connect(server.url()) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


@pytest.fixture
def shop(workbench: Workbench, server: ScratchServer) -> Iterator[str]:
    """A shop with a backup and hooks that write down that they were called."""
    server.create_database("recover_me")
    url = server.url("recover_me")
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    text = workbench.config.read_text()
    script = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + '\\n')"
    diary = str(workbench.folder / "diary")
    hooks = {
        name: json.dumps([[sys.executable, "-c", script, diary, name]])
        for name in ("stop", "start")
    }
    text = text.replace(
        "[databases.shop]\n",
        f"[databases.shop]\nrecovery = {{ stop = {hooks['stop']}, start = {hooks['start']} }}\n",
    )
    workbench.config.write_text(text)
    workbench.pgkeep("backup", "shop")
    yield url
    for name in databases(server):
        if name.startswith("recover_me"):
            server.drop_database(name)


def diary(workbench: Workbench) -> list[str]:
    path = workbench.folder / "diary"
    return path.read_text().split() if path.exists() else []


def recover(workbench: Workbench, *options: str, expect: int = 0) -> dict[str, Any]:
    outcome = workbench.pgkeep("recover", "shop", "--yes", "--json", *options, expect=expect)
    document = outcome.document
    assert isinstance(document, dict)
    return document
