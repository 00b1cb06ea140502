"""A project of Supabase's comes back whole: in another project, and where there is no platform."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from conftest import Outcome, Workbench
from pgkeep.postgres.server import ScratchServer
from pgkeep.sealing import X25519Identity
from supabase_server import ProjectServer, Version, with_application

NewProject = Callable[[Version], ProjectServer]

USERS = (
    "SELECT id, email, encrypted_password, raw_user_meta_data::text, confirmed_at FROM auth.users"
)
SAME_IN_BOTH = {
    "users": USERS,
    "identities": "SELECT provider_id, user_id, identity_data::text, email FROM auth.identities",
    "refresh tokens": "SELECT id, token, session_id FROM auth.refresh_tokens",
    "where tokens stand": "SELECT last_value FROM auth.refresh_tokens_id_seq",
    "buckets": "SELECT id, public FROM storage.buckets",
    "objects": "SELECT id, bucket_id, name, owner_id, user_metadata::text FROM storage.objects",
    "profiles": 'SELECT id, "Display Name", mail FROM public.profiles',
    "todos": "SELECT * FROM public.todos",
    "orders": "SELECT id, buyer, total, day FROM shop.orders",
    "migrations": "SELECT * FROM supabase_migrations.schema_migrations",
    "messages": "SELECT msg_id, message::text FROM pgmq.q_mails",
    "archived messages": "SELECT msg_id, message::text FROM pgmq.a_mails",
    "queues": "SELECT queue_name, is_unlogged FROM pgmq.meta",
    "where messages stand": "SELECT last_value FROM pgmq.q_mails_msg_id_seq",
    "jobs": "SELECT jobname, schedule, command FROM cron.job",
    "secrets": "SELECT name, description, decrypted_secret FROM vault.decrypted_secrets",
    "policies": "SELECT schemaname, tablename, policyname, roles, cmd, qual, with_check"
    "  FROM pg_policies WHERE schemaname <> 'cron'",
    "triggers": "SELECT tgrelid::regclass, tgname, pg_get_triggerdef(oid) FROM pg_trigger"
    " WHERE NOT tgisinternal AND tgname !~ '^protect_'",
    "row security": "SELECT oid::regclass::text FROM pg_class WHERE relrowsecurity"
    "   AND relnamespace::regnamespace::text IN ('public', 'shop')",
    "privileges": "SELECT c.oid::regclass::text, g::text FROM pg_class c, unnest(c.relacl) g"
    " WHERE c.relnamespace::regnamespace::text IN ('public', 'shop', 'supabase_migrations')",
    "privileges on auth": "SELECT g::text FROM pg_class c, unnest(c.relacl) g"
    " WHERE c.oid = 'auth.users'::regclass",
    "privileges of schemas": "SELECT nspname, g::text FROM pg_namespace, unnest(nspacl) g"
    " WHERE nspname IN ('public', 'shop', 'auth')",
    "default privileges": "SELECT defaclnamespace::regnamespace::text, defaclobjtype, g::text"
    " FROM pg_default_acl, unnest(defaclacl) g WHERE defaclrole = 'postgres'::regrole",
    "owners": "SELECT oid::regclass::text, relowner::regrole::text FROM pg_class"
    " WHERE relnamespace::regnamespace::text IN ('public', 'shop')",
    "published": "SELECT pubname, schemaname, tablename, rowfilter FROM pg_publication_tables",
    "publications": "SELECT pubname, pubowner::regrole::text, pubinsert, pubdelete, pubviaroot"
    " FROM pg_publication",
    "event triggers": "SELECT evtname, evtowner::regrole::text, evtenabled FROM pg_event_trigger",
    "roles": "SELECT rolname, rolcanlogin, rolbypassrls, rolconfig FROM pg_roles"
    " WHERE rolname !~ '^pg_'",
    "members": "SELECT roleid::regrole::text, member::regrole::text FROM pg_auth_members"
    " WHERE grantor <> 10",
    "settings": "SELECT setrole::regrole::text, setconfig FROM pg_db_role_setting",
    "extensions": "SELECT extname, extnamespace::regnamespace::text FROM pg_extension",
    "comments": "SELECT obj_description('public.profiles'::regclass)",
    "sales": "SELECT * FROM shop.sales",
}


def state(project: ProjectServer) -> dict[str, list[str]]:
    return {what: sorted(map(repr, project.ask(query))) for what, query in SAME_IN_BOTH.items()}


def restored(
    workbench: Workbench, target: str, *options: str, expect: int | None = 0
) -> dict[str, Any]:
    outcome = restore(workbench, target, "--json", *options, expect=expect)
    document = outcome.document
    assert isinstance(document, dict)
    return document


def restore(workbench: Workbench, target: str, *options: str, expect: int | None = 0) -> Outcome:
    workbench.monkeypatch.setenv("TARGET_URL", target)
    return workbench.pgkeep(
        "restore", "shop", "--target", "env:TARGET_URL", *options, expect=expect
    )


def backed_up(workbench: Workbench, project: ProjectServer) -> None:
    workbench.init(project.url)
    workbench.pgkeep("backup", "shop")


def test_a_project_comes_back_in_a_newer_one(
    workbench: Workbench, sample_project: ProjectServer, new_project: NewProject
) -> None:
    backed_up(workbench, sample_project)
    before = state(sample_project)
    target = new_project("newer")
    document = restored(workbench, target.url)
    assert document["proven"] is True
    assert document["refused"] == []
    after = state(target)
    assert {what: after[what] for what in before if after[what] != before[what]} == {}
    assert target.value("SELECT count(*) FROM auth.flow_state") == 0
    assert any("auth is at 20240427152123" in remark for remark in document["remarks"])


ODD = """
CREATE ROLE "odd-role" LOGIN BYPASSRLS;
GRANT "odd-role" TO postgres;
CREATE SCHEMA "My Schema";
GRANT ALL ON SCHEMA "My Schema" TO "odd-role";
CREATE TABLE "My Schema"."Tab ""le" ("Id" int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text,
  g int GENERATED ALWAYS AS (length(v)) STORED);
