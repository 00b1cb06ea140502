"""Random databases, and fixed ones at PostgreSQL's edges, as lists of SQL statements.

The statements of one database run in order, each on its own (autocommit), without an error, in an
empty UTF-8 database of PostgreSQL 15 to 18, as a superuser. They hold no parameters: a `%` means
itself. All values are written as the input text of their type, quoted here.
"""

from __future__ import annotations

import ipaddress
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

NAME_BYTES = 63
"""NAMEDATALEN - 1: the server silently cuts a longer name."""


# --- quoting ------------------------------------------------------------------------------


def literal(value: str | None) -> str:
    """Quote a string constant, whatever standard_conforming_strings says."""
    if value is None:
        return "NULL"
    quoted = "'" + value.replace("'", "''").replace("\\", "\\\\") + "'"
    return "E" + quoted if "\\" in value else quoted


def identifier(*parts: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def fit_name(name: str, suffix: str = "") -> str:
    room = NAME_BYTES - len(suffix.encode())
    return name.encode()[:room].decode(errors="ignore") + suffix


def array_text(
    elements: Sequence[str | None],
    shape: Sequence[int],
    lower: Sequence[int] = (),
    comma: str = ",",
) -> str:
    """The input text of an array: `elements` in row-major order, lower bounds only if given."""
    if not elements:
        return "{}"
    parts = [
        "NULL" if e is None else '"' + e.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for e in elements
    ]
    for size in reversed(shape):
        parts = ["{" + comma.join(parts[at : at + size]) + "}" for at in range(0, len(parts), size)]
    bounds = "".join(f"[{low}:{low + n - 1}]" for low, n in zip(lower, shape, strict=False))
    return (bounds + "=" if bounds else "") + parts[0]


def composite_text(fields: Sequence[str | None]) -> str:
    def quoted(value: str | None) -> str:
        if value is None:
            return ""
        return '"' + value.replace("\\", "\\\\").replace('"', '""') + '"'

    return "(" + ",".join(quoted(value) for value in fields) + ")"


# --- texts and names ----------------------------------------------------------------------

NASTY_TEXTS = (
    "",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\\",
    "\\.",
    "\n\\.\n",
    "\\N",
    "NULL",
    "a\tb\nc\rd\\e",
    "'",
    "''",
    '"',
    '{"a",b}',
    "(,)",
    "$$ $1 :name %s %(x)s ?",
    "-- /* ; \\c",
    "\u2028\u2029\u0085\ufeff",
    "😀 👩\u200d👩\u200d👧 é",
    "\x01\x02\x07\x08\x0b\x0c\x1a\x1b\x1f\x7f",
    "\U0010ffff\ufffe",
    "übergröße",
    "x" * 300,
)
NASTY_NAMES = (
    "plain",
    "UPPER",
    "Mixed Case",
    "select",
    "order",
    "table",
    "null",
    "user",
    "default",
    "9 lives",
    "weird.name",
    'he said "hi"',
    "it's",
    "back\\slash",
    "new\nline",
    "tab\tand\rreturn",
    " leading and trailing ",
    "%s %(x)s",
    "{}",
    "$1",
    "a;b--c/*",
    "Kundenaufträge",
    "таблица",
    "表",
    "🚚",
    "\u2028",
    "ü" * 31 + "x",
    "n" * NAME_BYTES,
)

_characters = st.characters(codec="utf-8", exclude_characters="\x00")
texts = st.one_of(st.sampled_from(NASTY_TEXTS), st.text(_characters, max_size=12))
# No letters in the random part: so that no name meets one the server makes up (t_pkey), a system
# column (ctid) or the reserved prefix pg_.
names = st.one_of(
    st.sampled_from(NASTY_NAMES),
    st.text(st.sampled_from(" .\"'\\%$;-äЖ語0\n"), min_size=1, max_size=10),
).map(fit_name)


# --- values of the built-in types ---------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A type as SQL writes it, the input texts of its values, and what may be done with it."""

    sql: str
    values: SearchStrategy[str]
    is_ordered: bool = False
    """Has a btree operator class: may be part of an index."""
    comma: str = ","
    """What separates the elements of its arrays."""


def _integers(bits: int) -> SearchStrategy[str]:
    edge = 2 ** (bits - 1)
    return st.one_of(
        st.sampled_from([-edge, edge - 1, 0]), st.integers(min_value=-edge, max_value=edge - 1)
    ).map(str)


def _joined(*parts: SearchStrategy[str] | str) -> SearchStrategy[str]:
    return st.tuples(*(st.just(p) if isinstance(p, str) else p for p in parts)).map("".join)


def _digits(low: int, high: int, width: int = 0) -> SearchStrategy[str]:
    return st.integers(min_value=low, max_value=high).map(lambda n: f"{n:0{width}d}")


def _float_texts(width: int) -> SearchStrategy[str]:
    smallest = "1e-45" if width == 32 else "5e-324"
    edges = st.sampled_from(["NaN", "Infinity", "-Infinity", "-0", "0.1", smallest, "-" + smallest])
    numbers = st.floats(width=64) if width == 64 else st.floats(width=32)
    return st.one_of(edges, numbers.map(repr))


_numerics = st.one_of(
    st.sampled_from(["NaN", "Infinity", "-Infinity", "0.000", "1e130", "-1e-130", "1" * 200]),
    st.decimals(allow_nan=False, allow_infinity=False, places=5).map(lambda d: f"{d:f}"),
    _integers(64),
)
# Days to 28 and years after the calendar's reform of its rules: each is a date in every month.
_plain_dates = _joined(_digits(1, 9999, 4), "-", _digits(1, 12, 2), "-", _digits(1, 28, 2))
_old_dates = _joined(_digits(1, 4713, 4), "-", _digits(1, 11, 2), "-", _digits(1, 24, 2))
_clock = _joined(
    _digits(0, 23, 2), ":", _digits(0, 59, 2), ":", _digits(0, 59, 2), ".", _digits(0, 999_999, 6)
)
_offsets = _joined(st.sampled_from("+-"), _digits(0, 15, 2), ":", _digits(0, 59, 2))
_dates = st.one_of(
    st.sampled_from(["infinity", "-infinity", "4714-11-24 BC", "5874897-12-31", "2000-02-29"]),
    _plain_dates,
    _joined(_old_dates, " BC"),
)
_timestamps = st.one_of(
    st.sampled_from(
        [
            "infinity",
            "-infinity",
            "4714-11-24 00:00:00 BC",
            "294276-12-31 23:59:59.999999",
            "1969-12-31 23:59:59.999999",
        ]
    ),
    _joined(_plain_dates, " ", _clock),
    _joined(_old_dates, " ", _clock, " BC"),
)
_timestamps_with_zone = st.one_of(
    st.sampled_from(
        ["infinity", "-infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"]
    ),
    _joined(_plain_dates, " ", _clock, _offsets),
    # From January of the earliest year on: an offset must not lead out of the range.
    _joined(_digits(1, 4712, 4), "-01-02 ", _clock, _offsets, " BC"),
)
_intervals = st.builds(
    lambda months, days, microseconds: f"{months} mons {days} days {microseconds} microseconds",
    st.integers(min_value=-(10**6), max_value=10**6),
    st.integers(min_value=-(10**6), max_value=10**6),
    st.integers(min_value=-(10**14), max_value=10**14),
)
_coordinates = st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr)
_points = _joined("(", _coordinates, ",", _coordinates, ")")
_corners = st.lists(_points, min_size=1, max_size=4).map(",".join)
_hexadecimal = st.binary(min_size=0, max_size=20).map(bytes.hex)
_bits = st.text(st.sampled_from("01"), max_size=12)
_addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@st.composite
def _networks(draw: DrawFn, *, host_bits: bool) -> str:
    address = draw(_addresses)
    prefix = draw(st.integers(min_value=0, max_value=address.max_prefixlen))
    if host_bits:
        return f"{address}/{prefix}"
    return str(ipaddress.ip_network(f"{address}/{prefix}", strict=False))


