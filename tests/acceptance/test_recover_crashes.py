"""A recovery that is killed at any moment goes on when the same command is run again."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from comparison import assert_same, load_statements, take_picture
from conftest import Workbench
from failures import configure, finished, start
from journals import captured
from pgkeep.postgres.server import ScratchServer
from recoveries import ACCIDENT, databases, diary, recover, shop

__all__ = ["shop"]

# Dies when the n-th durable note of the recovery is written, before or after; or in a step.
DIE = """
import os, signal, sys
from pgkeep.cli.main import main
import {module} as module
real = module.{name}
def dying(*arguments, **options):
    global left
    left -= 1
    if not left and not {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    answer = real(*arguments, **options)
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
left = {call}
module.{name} = dying
main()
"""


def killed(
    workbench: Workbench, module: str, name: str, call: int, *options: str, after: bool = False
) -> bool:
    """Whether the recovery was killed at the n-th call."""
    code = DIE.format(module=module, name=name, call=call, after=after)
    done = finished(start(workbench, "recover", "shop", "--yes", *options, code=code), seconds=300)
    assert done.code in (-signal.SIGKILL, 0), done
    return done.code == -signal.SIGKILL


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", range(1, 8))
def test_killed_around_any_note_it_goes_on(
    workbench: Workbench, shop: str, server: ScratchServer, call: int, after: bool
) -> None:
    wanted = take_picture(shop)
    load_statements(shop, ACCIDENT)
    # The notes: begun, stopped, kept, made, proven, restored, started.
    assert killed(
        workbench, "pgkeep.recovery.recover", "write_private", call, "--in-place", after=after
    )
    recover(workbench, "--in-place")
    assert_same(wanted, take_picture(shop))
    with psycopg.connect(server.url()) as connection:
        rows = connection.execute(
            "SELECT datname, datallowconn, shobj_description(oid, 'pg_database')"
            " FROM pg_database WHERE datname LIKE 'recover_me%' ORDER BY 1"
        ).fetchall()
    assert [(allowed, mark) for _, allowed, mark in rows] == [(True, None)] * len(rows)
    assert diary(workbench)[-1] == "start"
    assert set(diary(workbench)) == {"stop", "start"}
    assert len(rows) == 2, "the old database is kept once, and only once"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pgkeep.recovery.whole_databases", "_cut_off"),
        ("pgkeep.recovery.whole_databases", "_let_in"),
        ("pgkeep.recovery.whole_databases", "create_database"),
        ("pgkeep.recovery.restore", "fill"),
        ("pgkeep.recovery.restore", "dump_schema"),
        ("pgkeep.cli.recovering", "raise_unless_proven"),
        ("pgkeep.cli.recovering", "keep_evidence"),
    ],
)
def test_killed_within_a_step_it_goes_on(
    workbench: Workbench, shop: str, server: ScratchServer, module: str, name: str
) -> None:
    wanted = take_picture(shop)
    load_statements(shop, ACCIDENT)
    assert killed(workbench, module, name, 1, "--in-place")
    recover(workbench, "--in-place")
    assert_same(wanted, take_picture(shop))
    (old,) = (name for name in databases(server) if name.startswith("recover_me_before"))
    with psycopg.connect(server.url(old)) as connection:  # somebody may look into it
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)


@pytest.fixture
def elsewhere(server: ScratchServer, shop: str) -> Iterator[str]:
    """An empty database of somebody's, to recover into."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE recover_owner LOGIN PASSWORD 'x'")
        connection.execute("CREATE DATABASE recover_me_elsewhere OWNER recover_owner")
    yield server.url("recover_me_elsewhere")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS recover_me_elsewhere WITH (FORCE)")
        connection.execute("DROP ROLE recover_owner")


@pytest.mark.parametrize(
    ("module", "name"),
    [("pgkeep.recovery.restore", "fill"), ("pgkeep.recovery.restore", "dump_schema"),
     ("pgkeep.cli.recovering", "raise_unless_proven")],
)  # fmt: skip
def test_killed_while_it_fills_a_database_that_was_there_it_goes_on(
    workbench: Workbench, shop: str, elsewhere: str, module: str, name: str
) -> None:
    assert killed(workbench, module, name, 1, "--target", elsewhere)
    recover(workbench, "--target", elsewhere)
    assert_same(take_picture(shop), take_picture(elsewhere))
    with psycopg.connect(elsewhere) as connection:
        owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
        assert connection.execute(owner).fetchone() == ("recover_owner",)


def test_what_another_restore_has_left_in_the_target_is_not_dropped(
    workbench: Workbench, shop: str, elsewhere: str
) -> None:
    load_statements(
        elsewhere,
        ("CREATE TABLE precious AS SELECT 1 AS x",
         "COMMENT ON DATABASE recover_me_elsewhere IS 'pgkeep: incomplete: restore of another'"),
    )  # fmt: skip
    for _ in range(2):
        failed = workbench.pgkeep("recover", "shop", "--yes", "--target", elsewhere, expect=1)
        assert "[E041]" in failed.err
    with psycopg.connect(elsewhere) as connection:
        assert connection.execute("SELECT x FROM precious").fetchone() == (1,)


def test_what_was_found_before_a_crash_is_in_the_evidence(
    workbench: Workbench, shop: str, server: ScratchServer
) -> None:
    configure(
        workbench, "[[databases.shop.checks]]", 'name = "users"', 'sql = "SELECT 1 FROM users"'
    )
    with captured(workbench, shop, "pgkeep_shop") as journal:
        workbench.pgkeep("backup", "shop")
        load_statements(shop, ("UPDATE users SET name = 'right' WHERE id = 1",))
        with psycopg.connect(shop) as connection:
            row = connection.execute("SELECT clock_timestamp()::text").fetchone()
        assert row is not None
        journal.cut()
        options = ("--in-place", "--to", row[0])
        assert killed(workbench, "pgkeep.cli.recovering", "keep_evidence", 1, *options)
        other = workbench.pgkeep("recover", "shop", "--yes", *options[:2], "0/1", expect=2)
        assert "the recovery that was begun is to" in other.err
        document = recover(workbench, *options, expect=3)
    assert "table public.notes" in document["not_exact"]
    head = json.loads((workbench.repository / document["evidence"]).read_bytes().split(b"\n", 2)[1])
    assert (head["outcome"], head["checks"]) == ("partial", 1)
    assert head["rows"] >= 9500


def test_to_the_end_of_the_journal_also_after_a_crash(
    workbench: Workbench, shop: str, server: ScratchServer
) -> None:
    with captured(workbench, shop, "pgkeep_shop") as journal:
        workbench.pgkeep("backup", "shop")
        load_statements(shop, ("UPDATE users SET name = 'last' WHERE id = 1",))
        wanted = take_picture(shop)
        journal.cut()
        options = ("--in-place", "--to-last-reachable")
        shown = workbench.pgkeep("recover", "shop", *options, "--dry-run").out
        assert "recover shop to the end of the journal, from backup" in shown
        refused = workbench.pgkeep("recover", "shop", *options, "--to", "0/1", expect=2)
        assert "--to and --to-last-reachable" in refused.err
        assert killed(workbench, "pgkeep.recovery.restore", "_settle", 1, *options)
        document = recover(workbench, "--in-place", expect=3)
    assert document["moment"] == "the end of the journal"
    assert take_picture(shop).rows == wanted.rows


def test_to_just_before_a_transaction_also_after_a_crash(
    workbench: Workbench, shop: str, server: ScratchServer
) -> None:
    with captured(workbench, shop, "pgkeep_shop") as journal:
        workbench.pgkeep("backup", "shop")
        load_statements(shop, ("UPDATE users SET name = 'right' WHERE id = 1",))
        wanted = take_picture(shop)
        with psycopg.connect(shop) as connection:
            row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
            connection.execute("UPDATE users SET name = 'wrong'")
        assert row is not None
        journal.cut()
        options = ("--in-place", "--before-transaction", row[0])
        refused = workbench.pgkeep("recover", "shop", *options, "--to", "0/1", expect=2)
        assert "--before-transaction and --to" in refused.err
        assert killed(workbench, "pgkeep.recovery.restore", "_settle", 1, *options)
        document = recover(workbench, *options, expect=3)
    assert document["moment"] == f"just before transaction {row[0]}"
    assert take_picture(shop).rows == wanted.rows


def test_another_plan_does_not_go_on_with_what_was_begun(
    workbench: Workbench, shop: str, elsewhere: str
) -> None:
    text = workbench.config.read_text()
    workbench.config.write_text(re.sub(r"start = \[\[.*?\]\]", 'start = [["false"]]', text))
    workbench.pgkeep("recover", "shop", "--yes", "--in-place", expect=1)
    failed = workbench.pgkeep("recover", "shop", "--yes", "--target", elsewhere, expect=2)
    assert "the recovery that was begun is into" in failed.err
    failed = workbench.pgkeep("recover", "shop", "--yes", "--in-place", "--forget-old", expect=2)
    assert "to be kept so: rename, not forget" in failed.err
    note = workbench.state / "recoveries" / "shop.json"
    before = note.read_bytes()
    workbench.pgkeep("recover", "shop", "--in-place", "--restart", "--dry-run")
    assert note.read_bytes() == before, "a dry run touches nothing"
    workbench.config.write_text(text)
    recover(workbench, "--target", elsewhere, "--restart")
    assert not note.exists()


def test_in_place_the_old_database_may_be_backed_up_too(
    workbench: Workbench, shop: str, server: ScratchServer
) -> None:
    load_statements(shop, ("DELETE FROM orders",))
    shown = workbench.pgkeep("recover", "shop", "--in-place", "--back-up-old", "--dry-run").out
    assert "a last backup of" in shown
    document = recover(workbench, "--in-place", "--back-up-old")
    newest, _ = json.loads(workbench.pgkeep("list", "--json").out)
    assert newest["backup"] != document["backup"]
    assert newest["rows"] == 3500
    assert document["old_database"] in databases(server)


def test_where_the_old_database_was_need_not_be_known(
    workbench: Workbench, shop: str, elsewhere: str
) -> None:
    wanted = take_picture(shop)
    workbench.monkeypatch.delenv("SHOP_DATABASE_URL")
    recover(workbench, "--target", elsewhere)
    assert_same(wanted, take_picture(elsewhere))


def hooks(workbench: Workbench, **commands: list[str]) -> None:
    text = workbench.config.read_text()
    for name, command in commands.items():
        value = json.dumps([command])
        (old,) = re.findall(rf"{name} = \[\[.*?\]\]", text)
        text = text.replace(old, f"{name} = {value}")
    workbench.config.write_text(text)


def test_what_a_hook_leaves_running_is_not_waited_for(workbench: Workbench, shop: str) -> None:
    pid = workbench.folder / "pid"
    hooks(workbench, start=["sh", "-c", f"sleep 3600 & echo $! > {pid}"])
    try:
        recover(workbench, "--in-place")
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_hook_that_hangs_is_ended_with_all_that_it_has_started(
    workbench: Workbench, shop: str
) -> None:
    pid = workbench.folder / "pid"
    hooks(workbench, stop=["sh", "-c", f"sleep 3600 & echo $! > {pid}; wait"])
    text = workbench.config.read_text()
    workbench.config.write_text(text.replace("recovery = { ", "recovery = { hook_seconds = 3, "))
    failed = workbench.pgkeep("recover", "shop", "--yes", "--in-place", expect=1)
    assert "was not done after 3 s" in failed.err
    state = Path("/proc", pid.read_text().strip(), "stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_hook_that_asks_gets_no_answer_and_does_not_hang(workbench: Workbench, shop: str) -> None:
    hooks(workbench, stop=[sys.executable, "-c", "input('password: ')"])
    failed = workbench.pgkeep("recover", "shop", "--yes", "--in-place", expect=1)
    assert "EOFError" in failed.err


def test_secrets_that_a_hook_prints_are_not_repeated(workbench: Workbench, shop: str) -> None:
    workbench.monkeypatch.setenv("DEPLOY_TOKEN", "tok-0123456789")
    password = re.search(r"://[^:]+:([^@]+)@", shop)
    assert password
    said = f"no: {password[1]} tok-0123456789 postgresql://u:hunter22@h/d password=sesame99"
    script = workbench.folder / "stop"
    script.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 3\n")
    script.chmod(0o700)
    hooks(workbench, stop=[str(script)])
    failed = workbench.pgkeep("recover", "shop", "--yes", "--in-place", expect=1)
    assert "ended with 3: no: *** ***" in failed.err
    for secret in (password[1], "tok-0123456789", "hunter22", "sesame99"):
        assert secret not in failed.err


def test_secrets_in_the_words_of_a_hook_are_not_repeated(workbench: Workbench, shop: str) -> None:
    script = (
        "PGPASSWORD=sesame99 false || curl -H 'Authorization: Bearer abc.def' -H \"apikey: k-1\""
    )
    hooks(workbench, stop=["sh", "-c", f"{script}; exit 3"])
    plan = workbench.pgkeep("recover", "shop", "--dry-run", "--in-place").out
    failed = workbench.pgkeep("recover", "shop", "--yes", "--in-place", expect=1).err
    page = workbench.pgkeep("runbook", "shop", expect=None).out
    for text in (plan, failed, page):
        assert "curl -H" in text
        for secret in ("sesame99", "abc.def", "k-1"):
            assert secret not in text


def test_a_long_name_is_put_aside_whole(
    workbench: Workbench, shop: str, server: ScratchServer, new_database: Callable[[], str]
) -> None:
    name = "recover_me_" + "ü" * 26  # 63 bytes
    server.create_database(name)
    load_statements(server.url(name), ("CREATE TABLE t AS SELECT 1 AS x",))
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", server.url(name))
    workbench.pgkeep("backup", "shop")
    document = recover(workbench, "--in-place")
    assert document["old_database"] in databases(server)


def test_an_old_database_that_cannot_be_renamed_can_be_connected_to(
    workbench: Workbench, shop: str, server: ScratchServer
) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE recover_dba LOGIN PASSWORD 'x' CREATEDB")
        connection.execute("ALTER DATABASE recover_me OWNER TO recover_dba")
    poor = re.sub(r"://[^@]+@", "://recover_dba:x@", shop)
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", poor)
    superuser = psycopg.connect(shop)  # whom this role may not cut off
    try:
        failed = workbench.pgkeep("recover", "shop", "--yes", "--in-place", expect=1)
        assert "error: [E" in failed.err
        with psycopg.connect(poor) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        superuser.close()
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("ALTER DATABASE recover_me OWNER TO postgres")
            connection.execute("DROP ROLE recover_dba")
