"""What the text of a table's rows depends on, besides the rows themselves, as one key per table.

Same key and same row versions mean the same text, so what was stored before can be used again. The
key has to change with everything that could change the text, and may change more often than that:
a needless change costs one read, a missing one would cost correctness. docs/incremental.md lists
the causes with the tests that show each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString

from blake3 import blake3

from pgkeep.postgres.session import SESSION_SETTINGS, Connection

# Raise it when the way in which rows become text changes in a version of pgkeep.
_TEXT_VERSION = 1

# Which server, and which run of it. A restore in place or a fail-over begins a new timeline; going
# back to a snapshot of the disk does not, but it starts the server anew; and when one of its
# processes dies, it recovers without a new start, but loses its statistics. After each of these,
# transaction ids are used again. Whoever resets one kind of statistics leaves the older of the two.
# A standby does not tell its timeline exactly, so it has no key. A database can be created with the
# oid of one that was dropped, from a copy of it; the xmin of its entry tells them apart.
SERVER_FACTS: dict[str, LiteralString] = {
    "system": "(SELECT system_identifier FROM pg_catalog.pg_control_system())",
    "timeline": """pg_catalog.substr(
        pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)""",
    "start": "pg_catalog.pg_postmaster_start_time()",
    "recovery": """(SELECT LEAST(b.stats_reset, a.stats_reset)
           FROM pg_catalog.pg_stat_bgwriter b, pg_catalog.pg_stat_archiver a)""",
    "version": "pg_catalog.current_setting('server_version')",
    "database": "d.oid, d.xmin, d.encoding",
}

_MAY_IDENTIFY: LiteralString = """
    SELECT pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
       AND pg_catalog.has_function_privilege('pg_catalog.pg_walfile_name(pg_lsn)', 'EXECUTE')"""

# Every type that a table's columns are made of, however deep.
_REACHABLE: LiteralString = """
    WITH RECURSIVE reachable (relid, typid) AS (
        SELECT a.attrelid, a.atttypid FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = ANY (%(oids)s) AND a.attnum > 0 AND NOT a.attisdropped
        UNION
        SELECT r.relid, x.typid
          FROM reachable r JOIN pg_catalog.pg_type t ON t.oid = r.typid
         CROSS JOIN LATERAL (
            SELECT t.typelem AS typid WHERE t.typelem <> 0
            UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0
            UNION ALL SELECT g.rngsubtype FROM pg_catalog.pg_range g
                       WHERE t.oid IN (g.rngtypid, g.rngmultitypid)
            UNION ALL SELECT c.atttypid FROM pg_catalog.pg_attribute c
                       WHERE t.typrelid <> 0 AND c.attrelid = t.typrelid
                         AND c.attnum > 0 AND NOT c.attisdropped) x)