def _lexeme(word: str) -> str:
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"


_lexemes = st.text(_characters, min_size=1, max_size=6).map(_lexeme)
_text_vectors = st.lists(
    _joined(_lexemes, st.sampled_from(["", ":1", ":3A,16383", ":2B,7,9D"])), max_size=4
).map(" ".join)
_text_queries: SearchStrategy[str] = st.recursive(
    _joined(_lexemes, st.sampled_from(["", ":*", ":AB", ":*C"])),
    lambda inner: st.one_of(
        _joined("!(", inner, ")"),
        _joined("(", inner, st.sampled_from([" & ", " | ", " <-> ", " <5> "]), inner, ")"),
    ),
    max_leaves=4,
)
_json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(_characters, max_size=6),
        st.sampled_from(NASTY_TEXTS),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(_characters, max_size=4), inner)
    ),
    max_leaves=5,
)
_jsonb_texts = st.builds(
    lambda value, ascii_only: json.dumps(value, ensure_ascii=ascii_only),
    _json_values,
    st.booleans(),
)
_json_texts = st.one_of(
    _jsonb_texts, st.sampled_from(['{"a": 1,  "a" :2}', " [ 1e400 , 1.50 ] ", '"\\u0000"', "-0"])
)


def _ranges(bounds: SearchStrategy[tuple[str, str]], *, is_discrete: bool) -> SearchStrategy[str]:
    def text(pair: tuple[str, str], shape: str, opened: str) -> str:
        lower = "" if "lower" in opened else f'"{pair[0]}"'
        upper = "" if "upper" in opened else f'"{pair[1]}"'
        return f"{shape[0]}{lower},{upper}{shape[1]}"

    shapes = st.sampled_from(["[)", "(]", "[]"] if is_discrete else ["[)", "(]", "[]", "()"])
    opened = st.sampled_from(["", "", "", "lower", "upper", "lower upper"])
    return st.one_of(st.just("empty"), st.builds(text, bounds, shapes, opened))


def _numbered(text: Callable[[int], str], largest: int) -> SearchStrategy[tuple[str, str]]:
    """Two bounds in order: the texts of two numbers of which the second is not smaller."""
    return st.builds(
        lambda start, length: (text(start), text(start + length)),
        st.integers(min_value=-largest, max_value=largest),
        st.integers(min_value=0, max_value=largest),
    )


def _day(number: int) -> str:
    year, rest = divmod(number + 1_000_000, 12 * 28)
    return f"{year:04d}-{rest // 28 + 1:02d}-{rest % 28 + 1:02d}"


