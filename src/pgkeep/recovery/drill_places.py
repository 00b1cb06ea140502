"""Where drills are made: on a scratch server, or on one of the user's, where nothing may be left.

On the user's server a database is made, and with it the roles that the server lacks. Both carry a
comment that says whose they are. A drill that was killed cannot take them away: the next one does,
once the lock that a living drill holds is free.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from pgkeep.errors import PgkeepError, ProgramMissing
from pgkeep.events import Noticed, Reporter, Silent
from pgkeep.model import Contents, quote_identifier
from pgkeep.postgres import catalog
from pgkeep.postgres.address import Address
from pgkeep.postgres.identity import server_version
from pgkeep.postgres.programs import Programs, choose_server, find_programs
from pgkeep.postgres.server import ScratchServer
from pgkeep.postgres.session import Connection, connect, translated
from pgkeep.postgres.statements import literal
from pgkeep.recovery.target import MARK, create_roles, missing_roles
from pgkeep.recovery.whole_databases import create_database, drop

_MARK = "pgkeep: of the drill "
_PREFIX = "pgkeep_drill_"

# Locks of the server's: of whoever needs roles that drills have made, and to make some.
_NEEDED, _MADE = (int.from_bytes(name) for name in (b"pgkneeds", b"pgkmakes"))


@dataclass(frozen=True, slots=True)
class Place:
    """An empty database like the source's, and what server it is on."""

    address: Address
    server: str
    another: Callable[[], AbstractContextManager[Address]]
    """An empty database on the same server, to try something where it does no harm."""
    refused_roles: tuple[tuple[str, str], ...] = ()
    """Roles that the server lacks and that cannot be made there, with the reason."""


@contextmanager
def drill_place(
    contents: Contents, server: Address | None, bin_dirs: Sequence[Path], reporter: Reporter
) -> Iterator[Place]:
    """A database to restore into; it, and all that was made for it, is gone when the block ends."""
    if server is None:
        programs = _programs(contents, bin_dirs)
        with ScratchServer.start(programs) as scratch:
            address = Address.parse(scratch.url())
            with _guest(address, contents, reporter) as guest:
                label = f"PostgreSQL {programs.version}, scratch"
                yield Place(guest.address, label, guest.another)
        return
    with _guest(server, contents, reporter) as guest:
        label = f"PostgreSQL {guest.version} at {server}"
        refused = guest.make_roles()
        yield Place(guest.address, label, guest.another, refused)


def _programs(contents: Contents, bin_dirs: Sequence[Path]) -> Programs:
    """Of the source's major version, or a newer one: an older server cannot have it all."""
    major = int(contents.point.server_version.split(".")[0].split(" ")[0])
    try:
        return choose_server(major, tuple(bin_dirs))
    except ProgramMissing:
        newer = [one for one in find_programs(tuple(bin_dirs)) if one.has_server]
        majors = sorted(one.major for one in newer if one.major > major)
        if not majors:
            raise
        return choose_server(majors[0], tuple(bin_dirs))


@contextmanager
def _guest(server: Address, contents: Contents, reporter: Reporter) -> Iterator[_Guest]:
    """A drill's own database on a server, while the block runs."""
    with closing(connect(server)) as connection, translated(server):
        _take_away_what_is_left(connection, server, reporter)
        with _Guest(connection, server, contents, reporter) as guest:
            yield guest


@dataclass(slots=True)
class _Guest:
    """What a drill makes on a server. Its connection is open as long as it lives, with a lock."""

    connection: Connection
    server: Address
    contents: Contents
    reporter: Reporter
    name: str = field(default_factory=lambda: f"{_PREFIX}{secrets.token_hex(6)}")
    _needs_roles: bool = False

    @property
    def address(self) -> Address:
        return self.server.with_database(self.name)

    @property
    def version(self) -> str:
        return server_version(self.connection)

    def __enter__(self) -> _Guest:
        """Make the database, the lock first."""
        self.connection.execute("SELECT pg_catalog.pg_advisory_lock(%s)", (_lock(self.name),))
        if lacking := create_database(self.connection, self.name, self.contents.database):
            self.reporter.report(Noticed(f"{lacking}: texts are compared all the same"))
        comment = literal(f"{_MARK}{self.name}")
        self.connection.execute(f"COMMENT ON DATABASE {self.name} IS {comment}".encode())
        return self

    @contextmanager
    def another(self) -> Iterator[Address]:
        """One more empty database, while the block runs."""
        with _Guest(self.connection, self.server, self.contents, Silent()) as guest:
            yield guest.address

    def make_roles(self) -> tuple[tuple[str, str], ...]:
        """Make the roles that are missing; those that cannot be made, with the reason.

        Drills that are under way share roles, and only the last one takes them away.
        """
        self._needs_roles = True
        self.connection.execute("SELECT pg_catalog.pg_advisory_lock_shared(%s)", (_NEEDED,))
        with self.connection.transaction():
            self.connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", (_MADE,))
            missing = missing_roles(self.connection, self.contents)
            if not missing or not self._make(missing):
                return ()
            refusals = [(name, self._make([name])) for name in missing]
        return tuple((name, reason) for name, reason in refusals if reason)

    def _make(self, names: Sequence[str]) -> str:
        """Make them, or say why that cannot be."""
        try:
            with self.connection.transaction():
                create_roles(self.connection, self.contents, names)
                for name in names:
                    comment = literal(f"{_MARK}{self.name}")
                    role = quote_identifier(name)
                    self.connection.execute(f"COMMENT ON ROLE {role} IS {comment}".encode())
        except psycopg.Error as exc:
            return (exc.diag.message_primary or str(exc)).splitlines()[0]
        return ""

    def __exit__(self, _: object, problem: BaseException | None, __: object) -> None:
        """Take all away again. The lock's connection may be gone: that needs a new one.

        A server that went down before cannot do it: what is told is why it went.
        """
        with (
            suppress(PgkeepError) if problem else nullcontext(),
            closing(connect(self.server)) as connection,
            translated(self.server),
        ):
            drop(connection, self.name)
            if self._needs_roles:
                with suppress(psycopg.Error):  # it is gone, and its locks with it
                    self.connection.execute("SELECT pg_catalog.pg_advisory_unlock_all()")
                _take_away_roles(connection, self.reporter)


