"""Which definitions cannot be made without a role, however they are owned."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from pgkeep.model import quote_identifier
from pgkeep.postgres.archive import Archive, Entry

_ROLES_OF_A_POLICY = re.compile(r"\sTO (.*?)(?: USING \(| WITH CHECK \(|;)", re.DOTALL)


def in_need_of(archive: Archive, roles: Collection[str]) -> Iterator[Entry]:
    """Policies for one of the roles, and user mappings of it.

    Owners and grants are not among them: those are left out of all objects, or of none.
    """
    return (entry for entry in archive.entries if _needs(entry, roles))


def _needs(entry: Entry, roles: Collection[str]) -> bool:
    if entry.kind == "USER MAPPING":
        return any(entry.tag.startswith(f"USER MAPPING {role} SERVER ") for role in roles)
    if entry.kind != "POLICY" or not (found := _ROLES_OF_A_POLICY.search(entry.definition)):
        return False
    named = {name.strip() for name in found[1].split(",")}
    return any(role in named or quote_identifier(role) in named for role in roles)