_integer_bounds = _numbered(str, 10**9)
_bigint_bounds = _numbered(str, 10**18)
_numeric_bounds = _numbered(lambda n: f"{n}.{abs(n) % 1000:03d}" if n >= 0 else str(n), 10**12)
_day_bounds = _numbered(_day, 300_000)
_moment_bounds = _numbered(lambda n: _day(n) + " 12:34:56.789", 300_000)
_zoned_bounds = _numbered(lambda n: _day(n) + " 12:34:56.789+00", 300_000)


@st.composite
def _snapshots(draw: DrawFn) -> str:
    # The low half of a full transaction id is never 0.
    low = st.integers(min_value=1, max_value=2**32 - 101)
    first = draw(st.integers(min_value=0, max_value=2**20)) * 2**32 + draw(low)
    running = sorted(draw(st.sets(st.integers(min_value=0, max_value=99), max_size=3)))
    return f"{first}:{first + 100}:" + ",".join(str(first + n) for n in running)


def _range_kinds() -> list[Kind]:
    kinds = []
    for name, bounds, is_discrete in (
        ("int4", _integer_bounds, True),
        ("int8", _bigint_bounds, True),
        ("num", _numeric_bounds, False),
        ("date", _day_bounds, True),
        ("ts", _moment_bounds, False),
        ("tstz", _zoned_bounds, False),
    ):
        ranges = _ranges(bounds, is_discrete=is_discrete)
        several = st.lists(ranges, max_size=3).map(lambda parts: "{" + ",".join(parts) + "}")
        kinds += [Kind(name + "range", ranges, is_ordered=True)]
        kinds += [Kind(name + "multirange", several, is_ordered=True)]
    return kinds


SCALARS: tuple[Kind, ...] = (
    Kind("smallint", _integers(16), is_ordered=True),
    Kind("integer", _integers(32), is_ordered=True),
    Kind("bigint", _integers(64), is_ordered=True),
    Kind("numeric", _numerics, is_ordered=True),
    Kind("numeric(8,3)", st.one_of(st.just("NaN"), _joined(_digits(-99999, 99999), ".125"))),
    Kind("real", _float_texts(32), is_ordered=True),
    Kind("double precision", _float_texts(64), is_ordered=True),
    # Whole units: the decimal point depends on lc_monetary.
    Kind("money", _digits(-(10**14), 10**14), is_ordered=True),
    Kind("text", texts, is_ordered=True),
    Kind('text COLLATE "C"', texts),
    Kind("varchar", texts, is_ordered=True),
    Kind("varchar(8)", texts.map(lambda text: text[:8])),
    Kind("char(5)", texts.map(lambda text: text[:5])),
    Kind('"char"', st.characters(min_codepoint=1, max_codepoint=126), is_ordered=True),
    Kind("name", texts.map(fit_name), is_ordered=True),
    Kind("bytea", _hexadecimal.map(lambda digits: "\\x" + digits), is_ordered=True),
    Kind("timestamp", _timestamps, is_ordered=True),
    Kind("timestamp(0)", _timestamps.filter(lambda text: "294276" not in text)),
    Kind("timestamptz", _timestamps_with_zone, is_ordered=True),
    Kind("date", _dates, is_ordered=True),
    Kind("time", st.one_of(st.just("24:00:00"), _clock), is_ordered=True),
    Kind("timetz", _joined(_clock, _offsets), is_ordered=True),
    Kind("interval", _intervals, is_ordered=True),
    Kind("boolean", st.sampled_from(["true", "false"]), is_ordered=True),
    Kind("point", _points),
    Kind("line", _joined("{", _digits(1, 9**9), ",", _coordinates, ",", _coordinates, "}")),
    Kind("lseg", _joined("[", _points, ",", _points, "]")),
    Kind("box", _joined(_points, ",", _points), comma=";"),
    Kind("path", st.one_of(_joined("(", _corners, ")"), _joined("[", _corners, "]"))),
    Kind("polygon", _joined("(", _corners, ")")),
    Kind("circle", _joined("<", _points, ",", _digits(0, 10**9), ".5>")),
    Kind("inet", _networks(host_bits=True), is_ordered=True),
    Kind("cidr", _networks(host_bits=False), is_ordered=True),
    Kind("macaddr", st.binary(min_size=6, max_size=6).map(lambda b: b.hex(":")), is_ordered=True),
    Kind("macaddr8", st.binary(min_size=8, max_size=8).map(lambda b: b.hex(":")), is_ordered=True),
    Kind("bit(5)", st.text(st.sampled_from("01"), min_size=5, max_size=5), is_ordered=True),
    Kind("varbit", _bits, is_ordered=True),
    Kind("varbit(12)", _bits),
    Kind("tsvector", _text_vectors),
    Kind("tsquery", _text_queries),
    Kind("uuid", st.uuids().map(str), is_ordered=True),
    Kind("json", _json_texts),
    Kind("jsonb", _jsonb_texts.filter(lambda text: "\\u0000" not in text)),
    Kind("jsonpath", st.sampled_from(["$", "strict $.a[*] ? (@.b > 1)", '$."a b"[last]', "-1"])),
    Kind("oid", _digits(0, 2**32 - 1), is_ordered=True),
    Kind("pg_lsn", st.integers(0, 2**64 - 1).map(lambda n: f"{n >> 32:X}/{n & 0xFFFFFFFF:X}")),
    Kind("txid_snapshot", _snapshots()),
    Kind("pg_snapshot", _snapshots()),
    Kind("xid8", _digits(0, 2**64 - 1), is_ordered=True),
    Kind("tid", _joined("(", _digits(0, 2**32 - 1), ",", _digits(0, 65535), ")")),
    Kind("regclass", st.sampled_from(["pg_catalog.pg_class", "pg_catalog.pg_type"])),
    Kind("regtype", st.sampled_from(["integer", "pg_catalog.text[]"])),
    *_range_kinds(),
)
"""Every built-in type that a column may have, but for xml: not every server is built with it."""

