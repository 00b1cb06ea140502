"""The table of contents of a custom-format archive, as `pg_dump -Fc --schema-only` writes it.

pgkeep never edits SQL: it reads what an archive holds, chooses entries, and lets pg_restore
write the statements. Here is the reading and the choosing, of bytes that are already in memory.

The layout is that of `ReadHead` and `ReadToc` in PostgreSQL's pg_backup_archiver.c. Versions:
1.14 (PostgreSQL 14 and 15), 1.15 (16: one byte names the compression), 1.16 (17 and 18: relkind).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

from pgkeep.errors import ManifestInvalid, UsageError

_MAGIC = b"PGDMP"
_CUSTOM_FORMAT = 1
_OLDEST, _NEWEST = (1, 14), (1, 16)
_KNOWN_VERSIONS = "Archive versions 1.14 to 1.16 are known, those of pg_dump 14 to 18."
_DATE_FIELDS = 7
_SIZES = range(1, 9)
_NUMBER = re.compile(r"[0-9]{1,10}")


class Section(Enum):
    """When pg_restore makes an entry. Comments and privileges have no section of their own."""

    NONE = "none"
    PRE_DATA = "pre-data"
    DATA = "data"
    POST_DATA = "post-data"


_SECTIONS = {1: Section.NONE, 2: Section.PRE_DATA, 3: Section.DATA, 4: Section.POST_DATA}


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of an archive. Texts that an archive lacks are empty.

    `kind` is what pg_dump calls "desc": TABLE, INDEX, FK CONSTRAINT, ACL. `relkind` is known
    from archive version 1.16 on. Bytes that are not UTF-8 are kept as surrogate escapes.
    """

    dump_id: int
    table_oid: int
    oid: int
    tag: str
    kind: str
    section: Section
    definition: str
    drop: str
    namespace: str
    owner: str
    table_access_method: str
    relkind: str
    dependencies: tuple[int, ...]

    @property
    def is_event_trigger(self) -> bool:
        """An event trigger, or something said of one."""
        said_of_one = self.kind in ("COMMENT", "SECURITY LABEL")
        return self.kind == "EVENT TRIGGER" or (
            said_of_one and self.tag.startswith("EVENT TRIGGER ")
        )


def schema_in_tag(entry: Entry) -> str:
    """The schema that a comment or privilege is about; empty if it is about something else.

    Whether pg_dump quotes names there depends on its version and its options.
    """
    what, _, name = entry.tag.partition(" ")
    if what != "SCHEMA" or not name:
        return ""
    if name.startswith('"') and name.endswith('"'):
        return name[1:-1].replace('""', '"')
    return name


@dataclass(frozen=True, slots=True)
class Archive:
    """A table of contents, in the archive's order, which is one that can be restored."""

    version: tuple[int, int, int]
    database: str
    server_version: str
    dump_version: str
    entries: tuple[Entry, ...]


def read_archive(data: bytes) -> Archive:
    """The table of contents of an archive; `data` may end after it.

    Raises `ManifestInvalid` for everything that is not one of a known version.
    """
    reader = _Reader(data)
    version = _read_version(reader)
    database, server_version, dump_version = _read_header(reader, version)
    entries = _read_entries(reader, version)
    return Archive(version, database, server_version, dump_version, entries)


def use_list(entries: Iterable[Entry]) -> str:
    """A list file for `pg_restore --use-list`; pg_restore keeps to the order of the lines.

    Only the number before the first semicolon counts, and the rest is for people.
    """
    return "".join(_list_line(entry) for entry in entries)


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
        if entry.kind in _BY_INDEX
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


def foreign_keys(archive: Archive) -> Iterator[ForeignKey]:
    """The foreign keys from one plain table to another, in the archive's order.

    Those of partitioned tables and of partitions are not among them: they concern many tables.
    """
    links = _Links(archive)
    for entry in archive.entries:
        if entry.kind != "FK CONSTRAINT":
            continue
        tables = {table.dump_id for table in _possible_owners(entry, links.by_id)}
        late = [
            links.by_id[number]
            for number in sorted(links.closure([entry.dump_id]) - {entry.dump_id})
            if links.by_id[number].section is Section.POST_DATA
        ]
        if links.are_plain(tables) and all(need.kind in _BY_INDEX for need in late):
            names = {(links.by_id[one].namespace, links.by_id[one].tag) for one in tables}
            yield ForeignKey(entry, frozenset(names), tuple(late))


