"""Choosing from an archive: what some tables need, what cannot be made, who belongs to whom."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pgkeep.errors import UsageError
from pgkeep.postgres.archive import (
    ABOUT,
    ATTACHED,
    ATTACHING,
    BY_INDEX,
    Archive,
    Entry,
    Section,
    schema_in_tag,
)


@dataclass(frozen=True, slots=True)
class Selection:
    """What recreates some tables: the entries (dump ids), and the tables whose rows belong to it.

    `entries` may hold more tables than `tables`: those that are only needed to exist (a
    partition's parent, a table that a policy or a function reads) are made, and stay empty.
    """

    entries: frozenset[int]
    tables: frozenset[tuple[str, str]]


def select_tables(archive: Archive, tables: Collection[tuple[str, str]]) -> Selection:
    """The entries that recreate just these tables (schema, name) in an empty database.

    Each table comes whole, with the partitions below it, with what it depends on and what is
    attached to it, but never with a publication. Foreign keys come when the rows that they refer
    to come too. What the text of a function's body names is not in an archive's dependencies, so
    a trigger may write to a table that is not selected. Raises `UsageError` for an unknown table.
    """
    links = _Links(archive)
    with_rows = links.with_partitions(links.find_tables(tables))
    selected = links.closure(with_rows)
    while more := [entry.dump_id for entry in archive.entries if links.joins(entry, selected)]:
        selected |= links.closure(more)
    keys = links.foreign_keys_within(with_rows)
    selected |= links.closure(keys)
    selected |= {entry.dump_id for entry in archive.entries if links.is_about(entry, keys)}
    found = (links.by_id[number] for number in with_rows)
    return Selection(frozenset(selected), frozenset((e.namespace, e.tag) for e in found))


def leave_out_extensions(
    archive: Archive, names: Collection[str], besides: Collection[int] = ()
) -> Selection:
    """All that can be made where these extensions (and entries) cannot: what needs one is out.

    What the text of a function's body names is not in an archive's dependencies.
    """
    missing = {e.dump_id for e in archive.entries if e.kind == "EXTENSION" and e.tag in names}
    left = leave_out(archive, missing | set(besides)).entries
    tables = frozenset((e.namespace, e.tag) for e in left if e.kind in _TABLES)
    return Selection(frozenset(entry.dump_id for entry in left), tables)


def leave_out(archive: Archive, numbers: Iterable[int]) -> Archive:
    """The archive without these entries (dump ids), and without what needs or is about them."""
    doomed = _Links(archive).dependents(numbers)
    return replace(archive, entries=tuple(e for e in archive.entries if e.dump_id not in doomed))


def left_out_of(archive: Archive, selection: Selection) -> tuple[Entry, ...]:
    """What belongs to selected tables and was not selected: foreign keys, and being published."""
    names = {(schema, f"{table} ") for schema, table in selection.tables}
    return tuple(
        entry
        for entry in archive.entries
        if entry.dump_id not in selection.entries
        and (
            (
                entry.kind == "FK CONSTRAINT"
                and any(
                    entry.namespace == schema and entry.tag.startswith(start)
                    for schema, start in names
                )
            )
            or (
                entry.kind == "PUBLICATION TABLE"
                and any(
                    entry.namespace == schema and entry.tag.endswith(f" {table}")
                    for schema, table in selection.tables
                )
            )
        )
    )


def attached_to(archive: Archive, table: tuple[str, str]) -> tuple[Entry, ...]:
    """The indexes and constraints that are made after a table's data; not its foreign keys.

    Kind CONSTRAINT is a primary key, a unique or an exclusion constraint, and since PostgreSQL 18
    a NOT NULL that is not valid. Materialized views count as tables here.
    """
    by_id = {entry.dump_id: entry for entry in archive.entries}
    relations = {e.dump_id for e in archive.entries if _is_relation(e, table)}
    return tuple(
        entry
        for entry in archive.entries
        if entry.kind in BY_INDEX
        and not relations.isdisjoint(entry.dependencies)
        and (owner := _owner(entry, by_id)) is not None
        and owner.dump_id in relations
    )


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key, both its tables (schema, name), and the keys and indexes that it needs."""

    entry: Entry
    tables: frozenset[tuple[str, str]]
    needs: tuple[Entry, ...]


def foreign_keys(archive: Archive, tables: Collection[tuple[str, str]]) -> Iterator[ForeignKey]:
    """The foreign keys of these tables (schema, name) to plain tables, in the archive's order.

    Those of partitioned tables and of partitions are not among them: they concern many tables.
    """
    links = _Links(archive)
    for entry in archive.entries:
        owner = _owner(entry, links.by_id) if entry.kind == "FK CONSTRAINT" else None
        if owner is None or (owner.namespace, owner.tag) not in tables:
            continue
        concerned = {table.dump_id for table in _possible_owners(entry, links.by_id)}
        late = [
            links.by_id[number]
            for number in sorted(links.closure([entry.dump_id]) - {entry.dump_id})
            if links.by_id[number].section is Section.POST_DATA
        ]
        if links.are_plain(concerned) and all(need.kind in BY_INDEX for need in late):
            names = {(links.by_id[one].namespace, links.by_id[one].tag) for one in concerned}
            yield ForeignKey(entry, frozenset(names), tuple(late))


def matviews_in_order(archive: Archive) -> tuple[Entry, ...]:
    """The materialized views, each after those that it reads, directly or through views."""
    links = _Links(archive)
    materialized = [entry for entry in archive.entries if entry.kind == "MATERIALIZED VIEW"]
    ordered = (links.by_id[number] for number in links.in_order(e.dump_id for e in materialized))
    return tuple(entry for entry in ordered if entry.kind == "MATERIALIZED VIEW")


# --- who belongs to whom --------------------------------------------------------------------

_TABLES = frozenset({"TABLE", "FOREIGN TABLE"})
_RELATIONS = _TABLES | {"VIEW", "MATERIALIZED VIEW"}
_OWNERS = _RELATIONS | {"DOMAIN"}


class _Links:
    """Who needs whom in an archive.

    pg_dump has put the dependencies in terms of the entries that an archive holds, so a domain
    stands in a table's and an extension in an index's. Two things are missing there. An attached
    entry names all the tables that it needs, and which of them it is attached to must be told
    from its text. And a view that was in a circle is an empty shell whose true definition is a
    RULE "_RETURN", on which nothing depends.
    """

    def __init__(self, archive: Archive) -> None:
        self._entries = archive.entries
        self.by_id = {entry.dump_id: entry for entry in archive.entries}
        self._needs = {
            entry.dump_id: [number for number in entry.dependencies if number in self.by_id]
            for entry in archive.entries
        }
        for entry in archive.entries:
            if entry.kind == "RULE" and entry.tag.endswith(" _RETURN"):
                for view in _possible_owners(entry, self.by_id):
                    if entry.tag == f"{view.tag} _RETURN" and entry.namespace == view.namespace:
                        self._needs[view.dump_id].append(entry.dump_id)
        self._owner_ids = {
            entry.dump_id: owner.dump_id
            for entry in archive.entries
            if entry.kind in ATTACHED and (owner := _owner(entry, self.by_id))
        }
        self._parents = dict(self._partitions())

    def find_tables(self, names: Collection[tuple[str, str]]) -> set[int]:
        found = {(e.namespace, e.tag): e.dump_id for e in self._entries if e.kind in _TABLES}
        for schema, name in names:
            if (schema, name) not in found:
                raise UsageError(
                    f'table "{schema}.{name}" is not in the archive',
                    hint="Give schema and name as they are stored, without quotes.",
                )
        return {found[name] for name in names}

    def with_partitions(self, tables: set[int]) -> set[int]:
        """These tables and all partitions below them."""
        children = defaultdict(list)
        for child, parent in self._parents.items():
            children[parent].append(child)
        return _reachable(tables, children)

    def are_plain(self, tables: set[int]) -> bool:
        """Whether none of them is a partition or has any."""
        return self._parents.keys().isdisjoint(tables) and self.with_partitions(tables) == tables

    def closure(self, numbers: Iterable[int]) -> set[int]:
        """These entries and all that must exist before them."""
        return _reachable(numbers, self._needs)

    def dependents(self, numbers: Iterable[int]) -> set[int]:
        """These entries and all that cannot be without them."""
        needed_by = defaultdict(list)
        for entry in self._entries:
            for number in (*self._needs[entry.dump_id], self._owner_ids.get(entry.dump_id, -1)):
                needed_by[number].append(entry.dump_id)
        return _reachable(numbers, needed_by)

    def joins(self, entry: Entry, selected: set[int]) -> bool:
        """Whether an entry that is not selected belongs to some that are."""
        if entry.dump_id in selected:
            return False
        if entry.kind in ABOUT:
            return self.is_about(entry, selected) or self._is_about_public(entry, selected)
        if entry.kind in ATTACHING:
            return all(table.dump_id in selected for table in _possible_owners(entry, self.by_id))
        if entry.kind == "SEQUENCE OWNED BY":
            return any(number in selected for number in self._needs[entry.dump_id])
        return self._owner_ids.get(entry.dump_id) in selected

    def is_about(self, entry: Entry, selected: set[int]) -> bool:
        """Whether a comment, label or privilege is that of a selected entry.

        A column's privileges depend on the table's privileges too, which says nothing.
        """
        return entry.kind in ABOUT and any(
            number in selected and self.by_id[number].kind != "ACL"
            for number in self._needs[entry.dump_id]
        )

    def _is_about_public(self, entry: Entry, selected: set[int]) -> bool:
        """The schema public is seldom an entry, but its privileges are, and name a missing one."""
        return (
            schema_in_tag(entry) == "public"
            and not self._needs[entry.dump_id]
            and any(self.by_id[number].namespace == "public" for number in selected)
        )

    def foreign_keys_within(self, with_rows: set[int]) -> set[int]:
        """Those of these tables, or of partitioned tables above them, to tables of these."""
        referring = _reachable(with_rows, {c: [p] for c, p in self._parents.items()})
        keys = set()
        for entry in self._entries:
            owner = _owner(entry, self.by_id) if entry.kind == "FK CONSTRAINT" else None
            if owner is None or owner.dump_id not in referring:
                continue
            others = {table.dump_id for table in _possible_owners(entry, self.by_id)} - {
                owner.dump_id
            }
            if (others or {owner.dump_id}) <= with_rows:
                keys.add(entry.dump_id)
        return keys

    def in_order(self, numbers: Iterable[int]) -> Iterator[int]:
        """All that these need and they themselves, each after its needs; circles are cut."""
        seen: set[int] = set()
        for first in numbers:
            path = [] if first in seen else [(first, iter(self._needs[first]))]
            seen.add(first)
            while path:
                number, needs = path[-1]
                following = next((need for need in needs if need not in seen), None)
                if following is None:
                    path.pop()
                    yield number
                else:
                    seen.add(following)
                    path.append((following, iter(self._needs[following])))

    def _partitions(self) -> Iterator[tuple[int, int]]:
        """Each partition and its parent: a TABLE ATTACH is named after the partition."""
        for entry in self._entries:
            if entry.kind != "TABLE ATTACH":
                continue
            name = (entry.namespace, entry.tag)
            tables = _possible_owners(entry, self.by_id)
            children = [t.dump_id for t in tables if (t.namespace, t.tag) == name]
            parents = [t.dump_id for t in tables if (t.namespace, t.tag) != name]
            yield from zip(children, parents, strict=False)


def _owner(entry: Entry, by_id: Mapping[int, Entry]) -> Entry | None:
    """The relation or domain that an entry is attached to."""
    possible = _possible_owners(entry, by_id)
    if len(possible) <= 1:
        return possible[0] if possible else None
    named = [owner for owner in possible if _is_named_in_tag(owner, entry)]
    return min(named or possible, key=lambda owner: _first_mention(owner, entry.definition))


def _possible_owners(entry: Entry, by_id: Mapping[int, Entry]) -> list[Entry]:
    needs = dict.fromkeys(number for number in entry.dependencies if number in by_id)
    return [by_id[number] for number in needs if by_id[number].kind in _OWNERS]


def _is_relation(entry: Entry, name: tuple[str, str]) -> bool:
    return entry.kind in _RELATIONS and (entry.namespace, entry.tag) == name


def _reachable(starts: Iterable[int], edges: Mapping[int, Collection[int]]) -> set[int]:
    reached: set[int] = set()
    waiting = list(starts)
    while waiting:
        number = waiting.pop()
        if number not in reached:
            reached.add(number)
            waiting.extend(edges.get(number, ()))
    return reached


def _is_named_in_tag(owner: Entry, entry: Entry) -> bool:
    """Constraints, triggers, rules and policies have the tag "table name"."""
    return owner.namespace == entry.namespace and entry.tag.startswith(owner.tag + " ")


def _first_mention(owner: Entry, definition: str) -> int:
    """Where SQL text first names a relation, quoted or not; its end when it does not.

    pg_dump writes the relation that a statement is about before those in its expressions.
    """
    schemas, names = _spellings(owner.namespace), _spellings(owner.tag)
    pattern = rf"(?:ON|TO|FROM|ONLY|TABLE|DOMAIN) (?:{schemas})\.(?:{names})(?![\w$\"])"
    found = re.search(pattern, definition)
    return found.start() if found else len(definition)


def _spellings(name: str) -> str:
    quoted = '"' + name.replace('"', '""') + '"'
    return f"{re.escape(name)}|{re.escape(quoted)}"
