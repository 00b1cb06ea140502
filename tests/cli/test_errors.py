"""What goes wrong is told in one line with a code, with a hint, and without a secret."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from comparison import load_statements
from conftest import Workbench
from failures import (
    SMALL_SHOP,
    backups,
    configure,
    finished,
    first_backup,
    lock_held,
    python,
    run_sql,
    start,
    told,
    wait_until,
)
from pgkeep.backup import source
from pgkeep.postgres import programs as programs_module
from pgkeep.postgres.programs import Programs, choose_server
from pgkeep.postgres.server import ScratchServer
from pgkeep.sealing import SigningKey, X25519Identity
from pgkeep.stores import LocalStore

IS_ROOT = os.geteuid() == 0
NewDatabase = Callable[[], str]
WRONG = "Wr0ngSecret"


def with_login(url: str, user: str | None, password: str) -> str:
    """A URL with another role and password."""
    parts = urlsplit(url)
    host = f"{parts.hostname}:{parts.port}"
    return urlunsplit(parts._replace(netloc=f"{user or parts.username}:{password}@{host}"))


@pytest.fixture
def shop(workbench: Workbench, new_database: NewDatabase) -> str:
    """A small shop, configured, with small parts, not yet backed up; its URL."""
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    configure(workbench, "[backup]", "part_pages = 16", "lock_timeout_seconds = 1")
    return url


@pytest.fixture(scope="module")
def tls_server() -> Iterator[ScratchServer]:
    """A server with a certificate that nobody trusts, which logs each connection."""
    folder = Path(tempfile.mkdtemp(prefix="pgkeep-tls-", dir="/tmp"))
    folder.chmod(0o755)
    key, certificate = folder / "server.key", folder / "server.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=somebody.example", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o600)
    if IS_ROOT:
        shutil.chown(key, "nobody")
    settings = {"ssl": "on", "ssl_key_file": str(key), "ssl_cert_file": str(certificate)}
    try:
        with ScratchServer.start(
            choose_server(17), settings={**settings, "log_connections": "on"}
        ) as server:
            yield server
    finally:
        shutil.rmtree(folder)


# --- reaching the server --------------------------------------------------------------------


@pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer", "require"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.1,127.0.0.1"])
def test_a_wrong_password_is_tried_once(
    workbench: Workbench, tls_server: ScratchServer, host: str, sslmode: str
) -> None:
    ports = ",".join(str(tls_server.port) for _ in host.split(","))
    hosts = ",".join(
        f"{one}:{port}" for one, port in zip(host.split(","), ports.split(","), strict=True)
    )
    before = tls_server.log_tail(100000).count("password authentication failed")
    workbench.init(f"postgresql://postgres:{WRONG}@{hosts}/postgres?sslmode={sslmode}")
    outcome = workbench.pgkeep("backup", "shop", expect=None)
    error = told(outcome, "E011")
    assert 'the server refused the login: password authentication failed for user "postgres"' in (
        error.message
    )
    assert "pgkeep has not tried again" in error.hint
    assert WRONG not in outcome.out + outcome.err
    after = tls_server.log_tail(100000).count("password authentication failed")
    assert after - before == 1


def test_an_unknown_host_is_named(workbench: Workbench) -> None:
    workbench.init(f"postgresql://u:{WRONG}@no-such-host.invalid/shop")
    outcome = workbench.pgkeep("backup", "shop", expect=None)
    assert told(outcome, "E012").message == "host 'no-such-host.invalid' is not known"
    assert WRONG not in outcome.err


def test_an_unknown_database_is_named(workbench: Workbench, server: ScratchServer) -> None:
    workbench.init(server.url("no_such_database"))
    outcome = workbench.pgkeep("backup", "shop", expect=None)
    error = told(outcome, "E010")
    assert error.message.endswith('database "no_such_database" does not exist')
    assert error.hint == "Create the database, or correct the URL."
    assert server.password not in outcome.err


def test_a_refused_connection_says_so(workbench: Workbench) -> None:
    workbench.init(f"postgresql://u:{WRONG}@127.0.0.1:1/shop")
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E010")
    assert error.message == "cannot connect to u@127.0.0.1:1/shop: connection refused"


def test_a_transaction_pooler_is_refused(workbench: Workbench) -> None:
    workbench.init(f"postgresql://u:{WRONG}@127.0.0.1:6543/postgres")
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E014")
    assert error.message == (
        "u@127.0.0.1:6543/postgres is a transaction pooler, which cannot hold a snapshot"
    )
    assert error.hint == "Use the direct connection or the session pooler, both on port 5432."


def test_a_server_without_tls_is_refused_where_tls_is_required(
    workbench: Workbench, servers: Callable[[int], ScratchServer]
) -> None:
    workbench.init(servers(18).url().replace("sslmode=disable", "sslmode=require"))
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E013")
    assert error.message.endswith("server does not support SSL, but SSL was required")


@pytest.mark.parametrize("options", ["", "&sslrootcert=/nonexistent/root.crt"])
def test_an_untrusted_certificate_is_refused(
    workbench: Workbench, tls_server: ScratchServer, options: str
) -> None:
    mode = f"sslmode=verify-full{options}"
    workbench.init(tls_server.url().replace("sslmode=disable", mode))
    outcome = workbench.pgkeep("backup", "shop", expect=None)
    error = told(outcome, "E013")
    assert "certificate" in error.message
    assert "sslrootcert=FILE" in error.hint
    assert tls_server.password not in outcome.err


@pytest.mark.parametrize("password", ["pa@ss", "pa/ss", "pa@ss/word", "pa%ss"])
def test_a_password_that_tears_the_url_is_not_shown(workbench: Workbench, password: str) -> None:
    workbench.init(f"postgresql://user:{password}@db.example.com:5432/shop")
    outcome = workbench.pgkeep("backup", "shop", "--debug", expect=None)
    assert outcome.code == 2
    assert "error: [E002] the database's address is not" in outcome.err
    assert not {"pa", "ss", "pa@ss", "word"} & set(outcome.err.replace("@", " ").split())


def test_too_many_connections_are_told_with_a_remedy(
    workbench: Workbench, shop: str, server: ScratchServer
) -> None:
    run_sql(
        shop,
        "DROP ROLE IF EXISTS few",
        "CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 1",
        "GRANT pg_read_all_data TO few",
        "SELECT lo_unlink(70001)",
    )
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", with_login(shop, "few", "few"))
    error = told(workbench.pgkeep("backup", "shop", "--jobs", "2", expect=None), "E010")
    assert "too many connections" in error.message
    assert "fewer --jobs" in error.hint


# --- programs -------------------------------------------------------------------------------


def test_a_server_newer_than_every_pg_dump_names_version_and_places(
    workbench: Workbench,
    servers: Callable[[int], ScratchServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    newest = servers(18)
    older = choose_server(17).bin_dir
    workbench.init(newest.url())
    text = workbench.config.read_text()
    workbench.config.write_text(f'postgres_bin_dirs = ["{older}"]\n{text}')

    def only_configured(bin_dirs: tuple[Path, ...] = ()) -> list[Programs]:
        return [one for one in found(bin_dirs) if one.major < 18]

    found = programs_module.find_programs
    monkeypatch.setattr(programs_module, "find_programs", only_configured)
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E003", exit_code=2)
    assert error.message.startswith("pg_dump 18 or newer is needed for this server (18")
    assert error.message.endswith("and none was found")
    assert f"Looked in the configured directories {older} (17." in error.hint
    assert "postgresql-client-18" in error.hint


# --- what the role may do -------------------------------------------------------------------


@pytest.fixture
def clerk(shop: str, workbench: Workbench) -> Iterator[str]:
    """A role without rights, under which the backup runs; its name."""
    run_sql(shop, "CREATE ROLE clerk LOGIN PASSWORD 'clerk'", "SELECT lo_unlink(70001)")
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", with_login(shop, "clerk", "clerk"))
    yield "clerk"
    run_sql(shop, "DROP OWNED BY clerk", "DROP ROLE clerk")


def test_rows_that_rls_hides_stop_the_backup(workbench: Workbench, shop: str, clerk: str) -> None:
    run_sql(
        shop,
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {clerk}",
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY own ON orders TO {clerk} USING (user_id = 1)",
    )
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E022")
    assert error.message == ("row-level security hides rows from this role in table public.orders")
    assert "BYPASSRLS" in error.hint
    assert backups(workbench) == []
    run_sql(shop, "ALTER TABLE orders DISABLE ROW LEVEL SECURITY", "DROP POLICY own ON orders")


def test_a_forced_policy_stops_the_owner_too(workbench: Workbench, shop: str, clerk: str) -> None:
    run_sql(
        shop,
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {clerk}",
        "GRANT CREATE ON SCHEMA public TO clerk",
        f"ALTER TABLE notes OWNER TO {clerk}",
        "ALTER TABLE notes ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE notes FORCE ROW LEVEL SECURITY",
    )
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E022")
    assert error.message.endswith("in table public.notes")


def test_a_table_without_select_right_is_named(workbench: Workbench, shop: str, clerk: str) -> None:
    run_sql(shop, f"GRANT SELECT ON users, notes TO {clerk}")
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E021")
    assert error.message == "this role may not read table public.orders"
    assert "GRANT pg_read_all_data" in error.hint


def test_a_schema_without_usage_is_named_with_its_tables(
    workbench: Workbench, shop: str, clerk: str
) -> None:
    run_sql(
        shop,
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {clerk}",
        f"GRANT SELECT ON orders_id_seq TO {clerk}",
        "CREATE SCHEMA hidden",
        "CREATE TABLE hidden.secrets ()",
        f"GRANT SELECT ON hidden.secrets TO {clerk}",
    )
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E021")
    assert error.message == "this role may not read table hidden.secrets"
    assert "USAGE" in error.hint


def test_a_schema_backup_without_rights_is_an_error_too(
    workbench: Workbench, shop: str, clerk: str
) -> None:
    error = told(workbench.pgkeep("backup", "shop", "--kind", "schema", expect=None), "E021")
    assert "permission denied" in error.message


def test_a_name_with_line_breaks_and_markup_makes_one_line(
    workbench: Workbench, shop: str, clerk: str
) -> None:
    run_sql(shop, 'CREATE TABLE "[red]two\nlines\x1b[2J[/red]" ()')
    run_sql(shop, "GRANT SELECT ON users, orders, notes TO clerk")
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E021")
    assert error.message == (r'this role may not read table public."[red]two\nlines\x1b[2J[/red]"')


# --- tables that change meanwhile -----------------------------------------------------------


def pause_after_snapshot(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Let `act` run once, after the tables are listed and before they are locked."""
    real, done = source._lock, list[bool]()

    def then_lock(*arguments: object) -> None:
        if not done:
            done.append(True)
            act()
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(source, "_lock", then_lock)