def matviews_in_order(archive: Archive) -> tuple[Entry, ...]:
    """The materialized views, each after those that it reads, directly or through views."""
    links = _Links(archive)
    materialized = [entry for entry in archive.entries if entry.kind == "MATERIALIZED VIEW"]
    ordered = (links.by_id[number] for number in links.in_order(e.dump_id for e in materialized))
    return tuple(entry for entry in ordered if entry.kind == "MATERIALIZED VIEW")


What = Literal["missing in the target", "not in the source", "definition differs", "owner differs"]


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One thing that is not the same in two archives."""

    kind: str
    namespace: str
    tag: str
    what: What

    def __str__(self) -> str:
        name = f"{self.namespace}.{self.tag}" if self.namespace else self.tag
        return _on_one_line(f"{self.kind} {name}: {self.what}")


def compare_archives(
    source: Archive,
    target: Archive,
    *,
    only: Selection | None = None,
    owners: bool = True,
    privileges: bool = True,
) -> tuple[Difference, ...]:
    """Where `target` is not what `source` (or `only` a selection from it) describes, sorted.

    Numbers, dependencies and the order play no part, nor do entries about the database itself.
    All of the target counts, also with `only`. Definitions compare as text, so both archives
    should come from one version of pg_dump and, where SQL is written anew, of the server.
    """
    has_relkind = min(source.version, target.version) >= (1, 16, 0)
    rules = _Comparison(owners=owners, privileges=privileges, has_relkind=has_relkind)
    before = rules.facts(e for e in source.entries if _is_within(e, only))
    after = rules.facts(target.entries)
    return tuple(
        sorted(
            Difference(*name, what)
            for name in before.keys() | after.keys()
            for what in rules.differences(before[name], after[name])
        )
    )


# --- reading --------------------------------------------------------------------------------


class _Reader:
    """A position in the bytes. Every read is checked against what is left before it is made."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self.integer_bytes = 4
        self.offset_bytes = 8

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise self.invalid(f"ends early, at byte {len(self._data)}")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def integer(self) -> int:
        """A sign byte and a magnitude, lowest byte first."""
        negative = self.byte() != 0
        magnitude = int.from_bytes(self.take(self.integer_bytes), "little")
        return -magnitude if negative else magnitude

    def text(self) -> str | None:
        size = self.integer()
        if size < 0:
            return None
        return self.take(size).decode("utf-8", "surrogateescape")

    def number(self) -> int:
        """A number that is written as text, as oids are."""
        return self.as_number(self.text())

    def as_number(self, text: str | None) -> int:
        if text is None or not _NUMBER.fullmatch(text):
            raise self.invalid(f"has no number before byte {self._position}")
        return int(text)

    def invalid(
        self, why: str, hint: str = "The file is damaged, or not whole."
    ) -> ManifestInvalid:
        return ManifestInvalid(f"the archive {why}", hint=hint)


def _read_version(reader: _Reader) -> tuple[int, int, int]:
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise reader.invalid(
            'does not begin with "PGDMP"', "Make one with `pg_dump --format=custom`."
        )
    major, minor, revision = reader.byte(), reader.byte(), reader.byte()
    if not _OLDEST <= (major, minor) <= _NEWEST:
        raise reader.invalid(f"has the unknown version {major}.{minor}", _KNOWN_VERSIONS)
    return major, minor, revision


