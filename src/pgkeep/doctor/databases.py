"""Looking at a database, with one login, and what of it endangers backups. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from pgkeep.capture.setup import tables_of_others, tables_without_identity
from pgkeep.doctor.traffic import Traffic, traffic_findings
from pgkeep.errors import AuthenticationFailed, ConnectionFailed, PgkeepError, UnknownHost
from pgkeep.findings import Finding, Severity
from pgkeep.model import Hosting, TableName
from pgkeep.platforms import supabase
from pgkeep.platforms.addresses import ProjectAddress, Way, recognise
from pgkeep.platforms.file_rows import file_rows
from pgkeep.postgres import catalog
from pgkeep.postgres.address import Address
from pgkeep.postgres.probe import Probe, probe
from pgkeep.postgres.reachability import Reached, reach
from pgkeep.postgres.session import Connection, connect, translated
from pgkeep.postgres.trust import SUPABASE_ROOTS

_SHOWN = 5
_FEW_WAL_BYTES = 1 << 30
_POOLER_REMEDY = (
    "Take the session pooler's connection string (port 5432) from the project's Connect dialog."
)


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What was learned of one configured database."""

    name: str
    jobs: int
    """Connections that a backup would open, its own two apart."""
    captures: bool
    """Whether changes are meant to be captured."""
    address: Address | None = None
    project: ProjectAddress | None = None
    reached: Reached | None = None
    """Only where connecting failed."""
    problem: PgkeepError | None = None
    probe: Probe | None = None
    hosting: Hosting | None = None
    closed: tuple[TableName, ...] = ()
    """Tables that this role may not read."""
    hidden: tuple[TableName, ...] = ()
    """Tables of which row-level security would hide rows."""
    without_identity: tuple[TableName, ...] = ()
    of_others: tuple[TableName, ...] = ()
    """Tables that other roles own: capture may not publish their updates and deletes."""
    extensions: tuple[str, ...] = ()
    traffic: Traffic | None = None
    """Of a hosted database."""

    @property
    def about(self) -> str:
        return f"database {self.name}"


def look_at_database(
    name: str, address: Address, *, jobs: int, captures: bool, reads_a_month: int = 30
) -> DatabaseFacts:
    """One login at most: a platform may ban who tries twice with a wrong password."""
    project = recognise(address)
    facts = DatabaseFacts(name, jobs, captures, address, project)
    if project is not None and project.way is Way.TRANSACTION_POOLER:
        return facts
    try:
        with closing(connect(address)) as connection, translated(address):
            return _asked(facts, connection, reads_a_month)
    except PgkeepError as exc:
        reached = None
        is_refused = isinstance(exc, AuthenticationFailed)
        if isinstance(exc, ConnectionFailed | UnknownHost) and not is_refused:
            reached = reach(address.host.split(",")[0], address.port.split(",")[0])
        return replace(facts, problem=exc, reached=reached)


def _asked(facts: DatabaseFacts, connection: Connection, reads: int) -> DatabaseFacts:
    hosting = supabase.look(connection)
    found = catalog.relations(connection)
    kept = found
    if hosting is not None:
        users = supabase.users_tables(connection, hosting)
        kept = supabase.keep_of(hosting, found, users).relations
    tables = [one for one in kept if one.holds_rows]
    lacking = tables_without_identity(connection)
    of_others = tables_of_others(connection)
    managed = hosting.schemas if hosting else ()
    with_rows = {one.name for one in tables}
    return replace(
        facts,
        probe=probe(connection),
        hosting=hosting,
        closed=tuple(one.name for one in tables if not one.readable),
        hidden=tuple(one.name for one in tables if one.readable and one.rows_hidden),
        without_identity=tuple(
            one for one in lacking if one.schema not in managed and one not in of_others
        ),
        of_others=tuple(one for one in of_others if one in with_rows),
        extensions=tuple(catalog.extension_names(connection)),
        traffic=_traffic(connection, kept, reads) if hosting else None,
    )


def _traffic(connection: Connection, tables: Iterable[catalog.Relation], reads: int) -> Traffic:
    """The tables that would be read, and the files beside them."""
    rows = file_rows(connection)
    return Traffic(
        database_bytes=sum(one.table_bytes for one in tables if one.holds_rows),
        files=len(rows),
        files_bytes=sum(max(one.size_bytes, 0) for one in rows),
        reads_a_month=reads,
    )


