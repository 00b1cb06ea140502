"""Which definitions of a hosted database are the user's, to be made in another project. Pure.

Everything outside of the platform's schemas is. Within them it is what users add: triggers,
policies, and what belongs to a role of theirs. What the other project has already is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgkeep.model import Hosting
from pgkeep.platforms.supabase import PGMQ, queue_tables
from pgkeep.postgres.archive import Archive, Entry, schema_in_tag
from pgkeep.postgres.selection import Selection, leave_out_extensions

_ABOUT = frozenset({"COMMENT", "ACL", "SECURITY LABEL"})
_PLATFORMS_PUBLICATIONS = ("supabase_realtime_messages", "realtime_messages")
_WITHOUT_SCHEMA_NEEDED = frozenset({"FOREIGN DATA WRAPPER", "SERVER", "USER MAPPING"})
# What an existing object may get on top of what it has.
_ADDED = frozenset({"ACL", "COMMENT", "SECURITY LABEL"})


@dataclass(frozen=True, slots=True)
class Choice:
    """Which entries to make (dump ids), and what differs in the target and stays so, in words."""

    make: frozenset[int]
    differs: tuple[str, ...]
    without_extension: tuple[Entry, ...]
    """What falls away with extensions that the target cannot have."""

    def selection(self, archive: Archive) -> Selection:
        """As the plan and the proof take it."""
        tables = frozenset(
            (entry.namespace, entry.tag)
            for entry in archive.entries
            if entry.kind == "TABLE" and entry.dump_id in self.make
        )
        return Selection(self.make, tables)


def choose_entries(
    archive: Archive, source: Hosting, there: Archive, missing: tuple[str, ...] = ()
) -> Choice:
    """The user's entries of an archive that another project has not yet.

    `missing` are extensions that it cannot have.
    """
    known: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in there.entries:
        known.setdefault((entry.kind, entry.namespace, entry.tag), []).append(entry)
    left = leave_out_extensions(archive, missing).entries if missing else None
    users = [entry for entry in archive.entries if _is_users(entry, source)]
    make, differs = [], []
    for entry in users:
        if left is not None and entry.dump_id not in left:
            continue
        same_name = known.get((entry.kind, entry.namespace, entry.tag), [])
        # The target's default privileges are taken back before anything is made.
        if not same_name or entry.kind == "DEFAULT ACL":
            make.append(entry.dump_id)
        elif any(other.definition == entry.definition for other in same_name):
            continue
        elif entry.kind in _ADDED:
            make.append(entry.dump_id)
        elif entry.kind != "SCHEMA":
            differs.append(f"{entry.kind.lower()} {entry.tag}")
    fallen = [one for one in users if left is not None and one.dump_id not in left]
    return Choice(
        frozenset(make),
        tuple(differs),
        tuple(one for one in fallen if one.kind not in _ABOUT and one.kind != "EXTENSION"),
    )


def extensions_of(archive: Archive) -> tuple[Entry, ...]:
    """The extensions of an archive."""
    return tuple(entry for entry in archive.entries if entry.kind == "EXTENSION")


def schemas_to_make(archive: Archive, source: Hosting, there: Archive) -> tuple[Entry, ...]:
    """The user's schemas that the target has not: extensions may want to go there."""
    known = {entry.tag for entry in there.entries if entry.kind == "SCHEMA"}
    return tuple(
        entry
        for entry in archive.entries
        if entry.kind == "SCHEMA" and entry.tag not in known and _is_users(entry, source)
    )


def changed_privileges(archive: Archive, there: Archive) -> Iterator[str]:
    """Schemas that both have, whose privileges differ: the target's must be taken away first."""
    theirs = {e.tag: e.definition for e in there.entries if e.kind == "ACL"}
    has = {entry.tag for entry in there.entries if entry.kind == "SCHEMA"} | {"public"}
    for entry in archive.entries:
        name = schema_in_tag(entry) if entry.kind == "ACL" else ""
        if name in has and theirs.get(entry.tag) != entry.definition:
            yield name


def _is_users(entry: Entry, source: Hosting) -> bool:
    if entry.kind in ("ENCODING", "STDSTRINGS", "SEARCHPATH"):
        return True
    if entry.kind == "EXTENSION" or _is_about(entry, "EXTENSION "):
        return False  # made by themselves, and commented by themselves
    if entry.kind == "SCHEMA":
        return entry.tag not in source.schemas
    if entry.kind in _ABOUT and (schema := schema_in_tag(entry)):
        return schema not in source.schemas
    if entry.kind == "DEFAULT ACL":
        return entry.owner not in source.roles
    if entry.namespace in source.schemas:
        return _is_users_within(entry, source)
    if not entry.namespace:
        return _is_users_alone(entry, source)
    return not _is_platforms_publication(entry)


def _is_about(entry: Entry, what: str) -> bool:
    return entry.kind in _ABOUT and entry.tag.startswith(what)


def _is_users_within(entry: Entry, source: Hosting) -> bool:
    """Of a managed schema."""
    triggers = {(one.table.schema, one.table.name, one.name) for one in source.triggers}
    if entry.kind == "TRIGGER":
        return entry.tag in {f"{table} {name}" for schema, table, name in triggers
                             if schema == entry.namespace}  # fmt: skip
    if _is_about(entry, "TRIGGER "):
        return any(name in entry.tag and schema == entry.namespace for schema, _, name in triggers)
    if entry.kind == "POLICY":
        return True
    if entry.kind == "PUBLICATION TABLE":
        return not _is_platforms_publication(entry)
    if entry.namespace == PGMQ and _is_of_a_queue(entry, source):
        return False  # pgmq.create makes them
    # Privileges are given anew by themselves, with who gave them.
    return entry.owner not in source.roles and entry.kind not in _ABOUT


def _is_of_a_queue(entry: Entry, source: Hosting) -> bool:
    first = entry.tag.replace('"', "").split(" ")[0]
    return any(first.startswith(name) for name in queue_tables(source))


def _is_users_alone(entry: Entry, source: Hosting) -> bool:
    """Of what stands in no schema: event triggers, publications, foreign data wrappers."""
    if _is_platforms_publication(entry):
        return False
    if entry.kind in _WITHOUT_SCHEMA_NEEDED:
        return True
    return entry.owner not in source.roles


def _is_platforms_publication(entry: Entry) -> bool:
    return entry.kind.startswith("PUBLICATION") and entry.tag.startswith(_PLATFORMS_PUBLICATIONS)