def _read_header(reader: _Reader, version: tuple[int, int, int]) -> tuple[str, str, str]:
    """The database, the server's version and pg_dump's; what is before them sets up the reader."""
    reader.integer_bytes, reader.offset_bytes = reader.byte(), reader.byte()
    if reader.integer_bytes not in _SIZES or reader.offset_bytes not in _SIZES:
        raise reader.invalid(
            f"has integers of {reader.integer_bytes} and offsets of {reader.offset_bytes} bytes"
        )
    if reader.byte() != _CUSTOM_FORMAT:
        raise reader.invalid("has not the custom format", "Make one with `pg_dump -Fc`.")
    if version >= (1, 15):
        reader.byte()  # the compression's algorithm
    else:
        reader.integer()  # the compression's level
    for _ in range(_DATE_FIELDS):
        reader.integer()
    return reader.text() or "", reader.text() or "", reader.text() or ""


def _read_entries(reader: _Reader, version: tuple[int, int, int]) -> tuple[Entry, ...]:
    count = reader.integer()
    if count < 0:
        raise reader.invalid(f"has {count} entries")
    entries: dict[int, Entry] = {}
    for _ in range(count):  # whatever the count, the end of the bytes ends this
        entry = _read_entry(reader, has_relkind=version >= (1, 16))
        if entry.dump_id in entries:
            raise reader.invalid(f"has two entries with the number {entry.dump_id}")
        entries[entry.dump_id] = entry
    return tuple(entries.values())


def _read_entry(reader: _Reader, *, has_relkind: bool) -> Entry:
    dump_id = reader.integer()
    if dump_id <= 0:
        raise reader.invalid(f"has an entry with the number {dump_id}")
    reader.integer()  # whether data belong to the entry
    table_oid, oid = reader.number(), reader.number()
    tag, kind = reader.text() or "", reader.text() or ""
    section = _SECTIONS.get(reader.integer())
    if section is None:
        raise reader.invalid(f"has entry {dump_id} in an unknown section")
    definition, drop = reader.text() or "", reader.text() or ""
    reader.text()  # the COPY statement
    namespace = reader.text() or ""
    reader.text()  # the tablespace
    table_access_method = reader.text() or ""
    relkind = _read_relkind(reader) if has_relkind else ""
    owner = reader.text() or ""
    reader.text()  # WITH OIDS, which ended with PostgreSQL 12
    dependencies = _read_dependencies(reader)
    reader.take(1 + reader.offset_bytes)  # where the data are
    return Entry(
        dump_id=dump_id,
        table_oid=table_oid,
        oid=oid,
        tag=tag,
        kind=kind,
        section=section,
        definition=definition,
        drop=drop,
        namespace=namespace,
        owner=owner,
        table_access_method=table_access_method,
        relkind=relkind,
        dependencies=dependencies,
    )


def _read_relkind(reader: _Reader) -> str:
    code = reader.integer()
    if not 0 <= code < 128:
        raise reader.invalid(f"has the unknown relkind {code}")
    return chr(code) if code else ""


def _read_dependencies(reader: _Reader) -> tuple[int, ...]:
    numbers = []
    while (text := reader.text()) is not None:
        numbers.append(reader.as_number(text))
    return tuple(numbers)


def _list_line(entry: Entry) -> str:
    line = (
        f"{entry.dump_id}; {entry.table_oid} {entry.oid} "
        f"{entry.kind} {entry.namespace or '-'} {entry.tag} {entry.owner}"
    )
    return _on_one_line(line) + "\n"


def _on_one_line(text: str) -> str:
    """Without line breaks, as pg_restore prints names, and without what UTF-8 cannot hold."""
    line = text.replace("\n", " ").replace("\r", " ")
    return line.encode("utf-8", "replace").decode("utf-8")


# --- choosing -------------------------------------------------------------------------------