# --- judging ----------------------------------------------------------------------------------


def database_findings(facts: DatabaseFacts) -> Iterator[Finding]:
    """What is wrong, with its remedy. Pure."""
    yield from _of_the_address(facts)
    if facts.problem is not None:
        yield from _of_the_problem(facts, facts.problem)
    if facts.probe is not None:
        yield from _of_the_tables(facts)
        yield from _of_the_rights(facts, facts.probe)
        yield from _of_the_room(facts, facts.probe)
    if facts.traffic is not None:
        yield from traffic_findings(facts.about, facts.traffic)


def _of_the_address(facts: DatabaseFacts) -> Iterator[Finding]:
    project, address = facts.project, facts.address
    if project is None or address is None:
        return
    if project.way is Way.TRANSACTION_POOLER:
        yield Finding(
            Severity.ERROR, facts.about,
            f"port {address.port} of {address.host} is the transaction pooler, which cannot hold a"
            " snapshot", _POOLER_REMEDY,
        )  # fmt: skip
    elif project.way is Way.SESSION_POOLER and not project.project:
        yield Finding(
            Severity.ERROR, facts.about,
            f"user {address.user!r} does not name the project, which the pooler needs",
            "The user is postgres.PROJECT: take the string from the project's Connect dialog.",
        )  # fmt: skip
    roots = address.parameters.get("sslrootcert")
    if address.is_verified and roots != str(SUPABASE_ROOTS):
        yield Finding(
            Severity.NOTE, facts.about,
            f"its certificates are checked against {roots or 'roots of your own'}",
            "Leave sslrootcert out for the two roots of Supabase that come with pgkeep.",
        )  # fmt: skip


def _of_the_problem(facts: DatabaseFacts, problem: PgkeepError) -> Iterator[Finding]:
    remedy, reached = problem.hint, facts.reached
    if isinstance(problem, AuthenticationFailed):
        remedy = f"{problem.hint} After a password was reset a pooler may need minutes to take it."
    elif reached is not None and reached.known:
        only_6 = reached.has_ipv6 and not reached.has_ipv4
        if only_6 and not reached.answers:
            remedy = (
                "The host has only an IPv6 address, and this machine does not reach it. "
                + _POOLER_REMEDY
            )
        elif reached.refused and facts.project is not None:
            remedy = (
                "It refuses the connection: a paused project, or this address is banned for half an"
                " hour after two wrong passwords (Dashboard: Settings, Database, Network bans)."
            )
    yield Finding(Severity.ERROR, facts.about, problem.message, remedy)


def _of_the_tables(facts: DatabaseFacts) -> Iterator[Finding]:
    if facts.closed:
        yield Finding(
            Severity.ERROR, facts.about, f"this role may not read {_named(facts.closed)}",
            "GRANT pg_read_all_data TO the role, or SELECT on the tables.",
        )  # fmt: skip
    if facts.hidden:
        yield Finding(
            Severity.ERROR, facts.about,
            f"row-level security hides rows from this role in {_named(facts.hidden)}",
            "ALTER ROLE ... BYPASSRLS, or back up as the tables' owner.",
        )  # fmt: skip
    if facts.without_identity and facts.captures:
        yield Finding(
            Severity.WARNING, facts.about,
            f"updates and deletes of {_named(facts.without_identity)} are only in backups: no"
            " primary key",
            "Add a primary key, or ALTER TABLE ... REPLICA IDENTITY FULL.",
        )  # fmt: skip
    if facts.of_others and facts.captures:
        yield Finding(
            Severity.WARNING, facts.about,
            f"updates and deletes of {_named(facts.of_others)} are only in backups: other roles"
            " own them",
            'GRANT the owner to this role, or set capture.plugin to "test_decoding".',
        )  # fmt: skip
    if facts.extensions:
        yield Finding(
            Severity.NOTE, facts.about,
            f"a target needs the extensions {', '.join(facts.extensions)}",
            "A drill proves what a server without them can have, and names the rest: set"
            " drills.server to one that has them for a whole drill.",
        )  # fmt: skip


