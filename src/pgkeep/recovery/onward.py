"""From a restored backup on to a moment: the session, the tables, the sequences, what lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from pgkeep.errors import ReplayFailed, TargetNotReady
from pgkeep.events import Noticed, Reporter, StageBegan, StageEnded, counted
from pgkeep.model import Contents, TableContents, TableName, quote_identifier
from pgkeep.postgres.address import Address
from pgkeep.postgres.ddl import OWN_SCHEMA, SchemaChange
from pgkeep.postgres.pgoutput import Relation
from pgkeep.postgres.replica_identity import HAS_IDENTITY
from pgkeep.postgres.session import BYTES_AS_THEY_ARE, Connection, connect, translated
from pgkeep.postgres.statements import set_sequence
from pgkeep.recovery import target
from pgkeep.recovery.apply import Writer
from pgkeep.recovery.journey import Journey
from pgkeep.recovery.refusing import RefusingChecks
from pgkeep.recovery.replay import STAGE, Replayed, Replayer, SequenceSamples, replay
from pgkeep.recovery.sequences import sequence_state
from pgkeep.recovery.survey import Transaction
from pgkeep.recovery.tables import TargetTable, describe_table

# What capture publishes no updates and deletes of.
_WITHOUT_IDENTITY: LiteralString = (
    "SELECT c.oid::int8, c.relpersistence = 'u'"
    "  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
    "   AND c.relpersistence <> 't'"
    "   AND (c.relpersistence = 'u' OR NOT " + HAS_IDENTITY + ")"
)

# Columns that were added to rows which take their value from a domain's default, worked out when
# the column was added: with the clock of the replay, if it is no constant.
_WORKED_OUT: LiteralString = """
    SELECT n.nspname, c.relname, a.attname
      FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typtype = 'd'
      JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE a.atthasmissing AND NOT a.atthasdef AND NOT a.attisdropped
       AND t.typdefaultbin::pg_catalog.text NOT LIKE '{CONST %'
     ORDER BY 1, 2, 3"""

# Generated columns that come of users' functions. Where only some tables are restored, a function
# stays as the backup has it.
_GENERATED_BY_FUNCTION: LiteralString = """
    SELECT DISTINCT n.nspname, c.relname, a.attname
      FROM pg_catalog.pg_attrdef f
      JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
       AND a.attgenerated <> ''
      JOIN pg_catalog.pg_class c ON c.oid = f.adrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
       AND d.objid = f.oid AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
     WHERE d.refobjid >= 16384
     ORDER BY 1, 2, 3"""

_NAMES: LiteralString = """
    SELECT c.oid::int8, n.nspname, c.relname
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = ANY (%s) ORDER BY 2, 3"""

_SETTINGS = (
    "TimeZone", "DateStyle", "IntervalStyle", "standard_conforming_strings", "search_path",
    "check_function_bodies",
)  # fmt: skip

_OF_EXTENSION: LiteralString = """
    SELECT EXISTS (SELECT FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
       AND d.objid = c.oid AND d.deptype = 'e'
     WHERE n.nspname = %s AND c.relname = %s)"""

_EXISTING: LiteralString = """
    SELECT n.nspname, c.relname FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind::pg_catalog.text = ANY (%s) AND n.nspname !~ '^pg_'"""


@dataclass(frozen=True, slots=True)
class NotExact:
    """Something that does not stand as it stood at the moment, and how it does."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What was replayed, and what is not as it was at the moment."""

    moment: str
    shortfall: str
    """Why the moment is not reached, where the last one before it had to do."""
    segments: int
    transactions: int
    changes: int
    schema_changes: int
    last: Transaction | None
    tables: frozenset[TableName]
    not_exact: tuple[NotExact, ...]


@dataclass(frozen=True, slots=True)
class Only:
    """Some tables by their names in the source, and what they are called here; their sequences."""

    tables: Mapping[TableName, TableName]
    oids: Mapping[int, TableName]
    """Which table of the source has which oid: a name may come to mean another one."""
    sequences: frozenset[TableName]

    def make_findable(self, connection: Connection, relation: Relation, table: TableName) -> None:
        """An index on what tells rows apart, where a table has come without any."""
        keys = [quote_identifier(one.name) for one in relation.columns if one.is_key]
        if table != relation.name and keys and relation.identity != "f":
            row = connection.execute(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_index WHERE indrelid = %s::regclass)",
                (table.sql,),
            ).fetchone()
            if row and not row[0]:
                connection.execute(f"CREATE INDEX ON {table.sql} ({', '.join(keys)})".encode())