def test_a_table_dropped_between_snapshot_and_lock_is_named(
    workbench: Workbench, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause_after_snapshot(monkeypatch, lambda: run_sql(shop, "DROP TABLE notes"))
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E023")
    assert error.message == 'relation "public.notes" does not exist'
    assert "Run the backup again" in error.hint
    assert backups(workbench) == []
    workbench.pgkeep("backup", "shop")
    assert len(backups(workbench)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE notes",
        "ALTER TABLE notes ALTER body TYPE varchar(5) USING 'new'",
        "ALTER TABLE notes ADD more integer DEFAULT random()::integer",
        "VACUUM FULL notes",
    ],
)
def test_a_table_rewritten_between_snapshot_and_lock_is_read_anew(
    workbench: Workbench, shop: str, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    pause_after_snapshot(monkeypatch, lambda: run_sql(shop, statement))
    workbench.pgkeep("backup", "shop")
    document = workbench.pgkeep("show", "shop", "--json").document
    assert isinstance(document, dict)
    rows = {table["table"]: table["rows"] for table in document["tables"]}
    assert rows["notes"] == (0 if statement.startswith("TRUNCATE") else 500)


def test_a_table_altered_without_rewriting_between_snapshot_and_lock_is_whole_or_an_error(
    workbench: Workbench, shop: str, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause_after_snapshot(
        monkeypatch,
        lambda: run_sql(shop, "ALTER TABLE notes DROP body", "ALTER TABLE notes ADD other text"),
    )
    outcome = workbench.pgkeep("backup", "shop", expect=None)
    if outcome.code == 0:
        workbench.pgkeep("restore", "shop", "--target", new_database())
    else:
        assert "notes" in told(outcome, "E023").message


def test_a_waiting_alter_table_is_given_way(workbench: Workbench, shop: str) -> None:
    with lock_held(shop, "ALTER TABLE notes ADD later integer"):
        begun = time.monotonic()
        error = told(workbench.pgkeep("backup", "shop", expect=None), "E023")
        assert time.monotonic() - begun < 20
    assert error.message == "public.notes is locked by a session that alters, empties or drops it"
    assert error.hint == "pgkeep gave way. Run the backup again when that is done."
    assert backups(workbench) == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("data", "table public.notes: canceling statement due to lock timeout"),
        ("schema", "pg_dump waited in vain for a lock: canceling statement due to"),
    ],
)
def test_an_alter_table_that_queues_up_meanwhile_ends_the_backup_and_not_the_application(
    workbench: Workbench, shop: str, monkeypatch: pytest.MonkeyPatch, kind: str, expected: str
) -> None:
    real = source._describe
    altered: list[float] = []

    def alter() -> None:
        run_sql(shop, "ALTER TABLE notes ADD later integer")
        altered.append(time.monotonic())

    application = threading.Thread(target=alter)

    def then_describe(*arguments: object, **options: object) -> object:
        application.start()
        with psycopg.connect(shop, autocommit=True) as other:
            query = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'notes'::regclass"
            wait_until(lambda: other.execute(query).fetchone() is not None, "ALTER waits")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(source, "_describe", then_describe)
    begun = time.monotonic()
    error = told(workbench.pgkeep("backup", "shop", "--kind", kind, expect=None), "E023")
    application.join(timeout=20)
    assert altered, "the application still waits"
    assert altered[0] - begun < 15
    assert error.message.startswith(expected)


