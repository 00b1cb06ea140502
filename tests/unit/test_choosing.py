"""Which definitions of a hosted database are the user's."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from pgkeep.model import Hosting, PlatformTrigger, Queue, TableName
from pgkeep.postgres.archive import Archive, Entry, Section
from pgkeep.recovery.choosing import choose_entries

NUMBERS = count(1)
HOSTING = Hosting(
    platform="supabase",
    roles=("supabase_admin", "supabase_auth_admin", "supabase_storage_admin"),
    schemas=("auth", "pgmq", "realtime", "storage", "vault"),
    triggers=(PlatformTrigger(TableName("auth", "users"), "on_signup"),),
    queues=(Queue("mails"),),
)


def entry(
    kind: str, tag: str, namespace: str = "", owner: str = "postgres", **more: object
) -> Entry:
    example = Entry(
        dump_id=next(NUMBERS), table_oid=0, oid=0, tag=tag, kind=kind, section=Section.PRE_DATA,
        definition=f"CREATE {kind} {tag}", drop="", namespace=namespace, owner=owner,
        table_access_method="", relkind="", dependencies=(),
    )  # fmt: skip
    return replace(example, **more)  # type: ignore[arg-type]


def archive(*entries: Entry) -> Archive:
    return Archive((1, 16, 0), "postgres", "17.6", "17.6", entries)


@pytest.mark.parametrize(
    ("one", "is_made"),
    [
        (entry("TABLE", "todos", "public"), True),
        (entry("FUNCTION", "made_by_the_dashboard()", "public", "supabase_admin"), True),
        (entry("TABLE", "schema_migrations", "supabase_migrations"), True),
        (entry("SCHEMA", "auth", owner="supabase_admin"), False),
        (entry("SCHEMA", "shop"), True),
        (entry("TABLE", "users", "auth", "supabase_auth_admin"), False),
        (entry("INDEX", "users_email", "auth", "supabase_auth_admin"), False),
        (entry("TRIGGER", "users on_signup", "auth", "supabase_auth_admin"), True),
        (entry("TRIGGER", "users their_own", "auth", "supabase_auth_admin"), False),
        (entry("POLICY", "objects mine", "storage", "supabase_storage_admin"), True),
        (entry("ROW SECURITY", "objects", "storage", "supabase_storage_admin"), False),
        (entry("ACL", "TABLE users", "auth", "supabase_auth_admin"), False),
        (entry("TABLE", "q_mails", "pgmq"), False),
        (entry("SEQUENCE", "q_mails_msg_id_seq", "pgmq"), False),
        (entry("INDEX", "q_mails_vt_idx", "pgmq"), False),
        (entry("TABLE", "mine", "auth"), True),
        (entry("EVENT TRIGGER", "pgrst_ddl_watch", owner="supabase_admin"), False),
        (entry("EVENT TRIGGER", "mine"), True),
        (entry("PUBLICATION", "supabase_realtime_messages_publication"), False),
        (entry("PUBLICATION", "mine"), True),
        (entry("PUBLICATION TABLE", "supabase_realtime todos", "public"), True),
        (entry("PUBLICATION TABLE", "realtime_messages x messages", "realtime"), False),
        (entry("DEFAULT ACL", "DEFAULT PRIVILEGES FOR TABLES", "public"), True),
        (entry("DEFAULT ACL", "DEFAULT PRIVILEGES FOR TABLES", "public", "supabase_admin"), False),
        (entry("EXTENSION", "pgcrypto"), False),
        (entry("COMMENT", "EXTENSION pgcrypto"), False),
        (entry("SERVER", "stripe"), True),
    ],
    ids=lambda value: f"{value.kind} {value.tag}" if isinstance(value, Entry) else None,
)
def test_what_is_the_users_is_made(one: Entry, is_made: bool) -> None:
    choice = choose_entries(archive(one), HOSTING, archive())
    assert (one.dump_id in choice.make) is is_made
    assert not choice.differs


def test_what_the_project_has_already_is_left() -> None:
    public = entry("SCHEMA", "public", owner="pg_database_owner")
    publication = entry("PUBLICATION", "supabase_realtime")
    there = archive(replace(public, dump_id=1), replace(publication, dump_id=2))
    choice = choose_entries(archive(public, publication), HOSTING, there)
    assert not choice.make
    assert not choice.differs


def test_what_the_project_has_otherwise_is_told_of() -> None:
    ours = entry("PUBLICATION", "supabase_realtime", definition="CREATE ... FOR ALL TABLES")
    theirs = replace(ours, definition="CREATE PUBLICATION supabase_realtime")
    choice = choose_entries(archive(ours), HOSTING, archive(theirs))
    assert choice.differs == ("publication supabase_realtime",)
    assert not choice.make


def test_privileges_come_on_top_of_those_that_the_project_gives() -> None:
    ours = entry("ACL", "SCHEMA public", definition="GRANT USAGE ON SCHEMA public TO app")
    theirs = replace(ours, definition="GRANT USAGE ON SCHEMA public TO anon")
    assert choose_entries(archive(ours), HOSTING, archive(theirs)).make == {ours.dump_id}


def test_what_needs_an_extension_that_cannot_be_made_falls_away_with_it() -> None:
    extension = entry("EXTENSION", "postgis")
    column = entry("TABLE", "places", "public", dependencies=(extension.dump_id,))
    other = entry("TABLE", "todos", "public")
    choice = choose_entries(archive(extension, column, other), HOSTING, archive(), ("postgis",))
    assert choice.make == {other.dump_id}
    assert choice.without_extension == (column,)