"""

_OUTPUT_FUNCTION: LiteralString = """o.prosrc, o.probin,
        CASE WHEN NOT EXISTS (
          SELECT FROM pg_catalog.pg_depend p
           WHERE p.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.objid = o.oid
             AND p.deptype = 'e') THEN o.xmin END"""

# Facts about a type `t` with the output function `o`. Those of initdb in pg_catalog are left out:
# they come with the server's version. Others in that schema do not (extensions may live there).
# No lock on a table keeps a type from being altered, and COPY writes what the catalog says when it
# writes: the xmin of a label, an attribute or an output function tells that it was altered and
# altered back. An extension's functions have its version, and are granted anew now and then.
TYPE_FACTS: dict[str, LiteralString] = {
    "identity": "t.oid, t.typname, t.typnamespace, t.typtype, t.typoutput, t.typtypmod, t.typndims",
    "output function": _OUTPUT_FUNCTION,
    "domain": """t.typnotnull, t.typdefault,
        (SELECT string_agg(pg_catalog.pg_get_constraintdef(k.oid), ',' ORDER BY k.oid)
           FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid)""",
    "enum labels": """
        (SELECT string_agg(pg_catalog.concat_ws('~', e.oid, e.enumlabel, e.xmin), ','
                           ORDER BY e.oid)
           FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid)""",
    "composite attributes": """
        (SELECT string_agg(pg_catalog.concat_ws('~', c.attnum, c.attname, c.atttypid, c.atttypmod,
                             c.attisdropped, c.xmin), ',' ORDER BY c.attnum)
           FROM pg_catalog.pg_attribute c
          WHERE t.typrelid <> 0 AND c.attrelid = t.typrelid AND c.attnum > 0)""",
    "extension version": """
        (SELECT string_agg(x.extname || ' ' || x.extversion, ',' ORDER BY x.extname)
           FROM pg_catalog.pg_depend p JOIN pg_catalog.pg_extension x ON x.oid = p.refobjid
          WHERE p.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND p.objid = t.oid
            AND p.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass)""",
}

# Types whose text is looked up in other catalogs, where a name may change at any time: reg* and
# aclitem; and types of others whose output function does not promise to be immutable.
LOOKED_UP: LiteralString = """
    (o.proname ~ '^reg[a-z]+out$' OR o.proname = 'aclitemout'
     OR o.oid >= 16384 AND o.provolatile <> 'i')"""

# Facts about a table `c` in schema `n`.
TABLE_FACTS: dict[str, LiteralString] = {
    "oid": "c.oid",
    "name": "n.nspname, c.relname",
    "file": "pg_catalog.pg_relation_filenode(c.oid)",
    "kind": "c.relkind, c.relpersistence, c.relam",
    "place in a tree": """c.relispartition,
        (SELECT string_agg(i.inhparent::text, ',' ORDER BY i.inhseqno)
           FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)""",
    "columns": """
        (SELECT string_agg(pg_catalog.concat_ws('~', a.attnum, a.attname, a.atttypid, a.atttypmod,
                             a.attisdropped, a.attgenerated), ',' ORDER BY a.attnum)
           FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0)""",
    "missing values": """
        (SELECT string_agg(a.attnum || '=' || a.attmissingval::text, ',' ORDER BY a.attnum)
           FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.atthasmissing)""",
}


def _together(facts: dict[str, LiteralString]) -> LiteralString:
    """One text of all facts. A fact that is not there still takes its place."""
    listed: LiteralString = "''"
    for expression in facts.values():
        listed = listed + ", ROW(" + expression + ")::text"
    return "pg_catalog.concat_ws('|', " + listed + ")"


def _types_query() -> LiteralString:
    return (
        _REACHABLE
        + "SELECT r.relid::int8, COALESCE(bool_or("
        + LOOKED_UP
        + "), false), COALESCE(string_agg("
        + _together(TYPE_FACTS)
        + """, ';' ORDER BY t.oid) FILTER (
               WHERE t.oid >= 16384 OR t.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace), '')
          FROM reachable r
          JOIN pg_catalog.pg_type t ON t.oid = r.typid
          LEFT JOIN pg_catalog.pg_proc o ON o.oid = t.typoutput
         GROUP BY r.relid"""
    )


def _tables_query() -> LiteralString:
    return (
        "SELECT c.oid::int8, "
        + _together(TABLE_FACTS)
        + " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = ANY (%(oids)s)"
    )


@dataclass(frozen=True, slots=True)
class TableKeys:
    """Keys by a table's oid; a table without one has to be read. `problem` says why none has."""

    keys: Mapping[int, str]
    problem: str = ""


def table_keys(connection: Connection, oids: Sequence[int]) -> TableKeys:
    """The keys of tables now. Ask while the tables are locked, in the backup's snapshot."""
    server = _server(connection)
    if not server:
        return TableKeys({}, "this role may not learn which server this is, or it is a standby")
    parameters = {"oids": list(oids)}
    types = {
        oid: (elsewhere, text)
        for oid, elsewhere, text in connection.execute(_types_query(), parameters).fetchall()
    }
    common = (str(_TEXT_VERSION), *SESSION_SETTINGS, server)
    keys = {}
    for oid, text in connection.execute(_tables_query(), parameters).fetchall():
        depends_on_catalogs, type_text = types.get(oid, (False, ""))
        if not depends_on_catalogs:
            keys[oid] = blake3("\0".join((*common, text, type_text)).encode()).hexdigest()
    return TableKeys(keys)


