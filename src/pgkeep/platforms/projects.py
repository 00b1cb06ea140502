"""Which project of Supabase something belongs to, told by its host or its user.

A copy in the storage of the very project that is backed up is lost with it: the list of stored
objects is a table in that project's database.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_STORAGE = re.compile(r"([a-z0-9]+)(?:\.storage)?\.supabase\.(?:co|in|net|red)")
_DIRECT = re.compile(r"db\.([a-z0-9]+)\.supabase\.(?:co|in|net|red)")
_POOLER = re.compile(r".+\.pooler\.supabase\.(?:com|co)")
_POOLER_USER = re.compile(r"[^.]+\.([a-z0-9]+)")


@dataclass(frozen=True, slots=True)
class SameProject:
    """A repository in the project of a database that it keeps backups of."""

    repository: str
    database: str
    project: str

    @property
    def what(self) -> str:
        """In words, of the repository."""
        return (
            f"it lies in the Supabase project {self.project!r}, the very one of database"
            f" {self.database!r}: who loses that project loses this copy too"
        )

    @property
    def remedy(self) -> str:
        return "Keep it in another project, best of another account, or at another provider."


def project_of_storage(endpoint: str | None) -> str | None:
    """The project whose storage answers at an endpoint of S3, if it is Supabase's."""
    found = _STORAGE.fullmatch((urlsplit(endpoint or "").hostname or "").lower())
    return found[1] if found else None


def project_of_database(host: str, user: str) -> str | None:
    """The project that a database belongs to: by its own host, or by a pooler's user."""
    host = host.lower()
    if found := _DIRECT.fullmatch(host):
        return found[1]
    if _POOLER.fullmatch(host) and (found := _POOLER_USER.fullmatch(user)):
        return found[1]
    return None


def same_projects(
    endpoints: Mapping[str, str | None], databases: Mapping[str, tuple[str, str]]
) -> Iterator[SameProject]:
    """Each repository (name to endpoint) that lies in a database's (name to host, user) project."""
    for repository, endpoint in endpoints.items():
        project = project_of_storage(endpoint)
        for database, (host, user) in databases.items():
            if project is not None and project == project_of_database(host, user):
                yield SameProject(repository, database, project)
