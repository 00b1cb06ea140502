"""What a restore will do: decided from the backup alone, before the target is touched. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pgkeep.errors import UsageError
from pgkeep.model import (
    Column,
    Contents,
    Kind,
    LargeObjects,
    SequenceValue,
    TableContents,
    TableName,
)
from pgkeep.postgres.archive import Archive, Entry, Section
from pgkeep.postgres.selection import Selection, attached_to, leave_out_extensions, select_tables
from pgkeep.recovery.role_needs import in_need_of

# A table with less text than this has its indexes and foreign keys made together with those of
# others: starting the programs for each would take longer than the making.
_LARGE_TABLE_BYTES = 8 << 20


_SLOW_INDEXES = ("gin", '"gin"', "gist", '"gist"', "spgist", '"spgist"', "hnsw", "ivfflat")
_SLOW_INDEX = 6

_GRANTS = frozenset({"ACL", "ACL LANGUAGE", "DEFAULT ACL"})


@dataclass(frozen=True, slots=True)
class Scope:
    """Which part of a backup is wanted. No tables means all of them."""

    schema: bool = True
    data: bool = True
    tables: tuple[TableName, ...] = ()
    into_schema: str | None = None
    without_extensions: tuple[str, ...] = ()
    """Extensions that the target cannot have: what needs one is left out."""
    without_roles: tuple[str, ...] = ()
    """Roles that the target cannot have: policies for one are left out."""
    critical: tuple[TableName, ...] = ()
    """Tables to have back before all others."""
    where: str = ""
    """Of the one table, beside the live one, just the rows for which this SQL is true."""


@dataclass(frozen=True, slots=True)
class TableRestore:
    """A table to fill, under the name that it gets, with the indexes to build once it is full."""

    source: TableContents
    name: TableName
    indexes: tuple[Entry, ...] = ()
    is_critical: bool = False
    """Whether it goes before all that are not."""
    where: str = ""
    """Just the rows for which this SQL is true: they cannot be compared with what is stored."""
    without: tuple[str, ...] = ()
    """Columns that the target's table has not, or computes itself."""
    is_managed: bool = False
    """A table that the target's platform has made: it may refuse the rows, and others go on."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Those that rows are loaded into."""
        return tuple(one for one in self.source.columns if one.name not in self.without)

    @property
    def weight(self) -> int:
        """How much work the table is in all, in bytes of text loaded once."""
        return self.source.text_bytes + sum(map(self.index_weight, self.indexes))

    def index_weight(self, index: Entry) -> int:
        """How much work an index is: inverted and search-tree ones take several times as long."""
        is_slow = any(f" USING {kind} " in index.definition for kind in _SLOW_INDEXES)
        return self.source.text_bytes * (_SLOW_INDEX if is_slow else 1)

    @property
    def is_large(self) -> bool:
        """Whether its indexes and foreign keys are worth programs of their own."""
        return self.source.text_bytes >= _LARGE_TABLE_BYTES

    @property
    def load_name(self) -> TableName:
        """Where COPY puts the rows: the table, or the partitioned table that sorts them out."""
        return self.source.load_name if self.name == self.source.name else self.name


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """The steps in order: definitions, tables with their indexes, the rest of the definitions."""

    before: tuple[Entry, ...]
    tables: tuple[TableRestore, ...]
    after: tuple[Entry, ...]
    """What comes after the rows, but for event triggers."""
    guards: tuple[Entry, ...]
    """Event triggers, last of all: they would act on what is still to be done, or forbid it."""
    selection: Selection | None
    sequences: tuple[SequenceValue, ...]
    large_objects: LargeObjects
    matviews: tuple[TableName, ...]
    left_empty: tuple[TableName, ...]
    """Tables that others need, made without the rows that they had."""
    whole: bool
    """Everything that the backup holds, so that the target can be compared as a whole."""

    @property
    def text_bytes(self) -> int:
        parts = [part.text for table in self.tables for part in table.source.parts]
        return sum(text.plain_bytes for text in parts)

    @property
    def definitions(self) -> int:
        indexes = (table.indexes for table in self.tables)
        return sum(map(len, (self.before, self.after, self.guards, *indexes)))

    @property
    def rows(self) -> int:
        return sum(table.source.rows for table in self.tables)


