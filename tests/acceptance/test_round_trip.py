"""Back up, restore, compare: the promise itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from comparison import load_statements, take_picture, value
from conftest import Workbench
from pgkeep.demo import story
from pgkeep.postgres.archive import Entry
from pgkeep.recovery import fill, load, plan, proof
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


FROZEN = """
    SELECT array_agg(relname::text ORDER BY relname) FROM pg_class
     WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
       AND relallvisible > 0"""


def test_a_table_that_one_session_may_load_alone_is_frozen(
    workbench: Workbench, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are visible to all at once, and no vacuum has to look at them again."""
    monkeypatch.setattr(fill, "_WORTH_FREEZING", 0)
    source, first, second, rows_alone = (new_database() for _ in range(4))
    load_statements(
        source,
        ("CREATE TABLE large (id int PRIMARY KEY, v text)",
         "INSERT INTO large SELECT n, repeat('x', 300) FROM generate_series(1, 9000) n",
         "CREATE TABLE lesser (LIKE large)", "INSERT INTO lesser SELECT * FROM large LIMIT 900",
         "CREATE TABLE cut (LIKE large) PARTITION BY RANGE (id)",
         "CREATE TABLE cut_1 PARTITION OF cut DEFAULT",
         "INSERT INTO cut SELECT * FROM large LIMIT 800"),
    )  # fmt: skip
    workbench.init(source)
    with workbench.config.open("a") as config:
        config.write("[backup]\npart_pages = 16\n")
    workbench.pgkeep("backup", "shop")
    workbench.pgkeep("restore", "shop", "--target", first, "--jobs", "1")
    assert value(first, FROZEN) == ["cut_1", "large", "lesser"]
    # The others would be done long before it: all sessions load a share of it.
    workbench.pgkeep("restore", "shop", "--target", second, "--jobs", "4")
    assert value(second, FROZEN) == ["cut_1", "lesser"]
    # Whoever fills tables that were there truncates none.
    workbench.pgkeep("restore", "shop", "--target", rows_alone, "--schema-only")
    workbench.pgkeep("restore", "shop", "--target", rows_alone, "--data-only", "--jobs", "1")
    assert value(rows_alone, FROZEN) is None
    assert take_picture(first).rows == take_picture(second).rows == take_picture(source).rows


@pytest.mark.parametrize(
    ("meanwhile", "proven"),
    [
        ("UPDATE large SET v = v WHERE id = 1", True),
        ("UPDATE large SET v = 'other' WHERE id = 1", False),
        ("DELETE FROM large WHERE id = 1", False),
    ],
)
def test_rows_that_left_their_place_are_compared_one_by_one(
    workbench: Workbench,
    new_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: str,
    proven: bool,
) -> None:
    """A table that one session loaded is compared as one text; what matters is each row."""
    monkeypatch.setattr(fill, "_WORTH_FREEZING", 0)
    source, target = new_database(), new_database()
    load_statements(
        source,
        ("CREATE TABLE large (id int, v text)",
         "INSERT INTO large SELECT n, repeat('x', 300) FROM generate_series(1, 9000) n"),
    )  # fmt: skip
    real, by_row = load.load_frozen, load.digest_of_rows
    counted: list[int] = []

    def load_and_change(*arguments: Any) -> RowSum:
        stored = real(*arguments)
        load_statements(target, (meanwhile,))
        return stored

    def count(*arguments: Any) -> RowSum:
        counted.append((found := by_row(*arguments)).rows)
        return found

    monkeypatch.setattr(load, "load_frozen", load_and_change)
    monkeypatch.setattr(load, "digest_of_rows", count)
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    outcome = workbench.pgkeep(
        "restore", "shop", "--target", target, "--jobs", "1", expect=0 if proven else 1
    )
    assert counted == [9000]
    assert ("differs  table public.large: 9000 rows" in outcome.out) is not proven


