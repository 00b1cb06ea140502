"""Tables that are restored under another schema, beside the live ones.

Each has a comment that says which table it comes from, and which rows. The partitions of a table
come back as tables below one that stands for the whole, so that all rows are found there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pgkeep.model import TableContents, TableName, quote_identifier
from pgkeep.postgres.archive import Archive
from pgkeep.postgres.session import Connection
from pgkeep.postgres.statements import create_table_like, literal
from pgkeep.recovery.plan import TableRestore, parse_table_name

_MARK = "pgkeep: "
_ATTACH = re.compile(
    r"ALTER TABLE ONLY (?P<parent>.+?) ATTACH PARTITION (?P<child>.+?) (?:FOR VALUES|DEFAULT)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Which table a restored one comes from, and which of its rows were restored."""

    restored: TableName
    live: TableName
    condition: str = ""


def define_beside(
    schema: str, tables: Sequence[TableRestore], archive: Archive | None, backup: str
) -> Iterator[str]:
    """The statements that make tables under a schema, each with its comment."""
    yield f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(schema)}"
    for table in tables:
        yield create_table_like(table.source, table.name)
        yield _comment(Origin(table.name, table.source.name, table.where), backup)
    for root, parts in _wholes(tables, archive).items():
        whole = TableName(schema, root.name)
        yield _create_whole(parts[0].source, whole)
        yield _comment(Origin(whole, root, parts[0].where), backup)
        for part in parts:
            yield f"ALTER TABLE {part.name.sql} INHERIT {whole.sql}"


def wholes_beside(
    schema: str, tables: Sequence[TableRestore], archive: Archive | None
) -> list[TableName]:
    """The tables that `define_beside` makes besides those that are restored."""
    return [TableName(schema, root.name) for root in _wholes(tables, archive)]


def _wholes(
    tables: Sequence[TableRestore], archive: Archive | None
) -> Mapping[TableName, list[TableRestore]]:
    """Partitioned tables of which all partitions are restored, with these."""
    parents = dict(_attached(archive)) if archive is not None else {}
    found: dict[TableName, list[TableRestore]] = {}
    for table in tables:
        if table.source.name in parents:
            found.setdefault(_root(table.source.name, parents), []).append(table)
    partitions = [child for child in parents if child not in parents.values()]
    return {
        root: parts
        for root, parts in found.items()
        if len(parts) == sum(_root(child, parents) == root for child in partitions)
        and root.name not in {table.name.name for table in tables}
    }


def _root(name: TableName, parents: Mapping[TableName, TableName]) -> TableName:
    while name in parents:
        name = parents[name]
    return name


def _attached(archive: Archive) -> Iterator[tuple[TableName, TableName]]:
    """Partitions and what each is a partition of."""
    for entry in archive.entries:
        if entry.kind == "TABLE ATTACH" and (found := _ATTACH.search(entry.definition)):
            yield parse_table_name(found["child"]), parse_table_name(found["parent"])


def _create_whole(like: TableContents, name: TableName) -> str:
    """A table with the columns of another, and none of its constraints."""
    return create_table_like(like, name, constraints=False)


def _comment(origin: Origin, backup: str) -> str:
    said = {"table": [origin.live.schema, origin.live.name], "backup": backup}
    if origin.condition:
        said["where"] = origin.condition
    text = literal(_MARK + json.dumps(said, ensure_ascii=False))
    return f"COMMENT ON TABLE {origin.restored.sql} IS {text}"


def origins(connection: Connection, schema: str) -> list[Origin]:
    """Where the tables under a schema come from.

    By our comments; without one, from a table of the same name, in `public` where several have it.
    """
    rows = connection.execute(
        "SELECT r.relname::text, pg_catalog.obj_description(r.oid, 'pg_class'),"
        "       (SELECT n.nspname::text FROM pg_catalog.pg_class c"
        "          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        "         WHERE c.relname = r.relname AND c.relkind IN ('r', 'p')"
        "           AND c.relnamespace <> r.relnamespace"
        "           AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        "         ORDER BY n.nspname <> 'public', n.nspname LIMIT 1)"
        "  FROM pg_catalog.pg_class r"
        "  JOIN pg_catalog.pg_namespace s ON s.oid = r.relnamespace AND s.nspname = %s"
        " WHERE r.relkind = 'r' AND NOT EXISTS"
        "       (SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p"
        "            ON p.oid = i.inhparent AND p.relnamespace = r.relnamespace"
        "         WHERE i.inhrelid = r.oid)"
        " ORDER BY 1",
        (schema,),
    ).fetchall()
    found = (_origin(TableName(schema, name), said or "", same) for name, said, same in rows)
    return [origin for origin in found if origin is not None]


def _origin(restored: TableName, said: str, same_name_in: str | None) -> Origin | None:
    try:
        document = json.loads(said.removeprefix(_MARK)) if said.startswith(_MARK) else {}
        schema, name = map(str, document["table"])
        return Origin(restored, TableName(schema, name), str(document.get("where", "")))
    except (ValueError, KeyError, TypeError):
        pass
    return Origin(restored, TableName(same_name_in, restored.name)) if same_name_in else None