_scalars = st.sampled_from(SCALARS)
_BY_NAME = {kind.sql: kind for kind in SCALARS}
INTEGER, TEXT, UUID = _BY_NAME["integer"], _BY_NAME["text"], _BY_NAME["uuid"]


@st.composite
def _arrays(draw: DrawFn, element: Kind) -> str:
    shape = draw(st.sampled_from([(0,), (1,), (3,), (2, 2), (1, 3), (2, 1, 2)]))
    count = math.prod(shape)
    elements = draw(st.lists(st.one_of(st.none(), element.values), min_size=count, max_size=count))
    lower = draw(st.sampled_from([(), (0, -1, 5), (-3, 2, 1)])) if count else ()
    return array_text(elements, shape, lower, element.comma)


def array_of(element: Kind) -> Kind:
    base, collate, collation = element.sql.partition(" COLLATE ")
    return Kind(f"{base}[]{collate}{collation}", _arrays(element))


# --- random databases ---------------------------------------------------------------------


@dataclass(frozen=True)
class RandomDatabase:
    statements: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class Column:
    name: str
    kind: Kind
    extra: str = ""
    """What follows the type in CREATE TABLE."""
    is_nullable: bool = True
    is_generated: bool = False
    is_doomed: bool = False
    """Dropped after the first rows: leaves a hole in them."""

    @property
    def definition(self) -> str:
        return f"{identifier(self.name)} {self.kind.sql} {self.extra}".rstrip()


@dataclass
class Table:
    name: str
    """Quoted, with its schema."""
    columns: list[Column]
    key: Column | None = None
    keys: list[str] = field(default_factory=list)
    """Of the rows inserted so far; some may have been deleted since."""
    parent_column: Column | None = None
    """Refers to the table's own key."""
    foreign: tuple[Column, list[str]] | None = None
    """Refers to another table's key, which holds these values."""

    @property
    def living(self) -> list[Column]:
        return [column for column in self.columns if not column.is_doomed]

    @property
    def plain(self) -> list[Column]:
        """The living columns that may be set to any value of their kind."""
        special = {self.key, self.parent_column, self.foreign and self.foreign[0]}
        return [c for c in self.living if not c.is_generated and c not in special]


KEY_STYLES = (
    ("integer", ""),
    ("bigint", "GENERATED ALWAYS AS IDENTITY"),
    ("integer", "GENERATED BY DEFAULT AS IDENTITY (START WITH -5 INCREMENT BY 3 MINVALUE -9)"),
    ("serial", ""),
    ("bigserial", ""),
)


