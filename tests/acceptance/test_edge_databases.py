"""Databases at PostgreSQL's edges go out and come back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from comparison import assert_same, databases, load_statements, take_picture, value
from conftest import Workbench
from pgkeep.postgres.server import ScratchServer
from schemas import EDGE_DATABASES, EVENT_TRIGGERS

HUNDRED_MB = 100 * 1000 * 1000

# A row of 100 MB is 100 MB of COPY text in the server and in libpq, whoever reads it. A bytea of
# 50 MB is as much text, since it is written as hex.
HUGE_ROWS = (
    "CREATE TABLE huge (id integer PRIMARY KEY, body text, raw bytea)",
    "ALTER TABLE huge ALTER COLUMN body SET STORAGE EXTERNAL,"
    " ALTER COLUMN raw SET STORAGE EXTERNAL",
    "INSERT INTO huge (id, body) SELECT n,"
    f" substr(repeat(md5(n::text) || E'\\t\\\\\\n', {HUNDRED_MB // 35 + 1}), 1, {HUNDRED_MB})"
    " FROM generate_series(1, 2) AS n",
    "INSERT INTO huge (id, raw) SELECT 3,"
    f" decode(repeat(md5('raw'), {HUNDRED_MB // 2 // 16}), 'hex')",
)
HUGE_ROWS_DIGEST = (
    "SELECT string_agg(format('%s %s %s', id, md5(body), md5(raw)), ',' ORDER BY id) FROM huge"
)
MOST_MEMORY_BYTES = 400 * 1000 * 1000


@pytest.mark.parametrize("name", EDGE_DATABASES)
def test_an_edge_database_comes_back_equal(
    workbench: Workbench, new_database: Callable[[], str], name: str
) -> None:
    source, target = new_database(), new_database()
    load_statements(source, EDGE_DATABASES[name])
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    restored = workbench.pgkeep("restore", "shop", "--target", target)
    assert "proven" in restored.out
    # The hash of an enum's value is that of its oid: its rows belong into other partitions there.
    through_roots = name == "enum hash partitions"
    assert_same(
        take_picture(source, through_roots=through_roots),
        take_picture(target, through_roots=through_roots),
    )


def test_a_table_of_many_parts_comes_back_equal(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    source, target = new_database(), new_database()
    load_statements(
        source,
        (
            "CREATE TABLE parts (id integer, body text) WITH (fillfactor = 20)",
            "INSERT INTO parts SELECT n, repeat('x', n % 700) FROM generate_series(1, 9000) AS n",
            "DELETE FROM parts WHERE id BETWEEN 2000 AND 7000",  # parts without any row
            "UPDATE parts SET body = 'moved' WHERE id % 3 = 0",
        ),
    )
    workbench.init(source)
    with workbench.config.open("a") as config:
        config.write("[backup]\npart_pages = 16\n")
    backup = workbench.pgkeep("backup", "shop", "--json").document
    assert isinstance(backup, dict)
    assert backup["parts_read"] > 20
    workbench.pgkeep("restore", "shop", "--target", target)
    assert_same(take_picture(source), take_picture(target))


# What pg_dump or COPY trips over, beyond names and sizes.
ODD_DATABASES: dict[str, tuple[str, ...]] = {
    "rows that break the rules": (
        "CREATE TABLE v (a integer, b integer)",
        "INSERT INTO v VALUES (1, -1)",
        "ALTER TABLE v ADD CHECK (b > 0) NOT VALID",
        "CREATE DOMAIN positive AS integer",
        "CREATE TABLE of_domain (x positive)",
        "INSERT INTO of_domain VALUES (-1)",
        "ALTER DOMAIN positive ADD CONSTRAINT above_zero CHECK (VALUE > 0) NOT VALID",
        "CREATE TABLE p (id integer PRIMARY KEY)",
        "CREATE TABLE c (p integer)",
        "INSERT INTO c VALUES (77)",
        "ALTER TABLE c ADD FOREIGN KEY (p) REFERENCES p NOT VALID",
        "CREATE TABLE loop (id integer PRIMARY KEY, next integer REFERENCES loop"
        " DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO loop VALUES (1, 2), (2, 1)",
    ),
    "tables that change or refuse what is inserted": (
        "CREATE TABLE ruled (x integer)",
        "INSERT INTO ruled VALUES (1)",
        "CREATE RULE nothing AS ON INSERT TO ruled DO INSTEAD NOTHING",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TABLE refusing (x integer)",
        "INSERT INTO refusing VALUES (1)",
        "CREATE TRIGGER refuse BEFORE INSERT ON refusing FOR EACH ROW EXECUTE FUNCTION refuse()",
        "ALTER TABLE refusing ENABLE ALWAYS TRIGGER refuse",
        "CREATE TABLE hidden (x integer)",
        "INSERT INTO hidden VALUES (1)",
        "ALTER TABLE hidden ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "CREATE UNLOGGED TABLE unlogged (x integer)",
        "INSERT INTO unlogged VALUES (1)",
        "CREATE TABLE only_generated (b integer GENERATED ALWAYS AS (5) STORED)",
        "INSERT INTO only_generated DEFAULT VALUES",
        "CREATE TABLE counted (a integer, id integer GENERATED ALWAYS AS IDENTITY"
        " (START 100 INCREMENT 7), twice integer GENERATED ALWAYS AS (a * 2) STORED)",
        "INSERT INTO counted (a) SELECT generate_series(1, 10)",
    ),
    "event triggers that act and forbid": EVENT_TRIGGERS,
    "many large objects": (
        "SELECT count(lo_from_bytea(0, convert_to(repeat(n::text, n % 3000), 'UTF8')))"
        " FROM generate_series(1, 4500) AS n",
    ),
    "extensions": (
        "CREATE SCHEMA ext",
        "CREATE EXTENSION hstore SCHEMA ext",
        "CREATE EXTENSION citext",
        "CREATE EXTENSION btree_gist",
        "CREATE TABLE t (h ext.hstore, c citext UNIQUE, r int4range, k integer,"
        " EXCLUDE USING gist (k WITH =, r WITH &&))",
        "INSERT INTO t SELECT ext.hstore('k' || n, 'v\"' || n), 'C' || n, int4range(n, n + 1),"
        " n % 3 FROM generate_series(1, 100) AS n",
    ),
    "views on views that were filled or not": (
        "CREATE TABLE t AS SELECT generate_series(1, 5) AS id",
        "CREATE MATERIALIZED VIEW z AS SELECT * FROM t",
        "CREATE MATERIALIZED VIEW a AS SELECT * FROM z",
        "CREATE MATERIALIZED VIEW empty AS SELECT * FROM a WITH NO DATA",
        "CREATE UNIQUE INDEX ON a (id)",
    ),
    "schema public is closed": (
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        "COMMENT ON SCHEMA public IS 'mine'",
        "ALTER SCHEMA public OWNER TO postgres",
        "CREATE TABLE t AS SELECT 1 AS x",
        "REVOKE ALL ON t FROM postgres",
    ),
    "schema public is gone": (
        "DROP SCHEMA public",
        "CREATE SCHEMA a",
        "CREATE TABLE a.t AS SELECT 1 AS x",
    ),
    "large objects closed to their owner": (
        "SELECT lo_create(4242)",
        "REVOKE ALL ON LARGE OBJECT 4242 FROM postgres",
        "SELECT lo_create(4243)",
        "GRANT SELECT ON LARGE OBJECT 4243 TO pg_monitor",
        "REVOKE UPDATE ON LARGE OBJECT 4243 FROM postgres",
    ),
}


@pytest.mark.parametrize("name", list(ODD_DATABASES))
def test_an_odd_database_comes_back_equal(
    workbench: Workbench, new_database: Callable[[], str], name: str
) -> None:
    source, target = new_database(), new_database()
    load_statements(source, ODD_DATABASES[name])
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    workbench.pgkeep("restore", "shop", "--target", target)
    assert_same(take_picture(source), take_picture(target))


SETTINGS_THAT_CHANGE_TEXT = (
    """search_path = 'Weird "schema', pg_catalog""",
    "datestyle = 'German, DMY'",
    "intervalstyle = 'sql_standard'",
    "bytea_output = 'escape'",
    "timezone = 'Asia/Kolkata'",
    "extra_float_digits = -5",
    "xmlbinary = 'hex'",
    "standard_conforming_strings = off",
    "backslash_quote = off",
    "quote_all_identifiers = on",
    "array_nulls = off",
    "transform_null_equals = on",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_read_only = on",
    "statement_timeout = '30s'",
    r"""app.some_thing = 'it''s \ "x"'""",
)


def test_a_databases_own_settings_come_back_and_change_no_row(
    workbench: Workbench, server: ScratchServer
) -> None:
    rows = (
        'CREATE SCHEMA "Weird ""schema"',
        'CREATE TABLE "Weird ""schema".t (d date, ts timestamptz, i interval, b bytea, f float8,'
        " m money, a text[], t text)",
        """INSERT INTO "Weird ""schema".t VALUES ('2024-03-04', now(),"""
        r""" '1 year -2 days 03:04:05.6', '\xdeadbeef00', 0.1::float8 + 0.2::float8,"""
        r""" 12345.67, ARRAY['NULL', NULL, 'a\b'],"""
        r""" E'a\\b\'c')""",
    )
    own_settings = (
        "SELECT array_agg(setting ORDER BY setting) FROM pg_db_role_setting, unnest(setconfig)"
        " AS setting WHERE setdatabase = (SELECT oid FROM pg_database"
        " WHERE datname = current_database())"
    )
    with databases(server, "settings_source", "settings_target") as (source, target):
        load_statements(source, rows)
        load_statements(
            source,
            tuple(f"ALTER DATABASE settings_source SET {s}" for s in SETTINGS_THAT_CHANGE_TEXT),
        )
        workbench.init(source)
        workbench.pgkeep("backup", "shop")
        workbench.pgkeep("restore", "shop", "--target", target)
        assert_same(take_picture(source), take_picture(target))
        settings = value(source, own_settings)
        assert isinstance(settings, list)
        assert len(settings) == len(SETTINGS_THAT_CHANGE_TEXT)
        assert value(target, own_settings) == settings


@pytest.mark.timeout(60)
def test_reading_back_a_large_table_does_not_lock_out_its_keys(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    """A primary key waits for whoever reads the table, so no reader may wait for it in turn."""
    source = new_database()
    load_statements(
        source,
        (
            "CREATE TABLE large (id integer PRIMARY KEY, body text NOT NULL, also integer UNIQUE)",
            "INSERT INTO large SELECT n, repeat(md5(n::text), 40), n"
            " FROM generate_series(1, 8000) AS n",
        ),
    )
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    for _ in range(3):
        target = new_database()
        workbench.pgkeep("restore", "shop", "--target", target, "--jobs", "3")
        assert (
            value(
                target,
                "SELECT count(*) FROM pg_index WHERE indisvalid AND indisunique"
                " AND indrelid = 'large'::regclass",
            )
            == 2
        )


def test_rows_of_100_mb_come_back_in_bounded_memory(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    source, target = new_database(), new_database()
    load_statements(source, HUGE_ROWS)
    workbench.init(source)
    config = ("--config", str(workbench.config))
    backup = peak_memory_of("backup", "shop", *config)
    restore = peak_memory_of("restore", "shop", "--target", target, *config)
    print(f"\npeak at backup:  {backup}\npeak at restore: {restore}")  # noqa: T201
    assert value(target, HUGE_ROWS_DIGEST) == value(source, HUGE_ROWS_DIGEST)
    assert max(backup.bytes, restore.bytes) < MOST_MEMORY_BYTES


@dataclass
class Peak:
    """The most memory that a process and its children had at once."""

    bytes: int = 0
    each: str = ""

    def __str__(self) -> str:
        return f"{self.bytes >> 20} MiB ({self.each})"


def peak_memory_of(*arguments: str) -> Peak:
    """Run pgkeep in a process of its own, which must end well, and watch."""
    peak = Peak()
    with subprocess.Popen(
        [sys.executable, "-m", "pgkeep", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None:
            found = {pid: rss_bytes(pid) for pid in family(process.pid)}
            if sum(found.values()) > peak.bytes:
                each = ", ".join(f"{name_of(pid)} {size >> 20}" for pid, size in found.items())
                peak = Peak(sum(found.values()), each)
            time.sleep(0.02)
    assert process.returncode == 0
    return peak


def family(root: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile
        children.setdefault(parent, []).append(int(path.parent.name))
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def rss_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_bytes_of_no_encoding_come_back_as_they_were(
    workbench: Workbench, server: ScratchServer
) -> None:
    """A SQL_ASCII database holds what nobody checked: bytes that are no UTF-8."""
    for name in ("ascii", "ascii_restored"):
        server.create_database(name, encoding="SQL_ASCII")
    statement = (
        b"CREATE TABLE t (x text); INSERT INTO t VALUES (convert_from('\\xfffe41', 'SQL_ASCII'))"
    )
    with psycopg.connect(server.url("ascii"), autocommit=True) as connection:
        connection.execute(statement)
    workbench.init(server.url("ascii"))
    workbench.pgkeep("backup", "shop")
    workbench.pgkeep("restore", "shop", "--target", server.url("ascii_restored"))
    with psycopg.connect(server.url("ascii_restored")) as connection:
        row = connection.execute("SELECT encode(x::bytea, 'hex') FROM t").fetchone()
    assert row == (b"fffe41",)
    for name in ("ascii", "ascii_restored"):
        server.drop_database(name)


def test_hash_partitions_by_types_made_of_enums_come_back(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    """An enum hashes by the ids of its values, which are others in the target."""
    source, target = new_database(), new_database()
    load_statements(
        source,
        (
            "CREATE TYPE e AS ENUM ('a', 'b', 'c', 'd', 'e')",
            "CREATE TABLE ha (k e[], i integer) PARTITION BY HASH (k)",
            "CREATE TABLE ha0 PARTITION OF ha FOR VALUES WITH (MODULUS 3, REMAINDER 0)",
            "CREATE TABLE ha1 PARTITION OF ha FOR VALUES WITH (MODULUS 3, REMAINDER 1)",
            "CREATE TABLE ha2 PARTITION OF ha FOR VALUES WITH (MODULUS 3, REMAINDER 2)",
            "INSERT INTO ha SELECT ARRAY[v, v], g FROM generate_series(1, 50) g,"
            " unnest(enum_range(NULL::e)) v",
            "CREATE TYPE c AS (x integer, e e)",
            "CREATE TABLE hc (k c, i integer) PARTITION BY HASH (k)",
            "CREATE TABLE hc0 PARTITION OF hc FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
            "CREATE TABLE hc1 PARTITION OF hc FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
            "INSERT INTO hc SELECT ROW(g, v)::c, g FROM generate_series(1, 50) g,"
            " unnest(enum_range(NULL::e)) v",
        ),
    )
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    restored = workbench.pgkeep("restore", "shop", "--target", target, "--json").document
    assert isinstance(restored, dict)
    assert restored["proven"]
    assert restored["rows"] == 500