REFERRING = """
    CREATE TABLE people (id int PRIMARY KEY, boss int, team int);
    CREATE TABLE teams (id int PRIMARY KEY, head int, name text);
    CREATE UNIQUE INDEX teams_name ON teams (name);
    CREATE TABLE notes (id int PRIMARY KEY, person int, team text, pad text);
    CREATE TABLE parts (id int, person int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts DEFAULT;
    CREATE TABLE of_parts (id int PRIMARY KEY, part int, person int);
    INSERT INTO people SELECT n, NULLIF(n / 2, 0), n % 10 + 1 FROM generate_series(1, 3000) n;
    INSERT INTO teams SELECT n, n, 'team ' || n FROM generate_series(1, 10) n;
    INSERT INTO notes SELECT n, n % 3000 + 1, 'team ' || n % 10 + 1, repeat('x', 400)
      FROM generate_series(1, 40000) n;
    INSERT INTO parts SELECT n, n FROM generate_series(1, 500) n;
    INSERT INTO of_parts SELECT n, n, n FROM generate_series(1, 500) n;
    ALTER TABLE people ADD FOREIGN KEY (boss) REFERENCES people,
        ADD FOREIGN KEY (team) REFERENCES teams;
    ALTER TABLE teams ADD FOREIGN KEY (head) REFERENCES people;
    ALTER TABLE notes ADD FOREIGN KEY (person) REFERENCES people ON DELETE CASCADE,
        ADD CONSTRAINT by_name FOREIGN KEY (team) REFERENCES teams (name) DEFERRABLE;
    COMMENT ON CONSTRAINT by_name ON notes IS 'a name';
    INSERT INTO of_parts VALUES (999, 1, -1);
    ALTER TABLE of_parts ADD FOREIGN KEY (part) REFERENCES parts,
        ADD FOREIGN KEY (person) REFERENCES people NOT VALID;
    ALTER TABLE parts ADD FOREIGN KEY (person) REFERENCES people"""

ODDLY_REFERRING = """
    CREATE SCHEMA "Other One";
    CREATE SCHEMA s2;
    CREATE TABLE "Other One"."A.b" (id int PRIMARY KEY, "x y" int);
    CREATE TABLE s2."A.b" (id int PRIMARY KEY, other int REFERENCES "Other One"."A.b");
    ALTER TABLE "Other One"."A.b" ADD CONSTRAINT "fk, odd"
        FOREIGN KEY ("x y") REFERENCES s2."A.b" DEFERRABLE INITIALLY DEFERRED;
    CREATE TABLE inc (a int, b int, c text);
    CREATE UNIQUE INDEX inc_u ON inc (a, b) INCLUDE (c);
    CREATE TABLE nnd (a int UNIQUE NULLS NOT DISTINCT, b int);
    CREATE TABLE refs (id int, a int, b int, n int,
        FOREIGN KEY (a, b) REFERENCES inc (a, b) MATCH FULL
        ON UPDATE CASCADE ON DELETE SET NULL,
        FOREIGN KEY (n) REFERENCES nnd (a));
    CREATE TABLE empty1 (id int PRIMARY KEY);
    CREATE TABLE empty2 (id int REFERENCES empty1);
    CREATE TABLE par (id int PRIMARY KEY, e int);
    CREATE TABLE chi (extra int, PRIMARY KEY (id)) INHERITS (par);
    CREATE TABLE toch (id int REFERENCES chi, p int REFERENCES par);
    CREATE UNLOGGED TABLE unl (id int PRIMARY KEY);
    CREATE UNLOGGED TABLE unl2 (id int REFERENCES unl);
    CREATE TABLE gen (id int PRIMARY KEY, d int GENERATED ALWAYS AS (id * 2) STORED UNIQUE);
    CREATE TABLE togen (d int REFERENCES gen (d));
    CREATE TABLE rl (id int PRIMARY KEY, up int REFERENCES rl);
    ALTER TABLE rl ENABLE ROW LEVEL SECURITY;
    ALTER TABLE rl FORCE ROW LEVEL SECURITY;
    CREATE TABLE pt (id int PRIMARY KEY) PARTITION BY HASH (id);
    CREATE TABLE pt_0 PARTITION OF pt FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE pt_1 PARTITION OF pt FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE topt (id int REFERENCES pt);
    CREATE TABLE topt0 (id int REFERENCES pt_0);
    CREATE TABLE frompt (id int, r int REFERENCES empty1) PARTITION BY LIST (id);
    CREATE TABLE frompt_1 PARTITION OF frompt FOR VALUES IN (1);
    ALTER TABLE frompt_1 ADD FOREIGN KEY (id) REFERENCES par;
    CREATE DOMAIN did AS int;
    CREATE TABLE dom (id did PRIMARY KEY);
    CREATE TABLE todom (id did REFERENCES dom);
    CREATE TABLE col (id text COLLATE "C" PRIMARY KEY);
    CREATE TABLE tocol (id text REFERENCES col);
    CREATE TABLE dropped (gone int, id int PRIMARY KEY, v int REFERENCES dropped);
    ALTER TABLE dropped DROP COLUMN gone;
    CREATE STATISTICS st ON a, b FROM refs;
    CREATE RULE r AS ON INSERT TO unl2 WHERE NEW.id = 77 DO INSTEAD NOTHING;
    CREATE TABLE trg (id int PRIMARY KEY REFERENCES par);
    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$no$$;
    END';
    INSERT INTO "Other One"."A.b" VALUES (1, NULL), (2, NULL);
    INSERT INTO s2."A.b" SELECT 1, 1;
    UPDATE "Other One"."A.b" SET "x y" = 1 WHERE id = 1;
    INSERT INTO inc SELECT n, n, 'x' FROM generate_series(1, 3000) n;
    INSERT INTO nnd SELECT n, n FROM generate_series(1, 3000) n;
    INSERT INTO refs SELECT n, n, n, n FROM generate_series(1, 3000) n;
    INSERT INTO par SELECT n, n FROM generate_series(1, 50) n;
    INSERT INTO chi SELECT n, n, n FROM generate_series(100, 150) n;
    INSERT INTO toch SELECT n, 1 FROM generate_series(100, 149) n;
    INSERT INTO unl VALUES (1);
    INSERT INTO unl2 VALUES (1);
    INSERT INTO gen (id) SELECT generate_series(1, 100);
    INSERT INTO togen SELECT d FROM gen;
    INSERT INTO rl VALUES (1, NULL), (2, 1);
    INSERT INTO pt SELECT generate_series(1, 500);
    INSERT INTO topt SELECT generate_series(1, 500);
    INSERT INTO topt0 SELECT id FROM pt_0;
    INSERT INTO frompt VALUES (1, NULL);
    INSERT INTO dom VALUES (1);
    INSERT INTO todom VALUES (1);
    INSERT INTO col VALUES ('a');
    INSERT INTO tocol VALUES ('a');
    INSERT INTO dropped VALUES (1, 1), (2, 1);
    INSERT INTO trg SELECT id FROM ONLY par;
    CREATE TRIGGER t BEFORE INSERT ON trg FOR EACH ROW EXECUTE FUNCTION f();
    ALTER TABLE trg ENABLE ALWAYS TRIGGER t;
"""

