"""Into a project of Supabase's, as its role `postgres`: no superuser, no text of SQL edited.

The platform has made the structure of its schemas already, in a version of its own, and grants to
its own roles by default. So: extensions first; of the definitions only the user's; rows of managed
tables into the columns that both versions have; secrets and jobs through the functions that make
them; and every statement that is refused is told of, with what it means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import psycopg

from pgkeep.errors import (
    ConnectionLost,
    DamagedObject,
    DatabaseError,
    ObjectMissing,
    PgkeepError,
    TargetNotEmpty,
)
from pgkeep.model import (
    Hosting,
    Queue,
    Role,
    SealedStream,
    SequenceValue,
    TableName,
    quote_identifier,
)
from pgkeep.platforms import private, supabase
from pgkeep.postgres import catalog
from pgkeep.postgres.archive import Archive, Entry
from pgkeep.postgres.selection import Selection
from pgkeep.postgres.session import Connection
from pgkeep.postgres.statements import (
    create_role,
    grant_memberships,
    literal,
    set_sequence,
)
from pgkeep.recovery import cron, default_privileges, presence, target, vault
from pgkeep.recovery.choosing import (
    Choice,
    changed_privileges,
    choose_entries,
    extensions_of,
    schemas_to_make,
)
from pgkeep.recovery.landing import Expectation, Forbearing, Run
from pgkeep.recovery.plan import RestorePlan, TableRestore
from pgkeep.recovery.refusals import meaning_of

_OF_THE_IMAGE = ("extensions",)
_NOT_RESTORED = "Its rows are not restored: they are in the backup, for another target."


class Project(Forbearing):
    """A fresh project."""

    def __init__(
        self,
        connection: Connection,
        source: Hosting,
        there: Hosting,
        archive: Archive | None,
        is_there: Archive | None,
    ) -> None:
        super().__init__()
        self._connection = connection
        self._source = source
        self._there = there
        self._archive = archive
        self._is_there = is_there
        self._me = presence.current_role(connection)
        self._whole: RestorePlan | None = None
        self._sequences: tuple[SequenceValue, ...] = ()
        self._lent: list[str] = []
        self._ids: dict[str, str] = {}

    # --- before anything is written -------------------------------------------------------------

    def adapt(self, plan: RestorePlan) -> RestorePlan:
        self._whole = plan
        self._tell_of_versions()
        return self._adapted(())

    def refuse_occupied(self, connection: Connection, database: str) -> None:
        besides = {*self._there.schemas, *_OF_THE_IMAGE}
        target.refuse_occupied(connection, database, besides=besides)
        for name in self._managed_names():
            row = connection.execute(f"SELECT EXISTS (SELECT FROM {name.sql})".encode()).fetchone()
            if row and row[0]:
                raise TargetNotEmpty(
                    f'target database "{database}" is not empty: {name} has rows',
                    hint="Restore into a fresh project.",
                )

    def _managed_names(self) -> Iterator[TableName]:
        for table in self._whole.tables if self._whole else ():
            if self._is_managed(table.name) and supabase.may_read(self._connection, table.name):
                yield table.name

    def _tell_of_versions(self) -> None:
        here = dict(self._there.versions)
        for schema, version in self._source.versions:
            if schema in here and here[schema] != version:
                self.remarks.append(
                    f"schema {schema} is at {version} in the backup and at {here[schema]} in this"
                    " project: rows go into the columns that both have"
                )

    # --- the plan as a project can have it --------------------------------------------------------

    def _choice(self, missing: tuple[str, ...]) -> Choice | None:
        if self._archive is None or self._is_there is None:
            return None
        return choose_entries(self._archive, self._source, self._is_there, missing)

    def _adapted(self, missing: tuple[str, ...]) -> RestorePlan:
        plan = self._whole
        assert plan is not None
        choice = self._choice(missing)
        if choice is not None and self._archive is not None:
            make = choice.make

            def chosen(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
                return tuple(entry for entry in entries if entry.dump_id in make)

            plan = replace(
                plan,
                before=chosen(plan.before),
                after=chosen(plan.after),
                guards=chosen(plan.guards),
                selection=choice.selection(self._archive),
                tables=tuple(
                    replace(table, indexes=chosen(table.indexes)) for table in plan.tables
                ),
            )
            if not missing:
                self._tell_of_choice(choice)
        self._sequences = tuple(one for one in plan.sequences if self._is_managed(one.name))
        users = tuple(one for one in plan.sequences if not self._is_managed(one.name))
        tables = tuple(self._fitted(plan))
        return replace(plan, tables=tables, sequences=users)

    def _tell_of_choice(self, choice: Choice) -> None:
        for what in choice.differs:
            self.refuse(
                what, "the project has one of that name already", "It stays as the project has it."
            )

    def _is_managed(self, name: TableName) -> bool:
        return name.schema in self._source.schemas

    def _fitted(self, plan: RestorePlan) -> Iterator[TableRestore]:
        """Managed tables by the columns that both have; those that are made are as they were."""
        made = plan.selection.tables if plan.selection else frozenset()
        for table in plan.tables:
            is_made = (table.name.schema, table.name.name) in made
            is_users = is_made or not self._is_managed(table.name)
            if is_users or table.name.schema == supabase.PGMQ:
                yield table
            elif fitted := self._fit(table):
                yield fitted

    def _fit(self, table: TableRestore) -> TableRestore | None:
        there = presence.columns(self._connection, table.name)
        if not there:
            if table.source.rows:
                rows = f"{table.source.rows:,} rows of {table.name}"
                self.refuse(rows, "this project's version has no such table", _NOT_RESTORED)
            return None
        without = tuple(
            column.name
            for column in table.source.columns
            if not column.generated and not there.get(column.name, False)
        )
        absent = [name for name in without if name not in there]
        if absent and table.source.rows:
            self.remarks.append(
                f"{table.name} has no column {', '.join(absent)} in this project's version: what it"
                " held stays in the backup"
            )
        generated = tuple(c.name for c in table.source.columns if c.generated)
        return replace(table, without=(*without, *generated), is_managed=True)

    # --- roles and what comes before the definitions ----------------------------------------------

    def create_roles(self, run: Run) -> tuple[str, ...]:
        there = catalog.existing_roles(run.connection)
        wanted = [
            role
            for role in run.request.contents.roles
            if role.name not in there and role.name not in self._source.roles
        ]
        made = [role for role in wanted if self._create_role(run.connection, role)]
        for role in made:
            for statement in grant_memberships(role, role.member_of):
                self.attempt(
                    run.connection, statement, f"membership of role {role.name}",
                    "It has fewer rights there than in the source.",
                )  # fmt: skip
        self._join(run, {role.name for role in made})
        return tuple(role.name for role in made)

    def _create_role(self, connection: Connection, role: Role) -> bool:
        meaning = "What belongs to it belongs to the role that restores."
        return all(
            self.attempt(connection, statement, f"role {role.name}", meaning)
            for statement in create_role(role)
        )

    def _join(self, run: Run, made: set[str]) -> None:
        """Since PostgreSQL 16 who makes a role must be a member too, to give it anything."""
        owners = {entry.owner for entry in run.archive.entries} if run.archive else set()
        for name in sorted(made & owners):
            statement = f"GRANT {quote_identifier(name)} TO CURRENT_USER"
            meaning = "What belongs to it there belongs to the role that restores."
            self.attempt(run.connection, statement, f"role {name}", meaning)

    def prepare(self, run: Run) -> RestorePlan:
        assert run.archive is not None
        assert self._is_there is not None
        if run.request.privileges:
            self._take_privileges_back(run, run.archive, self._is_there)
        self.make(run, schemas_to_make(run.archive, self._source, self._is_there))
        self._open_schemas(run)
        missing = self._make_extensions(run)
        plan = self._adapted(missing)
        if missing and (choice := self._choice(missing)):
            for entry in choice.without_extension:
                self.refuse(
                    f"{entry.kind.lower()} {entry.tag}",
                    f"it needs {' or '.join(missing)}",
                    "It is not in the target.",
                )
        return replace(plan, before=tuple(entry for entry in plan.before if entry.kind != "SCHEMA"))

    def _take_privileges_back(self, run: Run, archive: Archive, is_there: Archive) -> None:
        """What would open objects to roles that the source does not open them to.

        Schemas only for another project's sake: one that moves here shall be reached as any other.
        """
        for statement in default_privileges.take_back(run.connection):
            self.attempt(
                run.connection, statement, "default privileges",
                "New objects may be open to roles that the source does not open them to.",
            )  # fmt: skip
        for schema in changed_privileges(archive, is_there) if self._is_from_a_project else ():
            self._close_schema(run.connection, schema)

    @property
    def _is_from_a_project(self) -> bool:
        return bool(self._source.schemas)

    def _give_defaults_back(self, connection: Connection) -> None:
        """A source that was no project has none of its own for this one's roles."""
        for entry in self._is_there.entries if self._is_there else ():
            if entry.kind == "DEFAULT ACL" and entry.owner == self._me:
                self.attempt(
                    connection, entry.definition, f"default privileges in {entry.namespace}",
                    "New objects are not open to the project's API.",
                )  # fmt: skip

    def _open_schemas(self, run: Run) -> None:
        """Only who may make something in a schema can be given it; taken back before privileges."""
        assert run.archive is not None
        roles = catalog.existing_roles(run.connection) - set(self._source.roles) - {"postgres"}
        pairs = {
            (entry.namespace, entry.owner)
            for entry in run.plan.before
            if entry.namespace not in ("", *self._source.schemas) and entry.owner in roles
        }
        for schema, owner in sorted(pairs) if run.request.owners else ():
            words = f"CREATE ON SCHEMA {quote_identifier(schema)}"
            to = quote_identifier(owner)
            if self.attempt(run.connection, f"GRANT {words} TO {to}", f"schema {schema}",
                            f"What belongs to {owner} there may belong to postgres."):  # fmt: skip
                self._lent.append(f"REVOKE {words} FROM {to}")

    def _close_schema(self, connection: Connection, schema: str) -> None:
        for grant, by in supabase.grants(connection, [schema]):
            # What its owner and everybody have by PostgreSQL itself stays: an archive tells of
            # differences from that.
            is_usual = grant.grantee in ("", "pg_database_owner", self._me)
            if grant.kind == "SCHEMA" and by not in self._there.roles and not is_usual:
                to = quote_identifier(grant.grantee)
                self.attempt(
                    connection,
                    f"REVOKE {grant.privilege} ON SCHEMA {grant.target} FROM {to}",
                    f"privileges of schema {schema}",
                    "They are as the project has them.",
                )

    def _make_extensions(self, run: Run) -> tuple[str, ...]:
        """Those of the source that are not there yet; the names of those that cannot be made."""
        assert run.archive is not None
        wanted = extensions_of(run.archive)
        there = presence.extensions(run.connection)
        schemas = presence.schemas(run.connection)
        homes = {name: schema for name, _, schema in self._source.extensions}
        absent = [entry for entry in wanted if entry.tag not in there]
        self.make(run, [one for one in absent if homes.get(one.tag, "public") in schemas])
        for entry in absent:
            if homes.get(entry.tag, "public") not in schemas:  # it brings its own along
                statement = f"CREATE EXTENSION IF NOT EXISTS {quote_identifier(entry.tag)}"
                what = f"extension {entry.tag}"
                self.attempt(run.connection, statement, what, meaning_of(entry, ""))
        there = presence.extensions(run.connection)
        for name, version, _ in self._source.extensions:
            if name in there and there[name] != version:
                self.remarks.append(
                    f"extension {name} is version {there[name]} here, {version} in the source"
                )
        return tuple(entry.tag for entry in wanted if entry.tag not in there)

    # --- between the definitions and the rows -----------------------------------------------------

    def defined(self, run: Run) -> RestorePlan:
        plan = run.plan
        if run.scope.schema or run.scope.data:
            self._make_queues(run.connection)
        if run.scope.data:
            self._make_secrets(run)
        there = presence.tables(run.connection)
        kept = [table for table in plan.tables if table.load_name in there]
        for table in plan.tables:
            if table.load_name not in there and table.source.rows:
                rows = f"{table.source.rows:,} rows of {table.name}"
                self.refuse(rows, "the table could not be made", _NOT_RESTORED)
        sequences = presence.sequences(run.connection)
        return replace(
            plan,
            tables=tuple(self._with_queues(kept)),
            sequences=tuple(one for one in plan.sequences if one.name in sequences),
        )

    def _with_queues(self, tables: Iterable[TableRestore]) -> Iterator[TableRestore]:
        """The tables of queues, now that they are made."""
        for table in tables:
            is_queue = self._is_managed(table.name) and table.name.schema == supabase.PGMQ
            fitted = self._fit(table) if is_queue else table
            if fitted is not None:
                yield fitted

    def _make_queues(self, connection: Connection) -> None:
        if not self._source.queues or "pgmq" not in presence.extensions(connection):
            return
        there = {row[0] for row in connection.execute("SELECT queue_name FROM pgmq.meta")}
        for queue in self._source.queues:
            if queue.name not in there:
                self.attempt(
                    connection,
                    f"SELECT pgmq.{_maker(queue)}({literal(queue.name)})",
                    f"queue {queue.name}",
                    "Its messages are not restored.",
                )

    def _make_secrets(self, run: Run) -> None:
        stream = self._source.secrets
        if stream is None:
            return
        if "supabase_vault" not in presence.extensions(run.connection):
            self.refuse(
                f"{self._source.secrets_count} secrets", "there is no vault", "They are kept in the"
                " backup.",
            )  # fmt: skip
            return
        there = vault.existing_ids(run.connection)
        for secret in private.load_secrets(_opened(run, stream, "the vault's secrets")):
            known = there.get((secret.name, secret.text))
            new = known or self._make_secret(run.connection, secret)
            if new:
                self._ids[secret.id] = new
        for statement, what in vault.refer_anew(run.connection, self._ids):
            self.attempt(run.connection, statement, what, "It refers to a secret that is not here.")

    def _make_secret(self, connection: Connection, secret: private.Secret) -> str | None:
        what = f"secret {secret.name or secret.id!r}"
        try:
            row = connection.execute(vault.CREATE, vault.values(secret)).fetchone()
        except psycopg.errors.Error as exc:
            if connection.closed:
                raise
            # Its own words may repeat the secret: the kind of error is enough.
            self.refuse(what, type(exc).__name__, "It is kept in the backup.")
            return None
        return str(row[0]) if row else None

    def settings(self, run: Run) -> tuple[str, ...]:
        return target.quiet_settings(run.connection)

    def refuse_rows(self, table: TableRestore, error: PgkeepError, /) -> bool:
        is_refusal = isinstance(error, DatabaseError) and not isinstance(error, ConnectionLost)
        if not table.is_managed or not is_refusal:
            return False
        self.refuse(f"rows of {table.name}", error.message, _NOT_RESTORED)
        return True

    # --- after the rows ---------------------------------------------------------------------------

    def filled(self, run: Run) -> None:
        connection = run.connection
        for statement in self._lent:
            connection.execute(statement.encode())
        for value in self._sequences:
            self.attempt(
                connection, set_sequence(value), f"sequence {value.name}",
                "The next value that it gives may be taken already.",
            )  # fmt: skip
        if self._ids:
            for statement, pairs, what in vault.map_columns(self._source.secret_columns, self._ids):
                self._map(connection, statement, pairs, what)

    def _map(
        self, connection: Connection, statement: str, pairs: Mapping[str, object], what: str
    ) -> None:
        """Triggers must not fire for what only puts a new id in the place of an old one."""
        try:
            with connection.transaction():
                for setting in target.quiet_settings(connection):
                    connection.execute(setting.replace("SET ", "SET LOCAL ", 1).encode())
                connection.execute(statement.encode(), pairs)
        except psycopg.Error as exc:
            if connection.closed:
                raise
            reason = (exc.diag.message_primary or str(exc)).splitlines()[0]
            self.refuse(what, reason, "It refers to ids of secrets in the source.")

    def settle(self, run: Run) -> None:
        connection = run.connection
        if run.scope.schema:
            if run.request.privileges:
                self._grant(connection)
                if not self._is_from_a_project:
                    self._give_defaults_back(connection)
            self._set_roles(connection)
            self._schedule_jobs(run)
            self._set_passwords(run)
        connection.execute(b"NOTIFY pgrst, 'reload schema'")
        self._tell_of_files(run)

    def _grant(self, connection: Connection) -> None:
        there = {grant for grant, _ in supabase.grants(connection, self._source.schemas)}
        for grant in self._source.grants:
            if grant in there:
                continue
            to = quote_identifier(grant.grantee) if grant.grantee else "PUBLIC"
            columns = f" ({grant.columns})" if grant.columns else ""
            option = " WITH GRANT OPTION" if grant.grantable else ""
            self.attempt(
                connection,
                f"GRANT {grant.privilege}{columns} ON {grant.kind} {grant.target} TO {to}{option}",
                f"{grant.privilege} on {grant.kind.lower()} {grant.target} for"
                f" {grant.grantee or 'everybody'}",
                "Privileges there are as the platform has them.",
            )

    def _set_roles(self, connection: Connection) -> None:
        there = set(supabase.role_settings(connection, self._there.roles))
        for role, parameter, value in self._source.role_settings:
            if (role, parameter, value) in there:
                continue
            # A list's value is stored as it has to be written.
            text = value if parameter in ("search_path",) and value else literal(value)
            name = ".".join(quote_identifier(part) for part in parameter.split("."))
            self.attempt(
                connection,
                f"ALTER ROLE {quote_identifier(role)} SET {name} TO {text}",
                f"setting {parameter} of role {role}",
                "It is as the project has it.",
            )

    def _schedule_jobs(self, run: Run) -> None:
        stream = self._source.jobs
        if stream is None:
            return
        jobs = private.load_jobs(_opened(run, stream, "the jobs of cron"))
        if "pg_cron" not in presence.extensions(run.connection):
            what = f"{len(jobs)} jobs"
            self.refuse(what, "there is no pg_cron", "They are kept in the backup.")
            return
        for job in jobs:
            try:
                cron.schedule(
                    run.connection, job, source_database=run.request.contents.database.name
                )
            except psycopg.Error as exc:
                if run.connection.closed:
                    raise
                reason = (exc.diag.message_primary or str(exc)).splitlines()[0]
                self.refuse(f"job {job.label}", reason, "It is not scheduled there.")
        if any(job.active for job in jobs):
            self.remarks.append(
                f"{len(jobs)} jobs of cron are scheduled and switched off: once you have looked at"
                " the project, run the same command with --resume-jobs"
            )

    def _set_passwords(self, run: Run) -> None:
        stream = self._source.passwords
        if stream is None:
            return
        there = catalog.existing_roles(run.connection)
        for one in private.load_verifiers(_opened(run, stream, "the verifiers of passwords")):
            if one.role in there:
                self._set_password(run.connection, one)

    def _set_password(self, connection: Connection, one: private.Verifier) -> None:
        statement = f"ALTER ROLE {quote_identifier(one.role)} PASSWORD {literal(one.verifier)}"
        try:
            connection.execute(statement.encode())
        except psycopg.Error as exc:
            if connection.closed:
                raise
            what = f"password of role {one.role}"
            self.refuse(what, type(exc).__name__, "Set it by hand: ALTER ROLE ... PASSWORD.")

    def _tell_of_files(self, run: Run) -> None:
        rows = sum(t.source.rows for t in run.plan.tables if t.name == supabase.OBJECTS)
        if rows:
            kept = run.request.contents.files is not None
            how = "pgkeep files DB --to-project puts them there" if kept else (
                "the backup does not keep them"
            )  # fmt: skip
            self.remarks.append(
                f"{rows:,} files are listed in storage.objects, and their bytes are not in the"
                f" database: who asks for one gets an error until it is there; {how}"
            )

    def is_of_no_account(self, entry: Entry, message: str, /) -> bool:
        """Only a superuser may even name the owner anew who it has already."""
        return entry.owner == self._me and message.startswith("permission denied to change owner")

    def expects(self, run: Run) -> Expectation:
        selection = run.plan.selection
        if selection is not None and run.archive is not None:
            renamed = {e.dump_id for e in run.archive.entries if self._names_a_secret(e)}
            left = selection.entries - self.refused_entries - renamed
            selection = Selection(frozenset(left), selection.tables)
        return Expectation(selection, more_in_target=True)

    def _names_a_secret(self, entry: Entry) -> bool:
        """Its options have the secret's new id."""
        kinds = ("SERVER", "USER MAPPING", "FOREIGN TABLE")
        return entry.kind in kinds and any(old in entry.definition for old in self._ids)


def _maker(queue: Queue) -> str:
    return "create_unlogged" if queue.unlogged else "create"


def _opened(run: Run, stream: SealedStream, what: str) -> bytes:
    try:
        return b"".join(run.request.sealed.open(stream))
    except (DamagedObject, ObjectMissing) as exc:
        raise type(exc)(f"{exc.message}; it belongs to {what}", hint=exc.hint) from exc
