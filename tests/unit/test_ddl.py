"""Schema changes: how they are read, and which may be done again."""

from __future__ import annotations

import json

import pytest

from pgkeep.errors import JournalInvalid
from pgkeep.postgres.ddl import (
    ChangedObject,
    ChangeReader,
    SchemaChange,
    Treatment,
    split,
    treatment,
)


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", []),
        (" ; ;; ", []),
        ("SELECT 1", [["SELECT", "1"]]),
        ("a; b", [["a"], ["b"]]),
        ("a -- ; b\n c", [["a", "c"]]),
        ("a -- ; b\r; c", [["a"], ["c"]]),
        ("a /* ; /* ; */ ; */ b", [["a", "b"]]),
        ("a /* never closed ; b", [["a"]]),
        ("'a;''b' ; c", [["'a;''b'"], ["c"]]),
        (r"'a\'; b", [[r"'a\'"], ["b"]]),
        (r"E'a\'; b' c", [[r"E'a\'; b'", "c"]]),
        ('"a;""b" c', [['"a;""b"', "c"]]),
        ("$$a;b$$ c", [["$$a;b$$", "c"]]),
        ("$ü1$ $$ ; $ü1$; c", [["$ü1$ $$ ; $ü1$"], ["c"]]),
        ("a$b$; c", [["a$b$"], ["c"]]),
        ("$1;$2", [["$", "1"], ["$", "2"]]),
        ("$$never closed ; b", [["$$never closed ; b"]]),
    ],
)
def test_a_text_falls_into_statements(text: str, statements: list[list[str]]) -> None:
    assert list(map(list, split(text))) == statements


def change(tag: str, query: str, **more: object) -> SchemaChange:
    return SchemaChange(tag, query, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tag", "query"),
    [
        ("CREATE TABLE", "CREATE TABLE a (b integer DEFAULT random(), as_of date)"),
        ("CREATE TABLE", "create /* a */ unlogged table if not exists a (b integer);"),
        ("CREATE INDEX", "CREATE UNIQUE INDEX CONCURRENTLY ON a (b)"),
        ("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION a() RETURNS int RETURN 1"),
        ("CREATE TRIGGER", "CREATE CONSTRAINT TRIGGER a AFTER INSERT ON b EXECUTE FUNCTION c()"),
        ("ALTER TABLE", "ALTER TABLE a ADD COLUMN b text"),
        ("ALTER TABLE", "ALTER TABLE a ADD b text DEFAULT 'x' NOT NULL, ADD c int DEFAULT -1"),
        (
            "ALTER TABLE",
            "ALTER TABLE a ADD b text DEFAULT 'x'::character varying, ADD c s.t"
            " DEFAULT '{}'::s.\"T\"[] CHECK (true)",
        ),
        ("ALTER TABLE", "ALTER TABLE a ALTER b SET DEFAULT now(), ADD CHECK (b > 0)"),
        ("ALTER TABLE", "ALTER TABLE a ADD UNIQUE (b)"),
        ("ALTER TABLE", "ALTER TABLE a RENAME COLUMN b TO c"),
        ("ALTER TABLE", "ALTER TABLE a DROP COLUMN b CASCADE"),
        ("DROP TABLE", "DROP TABLE a, b"),
        ("ALTER TYPE", "ALTER TYPE mood ADD VALUE 'new' BEFORE 'old'"),
        ("COMMENT", "COMMENT ON TABLE a IS 'x; y'"),
        ("GRANT", "GRANT SELECT ON a TO PUBLIC"),
        ("CREATE TABLE", "CREATE TABLE a (b int); CREATE INDEX ON a (b); GRANT SELECT ON a TO c"),
        ("CREATE TABLE", "begin; CREATE TABLE a (b int); COMMENT ON TABLE a IS 'x;'; COMMIT;"),
        ("CREATE TABLE", "START TRANSACTION; CREATE TABLE a (b int); END"),
        ("ALTER DEFAULT PRIVILEGES", "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO b"),
    ],
)
def test_a_plain_statement_is_done_again(tag: str, query: str) -> None:
    assert treatment(change(tag, query)) is Treatment.RUN


