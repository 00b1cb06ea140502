"""An exported backup is plain SQL: psql alone makes the database of it, again and again."""

from __future__ import annotations

import dataclasses
import gzip
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from comparison import (
    Picture,
    assert_same,
    databases,
    dump_definitions,
    load_statements,
    take_picture,
    value,
)
from conftest import Workbench
from pgkeep.demo import story
from pgkeep.postgres.programs import choose_client
from pgkeep.postgres.server import ScratchServer
from schemas import EDGE_DATABASES, EVENT_TRIGGERS

GUIDES_FLAGS = ("--clean", "--no-owner", "--no-privileges")
DUMP_FLAGS = ("--no-owner", "--no-privileges")

PSQL = choose_client(17, need_tls=False).path("psql")

CIRCLE = (
    "CREATE TYPE mood AS ENUM ('sad', 'happy')",
    "CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN upper($1)",
    "CREATE TABLE hens (id serial PRIMARY KEY, egg integer, mood mood)",
    "CREATE TABLE eggs (id serial PRIMARY KEY, hen integer REFERENCES hens, note text"
    " CHECK (shout(note) <> 'NO'))",
    "INSERT INTO hens (egg, mood) SELECT n, 'happy' FROM generate_series(1, 300) AS n",
    "INSERT INTO eggs (hen, note) SELECT n, E'tab\\t\\\\.\\nline ' || n"
    " FROM generate_series(300, 1, -1) AS n",
    "ALTER TABLE hens ADD FOREIGN KEY (egg) REFERENCES eggs",
    "CREATE TABLE coop (id integer PRIMARY KEY, inside integer REFERENCES coop)",
    "INSERT INTO coop VALUES (1, 2), (2, 1)",
    # pg_dump --clean itself cannot do these: "cannot drop inherited constraint".
    "CREATE TABLE laid (id integer, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
    "CREATE TABLE laid_old PARTITION OF laid FOR VALUES FROM (MINVALUE) TO ('2024-01-01')"
    " PARTITION BY HASH (id)",
    "CREATE TABLE laid_old_leaf PARTITION OF laid_old FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    "CREATE TABLE a_new_one (id integer, day date, CONSTRAINT a_key PRIMARY KEY (id, day))",
    "ALTER TABLE laid ATTACH PARTITION a_new_one FOR VALUES FROM ('2024-01-01') TO (MAXVALUE)",
    "CREATE INDEX ON laid (day)",
    "INSERT INTO laid SELECT n, date '2023-12-01' + n FROM generate_series(1, 60) AS n",
    "CREATE TABLE hatched (id integer, day date, FOREIGN KEY (id, day) REFERENCES laid)",
    "INSERT INTO hatched SELECT * FROM laid WHERE id < 40",
    "CREATE VIEW days AS SELECT id, day, count(*) FROM laid GROUP BY id, day",
    "CREATE VIEW happy AS SELECT * FROM hens WHERE mood = 'happy'",
    "CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM happy",
    "SELECT lo_from_bytea(4001, 'egg')",
    "COMMENT ON LARGE OBJECT 4001 IS 'of a hen'",
    "SELECT setval('hens_id_seq', 1000, false)",
)


@pytest.fixture
def farm(server: ScratchServer) -> Iterator[str]:
    with databases(server, "export_farm") as (url,):
        load_statements(url, CIRCLE)
        yield url


@pytest.fixture
def target(server: ScratchServer) -> Iterator[str]:
    with databases(server, "export_target") as (url,):
        yield url


@pytest.fixture
def backed_up(workbench: Workbench, farm: str) -> Workbench:
    workbench.init(farm)
    workbench.pgkeep("backup", "shop")
    return workbench