def _lock(name: str) -> int:
    return int(name.removeprefix(_PREFIX), 16)


def _take_away_what_is_left(connection: Connection, server: Address, reporter: Reporter) -> None:
    """What drills that were killed could not take away themselves."""
    for drill, is_marked in _databases_of_drills(connection).items():
        if not _is_over(connection, drill):
            continue
        if not is_marked and not _is_empty(server.with_database(drill)):
            continue
        with suppress(psycopg.errors.InsufficientPrivilege):  # another role's
            drop(connection, drill)
            reporter.report(Noticed(f"took away the database {drill} of a drill that was killed"))
    _take_away_roles(connection, reporter)


def _take_away_roles(connection: Connection, reporter: Reporter) -> None:
    """Those of drills that are over, if none is under way. One that somebody uses stays."""
    row = connection.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", (_NEEDED,)).fetchone()
    if not row or not row[0]:
        return
    for name, drill in _roles_of_drills(connection).items():
        if not _is_over(connection, drill):
            continue
        try:
            connection.execute(f"DROP ROLE {quote_identifier(name)}".encode())
        except psycopg.Error as exc:
            reason = (exc.diag.message_primary or str(exc)).splitlines()[0]
            reporter.report(Noticed(f"the role {name}, made for the drill, stays: {reason}"))
    connection.execute("SELECT pg_catalog.pg_advisory_unlock(%s)", (_NEEDED,))


def _databases_of_drills(connection: Connection) -> dict[str, bool]:
    """By their name, and whether they have our comment, for which a restore puts another of ours
    meanwhile. Who was killed as it made one had no time to put it there."""
    rows = connection.execute(
        "SELECT datname::text, said IS NOT NULL FROM pg_catalog.pg_database d,"
        " pg_catalog.shobj_description(d.oid, 'pg_database') said"
        " WHERE datname ~ %s AND COALESCE(said SIMILAR TO %s, true)",
        (f"^{_PREFIX}[0-9a-f]{{12}}$", f"({_MARK}|{MARK})%"),
    ).fetchall()
    return dict(rows)


def _is_empty(address: Address) -> bool:
    """Whether nobody can miss a database; not of one that cannot be looked into."""
    try:
        with closing(connect(address)) as connection, translated(address):
            return not catalog.occupants(connection)
    except PgkeepError:
        return False


def _roles_of_drills(connection: Connection) -> dict[str, str]:
    """By our comment, which has the drill's name; the last one made first."""
    rows = connection.execute(
        "SELECT rolname::text, pg_catalog.substring(said, %s) FROM pg_catalog.pg_roles r,"
        " pg_catalog.shobj_description(r.oid, 'pg_authid') said WHERE said ~ %s"
        " ORDER BY r.oid DESC",
        (f"{_PREFIX}[0-9a-f]{{12}}$", f"^{_MARK}{_PREFIX}[0-9a-f]{{12}}$"),
    ).fetchall()
    return dict(rows)


def _is_over(connection: Connection, drill: str) -> bool:
    """Whether the drill's lock is free, and nobody is in its database."""
    row = connection.execute(
        "SELECT CASE WHEN pg_catalog.pg_try_advisory_lock(%s)"
        " THEN pg_catalog.pg_advisory_unlock(%s) AND NOT EXISTS"
        " (SELECT FROM pg_catalog.pg_stat_activity WHERE datname = %s) ELSE false END",
        (_lock(drill), _lock(drill), drill),
    ).fetchone()
    return bool(row and row[0])