@pytest.mark.parametrize(
    ("tag", "query"),
    [
        ("CREATE TABLE", "CREATE TABLE a (b int); INSERT INTO a VALUES (1)"),
        ("CREATE TABLE", "CREATE TABLE a (b int); ALTER TABLE a ADD c timestamp DEFAULT now()"),
        ("CREATE TABLE", "CREATE TABLE a (b int); SELECT make_table()"),
        ("CREATE TABLE", "SET search_path = s; CREATE TABLE a (b int)"),
        ("CREATE TABLE", "CREATE TABLE a (b int); COMMIT"),
        ("CREATE TABLE", "BEGIN; CREATE TABLE a (b int)"),
        ("CREATE TABLE", "BEGIN; CREATE TABLE a (b int); COMMIT; BEGIN; DROP TABLE a; COMMIT"),
        ("CREATE TABLE", "BEGIN; COMMIT"),
        ("CREATE INDEX", "CREATE TABLE a (b int); DROP TABLE c"),
        ("CREATE TABLE", "DO $$ BEGIN CREATE TABLE a (b int); END $$"),
        ("CREATE TABLE", "SELECT make_table()"),
        ("CREATE TABLE AS", "CREATE TABLE a AS SELECT 1"),
        ("SELECT INTO", "SELECT 1 INTO a"),
        ("CREATE TABLE", "CREATE SCHEMA s CREATE TABLE a (b int)"),
        ("CREATE SCHEMA", "CREATE SCHEMA s CREATE TABLE a (b int)"),
        ("CREATE MATERIALIZED VIEW", "CREATE MATERIALIZED VIEW a AS SELECT 1"),
        ("CREATE EXTENSION", "CREATE EXTENSION citext"),
        ("ALTER TABLE", "ALTER TABLE a ADD COLUMN b timestamptz DEFAULT now()"),
        ("ALTER TABLE", "ALTER TABLE a ADD COLUMN b timestamptz DEFAULT 'now'"),
        ("ALTER TABLE", "ALTER TABLE a ADD COLUMN b timestamptz DEFAULT (now())"),
        ("ALTER TABLE", "ALTER TABLE a ADD COLUMN b text DEFAULT CURRENT_USER"),
        ("ALTER TABLE", "ALTER TABLE a ADD COLUMN b int DEFAULT f(1)"),
        ("ALTER TABLE", "ALTER TABLE a ADD COLUMN b int DEFAULT 1 + f(1)"),
        ("ALTER TABLE", "ALTER TABLE a ADD COLUMN b int DEFAULT 1::int + f(1)"),
        ("ALTER TABLE", "ALTER TABLE a ADD COLUMN b bool DEFAULT true AND f(1)"),
        ("ALTER TABLE", "ALTER TABLE a ADD COLUMN b text DEFAULT 'x' || now(), ADD c int"),
        ("ALTER TABLE", "ALTER TABLE a ADD COLUMN b timestamp DEFAULT 'Today 12:00'"),
        ("ALTER TABLE", "ALTER TABLE a ADD COLUMN b timestamp DEFAULT E'n\\x6fw'"),
        ("CREATE FUNCTION", "CREATE FUNCTION a() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END"),
        (
            "CREATE FUNCTION",
            "BEGIN; CREATE FUNCTION a() RETURNS int BEGIN ATOMIC SELECT 1; END",
        ),
        ("ALTER TABLE", ""),
    ],
)
def test_what_depends_on_more_than_its_words_is_not(tag: str, query: str) -> None:
    assert treatment(change(tag, query)) is Treatment.STOP


