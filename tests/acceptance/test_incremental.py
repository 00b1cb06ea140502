"""Only what changed is read, and everything that could change a row's text is a change.

`CAUSES` is the list in docs/incremental.md: each cause, and what happens to a table between two
backups. The table has several parts; a cause that touches rows must have those parts read again, a
cause that touches definitions all of them, and each restored backup is proven and compared.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comparison import assert_same, databases, take_picture
from conftest import Workbench
from pgkeep.backup.plan import Reusable
from pgkeep.backup.unfinished import StoredPart, UnfinishedBackup
from pgkeep.cli.context import Context, Found
from pgkeep.errors import StoreFull
from pgkeep.model import Part, SealedStream
from pgkeep.postgres import dependence
from pgkeep.postgres.programs import choose_server
from pgkeep.postgres.server import ScratchServer
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
    text = workbench.config.read_text()
    workbench.config.write_text(f"{text}\n[backup]\npart_pages = 16\nverify_share = 0\n")
    back_up(workbench)


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
    second = back_up(workbench)
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


def test_a_promoted_standby_is_read_anew(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new timeline is enough, also where the time of the start would not tell."""
    monkeypatch.setitem(dependence.SERVER_FACTS, "start", "NULL")
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
            "INSERT INTO t SELECT i, i, 'ok', NULL, NULL, repeat('z', 100)"
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
HISTORIES = st.lists(
    st.lists(st.one_of(transactions(), transactions(), MAINTENANCE), max_size=4),
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
@given(histories=HISTORIES, cuts=st.lists(st.integers(0, 7), min_size=4, max_size=4))
def test_any_history_is_backed_up_right(
    histories: list[list[str]],
    cuts: list[int],
    workbench: Workbench,
    server: ScratchServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Random transactions between backups, of which some are cut off: each that comes to its end,
    restored, is the source as it was."""
    workbench.folder = tmp_path_factory.mktemp("history")
    with databases(server, "history", "history_restored") as (source, target):
        prepare(workbench, source)
        for statements, parts in zip(histories, cuts, strict=False):
            half = len(statements) // 2
            execute(source, tuple(statements[:half]))
            if parts:
                cut_off(workbench, parts)
            execute(source, tuple(statements[half:]))
            back_up(workbench)
            restored_equals(workbench, source, target)
            server.drop_database("history_restored")
            server.create_database("history_restored")


def test_the_list_in_the_documents_is_this_list() -> None:
    text = (ROOT / "docs" / "incremental.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`test_each_cause\[(.+?)\]`", text))
    assert listed == set(BY_NAME)
