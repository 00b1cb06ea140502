"""Drills: a backup is restored where it harms nobody, compared, asked, and the evidence kept."""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from comparison import load_statements
from conftest import Workbench
from examples import contents
from failures import MAIN, SMALL_SHOP, backups, finished, manifest_path, start, wait_until
from journals import captured
from pgkeep.cli.context import Context
from pgkeep.cli.main import run
from pgkeep.errors import RestoreFailed
from pgkeep.events import Silent
from pgkeep.model import DatabaseProperties, Role
from pgkeep.postgres.address import Address
from pgkeep.postgres.server import ScratchServer
from pgkeep.recovery.drill_places import drill_place
from pgkeep.recovery.whole_databases import create_database
from pgkeep.repository.manifests import load_manifest


@pytest.fixture
def shop(workbench: Workbench, new_database: Callable[[], str]) -> str:
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    workbench.pgkeep("backup", "shop")
    return url


def drill(workbench: Workbench, *options: str, expect: int = 0) -> dict[str, Any]:
    document = workbench.pgkeep("drill", "shop", "--json", *options, expect=expect).document
    assert isinstance(document, dict)
    return document


def configure(workbench: Workbench, text: str) -> None:
    with workbench.config.open("a") as config:
        config.write(text)


def databases(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


@pytest.fixture
def other_server(
    workbench: Workbench, servers: Callable[[int], ScratchServer]
) -> Iterator[ScratchServer]:
    """A server of version 18, configured as the one where drills are made."""
    server = servers(18)
    before = databases(server.url())
    workbench.monkeypatch.setenv("DRILL_URL", server.url())
    yield server
    assert databases(server.url()) == before, "a drill left a database behind"


def test_a_drill_passes_and_leaves_signed_evidence_and_nothing_else(
    workbench: Workbench, shop: str
) -> None:
    document = drill(workbench)
    assert document["outcome"] == "passed"
    assert document["rows"] > 0
    assert document["server"].endswith("scratch")
    assert {step["name"] for step in document["steps"]} >= {"starting", "restoring", "proving"}
    assert (workbench.repository / document["evidence"]).exists()
    (status,) = json.loads(workbench.pgkeep("status", "--json").out)
    assert status["drills"][0]["backup"] == document["backup"]
    met = {one["name"]: one["met"] for one in status["objectives"]}
    assert met["whole database back"] is True


def test_forged_evidence_counts_for_nothing(workbench: Workbench, shop: str) -> None:
    path = workbench.repository / drill(workbench)["evidence"]
    path.write_bytes(path.read_bytes().replace(b'"rows":', b'"rows":1'))
    (status,) = json.loads(workbench.pgkeep("status", "--json", expect=3).out)
    assert status["drills"] == []
    shown = workbench.pgkeep("status", expect=3).out
    assert f"✗ shop/drills/{path.name}: " in " ".join(shown.split())


def test_evidence_in_another_place_counts_for_nothing(workbench: Workbench, shop: str) -> None:
    """Of another database, or under the name of a newer drill."""
    path = workbench.repository / drill(workbench)["evidence"]
    configure(workbench, '\n[databases.other]\nurl = { env = "SHOP_DATABASE_URL" }')
    folder = workbench.repository / "other" / "drills"
    folder.mkdir(parents=True)
    (folder / path.name).write_bytes(path.read_bytes())
    path.rename(path.with_name(f"20991231T000000Z{path.name[16:]}"))
    for status in json.loads(workbench.pgkeep("status", "--json", expect=None).out):
        assert status["drills"] == []


@pytest.mark.parametrize(
    ("check", "found"),
    [
        ('sql = "SELECT 1 FROM users WHERE false"', "no rows"),
        ('sql = "SELECT 7"\nexpect = "no rows"', "a row: 7"),
        ('sql = "SELECT count(*) FROM users"\nminimum = 1000000', "not a value at least 1e+06"),
        ('sql = "SELECT 5"\nmaximum = 4', "5, not a value at most 4"),
        ("sql = \"SELECT 'x'\"\nminimum = 1", "no number"),
        ('sql = "SELECT * FROM nothing_like_it"', "it failed: relation"),
        ('sql = "DELETE FROM users"', "it failed: cannot execute DELETE"),
    ],
)
def test_a_check_that_fails_is_told(
    workbench: Workbench, shop: str, check: str, found: str
) -> None:
    configure(workbench, f'\n[[databases.shop.checks]]\nname = "mine"\n{check}\n')
    outcome = workbench.pgkeep("drill", "shop", expect=1)
    assert "check 'mine'" in outcome.err
    assert found in outcome.err


def test_checks_that_hold_pass(workbench: Workbench, shop: str) -> None:
    configure(
        workbench,
        """
[[databases.shop.checks]]
name = "users"
sql = "SELECT count(*) FROM users"
minimum = 1
[[databases.shop.checks]]
name = "orphans"
sql = "SELECT 1 WHERE false"
expect = "no rows"
""",
    )
    document = drill(workbench)
    assert [one["passed"] for one in document["checks"][:2]] == [True, True]


def test_damage_fails_the_drill_and_the_evidence_says_so(workbench: Workbench, shop: str) -> None:
    objects = (path for path in workbench.repository.glob("objects/*/*"))
    path = max(objects, key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    document = workbench.pgkeep("drill", "shop", "--json", expect=1)
    assert "[E043]" in document.err
    (status,) = json.loads(workbench.pgkeep("status", "--json", expect=3).out)
    assert status["drills"][0]["outcome"] == "failed"


def test_what_needs_a_missing_extension_is_not_proven_and_all_the_rest_is(
    workbench: Workbench, new_database: Callable[[], str], other_server: ScratchServer
) -> None:
    url = new_database()
    load_statements(
        url,
        (
            "CREATE EXTENSION pgcrypto",
            "CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain VALUES (1), (2)",
            "CREATE TABLE hashed (id int PRIMARY KEY,"
            " h bytea GENERATED ALWAYS AS (digest('a', 'md5')) STORED)",
            "INSERT INTO hashed (id) VALUES (1)",
            "CREATE VIEW seen AS SELECT * FROM hashed",
            "CREATE MATERIALIZED VIEW kept AS SELECT * FROM hashed",
        ),
    )
    workbench.init(url)
    configure(workbench, '\n[drills]\nserver = { env = "DRILL_URL" }\n')
    workbench.pgkeep("backup", "shop")
    document = drill(workbench, expect=3)
    assert document["outcome"] == "partial"
    assert (document["rows"], document["tables"]) == (2, 1)
    missing = {one["what"] for one in document["not_covered"]}
    assert {"extension pgcrypto", "table public.hashed", "view public.seen"} <= missing
    assert "materialized view public.kept" in missing


def test_what_needs_an_extension_that_the_server_has_is_proven(
    workbench: Workbench, shop: str
) -> None:
    load_statements(
        shop,
        ("CREATE SCHEMA more", "CREATE EXTENSION citext SCHEMA more",
         "CREATE EXTENSION earthdistance CASCADE",
         "CREATE TABLE mails (mail more.citext PRIMARY KEY)", "INSERT INTO mails VALUES ('A@b')"),
    )  # fmt: skip
    workbench.pgkeep("backup", "shop")
    document = drill(workbench)
    assert (document["outcome"], document["not_covered"]) == ("passed", [])


def test_any_backup_can_be_drilled(workbench: Workbench, shop: str) -> None:
    load_statements(shop, ("CREATE TABLE more AS SELECT 1 AS x",))
    workbench.pgkeep("backup", "shop")
    new, old = backups(workbench)
    assert drill(workbench, "--backup", old)["backup"] == old
    assert drill(workbench, "--random")["backup"] in (old, new)


def test_the_newest_proven_backup_is_never_pruned(workbench: Workbench, shop: str) -> None:
    proven = drill(workbench)["backup"]
    for number in range(3):
        load_statements(shop, (f"CREATE TABLE t{number} AS SELECT 1 AS x",))
        workbench.pgkeep("backup", "shop")
    configure(workbench, "\n[retention]\nmanual_days = 0.000001\nminimum = 1\n")
    workbench.monkeypatch.setattr(
        Context, "now", staticmethod(lambda: datetime.now(UTC) + timedelta(days=2))
    )
    shown = workbench.pgkeep("prune", "--dry-run").out
    line = next(line for line in shown.splitlines() if proven in line)
    assert "the newest that a drill has proven" in line
    assert shown.count("to go") == 2


def test_a_drill_needs_no_configuration(
    workbench: Workbench, shop: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    workbench.monkeypatch.chdir(elsewhere)
    workbench.monkeypatch.setenv("XDG_STATE_HOME", str(elsewhere))
    workbench.monkeypatch.setenv("XDG_CONFIG_HOME", str(elsewhere))
    url = Path(workbench.repository).as_uri()
    key = str(workbench.identity)
    assert run(["drill", "shop", "--repository", url, "--identity", key, "--json"]) == 0


def test_critical_tables_come_back_first_and_their_time_is_measured(
    workbench: Workbench, shop: str
) -> None:
    text = workbench.config.read_text()
    text = text.replace("[databases.shop]\n", '[databases.shop]\ncritical_tables = ["orders"]\n')
    workbench.config.write_text(text)
    steps = [step["name"] for step in drill(workbench)["steps"]]
    assert steps.index("critical") < steps.index("restoring")
    (status,) = json.loads(workbench.pgkeep("status", "--json").out)
    met = {one["name"]: one["met"] for one in status["objectives"]}
    assert met["critical tables back"] is True


@pytest.mark.parametrize(
    ("check", "found"),
    [
        ("sql = \"SELECT 'NaN'::float8\"\nminimum = 1", "NaN, not a value at least 1"),
        ("sql = \"SELECT 'infinity'::float8\"\nminimum = 1", "Infinity, not a value"),
        ('sql = "SELECT NULL::int"\nminimum = 1', "None, which is no number"),
        ('sql = "SELECT generate_series(1, 2)"\nminimum = 1', "no single value"),
        ('sql = "SELECT 1; COMMIT; DELETE FROM users"', "cannot insert multiple commands"),
        ("sql = \"SELECT nextval('orders_id_seq')\"", "it failed: cannot execute nextval"),
        ('sql = "SELECT pg_terminate_backend(pg_backend_pid())"', "it failed: terminating"),
    ],
)
def test_an_odd_check_fails_and_changes_nothing(
    workbench: Workbench, shop: str, check: str, found: str
) -> None:
    configure(workbench, f'\n[[databases.shop.checks]]\nname = "mine"\n{check}\n')
    outcome = workbench.pgkeep("drill", "shop", expect=1)
    assert "error: [E043]" in outcome.err
    assert found in outcome.err + outcome.out


@pytest.mark.parametrize(
    "sql", ["COPY users TO STDOUT", "COMMIT", "SELECT pg_terminate_backend(pg_backend_pid())"]
)
def test_an_odd_check_does_not_answer_for_the_next(
    workbench: Workbench, shop: str, sql: str
) -> None:
    for name, query in (("odd", sql), ("good", "SELECT 1")):
        configure(workbench, f'\n[[databases.shop.checks]]\nname = "{name}"\nsql = "{query}"\n')
    document = drill(workbench, expect=1)
    passed = {one["name"]: one["passed"] for one in document["checks"]}
    assert passed == {"odd": False, "good": True, "foreign keys": True, "indexes": True}
    assert document["problem"] is None


def test_a_check_with_a_huge_result_reads_its_first_row_alone(
    workbench: Workbench, shop: str
) -> None:
    sql = "SELECT repeat('x', 1000) FROM generate_series(1, 10000000)"
    configure(workbench, f'\n[[databases.shop.checks]]\nname = "huge"\nsql = "{sql}"\n')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert drill(workbench)["outcome"] == "passed"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_a_check_that_hangs_is_given_up(workbench: Workbench, shop: str) -> None:
    workbench.monkeypatch.setattr("pgkeep.recovery.checks._TIMEOUT_SECONDS", 2)
    configure(
        workbench, '\n[[databases.shop.checks]]\nname = "slow"\nsql = "SELECT pg_sleep(999)"\n'
    )
    outcome = workbench.pgkeep("drill", "shop", expect=1)
    assert "check 'slow': it failed: canceling statement due to statement timeout" in outcome.err


def test_foreign_keys_are_told_of(workbench: Workbench, shop: str) -> None:
    load_statements(
        shop,
        ("ALTER TABLE orders ADD CONSTRAINT later FOREIGN KEY (id) REFERENCES users NOT VALID",),
    )
    workbench.pgkeep("backup", "shop")
    (found,) = (one for one in drill(workbench)["checks"] if one["name"] == "foreign keys")
    assert found["passed"]
    assert found["found"] == "1 hold; 1 are NOT VALID or NOT ENFORCED in the source too"


# --- on a server of the user's ----------------------------------------------------------------


@pytest.fixture
def with_roles(
    workbench: Workbench, new_database: Callable[[], str], other_server: ScratchServer
) -> Iterator[str]:
    """A database that needs roles which only its own server has; drills are made elsewhere."""
    url = new_database()
    load_statements(
        url,
        ('CREATE ROLE "drill Reader"', "CREATE ROLE drill_writer LOGIN IN ROLE \"drill Reader\"",
         "CREATE TABLE seen AS SELECT 1 AS id", "ALTER TABLE seen OWNER TO drill_writer",
         "CREATE TABLE mine AS SELECT 2 AS id", "ALTER TABLE mine ENABLE ROW LEVEL SECURITY",
         'CREATE POLICY few ON mine TO "drill Reader" USING (id = 2)',
         "CREATE POLICY all_of_them ON mine USING (true)",
         'GRANT SELECT ON mine TO "drill Reader"'),
    )  # fmt: skip
    workbench.init(url)
    configure(workbench, '\n[drills]\nserver = { env = "DRILL_URL" }\n')
    workbench.pgkeep("backup", "shop")
    yield url
    load_statements(url, ("DROP TABLE mine, seen", 'DROP ROLE drill_writer, "drill Reader"'))


def is_visited(url: str, database: str) -> bool:
    """Whether the server still has sessions of the drill that has made a database."""
    with psycopg.connect(url) as connection:
        query = (
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND (datname = %s OR query LIKE %s))"
        )
        row = connection.execute(query, (database, f"%{database}%")).fetchone()
    return bool(row and row[0])


def roles(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}


def test_roles_that_a_drill_has_made_go_with_it(
    workbench: Workbench, with_roles: str, other_server: ScratchServer
) -> None:
    before = roles(other_server.url())
    assert drill(workbench)["outcome"] == "passed"
    assert roles(other_server.url()) == before


def test_without_a_role_all_the_rest_is_proven_and_what_is_not_is_named(
    workbench: Workbench, with_roles: str, other_server: ScratchServer
) -> None:
    load_statements(other_server.url(), ("CREATE ROLE poor LOGIN PASSWORD 'x' CREATEDB",))
    poor = re.sub(r"://[^@]+@", "://poor:x@", other_server.url())
    workbench.monkeypatch.setenv("DRILL_URL", poor)
    try:
        document = drill(workbench, expect=3)
    finally:
        load_statements(other_server.url(), ("DROP ROLE poor",))
    assert document["outcome"] == "partial"
    assert (document["rows"], document["tables"]) == (2, 2)
    found = {one["what"]: one["why"] for one in document["not_covered"]}
    assert "permission denied" in found["role drill Reader"]
    assert found["policy public.mine few"] == "needs role drill Reader"
    assert found["the owner of table public.seen"] == "it is role drill_writer"
    assert not [what for what in found if "all_of_them" in what]


def test_what_a_killed_drill_left_on_a_server_goes_with_the_next(
    workbench: Workbench, with_roles: str, other_server: ScratchServer
) -> None:
    before = databases(other_server.url()), roles(other_server.url())
    die = MAIN.replace(
        "main()",
        "import os, signal, pgkeep.recovery.restore as r;"
        " r.fill = lambda *_: os.kill(os.getpid(), signal.SIGKILL); main()",
    )
    assert finished(start(workbench, "drill", "shop", code=die)).code == -signal.SIGKILL
    (left,) = databases(other_server.url()) - before[0]
    assert {"drill_writer", "drill Reader"} <= roles(other_server.url())
    other_server.create_database("pgkeep_drill_000000000000")
    load_statements(other_server.url("pgkeep_drill_000000000000"), ("CREATE TABLE mine ()",))
    try:
        wait_until(lambda: not is_visited(other_server.url(), left), "the server has noticed")
        drill(workbench)
        assert left not in databases(other_server.url())
        assert "pgkeep_drill_000000000000" in databases(other_server.url()), "not a drill's"
    finally:
        other_server.drop_database("pgkeep_drill_000000000000")
    assert (databases(other_server.url()), roles(other_server.url())) == before


def test_roles_stay_as_long_as_a_drill_may_need_them(other_server: ScratchServer) -> None:
    before = roles(other_server.url())
    group, member = Role("drill_group", "NOLOGIN"), Role("drill_member", "LOGIN", ("drill_group",))
    needed = contents(roles=(group, member))
    server = Address.parse(other_server.url())
    with ExitStack() as second:
        with drill_place(needed, server, (), Silent()):
            place = second.enter_context(drill_place(needed, server, (), Silent()))
            assert place.refused_roles == ()
        assert {"drill_group", "drill_member"} <= roles(other_server.url())
    assert roles(other_server.url()) == before


def test_why_a_drill_failed_is_told_if_its_server_went_down(
    workbench: Workbench, shop: str
) -> None:
    def fill(*_: object) -> None:
        raise RestoreFailed("the disk is full")

    def drop(*_: object) -> None:
        raise psycopg.OperationalError("nobody is there")

    workbench.monkeypatch.setattr("pgkeep.recovery.restore.fill", fill)
    workbench.monkeypatch.setattr("pgkeep.recovery.drill_places.drop", drop)
    assert drill(workbench, expect=1)["problem"] == "the disk is full"


@pytest.mark.parametrize("after", ["CREATE DATABASE", "CREATE EXTENSION"])
def test_what_a_drill_left_that_was_killed_while_it_made_databases_goes_too(
    workbench: Workbench, with_roles: str, other_server: ScratchServer, after: str
) -> None:
    before = databases(other_server.url())
    load_statements(with_roles, ("CREATE EXTENSION pg_trgm",))
    workbench.pgkeep("backup", "shop")
    die = MAIN.replace(
        "main()",
        "import os, signal, psycopg\n"
        "real = psycopg.Connection.execute\n"
        "def execute(self, query, *arguments, **options):\n"
        "    done = real(self, query, *arguments, **options)\n"
        f"    if {after!r} in str(query):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return done\n"
        "psycopg.Connection.execute = execute\n"
        "main()",
    )
    assert finished(start(workbench, "drill", "shop", code=die)).code == -signal.SIGKILL
    left = databases(other_server.url()) - before
    assert left
    wait_until(
        lambda: not any(is_visited(other_server.url(), one) for one in left), "the server noticed"
    )
    drill(workbench)
    assert databases(other_server.url()) == before


FILL_WHEN_TOLD = """
import os, sys, time
import pgkeep.recovery.restore as restore
from pgkeep.cli.main import main
fill, go_on = restore.fill, sys.argv.pop(1)
def waiting(*arguments):
    while not os.path.exists(go_on):
        time.sleep(0.05)
    return fill(*arguments)
restore.fill = waiting
main()
"""


def test_a_drill_that_is_under_way_is_let_be(
    workbench: Workbench, with_roles: str, other_server: ScratchServer
) -> None:
    go_on = workbench.folder / "go-on"
    before = databases(other_server.url())
    first = start(workbench, str(go_on), "drill", "shop", code=FILL_WHEN_TOLD)
    wait_until(lambda: databases(other_server.url()) != before, "the first drill has begun")
    assert drill(workbench)["outcome"] == "passed"
    go_on.touch()
    assert finished(first).code == 0


@pytest.fixture
def scratch_folder() -> Iterator[Path]:
    """A folder for scratch servers that whoever runs them may enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_scratch_server_does_not_outlive_a_drill(
    workbench: Workbench, shop: str, number: signal.Signals, scratch_folder: Path
) -> None:
    hang = MAIN.replace(
        "main()",
        "import time, pgkeep.recovery.restore as r;"
        " r.fill = lambda *_: (print('here', flush=True), time.sleep(600)); main()",
    )
    workbench.monkeypatch.setenv("TMPDIR", str(scratch_folder))
    process = start(workbench, "drill", "shop", code=hang)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    assert list(scratch_folder.glob("pgkeep-server-*"))
    process.send_signal(number)
    assert finished(process).code in (128 + number, -number)
    wait_until(lambda: not list(scratch_folder.iterdir()), "the server's folder is gone")


def test_a_locale_of_another_provider_is_that_of_the_drill(
    workbench: Workbench, server: ScratchServer
) -> None:
    """Checks may depend on it: in the locale C, letters beyond ASCII have no other case."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(
            "CREATE DATABASE builtin_locale TEMPLATE template0 ENCODING 'UTF8'"
            " LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'"
        )
    url = server.url("builtin_locale")
    try:
        load_statements(
            url,
            ("CREATE TABLE names (n text CHECK (lower(n) = 'ärger'))",
             "INSERT INTO names VALUES ('Ärger')"),
        )  # fmt: skip
        workbench.init(url)
        workbench.pgkeep("backup", "shop")
        assert drill(workbench)["outcome"] == "passed"
    finally:
        server.drop_database("builtin_locale")


def test_a_server_without_the_locale_is_told_of(server: ScratchServer) -> None:
    like = DatabaseProperties("x", "UTF8", "xx_XX.utf8", "xx_XX.utf8", 0, (), True, "icu", "de-DE")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        lacking = create_database(connection, "without_locale", like)
        other = replace(like, provider="libc", locale="")
        assert "'xx_XX.utf8' (libc)" in create_database(connection, "without_libc", other)
    server.drop_database("without_locale")
    server.drop_database("without_libc")
    assert lacking in ("", "this server lacks the locale 'de-DE' (icu)")


# --- the application, and what status shows ---------------------------------------------------

APPLICATION = """
import os, sys, time
import psycopg
with psycopg.connect(os.environ["PGKEEP_DRILL_URL"]) as connection:
    connection.execute("INSERT INTO notes VALUES ('the application writes')")
    print(connection.execute("SELECT count(*) FROM users").fetchone())
time.sleep(1)
"""


def start_application(workbench: Workbench, command: list[str]) -> None:
    value = json.dumps([command])
    configure(workbench, f"\n[databases.shop.drill]\napplication = {value}\n")


def measured(workbench: Workbench, name: str) -> dict[str, Any]:
    (status,) = json.loads(workbench.pgkeep("status", "--json", expect=None).out)
    (found,) = (one for one in status["objectives"] if one["name"] == name)
    assert isinstance(found, dict)
    return found


def test_a_drill_starts_the_application_and_measures_it(workbench: Workbench, shop: str) -> None:
    drill(workbench)
    without = measured(workbench, "application back")
    assert without["by"] == "the last drills, without its start"
    start_application(workbench, [sys.executable, "-c", APPLICATION])
    document = drill(workbench)
    assert document["outcome"] == "passed"
    (step,) = (one for one in document["steps"] if one["name"] == "application")
    assert step["seconds"] >= 1
    found = measured(workbench, "application back")
    assert found["by"] == "the last drills, with its start"
    assert found["measured_seconds"] >= step["seconds"]
    assert (found["met"], found["promised_seconds"]) == (True, 1800)


def test_an_application_that_does_not_start_fails_the_drill(
    workbench: Workbench, shop: str
) -> None:
    script = workbench.folder / "start"
    script.write_text('#!/bin/sh\necho "no: $PGKEEP_DRILL_URL" >&2\nexit 3\n')
    script.chmod(0o700)
    start_application(workbench, [str(script)])
    failed = workbench.pgkeep("drill", "shop", expect=1)
    assert "check 'application': the command" in failed.err
    assert "ended with 3: no: postgresql://postgres:***@127.0.0.1" in failed.err


def test_the_application_of_a_drill_ends_with_it(workbench: Workbench, shop: str) -> None:
    pid = workbench.folder / "pid"
    start_application(workbench, ["sh", "-c", f"sleep 3600 & echo $! > {pid}"])
    drill(workbench)
    state = Path("/proc", pid.read_text().strip(), "stat")
    wait_until(lambda: not state.exists() or state.read_text().split()[2] == "Z", "it has ended")


def test_status_says_what_was_proven_from_where_and_what_was_not(
    workbench: Workbench, shop: str
) -> None:
    configure(workbench, '\n[[databases.shop.checks]]\nname = "mine"\nsql = "SELECT 1 LIMIT 0"\n')
    workbench.pgkeep("drill", "shop", expect=1)
    shown = workbench.pgkeep("status", expect=3).out
    (backup,) = backups(workbench)
    assert f"of {backup} from local, on PostgreSQL 17" in shown
    assert "✗ mine: no rows" in shown
    (status,) = json.loads(workbench.pgkeep("status", "--json", expect=3).out)
    assert status["last_drill"]["checks"][0] == {
        "name": "mine", "passed": False, "found": "no rows",
    }  # fmt: skip
    # Who only looks makes no key where this one is lost.
    (workbench.state / "index.key").unlink()
    assert "mine" not in workbench.pgkeep("status", expect=3).out
    assert not (workbench.state / "index.key").exists()


def test_changes_of_the_schema_are_promised_not_to_be_lost(workbench: Workbench, shop: str) -> None:
    found = measured(workbench, "schema changes lost")
    assert (found["promised_seconds"], found["met"]) == (24 * 3600, True)
    assert found["by"] == "the newest backup with definitions"
    with captured(workbench, shop, "pgkeep_shop") as journal:
        journal.cut()
        found = measured(workbench, "schema changes lost")
    assert (found["promised_seconds"], found["measured_seconds"], found["met"]) == (0, 0, True)


def test_a_backup_that_cannot_be_opened_is_a_drill_that_failed(
    workbench: Workbench, shop: str
) -> None:
    drill(workbench)
    (backup,) = backups(workbench)
    for stored in load_manifest(manifest_path(workbench, backup).read_bytes(), name="x").contents:
        (workbench.repository / stored.name.path).unlink()
    failed = workbench.pgkeep("drill", "shop", expect=1)
    assert "missing" in failed.err
    (status,) = json.loads(workbench.pgkeep("status", "--json", expect=3).out)
    assert [one["outcome"] for one in status["drills"]] == ["failed", "passed"]
    assert "missing" in status["last_drill"]["problem"]


def test_evidence_is_kept_where_it_can_be_when_a_repository_is_down(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    second = workbench.folder / "second"
    configure(workbench, f'\n[repositories.second]\nurl = "{second.as_uri()}"\n')
    workbench.pgkeep("backup", "shop")
    path = drill(workbench)["evidence"]
    assert (second / path).read_bytes() == (workbench.repository / path).read_bytes()
    away = second.rename(workbench.folder / "away")
    path = drill(workbench, expect=3)["evidence"]
    assert (workbench.repository / path).exists()
    away.rename(second)
    forged = workbench.repository / "shop/drills/20260101T000000Z-00000000.evidence"
    forged.write_bytes((workbench.repository / path).read_bytes().replace(b'"rows"', b'"ROWS"'))
    assert "1 record of drills" in workbench.pgkeep("sync", "--dry-run", expect=3).out
    workbench.pgkeep("sync")
    assert (second / path).read_bytes() == (workbench.repository / path).read_bytes()
    assert not (second / "shop/drills" / forged.name).exists()
    (status,) = json.loads(workbench.pgkeep("status", "--json", expect=None).out)
    assert len(status["drills"]) == 2
