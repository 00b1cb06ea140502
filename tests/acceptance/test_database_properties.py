"""What belongs to the database itself comes back with it: grants, its comment, its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from comparison import load_statements
from conftest import Workbench
from pgkeep.postgres.server import ScratchServer

OF_THE_DATABASE = """
    SELECT ARRAY(SELECT (pg_get_userbyid(x.grantor), CASE x.grantee WHEN 0 THEN 'PUBLIC'
                         ELSE pg_get_userbyid(x.grantee)::text END,
                         x.privilege_type, x.is_grantable)::text
                   FROM aclexplode(COALESCE(datacl, acldefault('d', datdba))) x ORDER BY 1),
           shobj_description(d.oid, 'pg_database'),
           (SELECT setconfig FROM pg_db_role_setting WHERE setdatabase = d.oid AND setrole = 0)
      FROM pg_database d WHERE datname = current_database()"""


@pytest.fixture
def source(workbench: Workbench, new_database: Callable[[], str]) -> Iterator[str]:
    url = new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        name = connection.info.dbname
        for statement in (
            'CREATE ROLE "db Reader"',
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
            f'GRANT CONNECT ON DATABASE {name} TO "db Reader" WITH GRANT OPTION',
            f"GRANT TEMPORARY ON DATABASE {name} TO PUBLIC",
            f"COMMENT ON DATABASE {name} IS 'it''s the \\ shop :x'",
            f"ALTER DATABASE {name} SET work_mem = '7MB'",
            "CREATE TABLE t AS SELECT 1 AS id",
        ):
            connection.execute(statement.encode())
    workbench.init(url)
    workbench.pgkeep("backup", "shop")
    yield url
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'REVOKE ALL ON DATABASE {name} FROM "db Reader"'.encode())
        connection.execute('DROP OWNED BY "db Reader"')
        connection.execute('DROP ROLE "db Reader"')


def of_the_database(url: str) -> tuple[object, ...]:
    with psycopg.connect(url) as connection:
        row = connection.execute(OF_THE_DATABASE).fetchone()
    assert row is not None
    return row


def test_they_come_back(workbench: Workbench, source: str, new_database: Callable[[], str]) -> None:
    target = new_database()
    workbench.pgkeep("restore", "shop", "--target", target)
    assert of_the_database(target) == of_the_database(source)
    load_statements(target, ('DROP OWNED BY "db Reader"',))


def test_roles_that_have_no_more_than_a_grant_on_it_are_kept(
    workbench: Workbench, source: str, servers: Callable[[int], ScratchServer]
) -> None:
    other = servers(18)
    other.create_database("elsewhere")
    target = other.url("elsewhere")
    try:
        workbench.pgkeep("restore", "shop", "--target", target)
        assert of_the_database(target) == of_the_database(source)
    finally:
        other.drop_database("elsewhere")
        load_statements(other.url(), ('DROP ROLE IF EXISTS "db Reader"',))


def test_a_target_with_a_comment_keeps_it(
    workbench: Workbench, source: str, new_database: Callable[[], str]
) -> None:
    target = new_database()
    with psycopg.connect(target, autocommit=True) as connection:
        connection.execute(f"COMMENT ON DATABASE {connection.info.dbname} IS 'mine'".encode())
    workbench.pgkeep("restore", "shop", "--target", target)
    assert of_the_database(target)[1] == "mine"
    load_statements(target, ('DROP OWNED BY "db Reader"',))


def test_without_privileges_the_grants_stay_away(
    workbench: Workbench, source: str, new_database: Callable[[], str]
) -> None:
    target, fresh = new_database(), new_database()
    workbench.pgkeep("restore", "shop", "--target", target, "--no-privileges")
    assert of_the_database(target)[0] == of_the_database(fresh)[0]
