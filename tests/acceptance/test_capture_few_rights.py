"""Capture by a role that may use slots and nothing more: no event trigger, no publication."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from conftest import WHEELS, Workbench
from failures import configure, finished, run_sql, start, told, wait_until
from pgkeep.postgres.server import ScratchServer

TABLES = (
    "CREATE TABLE items (id integer PRIMARY KEY, name text, tags text[], flag boolean)",
    'CREATE TABLE "No key" (x integer, note text)',
    "INSERT INTO items SELECT n, 'item ' || n, '{a,\"b c\"}', true FROM generate_series(1, 50) n",
    "INSERT INTO \"No key\" VALUES (1, 'one')",
)


@pytest.fixture(params=WHEELS)
def source(
    request: pytest.FixtureRequest, servers: Callable[[int], ScratchServer], workbench: Workbench
) -> Iterator[str]:
    """A database, which the configuration knows by the name of a role with few rights."""
    server = servers(request.param)
    server.create_database("few_source")
    server.create_database("few_target")
    url = server.url("few_source")
    role = f"few_{time.monotonic_ns()}"
    run_sql(url, f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'few'",
            f"GRANT pg_read_all_data TO {role}", *TABLES)  # fmt: skip
    workbench.init(url.replace(f"postgres:{server.password}@", f"{role}:few@"))
    configure(workbench, "[capture]", "poll_seconds = 0.05")
    workbench.monkeypatch.setenv("FEW_TARGET", server.url("few_target"))
    yield url
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            " WHERE database = 'few_source' AND active_pid IS NOT NULL"
        )
    run_sql(url, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                 " WHERE database = current_database()")  # fmt: skip
    server.drop_database("few_source")
    server.drop_database("few_target")
    run_sql(server.url(), f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def capture(workbench: Workbench) -> dict[str, object]:
    """Keep what is waiting, with the backups that it asks for. A table without a key is told."""
    document = workbench.pgkeep("capture", "shop", "--once", "--json", expect=3).document
    assert isinstance(document, dict)
    return document


def segments(workbench: Workbench) -> list[Path]:
    return list(workbench.repository.glob("shop/journal/*/*"))


def restored(workbench: Workbench, source: str, *options: str) -> list[tuple[object, ...]]:
    """The items, after a restore into an emptied target."""
    target = source.replace("few_source", "few_target")
    run_sql(source, "DROP DATABASE few_target", "CREATE DATABASE few_target")
    workbench.pgkeep("restore", "shop", "--target", "env:FEW_TARGET", *options, expect=None)
    with psycopg.connect(target) as connection:
        return connection.execute("SELECT * FROM items ORDER BY id").fetchall()


def items(source: str) -> list[tuple[object, ...]]:
    with psycopg.connect(source) as connection:
        return connection.execute("SELECT * FROM items ORDER BY id").fetchall()


def moment() -> str:
    """Between what was done before and what is done after."""
    time.sleep(0.05)
    now = datetime.now(UTC).isoformat()
    time.sleep(0.05)
    return now


def schema_changes(workbench: Workbench) -> list[dict[str, object]]:
    outcome = workbench.pgkeep("list", "shop", "--schema-changes", "--json")
    return list(json.loads(outcome.out))


def test_it_is_said_beforehand_how_and_nothing_is_made_but_a_slot(
    workbench: Workbench, source: str
) -> None:
    def made() -> tuple[object, ...] | None:
        with psycopg.connect(source) as connection:
            return connection.execute(
                "SELECT (SELECT count(*) FROM pg_publication),"
                " (SELECT count(*) FROM pg_event_trigger),"
                " (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgkeep%'),"
                " (SELECT array_agg(plugin::text) FROM pg_replication_slots"
                "   WHERE database = current_database())"
            ).fetchone()

    document = workbench.pgkeep("capture", "shop", "--dry-run", "--json").document
    assert isinstance(document, dict)
    assert document["plugin"] == "test_decoding"
    assert document["less_exact"]
    assert document["statements"] == []
    assert document["without_identity"] == ['public."No key"']
    text = workbench.pgkeep("capture", "shop", "--dry-run").out
    assert "this role may not make event triggers" in " ".join(text.split())
    assert made() == (0, 0, 0, None)
    capture(workbench)
    assert made() == (0, 0, 0, ["test_decoding"])
    # The application goes on, also where no table has a key any more.
    run_sql(source, 'UPDATE "No key" SET x = 2', 'DELETE FROM "No key"',
            "ALTER TABLE items DROP CONSTRAINT items_pkey", "UPDATE items SET name = 'x'",
            "DELETE FROM items")  # fmt: skip
    workbench.pgkeep("capture", "shop", "--remove", "--yes")
    assert made() == (0, 0, 0, None)


def test_where_a_platform_lends_the_right_to_its_own_role_members_are_not_refused(
    workbench: Workbench, source: str
) -> None:
    """As RDS does; whether that is enough is for the server to say when the slot is made."""
    with psycopg.connect(source, autocommit=True) as connection:
        row = connection.execute(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'few\\_%'"
        ).fetchone()
        assert row is not None
        connection.execute(f"ALTER ROLE {row[0]} NOREPLICATION".encode())
        refused = workbench.pgkeep("capture", "shop", "--dry-run", expect=1)
        assert "may not use replication slots" in refused.err
        connection.execute("CREATE ROLE rds_replication")
        try:
            connection.execute(f"GRANT rds_replication TO {row[0]}".encode())
            workbench.pgkeep("capture", "shop", "--dry-run")
            answer = workbench.pgkeep("doctor", "--json", expect=None).document
            assert "REPLICATION" not in json.dumps(answer)
        finally:
            connection.execute("DROP ROLE rds_replication")


def test_rows_come_back_as_they_were_at_a_moment(workbench: Workbench, source: str) -> None:
    assert capture(workbench)["new_chain"]
    run_sql(source, "UPDATE items SET name = E'it''s \\\\ \\n' WHERE id < 5",
            "UPDATE items SET id = id + 100 WHERE id > 45", "DELETE FROM items WHERE id = 7",
            "INSERT INTO items VALUES (7, NULL, NULL, false)")  # fmt: skip
    then, at = items(source), moment()
    run_sql(source, "TRUNCATE items")
    assert not capture(workbench)["new_chain"]
    assert restored(workbench, source, "--to", at) == then
    assert restored(workbench, source, "--to-last-reachable") == []


def test_a_table_altered_while_nobody_looked_begins_a_new_chain_and_a_backup(
    workbench: Workbench, source: str
) -> None:
    capture(workbench)
    run_sql(source, "UPDATE items SET name = 'before'")
    before, at = items(source), moment()
    capture(workbench)
    # Keys are exchanged: which of the updates were by which key, no line of the slot tells.
    run_sql(source, "UPDATE items SET name = 'lost'",
            "ALTER TABLE items DROP CONSTRAINT items_pkey, ADD COLUMN n serial PRIMARY KEY",
            "UPDATE items SET id = 1000 + id")  # fmt: skip
    lost = moment()
    assert capture(workbench)["new_chain"]
    run_sql(source, "UPDATE items SET name = 'after' WHERE n < 10")
    after, late = items(source), moment()
    run_sql(source, "DELETE FROM items")
    assert not capture(workbench)["new_chain"]
    assert restored(workbench, source, "--to", at) == before
    assert restored(workbench, source, "--to", late) == after
    told(workbench.pgkeep("restore", "shop", "--target", "env:FEW_TARGET", "--to", lost,
                          "--dry-run", expect=1), "E073")  # fmt: skip
    changes = schema_changes(workbench)
    assert [one["tag"] for one in changes] == [""]


def test_a_table_altered_while_capture_runs_is_noticed_at_the_next_look(
    workbench: Workbench, source: str
) -> None:
    capture(workbench)
    kept = len(segments(workbench))
    process = start(workbench, "capture", "shop")
    try:
        run_sql(source, "UPDATE items SET name = 'seen'")
        wait_until(lambda: len(segments(workbench)) > kept, "capture runs")
        run_sql(source, "ALTER TABLE items ADD COLUMN price numeric", "UPDATE items SET price = id")
        wait_until(lambda: bool(schema_changes(workbench)), "it is noticed")
    finally:
        process.kill()
        output = finished(process)
    assert "tables were altered" in " ".join(output.err.split())
    workbench.pgkeep("backup", "shop")  # the one that capture asked for was killed with it
    run_sql(source, "UPDATE items SET price = 7 WHERE id = 7")
    assert not capture(workbench)["new_chain"]
    assert restored(workbench, source, "--to-last-reachable") == items(source)


def test_other_slots_of_that_name_go_on_as_they_began(workbench: Workbench, source: str) -> None:
    """With more rights later, what there is goes on; taken away, it is made with triggers."""
    capture(workbench)
    with psycopg.connect(source) as connection:
        row = connection.execute("SELECT current_setting('is_superuser')").fetchone()
        assert row == ("on",)
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", source)
    run_sql(source, "UPDATE items SET name = 'more rights'")
    assert not capture(workbench)["new_chain"]
    workbench.pgkeep("capture", "shop", "--remove", "--yes")
    document = workbench.pgkeep("capture", "shop", "--dry-run", "--json").document
    assert isinstance(document, dict)
    assert document["plugin"] == "pgoutput"