def refuse_loud_target(connection: Connection) -> None:
    """`TargetNotReady` if the role cannot keep triggers quiet: they would act a second time."""
    if not target.quiet_settings(connection):
        raise TargetNotReady(
            "the role may not set session_replication_role, and triggers and cascades would act on"
            " what is replayed a second time",
            hint="GRANT SET ON PARAMETER session_replication_role TO the role, or use a superuser.",
        )


def go_on(
    address: Address,
    contents: Contents,
    journey: Journey,
    reporter: Reporter,
    *,
    owners: bool = True,
    only: Only | None = None,
    refusing: RefusingChecks,
) -> ReplayResult:
    """Replay on top of a backup that is whole in the target, or of some tables of it."""
    survey = journey.survey
    reporter.report(StageBegan(STAGE, total_rows=survey.changes))
    with quiet_session(address) as connection, translated(address):
        onward = Onward(connection, contents, reporter, owners=owners, only=only, refusing=refusing)
        with onward.triggers_off():
            done = onward.replay(journey)
        refusing.settle(connection)
        onward.set_sequences(done.sequences)
        not_exact = tuple(onward.not_exact(done.partly))
    summary = f"{counted(done.changes, 'change')} of {counted(done.transactions, 'transaction')}"
    reporter.report(StageEnded(STAGE, summary))
    return ReplayResult(
        str(journey.moment),
        journey.shortfall,
        len(journey.route.segments),
        done.transactions,
        done.changes,
        done.schema_changes,
        survey.last,
        done.tables,
        not_exact,
    )


@contextmanager
def quiet_session(address: Address) -> Iterator[Connection]:
    """A connection in which no trigger fires and no foreign key is checked."""
    with closing(connect(address)) as connection:
        with translated(address):
            settings = target.quiet_settings(connection)
            for statement in ("SET synchronous_commit = off", BYTES_AS_THEY_ARE, *settings):
                connection.execute(statement.encode())
        yield connection