def pieces_of_text(connection: Connection, oids: Sequence[int]) -> Mapping[int, frozenset[str]]:
    """What COPY would take from other catalogs to write rows of tables, by a table's oid.

    There may be more of it later (a label that was added), but nothing may have become another.
    """
    pieces: dict[int, frozenset[str]] = {}
    for oid, piece in connection.execute(_pieces_query(), {"oids": list(oids)}).fetchall():
        pieces[oid] = pieces.get(oid, frozenset()) | {piece}
    return pieces


def _pieces_query() -> LiteralString:
    return (
        _REACHABLE
        + """SELECT r.relid::int8, pg_catalog.concat_ws('~', e.oid, e.enumlabel, e.xmin)
               FROM reachable r JOIN pg_catalog.pg_enum e ON e.enumtypid = r.typid
             UNION ALL
             SELECT r.relid::int8, pg_catalog.concat_ws('~', t.oid, """
        + _OUTPUT_FUNCTION
        + ", "
        + TYPE_FACTS["composite attributes"]
        + """)
               FROM reachable r
               JOIN pg_catalog.pg_type t ON t.oid = r.typid
               LEFT JOIN pg_catalog.pg_proc o ON o.oid = t.typoutput
              WHERE t.oid >= 16384"""
    )


def _server(connection: Connection) -> str:
    standby = connection.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone()
    allowed = connection.execute(_MAY_IDENTIFY).fetchone()
    if not standby or standby[0] or not allowed or not allowed[0]:
        return ""
    row = connection.execute(
        "SELECT " + _together(SERVER_FACTS) + " FROM pg_catalog.pg_database d"
        " WHERE d.datname = pg_catalog.current_database()"
    ).fetchone()
    return str(row[0]) if row else ""


def unchanged_query(table_sql: str, horizon: int) -> str:
    """Two counts of a table: its visible rows, and those that may be younger than `horizon`.

    `horizon` is the oldest transaction that still ran when the table was read (the xmin of that
    snapshot). A row version never changes in place. So if no visible version was made at or after
    it, every version now visible was visible then; and if there are as many as then, they are the
    same. Ids are compared on the circle of 2^32, so this holds while fewer than 2^31 have passed;
    permanent ids (frozen by old servers) are older than any.

    Ids are compared as the four bytes that `xidsend` makes of them: unlike `age(xid)`, that may
    run in parallel workers, and it costs half of a cast to text.
    """
    first = _comparable(horizon)
    end = (first + 2**31) % 2**32
    young = f"{_ID} >= {_bytes(first)} AND {_ID} < {_bytes(end)}"
    if end < first:  # half the circle from here goes past its end
        young = (
            f"{_ID} >= {_bytes(first)}"
            f" OR {_ID} < {_bytes(end)} AND {_ID} >= {_bytes(_FIRST_NORMAL_ID)}"
        )
    return _counts(table_sql, "", young)


def unchanged_range_query(table_sql: str, where: str, horizon: int) -> str:
    """The same two counts of a range, which no parallel workers read: there `age` costs less.

    It is the distance from the newest id, which stays the same in a transaction, on the same
    circle: right as long as `horizon` is less than half of it behind (a backup uses nothing that is
    a quarter behind). The sub-select is computed once.
    """
    since = f"(SELECT pg_catalog.age('{_comparable(horizon)}'::pg_catalog.xid))"
    return _counts(table_sql, where, f"pg_catalog.age(xmin) <= {since}")


def _counts(table_sql: str, where: str, young: str) -> str:
    return (
        f"SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE {young})"
        f" FROM ONLY {table_sql}{where}"
    )


def _comparable(horizon: int) -> int:
    """The 32 bits of an id that rows have, none of the permanent ones."""
    return max(horizon % 2**32, _FIRST_NORMAL_ID)


# Ids below are permanent: bootstrap and frozen.
_FIRST_NORMAL_ID = 3
_ID = "pg_catalog.xidsend(xmin)"


def _bytes(transaction_id: int) -> str:
    return f"pg_catalog.decode('{transaction_id:08x}', 'hex')"
