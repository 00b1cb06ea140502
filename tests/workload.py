"""Work on a database that tells, in each of its transactions, how all tables look at its commit."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import psycopg

SCHEMA = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')",
    "CREATE DOMAIN positive AS integer NOT NULL CHECK (VALUE > 0)",
    "CREATE TABLE plain (id integer PRIMARY KEY, a integer, b text, big text, u integer UNIQUE)",
    "ALTER TABLE plain ALTER big SET STORAGE EXTERNAL",
    "CREATE TABLE nokey (a integer, b text)",
    "CREATE TABLE whole (a integer, b text, j json, n numeric, big text)",
    "ALTER TABLE whole ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL",
    'CREATE TABLE "Größe ""x"" %s" ("Schlüssel a" integer, "key\\b" text, "wert %" text,'
    ' PRIMARY KEY ("key\\b", "Schlüssel a"))',
    "CREATE TABLE by_index (b integer, a text NOT NULL, c text, d timestamptz)",
    "CREATE UNIQUE INDEX by_index_a ON by_index (a)",
    "ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_a",
    "CREATE TABLE numbered (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v integer,"
    " twice integer GENERATED ALWAYS AS (v * 2) STORED)",
    "CREATE TABLE renumbered (k integer PRIMARY KEY, n bigint GENERATED ALWAYS AS IDENTITY, v text,"
    " big text)",
    "ALTER TABLE renumbered ALTER big SET STORAGE EXTERNAL",
    "CREATE TABLE days (id integer, day integer, v text, PRIMARY KEY (id, day))"
    " PARTITION BY RANGE (day)",
    "CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM (10) TO (20)",
    "CREATE TABLE moods (m mood, id integer, v text, PRIMARY KEY (m, id)) PARTITION BY HASH (m)",
    "CREATE TABLE moods_0 PARTITION OF moods FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
    "CREATE TABLE moods_1 PARTITION OF moods FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    "CREATE TABLE hens (id integer PRIMARY KEY, egg integer)",
    "CREATE TABLE eggs (id integer PRIMARY KEY, hen integer"
    " REFERENCES hens ON DELETE CASCADE ON UPDATE CASCADE)",
    "ALTER TABLE hens ADD FOREIGN KEY (egg) REFERENCES eggs ON DELETE SET NULL ON UPDATE CASCADE"
    " DEFERRABLE INITIALLY DEFERRED",
    "CREATE TABLE audited (id integer PRIMARY KEY, v integer, touched integer DEFAULT 0)",
    "CREATE TABLE audit (n bigserial PRIMARY KEY, what text)",
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$"
    "BEGIN INSERT INTO public.audit (what) VALUES (TG_NAME || TG_OP); RETURN NULL; END$$",
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$"
    "BEGIN NEW.touched := COALESCE(NEW.touched, 0) + 1; RETURN NEW; END$$",
    "CREATE TRIGGER usual AFTER INSERT OR UPDATE OR DELETE ON audited"
    " FOR EACH ROW EXECUTE FUNCTION note()",
    "CREATE TRIGGER always AFTER INSERT OR UPDATE OR DELETE ON audited"
    " FOR EACH ROW EXECUTE FUNCTION note()",
    "CREATE TRIGGER touched BEFORE INSERT OR UPDATE ON audited"
    " FOR EACH ROW EXECUTE FUNCTION touch()",
    "CREATE TRIGGER elsewhere AFTER INSERT OR UPDATE OR DELETE ON audited"
    " FOR EACH ROW EXECUTE FUNCTION note()",
    "ALTER TABLE audited ENABLE ALWAYS TRIGGER always, ENABLE ALWAYS TRIGGER touched,"
    " ENABLE REPLICA TRIGGER elsewhere",
    "CREATE TABLE only_key (a integer PRIMARY KEY)",
    "CREATE TABLE no_columns ()",
    "CREATE TABLE domained (p positive PRIMARY KEY, q positive, r text)",
    "CREATE TABLE deferred (id integer PRIMARY KEY,"
    " rank integer UNIQUE DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TABLE floats (f float8, n numeric, t text, PRIMARY KEY (f, n))",
    "CREATE TABLE kinds (id integer PRIMARY KEY, c1 bool, c2 int2, c3 int8, c4 float4, c5 float8,"
    " c6 numeric, c7 numeric(10,3), c8 char(5), c9 varchar(9), c10 text, c11 bytea, c12 date,"
    " c13 time, c14 timetz, c15 timestamp, c16 timestamptz, c17 interval, c18 uuid, c19 json,"
    " c20 jsonb, c21 xml, c22 inet, c23 cidr, c24 macaddr, c25 bit(5), c26 varbit, c27 int4range,"
    " c28 tstzmultirange, c29 point, c30 line, c31 polygon, c32 tsvector, c33 tsquery, c34 money,"
    " c35 integer[], c36 text[][], c37 mood, c38 mood[], c39 name, c40 \"char\", c41 pg_lsn,"
    " c42 positive[], c43 hens, c44 box, c45 circle, c46 lseg, c47 path, c48 macaddr8, c49 oid,"
    " c50 regclass, c51 jsonpath, c52 numrange)",
    "CREATE TABLE slow (id integer PRIMARY KEY, v text)",
    "CREATE SEQUENCE counter INCREMENT 3",
    "CREATE TABLE moments (n integer PRIMARY KEY, digest text NOT NULL, counter bigint NOT NULL)",
)  # fmt: skip

_VALUES: dict[str, tuple[str, ...]] = {
    "c1": ("true", "false"),
    "c2": ("-32768", "32767"),
    "c3": ("-9223372036854775808", "9223372036854775807"),
    "c4": ("NaN", "Infinity", "-Infinity", "-0", "1.1754944e-38", "3.1415927"),
    "c5": ("NaN", "Infinity", "-Infinity", "-0", "0.1", "1e308", "2.2250738585072014e-308"),
    "c6": ("NaN", "Infinity", "-Infinity", "1.10", "0.000000000000000000001", "1e100"),
    "c7": ("NaN", "0.100", "-1234567.891"),
    "c8": ("", "ab", "  x"),
    "c9": ("", "ü 'x'", "NULL"),
    "c10": (
        "",
        "\\N",
        "\\.",
        "a\tb",
        "a\nb\r\n",
        "\\",
        "\\\\",
        "it's",
        "NULL",
        "日本",
        "\v\b\f",
        '"',
    ),
    "c11": ("\\x", "\\x00ff5c0a09", "\\xdeadbeef"),
    "c12": ("infinity", "-infinity", "4713-01-01 BC", "2024-02-29"),
    "c13": ("00:00", "24:00", "12:34:56.789012"),
    "c14": ("12:00+14", "00:00:00.000001-12:30"),
    "c15": ("infinity", "-infinity", "2024-02-29 12:34:56.789012", "0044-03-15 BC"),
    "c16": ("infinity", "-infinity", "2024-02-29 12:34:56.789012+05:30"),
    "c17": ("1 year 2 mons -3 days 04:05:06.7", "-1 day", "0"),
    "c18": ("00000000-0000-0000-0000-000000000000", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "c19": ('{"b": 1,  "a": [null, "\\u00fc\\n"]}', "null", '"x"', "1.0"),
    "c20": ('{"b": 1,  "a": [null, "ü\\n"]}', "null", "1.10"),
    "c21": ("<a>x &amp; y</a>", "text only", ""),
    "c22": ("192.168.0.1/24", "::1"),
    "c23": ("10.0.0.0/8", "2001:db8::/32"),
    "c24": ("08:00:2b:01:02:03",),
    "c25": ("10101",),
    "c26": ("", "1", "101010101"),
    "c27": ("empty", "[1,5)", "(,)", "[3,)"),
    "c28": ("{}", "{[2024-01-01,2024-02-01),[2025-01-01,)}"),
    "c29": ("(1.5,-0)", "(NaN,Infinity)"),
    "c30": ("{1,2,3}",),
    "c31": ("((0,0),(1,1),(2,0))",),
    "c32": ("'fat' 'cat':3A,4", "", "'it''s \\\\'"),
    "c33": ("'fat' & ( 'rat' | !'cat' )", "'a':*B"),
    "c34": ("12.34", "-0.01"),
    "c35": ("{}", "{1,NULL,3}", "[0:1]={5,6}", "{{1,2},{3,4}}"),
    "c36": ('{"",NULL,"NULL","a\\"b","{x}"}', "{}", '{{"a,b","\\\\"},{" ",NULL}}'),
    "c37": ("sad", "ok", "happy"),
    "c38": ("{sad,happy}", "{}"),
    "c39": ("", "a name"),
    "c40": ("", "x", "\\303"),
    "c41": ("0/0", "16/B374D848"),
    "c42": ("{1,2}", "{}"),
    "c43": ("(1,2)", "(,)", "(7,)"),
    "c44": ("(2,2),(0,0)",),
    "c45": ("<(1,2),3>",),
    "c46": ("[(0,0),(1,1)]",),
    "c47": ("[(0,0),(1,1)]", "((0,0),(1,1))"),
    "c48": ("08:00:2b:01:02:03:04:05",),
    "c49": ("0", "4294967295"),
    "c50": ("pg_class", "-"),
    "c51": ('$."a"[*] ? (@ > 1)',),
    "c52": ("[1.10,2.0]", "empty"),
}
_WORDS = ("", "x", "\\N", "a\tb", "a\nb", "\\", "ü", "'", '"', "NULL", " ", "%s", "$1")
_FLOATS = ("NaN", "Infinity", "-Infinity", "0", "-0", "1.5", "0.1")
_NUMERICS = ("1.0", "1.00", "2", "NaN", "1e30")

_DIGEST = "SELECT coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\")), '-')"
_TABLES = (
    "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c"
    " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_'"
    " AND n.nspname NOT IN ('information_schema', 'pgkeep') AND c.relkind IN ('r', 'p')"
    " AND NOT c.relispartition AND c.relname <> 'moments' ORDER BY c.relname COLLATE \"C\""
)
_SETTINGS = (
    "SET extra_float_digits = 1; SET TimeZone = 'UTC'; SET bytea_output = 'hex';"
    " SET search_path = 'public', 'pg_catalog'; SET DateStyle = 'ISO'"
)


def without_xml(statement: str) -> str:
    return statement.replace(" xml,", " text,")


def picture(connection: psycopg.Connection) -> str:
    """One line for each table: its name and a digest of its rows."""
    connection.execute(_SETTINGS.encode())
    names = [name for (name,) in connection.execute(_TABLES.encode())]
    query = " UNION ALL ".join(
        f"SELECT {at}, ({_DIGEST} FROM {name} t)" for at, name in enumerate(names)
    )
    rows = connection.execute(f"{query} ORDER BY 1".encode()).fetchall()
    return "\n".join(f"{names[at]} {digest}" for at, digest in rows)


def table_digest(connection: psycopg.Connection, name: str) -> str:
    """The digest of one table, as in `picture`."""
    connection.execute(_SETTINGS.encode())
    row = connection.execute(f"{_DIGEST} FROM {name} t".encode()).fetchone()
    assert row is not None
    return str(row[0])


@dataclass(frozen=True)
class Commit:
    """What is known of a transaction once it has committed."""

    n: int
    xid: int
    after: datetime
    """A moment after its commit, and before the next one's."""
    lsn: str
    """A position after its commit, and before the next one's."""
    work: tuple[str, ...]