class Onward:
    """The target's side of a replay."""

    def __init__(
        self,
        connection: Connection,
        contents: Contents,
        reporter: Reporter,
        *,
        owners: bool,
        only: Only | None = None,
        refusing: RefusingChecks,
    ) -> None:
        self._connection = connection
        self._only = only
        self._known = {table.name: table for table in contents.tables}
        self._leaves = Counter(table.load_name for table in contents.tables)
        self._has_large_objects = only is None and bool(contents.large_objects.owners)
        self._reporter = reporter
        self._owners = owners
        self._refusing = refusing
        self.writer = Writer(connection, refusing)
        self._passed_over: set[TableName] = set()
        self._described = 0
        self._schema_changed = False
        self._without_identity: dict[int, bool] = {}
        """Tables that have lacked an identity at any time, by their oid; true if unlogged."""
        self._triggers = target.InsistentTriggers(connection)
        self._not_exact: list[NotExact] = []
        self._look_for_identities()

    @contextmanager
    def triggers_off(self) -> Iterator[None]:
        """No trigger acts on what is replayed; `run_change` finds them as they were."""
        self._triggers.off(self._tables())
        try:
            yield
        finally:
            self._triggers.on()

    def _tables(self) -> tuple[TableName, ...]:
        if self._only is not None:
            return tuple(sorted(set(self._only.tables.values())))
        return tuple(sorted(existing(self._connection, "r", "p")))

    def _sequences(self) -> frozenset[TableName]:
        there = existing(self._connection, "S")
        return there if self._only is None else there & self._only.sequences

    def replay(self, journey: Journey) -> Replayed:
        """Apply the journey's transactions."""
        replayer = Replayer(
            self.writer, self.describe, self.run_change, self._reporter, journey.new_treat()
        )
        try:
            return replay(journey, replayer)
        finally:
            replayer.close()

    def set_sequences(self, samples: SequenceSamples) -> None:
        """Put each where it stood at the moment or soon after, so that no value is given twice.

        A sample may come from later, and name sequences that were not there yet, or have other
        bounds, or were set back after the moment.
        """
        if not samples.is_whole and (self._only is None or self._only.sequences):
            self._not_exact.append(
                NotExact("sequences", "the journal ends before it tells where all of them stood")
            )
        with self._connection.transaction():
            for name in sorted(self._sequences()):
                self._set_sequence(name, samples)

    def _set_sequence(self, name: TableName, samples: SequenceSamples) -> None:
        if not self._may_set(name):
            if name in samples.before or name in samples.after:
                why = "this role may not set it: as in the target"
                self._not_exact.append(NotExact(f"sequence {name}", why))
            return
        found = sequence_state(self._connection, name)
        if found is None:
            return
        before = samples.before.get(name, found.value)
        wanted = samples.after.get(name, before)
        if found.is_farther(before, wanted) or found.table in samples.set_back:
            why = "was set back soon after the moment: it is at least past its column's values"
            self._not_exact.append(NotExact(f"sequence {name}", why))
            wanted = found.past_its_column(self._connection, before)
        if wanted != found.within_bounds(wanted):
            why = "was given other bounds after the moment: it is at the nearest value"
            self._not_exact.append(NotExact(f"sequence {name}", why))
        if wanted != found.value:
            self._connection.execute(set_sequence(found.within_bounds(wanted)).encode())

    def _may_set(self, name: TableName) -> bool:
        row = self._connection.execute(
            "SELECT CASE WHEN pg_catalog.has_schema_privilege(%s, 'USAGE')"
            " THEN pg_catalog.has_sequence_privilege(%s, 'SELECT')"
            "  AND pg_catalog.has_sequence_privilege(%s, 'UPDATE') END",
            (name.schema, name.sql, name.sql),
        ).fetchone()
        return bool(row and row[0])

    def not_exact(self, partly: frozenset[TableName]) -> Iterator[NotExact]:
        """What the journal does not carry; of the tables `partly`, updates and deletes."""
        for table in sorted(partly):
            name = self._only.tables.get(table) if self._only is not None else table
            if name is not None and (table in self._known or self._schema_changed):
                yield NotExact(
                    f"table {name}",
                    "the role that captures is no member of its owner: rows that were changed or"
                    " deleted after the backup are as in the backup",
                )
        oids = list(self._without_identity)
        rows = self._connection.execute(_NAMES, (oids,)).fetchall() if oids else []
        for oid, schema, name in rows:
            table = TableName(schema, name)
            if not self._is_of_interest(table):
                continue
            unlogged = self._without_identity[oid]
            why = (
                "unlogged: as of the backup" if unlogged else "no replica identity: rows that were"
            )
            if not unlogged:
                why += " changed or deleted after the backup are as in the backup"
            yield NotExact(f"table {table}", why)
        for table in sorted(self._passed_over):
            yield NotExact(f"table {table}", "belongs to an extension: as of the backup")
        for schema, name, column in self._connection.execute(_WORKED_OUT).fetchall():
            why = f"column {column!r} was added with its domain's default, worked out once more"
            if self._is_of_interest(TableName(schema, name)):
                yield NotExact(f"table {TableName(schema, name)}", why)
        if self._only is not None:
            yield from self._generated_by_functions(self._only)
        yield from self._not_exact
        if self._has_large_objects:
            yield NotExact("large objects", "not in the journal: as of the backup")

    def _generated_by_functions(self, only: Only) -> Iterator[NotExact]:
        for schema, name, column in self._connection.execute(_GENERATED_BY_FUNCTION).fetchall():
            table = TableName(schema, name)
            if table in only.tables.values():
                why = f"column {column!r} is generated by a function, which is as in the backup"
                yield NotExact(f"table {table}", why)

    def _is_of_interest(self, table: TableName) -> bool:
        if self._only is not None:
            return table in self._only.tables.values()
        known = table in self._known or self._schema_changed
        return table.schema != OWN_SCHEMA and known

    def _look_for_identities(self) -> None:
        """Whoever has one at the end may have lacked it when rows were changed."""
        self._without_identity.update(self._connection.execute(_WITHOUT_IDENTITY).fetchall())

    # --- tables -----------------------------------------------------------------------------

    def describe(self, relation: Relation) -> TargetTable | None:
        """The table for a relation's changes; None for one that is passed over."""
        name = relation.name
        if name.schema == OWN_SCHEMA or not self._is_wanted(relation):
            return None
        known = self._known.get(name)
        if self._is_passed_over(name, known):
            self._passed_over.add(name)
            return None
        into = known.load_name if known is not None else name
        if self._only is not None:
            into = self._only.tables[name]
            self._only.make_findable(self._connection, relation, into)
        self._described += 1
        found = describe_table(
            self._connection,
            relation,
            name=into,
            stands_for=self._leaves[into] if into != name else 0,
            number=self._described,
        )
        if found is None or (known is None and not self._schema_changed):
            raise ReplayFailed(
                f"the journal has rows of table {name}, which is not in the backup",
                hint="It was made after the backup, and the journal does not tell how. Restore to"
                " an earlier moment, or from a later backup.",
            )
        return found

    def _is_wanted(self, relation: Relation) -> bool:
        """Whether its changes are applied. `ReplayFailed` if names do not mean what they meant."""
        if self._only is None:
            return True
        before = self._only.oids.get(relation.oid)
        is_named = relation.name in self._only.tables
        if before is not None and before != relation.name:
            why = f"table {before} was renamed to {relation.name}"
        elif before is None and is_named and self._only.oids:
            why = f"table {relation.name} is another one than in the backup"
        else:
            return is_named
        hint = "Restore to an earlier moment, or the whole database."
        raise ReplayFailed(why, hint=hint)

    def _is_passed_over(self, name: TableName, known: TableContents | None) -> bool:
        """Whether the rows belong to an extension, which puts them where it wants them."""
        if known is not None:
            return known.condition not in ("", "WHERE true")
        row = self._connection.execute(_OF_EXTENSION, (name.schema, name.name)).fetchone()
        return bool(row and row[0])

    # --- schema changes ---------------------------------------------------------------------

    def run_change(self, change: SchemaChange) -> None:
        """Do a schema change again."""
        self.writer.drop_stages()
        self._refusing.make_again(self._connection)
        self._triggers.on()
        self._schema_changed = True
        settings = self._settings()
        try:
            # It may be done by another role than it was, whose own schema is not meant.
            path = change.search_path.replace('"$user"', quote_identifier(change.role or "$user"))
            # What a function names may be made after it, as the client may have known.
            known = {"search_path": path, "check_function_bodies": "off"}
            self._set({**dict(change.settings), **known})
            self._take_role(change)
            self._connection.execute(change.query.encode(), prepare=False)  # it may be many
        except psycopg.Error as exc:
            message = (exc.diag.message_primary or str(exc)).splitlines()[0]
            raise ReplayFailed(
                f"the schema change {change} cannot be done again: {message}"
            ) from exc
        finally:
            if not self._connection.closed:
                self._connection.execute(b"RESET ROLE")
                self._set(settings)
        self._triggers.off(self._tables())
        self._look_for_identities()

    def _settings(self) -> dict[str, str]:
        """Those that a change of the schema may need otherwise."""
        rows = self._connection.execute(
            "SELECT name, pg_catalog.current_setting(name) FROM pg_catalog.unnest(%s::text[]) name",
            (list(_SETTINGS),),
        ).fetchall()
        return dict(rows)

    def _set(self, settings: Mapping[str, str]) -> None:
        for name in _SETTINGS:
            if name in settings:
                self._connection.execute(
                    "SELECT pg_catalog.set_config(%s, %s, false)", (name, settings[name])
                )

    def _take_role(self, change: SchemaChange) -> None:
        if not change.role or not self._owners:
            return
        try:
            self._connection.execute(f"SET ROLE {quote_identifier(change.role)}".encode())
        except (psycopg.errors.InvalidParameterValue, psycopg.errors.InsufficientPrivilege) as exc:
            self._reporter.report(
                Noticed(
                    f"the schema change {change} is done by another role than it was:"
                    f" {exc.diag.message_primary}",
                    "What it makes belongs to the role that restores.",
                )
            )


def existing(connection: Connection, *kinds: str) -> frozenset[TableName]:
    """The relations of some kinds (as pg_class has them) that are in a database."""
    rows = connection.execute(_EXISTING, (list(kinds),)).fetchall()
    return frozenset(TableName(schema, name) for schema, name in rows)
