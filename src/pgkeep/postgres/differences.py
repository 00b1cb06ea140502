"""Comparing what two archives describe."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pgkeep.postgres.archive import ABOUT, ATTACHED, ATTACHING, Archive, Entry, on_one_line
from pgkeep.postgres.selection import Selection

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
        return on_one_line(f"{self.kind} {name}: {self.what}")


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


_SETTINGS = frozenset({"ENCODING", "STDSTRINGS", "SEARCHPATH"})
_PRIVILEGES = frozenset({"ACL", "DEFAULT ACL"})
_OWNED_WITH_ANOTHER = (
    (ATTACHED - {"SEQUENCE", "STATISTICS"})
    | ABOUT
    | ATTACHING
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
        entry.kind in ABOUT and entry.tag.startswith("DATABASE ")
    )