class _Builder:
    """Draws one database: each `add_…` appends statements that run after all before them."""

    def __init__(self, draw: DrawFn) -> None:
        self.draw = draw
        self.statements: list[str] = []
        self.taken: set[str] = set()
        self.kinds: list[Kind] = []
        self.tables: list[Table] = []
        self.partitioned = 0
        self.schemas = ["public"]

    # Small draws.

    def chance(self, one_in: int) -> bool:
        return self.draw(st.integers(min_value=1, max_value=one_in)) == one_in

    def count(self, low: int, high: int) -> int:
        return self.draw(st.integers(min_value=low, max_value=high))

    def new_name(self, taken: set[str]) -> str:
        name = self.draw(names)
        unique = name
        while unique in taken:
            unique = fit_name(name, f"~{len(taken)}")
        taken.add(unique)
        return unique

    def new_object(self) -> str:
        """A new name, quoted, in one of the schemas; indexes and types share this name space."""
        schema = self.draw(st.sampled_from(self.schemas))
        return identifier(schema, self.new_name(self.taken))

    def kind(self) -> Kind:
        of_their_own = st.sampled_from(self.kinds) if self.kinds else _scalars
        kind = self.draw(of_their_own if self.chance(3) else _scalars)
        return array_of(kind) if self.chance(4) else kind

    def value(self, column: Column) -> str:
        if column.is_nullable and self.chance(5):
            return "NULL"
        return literal(self.draw(column.kind.values))

    # What a database is made of.

    def add(self, statement: str) -> None:
        self.statements.append(statement)

    def add_comment(self, what: str) -> None:
        if self.chance(3):
            text = self.draw(st.sampled_from([t for t in NASTY_TEXTS if t]))
            self.add(f"COMMENT ON {what} IS {literal(text)}")

    def add_schema(self) -> None:
        name = self.new_name(set(self.schemas))
        self.schemas.append(name)
        self.add(f"CREATE SCHEMA {identifier(name)}")
        self.add_comment(f"SCHEMA {identifier(name)}")

    def add_enum(self) -> None:
        labels = self.draw(st.lists(names, min_size=1, max_size=4, unique=True))
        name = self.new_object()
        self.add(f"CREATE TYPE {name} AS ENUM ({', '.join(map(literal, labels))})")
        self.kinds.append(Kind(name, st.sampled_from(labels), is_ordered=True))

    def add_domain(self) -> None:
        base = self.kind()
        name = self.new_object()
        check = self.draw(st.sampled_from(["", " CHECK (num_nulls(VALUE) < 2)"]))
        self.add(f"CREATE DOMAIN {name} AS {base.sql}{check}")
        self.kinds.append(replace(base, sql=name))

    def add_composite(self) -> None:
        taken: set[str] = set()
        fields = [(self.new_name(taken), self.kind()) for _ in range(self.count(1, 3))]
        name = self.new_object()
        columns = ", ".join(f"{identifier(field)} {kind.sql}" for field, kind in fields)
        self.add(f"CREATE TYPE {name} AS ({columns})")
        values = st.tuples(*(st.one_of(st.none(), kind.values) for _, kind in fields))
        self.kinds.append(Kind(name, values.map(composite_text)))

    def add_sequence(self) -> None:
        name = self.new_object()
        step = self.draw(st.sampled_from([1, 10, -3]))
        self.add(
            f"CREATE SEQUENCE {name} AS bigint INCREMENT BY {step} MINVALUE -1000 MAXVALUE 1000"
        )
        if self.chance(2):
            value, called = self.count(-900, 900), self.draw(st.sampled_from(["true", "false"]))
            self.add(f"SELECT setval({literal(name)}, {value}, {called})")
        if self.chance(2):
            self.add(f"SELECT nextval({literal(name)}) FROM generate_series(1, {self.count(1, 5)})")
        self.add_comment(f"SEQUENCE {name}")

    def add_large_object(self, number: int) -> None:
        content = literal("\\x" + self.draw(_hexadecimal))
        self.add(f"SELECT lo_from_bytea({number}, {content})")
        self.add_comment(f"LARGE OBJECT {number}")

    def column(self, taken: set[str]) -> Column:
        column = Column(self.new_name(taken), self.kind(), is_nullable=not self.chance(4))
        extra = "" if column.is_nullable else "NOT NULL"
        if self.chance(5):
            extra += f" DEFAULT {literal(self.draw(column.kind.values))}"
        if self.chance(6):
            # Named: a partition is attached only if it has the parent's checks by their names.
            quoted = identifier(column.name)
            extra += f" CONSTRAINT {quoted} CHECK (num_nulls({quoted}) < 2)"
        return replace(column, extra=extra.strip(), is_doomed=self.chance(6))

    def add_table(self) -> None:
        taken: set[str] = set()
        table = Table(self.new_object(), [self.column(taken) for _ in range(self.count(0, 4))])
        if self.chance(5):
            table.columns = [replace(column, is_doomed=True) for column in table.columns]
        elif not self.chance(3):
            self.add_key(table, taken)
        if table.plain and self.chance(3):
            of = identifier(self.draw(st.sampled_from(table.plain)).name)
            extra = f"GENERATED ALWAYS AS (num_nulls({of}) * 7) STORED"
            table.columns.append(
                Column(self.new_name(taken), INTEGER, extra=extra, is_generated=True)
            )
        self.draw(st.randoms(use_true_random=False)).shuffle(table.columns)
        unlogged = "" if table.foreign or not self.chance(8) else "UNLOGGED "
        columns = ", ".join(column.definition for column in table.columns)
        self.add(f"CREATE {unlogged}TABLE {table.name} ({columns})")
        self.add_comment(f"TABLE {table.name}")
        self.fill(table)
        self.add_indexes(table)
        self.add_changes(table)
        if not unlogged:  # No other table may refer to an unlogged one.
            self.tables.append(table)

    def add_key(self, table: Table, taken: set[str]) -> None:
        sql, extra = self.draw(st.sampled_from(KEY_STYLES))
        name = self.new_name(taken)
        key = Column(name, Kind(sql, INTEGER.values), f"{extra} PRIMARY KEY", is_nullable=False)
        table.columns.append(key)
        table.key = key
        if self.chance(3):
            extra = f"REFERENCES {table.name} ON DELETE CASCADE"
            table.parent_column = Column(
                self.new_name(taken), Kind("bigint", INTEGER.values), extra
            )
            table.columns.append(table.parent_column)
        referable = [other for other in self.tables if other.key and other.keys]
        if referable and self.chance(2):
            other = self.draw(st.sampled_from(referable))
            extra = f"REFERENCES {other.name} ON DELETE SET NULL"
            column = Column(self.new_name(taken), Kind("bigint", INTEGER.values), extra)
            table.columns.append(column)
            table.foreign = (column, other.keys)

    def fill(self, table: Table) -> None:
        self.add_rows(table)
        doomed = [column for column in table.columns if column.is_doomed]
        if doomed:
            drops = ", ".join(f"DROP COLUMN {identifier(column.name)}" for column in doomed)
            self.add(f"ALTER TABLE {table.name} {drops}")
            table.columns = table.living
            self.add_rows(table)

    def add_rows(self, table: Table) -> None:
        columns = [column for column in table.columns if not column.is_generated]
        rows = self.count(0, 4)
        if not columns:
            for _ in range(rows):
                self.add(f"INSERT INTO {table.name} DEFAULT VALUES")
            return
        if not rows:
            return
        lines = ", ".join(f"({', '.join(self.row(table, columns))})" for _ in range(rows))
        listed = ", ".join(identifier(column.name) for column in columns)
        self.add(f"INSERT INTO {table.name} ({listed}) OVERRIDING SYSTEM VALUE VALUES {lines}")

    def row(self, table: Table, columns: Sequence[Column]) -> list[str]:
        if table.key:
            table.keys.append(str(7 * len(table.keys) + 1))
        values = []
        for column in columns:
            if column == table.key:
                values.append(table.keys[-1])
            elif column == table.parent_column:
                values.append(self.draw(st.sampled_from(["NULL", *table.keys])))
            elif table.foreign and column == table.foreign[0]:
                values.append(self.draw(st.sampled_from(["NULL", *table.foreign[1]])))
            elif " DEFAULT " in f" {column.extra}" and self.chance(3):
                values.append("DEFAULT")
            else:
                values.append(self.value(column))
        return values

    def add_indexes(self, table: Table) -> None:
        if not table.plain or not self.chance(2):
            return
        column = self.draw(st.sampled_from(table.plain))
        quoted = identifier(column.name)
        index = identifier(self.new_name(self.taken))
        where = f" WHERE num_nulls({quoted}) = 0" if self.chance(2) else ""
        if column.kind.is_ordered and table.key:
            # With the key in it, whatever the column holds is unique.
            keys = f"{quoted} DESC, {identifier(table.key.name)}"
            self.add(f"CREATE UNIQUE INDEX {index} ON {table.name} ({keys}){where}")
        elif column.kind.is_ordered:
            self.add(f"CREATE INDEX {index} ON {table.name} ({quoted}){where}")
        else:
            self.add(f"CREATE INDEX {index} ON {table.name} ((num_nulls({quoted}) + 1)){where}")

    def add_changes(self, table: Table) -> None:
        some = f"ctid IN (SELECT ctid FROM ONLY {table.name} LIMIT {self.count(1, 2)})"
        if table.plain and self.chance(2):
            column = self.draw(st.sampled_from(table.plain))
            value = self.value(column)
            self.add(
                f"UPDATE ONLY {table.name} SET {identifier(column.name)} = {value} WHERE {some}"
            )
        if self.chance(4):
            self.add(f"DELETE FROM ONLY {table.name} WHERE {some}")
            # Nothing may refer to these rows from now on, and which ones they are is not known.
            table.keys = []

    def add_child(self) -> None:
        """A table that inherits from one without a key, with a column of its own."""
        parents = [table for table in self.tables if not table.key and table.columns]
        if not parents:
            return
        parent = self.draw(st.sampled_from(parents))
        own = self.column({column.name for column in parent.columns})
        own = replace(own, is_doomed=False)
        child = Table(self.new_object(), [*parent.columns, own])
        self.add(f"CREATE TABLE {child.name} ({own.definition}) INHERITS ({parent.name})")
        self.fill(child)

    def add_partitioned(self) -> None:
        taken: set[str] = set()
        key = Column(self.new_name(taken), INTEGER)
        others = [replace(self.column(taken), is_doomed=False) for _ in range(self.count(0, 2))]
        table = Table(self.new_object(), [key, *others])
        method = self.draw(st.sampled_from(["LIST", "RANGE", "HASH"]))
        columns = ", ".join(column.definition for column in table.columns)
        by = identifier(key.name)
        self.add(f"CREATE TABLE {table.name} ({columns}) PARTITION BY {method} ({by})")
        for bound in {
            "LIST": ("FOR VALUES IN (1, NULL, -2147483648)", "FOR VALUES IN (0)", "DEFAULT"),
            "RANGE": (
                "FOR VALUES FROM (MINVALUE) TO (0)",
                "FOR VALUES FROM (0) TO (100)",
                "DEFAULT",
            ),
            "HASH": (
                "FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
                "FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
            ),
        }[method]:
            self.add_partition(table, bound, others, by)
        self.add_rows(table)
        self.partitioned += 1

    def add_partition(self, table: Table, bound: str, others: list[Column], by: str) -> None:
        name = self.new_object()
        style = self.draw(st.sampled_from(["plain", "plain", "attached", "divided"]))
        if style == "plain":
            self.add(f"CREATE TABLE {name} PARTITION OF {table.name} {bound}")
        elif style == "attached":
            # In another order than the parent's, and with a hole.
            columns = [*(c.definition for c in reversed(others)), '"~hole" text', f"{by} integer"]
            self.add(f"CREATE TABLE {name} ({', '.join(columns)})")
            self.add(f'ALTER TABLE {name} DROP COLUMN "~hole"')
            self.add(f"ALTER TABLE {table.name} ATTACH PARTITION {name} {bound}")
        else:
            self.add(
                f"CREATE TABLE {name} PARTITION OF {table.name} {bound} PARTITION BY HASH ({by})"
            )
            leaf = self.new_object()
            self.add(
                f"CREATE TABLE {leaf} PARTITION OF {name} FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
            )

    def add_views(self) -> None:
        for table in self.tables:
            if not self.chance(3):
                continue
            what = "*" if table.columns else "count(*) AS n"
            name = self.new_object()
            sort = self.draw(st.sampled_from(["VIEW", "MATERIALIZED VIEW"]))
            no_data = " WITH NO DATA" if sort != "VIEW" and self.chance(3) else ""
            self.add(f"CREATE {sort} {name} AS SELECT {what} FROM {table.name}{no_data}")
            self.add_comment(f"{sort} {name}")

    def build(self) -> RandomDatabase:
        if self.chance(2):
            self.add_schema()
        for _ in range(self.count(0, 2)):
            self.draw(st.sampled_from([self.add_enum, self.add_domain, self.add_composite]))()
        for _ in range(self.count(1, 3)):
            self.add_table()
        if self.chance(3):
            self.add_child()
        if self.chance(3):
            self.add_partitioned()
        if self.chance(3):
            self.add_sequence()
        for number in range(self.draw(st.sampled_from([0, 0, 0, 1, 2]))):
            self.add_large_object(900_001 + number)
        # Last: what a materialized view holds must not be older than its tables.
        self.add_views()
        description = (
            f"{len(self.tables)} tables, {self.partitioned} partitioned, {len(self.kinds)} types, "
            f"{len(self.schemas)} schemas, {len(self.statements)} statements"
        )
        return RandomDatabase(tuple(self.statements), description)