# --- disks and folders ----------------------------------------------------------------------


def test_a_full_disk_leaves_no_half_backup(workbench: Workbench, shop: str) -> None:
    workbench.repository.mkdir(mode=0o700)
    if not IS_ROOT or subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k,mode=700", "tmpfs", workbench.repository],
        capture_output=True, check=False,
    ).returncode:  # fmt: skip
        pytest.xfail("only root may mount a small file system; see the next test")
    try:
        run_sql(shop, "INSERT INTO notes SELECT string_agg(md5(random()::text), '')"
                " FROM generate_series(1, 40000) GROUP BY random() < 0.5")  # fmt: skip
        error = told(workbench.pgkeep("backup", "shop", expect=None), "E062")
        assert "no space left on device" in error.message
        assert backups(workbench) == []
        assert list((workbench.repository / "tmp").iterdir()) == []
        run_sql(shop, "DELETE FROM notes WHERE length(body) > 1000")
        for path in (workbench.repository / "objects").rglob("*"):
            if path.is_file():
                path.unlink()
        workbench.pgkeep("backup", "shop")
        assert len(backups(workbench)) == 1
    finally:
        subprocess.run(["umount", workbench.repository], check=True)


def test_a_file_that_may_not_grow_is_a_full_disk(workbench: Workbench, shop: str) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))"
    main = "import sys; from pgkeep.cli.main import main; main()"
    outcome = finished(start(workbench, "backup", "shop", code=f"{limit}; {main}"))
    error = told(outcome, "E062")
    assert "file too large" in error.message
    assert "nothing is half-written" in error.hint
    assert backups(workbench) == []
    workbench.pgkeep("backup", "shop")
    assert len(backups(workbench)) == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20000


