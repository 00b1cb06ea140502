"""What a backup will read: decided from the catalog alone, without any query. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pgkeep.errors import PermissionMissing, PgkeepError, RowsHidden
from pgkeep.events import counted
from pgkeep.model import Kind, NotKept, Part, TableName
from pgkeep.postgres.catalog import (
    PAGE_BYTES,
    LargeObject,
    Relation,
    copy_query,
    large_object_query,
    page_range,
)
from pgkeep.postgres.dependence import unchanged_range_query

# Ids come round after 2^31; half of that leaves room for those given out during the backup.
_XID_DISTANCE = 1 << 30
# Where no size of parts is configured, a table has about so many, of a power of two of pages
# between 1 MiB and 32 MiB: a change costs what is around it, and a small part an object of its own
# (docs/decisions.md has the measurements).
_PARTS_OF_A_TABLE = 128
_FEWEST_PAGES, _MOST_PAGES = 128, 4096
_GROWTH = 16  # a table that grew so much since its ranges were chosen is cut, and so read, anew
_LARGE_OBJECTS_IN_A_PART = 2000
_NAMES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class PartRead:
    """One range to read: `table` is None for large objects, whose range is of oids."""

    table: Relation | None
    index: int
    first_page: int
    end_page: int | None
    query: str
    estimated_bytes: int
    previous: Part | None = None
    """What an earlier backup stored for this range, if it may still be right."""
    unchanged: str = ""
    """The query that tells whether it is."""


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """Everything that is to be read, largest first, and what cannot be kept."""

    kind: Kind
    tables: tuple[Relation, ...]
    parts: tuple[PartRead, ...]
    large_objects: tuple[LargeObject, ...]
    not_kept: tuple[NotKept, ...]

    @property
    def estimated_bytes(self) -> int:
        return sum(part.estimated_bytes for part in self.parts)

    @property
    def estimated_rows(self) -> int:
        return sum(table.estimated_rows for table in self.tables)


@dataclass(frozen=True, slots=True)
class Preview:
    """What a backup would read now: the parts of its plan that changed, or are new."""

    plan: BackupPlan
    changed: tuple[PartRead, ...]

    @property
    def estimated_bytes(self) -> int:
        return sum(part.estimated_bytes for part in self.changed)

    def parts_to_read(self) -> Counter[TableName]:
        """How many parts of each table would be read."""
        return Counter(part.table.name for part in self.changed if part.table)


def describe_preview(preview: Preview) -> Iterator[str]:
    """It in words, tables in the order in which they are begun."""
    plan, changed = preview.plan, preview.parts_to_read()
    parts = Counter(part.table.name for part in plan.parts if part.table)
    tables = {table.name: table for table in plan.tables}
    for name, number in parts.items():
        table = tables[name]
        known = table.estimated_rows or not table.table_bytes
        rows = (
            f"about {table.estimated_rows:,} rows" if known else "rows not known (no ANALYZE yet)"
        )
        yield (
            f"{name}: {rows}, {table.table_bytes:,} bytes,"
            f" {counted(number, 'part')}, {changed[name] or 'none'} to read"
        )
    if plan.large_objects:
        yield f"{len(plan.large_objects)} large objects, all to read"
    for item in plan.not_kept:
        yield f"not kept: {item.what}: {item.why}"
    yield (
        f"to read: {len(preview.changed)} of {len(plan.parts)} parts, about"
        f" {preview.estimated_bytes:,} of {plan.estimated_bytes:,} bytes"
    )


@dataclass(frozen=True, slots=True)
class StoredTable:
    """Parts of a table that are stored already, and what their text depended on."""

    key: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Reusable:
    """What earlier backups stored, and the keys and the horizon now."""

    tables: Mapping[TableName, StoredTable]
    keys: Mapping[int, str]
    horizon: int

    def table(self, relation: Relation) -> StoredTable | None:
        """The earlier table, if its text depends on the same things as it does now."""
        before = self.tables.get(relation.name)
        key = self.keys.get(relation.oid, "")
        return before if before is not None and key and before.key == key else None

    def is_comparable(self, part: Part) -> bool:
        """Whether transaction ids since then have not come round (with a wide margin)."""
        return 0 < part.horizon <= self.horizon < part.horizon + _XID_DISTANCE


NOTHING_REUSABLE = Reusable({}, {}, 0)


def plan_backup(
    kind: Kind,
    found: Sequence[Relation],
    large_objects: Sequence[LargeObject],
    *,
    part_pages: int | None,
    reusable: Reusable = NOTHING_REUSABLE,
) -> BackupPlan:
    """The plan for a database. Raises when a role could not read all of it."""
    tables = tuple(relation for relation in found if relation.holds_rows)
    not_kept = [
        NotKept(
            f"rows of foreign table {relation.name}",
            "they live on another server",
            needs_attention=False,
        )
        for relation in found
        if relation.kind == "f"
    ]
    if not kind.has_data:
        return BackupPlan(kind, (), (), (), ())
    _refuse_unreadable(tables)
    readable = tuple(item for item in large_objects if item.readable)
    not_kept += [
        NotKept(f"large object {item.oid}", "this role may not read it")
        for item in large_objects
        if not item.readable
    ]
    parts = [part for table in tables for part in _table_parts(table, part_pages, reusable)]
    parts += _large_object_parts(readable)
    parts.sort(key=lambda part: -part.estimated_bytes)
    return BackupPlan(kind, tables, tuple(parts), readable, tuple(not_kept))


def _table_parts(table: Relation, part_pages: int | None, reusable: Reusable) -> list[PartRead]:
    before = reusable.table(table)
    pages = -(-table.heap_bytes // PAGE_BYTES)
    wanted = _pages_in_a_part(table, part_pages)
    earlier = _earlier_step(before)
    step = earlier if earlier * _GROWTH >= wanted else wanted
    splittable = table.is_heap and not table.condition and pages > step
    starts = range(0, pages, step) if splittable else range(1)
    parts = []
    for index, first in enumerate(starts):
        end = first + step if index + 1 < len(starts) else None
        query = copy_query(table.name, table.columns, table.condition, (first, end))
        part = PartRead(table, index, first, end, query, table.table_bytes // len(starts))
        parts.append(_with_previous(part, table, before, reusable))
    return parts


def _with_previous(
    part: PartRead, table: Relation, before: StoredTable | None, reusable: Reusable
) -> PartRead:
    """The part with what was stored for it, if its range then held no page that it lacks now.

    A range that was a table's last had no end. It may have one now: if it still has as many rows,
    none younger, they are the same rows.
    """
    for previous in before.parts if before else ():
        same_end = previous.end_page in (part.end_page, None)
        if previous.first_page == part.first_page and same_end and reusable.is_comparable(previous):
            where = page_range((part.first_page, part.end_page))
            query = unchanged_range_query(table.name.sql, where, previous.horizon)
            return replace(part, previous=previous, unchanged=query)
    return part


def _earlier_step(before: StoredTable | None) -> int:
    """The pages in a part of the earlier backup: ranges must stay where they were."""
    for part in before.parts if before else ():
        if part.end_page is not None:
            return part.end_page - part.first_page
    return 0


def _pages_in_a_part(table: Relation, part_pages: int | None) -> int:
    """Fewer heap pages where TOAST hangs on them, so that parts are of one size in all."""
    all_bytes = max(table.table_bytes, table.heap_bytes, 1)
    pages = part_pages or _fitting_pages(all_bytes)
    return max(1, round(pages * table.heap_bytes / all_bytes))


def _fitting_pages(table_bytes: int) -> int:
    pages = table_bytes // PAGE_BYTES // _PARTS_OF_A_TABLE
    return min(max(1 << pages.bit_length(), _FEWEST_PAGES), _MOST_PAGES)


def _large_object_parts(objects: Sequence[LargeObject]) -> list[PartRead]:
    starts = range(0, len(objects), _LARGE_OBJECTS_IN_A_PART)
    parts = []
    for index, start in enumerate(starts):
        some = objects[start : start + _LARGE_OBJECTS_IN_A_PART]
        query = large_object_query([item.oid for item in some])
        parts.append(PartRead(None, index, some[0].oid, None, query, 0))
    return parts


def _refuse_unreadable(tables: Sequence[Relation]) -> None:
    hidden = [table.name for table in tables if table.rows_hidden and table.readable]
    closed = [table.name for table in tables if not table.readable]
    if closed:
        raise _naming(
            PermissionMissing,
            "this role may not read",
            closed,
            "Grant it: GRANT pg_read_all_data TO role, or SELECT on the tables and USAGE on their"
            " schemas. A backup without them would not be whole.",
        )
    if hidden:
        raise _naming(
            RowsHidden,
            "row-level security hides rows from this role in",
            hidden,
            "Back up as a role with BYPASSRLS, or as the tables' owner where RLS is not forced.",
        )


def _naming(
    error: type[PgkeepError], what: str, names: Sequence[TableName], hint: str
) -> PgkeepError:
    shown = ", ".join(str(name) for name in names[:_NAMES_SHOWN])
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    plural = "table" if len(names) == 1 else f"{len(names)} tables:"
    return error(f"{what} {plural} {shown}{more}", hint=hint)
