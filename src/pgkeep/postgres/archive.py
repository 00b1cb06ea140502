"""The table of contents of a custom-format archive, as `pg_dump -Fc --schema-only` writes it.

pgkeep never edits SQL: it reads what an archive holds, chooses entries, and lets pg_restore
write the statements. Here is the reading, of bytes that are already in memory; `selection`
chooses, `differences` compares.

The layout is that of `ReadHead` and `ReadToc` in PostgreSQL's pg_backup_archiver.c. Versions:
1.14 (PostgreSQL 14 and 15), 1.15 (16: one byte names the compression), 1.16 (17 and 18: relkind).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from pgkeep.errors import ManifestInvalid

_MAGIC = b"PGDMP"
_CUSTOM_FORMAT = 1
_OLDEST, _NEWEST = (1, 14), (1, 16)
_KNOWN_VERSIONS = "Archive versions 1.14 to 1.16 are known, those of pg_dump 14 to 18."
_DATE_FIELDS = 7
_SIZES = range(1, 9)
_NUMBER = re.compile(r"[0-9]{1,10}")

# Kinds of entries.
BY_INDEX = frozenset({"INDEX", "CONSTRAINT"})
ABOUT = frozenset({"COMMENT", "ACL", "SECURITY LABEL"})
ATTACHING = frozenset({"TABLE ATTACH", "INDEX ATTACH"})
ATTACHED = BY_INDEX | {
    "DEFAULT",
    "CHECK CONSTRAINT",
    "TRIGGER",
    "RULE",
    "POLICY",
    "ROW SECURITY",
    "STATISTICS",
    "SEQUENCE",  # depends on a table only when a column owns it: serial or identity
}


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
    return on_one_line(line) + "\n"


def on_one_line(text: str) -> str:
    """Without line breaks, as pg_restore prints names, and without what UTF-8 cannot hold."""
    line = text.replace("\n", " ").replace("\r", " ")
    return line.encode("utf-8", "replace").decode("utf-8")