@st.composite
def random_database(draw: DrawFn) -> RandomDatabase:
    """A database of up to five tables, small, and of every kind of column."""
    return _Builder(draw).build()


# --- fixed databases at the edges ---------------------------------------------------------


def _column_limit() -> tuple[str, ...]:
    """MaxHeapAttributeNumber columns. A full row takes 6.6 kB: it must fit into one page."""
    columns = ", ".join(f"c{n} {'integer' if n % 2 else 'boolean'}" for n in range(1600))
    full = ", ".join(str(n) if n % 2 else "true" for n in range(1600))
    empty = ", ".join(["NULL"] * 1600)
    mixed = ", ".join(["NULL", "-1", "false", "NULL"] * 400)
    return (
        f"CREATE TABLE widest ({columns})",
        f"INSERT INTO widest VALUES ({full}), ({empty}), ({mixed})",
    )


def _wide_rows() -> tuple[str, ...]:
    return (
        "CREATE TABLE wide (id integer PRIMARY KEY, body text NOT NULL)",
        "ALTER TABLE wide ALTER COLUMN body SET STORAGE EXTERNAL",
        "INSERT INTO wide SELECT row, string_agg(md5(row || '/' || block), '' ORDER BY block)"
        " FROM generate_series(1, 10) AS row, generate_series(1, 262144) AS block GROUP BY row",
    )