def test_a_state_folder_that_cannot_be_written_is_named(workbench: Workbench, shop: str) -> None:
    shutil.rmtree(workbench.state)
    workbench.state.write_text("a file, not a folder")
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E002", exit_code=2)
    assert str(workbench.state) in error.message
    assert "state_dir" in error.hint


def test_a_state_folder_of_another_user_is_named(workbench: Workbench, shop: str) -> None:
    """As an ordinary user, since root may write anywhere."""
    shutil.rmtree(workbench.state)
    workbench.state.mkdir(mode=0o500)
    code = (
        "import sys; from pathlib import Path; from pgkeep.errors import ConfigurationError;"
        " from pgkeep.repository.hostkeys import HostKeys; import os;"
        " os.geteuid() or os.setuid(65534)\n"
        "try: HostKeys(Path(sys.argv[1])).signing_key()\n"
        "except ConfigurationError as exc: print(exc.message)"
    )
    outcome = finished(python(code, str(workbench.state)))
    assert f"the state folder {str(workbench.state)!r}" in outcome.out or (
        "in the state folder: permission denied" in outcome.out
    ), outcome


def test_a_key_that_others_may_read_is_refused(workbench: Workbench, shop: str) -> None:
    (workbench.state / "signing.key").chmod(0o644)
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E002", exit_code=2)
    assert error.message == f"others may read the key {str(workbench.state / 'signing.key')!r}"
    assert error.hint == f"Run: chmod 600 {workbench.state / 'signing.key'}"


