"""Back up, restore, compare: the promise itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from conftest import Workbench
from pgkeep.demo import story
from pgkeep.recovery import fill, proof
from pgkeep.recovery.digest import RowSum


def test_the_shop_comes_back_whole(workbench: Workbench, new_database: Callable[[], str]) -> None:
    source, target = new_database(), new_database()
    story.run_script(source, "shop.sql")
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    outcome = workbench.pgkeep("restore", "shop", "--target", target, "--json")
    document = outcome.document
    assert isinstance(document, dict)
    assert document["proven"] is True
    assert document["rows"] > 400_000


WIDE = """
    CREATE TABLE notes (id integer PRIMARY KEY, code text, body text NOT NULL);
    INSERT INTO notes SELECT i, md5(i::text), repeat(md5(i::text), 3)
      FROM generate_series(1, 120000) i;
    ALTER TABLE notes ADD CONSTRAINT notes_code_key UNIQUE (code);
    CREATE INDEX notes_body ON notes (body);
    CREATE INDEX notes_words ON notes USING gin (to_tsvector('simple', body));
"""


@contextmanager
def waits_for_tables(url: str) -> Iterator[set[str]]:
    """What was seen to wait for a lock on a table in that database meanwhile."""
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not done.wait(0.005):
                waiting = connection.execute(
                    "SELECT query FROM pg_stat_activity WHERE datname = current_database()"
                    " AND wait_event_type = 'Lock' AND wait_event = 'relation'"
                )
                seen.update(query for (query,) in waiting)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def test_nothing_waits_for_a_key_that_is_made(
    workbench: Workbench, new_database: Callable[[], str]
) -> None:
    source, target = new_database(), new_database()
    with psycopg.connect(source) as connection:
        connection.execute(WIDE)
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    with waits_for_tables(target) as seen:
        workbench.pgkeep("restore", "shop", "--target", target, "--jobs", "4")
    assert not seen


def test_a_large_table_is_read_back_in_stretches_and_each_row_counts(
    workbench: Workbench, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = new_database(), new_database()
    with psycopg.connect(source) as connection:
        connection.execute(WIDE)
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    read: list[tuple[int, int | None]] = []
    real = proof.read_back

    def noted(reader: Any, table: Any, pages: tuple[int, int | None], *rest: Any) -> Any:
        read.append(pages)
        return real(reader, table, pages, *rest)

    monkeypatch.setattr(proof, "read_back", noted)
    monkeypatch.setattr(fill, "_LARGE_BYTES", 1)
    document = workbench.pgkeep(
        "restore", "shop", "--target", target, "--jobs", "4", "--json"
    ).document
    assert isinstance(document, dict)
    assert (document["proven"], document["rows"]) == (True, 120_000)
    starts, ends = zip(*sorted(read, key=lambda pages: pages[0]), strict=True)
    assert len(read) == 4
    assert starts[0] == 0
    assert ends == (*starts[1:], None), "no page between two stretches is left out"

    # A stretch that is not read is a difference, and not a smaller proof.
    monkeypatch.setattr(
        proof, "read_back",
        lambda reader, table, pages, *rest: real(reader, table, pages, *rest)
        if pages[0] == 0 else RowSum(),
    )  # fmt: skip
    again = new_database()
    failed = workbench.pgkeep("restore", "shop", "--target", again, "--jobs", "4", expect=1)
    assert "[E051]" in failed.err or "differ" in failed.err