def _only_dropped_columns() -> tuple[str, ...]:
    return (
        "CREATE TABLE emptied (a integer, b text)",
        "INSERT INTO emptied SELECT n, repeat('x', n) FROM generate_series(1, 7) AS n",
        "ALTER TABLE emptied DROP COLUMN a, DROP COLUMN b",
        "INSERT INTO emptied DEFAULT VALUES",
        "CREATE TABLE emptied_and_empty (a integer)",
        "ALTER TABLE emptied_and_empty DROP COLUMN a",
    )


def _zero_columns() -> tuple[str, ...]:
    return (
        "CREATE TABLE nothing ()",
        "INSERT INTO nothing DEFAULT VALUES",
        "INSERT INTO nothing DEFAULT VALUES",
        "CREATE TABLE no_rows ()",
        "CREATE TABLE child_of_nothing (a integer) INHERITS (nothing)",
        "INSERT INTO child_of_nothing VALUES (1), (NULL)",
    )


def _nasty_names() -> tuple[str, ...]:
    schema = 'Sche.ma "q" ü\n'
    columns = ", ".join(f"{identifier(name)} text" for name in NASTY_NAMES)
    values = ", ".join(literal(name) for name in NASTY_NAMES)
    statements = [f"CREATE SCHEMA {identifier(schema)}"]
    statements += [
        f"CREATE TABLE {identifier(space, name)} (id serial PRIMARY KEY, {identifier(name)} text)"
        for space in ("public", schema)
        for name in NASTY_NAMES
    ]
    statements += [
        f"INSERT INTO {identifier(schema, name)} VALUES (1, {literal(name)})"
        for name in NASTY_NAMES
    ]
    everything = identifier(schema, "everything")
    statements += [
        f"CREATE TABLE {everything} ({columns})",
        f"INSERT INTO {everything} VALUES ({values})",
    ]
    return tuple(statements)


def _many_small_tables() -> tuple[str, ...]:
    statements = []
    for n in range(150):
        statements.append(f"CREATE TABLE small_{n:03d} (id integer PRIMARY KEY, note text)")
        if n % 3:
            statements.append(f"INSERT INTO small_{n:03d} VALUES ({n}, 'row of {n}'), (-1, NULL)")
    return tuple(statements)