def test_a_repository_locked_by_another_backup_is_left_alone(
    workbench: Workbench, shop: str
) -> None:
    workbench.pgkeep("backup", "shop")
    with LocalStore(workbench.repository).exclusive("backup of 'other'"):
        error = told(workbench.pgkeep("backup", "shop", expect=None), "E065")
        assert len(backups(workbench)) == 1
    assert "is locked by another process: backup of 'other'" in error.message
    assert f"(pid {os.getpid()} on " in error.message
    workbench.pgkeep("backup", "shop")
    assert len(backups(workbench)) == 2


def test_a_folder_that_is_no_repository_is_not_written_to(workbench: Workbench, shop: str) -> None:
    workbench.repository.mkdir()
    (workbench.repository / "holiday.jpg").write_bytes(b"dear")
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E064")
    assert error.message == f"there is no repository at {workbench.repository.as_uri()}"
    assert [path.name for path in workbench.repository.iterdir()] == ["holiday.jpg"]


def test_a_vanished_repository_is_told(
    workbench: Workbench, shop: str, new_database: NewDatabase
) -> None:
    workbench.pgkeep("backup", "shop")
    workbench.repository.rename(workbench.folder / "elsewhere")
    for command in (["list"], ["show", "shop"], ["restore", "shop", "--target", new_database()]):
        error = told(workbench.pgkeep(*command, expect=None), "E064")
        assert "is the disk mounted" in error.hint
    assert not workbench.repository.exists()


def test_a_repository_of_an_unknown_format_is_not_touched(workbench: Workbench, shop: str) -> None:
    workbench.pgkeep("backup", "shop")
    description = workbench.repository / "repo.json"
    description.write_text('{"format": 2}')
    for command in (["backup", "shop"], ["list"]):
        error = told(workbench.pgkeep(*command, expect=None), "E066")
        assert "has format 2, and this version of pgkeep knows format 1" in error.message
    description.write_text("not JSON")
    told(workbench.pgkeep("list", expect=None), "E068")


# --- targets --------------------------------------------------------------------------------


def test_a_target_that_is_not_empty_is_left_as_it_is(
    workbench: Workbench, server: ScratchServer, new_database: NewDatabase
) -> None:
    source, target = new_database(), new_database()
    load_statements(source, SMALL_SHOP)
    first_backup(workbench, source)
    run_sql(target, *(f"CREATE TABLE t{n} ()" for n in range(14)))
    name = conninfo_to_dict(target)["dbname"]
    outcome = workbench.pgkeep("restore", "shop", "--target", target, expect=None)
    error = told(outcome, "E041")
    assert error.message == (f'target database "{name}" is not empty: 14 tables in schema public')
    assert error.hint.startswith("Restore into an empty database")
    assert "--into-schema" in error.hint
    with psycopg.connect(target) as connection:
        row = connection.execute("SELECT shobj_description(oid, 'pg_database') FROM pg_database"
                                 " WHERE datname = current_database()").fetchone()  # fmt: skip
    assert row == (None,), "the target was marked though nothing was restored"
    assert server.password not in outcome.err


def test_a_target_that_does_not_exist_is_told(
    workbench: Workbench, server: ScratchServer, shop: str
) -> None:
    workbench.pgkeep("backup", "shop")
    error = told(
        workbench.pgkeep("restore", "shop", "--target", server.url("nowhere"), expect=None), "E010"
    )
    assert error.message.endswith('database "nowhere" does not exist')


def test_roles_that_cannot_be_made_are_named(
    workbench: Workbench, shop: str, new_database: NewDatabase
) -> None:
    target = new_database()
    name = conninfo_to_dict(target)["dbname"]
    run_sql(
        shop,
        "CREATE ROLE seller",
        "CREATE ROLE modest LOGIN PASSWORD 'modest'",
        "ALTER TABLE notes OWNER TO seller",
        f'ALTER DATABASE "{name}" OWNER TO modest',
    )
    workbench.pgkeep("backup", "shop")
    run_sql(shop, "REASSIGN OWNED BY seller TO postgres", "DROP ROLE seller")
    try:
        modest = with_login(target, "modest", "modest")
        error = told(workbench.pgkeep("restore", "shop", "--target", modest, expect=None), "E040")
        assert "lacks the roles seller, and they cannot be created: " in error.message
        assert "--no-owner --no-privileges" in error.hint
        workbench.pgkeep("restore", "shop", "--target", new_database())
    finally:
        run_sql(shop, f'ALTER DATABASE "{name}" OWNER TO postgres', "DROP ROLE modest")