_NAME_BYTES = 63
"""PostgreSQL cuts longer names."""


def parse_table_name(text: str) -> TableName:
    """`schema.table` or `table` (in public), with double quotes where a name needs them."""
    parts, rest = [], text
    while True:
        if rest.startswith('"'):
            end = _closing_quote(rest, text)
            parts.append(rest[1:end].replace('""', '"'))
            rest = rest[end + 1 :]
        else:
            name, dot, tail = rest.partition(".")
            parts.append(name)
            rest = dot + tail
        if not rest:
            break
        if not rest.startswith("."):
            raise _bad_table_name(text)
        rest = rest[1:]
    if len(parts) > 2 or not all(parts):
        raise _bad_table_name(text)
    return TableName(*(["public", *parts][-2:]))


def _closing_quote(text: str, whole: str) -> int:
    at = 1
    while (at := text.find('"', at)) >= 0:
        if text[at + 1 : at + 2] != '"':
            return at
        at += 2
    raise _bad_table_name(whole)


def _bad_table_name(text: str) -> UsageError:
    return UsageError(
        f"{text!r} is not a table's name",
        hint='Write schema.table, with double quotes where needed: public."Order Items".',
    )


def parse_schema_name(text: str) -> str:
    """A schema that tables may be put under, as it is written; `UsageError` for any other."""
    if not text or "\0" in text or len(text.encode()) > _NAME_BYTES:
        raise UsageError(
            f"{text!r} is not a schema's name", hint=f"A name has 1 to {_NAME_BYTES} bytes."
        )
    if text == "information_schema" or text.startswith("pg_"):
        raise UsageError(
            f"schema {text!r} belongs to PostgreSQL itself", hint="Choose another name."
        )
    return text


def check_scope(scope: Scope, kind: Kind) -> Scope:
    """What of the scope this kind of backup has; `UsageError` for what it cannot give."""
    if scope.data and not scope.schema and not kind.has_data:
        raise UsageError("a schema backup holds no data", hint="Choose a full or data backup.")
    if scope.schema and not scope.data and not kind.has_schema:
        raise UsageError("a data backup holds no schema", hint="Choose a full or schema backup.")
    if scope.into_schema is not None and (not scope.tables or not kind.has_data):
        raise UsageError(
            "another schema can be given for chosen tables of a backup with data only",
            hint="Add --table, or restore the whole into a database of its own.",
        )
    if scope.where and (scope.into_schema is None or len(scope.tables) != 1):
        raise UsageError(
            "a condition goes with one table under another schema",
            hint="Add --table TABLE and --into-schema SCHEMA.",
        )
    return replace(
        scope, schema=scope.schema and kind.has_schema, data=scope.data and kind.has_data
    )


def plan_restore(contents: Contents, archive: Archive | None, scope: Scope) -> RestorePlan:
    """The plan for a scope that `check_scope` has let through."""
    selection = _selection(archive, scope)
    wanted = _with_rows(contents, selection, scope)
    if scope.into_schema is not None:
        return _plan_beside(wanted, scope.into_schema, scope.where)
    before, after = _entries(archive if scope.schema else None, selection)
    tables = _table_restores(
        archive if scope.schema else None, wanted if scope.data else (), frozenset(scope.critical)
    )
    built = {entry.dump_id for table in tables for entry in table.indexes}
    late = [entry for entry in after if entry.dump_id not in built]
    whole = not scope.tables
    return RestorePlan(
        before=before,
        tables=tables,
        after=tuple(entry for entry in late if not entry.is_event_trigger),
        guards=tuple(entry for entry in late if entry.is_event_trigger),
        selection=selection,
        sequences=_sequences(contents, archive, selection, scope) if scope.data else (),
        large_objects=contents.large_objects if scope.data and whole else LargeObjects(),
        matviews=_matviews(contents, archive, selection) if scope.data and whole else (),
        left_empty=_left_empty(contents, before, tables) if scope.data else (),
        whole=whole and scope.schema,
    )


