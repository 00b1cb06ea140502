"""Random databases go out and come back; compared by pgkeep's proof, and without it.

For a long run: PGKEEP_TEST_EXAMPLES=500 pytest tests/acceptance/test_random_databases.py
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import psycopg
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from psycopg import sql

from comparison import assert_same, databases, load_statements, take_picture
from conftest import Workbench
from pgkeep.postgres.server import ScratchServer
from schemas import RandomDatabase, random_database

EXAMPLES = int(os.environ.get("PGKEEP_TEST_EXAMPLES", "0"))
SMALLEST_PART_PAGES = 16

# Tables whose rows can be there twice.
_WITHOUT_KEYS = """
    SELECT n.nspname, c.relname, pg_relation_size(c.oid) > 0,
           ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0
                    AND NOT attisdropped AND attgenerated = '' ORDER BY attnum)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND NOT c.relispartition AND n.nspname !~ '^(pg_|information_schema)'
       AND NOT EXISTS (SELECT FROM pg_index i
                        WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion))
     ORDER BY c.oid"""

_MATVIEWS = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid"""


@pytest.mark.parametrize(("major", "examples"), [(17, 30), (18, 15)])
@pytest.mark.timeout(0)
def test_a_random_database_comes_back_equal(
    workbench: Workbench, servers: Callable[[int], ScratchServer], major: int, examples: int
) -> None:
    server = servers(major)
    workbench.init(server.url("random_source"))
    with workbench.config.open("a") as config:
        config.write(f"[backup]\npart_pages = {SMALLEST_PART_PAGES}\n")

    @settings(
        max_examples=EXAMPLES or examples,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(database=random_database(), copies=st.sampled_from([0, 0, 500]))
    def round_trip(database: RandomDatabase, copies: int) -> None:
        note(database.description)
        for statement in database.statements:
            note(f"{statement};")
        shutil.rmtree(workbench.repository, ignore_errors=True)
        with databases(server, "random_source", "random_target") as (source, target):
            load_statements(source, database.statements)
            multiply_rows(source, copies)
            workbench.pgkeep("backup", "shop")
            restored = workbench.pgkeep("restore", "shop", "--target", target)
            assert "proven" in restored.out
            assert_same(
                take_picture(source, dump_major=major), take_picture(target, dump_major=major)
            )

    round_trip()


def multiply_rows(url: str, copies: int) -> None:
    """Let tables grow until they are read in several parts."""
    if not copies:
        return
    with psycopg.connect(url, autocommit=True) as connection:
        for schema, name, has_rows, columns in connection.execute(_WITHOUT_KEYS).fetchall():
            if not has_rows:
                continue
            listed = sql.SQL(", ").join(map(sql.Identifier, columns))
            into = sql.SQL("({})").format(listed) if columns else sql.SQL("")
            connection.execute(
                sql.SQL(
                    "INSERT INTO {table} {into} OVERRIDING SYSTEM VALUE"
                    " SELECT {listed} FROM ONLY {table}, generate_series(1, {copies})"
                ).format(
                    table=sql.Identifier(schema, name),
                    into=into,
                    listed=listed,
                    copies=sql.Literal(copies),
                )
            )
        for schema, name in connection.execute(_MATVIEWS).fetchall():
            view = sql.Identifier(schema, name)
            connection.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(view))