# --- keys -----------------------------------------------------------------------------------


def test_keys_that_are_missing_wrong_or_unreadable_are_told(
    workbench: Workbench, shop: str, new_database: NewDatabase
) -> None:
    workbench.pgkeep("backup", "shop")
    target = new_database()

    def restore(*options: str, code: str) -> str:
        arguments = ("restore", "shop", "--target", target, *options)
        return told(workbench.pgkeep(*arguments, expect=None), code).message

    workbench.monkeypatch.delenv("PGKEEP_IDENTITY")
    assert restore(code="E050") == "opening a backup needs a key, and none was given"
    stranger = workbench.folder / "stranger.txt"
    stranger.write_text(f"{X25519Identity.generate()}\n")
    message = restore("--identity", str(stranger), code="E050")
    assert message.startswith("none of the keys given opens backup ")
    assert "AGE-SECRET-KEY" not in message
    nowhere = workbench.folder / "nowhere.txt"
    assert restore("--identity", str(nowhere), code="E051") == (
        f"cannot read {str(nowhere)!r}: no such file or directory"
    )
    assert "is a directory" in restore("--identity", str(workbench.folder), code="E051")
    torn = workbench.folder / "torn.txt"
    torn.write_text("AGE-SECRET-KEY-1TORNOFF")
    assert restore("--identity", str(torn), code="E051") == f'"{torn}" is not an identity file'
    workbench.pgkeep("restore", "shop", "--target", target, "--identity", str(workbench.identity))


def test_a_wrong_passphrase_is_told(workbench: Workbench, new_database: NewDatabase) -> None:
    source, target = new_database(), new_database()
    run_sql(source, "CREATE TABLE t AS SELECT 1 AS n")
    workbench.monkeypatch.setenv("PGKEEP_PASSPHRASE", "right")
    workbench.init(source, "shop", "--passphrase")
    workbench.pgkeep("backup", "shop")
    arguments = ("restore", "shop", "--target", target)
    workbench.monkeypatch.setenv("PGKEEP_PASSPHRASE", WRONG)
    outcome = workbench.pgkeep(*arguments, expect=None)
    assert told(outcome, "E051").message == (
        f'"{workbench.identity}" does not open: the passphrase is wrong, or the file is damaged'
    )
    assert WRONG not in outcome.err
    workbench.monkeypatch.delenv("PGKEEP_PASSPHRASE")
    message = told(workbench.pgkeep(*arguments, expect=None), "E050").message
    assert message == "a key has a passphrase, and there is no terminal to ask for it"
    workbench.monkeypatch.setenv("PGKEEP_PASSPHRASE", "right")
    workbench.pgkeep(*arguments)


# --- configuration and options --------------------------------------------------------------

GOOD = {
    "databases": '[databases.shop]\nurl = { env = "SHOP_DATABASE_URL" }\n',
    "repositories": '[repositories.local]\nurl = "file:///tmp/nowhere"\n',
    "encryption": f'[encryption]\nrecipients = ["{X25519Identity.generate().recipient}"]\n',
}

BAD_CONFIGURATIONS = {
    "not TOML": ("databases = [", "is not valid TOML"),
    "an unknown section": ("[databaes.shop]\n", "databaes: extra inputs are not permitted"),
    "an unknown key": (
        '[databases.shop]\nurl = "x"\ncolour = "red"\n',
        "databases.shop.colour: extra inputs are not permitted",
    ),
    "a wrong type": (
        '[databases.shop]\nurl = "x"\njobs = "many"\n',
        "databases.shop.jobs: input should be a valid integer",
    ),
    "a number out of range": (
        '[databases.shop]\nurl = "x"\njobs = 0\n',
        "databases.shop.jobs: input should be greater than or equal to 1",
    ),
    "a bad name": ('[databases."My Shop"]\nurl = "x"\n', "databases.My Shop"),
    "a reserved name": ('[databases.objects]\nurl = "x"\n', "a database cannot be called"),
    "no url": ("[databases.shop]\njobs = 1\n", "databases.shop.url: field required"),
    "a number for a url": ("[databases.shop]\nurl = 5\n", "databases.shop.url"),
    "a reference with a spelling mistake": (
        '[databases.shop]\nurl = { evn = "X" }\n',
        "databases.shop.url.evn: extra inputs are not permitted",
    ),
    "two references": (
        '[databases.shop]\nurl = { env = "X", file = "/y" }\n',
        "give exactly one of env, file or command",
    ),
    "a setting that is ours": ('origin = "x"\n', "unknown setting 'origin'"),
}