def psql(url: str, script: Path) -> None:
    """Load a file as its own heading says: at the first error, psql ends with exit code 3."""
    command: list[str | Path] = [
        PSQL,
        "-X",
        "-q",
        "-o",
        "/dev/null",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        url,
    ]
    done = subprocess.run(command, input=unpacked(script), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def unpacked(script: Path) -> bytes:
    if script.suffix == ".gz":
        return gzip.decompress(script.read_bytes())
    if script.suffix == ".zst":
        with script.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as it:
            return it.read()
    return script.read_bytes()


@pytest.mark.parametrize("name", ["farm.sql", "farm.sql.gz", "farm.sql.zst"])
def test_psql_makes_the_database_of_an_exported_file(
    backed_up: Workbench, farm: str, target: str, tmp_path: Path, name: str
) -> None:
    script = tmp_path / name
    backed_up.pgkeep("export", "shop", "-o", str(script))
    assert script.stat().st_mode & 0o777 == 0o600
    psql(target, script)
    assert_same(take_picture(farm), take_picture(target))


def test_an_export_goes_to_standard_output(
    backed_up: Workbench, farm: str, target: str, tmp_path: Path
) -> None:
    exported = backed_up.pgkeep("export", "shop", "-o", "-")
    script = tmp_path / "stdout.sql"
    script.write_text(exported.out)
    psql(target, script)
    assert_same(take_picture(farm), take_picture(target))


def test_a_clean_export_loads_over_what_is_there_again_and_again(
    backed_up: Workbench, farm: str, target: str, tmp_path: Path
) -> None:
    script = tmp_path / "clean.sql"
    backed_up.pgkeep("export", "shop", "-o", str(script), *GUIDES_FLAGS)
    for _ in range(3):  # into an empty database, then over what is there, twice
        psql(target, script)
        assert_same(
            take_picture(farm, dump_options=DUMP_FLAGS),
            take_picture(target, dump_options=DUMP_FLAGS),
        )
        load_statements(target, ("DELETE FROM coop", "UPDATE eggs SET note = 'changed'"))


def test_the_shop_comes_back_through_psql(
    workbench: Workbench, server: ScratchServer, target: str, tmp_path: Path
) -> None:
    """With owners and grants, and then over itself with the guide's flags."""
    script, clean = tmp_path / "shop.sql.gz", tmp_path / "clean.sql.zst"
    with databases(server, "export_shop") as (shop,):
        story.run_script(shop, "shop.sql")
        workbench.init(shop)
        workbench.pgkeep("backup", "shop")
        workbench.pgkeep("export", "shop", "-o", str(script))
        workbench.pgkeep("export", "shop", "-o", str(clean), *GUIDES_FLAGS)
        before = take_picture(shop)
        psql(target, script)
        assert_same(before, take_picture(target))
        psql(target, clean)
        assert_same(
            without_owners(take_picture(shop, dump_options=DUMP_FLAGS)),
            without_owners(take_picture(target, dump_options=DUMP_FLAGS)),
        )


def without_owners(picture: Picture) -> Picture:
    """A clean restore makes large objects anew, for whoever restores."""
    contents = [(oid, *rest) for oid, _, _, *rest in picture.large_objects]
    return dataclasses.replace(picture, large_objects=contents)


@pytest.mark.parametrize(
    "name", sorted(EDGE_DATABASES.keys() - {"wide rows", "enum hash partitions"})
)
def test_an_edge_database_comes_back_through_psql(
    workbench: Workbench, new_database: Callable[[], str], target: str, tmp_path: Path, name: str
) -> None:
    source, script = new_database(), tmp_path / "edge.sql"
    load_statements(source, EDGE_DATABASES[name])
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    workbench.pgkeep("export", "shop", "-o", str(script))
    psql(target, script)
    assert_same(take_picture(source), take_picture(target))


@pytest.mark.parametrize("flags", [(), ("--clean",)])
def test_event_triggers_come_after_all_that_they_would_act_on(
    workbench: Workbench,
    new_database: Callable[[], str],
    target: str,
    tmp_path: Path,
    flags: tuple[str, ...],
) -> None:
    source, script = new_database(), tmp_path / "guarded.sql"
    load_statements(source, EVENT_TRIGGERS)
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    workbench.pgkeep("export", "shop", "-o", str(script), *flags)
    for _ in range(1 + len(flags)):  # a clean one also over what is there
        psql(target, script)
        assert_same(take_picture(source), take_picture(target))


def test_rows_partitioned_by_an_enums_hash_come_back_through_psql(
    workbench: Workbench, new_database: Callable[[], str], target: str, tmp_path: Path
) -> None:
    source, script = new_database(), tmp_path / "edge.sql"
    load_statements(source, EDGE_DATABASES["enum hash partitions"])
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    workbench.pgkeep("export", "shop", "-o", str(script))
    psql(target, script)
    assert_same(take_picture(source, through_roots=True), take_picture(target, through_roots=True))


def test_definitions_and_rows_come_from_two_files(
    backed_up: Workbench, farm: str, target: str, tmp_path: Path
) -> None:
    definitions, rows = tmp_path / "definitions.sql", tmp_path / "rows.sql"
    backed_up.pgkeep("export", "shop", "-o", str(definitions), "--schema-only")
    backed_up.pgkeep("export", "shop", "-o", str(rows), "--data-only")
    psql(target, definitions)
    assert take_picture(target).row_count == 0
    assert dump_definitions(target) == dump_definitions(farm)
    psql(target, rows)
    assert_same(take_picture(farm), take_picture(target))


def test_one_table_is_exported_with_what_it_needs(
    backed_up: Workbench, farm: str, target: str, tmp_path: Path
) -> None:
    script = tmp_path / "hens.sql"
    backed_up.pgkeep("export", "shop", "-o", str(script), "--table", "coop", "--table", "hens")
    psql(target, script)
    before, after = take_picture(farm), take_picture(target)
    assert after.rows == {name: before.rows[name] for name in ("public.coop", "public.hens")}
    assert after.sequences == {"public.hens_id_seq": (1000, False)}
    assert value(target, "SELECT enum_last(NULL::mood)") == "happy"
    assert dump_definitions(target, 17, "-t", "coop") == dump_definitions(farm, 17, "-t", "coop")


@pytest.mark.parametrize("suffix", [".sql", ".sql.gz", ".sql.zst"])
def test_a_damaged_object_fails_the_export_and_leaves_no_file(
    backed_up: Workbench, tmp_path: Path, suffix: str
) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    kept = folder / f"kept{suffix}"
    kept.write_text("an older export")
    largest = max(
        (path for path in backed_up.repository.glob("objects/*/*")),
        key=lambda path: path.stat().st_size,
    )
    data = bytearray(largest.read_bytes())
    data[-20] ^= 1
    largest.chmod(0o600)
    largest.write_bytes(data)
    failed = backed_up.pgkeep("export", "shop", "-o", str(kept), expect=1)
    assert largest.name[:8] in failed.err
    assert [path.name for path in folder.iterdir()] == [kept.name]
    assert kept.read_text() == "an older export"
