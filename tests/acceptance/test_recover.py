"""The whole disaster procedure, step by step, and gone on with after a failure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import psycopg

from comparison import assert_same, load_statements, take_picture
from conftest import Workbench
from journals import captured
from pgkeep.postgres.server import ScratchServer
from recoveries import ACCIDENT, databases, diary, recover, shop

__all__ = ["shop"]


def test_a_dry_run_shows_every_step_and_touches_nothing(
    workbench: Workbench, shop: str, server: ScratchServer
) -> None:
    before = databases(server)
    shown = workbench.pgkeep("recover", "shop", "--in-place", "--dry-run").out
    steps = re.findall(r"^\d\. ([a-z ]+):", shown, re.MULTILINE)
    assert steps == [
        "stop the application", "keep what is left", "make a new database", "restore and prove",
        "start the application",
    ]  # fmt: skip
    assert "recover_me_before_" in shown
    assert databases(server) == before
    assert diary(workbench) == []


def test_in_place_the_old_database_is_kept_under_another_name(
    workbench: Workbench, shop: str, server: ScratchServer
) -> None:
    wanted = take_picture(shop)
    load_statements(shop, ACCIDENT)
    bystander = psycopg.connect(shop)
    document = recover(workbench, "--in-place")
    bystander.close()
    assert_same(wanted, take_picture(shop))
    old = document["old_database"]
    with psycopg.connect(server.url(old)) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)
    assert diary(workbench) == ["stop", "start"]
    assert document["within_objective"] is True
    assert (workbench.repository / document["evidence"]).exists()
    assert not list((workbench.state / "recoveries").iterdir())


def test_to_a_moment_with_changes_captured(
    workbench: Workbench, shop: str, server: ScratchServer
) -> None:
    with captured(workbench, shop, "pgkeep_shop") as journal:
        workbench.pgkeep("backup", "shop")
        load_statements(shop, ("UPDATE users SET name = 'right' WHERE id = 1",))
        with psycopg.connect(shop) as connection:
            row = connection.execute("SELECT clock_timestamp()::text").fetchone()
        assert row is not None
        wanted = take_picture(shop)
        load_statements(shop, ("DELETE FROM orders",))
        journal.cut()
        target = server.url("recover_me_elsewhere")
        server.create_database("recover_me_elsewhere")
        document = recover(workbench, "--target", target, "--to", row[0], expect=3)
    assert document["not_exact"] == ["table public.notes", "large objects"]
    assert take_picture(target).rows == wanted.rows
    assert diary(workbench) == ["stop", "start"]


def test_the_slot_of_the_old_database_goes_with_it(
    workbench: Workbench, shop: str, server: ScratchServer
) -> None:
    with captured(workbench, shop, "pgkeep_shop") as journal:
        journal.cut()
        workbench.pgkeep("backup", "shop")
        capture_slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'pgkeep_shop'"
        recover(workbench, "--in-place")
        with psycopg.connect(server.url()) as connection:
            assert connection.execute(capture_slots).fetchone() == (0,)


def test_a_step_that_fails_is_gone_on_from(
    workbench: Workbench, shop: str, server: ScratchServer
) -> None:
    wanted = take_picture(shop)
    load_statements(shop, ACCIDENT)
    objects = [path for path in workbench.repository.glob("objects/*/*") if path.is_file()]
    hidden = {path: path.read_bytes() for path in objects}
    for path in objects:
        if path.stat().st_size > 20_000:
            path.unlink()
    failed = workbench.pgkeep("recover", "shop", "--yes", "--in-place", expect=1)
    assert "missing" in failed.err
    note = json.loads((workbench.state / "recoveries" / "shop.json").read_text())
    assert set(note["done"]) == {"stop the application", "keep what is left", "make a new database"}
    for path, data in hidden.items():
        path.write_bytes(data)
    document = recover(workbench, "--in-place")
    assert document["old_database"] == note["old_name"]
    assert_same(wanted, take_picture(shop))
    assert diary(workbench) == ["stop", "start"], "what was done is not done again"


def test_a_hook_that_fails_says_so_and_nothing_is_touched(
    workbench: Workbench, shop: str, server: ScratchServer
) -> None:
    before = databases(server)
    text = workbench.config.read_text()
    workbench.config.write_text(re.sub(r"stop = \[\[.*?\]\]", 'stop = [["false"]]', text))
    failed = workbench.pgkeep("recover", "shop", "--yes", "--in-place", expect=1)
    assert "[E042] the command 'false' ended with 1" in failed.err
    assert databases(server) == before
    missing = re.sub(r"stop = \[\[.*?\]\]", 'stop = [["/no/such/thing"]]', text)
    workbench.config.write_text(missing)
    failed = workbench.pgkeep("recover", "shop", "--yes", "--in-place", expect=1)
    assert "cannot be run" in failed.err


def test_a_check_that_fails_keeps_the_application_stopped(workbench: Workbench, shop: str) -> None:
    with workbench.config.open("a") as config:
        config.write('\n[[databases.shop.checks]]\nname = "many"\n'
                     'sql = "SELECT count(*) FROM users"\nminimum = 1000000\n')  # fmt: skip
    failed = workbench.pgkeep("recover", "shop", "--yes", "--in-place", expect=1)
    assert "check 'many'" in failed.err
    assert diary(workbench) == ["stop"]
    text = workbench.config.read_text()
    workbench.config.write_text(text.replace("minimum = 1000000", "minimum = 1"))
    recover(workbench, "--in-place")
    assert diary(workbench) == ["stop", "start"]


def test_a_database_that_is_gone_altogether_comes_back(
    workbench: Workbench, shop: str, server: ScratchServer
) -> None:
    wanted = take_picture(shop)
    server.drop_database("recover_me")
    recover(workbench, "--in-place", "--forget-old")
    assert_same(wanted, take_picture(shop))


def test_nothing_is_done_unless_somebody_says_so(workbench: Workbench, shop: str) -> None:
    assert "--yes" in workbench.pgkeep("recover", "shop", "--in-place", expect=2).err
    assert "--in-place" in workbench.pgkeep("recover", "shop", "--yes", expect=2).err
    refused = workbench.pgkeep("recover", "shop", "--yes", "--forget-old", expect=2)
    assert "--in-place" in refused.err
    assert diary(workbench) == []


def test_the_target_must_be_empty(
    workbench: Workbench, shop: str, new_database: Callable[[], str]
) -> None:
    """And that is found out before the application is stopped."""
    target = new_database()
    load_statements(target, ("CREATE TABLE precious (a int)",))
    failed = workbench.pgkeep("recover", "shop", "--yes", "--target", target, expect=1)
    assert "[E041]" in failed.err
    assert diary(workbench) == []
    load_statements(target, ("DROP TABLE precious",))
    recover(workbench, "--target", target)