@pytest.mark.parametrize("name", BAD_CONFIGURATIONS)
def test_a_bad_configuration_is_told(workbench: Workbench, name: str) -> None:
    text, expected = BAD_CONFIGURATIONS[name]
    workbench.config.write_text(text)
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E002", exit_code=2)
    assert expected in error.message


def test_a_missing_configuration_is_told(workbench: Workbench) -> None:
    error = told(workbench.pgkeep("list", expect=None), "E002", exit_code=2)
    assert error.message == f"there is no configuration at {str(workbench.config)!r}"
    assert error.hint == "Run: pgkeep init, or name a file with --config."


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        ("databases", "no database 'shop' is configured (configured: none)"),
        ("repositories", "no repository is configured"),
        ("encryption", "no recipient is configured, so nobody could open a backup"),
    ],
)
def test_what_the_configuration_lacks_is_told(
    workbench: Workbench, left_out: str, expected: str
) -> None:
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", "postgresql://u@127.0.0.1:1/x")
    state = f'state_dir = "{workbench.state}"\n'
    sections = [text for name, text in GOOD.items() if name != left_out]
    workbench.config.write_text(state + "".join(sections))
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E002", exit_code=2)
    assert error.message == expected


@pytest.mark.parametrize("recipient", ["age1tooshort", "hello", "ssh-ed25519 AAAA", ""])
def test_a_bad_recipient_is_told_before_anything_is_read(
    workbench: Workbench, server: ScratchServer, recipient: str
) -> None:
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", server.url())
    workbench.config.write_text(
        f'state_dir = "{workbench.state}"\n'
        + GOOD["databases"]
        + f'[repositories.local]\nurl = "{workbench.repository.as_uri()}"\n'
        + f'[encryption]\nrecipients = ["{recipient}"]\n'
    )
    told(workbench.pgkeep("backup", "shop", expect=None), "E054", exit_code=2)


def test_a_private_key_as_recipient_is_refused_and_not_shown(workbench: Workbench) -> None:
    secret = str(X25519Identity.generate())
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", "postgresql://u@127.0.0.1:1/x")
    workbench.config.write_text(
        f'state_dir = "{workbench.state}"\n'
        + GOOD["databases"]
        + f'[repositories.local]\nurl = "{workbench.repository.as_uri()}"\n'
        + f'[encryption]\nrecipients = ["{secret}"]\n'
    )
    outcome = workbench.pgkeep("backup", "shop", expect=None)
    assert "private key" in told(outcome, "E054", exit_code=2).message
    assert secret not in outcome.err


@pytest.mark.parametrize("url", ["ftp://x/y", "backups", "file://relative", "file:///"])
def test_a_repository_of_an_unknown_kind_is_told(workbench: Workbench, url: str) -> None:
    workbench.config.write_text(GOOD["databases"] + f'[repositories.a]\nurl = "{url}"\n'
                                + GOOD["encryption"])  # fmt: skip
    error = told(workbench.pgkeep("list", expect=None), "E002", exit_code=2)
    assert f"{url!r} is not a repository that this version can open" in error.message