ALTER TABLE "My Schema"."Tab ""le" OWNER TO "odd-role";
INSERT INTO "My Schema"."Tab ""le" (v) VALUES ('a'), ('b');
CREATE TABLE extensions.mine (id int PRIMARY KEY);
INSERT INTO extensions.mine VALUES (1);
CREATE TABLE public.refs (o uuid REFERENCES storage.objects (id), u uuid REFERENCES auth.users);
CREATE MATERIALIZED VIEW public.who AS SELECT email FROM auth.users;
CREATE FUNCTION public.t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER "my trigger" BEFORE UPDATE ON auth.users FOR EACH ROW EXECUTE FUNCTION public.t();
CREATE POLICY "my pol icy" ON storage.objects FOR INSERT TO anon WITH CHECK (bucket_id = 'a''b');
CREATE PUBLICATION whole FOR TABLES IN SCHEMA public;
CREATE PUBLICATION "All" FOR ALL TABLES;
SELECT vault.create_secret('same', 'n1');
SELECT vault.create_secret('same', 'n2');
SELECT vault.create_secret('same');
SELECT pgmq.create('a-b');
SELECT cron.schedule('odd '' job', '@daily', $$select 'a;b'$$);
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE FUNCTION public.closed() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE public.forced (id int PRIMARY KEY);
ALTER TABLE public.forced ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.forced FORCE ROW LEVEL SECURITY;
REVOKE USAGE ON SCHEMA public FROM anon;
ALTER ROLE postgres SET statement_timeout = '1min';
SELECT lo_from_bytea(0, 'abc');
"""


def test_odd_things_come_back_too_and_a_second_time_is_refused(
    workbench: Workbench, sample_project: ProjectServer, new_project: NewProject
) -> None:
    sample_project.run(ODD)
    backed_up(workbench, sample_project)
    before = state(sample_project)
    target = new_project("older")
    document = restored(workbench, target.url)
    assert document["proven"] is True
    assert document["refused"] == []
    after = state(target)
    assert {what: after[what] for what in before if after[what] != before[what]} == {}
    for query in (
        "SELECT proacl::text FROM pg_proc WHERE proname = 'closed'",
        'SELECT * FROM "My Schema"."Tab ""le"',
        "SELECT * FROM extensions.mine",
        "SELECT count(*) FROM public.who",
        "SELECT count(*) FROM pg_largeobject_metadata",
    ):
        assert target.ask(query) == sample_project.ask(query)
    assert "[E041]" in restore(workbench, target.url, expect=1).err
    assert state(target) == after


def test_what_comes_back_goes_on_working(
    workbench: Workbench, sample_project: ProjectServer, new_project: NewProject
) -> None:
    backed_up(workbench, sample_project)
    target = new_project("older")
    restored(workbench, target.url)
    target.run(
        "INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'new@example.com');"
        "INSERT INTO auth.refresh_tokens (token) VALUES ('another');"
        "SELECT pgmq.send('mails', '{}');"
        "CREATE TABLE public.later (id int);"
    )
    assert (
        target.value("SELECT count(*) FROM public.profiles WHERE mail::text = 'new@example.com'")
        == 1
    )
    assert target.value("SELECT id FROM auth.refresh_tokens WHERE token = 'another'") == 11
    assert target.value("SELECT max(msg_id) FROM pgmq.q_mails") == 8
    assert target.value("SELECT has_table_privilege('anon', 'public.later', 'SELECT')") is False
    assert target.value("SELECT has_table_privilege('authenticated', 'public.later', 'SELECT')")
    assert target.value("SELECT count(*) FROM public.audit WHERE what ->> 'ddl' <> ''") == 7


def test_ids_that_refer_to_secrets_are_mapped(
    workbench: Workbench, sample_project: ProjectServer, new_project: NewProject
) -> None:
    backed_up(workbench, sample_project)
    target = new_project("older")
    restored(workbench, target.url)
    secret = target.value("SELECT id::text FROM vault.secrets WHERE name = 'stripe'")
    assert secret != sample_project.value(
        "SELECT id::text FROM vault.secrets WHERE name = 'stripe'"
    )
    assert target.value("SELECT secret_id::text FROM shop.keys") == secret
    assert f"api_key_id={secret}" in str(target.value("SELECT srvoptions FROM pg_foreign_server"))


def test_jobs_stay_switched_off_until_they_are_resumed(
    workbench: Workbench, sample_project: ProjectServer, new_project: NewProject
) -> None:
    backed_up(workbench, sample_project)
    target = new_project("older")
    restored(workbench, target.url)
    assert target.value("SELECT count(*) FROM cron.job WHERE active") == 0
    assert restored(workbench, target.url, "--resume-jobs") == {"resumed": 2, "absent": []}
    names = target.ask("SELECT jobname FROM cron.job WHERE active ORDER BY 1")
    assert names == [("nightly",), (None,)]
    again = restored(workbench, target.url, "--resume-jobs", expect=3)
    assert again["resumed"] == 0


def test_rows_for_columns_that_an_older_project_lacks_are_told_of(
    workbench: Workbench, new_project: NewProject
) -> None:
    source = with_application(new_project("newer"))
    source.run("UPDATE auth.users SET is_anonymous = true WHERE email LIKE 'user1%'")
    source.run_as_admin("INSERT INTO auth.oauth_clients VALUES (gen_random_uuid(), 'mine')")
    backed_up(workbench, source)
    target = new_project("older")
    document = restored(workbench, target.url, expect=3)
    assert document["proven"] is True
    assert [one["what"] for one in document["refused"]] == ["1 rows of auth.oauth_clients"]
    assert any(
        remark.startswith("auth.users has no column is_sso_user, deleted_at, is_anonymous")
        for remark in document["remarks"]
    )
    assert sorted(target.ask(USERS)) == sorted(source.ask(USERS))


def test_what_the_platform_refuses_is_told_and_the_rest_goes_on(
    workbench: Workbench, sample_project: ProjectServer, new_project: NewProject
) -> None:
    sample_project.run_as_admin(
        "CREATE EXTENSION pg_buffercache WITH SCHEMA extensions;"
        "CREATE FUNCTION auth.mine() RETURNS int LANGUAGE sql AS 'SELECT 1';"
        "ALTER FUNCTION auth.mine() OWNER TO postgres;"
        "CREATE FUNCTION public.of_the_dashboard() RETURNS int LANGUAGE sql AS 'SELECT 1';"
    )
    sample_project.run(
        "CREATE VIEW public.cached AS SELECT bufferid FROM extensions.pg_buffercache;"
        "CREATE VIEW public.of_cached AS SELECT bufferid FROM public.cached"
    )
    backed_up(workbench, sample_project)
    target = new_project("older")
    outcome = restore(workbench, target.url, expect=3)
    assert "refused  extension pg_buffercache: permission denied" in " ".join(
        outcome.out.split(" ")
    )
    document = json.dumps(outcome.out)
    for name in ("view cached", "view of_cached", "function mine() in schema auth"):
        assert name in document
    assert target.value("SELECT proowner::regrole::text FROM pg_proc WHERE proname ="
                        " 'of_the_dashboard'") == "postgres"  # fmt: skip
    assert sorted(target.ask(USERS)) == sorted(sample_project.ask(USERS))
    assert "What needs it is left out." in outcome.out


def test_a_project_in_use_is_not_restored_into(
    workbench: Workbench, sample_project: ProjectServer, new_project: NewProject
) -> None:
    backed_up(workbench, sample_project)
    target = new_project("newer")
    target.run("INSERT INTO auth.users (id) VALUES (gen_random_uuid())")
    outcome = restore(workbench, target.url, expect=1)
    assert "[E041]" in outcome.err
    assert "auth.users has rows" in outcome.err
    assert target.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


def test_the_host_that_backs_up_cannot_open_secrets_and_jobs(
    workbench: Workbench, sample_project: ProjectServer
) -> None:
    backed_up(workbench, sample_project)
    outcome = workbench.pgkeep("show", "shop", "--json")
    document = outcome.document
    assert isinstance(document, dict)
    hosting = document["hosting"]
    assert (hosting["secrets"], hosting["jobs"], hosting["queues"]) == (2, 3, ["Fast", "mails"])
    assert "sk_live" not in outcome.out
    words = workbench.pgkeep("show", "shop").out
    assert "2 secrets of the vault" in words
    assert "left to the platform" in words
    for folder in (workbench.repository, workbench.state):
        for file in folder.rglob("*"):
            data = file.read_bytes() if file.is_file() else b""
            assert b"sk_live" not in data
            assert b"cron-secret" not in data
    keys = [file for file in workbench.state.rglob("*") if file.is_file()]
    identities = [
        X25519Identity.parse(line)
        for file in keys
        for line in file.read_text(errors="replace").splitlines()
        if line.startswith("AGE-SECRET-KEY-")
    ]
    assert identities, "the host has its index key"


def test_passwords_of_roles_are_kept_only_on_request(
    workbench: Workbench, sample_project: ProjectServer, new_project: NewProject
) -> None:
    workbench.init(sample_project.url)
    text = workbench.config.read_text()
    workbench.config.write_text(text + "\n[backup]\nrole_passwords = true\n")
    workbench.pgkeep("backup", "shop")
    target = new_project("older")
    restored(workbench, target.url)
    query = "SELECT rolpassword FROM pg_authid WHERE rolname = 'reporting'"
    assert target.value(query) == sample_project.value(query)
    own = "SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'"
    assert target.value(own) != sample_project.value(own)


def test_schema_first_then_rows(
    workbench: Workbench, sample_project: ProjectServer, new_project: NewProject
) -> None:
    backed_up(workbench, sample_project)
    target = new_project("newer")
    restored(workbench, target.url, "--schema-only")
    assert target.value("SELECT count(*) FROM auth.users") == 0
    assert target.value("SELECT count(*) FROM vault.secrets") == 0
    document = restored(workbench, target.url, "--data-only")
    assert document["proven"] is True
    assert sorted(target.ask(USERS)) == sorted(sample_project.ask(USERS))
    assert target.value("SELECT count(*) FROM public.profiles") == 50
    assert target.value("SELECT count(*) FROM pgmq.q_mails") == 6
    assert target.value("SELECT count(*) FROM vault.secrets") == 2


def test_a_second_backup_reads_only_what_changed(
    workbench: Workbench, sample_project: ProjectServer, new_project: NewProject
) -> None:
    backed_up(workbench, sample_project)
    sample_project.run("UPDATE auth.users SET phone = '1' WHERE email = 'user1@example.com'")
    outcome = workbench.pgkeep("backup", "shop", "--json")
    document = outcome.document
    assert isinstance(document, dict)
    assert document["parts_reused"] > document["parts_read"]
    target = new_project("older")
    restored(workbench, target.url)
    assert target.value("SELECT phone FROM auth.users WHERE email = 'user1@example.com'") == "1"


@pytest.mark.parametrize("major", [17, 18])
def test_a_project_can_be_left(
    workbench: Workbench,
    sample_project: ProjectServer,
    servers: Callable[[int], ScratchServer],
    major: int,
) -> None:
    backed_up(workbench, sample_project)
    server = servers(major)
    server.create_database("left_behind")
    try:
        document = restored(workbench, server.url("left_behind"), expect=3)
        assert document["proven"] is True
        what = {one["what"] for one in document["refused"]}
        assert {"extension pg_cron", "extension pgmq", "extension supabase_vault"} <= what
        assert any("2 secrets of the vault are not restored" in one for one in document["remarks"])
        with_rows = {(t["schema"], t["table"]): t["rows"] for t in document["tables"]}
        assert with_rows["auth", "users"] == 50
        assert with_rows["pgmq", "q_mails"] == 6
        assert with_rows["storage", "objects"] == 5
    finally:
        server.drop_database("left_behind")


def test_a_drill_proves_what_a_server_without_the_platform_can_have(
    workbench: Workbench, sample_project: ProjectServer
) -> None:
    backed_up(workbench, sample_project)
    outcome = workbench.pgkeep("drill", "shop", "--json", expect=None)
    document = outcome.document
    assert isinstance(document, dict), outcome
    assert document["outcome"] == "partial"
    assert outcome.code == 3
    not_covered = {one["what"] for one in document["not_covered"]}
    assert "extension pg_cron" in not_covered
    assert document["differences"] == []


def test_a_database_of_ones_own_moves_into_a_project(
    workbench: Workbench, new_database: Callable[[], str], new_project: NewProject
) -> None:
    import psycopg

    url = new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE notes (id int PRIMARY KEY, body text)")
        connection.execute("INSERT INTO notes SELECT n, 'note ' || n FROM generate_series(1, 99) n")
    workbench.init(url)
    workbench.pgkeep("backup", "shop")
    target = new_project("newer")
    document = restored(workbench, target.url)
    assert document["proven"] is True
    assert target.value("SELECT count(*) FROM public.notes") == 99
    assert target.value("SELECT has_table_privilege('anon', 'public.notes', 'SELECT')") is False
    target.run("CREATE TABLE public.made_here (id int)")
    assert target.value("SELECT has_table_privilege('anon', 'public.made_here', 'SELECT')")
    assert target.value("SELECT has_schema_privilege('anon', 'public', 'USAGE')")


def test_without_privileges_those_of_the_project_stay(
    workbench: Workbench, sample_project: ProjectServer, new_project: NewProject
) -> None:
    backed_up(workbench, sample_project)
    target = new_project("older")
    before = target.ask(SAME_IN_BOTH["default privileges"])
    restored(workbench, target.url, "--no-privileges")
    assert target.ask(SAME_IN_BOTH["default privileges"]) == before
    assert sorted(target.ask(USERS)) == sorted(sample_project.ask(USERS))
