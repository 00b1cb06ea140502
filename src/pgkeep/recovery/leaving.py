"""A backup of a hosted database into a server without that platform: for a drill, or to leave it.

The platform's own structure comes along, since nobody there makes it. What depends on its
extensions or its services is left out and named; tables behind queues become plain tables.
"""

from __future__ import annotations

from dataclasses import replace

from pgkeep.model import Hosting, quote_identifier
from pgkeep.platforms.supabase import PGMQ
from pgkeep.postgres.archive import Archive, Entry
from pgkeep.postgres.selection import Selection, leave_out_extensions
from pgkeep.postgres.statements import create_table_like
from pgkeep.recovery import presence, target
from pgkeep.recovery.landing import Expectation, Forbearing, Run
from pgkeep.recovery.plan import RestorePlan

_ABOUT = frozenset({"COMMENT", "ACL", "SECURITY LABEL", "EXTENSION"})


class Leaving(Forbearing):
    """A server that is not the platform's."""

    def __init__(
        self, source: Hosting, archive: Archive | None, without: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self._source = source
        self._archive = archive
        self._without = without

    def create_roles(self, run: Run) -> tuple[str, ...]:
        """The platform's roles too, for they own its structure, but none as a superuser."""
        roles = tuple(
            replace(role, attributes=_without_power(role.attributes))
            if role.name in self._source.roles
            else role
            for role in run.request.contents.roles
        )
        return target.create_missing_roles(
            run.connection, replace(run.request.contents, roles=roles)
        )

    def prepare(self, run: Run) -> RestorePlan:
        """Without what this server's extensions cannot give, and without the platform's hooks."""
        assert run.archive is not None
        available = presence.available_extensions(run.connection)
        wanted = {entry.tag for entry in run.archive.entries if entry.kind == "EXTENSION"}
        missing = tuple(sorted((wanted - available) | (wanted & set(self._without))))
        left = leave_out_extensions(run.archive, missing).entries
        hooks = {e.dump_id for e in run.archive.entries if self._is_hook(e)}
        for entry in run.archive.entries:
            if entry.kind == "EXTENSION" and entry.tag in missing:
                self.refuse(f"extension {entry.tag}", "this server has not got it",
                            "What needs it is left out.")  # fmt: skip
            elif entry.dump_id not in left and entry.kind not in _ABOUT:
                self.refuse(f"{entry.kind.lower()} {entry.tag}", f"it needs {', '.join(missing)}",
                            "It is not in the target.")  # fmt: skip
            elif entry.dump_id in hooks and entry.kind == "EVENT TRIGGER":
                self.remarks.append(f"left out: {entry.tag}, an event trigger of the platform's")
        self._tell()
        make = frozenset(left - hooks)
        return _within(run.plan, make, run.archive)

    def _is_hook(self, entry: Entry) -> bool:
        return entry.is_event_trigger and entry.owner in self._source.roles

    def _tell(self) -> None:
        kept = (
            (self._source.secrets, self._source.secrets_count, "secrets of the vault"),
            (self._source.jobs, self._source.jobs_count, "jobs of cron"),
            (self._source.passwords, self._source.passwords_count, "verifiers of passwords"),
        )
        for stream, count, what in kept:
            if stream is not None:
                self.remarks.append(
                    f"{count} {what} are not restored: this server has nothing for them; they stay"
                    " in the backup"
                )

    def defined(self, run: Run) -> RestorePlan:
        """Tables of queues that an extension would have made: plain ones in their place."""
        if not run.scope.schema:
            return run.plan
        there = presence.tables(run.connection)
        for table in run.plan.tables:
            if table.load_name in there:
                continue
            if table.name.schema == PGMQ:
                schema = f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(PGMQ)}"
                what = f"table {table.name}"
                if self.attempt(run.connection, schema, what, "Its rows stay in the backup."):
                    statement = create_table_like(table.source, table.name)
                    self.attempt(run.connection, statement, what, "Its rows stay in the backup.")
                self.remarks.append(f"{table.name} is a plain table here: a queue needs pgmq")
            elif table.source.rows:
                rows = f"{table.source.rows:,} rows of {table.name}"
                self.refuse(rows, "the table could not be made", "They stay in the backup.")
        there = presence.tables(run.connection)
        sequences = presence.sequences(run.connection)
        return replace(
            run.plan,
            tables=tuple(table for table in run.plan.tables if table.load_name in there),
            sequences=tuple(one for one in run.plan.sequences if one.name in sequences),
        )

    def expects(self, run: Run) -> Expectation:
        selection = run.plan.selection
        if selection is not None and run.archive is not None:
            # What a role of the platform's granted, a superuser's namesake grants as the owner.
            passed_on = {e.dump_id for e in run.archive.entries if _names_grantors(e)}
            left = frozenset(selection.entries - self.refused_entries - passed_on)
            if named := len(selection.entries & passed_on):
                self.remarks.append(f"privileges of {named} objects name who granted them: they are"
                                    " restored, and not compared")  # fmt: skip
            selection = Selection(left, selection.tables)
        # Plain tables stand where an extension had its own.
        return Expectation(selection, more_in_target=True)


def _within(plan: RestorePlan, make: frozenset[int], archive: Archive) -> RestorePlan:
    def chosen(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return tuple(entry for entry in entries if entry.dump_id in make)

    tables = frozenset(
        (entry.namespace, entry.tag)
        for entry in archive.entries
        if entry.kind == "TABLE" and entry.dump_id in make
    )
    return replace(
        plan,
        before=chosen(plan.before),
        after=chosen(plan.after),
        guards=chosen(plan.guards),
        selection=Selection(make, tables),
        tables=tuple(replace(table, indexes=chosen(table.indexes)) for table in plan.tables),
    )


def _names_grantors(entry: Entry) -> bool:
    return entry.kind == "ACL" and "SET SESSION AUTHORIZATION" in entry.definition


def _without_power(attributes: str) -> str:
    """Of a role of the platform's only what owning things needs."""
    words = attributes.split()
    return " ".join("NOSUPERUSER" if word == "SUPERUSER" else word for word in words)
