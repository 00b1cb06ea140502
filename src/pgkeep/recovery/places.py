"""Which kind of place a target is: decided by looking at it."""

from __future__ import annotations

from pgkeep.model import Hosting
from pgkeep.platforms import supabase
from pgkeep.postgres.archive import Archive, read_archive
from pgkeep.postgres.dumping import dump_schema
from pgkeep.postgres.programs import Programs
from pgkeep.postgres.session import Connection
from pgkeep.recovery.landing import Landing
from pgkeep.recovery.leaving import Leaving
from pgkeep.recovery.plan import Scope
from pgkeep.recovery.project import Project
from pgkeep.recovery.request import RestoreRequest


def find_landing(
    connection: Connection,
    programs: Programs,
    request: RestoreRequest,
    scope: Scope,
    archive: Archive | None,
) -> Landing:
    """A project of a platform's, a server without the platform that the source had, or any other.

    Chosen tables go into a database that is in use: there nothing is special.
    """
    if scope.tables or scope.into_schema is not None:
        return Landing()
    source = request.contents.hosting
    there = supabase.look(connection)
    if there is not None:
        is_there = read_archive(dump_schema(programs, request.target)) if scope.schema else None
        return Project(connection, source or _of_no_platform(there), there, archive, is_there)
    if source is not None and scope.schema:
        return Leaving(source, archive, scope.without_extensions)
    return Landing()


def _of_no_platform(there: Hosting) -> Hosting:
    """A source that no platform hosts: all of it is the user's."""
    return Hosting(platform=there.platform, roles=(), schemas=())
