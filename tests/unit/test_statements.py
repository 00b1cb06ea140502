"""SQL that puts things back: every name and every text arrives as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from examples import contents, table
from pgkeep.model import (
    Column,
    DatabaseProperties,
    LargeObjects,
    Role,
    SequenceValue,
    TableName,
)
from pgkeep.postgres import statements

NASTY = TableName('we"ird', "it's\\a\ntable")
NASTY_SQL = '"we""ird"."it\'s\\a\ntable"'


def settings(*values: tuple[str, str, str]) -> list[str]:
    properties = DatabaseProperties("shop", "UTF8", "C", "C", 0, values)
    return list(statements.database_settings(properties, '"shop"'))


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("", "''"),
        ("plain", "'plain'"),
        ("it's", "'it''s'"),
        ("''", "''''''"),
        ("a\\b", " E'a\\\\b'"),
        ("\\'", " E'\\\\'''"),
        ("a\nb", "'a\nb'"),
    ],
)
def test_a_text_is_quoted(text: str, literal: str) -> None:
    assert statements.literal(text) == literal


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_texts_are_quoted_as_libpq_does_it(text: str) -> None:
    assert statements.literal(text) == sql.Literal(text).as_string(None)


def test_copy_lists_the_columns_that_are_stored() -> None:
    columns = (
        Column("id", "integer"),
        Column('a "b"', "text"),
        Column("c", "text", generated="lower(b)"),
        Column("Ü", "text", identity="a"),
    )
    assert (
        statements.copy_in(NASTY, columns) == f'COPY {NASTY_SQL} ("id", "a ""b""", "Ü") FROM STDIN'
    )
    assert statements.copy_in(NASTY, ()) == f"COPY {NASTY_SQL} FROM STDIN"
    assert statements.copy_in(NASTY, columns[2:3]) == f"COPY {NASTY_SQL} FROM STDIN"


@pytest.mark.parametrize(("called", "word"), [(True, "true"), (False, "false")])
def test_a_sequence_is_put_where_it_stood(called: bool, word: str) -> None:
    value = SequenceValue(TableName("public", "it's"), -9223372036854775808, called)
    assert statements.set_sequence(value) == (
        "SELECT pg_catalog.setval('\"public\".\"it''s\"'::pg_catalog.regclass,"
        f" -9223372036854775808, {word})"
    )


def test_a_view_is_filled() -> None:
    assert statements.refresh(NASTY) == f"REFRESH MATERIALIZED VIEW {NASTY_SQL}"


# --- large objects --------------------------------------------------------------------------

OBJECTS = LargeObjects(
    owners=((1, "app"), (2, 'o"dd')),
    comments=((1, "it's a picture"),),
    grants=(
        (1, "readers SELECT"),
        (1, "PUBLIC SELECT"),
        (2, '"two words" UPDATE WITH GRANT OPTION'),
    ),
)


def test_large_objects_get_their_comments_grants_and_owners_back() -> None:
    made = list(statements.large_object_properties(OBJECTS, owners=True, privileges=True))
    assert made == [
        "COMMENT ON LARGE OBJECT 1 IS 'it''s a picture'",
        "GRANT SELECT ON LARGE OBJECT 1 TO readers",
        "GRANT SELECT ON LARGE OBJECT 1 TO PUBLIC",
        'GRANT UPDATE ON LARGE OBJECT 2 TO "two words" WITH GRANT OPTION',
        'ALTER LARGE OBJECT 1 OWNER TO "app"',
        'ALTER LARGE OBJECT 2 OWNER TO "o""dd"',
    ]


@pytest.mark.parametrize(
    ("owners", "privileges", "words"),
    [
        (True, False, {"COMMENT", "ALTER"}),
        (False, True, {"COMMENT", "GRANT"}),
        (False, False, {"COMMENT"}),
    ],
)
def test_owners_and_privileges_can_be_left_out(
    owners: bool, privileges: bool, words: set[str]
) -> None:
    made = statements.large_object_properties(OBJECTS, owners=owners, privileges=privileges)
    assert {statement.split()[0] for statement in made} == words


# --- settings and roles -----------------------------------------------------------------------


def test_settings_of_the_database_and_of_roles_in_it() -> None:
    assert settings(
        ("", "work_mem", "64MB"),
        ("app", "TimeZone", "Europe/Berlin"),
        ('o"dd', "my.Setting", "it's\\"),
    ) == [
        'ALTER DATABASE "shop" SET "work_mem" TO \'64MB\'',
        'ALTER ROLE "app" IN DATABASE "shop" SET "TimeZone" TO \'Europe/Berlin\'',
        'ALTER ROLE "o""dd" IN DATABASE "shop" SET "my"."Setting" TO  E\'it\'\'s\\\\\'',
    ]


def test_a_list_keeps_its_own_quotes() -> None:
    assert settings(("", "search_path", '"$user", public, "Odd, one"')) == [
        'ALTER DATABASE "shop" SET "search_path" TO "$user", public, "Odd, one"'
    ]
    assert settings(("", "Search_Path", '""')) == ['ALTER DATABASE "shop" SET "Search_Path" TO ""']
    assert settings(("", "search_path", "")) == ['ALTER DATABASE "shop" SET "search_path" TO \'\'']


def test_a_role_is_made_without_a_password() -> None:
    role = Role('o"dd', "NOSUPERUSER LOGIN", ("readers", "two words"))
    assert list(statements.create_role(role)) == ['CREATE ROLE "o""dd" WITH NOSUPERUSER LOGIN']
    assert list(statements.grant_memberships(role, role.member_of)) == [
        'GRANT "readers" TO "o""dd"',
        'GRANT "two words" TO "o""dd"',
    ]


# --- a table beside ---------------------------------------------------------------------------


def test_a_table_is_made_like_another() -> None:
    example = table(
        columns=(
            Column("id", "integer", not_null=True, default="nextval('s'::regclass)"),
            Column("name", "text", collation='pg_catalog."C"', default="'x'::text"),
            Column("upper", "text", generated="upper(name)", not_null=True),
        )
    )
    assert statements.create_table_like(example, TableName("look", "customers")) == (
        'CREATE TABLE "look"."customers" (\n'
        '    "id" integer NOT NULL,\n'
        '    "name" text COLLATE pg_catalog."C" DEFAULT \'x\'::text,\n'
        '    "upper" text GENERATED ALWAYS AS (upper(name)) STORED NOT NULL,\n'
        "    CONSTRAINT customers_pkey PRIMARY KEY (id)\n"
        ")"
    )


def test_the_examples_settings_are_statements() -> None:
    assert len(list(statements.database_settings(contents().database, ':"DBNAME"'))) == 2
