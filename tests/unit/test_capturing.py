"""What capture has made in a database is told from what is the user's."""

from __future__ import annotations

import pytest

from pgkeep.postgres.archive import Archive, Entry, Section
from pgkeep.postgres.capturing import COMMENT, definitions_without_capture


def schema_with(comment: str) -> Archive:
    def entry(dump_id: int, kind: str, definition: str) -> Entry:
        return Entry(
            dump_id=dump_id, table_oid=0, oid=0, tag="pgkeep", kind=kind,
            section=Section.PRE_DATA, definition=definition, drop="", namespace="",
            owner="postgres", table_access_method="", relkind="", dependencies=(),
        )  # fmt: skip

    entries = (
        entry(1, "SCHEMA", "CREATE SCHEMA pgkeep;"),
        entry(2, "COMMENT", f"COMMENT ON SCHEMA pgkeep IS '{comment}';"),
    )
    return Archive((1, 16, 0), "postgres", "17.6", "17.6", entries)


EARLIER = "pgkeep captures changes with this. To take it away: pgkeep capture --remove"


@pytest.mark.parametrize("comment", [COMMENT, EARLIER], ids=["now", "earlier"])
def test_a_schema_of_capture_is_known_by_its_comment_of_any_version(comment: str) -> None:
    kinds = [one.kind for one in definitions_without_capture(schema_with(comment)).entries]
    assert "SCHEMA" not in kinds


def test_a_users_schema_of_the_same_name_stays() -> None:
    archive = schema_with("our own")
    assert definitions_without_capture(archive) == archive