def _plan_beside(wanted: tuple[TableContents, ...], schema: str, where: str) -> RestorePlan:
    tables = tuple(
        TableRestore(table, TableName(schema, table.name.name), where=where) for table in wanted
    )
    names = [table.name for table in tables]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two of the tables would both become {twice}")
    return RestorePlan((), tables, (), (), None, (), LargeObjects(), (), (), whole=False)


def _selection(archive: Archive | None, scope: Scope) -> Selection | None:
    """What of the definitions is wanted; None where it is all."""
    if archive is None:
        return None
    if scope.tables:
        return select_tables(archive, [(name.schema, name.name) for name in scope.tables])
    if scope.without_extensions or scope.without_roles:
        besides = [entry.dump_id for entry in in_need_of(archive, scope.without_roles)]
        return leave_out_extensions(archive, scope.without_extensions, besides)
    return None


def _with_rows(
    contents: Contents, selection: Selection | None, scope: Scope
) -> tuple[TableContents, ...]:
    """The tables with rows that are wanted: a partitioned table stands for its partitions."""
    known = {table.name: table for table in contents.tables}
    if selection is not None:
        chosen = selection.tables
        return tuple(table for name, table in known.items() if (name.schema, name.name) in chosen)
    if not scope.tables:
        return contents.tables
    for name in scope.tables:
        if name not in known:
            raise UsageError(
                f"the backup has no table {name}", hint="Run pgkeep show to see which it has."
            )
    return tuple(known[name] for name in scope.tables)


def _entries(
    archive: Archive | None, selection: Selection | None
) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """The entries before and after the data. Those without a section go with what precedes them.

    Grants come last, as pg_restore does it: they may take rights from the role that restores.
    """
    before: list[Entry] = []
    after: list[Entry] = []
    current = before
    for entry in archive.entries if archive else ():
        if entry.section is Section.POST_DATA:
            current = after
        if selection is None or entry.dump_id in selection.entries:
            (after if entry.kind in _GRANTS else current).append(entry)
    return tuple(before), tuple(after)


def _table_restores(
    archive: Archive | None, tables: Sequence[TableContents], critical: frozenset[TableName]
) -> tuple[TableRestore, ...]:
    """Those with most work first: a slow index that begins last keeps everybody waiting."""
    found = []
    for table in tables:
        key = (table.name.schema, table.name.name)
        is_critical = not critical.isdisjoint({table.name, table.load_name})
        one = TableRestore(table, table.name, is_critical=is_critical)
        if archive is not None and (is_critical or one.is_large):
            one = replace(one, indexes=attached_to(archive, key))
        found.append(one)
    return tuple(sorted(found, key=lambda table: (not table.is_critical, -table.weight)))


def _left_empty(
    contents: Contents, before: Sequence[Entry], tables: Sequence[TableRestore]
) -> tuple[TableName, ...]:
    made = {TableName(entry.namespace, entry.tag) for entry in before if entry.kind == "TABLE"}
    filled = {table.name for table in tables}
    had_rows = {table.name for table in contents.tables if table.rows}
    return tuple(sorted(made & had_rows - filled))


def _sequences(
    contents: Contents, archive: Archive | None, selection: Selection | None, scope: Scope
) -> tuple[SequenceValue, ...]:
    names = _selected(archive, selection, "SEQUENCE")
    if names is None:
        return () if scope.tables else contents.sequences
    return tuple(value for value in contents.sequences if value.name in names)


def _matviews(
    contents: Contents, archive: Archive | None, selection: Selection | None
) -> tuple[TableName, ...]:
    names = _selected(archive, selection, "MATERIALIZED VIEW")
    return tuple(name for name in contents.populated_matviews if names is None or name in names)


def _selected(
    archive: Archive | None, selection: Selection | None, kind: str
) -> frozenset[TableName] | None:
    """The selected objects of a kind; None if nothing was selected, so that all are meant."""
    if archive is None or selection is None:
        return None
    return frozenset(
        TableName(entry.namespace, entry.tag)
        for entry in archive.entries
        if entry.kind == kind and entry.dump_id in selection.entries
    )