@dataclass
class Workload:
    """Transactions at random, some of them held open beside others."""

    url: str
    random: random.Random
    commits: list[Commit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.main = psycopg.connect(self.url, autocommit=True)
        self.side = psycopg.connect(self.url, autocommit=True)
        self._side_open = False
        self._notes: list[str] = []

    def close(self) -> None:
        self.main.close()
        self.side.close()

    def prepare(self) -> None:
        for statement in SCHEMA:
            self.main.execute((statement if self._has_xml() else without_xml(statement)).encode())
        self.run(20)
        self.close_side()  # a new slot would wait for it

    def _has_xml(self) -> bool:
        try:
            self.main.execute(b"SELECT '<a/>'::xml")
        except psycopg.errors.FeatureNotSupported:  # it was built without
            return False
        return True

    def run(self, transactions: int, *, closing: bool = True) -> None:
        """Transactions with everything that may occur, one in ten of them in vain.

        Unless `closing`, the one that is open beside them stays so.
        """
        for _ in range(transactions):
            self._maybe_open_side()
            self._notes = []
            self.main.execute(b"BEGIN")
            try:
                for _ in range(self.random.choice((1, 1, 2, 3, 5, 12))):
                    self._step(self.main)
                if self.random.random() < 0.1:
                    self.main.execute(b"ROLLBACK")
                else:
                    self._commit(self.main)
            except (psycopg.IntegrityError, psycopg.errors.ObjectInUse):  # one more in vain
                self.main.execute(b"ROLLBACK")
            if closing and self._side_open and self.random.random() < 0.3:
                self.close_side()

    def open_side(self) -> None:
        """A transaction that stays open while others come and go."""
        if not self._side_open:
            self.side.execute(b"BEGIN")
            for _ in range(self.random.randint(1, 4)):
                self._slow(self.side)
            self._side_open = True

    def close_side(self) -> None:
        if self._side_open:
            self._slow(self.side)
            self._commit(self.side)
            self._side_open = False

    def _maybe_open_side(self) -> None:
        if self.random.random() < 0.15:
            self.open_side()

    def _commit(self, connection: psycopg.Connection) -> None:
        """Commits come one by one, so what one sees is what is there at its commit."""
        connection.execute(b"SELECT pg_advisory_xact_lock(1)")
        connection.execute(b"SET CONSTRAINTS ALL IMMEDIATE")
        n = len(self.commits) + 1
        connection.execute(
            "INSERT INTO public.moments VALUES (%s, %s, (SELECT last_value FROM public.counter))",
            (n, picture(connection)),
        )
        (xid,) = connection.execute(b"SELECT pg_current_xact_id()::text").fetchone() or ("",)
        connection.execute(b"COMMIT")
        after = connection.execute(
            b"SELECT clock_timestamp(), pg_current_wal_insert_lsn()::text"
        ).fetchone()
        assert after is not None
        self.commits.append(Commit(n, int(xid), after[0], after[1], tuple(self._notes)))

    # --- what is done -----------------------------------------------------------------------

    def _step(self, connection: psycopg.Connection) -> None:
        if self.random.random() < 0.15:
            connection.execute(b"SAVEPOINT s")
            for _ in range(self.random.randint(1, 3)):
                self.random.choice(_STEPS)(self, connection)
            if self.random.random() < 0.5:
                connection.execute(b"ROLLBACK TO SAVEPOINT s")
        else:
            self.random.choice(_STEPS)(self, connection)

    def _do(self, connection: psycopg.Connection, statement: str, *values: object) -> None:
        self._notes.append(statement)
        connection.execute(statement.encode(), values or None)

    def _word(self) -> str | None:
        return self.random.choice((None, *_WORDS))

    def _big(self) -> str:
        return self.random.randbytes(2000).hex()

    def _id(self, below: int = 25) -> int:
        return self.random.randint(1, below)

    def _plain(self, on: psycopg.Connection) -> None:
        r, i = self.random.random(), self._id()
        if r < 0.4:
            self._do(
                on,
                "INSERT INTO plain VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                i,
                self._id(),
                self._word(),
                self._big(),
                i * 100,
            )
        elif r < 0.6:
            self._do(on, "UPDATE plain SET a = a + 1, b = %s WHERE id = %s", self._word(), i)
        elif r < 0.65:
            self._do(on, "UPDATE plain SET big = %s WHERE id = %s", self._big(), i)
        elif r < 0.75:
            self._do(on, "UPDATE plain SET a = 0 WHERE id > %s", i)
        elif r < 0.85:
            self._do(on, "DELETE FROM plain WHERE id = %s", i)
        elif r < 0.93:
            self._do(on, "UPDATE plain SET id = id + 1000 WHERE id = %s", i)
            self._do(
                on,
                "UPDATE plain SET id = id - 1000, b = 'back' WHERE id = %s + 1000"
                " AND NOT EXISTS (SELECT FROM plain WHERE id = %s)",
                i,
                i,
            )
        else:
            self._swap(on)

    def _swap(self, on: psycopg.Connection) -> None:
        """Two rows change places in a unique index, by way of a third value."""
        rows = on.execute(b"SELECT id, u FROM plain ORDER BY random() LIMIT 2").fetchall()
        if len(rows) == 2:
            (a, x), (b, y) = rows
            self._do(on, "UPDATE plain SET u = -1 WHERE id = %s", a)
            self._do(on, "UPDATE plain SET u = %s WHERE id = %s", x, b)
            self._do(on, "UPDATE plain SET u = %s WHERE id = %s", y, a)

    def _without_key(self, on: psycopg.Connection) -> None:
        self._do(on, "INSERT INTO nokey VALUES (%s, %s)", self._id(), self._word())
        self._do(on, "INSERT INTO no_columns DEFAULT VALUES")

    def _whole(self, on: psycopg.Connection) -> None:
        r, i = self.random.random(), self._id(6)
        if r < 0.5:
            json = self.random.choice((None, '{"a":  1}', "[]", "null"))
            number = self.random.choice((None, "1.0", "1.00", "NaN"))
            big = self.random.choice((None, "small", self._big()))
            for _ in range(self.random.randint(1, 2)):
                self._do(
                    on,
                    "INSERT INTO whole VALUES (%s, %s, %s, %s, %s)",
                    i,
                    self._word(),
                    json,
                    number,
                    big,
                )
        elif r < 0.8:
            self._do(
                on,
                "UPDATE whole SET b = %s, a = %s WHERE a = %s",
                self._word(),
                self.random.choice((None, i, i + 1)),
                i,
            )
        else:
            self._do(
                on, "DELETE FROM whole WHERE ctid = (SELECT min(ctid) FROM whole WHERE a = %s)", i
            )

    def _named(self, on: psycopg.Connection) -> None:
        table, i = '"Größe ""x"" %%s"', self._id(5)
        a, b, wert = '"Schlüssel a"', '"key\\b"', '"wert %%"'
        key, r = self.random.choice(_WORDS), self.random.random()
        if r < 0.5:
            self._do(
                on,
                f"INSERT INTO {table} VALUES (%s, %s, %s) ON CONFLICT ({b}, {a})"
                f" DO UPDATE SET {wert} = excluded.{wert}",
                i,
                key,
                self._word(),
            )
        elif r < 0.7:
            self._do(on, f"UPDATE {table} SET {wert} = %s WHERE {a} = %s", self._word(), i)
        elif r < 0.85:
            self._do(on, f"DELETE FROM {table} WHERE {a} = %s AND {b} = %s", i, key)
        else:
            self._do(
                on,
                f"UPDATE {table} SET {a} = {a} + 5 WHERE {a} = %s AND {b} = %s AND NOT"
                f" EXISTS (SELECT FROM {table} WHERE {a} = %s + 5)",
                i,
                key,
                i,
            )

    def _by_index(self, on: psycopg.Connection) -> None:
        r, i = self.random.random(), self._id(9)
        if r < 0.5:
            self._do(
                on,
                "INSERT INTO by_index VALUES (%s, %s, %s, now()) ON CONFLICT DO NOTHING",
                i,
                f"k{i}",
                self._word(),
            )
        elif r < 0.8:
            self._do(on, "UPDATE by_index SET b = b + 1, d = now() WHERE a <> %s", f"k{i}")
        elif r < 0.9:
            self._do(
                on,
                "UPDATE by_index SET a = a || 'x' WHERE a = %s AND NOT EXISTS"
                " (SELECT FROM by_index WHERE a = %s)",
                f"k{i}",
                f"k{i}x",
            )
        else:
            self._do(on, "DELETE FROM by_index WHERE a LIKE %s", f"k{i}%")

    def _numbered(self, on: psycopg.Connection) -> None:
        r, i = self.random.random(), self._id()
        if r < 0.4:
            self._do(on, "INSERT INTO numbered (v) VALUES (%s)", i)
        elif r < 0.6:
            self._do(on, "UPDATE numbered SET v = v + 1 WHERE id %% 5 = %s", i % 5)
        elif r < 0.7:
            self._do(on, "DELETE FROM numbered WHERE id %% 7 = %s", i % 7)
        elif r < 0.72:
            self._do(on, "UPDATE numbered SET id = DEFAULT WHERE id %% 9 = %s", i % 9)
        elif r < 0.85:
            self._do(
                on,
                "INSERT INTO renumbered (k, v, big) VALUES (%s, %s, %s)"
                " ON CONFLICT (k) DO UPDATE SET n = DEFAULT",
                i,
                self._word(),
                self._big(),
            )
        else:
            self._do(on, "UPDATE renumbered SET v = %s WHERE k = %s", self._word(), i)

    def _parts(self, on: psycopg.Connection) -> None:
        r, i = self.random.random(), self._id(8)
        mood = self.random.choice(("sad", "ok", "happy"))
        if r < 0.3:
            self._do(
                on,
                "INSERT INTO days VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                i,
                self.random.randint(0, 19),
                self._word(),
            )
        elif r < 0.4:
            self._do(
                on,
                "UPDATE days SET day = (day + 10) %% 20 WHERE id = %s AND NOT EXISTS"
                " (SELECT FROM days d WHERE d.id = days.id AND d.day <> days.day)",
                i,
            )
        elif r < 0.5:
            self._do(on, "UPDATE days SET v = %s WHERE id = %s", self._word(), i)
        elif r < 0.6:
            self._do(on, "DELETE FROM days WHERE id = %s", i)
        elif r < 0.8:
            self._do(
                on,
                "INSERT INTO moods VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                mood,
                i,
                self._word(),
            )
        elif r < 0.9:
            self._do(
                on,
                "UPDATE moods SET m = %s WHERE id = %s AND NOT EXISTS (SELECT FROM moods d"
                " WHERE d.id = moods.id AND d.m <> moods.m)",
                mood,
                i,
            )
        else:
            self._do(on, "DELETE FROM moods WHERE m = %s AND id = %s", mood, i)

    def _circle(self, on: psycopg.Connection) -> None:
        r, i = self.random.random(), self._id(9)
        if r < 0.5:
            self._do(on, "INSERT INTO hens VALUES (%s, %s) ON CONFLICT DO NOTHING", i, i)
            self._do(on, "INSERT INTO eggs VALUES (%s, %s) ON CONFLICT DO NOTHING", i, i)
        elif r < 0.7:
            self._do(on, "DELETE FROM hens WHERE id = %s", i)
        elif r < 0.8:
            self._do(on, "DELETE FROM eggs WHERE id = %s", i)
        else:
            self._do(
                on,
                "UPDATE hens SET id = id + 100 WHERE id = %s AND NOT EXISTS"
                " (SELECT FROM hens WHERE id = %s + 100)",
                i,
                i,
            )
        self._do(on, "UPDATE hens SET egg = NULL WHERE egg NOT IN (SELECT id FROM eggs)")

    def _audited(self, on: psycopg.Connection) -> None:
        r, i = self.random.random(), self._id(9)
        if r < 0.5:
            self._do(on, "INSERT INTO audited VALUES (%s, 0) ON CONFLICT DO NOTHING", i)
        elif r < 0.9:
            self._do(on, "UPDATE audited SET v = v + 1 WHERE id <= %s", i)
        else:
            self._do(on, "DELETE FROM audited WHERE id = %s", i)

    def _odd(self, on: psycopg.Connection) -> None:
        i = self._id(9)
        self._do(
            on, "INSERT INTO only_key VALUES (%s) ON CONFLICT (a) DO UPDATE SET a = excluded.a", i
        )
        self._do(on, "DELETE FROM only_key WHERE a = %s", self._id(9))
        self._do(
            on,
            "INSERT INTO domained VALUES (%s, %s, %s) ON CONFLICT (p) DO UPDATE SET q = excluded.q",
            i,
            self._id(),
            self._word(),
        )
        self._do(on, "DELETE FROM domained WHERE p = %s", self._id(20))
        self._do(
            on,
            "INSERT INTO deferred SELECT %s, %s WHERE NOT EXISTS (SELECT FROM deferred"
            " WHERE id = %s OR rank = %s)",
            i,
            i,
            i,
            i,
        )
        self._do(on, "UPDATE deferred SET rank = 10 - rank WHERE rank BETWEEN 1 AND 9")
        self._do(on, "SELECT nextval('counter')")

    def _floats(self, on: psycopg.Connection) -> None:
        f, n = self.random.choice(_FLOATS), self.random.choice(_NUMERICS)
        r = self.random.random()
        if r < 0.6:
            self._do(
                on,
                "INSERT INTO floats VALUES (%s, %s, %s) ON CONFLICT (f, n) DO UPDATE SET"
                " f = excluded.f, n = excluded.n, t = excluded.t",
                f,
                n,
                self._word(),
            )
        elif r < 0.8:
            self._do(on, "UPDATE floats SET t = %s WHERE f = %s", self._word(), f)
        else:
            self._do(on, "DELETE FROM floats WHERE f = %s AND n = %s", f, n)

    def _kinds(self, on: psycopg.Connection) -> None:
        columns = self.random.sample(sorted(_VALUES), self.random.randint(1, len(_VALUES)))
        values = [self.random.choice((None, *_VALUES[name])) for name in columns]
        marks = ", ".join(["%s", *("%s" for _ in columns)])
        sets = ", ".join(f"{name} = excluded.{name}" for name in columns)
        self._do(
            on,
            f"INSERT INTO kinds (id, {', '.join(columns)}) VALUES ({marks})"
            f" ON CONFLICT (id) DO UPDATE SET {sets}",
            self._id(12),
            *values,
        )

    def _truncate(self, on: psycopg.Connection) -> None:
        if self.random.random() < 0.7:
            return
        tables = self.random.choice(
            (
                "nokey",
                "plain, by_index",
                "hens CASCADE",
                "eggs, hens RESTART IDENTITY",
                "whole",
                "numbered RESTART IDENTITY",
                "days_1",
                "kinds",
                "domained",
                "days",
                "moods",
            )
        )
        self._do(on, f"TRUNCATE {tables}")

    def _many(self, on: psycopg.Connection) -> None:
        first = self.random.randint(100, 160)
        self._do(
            on,
            "INSERT INTO plain SELECT n, n, 'many', NULL, n * 100 FROM"
            " generate_series(%s::int, %s::int) n ON CONFLICT DO NOTHING",
            first,
            first + 40,
        )
        self._do(on, "UPDATE plain SET a = a + 1 WHERE id BETWEEN 100 AND %s", first + 20)
        self._do(on, "DELETE FROM plain WHERE id BETWEEN %s AND %s", first, first + 10)

    def _slow(self, on: psycopg.Connection) -> None:
        self._do(
            on,
            "INSERT INTO slow VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET v ="
            " excluded.v || slow.v",
            self._id(9),
            self._word(),
        )


_STEPS: tuple[Callable[[Workload, psycopg.Connection], None], ...] = (
    Workload._plain, Workload._plain, Workload._without_key, Workload._whole, Workload._named,
    Workload._by_index, Workload._numbered, Workload._parts, Workload._circle, Workload._audited,
    Workload._odd, Workload._floats, Workload._kinds, Workload._truncate, Workload._many,
)  # fmt: skip
