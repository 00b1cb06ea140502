"""The server that stands in for a project of Supabase's lends and refuses as the real one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Workbench
from pgkeep.postgres.programs import Programs
from supabase_lending import as_the_library_would, statements
from supabase_server import ProjectServer, Version, start_project

REFUSED = {
    "ALTER ROLE anon LOGIN": '"anon" is a reserved role, only superusers can modify it',
    'alter user "supabase_auth_admin" SET x.y = 1': '"supabase_auth_admin" is a reserved role',
    "DROP ROLE IF EXISTS authenticator": '"authenticator" is a reserved role',
    "GRANT supabase_storage_admin TO postgres": '"supabase_storage_admin" role memberships are',
    "GRANT anon, pg_read_server_files TO postgres": '"pg_read_server_files" role memberships are',
    "ALTER TABLE auth.users ADD mine int": "must be owner of table users",
    "ALTER TABLE auth.users DISABLE TRIGGER ALL": "must be owner of table users",
    "ALTER TABLE storage.objects ENABLE ROW LEVEL SECURITY": "must be owner of table objects",
    "ALTER TABLE auth.users REPLICA IDENTITY FULL": "must be owner of table users",
    "CREATE INDEX ON storage.objects (owner_id)": "must be owner of table objects",
    "CREATE TABLE auth.mine ()": "permission denied for schema auth",
    "CREATE FUNCTION auth.mine() RETURNS int RETURN 1": "permission denied for schema auth",
    "CREATE TABLE realtime.mine ()": "permission denied for schema realtime",
    "CREATE POLICY mine ON auth.flow_state USING (true)": "must be owner of \\w+ flow_state",
    "CREATE EXTENSION file_fdw": 'permission denied to create extension "file_fdw"',
    "CREATE EVENT TRIGGER mine ON sql_drop EXECUTE FUNCTION extensions.pgrst_drop_watch()":
        "Non-superuser owned event trigger must execute a non-superuser owned function",
    "DROP EVENT TRIGGER pgrst_ddl_watch": "must be owner of event trigger pgrst_ddl_watch",
    "DROP PUBLICATION supabase_realtime_messages_publication": "must be owner of publication",
    "INSERT INTO vault.secrets (secret) VALUES ('x')": "permission denied for table secrets",
    "SET ROLE supabase_auth_admin": 'permission denied to set role "supabase_auth_admin"',
    "SET log_executor_stats = on": "permission denied to set parameter",
    "SELECT count(*) FROM pg_read_file('PG_VERSION')": "denied for function pg_read_file",
    "CREATE PUBLICATION mine; ALTER TABLE auth.users ADD mine int": "must be owner of table users",
}  # fmt: skip

LENT = (
    "CREATE PUBLICATION everything FOR ALL TABLES",
    "CREATE PUBLICATION managed FOR TABLE auth.users, storage.objects; DROP PUBLICATION managed",
    "/* a comment; */ CREATE POLICY mine ON storage.objects USING (name <> 'a;b')",
    "SELECT 1; CREATE POLICY mine ON auth.users USING (true); DROP POLICY mine ON auth.users",
    "CREATE FUNCTION mine() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;"
    " CREATE EVENT TRIGGER mine ON ddl_command_end EXECUTE FUNCTION mine();"
    " ALTER EVENT TRIGGER mine DISABLE",
    "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;"
    " CREATE TRIGGER mine AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION mine();"
    " DROP TRIGGER mine ON auth.users",
    "SET LOCAL session_replication_role = replica",
    "ALTER ROLE postgres SET session_replication_role = origin",
    "SET log_min_duration_statement = 100",
    "ALTER ROLE anon SET statement_timeout = '7s'",
    "CREATE EXTENSION IF NOT EXISTS pg_cron",
    "CREATE FOREIGN DATA WRAPPER mine; CREATE SERVER mine FOREIGN DATA WRAPPER mine",
    "CREATE ROLE mine BYPASSRLS REPLICATION LOGIN; ALTER ROLE mine NOBYPASSRLS",
)


@pytest.fixture(scope="module")
def project(supabase_programs: Programs) -> Iterator[ProjectServer]:
    made = start_project(supabase_programs, "newer")
    yield made
    made.stop()


@pytest.mark.parametrize("statement", REFUSED)
def test_it_refuses(project: ProjectServer, statement: str) -> None:
    with (
        psycopg.connect(project.url) as connection,
        pytest.raises(psycopg.Error, match=REFUSED[statement]),
    ):
        connection.execute(statement.encode())


@pytest.mark.parametrize("statement", LENT)
def test_it_lends_and_what_is_made_is_postgres_own(project: ProjectServer, statement: str) -> None:
    with psycopg.connect(project.url) as connection:
        connection.execute(statement.encode())
        owners = connection.execute(
            "SELECT pubowner::regrole::text FROM pg_publication WHERE pubname !~ '^supabase_'"
            " UNION ALL SELECT evtowner::regrole::text FROM pg_event_trigger WHERE evtname = 'mine'"
            " UNION ALL SELECT fdwowner::regrole::text FROM pg_foreign_data_wrapper"
        ).fetchall()
        assert all(owner == ("postgres",) for owner in owners)
        connection.rollback()


def test_a_secret_does_not_open_under_another_id(project: ProjectServer) -> None:
    with psycopg.connect(project.url) as connection:
        connection.execute("SELECT vault.create_secret('s3cret', 'mine')")
        secrets = connection.execute("SELECT decrypted_secret FROM vault.decrypted_secrets")
        assert secrets.fetchall() == [("s3cret",)]
    project.run_as_admin("UPDATE vault.secrets SET id = gen_random_uuid()")
    with (
        psycopg.connect(project.url) as connection,
        pytest.raises(psycopg.Error, match="invalid ciphertext"),
    ):
        connection.execute("SELECT decrypted_secret FROM vault.decrypted_secrets")


def test_copy_and_prepared_statements_go_through(project: ProjectServer) -> None:
    text = "CREATE PUBLICATION x;\n" * 200_000
    with psycopg.connect(project.url) as connection:
        connection.execute("CREATE TEMP TABLE t (v text)")
        with connection.cursor().copy("COPY t FROM STDIN") as copy:
            copy.write(text)
        with connection.cursor().copy("COPY t TO STDOUT") as copy:
            assert b"".join(bytes(piece) for piece in copy) == text.encode()
        asked = connection.execute("SELECT %s::int, count(*) FROM t", (7,), prepare=True)
        assert asked.fetchall() == [(7, 200_000)]


def test_a_query_can_be_cancelled(project: ProjectServer) -> None:
    with psycopg.connect(project.url) as connection:
        notify = "DO $$ BEGIN RAISE NOTICE 'begun'; PERFORM pg_sleep(600); END $$"
        connection.add_notice_handler(lambda _: connection.cancel_safe())
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute(notify)


def test_a_backup_of_an_empty_project_works_as_postgres(
    new_project: Callable[[Version], ProjectServer], workbench: Workbench
) -> None:
    project = new_project("newer")
    workbench.init(project.url)
    workbench.pgkeep("backup", "shop")
    assert "shop" in workbench.pgkeep("list").out


@given(
    st.lists(
        st.sampled_from([";", "'", "''", '"', "$$", "$a$", "--", "\n", "/*", "*/", "E'", "\\", "x"])
    )
)
def test_statements_joined_are_the_query(pieces: list[str]) -> None:
    query = "".join(pieces)
    assert "".join(statements(query)) == query
    assert as_the_library_would(query) == query


@given(st.sampled_from(["'{}'", '"{}"', "$${}$$", "$a${}$a$", "/*{}*/", "--{}\n", "E'\\'{}'"]))
def test_what_is_quoted_is_not_lent(quoting: str) -> None:
    query = "SELECT 1 " + quoting.format("; CREATE PUBLICATION x;") + " , 2"
    assert as_the_library_would(query) == query