def test_a_rewrite_and_what_another_statement_ran_are_not_done_again() -> None:
    query = "ALTER TABLE a ALTER b TYPE bigint"
    assert treatment(change("ALTER TABLE", query, rewrites=True)) is Treatment.STOP
    assert treatment(change("ALTER TABLE", query, nested=True)) is Treatment.STOP
    for event in ("noticed", "not_published"):
        assert treatment(change("ALTER TABLE", query, event=event)) is Treatment.STOP
    extension = (ChangedObject("table", "a", "a.b", in_extension=True),)
    assert treatment(change("ALTER TABLE", query, objects=extension)) is Treatment.STOP


@pytest.mark.parametrize(
    "found",
    [
        ChangedObject("table", "pg_temp", "pg_temp.a"),
        ChangedObject("function", "pgkeep", "pgkeep.told()"),
        ChangedObject("publication", "", "pgkeep_rows"),
    ],
)
def test_what_is_temporary_or_our_own_is_passed_over(found: ChangedObject) -> None:
    query = "SELECT whatever; SELECT more"
    assert treatment(change("CREATE TABLE", query, objects=(found,))) is Treatment.IGNORE


@pytest.mark.parametrize(
    "found",
    [
        ChangedObject("table", "pgkeepers", "pgkeepers.a"),
        ChangedObject("schema", "", "pgkeep_shop"),
        ChangedObject("table column", "public", "public.a.pgkeep"),
    ],
)
def test_what_is_only_called_like_ours_is_not_passed_over(found: ChangedObject) -> None:
    query = "ALTER TABLE a ADD b integer"
    assert treatment(change("ALTER TABLE", query, objects=(found,))) is Treatment.RUN


def test_publications_never_stop_a_replay() -> None:
    plain = change("CREATE PUBLICATION", "CREATE PUBLICATION a FOR ALL TABLES")
    own = change("ALTER PUBLICATION", "ALTER PUBLICATION pgkeep_changes SET TABLE a")
    nested = change("ALTER PUBLICATION", "CREATE TABLE a (b integer)")
    assert [treatment(one) for one in (plain, own, nested)] == [
        Treatment.RUN,
        Treatment.IGNORE,
        Treatment.IGNORE,
    ]


def message(event: str, tag: str, query: str | None, *objects: str) -> bytes:
    """As capture's event triggers write it."""
    listed = [{"type": "table", "schema": "s", "identity": one} for one in objects]
    return json.dumps(
        {"version": 1, "event": event, "tag": tag, "query": query, "role": "me",
         "search_path": "a, b", "objects": listed}
    ).encode()  # fmt: skip


def test_a_change_is_read() -> None:
    query = "ALTER TABLE a ADD b int"
    found = ChangeReader().take(message("ddl_command_end", "ALTER TABLE", query, "s.a"))
    assert found == SchemaChange(
        "ALTER TABLE", query, "me", "a, b", (ChangedObject("table", "s", "s.a"),),
        event="ddl_command_end",
    )  # fmt: skip
    assert str(found) == "ALTER TABLE (s.a) by me"


def read(*messages: bytes) -> list[tuple[int, bool, bool]]:
    reader = ChangeReader()
    changes = [reader.take(one) for one in messages]
    return [(one.number, one.rewrites, one.nested) for one in changes]


def test_events_of_one_statement_are_counted() -> None:
    assert read(
        message("sql_drop", "ALTER TABLE", "ALTER TABLE a DROP b"),
        message("ddl_command_end", "ALTER TABLE", None),
        message("ddl_command_end", "ALTER TABLE", "ALTER TABLE a ADD b int"),
    ) == [(1, False, False), (2, False, False), (1, False, False)]


def test_a_rewrite_comes_first_and_stops_the_statement() -> None:
    query = "ALTER TABLE a ALTER b TYPE text"
    first = ChangeReader().take(message("table_rewrite", "ALTER TABLE", query, "s.a"))
    assert treatment(first) is Treatment.STOP


