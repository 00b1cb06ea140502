"""Which backup a restore begins with, and the way from there to a moment."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from pgkeep.cli.context import Context, Found
from pgkeep.cli.options import refuse_together
from pgkeep.errors import MomentUnreachable
from pgkeep.model import Contents, Kind, Manifest, TableName
from pgkeep.postgres.concern import OfSomeTables, Treat
from pgkeep.postgres.ddl import treatment
from pgkeep.recovery.journey import Journey, choose_journey
from pgkeep.recovery.moment import AtEnd, AtTime, AtTransaction, Moment, parse_moment
from pgkeep.recovery.plan import Scope, check_scope, parse_table_name
from pgkeep.repository.journal import Journal, runs
from pgkeep.repository.repository import (
    Listing,
    choose_backup,
    merge_listings,
    open_contents,
)
from pgkeep.repository.windows import reach


def kinds_for(scope: Scope) -> set[Kind]:
    """Which kinds of backup can give a scope, when none is named."""
    if scope.schema and scope.data:
        return {Kind.FULL}
    return {Kind.FULL, Kind.SCHEMA} if scope.schema else {Kind.FULL, Kind.DATA}


@dataclass(frozen=True, slots=True)
class Choice:
    """A backup, opened, and the way from it if there is one to go."""

    found: Found
    contents: Contents
    journey: Journey | None


def chosen_moment(
    to: str | None, before_transaction: int | None, *, to_last_reachable: bool
) -> Moment | None:
    """The moment that options name; None for a backup's own."""
    refuse_together(bool(to), bool(before_transaction), "--to and --before-transaction")
    if before_transaction:
        return AtTransaction(before_transaction, inclusive=False)
    if to is not None:
        return parse_moment(to)
    return AtEnd() if to_last_reachable else None


def choose_backup_for(
    context: Context,
    database: str,
    backup: str | None,
    scope: Scope,
    moment: Moment | None,
    *,
    to_last_reachable: bool = False,
) -> Choice:
    """The backup that is named; else the newest, or the one that leads to the moment."""

    def choose(listing: Listing) -> Manifest:
        return choose_backup(listing, backup, database=database, kinds=kinds_for(scope))

    def contents_of(found: Found) -> Contents:
        return open_contents(found.source, found.manifest, [context.epoch_identity(found)])

    if moment is None:
        found = context.find(database, choose)
        check_scope(scope, found.manifest.kind)
        return Choice(found, contents_of(found), None)

    def candidates(listing: Listing) -> list[Manifest]:
        newest = choose(listing)
        if backup is not None:
            return [newest]
        return [
            one
            for one in listing.backups
            if one.kind is Kind.FULL
            and (not isinstance(moment, AtTime) or one.started <= moment.time)
        ]

    chosen = choose_journey(
        context.find_all(database, candidates),
        contents_of,
        context.journal_reader(database),
        moment,
        treat_for=partial(_treat_for, scope),
        to_last_reachable=to_last_reachable,
    )
    return Choice(chosen.candidate, chosen.contents, chosen.journey)


def _treat_for(scope: Scope, contents: Contents) -> Treat:
    """How schema changes are treated on the way: of some tables, just those that concern them.

    Which partitions a table has is not known yet: so any other may be one.
    """
    if not scope.tables:
        return treatment
    known = {table.name for table in contents.tables}
    tables = frozenset(scope.tables)
    return OfSomeTables(
        tables,
        renamed=scope.into_schema is not None,
        perhaps_partitions=() if tables <= known else known,
    )


def critical_tables(context: Context, database: str) -> tuple[TableName, ...]:
    """Those that the configuration wants back first."""
    configured = context.config.databases.get(database)
    return tuple(map(parse_table_name, configured.critical_tables)) if configured else ()


def random_second(context: Context, database: str) -> AtTime:
    """Any second that the journal leads to; `MomentUnreachable` if there is none."""
    repositories = context.repositories()
    names = [name for one in repositories for name in Journal(one.store, database).names()]
    listing = merge_listings([context.listing(one, database) for one in repositories])
    windows = reach(listing.backups, runs(names)).windows
    seconds = [int((window.ends - window.begins).total_seconds()) for window in windows]
    if not sum(seconds):
        raise MomentUnreachable(
            f"the journal of {database!r} leads to no moment between backups yet",
            hint="Run pgkeep capture, and wait for a backup after it began.",
        )
    left = secrets.randbelow(sum(seconds))
    for window, length in zip(windows, seconds, strict=True):
        if left < length:
            return AtTime(window.begins + timedelta(seconds=left + 1))
        left -= length
    raise AssertionError("unreachable: the sum is that of all")