_TABLES = frozenset({"TABLE", "FOREIGN TABLE"})
_RELATIONS = _TABLES | {"VIEW", "MATERIALIZED VIEW"}
_OWNERS = _RELATIONS | {"DOMAIN"}
_BY_INDEX = frozenset({"INDEX", "CONSTRAINT"})
_ABOUT = frozenset({"COMMENT", "ACL", "SECURITY LABEL"})
_ATTACHING = frozenset({"TABLE ATTACH", "INDEX ATTACH"})
_ATTACHED = _BY_INDEX | {
    "DEFAULT",
    "CHECK CONSTRAINT",
    "TRIGGER",
    "RULE",
    "POLICY",
    "ROW SECURITY",
    "STATISTICS",
    "SEQUENCE",  # depends on a table only when a column owns it: serial or identity
}


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
            if entry.kind in _ATTACHED and (owner := _owner(entry, self.by_id))
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
        if entry.kind in _ABOUT:
            return self.is_about(entry, selected) or self._is_about_public(entry, selected)
        if entry.kind in _ATTACHING:
            return all(table.dump_id in selected for table in _possible_owners(entry, self.by_id))
        if entry.kind == "SEQUENCE OWNED BY":
            return any(number in selected for number in self._needs[entry.dump_id])
        return self._owner_ids.get(entry.dump_id) in selected

    def is_about(self, entry: Entry, selected: set[int]) -> bool:
        """Whether a comment, label or privilege is that of a selected entry.

        A column's privileges depend on the table's privileges too, which says nothing.
        """
        return entry.kind in _ABOUT and any(
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


# --- comparing ------------------------------------------------------------------------------

_SETTINGS = frozenset({"ENCODING", "STDSTRINGS", "SEARCHPATH"})
_PRIVILEGES = frozenset({"ACL", "DEFAULT ACL"})
_OWNED_WITH_ANOTHER = (
    (_ATTACHED - {"SEQUENCE", "STATISTICS"})
    | _ABOUT
    | _ATTACHING
    | _SETTINGS
    | {"FK CONSTRAINT", "SEQUENCE OWNED BY", "PUBLICATION TABLE", "DEFAULT ACL"}
)

_Name = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is compared of one entry. Emptied where it shall not count."""

    definition: str
    table_access_method: str
    relkind: str
    owner: str

    def differences(self, other: _Facts) -> Iterator[What]:
        if self.shape != other.shape:
            yield "definition differs"
        if self.owner != other.owner:
            yield "owner differs"

    @property
    def shape(self) -> tuple[str, str, str]:
        return self.definition, self.table_access_method, self.relkind


@dataclass(frozen=True, slots=True)
class _Comparison:
    owners: bool
    privileges: bool
    has_relkind: bool

    def facts(self, entries: Iterable[Entry]) -> defaultdict[_Name, Counter[_Facts]]:
        facts: defaultdict[_Name, Counter[_Facts]] = defaultdict(Counter)
        for entry in entries:
            if not _is_about_database(entry) and (self.privileges or entry.kind not in _PRIVILEGES):
                facts[entry.kind, entry.namespace, entry.tag][self._facts_of(entry)] += 1
        return facts

    def _facts_of(self, entry: Entry) -> _Facts:
        has_owner = self.owners and entry.kind not in _OWNED_WITH_ANOTHER
        return _Facts(
            definition=entry.definition,
            table_access_method=entry.table_access_method,
            relkind=entry.relkind if self.has_relkind else "",
            owner=entry.owner if has_owner else "",
        )

    def differences(self, before: Counter[_Facts], after: Counter[_Facts]) -> Iterator[What]:
        """Of entries with one name: equal ones cancel out, the rest are compared in pairs."""
        lost = sorted((before - after).elements(), key=lambda facts: (facts.shape, facts.owner))
        new = sorted((after - before).elements(), key=lambda facts: (facts.shape, facts.owner))
        for old, other in zip(lost, new, strict=False):
            yield from old.differences(other)
        for _ in lost[len(new) :]:
            yield "missing in the target"
        for _ in new[len(lost) :]:
            yield "not in the source"


def _is_within(entry: Entry, only: Selection | None) -> bool:
    return only is None or entry.dump_id in only.entries or entry.kind in _SETTINGS


def _is_about_database(entry: Entry) -> bool:
    """pg_restore makes these only with --create, and their names are the database's."""
    return entry.kind in {"DATABASE", "DATABASE PROPERTIES"} or (
        entry.kind in _ABOUT and entry.tag.startswith("DATABASE ")
    )