def _of_the_rights(facts: DatabaseFacts, found: Probe) -> Iterator[Finding]:
    rights = found.rights
    if not rights.reads_control:
        yield Finding(
            Severity.WARNING, facts.about,
            "this role may not call pg_control_system(), so every backup reads everything",
            "GRANT EXECUTE ON FUNCTION pg_control_system(), pg_walfile_name(pg_lsn) TO the role.",
        )  # fmt: skip
    if facts.captures and not (rights.superuser or rights.replication):
        yield Finding(
            Severity.WARNING, facts.about, f"role {rights.role!r} has not REPLICATION, so changes"
            " cannot be captured", f"ALTER ROLE {rights.role} REPLICATION, or capture = false.",
        )  # fmt: skip
    elif facts.captures and not rights.superuser and facts.hosting is None:
        yield Finding(
            Severity.NOTE, facts.about,
            f"role {rights.role!r} is no superuser: unless it may make event triggers all the same,"
            " changes are captured without, and a gap is left where a table is altered",
            "pgkeep capture DATABASE --dry-run tries it, and says which way it will be.",
        )  # fmt: skip
    if facts.hosting is not None and not rights.reads_all:
        yield Finding(
            Severity.WARNING, facts.about, f"role {rights.role!r} is no member of pg_read_all_data:"
            " some tables of the platform may not be readable",
            "Upgrade the project (newer ones have it), or back up as postgres.",
        )  # fmt: skip
    if facts.address is not None and not facts.address.is_local and not found.tls:
        yield Finding(
            Severity.WARNING, facts.about, "the connection is not encrypted",
            "Take sslmode out of its URL.",
        )  # fmt: skip


def _of_the_room(facts: DatabaseFacts, found: Probe) -> Iterator[Finding]:
    room, rights = found.room, found.rights
    needed = facts.jobs + 2
    limit = room.connections if rights.connection_limit < 0 else rights.connection_limit
    free = limit - (room.connections_used if rights.connection_limit < 0 else 0)
    if needed > free:
        yield Finding(
            Severity.WARNING, facts.about,
            f"a backup opens {needed} connections, and {max(free, 0)} of {limit} are free",
            f"Set jobs = {max(free - 2, 1)} for it, or raise the limit.",
        )  # fmt: skip
    if room.statement_timeout_ms:
        yield Finding(
            Severity.NOTE, facts.about,
            f"statement_timeout is {room.statement_timeout_ms / 1000:g} s; pgkeep sets it to 0 for"
            " its own sessions",
        )  # fmt: skip
    if room.access_method != "heap":
        yield Finding(
            Severity.WARNING, facts.about,
            f"tables are made by the access method {room.access_method!r}: such tables are read"
            " whole each time, and capture was not tried with them",
            "Make tables USING heap where that matters.",
        )  # fmt: skip
    if facts.captures:
        yield from _of_the_slots(facts, found)


def _of_the_slots(facts: DatabaseFacts, found: Probe) -> Iterator[Finding]:
    room = found.room
    if not room.logical:
        yield Finding(
            Severity.WARNING, facts.about,
            "wal_level is not logical, so changes cannot be captured",
            "Set wal_level = logical (a restart), or capture = false.",
        )  # fmt: skip
    if room.slots_used >= room.slots:
        yield Finding(
            Severity.WARNING, facts.about,
            f"all {room.slots} replication slots are taken",
            "Raise max_replication_slots, or drop one that nobody reads, if none is pgkeep's.",
        )  # fmt: skip
    if room.slot_wal_bytes is None:
        yield Finding(
            Severity.NOTE, facts.about,
            "max_slot_wal_keep_size has no limit: pgkeep drops its slot itself at"
            " capture.slot_limit",
        )  # fmt: skip
    elif room.slot_wal_bytes < _FEW_WAL_BYTES:
        size = room.slot_wal_bytes >> 20
        yield Finding(
            Severity.WARNING, facts.about,
            f"max_slot_wal_keep_size is {size} MB: a short pause of capture loses the slot",
            "Raise it to 4 GB or so, if the disk has room.",
        )  # fmt: skip


def _named(names: tuple[TableName, ...]) -> str:
    shown = ", ".join(map(str, names[:_SHOWN]))
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
