"""Only what changed is read, and everything that could change a row's text is a change.

`CAUSES` is the list in docs/incremental.md: each cause, and what happens to a table between two
backups. The table has several parts; a cause that touches rows must have those parts read again, a
cause that touches definitions all of them, and each restored backup is proven and compared.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comparison import assert_same, databases, take_picture
from conftest import Workbench
from pgkeep.backup.plan import Reusable
from pgkeep.backup.read import read_all
from pgkeep.backup.unfinished import StoredPart, UnfinishedBackup
from pgkeep.cli.context import Context, Found
from pgkeep.errors import StoreError, StoreFull
from pgkeep.model import Part, SealedStream
from pgkeep.postgres import dependence
from pgkeep.postgres.programs import choose_server
from pgkeep.postgres.server import ScratchServer
from pgkeep.repository.copies import Copies
from pgkeep.repository.manifests import dump_contents, dump_manifest
from pgkeep.repository.objects import StreamWriter
from pgkeep.sealing import X25519Identity

ROOT = Path(__file__).resolve().parent.parent.parent

TABLE = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE TYPE point3 AS (x int, y int, z int)",
    "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
    "CREATE TABLE t (id int PRIMARY KEY, n int, m mood, p point3, d positive, filler text)",
    "INSERT INTO t SELECT i, i, 'ok', ROW(i, i, i)::point3, i, repeat('x', 200)"
    " FROM generate_series(1, 2000) i",
    "CREATE TABLE other (id int)",
    "INSERT INTO other VALUES (1)",
)
"""`t` has about 70 pages: five parts of 16 pages."""


@dataclass(frozen=True)
class Cause:
    name: str
    change: tuple[str, ...]
    everything: bool = False
    """Whether all of the table is read again, rather than some parts."""
    setup: tuple[str, ...] = ()
    fact: str = ""
    """The facts of the key (by `+`) that catch it: without them, nothing would be read."""
    nothing: bool = False
    """Whether the rows stay as they were, so that nothing has to be read."""


CAUSES = (
    Cause("update", ("UPDATE t SET n = -1 WHERE id = 1000",)),
    Cause("update to the same value", ("UPDATE t SET n = n WHERE id = 1000",)),
    Cause("delete", ("DELETE FROM t WHERE id = 1000",)),
    Cause("insert", ("INSERT INTO t (id) VALUES (5000)",)),
    Cause(
        "delete and insert of the same values",
        (
            "WITH gone AS (DELETE FROM t WHERE id = 1000 RETURNING *) INSERT INTO other"
            " SELECT id FROM gone",
            "INSERT INTO t SELECT 1000, 1000, 'ok', ROW(1000, 1000, 1000)::point3, 1000,"
            " repeat('x', 200)",
        ),
    ),
    Cause("rollback", ("BEGIN; UPDATE t SET n = 0; ROLLBACK",), nothing=True),
    Cause(
        "savepoint rolled back",
        (
            "BEGIN; SAVEPOINT a; UPDATE t SET n = 0; ROLLBACK TO a;"
            " UPDATE t SET n = 7 WHERE id = 3; COMMIT",
        ),
    ),
    Cause(
        "savepoint released",
        ("BEGIN; SAVEPOINT a; UPDATE t SET n = 7 WHERE id = 3; RELEASE a; COMMIT",),
    ),
    Cause(
        "hot update",
        ("UPDATE t SET n = n + 1 WHERE id % 100 = 0",),
        setup=("ALTER TABLE t SET (fillfactor = 50)", "VACUUM FULL t"),
    ),
    Cause("lock of a row", ("BEGIN; SELECT * FROM t FOR UPDATE; COMMIT",), nothing=True),
    Cause("vacuum", ("VACUUM t",), setup=("DELETE FROM t WHERE id < 100",), nothing=True),
    Cause("vacuum freeze", ("VACUUM FREEZE t",), nothing=True),
    Cause("vacuum full", ("VACUUM FULL t",), everything=True, fact="file"),
    Cause("cluster", ("CLUSTER t USING t_pkey",), everything=True, fact="file"),
    Cause("truncate", ("TRUNCATE t",), everything=True),
    Cause(
        "truncate and the same rows again",
        (
            "CREATE TABLE copy AS TABLE t",
            "TRUNCATE t",
            "INSERT INTO t SELECT * FROM copy ORDER BY id",
            "DROP TABLE copy",
        ),
        everything=True,
    ),
    Cause(
        "column added with a default",
        ("ALTER TABLE t ADD COLUMN extra int DEFAULT 5",),
        everything=True,
        fact="columns+missing values",
    ),
    Cause("column dropped", ("ALTER TABLE t DROP COLUMN n",), everything=True, fact="columns"),
    Cause("column renamed", ("ALTER TABLE t RENAME n TO number",), everything=True, fact="columns"),
    Cause(
        "type changed with a rewrite",
        ("ALTER TABLE t ALTER COLUMN n TYPE numeric",),
        everything=True,
    ),
    Cause(
        "type changed without a rewrite",
        ("ALTER TABLE t ALTER COLUMN filler TYPE varchar",),
        everything=True,
        fact="columns",
    ),
    Cause(
        "enum value renamed",
        ("ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'",),
        everything=True,
        fact="enum labels",
    ),
    Cause(
        "composite type altered",
        ("ALTER TYPE point3 ADD ATTRIBUTE w int",),
        everything=True,
        fact="composite attributes",
    ),
    Cause(
        "domain changed",
        ("ALTER DOMAIN positive ADD CHECK (VALUE < 100000)",),
        everything=True,
        fact="domain",
    ),
    Cause(
        "extension updated",
        ("ALTER EXTENSION citext UPDATE TO '1.6'",),
        setup=(
            "CREATE EXTENSION citext VERSION '1.5'",
            "ALTER TABLE t ADD COLUMN c citext DEFAULT 'A'",
        ),
        everything=True,
        fact="extension version",
    ),
    Cause(
        "extension in pg_catalog updated",
        ("ALTER EXTENSION citext UPDATE TO '1.6'",),
        setup=(
            "CREATE EXTENSION citext SCHEMA pg_catalog VERSION '1.5'",
            "ALTER TABLE t ADD COLUMN c citext DEFAULT 'A'",
        ),
        everything=True,
        fact="extension version",
    ),
    Cause(
        "output function replaced",
        (
            "CREATE OR REPLACE FUNCTION foo_out(foo) RETURNS cstring"
            " LANGUAGE internal IMMUTABLE STRICT AS 'oidout'",
            "CREATE OR REPLACE FUNCTION foo_in(cstring) RETURNS foo"
            " LANGUAGE internal IMMUTABLE STRICT AS 'oidin'",
        ),
        setup=(
            "CREATE TYPE foo",
            "CREATE FUNCTION foo_in(cstring) RETURNS foo"
            " LANGUAGE internal IMMUTABLE STRICT AS 'int4in'",
            "CREATE FUNCTION foo_out(foo) RETURNS cstring"
            " LANGUAGE internal IMMUTABLE STRICT AS 'int4out'",
            "CREATE TYPE foo (INPUT = foo_in, OUTPUT = foo_out, LIKE = int4)",
            "ALTER TABLE t ADD COLUMN f foo DEFAULT '-1'",
            "VACUUM FULL t",
        ),
        everything=True,
        fact="output function",
    ),
    Cause(
        "target of a reg* column renamed",
        ("ALTER TABLE other RENAME TO another",),
        setup=("ALTER TABLE t ADD COLUMN r regclass DEFAULT 'other'", "VACUUM FULL t"),
        everything=True,
        fact="looked up",
    ),
    Cause(
        "role in an aclitem column renamed",
        ("ALTER ROLE pgkeep_acl RENAME TO pgkeep_acl_2",),
        setup=(
            "DROP ROLE IF EXISTS pgkeep_acl",
            "DROP ROLE IF EXISTS pgkeep_acl_2",
            "CREATE ROLE pgkeep_acl",
            "ALTER TABLE t ADD COLUMN a aclitem[] DEFAULT '{pgkeep_acl=r/pgkeep_acl}'",
            "VACUUM FULL t",
        ),
        everything=True,
        fact="looked up",
    ),
    Cause(
        "partition detached",
        ("ALTER TABLE whole DETACH PARTITION t",),
        setup=(
            "CREATE TABLE whole (LIKE t) PARTITION BY RANGE (id)",
            "ALTER TABLE whole ATTACH PARTITION t FOR VALUES FROM (0) TO (100000)",
        ),
        everything=True,
        fact="place in a tree",
    ),
    Cause(
        "partition attached",
        ("ALTER TABLE whole ATTACH PARTITION t FOR VALUES FROM (0) TO (100000)",),
        setup=("CREATE TABLE whole (LIKE t) PARTITION BY RANGE (id)",),
        everything=True,
        fact="place in a tree",
    ),
    Cause("table renamed", ("ALTER TABLE t RENAME TO renamed",), everything=True),
    Cause(
        "table moved to another schema",
        ("CREATE SCHEMA s", "ALTER TABLE t SET SCHEMA s"),
        everything=True,
    ),
    Cause(
        "two tables that change names",
        (
            "ALTER TABLE t RENAME TO x",
            "ALTER TABLE twin RENAME TO t",
            "ALTER TABLE x RENAME TO twin",
        ),
        setup=("CREATE TABLE twin (LIKE t)", "INSERT INTO twin SELECT * FROM t"),
        everything=True,
    ),
    Cause(
        "table dropped and created again",
        (
            "CREATE TABLE copy AS TABLE t",
            "DROP TABLE t",
            "CREATE TABLE t (id int PRIMARY KEY, n int, m mood, p point3, d positive, filler text)",
            "INSERT INTO t SELECT * FROM copy ORDER BY id",
            "DROP TABLE copy",
        ),
        everything=True,
    ),
    Cause("persistence changed", ("ALTER TABLE t SET UNLOGGED",), everything=True),
)

BY_NAME = {cause.name: cause for cause in CAUSES}


def execute(url: str, statements: tuple[str, ...]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def prepare(workbench: Workbench, url: str, setup: tuple[str, ...] = ()) -> None:
    """A configuration with small parts and no chance, a database, and its first backup."""
    execute(url, (*TABLE, *setup))
    workbench.init(url)
    small_parts(workbench)
    back_up(workbench)


def small_parts(workbench: Workbench) -> None:
    text = workbench.config.read_text()
    workbench.config.write_text(f"{text}\n[backup]\npart_pages = 16\nverify_share = 0\n")


def back_up(workbench: Workbench, *options: str, expect: int = 0) -> dict[str, object]:
    document = workbench.pgkeep("backup", "shop", "--json", *options, expect=expect).document
    assert isinstance(document, dict)
    return document


def restored_equals(workbench: Workbench, source: str, target: str) -> None:
    workbench.pgkeep("restore", "shop", "--target", target)
    assert_same(take_picture(source), take_picture(target))


def test_nothing_is_read_twice(workbench: Workbench, new_database: Callable[[], str]) -> None:
    source, target = new_database(), new_database()
    prepare(workbench, source)
    second = back_up(workbench)
    assert second["parts_read"] == 0
    assert second["parts_reused"] == 6
    assert second["rows_read"] == 0
    restored_equals(workbench, source, target)


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_each_cause(cause: Cause, workbench: Workbench, new_database: Callable[[], str]) -> None:
    source, target = new_database(), new_database()
    prepare(workbench, source, cause.setup)
    execute(source, cause.change)
    foreseen = back_up(workbench, "--dry-run")
    second = back_up(workbench)
    assert foreseen["parts_to_read"] == second["parts_read"]
    read, reused = second["parts_read"], second["parts_reused"]
    assert isinstance(read, int)
    assert isinstance(reused, int)
    if cause.nothing:
        assert second["rows_read"] == 0
    elif cause.everything:
        assert reused <= 1, "only `other` may be used again"
        assert second["rows_read"] == _rows(source) - reused
    else:
        assert 0 < read < read + reused
    restored_equals(workbench, source, target)


def test_a_dry_run_tells_what_would_be_read_and_writes_nothing(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    source = new_database()
    execute(source, TABLE)
    workbench.init(source)
    first = back_up(workbench, "--dry-run")
    assert first["parts_to_read"] == first["parts"] == 2
    assert not workbench.repository.exists()
    small_parts(workbench)
    back_up(workbench)
    execute(source, ("UPDATE t SET n = -1 WHERE id = 1000",))
    before = {path: path.read_bytes() for path in workbench.folder.rglob("*") if path.is_file()}
    answer = back_up(workbench, "--dry-run")
    assert 0 < int(str(answer["parts_to_read"])) < int(str(answer["parts"]))
    assert 0 < int(str(answer["estimated_read_bytes"])) < int(str(answer["estimated_bytes"]))
    everything = back_up(workbench, "--dry-run", "--read-all")
    assert everything["parts_to_read"] == everything["parts"]
    shown = workbench.pgkeep("backup", "shop", "--dry-run").out
    assert f"to read: {answer['parts_to_read']} of {answer['parts']} parts" in shown
    after = {path: path.read_bytes() for path in workbench.folder.rglob("*") if path.is_file()}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert {name.partition(".")[0] for name in changed} <= {"ledger"}, "as of every command"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        pytest.param("SELECT", 0, id="nothing"),
        pytest.param("DELETE FROM t WHERE id = 1", 1, id="the first"),
        pytest.param("DELETE FROM t WHERE id = 10000", 1, id="one in the middle"),
        pytest.param("DELETE FROM t WHERE id = 20000", 1, id="the last"),
        pytest.param("DELETE FROM t WHERE id % 5000 = 1", 4, id="some"),
        pytest.param("DELETE FROM t", 40, id="all"),
    ],
)
def test_of_many_ranges_just_those_that_changed_are_read(
    change: str, parts: int, workbench: Workbench, new_database: Callable[[], str]
) -> None:
    """So many that a few of them are asked first: whatever these tell, the result is the same."""
    source = new_database()
    wide = "INSERT INTO t SELECT i, i, 'ok', NULL, i, repeat('x', 200) FROM"
    prepare(workbench, source, ("TRUNCATE t", f"{wide} generate_series(1, 20000) i"))
    execute(source, (change,))
    for _ in range(2):  # which are asked first is drawn
        assert back_up(workbench, "--dry-run")["parts_to_read"] == parts
        second = back_up(workbench)
        assert second["parts_read"] == parts
        parts = 0
    restored_equals(workbench, source, new_database())


def _rows(url: str) -> int:
    """The rows of all tables."""
    with psycopg.connect(url) as connection:
        names = connection.execute(
            "SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE relkind = 'r' AND nspname !~ '^(pg_|information_schema)'"
        ).fetchall()
        total = 0
        for (name,) in names:
            row = connection.execute(f"SELECT count(*) FROM ONLY {name}".encode()).fetchone()
            assert row is not None
            total += row[0]
    return total


@pytest.mark.parametrize(
    "cause", [cause for cause in CAUSES if cause.fact], ids=lambda cause: cause.name
)
def test_without_its_fact_a_cause_would_be_missed(
    cause: Cause,
    workbench: Workbench,
    new_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each fact of the key is there for a reason: these tests fail without it."""
    if cause.fact == "looked up":
        monkeypatch.setattr(dependence, "LOOKED_UP", "false")
    for facts in (dependence.TABLE_FACTS, dependence.TYPE_FACTS):
        for fact in cause.fact.split("+"):
            if fact in facts:
                monkeypatch.setitem(facts, fact, "NULL")
    source = new_database()
    prepare(workbench, source, cause.setup)
    execute(source, cause.change)
    second = back_up(workbench)
    unread = second["parts_reused"]
    assert isinstance(unread, int)
    assert unread > 1