def test_a_text_of_plain_statements_is_done_at_its_first_event() -> None:
    query = "CREATE TABLE a (b int); ALTER TABLE a DROP b; CREATE EXTENSION citext"
    plain, whole = (
        [
            message("ddl_command_end", "CREATE TABLE", text, "s.a"),
            message("sql_drop", "ALTER TABLE", None, "s.a"),
            message("ddl_command_end", "ALTER TABLE", None, "s.a"),
        ]
        for text in (query.rpartition(";")[0], query)
    )
    assert treatments(*plain) == [Treatment.RUN, Treatment.DONE, Treatment.DONE]
    assert treatments(*whole) == [Treatment.STOP] * 3
    rewrite = message("table_rewrite", "ALTER TABLE", None, "s.a")
    assert treatments(plain[0], rewrite) == [Treatment.RUN, Treatment.STOP]
    other = message("ddl_command_end", "CREATE VIEW", None, "s.a")
    assert treatments(plain[0], other) == [Treatment.RUN, Treatment.STOP]
    assert treatments(plain[1]) == [Treatment.STOP]  # its text was in another transaction


EVENTS = {
    "CREATE TABLE": message("ddl_command_end", "CREATE TABLE", None, "s.a"),
    "ALTER TABLE": message("ddl_command_end", "ALTER TABLE", None, "s.a"),
}


@pytest.mark.parametrize(
    ("text", "told", "stops"),
    [
        ("CREATE TABLE a (b int); ALTER TABLE a ADD c int", ["CREATE TABLE", "ALTER TABLE"], False),
        ("CREATE TABLE a (b int); DROP TABLE IF EXISTS b", ["CREATE TABLE"], True),
        ("DROP TABLE IF EXISTS a; CREATE TABLE a (b int)", ["CREATE TABLE"], True),
        ("DROP POLICY IF EXISTS a ON b; CREATE TABLE a (b int)", ["CREATE TABLE"], False),
        ("DROP TABLE IF EXISTS a; CREATE TABLE a (b int)", ["DROP TABLE", "CREATE TABLE"], False),
        ("CREATE TABLE a (b int); DROP TABLE passing", ["CREATE TABLE"], True),
        ("DROP TABLE passing; CREATE TABLE a (b int)", ["CREATE TABLE"], True),
        ("GRANT a TO b; CREATE TABLE a (b int)", ["CREATE TABLE"], True),
        ("CREATE TABLE a (b int); ALTER TABLE a ADD c int",
         ["CREATE TABLE", "ALTER TABLE", "ALTER TABLE"], True),
        ("CREATE TABLE a (b int); CREATE TABLE c (d int); ALTER TABLE a ADD c int",
         ["CREATE TABLE", "ALTER TABLE", "CREATE TABLE", "ALTER TABLE", "ALTER TABLE"], True),
    ],
)  # fmt: skip
def test_a_text_is_done_only_if_just_its_own_statements_were_told(
    text: str, told: list[str], *, stops: bool
) -> None:
    reader = ChangeReader()
    first = message("ddl_command_end", told[0], text, "s.a")
    changes = [reader.take(one) for one in (first, *(EVENTS[tag] for tag in told[1:]))]
    after = reader.take(message("ddl_command_end", "CREATE TABLE", "CREATE TABLE z (b int)"))
    assert (Treatment.STOP in map(treatment, (*changes, after))) == stops


def treatments(*messages: bytes) -> list[Treatment]:
    reader = ChangeReader()
    return [treatment(reader.take(one)) for one in messages]


def test_more_commands_of_one_text_are_nested() -> None:
    query = "CREATE TABLE a (b int)"
    assert read(
        message("ddl_command_end", "CREATE TABLE", query),
        message("ddl_command_end", "CREATE TABLE", None),
        message("ddl_command_end", "ALTER TABLE", None),
    ) == [(1, False, False), (1, False, True), (1, False, True)]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"tag": "X", "objects": [1]}', b"\xff"])
def test_a_message_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(JournalInvalid):
        ChangeReader().take(content)