EARLY = {"people_boss_fkey", "people_team_fkey", "teams_head_fkey", "notes_person_fkey",
         "by_name", "of_parts_person_fkey"}  # fmt: skip


@pytest.mark.parametrize(("large_from", "early"), [(0, EARLY), (1 << 30, set())])
@pytest.mark.parametrize("jobs", ["1", "4"])
def test_foreign_keys_are_made_as_soon_as_their_tables_are_complete(
    workbench: Workbench,
    new_database: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    large_from: int,
    early: set[str],
    jobs: str,
) -> None:
    """Whatever refers to whom, in circles too. Those that concern partitions wait for the end, and
    so do those of small tables: programs of their own for each would take longer."""
    monkeypatch.setattr(plan, "_LARGE_TABLE_BYTES", large_from)
    source, target = new_database(), new_database()
    load_statements(source, (REFERRING, ODDLY_REFERRING))
    made: list[Entry] = []
    real = fill._Filling._make

    def make(self: Any, entries: list[Entry]) -> None:
        real(self, entries)
        made.extend(entries)

    monkeypatch.setattr(fill._Filling, "_make", make)
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    outcome = workbench.pgkeep("restore", "shop", "--target", target, "--jobs", jobs, "--json")
    assert isinstance(outcome.document, dict)
    assert outcome.document["proven"] is True
    assert take_picture(source) == take_picture(target)
    found = {one.tag.split()[-1] for one in made if one.kind == "FK CONSTRAINT"}
    assert (early <= found) if early else (found == set())
    assert not {"of_parts_part_fkey", "parts_person_fkey", "topt_id_fkey"} & found
    assert len(made) == len({one.dump_id for one in made})