def test_everything_is_read_when_asked(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    prepare(workbench, new_database())
    again = back_up(workbench, "--read-all")
    assert again["parts_reused"] == 0
    assert again["rows_read"] == again["rows"]


def test_a_backup_says_what_was_read_and_used_again(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    source = new_database()
    prepare(workbench, source)
    execute(source, ("INSERT INTO other VALUES (2)",))
    said = " ".join(workbench.pgkeep("backup", "shop").out.split())
    assert "read 2 of 2,002 rows," in said
    assert "in 1 part; 5 parts had not changed" in said


def test_pieces_of_large_objects_are_no_rows(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    source = new_database()
    large = "SELECT lo_from_bytea(0, decode(repeat('00', 600000), 'hex'))"
    prepare(workbench, source, (large, large))
    assert back_up(workbench)["rows_read"] == 0
    everything = back_up(workbench, "--read-all")
    assert everything["rows_read"] == everything["rows"] == 2001


def test_after_so_many_days_everything_is_read_and_it_says_so(
    workbench: Workbench, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(workbench, new_database())

    def after(**passed: float) -> tuple[object, str]:
        moment = datetime.now(UTC) + timedelta(**passed)
        monkeypatch.setattr(Context, "now", staticmethod(lambda: moment))
        outcome = workbench.pgkeep("backup", "shop", "--json")
        assert isinstance(outcome.document, dict)
        why = re.search('everything is read: ([^"]*)', outcome.err)
        return outcome.document["parts_reused"], why[1] if why else ""

    assert after(days=29) == (6, "")
    assert after(days=30, minutes=1) == (0, "the last full read is more than 30 days ago")
    assert after(days=31) == (6, ""), "counted from the last full read"
    assert after(days=1) == (0, "this host's clock was put back")


def test_a_clock_that_was_ahead_for_one_backup_hides_none_of_the_next(
    workbench: Workbench, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = new_database(), new_database()
    prepare(workbench, source)
    with monkeypatch.context() as ahead:
        moment = datetime.now(UTC) + timedelta(days=2000)
        ahead.setattr(Context, "now", staticmethod(lambda: moment))
        back_up(workbench)
    told = workbench.pgkeep("status", "shop", "--offline", expect=3)
    assert "is from the future: a clock was wrong" in " ".join(told.out.split())
    execute(source, ("UPDATE t SET n = -1 WHERE id = 1000",))
    last = back_up(workbench)
    listed = workbench.pgkeep("list", "shop", "--json").document
    assert isinstance(listed, list)
    assert listed[0]["backup"] == last["backup"]
    restored_equals(workbench, source, target)
    assert back_up(workbench)["parts_read"] == 0


@pytest.mark.parametrize(("minutes", "is_told"), [(-6, True), (4, False), (6, True)])
def test_clocks_that_are_apart_are_told(
    workbench: Workbench,
    new_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    minutes: int,
    is_told: bool,
) -> None:
    prepare(workbench, new_database())
    by = timedelta(minutes=minutes)
    monkeypatch.setattr(Context, "now", staticmethod(lambda: datetime.now(UTC) + by))
    done = workbench.pgkeep("backup", "shop")
    assert ("the clocks of this host and of the server are 3" in done.err) == is_told


def test_a_clock_that_was_behind_for_some_backups_hides_none_of_the_next(
    workbench: Workbench, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ids are older than those of more backups than are looked at to go on from."""
    source, target = new_database(), new_database()
    prepare(workbench, source)
    for _ in range(10):
        back_up(workbench)
    with monkeypatch.context() as behind:
        for minute in range(3):
            moment = datetime.now(UTC) - timedelta(days=3, minutes=-minute)
            behind.setattr(Context, "now", staticmethod(lambda moment=moment: moment))
            execute(source, (f"UPDATE t SET n = -{minute} WHERE id = 10",))
            back_up(workbench)
    execute(source, ("UPDATE t SET n = -1 WHERE id = 1000",))
    last = back_up(workbench)
    listed = workbench.pgkeep("list", "shop", "--json").document
    assert isinstance(listed, list)
    assert listed[0]["backup"] == last["backup"]
    restored_equals(workbench, source, target)
    workbench.pgkeep("verify")


def test_who_may_not_learn_which_server_it_is_reads_everything_and_is_told(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    source = new_database()
    role = f"{source.rpartition('/')[2].partition('?')[0]}_reader"
    execute(
        source,
        (
            f"CREATE ROLE {role} LOGIN PASSWORD 'x' IN ROLE pg_read_all_data",
            "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
        ),
    )
    try:
        reader = re.sub(r"//[^@]+@", f"//{role}:x@", source)
        execute(source, TABLE)
        workbench.init(reader)
        back_up(workbench)
        outcome = workbench.pgkeep("backup", "shop", "--json", expect=None)
        assert isinstance(outcome.document, dict)
        assert outcome.document["parts_reused"] == 0
        assert "every backup reads everything: this role may not learn which server" in outcome.err
    finally:
        execute(source, (f"DROP ROLE {role}",))


def test_new_recipients_get_everything_anew(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    """Old objects are sealed to an epoch that the new recipient cannot open."""
    prepare(workbench, new_database())
    text = workbench.config.read_text()
    other = X25519Identity.generate()
    workbench.config.write_text(
        text.replace("recipients = [", f'recipients = ["{other.recipient}", ')
    )
    assert back_up(workbench)["parts_reused"] == 0
    assert back_up(workbench)["parts_read"] == 0


def test_parts_are_not_compared_across_half_the_circle_of_ids() -> None:
    part = Part(0, None, 1, SealedStream((), 0, ""), horizon=1000)
    for now, comparable in (
        (999, False),
        (1000, True),
        (1000 + 2**30 - 1, True),
        (1000 + 2**30, False),
        (1000 + 2**32, False),
    ):
        assert Reusable({}, {}, horizon=now).is_comparable(part) is comparable, now
    unknown = Part(0, None, 1, SealedStream((), 0, ""))
    assert not Reusable({}, {}, horizon=5).is_comparable(unknown)


def test_a_restarted_server_is_read_anew(
    workbench: Workbench, servers: Callable[[int], ScratchServer]
) -> None:
    """It could have been put back to a snapshot of its disk: ids are used again then."""
    with ScratchServer.start(choose_server(17)) as server:
        server.create_database("shop")
        prepare(workbench, server.url("shop"))
        server.restart()
        assert back_up(workbench)["parts_reused"] == 0
        assert back_up(workbench)["parts_read"] == 0


def test_a_server_that_recovered_from_a_crash_is_read_anew(workbench: Workbench) -> None:
    """Ids that no flushed WAL knew are given out again, and the postmaster did not start anew."""
    with ScratchServer.start(choose_server(17), settings={"wal_writer_delay": "10s"}) as server:
        for name in ("shop", "restored"):
            server.create_database(name)
        source = server.url("shop")
        prepare(workbench, source)
        execute(source, ("CHECKPOINT",))
        time.sleep(6)  # what is not flushed now stays so for ten seconds
        execute(source, tuple("BEGIN; SELECT pg_current_xact_id(); ROLLBACK" for _ in range(50)))
        back_up(workbench)
        _kill_a_backend(source)
        execute(source, ("UPDATE t SET n = -1 WHERE id = 1000",))
        execute(source, tuple("SELECT pg_current_xact_id()" for _ in range(60)))
        assert back_up(workbench)["parts_reused"] == 0
        restored_equals(workbench, source, server.url("restored"))
        execute(source, ("SELECT pg_stat_reset_shared('bgwriter')",))
        assert back_up(workbench)["parts_read"] == 0


def _kill_a_backend(url: str) -> None:
    """The postmaster then ends all others and recovers; wait until it answers again."""
    with psycopg.connect(url, autocommit=True) as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.5)
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            continue
        return
    raise AssertionError("the server did not recover")


def test_a_promoted_standby_is_read_anew(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new timeline is enough, also where neither the start nor the recovery would tell."""
    monkeypatch.setitem(dependence.SERVER_FACTS, "start", "NULL")
    monkeypatch.setitem(dependence.SERVER_FACTS, "recovery", "NULL")
    with ScratchServer.start(choose_server(17)) as server:
        server.create_database("shop")
        prepare(workbench, server.url("shop"))
        server.restart()
        assert back_up(workbench)["parts_read"] == 0, "without the start, a restart is no cause"
        with psycopg.connect(server.url("shop"), autocommit=True) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
            assert row is not None
        server.kill()
        (Path(row[0]) / "standby.signal").touch()
        server.restart()
        execute(server.url("shop"), ("SELECT pg_promote()",))
        assert back_up(workbench)["parts_reused"] == 0


def test_another_server_behind_the_same_address_is_read_anew(
    workbench: Workbench,
    servers: Callable[[int], ScratchServer],
    new_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare(workbench, new_database())
    other = servers(18)
    other.create_database("same_address")
    execute(other.url("same_address"), TABLE)
    monkeypatch.setenv("SHOP_DATABASE_URL", other.url("same_address"))
    assert back_up(workbench)["parts_reused"] == 0
    other.drop_database("same_address")


def test_a_copy_of_the_database_under_its_oid_is_read_anew(
    workbench: Workbench, servers: Callable[[int], ScratchServer], new_database: Callable[[], str]
) -> None:
    """Files and ids of tables are those of the copy's origin, and horizons mean nothing for it."""
    server, target = servers(17), new_database()
    server.create_database("same_oid")
    execute(server.url("same_oid"), TABLE)
    execute(server.url("postgres"), ("CREATE DATABASE changed_copy TEMPLATE same_oid",))
    execute(server.url("changed_copy"), ("UPDATE t SET n = -1 WHERE id = 1000",))
    try:
        source = server.url("same_oid")
        workbench.init(source)
        back_up(workbench)
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            row = connection.execute(
                "SELECT oid::int8 FROM pg_database WHERE datname = 'same_oid'"
            ).fetchone()
            assert row is not None
        server.drop_database("same_oid")
        again = f"CREATE DATABASE same_oid OID {row[0]} TEMPLATE changed_copy"
        execute(server.url("postgres"), (again,))
        assert back_up(workbench)["parts_reused"] == 0
        assert back_up(workbench)["parts_read"] == 1, "one is compared"
        restored_equals(workbench, source, target)
    finally:
        server.drop_database("changed_copy")
        server.drop_database("same_oid")


def test_transactions_that_ran_during_a_backup_are_not_missed(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    """A transaction older than the snapshot that commits after it: its rows were not visible."""
    source, target = new_database(), new_database()
    execute(source, TABLE)
    workbench.init(source)
    with psycopg.connect(source) as slow:
        slow.execute("UPDATE t SET n = -5 WHERE id = 77")
        slow.execute("INSERT INTO t (id) VALUES (9999)")
        slow.execute("DELETE FROM t WHERE id = 1500")
        execute(source, tuple(f"INSERT INTO other VALUES ({i})" for i in range(20)))
        back_up(workbench)
        slow.commit()
    back_up(workbench)
    restored_equals(workbench, source, target)


RENAMED = "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'"
RENAMED_BACK = "ALTER TYPE mood RENAME VALUE 'fine' TO 'ok'"


@pytest.mark.parametrize("changes", [(RENAMED,), (RENAMED, RENAMED_BACK)])
def test_a_type_altered_while_rows_are_read_ends_the_backup(
    changes: tuple[str, ...],
    workbench: Workbench,
    new_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No lock keeps it from that, and COPY writes labels that the schema's snapshot has not."""
    source, target = new_database(), new_database()
    execute(source, TABLE)
    workbench.init(source)

    def altering(*arguments: Any) -> Any:
        execute(source, changes)
        return read_all(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("pgkeep.backup.backup.read_all", altering)
        outcome = workbench.pgkeep("backup", "shop", expect=1)
    assert "a type in table public.t was altered while its rows were being read" in outcome.err
    back_up(workbench)
    restored_equals(workbench, source, target)


def test_a_label_added_while_rows_are_read_harms_nothing(
    workbench: Workbench, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = new_database()
    execute(source, TABLE)
    workbench.init(source)

    def adding(*arguments: Any) -> Any:
        execute(source, ("ALTER TYPE mood ADD VALUE 'great' BEFORE 'ok'",))
        return read_all(*arguments)

    monkeypatch.setattr("pgkeep.backup.backup.read_all", adding)
    back_up(workbench)


def test_an_enum_value_renamed_and_renamed_back_is_read_anew(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    """What was stored in between may have either name."""
    source = new_database()
    prepare(workbench, source)
    execute(source, (RENAMED, RENAMED_BACK))
    assert back_up(workbench)["parts_reused"] == 1, "only `other`"


def test_an_output_function_replaced_and_put_back_is_read_anew(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    """What was stored in between may have either text."""
    cause = BY_NAME["output function replaced"]
    back = tuple(text.replace("'oid", "'int4") for text in cause.change)
    assert back != cause.change
    source = new_database()
    prepare(workbench, source, cause.setup)
    execute(source, (*cause.change, *back))
    assert back_up(workbench)["parts_reused"] == 1, "only `other`"


def test_settings_of_the_database_or_the_role_change_no_text(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    source, target = new_database(), new_database()
    name = psycopg.conninfo.conninfo_to_dict(source)["dbname"]
    typed = (
        "CREATE TABLE typed (at timestamptz, day date, i interval, f float8, b bytea, m money,"
        " x xml)",
        "INSERT INTO typed SELECT now(), current_date, '1 day 2 hours', 1 / 3.0, 'a\\000b', 1234.5,"
        " '<a/>' FROM generate_series(1, 500)",
        "CREATE TABLE looked_up (r regclass)",
        "INSERT INTO looked_up VALUES ('other')",
    )
    settings = (
        "TimeZone = 'Asia/Tokyo'",
        "DateStyle = 'SQL, DMY'",
        "IntervalStyle = 'iso_8601'",
        "extra_float_digits = -5",
        "bytea_output = 'escape'",
        "xmlbinary = 'hex'",
        "lc_monetary = 'C'",
        "client_encoding = 'LATIN1'",
        "standard_conforming_strings = off",
        "quote_all_identifiers = on",
    )
    prepare(workbench, source, typed)
    text = workbench.config.read_text().replace("verify_share = 0", "verify_share = 1")
    workbench.config.write_text(text)
    role = "ALTER ROLE CURRENT_USER IN DATABASE"
    execute(source, tuple(f"ALTER DATABASE {name} SET {setting}" for setting in settings[:5]))
    execute(source, tuple(f"{role} {name} SET {setting}" for setting in settings[5:]))
    assert back_up(workbench)["differing"] == []
    restored_equals(workbench, source, target)


INDEX_ALONE = (
    "CREATE TABLE pairs (a int, b int, PRIMARY KEY (a, b)) WITH (fillfactor = 20)",
    "INSERT INTO pairs SELECT i * 7919 % 5003, i FROM generate_series(1, 5000) i",
)
IN_WORKERS = (
    "CREATE TABLE wide (id int, filler text) WITH (parallel_workers = 2)",
    "INSERT INTO wide SELECT i, repeat('w', 300) FROM generate_series(1, 30000) i",
)


@pytest.mark.parametrize(
    ("table", "liked", "then"),
    [
        pytest.param(INDEX_ALONE, ("random_page_cost = 1.1",), "VACUUM pairs", id="index alone"),
        pytest.param(
            IN_WORKERS,
            ("parallel_setup_cost = 0", "parallel_tuple_cost = 0"),
            "SELECT",
            id="in workers",
        ),
    ],
)
def test_rows_are_read_as_they_lie_whatever_the_planner_likes(
    table: tuple[str, ...],
    liked: tuple[str, ...],
    then: str,
    workbench: Workbench,
    new_database: Callable[[], str],
) -> None:
    """The same rows in another order would be told as rows that changed behind the back."""
    source = new_database()
    name = psycopg.conninfo.conninfo_to_dict(source)["dbname"]
    prepare(
        workbench,
        source,
        (*table, *(f"ALTER DATABASE {name} SET {setting}" for setting in liked)),
    )
    text = workbench.config.read_text()
    all_compared = text.replace("verify_share = 0", "verify_share = 1").replace("= 16", "= 9999")
    workbench.config.write_text(all_compared)
    back_up(workbench, "--read-all")
    execute(source, (then,))
    for _ in range(3):
        assert back_up(workbench)["differing"] == []


def test_rows_are_read_from_the_beginning_whoever_else_reads(workbench: Workbench) -> None:
    """A scan of a table that is large for its server begins where the last one was."""
    with ScratchServer.start(choose_server(17), settings={"shared_buffers": "128kB"}) as server:
        server.create_database("shop")
        source = server.url("shop")
        prepare(workbench, source)
        text = workbench.config.read_text()
        all_compared = text.replace("verify_share = 0", "verify_share = 1")
        workbench.config.write_text(all_compared.replace("= 16", "= 9999"))
        back_up(workbench, "--read-all")
        with psycopg.connect(source) as other:
            other.execute("DECLARE reading CURSOR FOR SELECT * FROM t")
            other.execute("FETCH 1300 FROM reading")
            assert back_up(workbench)["differing"] == []


def test_a_difference_that_nothing_shows_is_found_and_mended(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    """Bytes that change under PostgreSQL: checksums off, so only reading again can tell."""
    source, target = new_database(), new_database()
    prepare(workbench, source)
    text = workbench.config.read_text().replace("verify_share = 0", "verify_share = 1")
    workbench.config.write_text(text)
    _change_behind_the_back(workbench)
    second = back_up(workbench, expect=3)
    assert second["parts_reused"] == 0
    assert second["differing"] == ["public.other"]
    restored_equals(workbench, source, target)
    assert back_up(workbench)["differing"] == []


def test_a_difference_stops_reuse_also_if_that_backup_comes_to_nothing(
    workbench: Workbench, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = new_database()
    prepare(workbench, source)
    text = workbench.config.read_text()
    workbench.config.write_text(text.replace("verify_share = 0", "verify_share = 1"))
    _change_behind_the_back(workbench)

    def fail(*_: object) -> None:
        raise StoreError("the network went away")

    with monkeypatch.context() as patch:
        patch.setattr(Copies, "publish", fail)
        workbench.pgkeep("backup", "shop", expect=1)
    workbench.config.write_text(text)  # nothing is compared now: only memory can tell
    outcome = workbench.pgkeep("backup", "shop", "--json")
    assert isinstance(outcome.document, dict)
    assert outcome.document["parts_reused"] == 0
    assert "everything is read: a stored part was found wrong" in outcome.err
    assert back_up(workbench)["parts_read"] == 0


@pytest.mark.parametrize("sampled", [0, 5])
def test_a_difference_in_one_part_has_all_others_read_too(
    sampled: int,
    workbench: Workbench,
    new_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sample is one part of six: the forged one, or another, and then nothing is noticed."""
    prepare(workbench, new_database())
    text = workbench.config.read_text()
    workbench.config.write_text(text.replace("verify_share = 0", "verify_share = 0.001"))
    _change_behind_the_back(workbench)
    asked: list[int] = []

    def choose(parts: Sequence[Any], number: int) -> list[Any]:
        asked.append(number)
        by_table = sorted(parts, key=lambda part: part.planned.table.name.name)
        return [by_table[sampled]]

    monkeypatch.setattr("pgkeep.backup.read.random.sample", choose)
    second = back_up(workbench, expect=0 if sampled else 3)
    assert asked == [1]
    assert second["parts_read"] == (1 if sampled else 6)
    assert second["differing"] == ([] if sampled else ["public.other"])


def _change_behind_the_back(workbench: Workbench) -> None:
    """Make the stored contents claim something that the table never held.

    To corrupt a page in place would need the server stopped; forging what the host remembers shows
    the same: what is there is not what was stored.
    """
    context = Context(workbench.config, as_json=False, quiet=True)
    (repository,) = context.repositories()
    (manifest,) = context.listing(repository, "shop").backups
    contents = context.contents(Found(manifest, (repository,)))
    forged = []
    for table in contents.tables:
        if table.name.name == "other":
            part = table.parts[0]
            text = replace(part.text, blake3="0" * 64)
            table = replace(table, parts=(replace(part, text=text),))
        forged.append(table)
    keys = context.keys
    epoch = keys.epoch(context.config.encryption.recipients, now=datetime.now(UTC))
    writer = StreamWriter(
        repository.store.put, [epoch.key.recipient, keys.index_key().recipient], level=1
    )
    writer.write(dump_contents(replace(contents, tables=tuple(forged))))
    changed = replace(manifest, contents=writer.close().objects)
    data = dump_manifest(changed)
    repository.store.put(f"{manifest.path}.sig", keys.signing_key().sign(data))
    repository.store.put(manifest.path, data)


def test_a_missing_object_is_read_again(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    source, target = new_database(), new_database()
    prepare(workbench, source)
    largest = max(workbench.repository.glob("objects/*/*"), key=lambda path: path.stat().st_size)
    largest.unlink()
    assert back_up(workbench)["parts_read"] != 0
    restored_equals(workbench, source, target)


def test_no_backup_builds_on_an_object_that_verify_found_damaged(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    """Its size is right, so that only reading it tells."""
    source, target = new_database(), new_database()
    prepare(workbench, source)
    largest = max(workbench.repository.glob("objects/*/*"), key=lambda path: path.stat().st_size)
    whole = largest.read_bytes()
    largest.write_bytes(bytes([*whole[:-1], whole[-1] ^ 1]))
    told = workbench.pgkeep("verify", "--read", "all", expect=1)
    assert "No backup from this host builds on these" in " ".join(told.out.split())
    foreseen = back_up(workbench, "--dry-run")
    assert foreseen["parts_to_read"] == back_up(workbench)["parts_read"] == 5
    restored_equals(workbench, source, target)
    assert back_up(workbench)["parts_read"] == 0


def test_what_was_damaged_and_put_right_is_used_again(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    prepare(workbench, new_database())
    largest = max(workbench.repository.glob("objects/*/*"), key=lambda path: path.stat().st_size)
    whole = largest.read_bytes()
    largest.write_bytes(bytes([*whole[:-1], whole[-1] ^ 1]))
    workbench.pgkeep("verify", "--read", "all", expect=1)
    largest.write_bytes(whole)
    workbench.pgkeep("verify", "--read", "all")
    assert back_up(workbench)["parts_read"] == 0


def test_not_to_know_what_was_damaged_ends_no_backup(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    prepare(workbench, new_database())
    (workbench.state / "verified.sqlite").write_text("no database of anything")
    outcome = workbench.pgkeep("backup", "shop", expect=3)
    assert "verified.sqlite" in outcome.err


def test_backups_can_be_deleted_in_any_order(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    """Each is a full backup: it names all of its objects, whoever stored them."""
    source, target = new_database(), new_database()
    prepare(workbench, source)
    execute(source, ("UPDATE t SET n = 1 WHERE id = 5",))
    back_up(workbench)
    for path in workbench.repository.glob("shop/*/*/*/manifest.json"):
        if json.loads(path.read_bytes())["sequence"] == 1:
            path.unlink()
    restored_equals(workbench, source, target)


def test_losing_the_hosts_state_costs_a_full_read(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    source, target = new_database(), new_database()
    prepare(workbench, source)
    (workbench.state / "index.key").unlink()
    assert back_up(workbench)["parts_reused"] == 0
    assert back_up(workbench)["parts_read"] == 0
    restored_equals(workbench, source, target)


def test_a_host_that_lost_its_state_makes_the_newest_backup_all_the_same(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    source, target = new_database(), new_database()
    prepare(workbench, source)
    back_up(workbench)
    back_up(workbench)
    shutil.rmtree(workbench.state)
    execute(source, ("UPDATE t SET n = -1 WHERE id = 1000",))
    last = back_up(workbench)
    assert last["parts_reused"] == 0
    listed = workbench.pgkeep("list", "shop", "--json").document
    assert isinstance(listed, list)
    assert listed[0]["backup"] == last["backup"]
    restored_equals(workbench, source, target)
    workbench.pgkeep("verify")


# --- random histories -----------------------------------------------------------------------

KEYS = st.integers(1, 2200)
STATEMENTS = st.one_of(
    KEYS.map(lambda k: f"UPDATE t SET n = COALESCE(n, 0) + 1 WHERE id = {k}"),
    KEYS.map(lambda k: f"UPDATE t SET filler = repeat('y', {k % 300}) WHERE id % 97 = {k % 97}"),
    KEYS.map(lambda k: f"DELETE FROM t WHERE id = {k}"),
    KEYS.map(lambda k: f"DELETE FROM t WHERE id BETWEEN {k} AND {k + 40}"),
    KEYS.map(
        lambda k: f"INSERT INTO t (id, n, m) VALUES ({k}, 0, 'sad') ON CONFLICT (id) DO NOTHING"
    ),
    KEYS.map(
        lambda k: (
            "INSERT INTO t SELECT i, i, 'sad', NULL, NULL, repeat('z', 100)"
            f" FROM generate_series({k}, {k + 60}) i ON CONFLICT (id) DO UPDATE SET n = -1"
        )
    ),
    st.just("SELECT count(*) FROM t WHERE id < 50 FOR SHARE").map(
        lambda _: "SELECT id FROM t WHERE id < 50 FOR SHARE"
    ),
)


@st.composite
def transactions(draw: st.DrawFn) -> str:
    """One transaction: statements, some within savepoints, committed or not."""
    lines = ["BEGIN"]
    for number, statement in enumerate(draw(st.lists(STATEMENTS, min_size=1, max_size=4))):
        match draw(st.sampled_from(("plain", "plain", "released", "undone"))):
            case "plain":
                lines.append(statement)
            case "released":
                lines += [f"SAVEPOINT s{number}", statement, f"RELEASE s{number}"]
            case _:
                lines += [f"SAVEPOINT s{number}", statement, f"ROLLBACK TO s{number}"]
    lines.append(draw(st.sampled_from(("COMMIT", "COMMIT", "COMMIT", "ROLLBACK"))))
    return "; ".join(lines)


def tried(statement: str) -> str:
    """It in a subtransaction of its own, which is undone where it cannot be done just then."""
    return f"DO $do$ BEGIN {statement}; EXCEPTION WHEN OTHERS THEN NULL; END $do$"


DEFINITIONS = st.sampled_from(
    (
        "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'",
        "ALTER TYPE mood RENAME VALUE 'fine' TO 'ok'",
        "ALTER TYPE point3 ADD ATTRIBUTE w int",
        "ALTER TYPE point3 DROP ATTRIBUTE w",
        "ALTER TYPE point3 RENAME ATTRIBUTE x TO e",
        "ALTER TYPE point3 RENAME ATTRIBUTE e TO x",
        "ALTER DOMAIN positive ADD CONSTRAINT small CHECK (VALUE < 1000000)",
        "ALTER DOMAIN positive DROP CONSTRAINT small",
        "ALTER TABLE t ALTER n TYPE bigint",
        "ALTER TABLE t ALTER n TYPE int",
        "ALTER TABLE t ALTER filler TYPE varchar",
        "ALTER TABLE t ALTER filler TYPE text",
        "ALTER TABLE t RENAME filler TO filling; ALTER TABLE t RENAME filling TO filler",
        "ALTER TABLE t SET UNLOGGED",
        "ALTER TABLE t SET LOGGED",
        "ALTER TABLE t RENAME TO x; ALTER TABLE twin RENAME TO t; ALTER TABLE x RENAME TO twin;"
        " ALTER INDEX t_pkey RENAME TO x; ALTER INDEX twin_pkey RENAME TO t_pkey;"
        " ALTER INDEX x RENAME TO twin_pkey",
        "ALTER TABLE other RENAME TO another",
        "ALTER TABLE another RENAME TO other",
        "ALTER TABLE whole DETACH PARTITION low",
        "ALTER TABLE whole ATTACH PARTITION low FOR VALUES FROM (0) TO (1000)",
        "UPDATE whole SET k = (k + 700) % 2000 WHERE k % 50 = 0",
        "ALTER TABLE odd ADD COLUMN later mood DEFAULT 'sad'",
        "ALTER TABLE odd DROP COLUMN later",
        "ALTER TABLE odd DROP COLUMN j",
        "ALTER TABLE odd DROP COLUMN b",
        "ALTER TABLE whole ADD COLUMN later int DEFAULT 7",
        "ALTER TABLE whole DROP COLUMN s",
        "ALTER TABLE odd ALTER twice DROP EXPRESSION",
        "ALTER TABLE odd ENABLE ROW LEVEL SECURITY; ALTER TABLE odd FORCE ROW LEVEL SECURITY",
        "DELETE FROM nothing WHERE ctid = '(0,1)'; INSERT INTO nothing DEFAULT VALUES",
        "PERFORM lo_from_bytea(0, 'bytes')",
        "PERFORM lo_unlink(min(oid)) FROM pg_largeobject_metadata",
        "CREATE TABLE made AS TABLE t",
        "DROP TABLE made",
        "UPDATE made SET n = 0 WHERE id < 30",
    )
).map(tried)
"""Some of these cannot always be done, and are then undone."""

DATABASE_SETTINGS = st.sampled_from(
    (
        "TimeZone = 'Asia/Tokyo'",
        "DateStyle = 'SQL, DMY'",
        "IntervalStyle = 'iso_8601'",
        "extra_float_digits = -5",
        "bytea_output = 'escape'",
        "xmlbinary = 'hex'",
        "client_encoding = 'LATIN1'",
        "row_security = on",
        "quote_all_identifiers = on",
    )
).map(lambda setting: f"ALTER DATABASE history SET {setting}")

MORE_TABLES = (
    "CREATE TABLE twin (LIKE t INCLUDING ALL)",
    "INSERT INTO twin SELECT id, -n, 'sad', p, d, filler FROM t WHERE id % 2 = 0",
    "CREATE TABLE whole (k int, r regclass, s text) PARTITION BY RANGE (k)",
    "CREATE TABLE low PARTITION OF whole FOR VALUES FROM (0) TO (1000)",
    "CREATE TABLE high PARTITION OF whole DEFAULT",
    "INSERT INTO whole SELECT i, 'other', repeat('p', 90) FROM generate_series(1, 1999) i",
    "CREATE TABLE odd (id int, at timestamptz, i interval, f float8, b bytea, m mood[],"
    " mp point3[], r int4range, j jsonb, twice int GENERATED ALWAYS AS (id * 2) STORED)",
    "INSERT INTO odd SELECT i, '2024-01-01 12:00+00'::timestamptz + i * '1 hour'::interval,"
    " i * '1 day 2 hours'::interval, i / 7.0, decode(md5(i::text), 'hex'),"
    " ARRAY['ok', 'sad']::mood[], ARRAY[ROW(i, i, i)::point3], int4range(i, i + 9),"
    " jsonb_build_object('i', i)"
    " FROM generate_series(1, 1500) i",
    "CREATE TABLE nothing ()",
    "INSERT INTO nothing DEFAULT VALUES",
    "CREATE MATERIALIZED VIEW seen AS SELECT id, n FROM twin WHERE id < 100",
)

MAINTENANCE = st.sampled_from(
    (
        "VACUUM t",
        "VACUUM FREEZE t",
        "VACUUM FULL t",
        "CLUSTER t USING t_pkey",
        "TRUNCATE t",
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS extra int DEFAULT 3",
        "ALTER TABLE t DROP COLUMN IF EXISTS extra",
        "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'great'",
        "ALTER TABLE t SET (fillfactor = 60)",
        "ANALYZE t",
        "REINDEX TABLE t",
    )
)
MOVES = st.builds(
    lambda key, move: (f"DELETE FROM t WHERE id BETWEEN {key} AND {key + 3}", move),
    KEYS,
    st.sampled_from(("VACUUM FULL t", "CLUSTER t USING t_pkey")),
)
"""Old rows come to lie in other ranges, which may hold as many as before."""

EVENTS = st.one_of(
    *(
        one.map(lambda statement: (statement,))
        for one in (
            *(transactions(), transactions(), MAINTENANCE),
            *(DEFINITIONS, DEFINITIONS, DATABASE_SETTINGS),
        )
    ),
    MOVES,
)


@dataclass(frozen=True)
class Chapter:
    """What happens until a backup, and how that one is made."""

    statements: list[str]
    cut_off_after: int
    """So many parts: a backup before it that ends there (0: none)."""
    straddling: list[str]
    """What a transaction does that is open while the backup is made."""
    compared: bool
    """Whether all that did not change is read and compared."""


HISTORIES = st.lists(
    st.builds(
        Chapter,
        statements=st.lists(EVENTS, max_size=5).map(lambda events: list(chain(*events))),
        cut_off_after=st.one_of(st.just(0), st.integers(1, 7)),
        straddling=st.lists(STATEMENTS, max_size=2),
        compared=st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


def cut_off(workbench: Workbench, parts: int) -> None:
    """A backup that ends when it has stored and noted so many parts, if it has as many to read."""
    added = 0
    real_add = UnfinishedBackup.add

    def add(note: UnfinishedBackup, part: StoredPart) -> None:
        nonlocal added
        real_add(note, part)
        added += 1
        if added == parts:
            raise StoreFull("the disk is full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnfinishedBackup, "add", add)
        workbench.pgkeep("backup", "shop", expect=None)


@settings(
    max_examples=int(os.environ.get("PGKEEP_TEST_HISTORIES", "6")),
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(history=HISTORIES)
def test_any_history_is_backed_up_right(
    history: list[Chapter],
    workbench: Workbench,
    server: ScratchServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Random transactions and definitions between backups, of which some are cut off: each that
    comes to its end, restored, is the source as it was, and nothing that was used again differs."""
    workbench.folder = tmp_path_factory.mktemp("history")
    with databases(server, "history", "history_restored") as (source, target):
        prepare(workbench, source, MORE_TABLES)
        for chapter in history:
            half = len(chapter.statements) // 2
            execute(source, tuple(chapter.statements[:half]))
            if chapter.cut_off_after:
                cut_off(workbench, chapter.cut_off_after)
            execute(source, tuple(chapter.statements[half:]))
            execute(source, ("REFRESH MATERIALIZED VIEW seen",))  # as a restore does
            compare_unchanged(workbench, all_of_it=chapter.compared)
            with psycopg.connect(source) as slow:
                for statement in chapter.straddling:
                    slow.execute(statement.encode())
                execute(source, ("SELECT pg_current_xact_id()",))  # a younger one that has ended
                before = take_picture(source)
                back_up(workbench)
                slow.commit()
            workbench.pgkeep("restore", "shop", "--target", target)
            assert_same(before, take_picture(target))
            server.drop_database("history_restored")
            server.create_database("history_restored")


def compare_unchanged(workbench: Workbench, *, all_of_it: bool) -> None:
    text = workbench.config.read_text()
    share = f"verify_share = {int(all_of_it)}"
    workbench.config.write_text(re.sub(r"verify_share = \d", share, text))


def test_the_list_in_the_documents_is_this_list() -> None:
    text = (ROOT / "docs" / "incremental.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`test_each_cause\[(.+?)\]`", text))
    assert listed == set(BY_NAME)