def _floats() -> tuple[str, ...]:
    doubles = "NaN Infinity -Infinity 0 -0 0.1 0.3 1e23 5e-324 -5e-324 2.225073858507201e-308 "
    doubles += "1.7976931348623157e308 9007199254740993 0.30000000000000004"
    reals = "NaN Infinity -Infinity 0 -0 0.1 16777217 1e-45 -1e-45 1.1754942e-38 3.4028235e38"
    numerics = "NaN Infinity -Infinity 0 0.0 0.00 -0.10 1e-100 1e1000 123456789.123456789"
    statements = ["CREATE TABLE floats (id serial PRIMARY KEY, d float8, r float4, n numeric)"]
    for column, numbers in (("d", doubles), ("r", reals), ("n", numerics)):
        rows = ", ".join(f"('{number}')" for number in numbers.split())
        statements.append(f"INSERT INTO floats ({column}) VALUES {rows}")
    statements.append(
        "CREATE TABLE arrays AS SELECT array_agg(d) AS d, array_agg(r) AS r FROM floats"
    )
    return tuple(statements)


def _deep_partitions() -> tuple[str, ...]:
    statements = [
        "CREATE TABLE deep (region text, year integer, id bigint, note text)"
        " PARTITION BY LIST (region)"
    ]
    for region, regions in (("eu", "FOR VALUES IN ('de', 'fr')"), ("rest", "DEFAULT")):
        level = f"deep_{region}"
        statements.append(
            f"CREATE TABLE {level} PARTITION OF deep {regions} PARTITION BY RANGE (year)"
        )
        for year, years in (("old", "FROM (MINVALUE) TO (2000)"), ("new", "FROM (2000) TO (3000)")):
            inner = f"{level}_{year}"
            statements.append(
                f"CREATE TABLE {inner} PARTITION OF {level} FOR VALUES {years}"
                " PARTITION BY HASH (id)"
            )
            statements += [
                f"CREATE TABLE {inner}_{n} PARTITION OF {inner}"
                f" FOR VALUES WITH (MODULUS 2, REMAINDER {n}) PARTITION BY LIST (note)"
                for n in range(2)
            ]
            statements += [
                f"CREATE TABLE {inner}_{n}_leaf PARTITION OF {inner}_{n} DEFAULT" for n in range(2)
            ]
        statements.append(f"CREATE TABLE {level}_default PARTITION OF {level} DEFAULT")
    statements += [
        "ALTER TABLE ONLY deep ADD UNIQUE (region, year, id, note)",
        "INSERT INTO deep SELECT (ARRAY['de', 'fr', 'jp', NULL])[1 + n % 4],"
        " nullif(1990 + n % 20, 1995), n, CASE WHEN n % 3 = 0 THEN 'note ' || n END"
        " FROM generate_series(1, 400) AS n",
    ]
    return tuple(statements)


def _enum_hash_partitions() -> tuple[str, ...]:
    """The hash of an enum's value is that of its oid: after a restore, rows belong elsewhere."""
    return (
        "CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h')",
        "CREATE TABLE moods (mood mood, id integer) PARTITION BY HASH (mood)",
        *(
            f"CREATE TABLE moods_{n} PARTITION OF moods FOR VALUES WITH (MODULUS 3, REMAINDER {n})"
            for n in range(3)
        ),
        "INSERT INTO moods SELECT mood, n FROM unnest(enum_range(NULL::mood)) AS mood,"
        " generate_series(1, 5) AS n",
    )


LARGE_OBJECT_OWNER = "pgkeep_test_owner"


def _large_objects() -> tuple[str, ...]:
    return (
        f"DO $$ BEGIN CREATE ROLE {LARGE_OBJECT_OWNER} NOLOGIN;"
        " EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
        "SELECT lo_create(800001)",
        "SELECT lo_create(800002)",
        # Six megabytes of which the first five were never written.
        r"SELECT lo_put(800002, 5000000, '\xdeadbeef')",
        r"SELECT lo_put(800002, 6000000, '\x00ff')",
        "SELECT lo_from_bytea(800003, decode(string_agg(md5(n::text), '' ORDER BY n), 'hex'))"
        " FROM generate_series(1, 196608) AS n",
        "COMMENT ON LARGE OBJECT 800001 IS 'empty, it''s true'",
        "COMMENT ON LARGE OBJECT 800003 IS E'three\nmegabytes'",
        f"ALTER LARGE OBJECT 800003 OWNER TO {LARGE_OBJECT_OWNER}",
        "GRANT SELECT ON LARGE OBJECT 800002 TO PUBLIC",
    )


EDGE_DATABASES: dict[str, tuple[str, ...]] = {
    "column limit": _column_limit(),
    "wide rows": _wide_rows(),
    "zero columns": _zero_columns(),
    "only dropped columns": _only_dropped_columns(),
    "nasty names": _nasty_names(),
    "many small tables": _many_small_tables(),
    "floats": _floats(),
    "deep partitions": _deep_partitions(),
    "enum hash partitions": _enum_hash_partitions(),
    "large objects": _large_objects(),
}


# They act on what comes after them, or forbid it: a restore makes them last of all.
EVENT_TRIGGERS: tuple[str, ...] = (
    "CREATE TABLE guarded (a integer PRIMARY KEY)",
    "INSERT INTO guarded VALUES (1)",
    "CREATE TABLE ddl_log (tag text)",
    "CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM guarded",
    "CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS"
    " 'BEGIN INSERT INTO public.ddl_log VALUES (tg_tag); END'",
    "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS"
    " 'BEGIN RAISE EXCEPTION ''no DDL here: %'', tg_tag; END'",
    "CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION note()",
    "CREATE EVENT TRIGGER forbid ON ddl_command_start EXECUTE FUNCTION forbid()",
)