def test_a_secret_that_is_missing_or_open_to_others_is_told(workbench: Workbench) -> None:
    secret = workbench.folder / "shop.url"

    def failure(reference: str) -> str:
        workbench.config.write_text(
            f"[databases.shop]\nurl = {{ {reference} }}\n"
            + f'[repositories.local]\nurl = "{workbench.repository.as_uri()}"\n'
            + GOOD["encryption"]
        )
        outcome = workbench.pgkeep("backup", "shop", expect=None)
        assert "hush" not in outcome.err
        return told(outcome, "E002", exit_code=2).message

    what = "the URL of database 'shop' is"
    assert failure('env = "NOT_SET_AT_ALL"') == (
        f"{what} to come from the environment variable 'NOT_SET_AT_ALL', which is not set"
    )
    assert failure(f'file = "{secret}"') == (
        f"{what} to come from the file {str(secret)!r}, which cannot be read"
    )
    secret.write_text("postgresql://u:hush@127.0.0.1:1/x")
    secret.chmod(0o644)
    assert failure(f'file = "{secret}"') == (
        f"{what} in the file {str(secret)!r}, which others may read"
    )
    assert failure('command = ["false"]') == (
        f"{what} to come from the command 'false', which gave nothing (exit code 1)"
    )
    assert failure('command = ["/nonexistent/program"]') == (
        f"{what} to come from a command that cannot be run"
    )
    assert failure("command = []").endswith("cannot be run")
    secret.write_text("")
    secret.chmod(0o600)
    assert failure(f'file = "{secret}"').endswith("which is empty")


BAD_OPTIONS = {
    "an unknown command": ["bakcup", "shop"],
    "an unknown option": ["backup", "shop", "--colour"],
    "a missing argument": ["backup"],
    "an unknown kind": ["backup", "shop", "--kind", "half"],
    "no jobs": ["backup", "shop", "--jobs", "0"],
    "words for a number": ["backup", "shop", "--jobs", "many"],
    "no target": ["restore", "shop"],
    "schema and data": ["restore", "shop", "--target", "x", "--schema-only", "--data-only"],
    "a bad table": ["restore", "shop", "--target", "x", "--table", 'a."b'],
    "too many dots": ["export", "shop", "-o", "x.sql", "--table", "a.b.c"],
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_told(workbench: Workbench, name: str) -> None:
    error = told(workbench.pgkeep(*BAD_OPTIONS[name], expect=None), "E001", exit_code=2)
    assert error.message


def test_a_mistyped_command_is_told_which_one_was_meant(workbench: Workbench) -> None:
    error = told(workbench.pgkeep("bakcup", "shop", expect=None), "E001", exit_code=2)
    assert error.hint.startswith("Did you mean pgkeep backup?")


def test_an_export_to_a_bad_place_is_told(workbench: Workbench, shop: str) -> None:
    workbench.pgkeep("backup", "shop")
    bad = workbench.folder / "dump.doc"
    error = told(
        workbench.pgkeep("export", "shop", "-o", str(bad), expect=None), "E001", exit_code=2
    )
    assert error.hint == "End the name in .sql, .sql.gz or .sql.zst."
    nowhere = workbench.folder / "nowhere" / "dump.sql"
    error = told(workbench.pgkeep("export", "shop", "-o", str(nowhere), expect=None), "E060")
    assert error.message == f"cannot write {str(nowhere)!r}: no such file or directory"
    assert not list(workbench.folder.glob(".dump*"))


def test_an_unknown_backup_is_told(workbench: Workbench, shop: str) -> None:
    error = told(workbench.pgkeep("show", "shop", expect=None), "E064")
    workbench.pgkeep("backup", "shop", "--kind", "schema")
    error = told(workbench.pgkeep("show", "shop", "1999", expect=None), "E067")
    assert error.message == "no backup of database 'shop' begins with '1999'"
    assert error.hint == "Run: pgkeep list shop"
    error = told(workbench.pgkeep("restore", "shop", "--target", shop, expect=None), "E067")
    assert error.message == "there is no full backup of database 'shop'"


def test_nobody_to_trust_is_told(workbench: Workbench, shop: str) -> None:
    workbench.pgkeep("backup", "shop")
    stranger = SigningKey.generate()
    text = workbench.config.read_text()
    own = next(line for line in text.splitlines() if line.startswith("trusted_signers"))
    workbench.config.write_text(text.replace(own, "").replace("/state", "/fresh"))
    error = told(workbench.pgkeep("show", "shop", expect=None), "E052")
    assert error.message.startswith("nobody is known here whose signature counts")
    assert "--trust FINGERPRINT" in error.hint
    workbench.config.write_text(
        text.replace(own, f'trusted_signers = ["{stranger.public.line}"]').replace(
            "/state", "/fresh"
        )
    )
    error = told(workbench.pgkeep("show", "shop", expect=None), "E052")
    assert "signed by another key: SHA256:" in error.message
