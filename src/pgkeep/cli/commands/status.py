"""pgkeep status: what is safe, until when, and what would be lost now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import rich_click as click
from rich.markup import escape

from pgkeep.capture.setup import PUBLICATIONS, tables_without_identity
from pgkeep.cli import words
from pgkeep.cli.commands.capture import slot_name
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.cli.reached import LONG, loss_in_words, loss_window, reach_document, windows_in_words
from pgkeep.config import Config, ObjectivesConfig
from pgkeep.errors import ExitCode, PgkeepError, RepositoryMissing, UsageError
from pgkeep.model import CLOCK_TOLERANCE, Kind, Manifest, TableName
from pgkeep.postgres.session import connect, translated
from pgkeep.postgres.slot import Slot, SlotState
from pgkeep.recovery.objectives import Facts, Objective, Trend, judge, trend
from pgkeep.repository.evidence import Details, Evidence, Outcome, SealedEvidence, list_evidence
from pgkeep.repository.journal import Journal, SegmentName, runs
from pgkeep.repository.repository import Listing, Repository, merge_listings
from pgkeep.repository.windows import Reach, reach

# Drills on a busy machine differ by so much without any meaning.
_STEADY_PERCENT = 15
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Live:
    """What the server says now. `problem` says why there is nothing."""

    slot: SlotState | None = None
    now: datetime | None = None
    without_identity: tuple[TableName, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """All that is known of one database."""

    name: str
    listing: Listing
    reach: Reach
    live: Live
    lacking: Mapping[str, int]
    """How many segments each repository lacks that another has."""
    drills: tuple[Evidence, ...]
    """Newest first."""
    recoveries: tuple[Evidence, ...] = ()
    """Of disasters, newest first."""
    last_drill: Details | None = None
    """What the newest drill has found, where this host may read it."""

    def objectives(self, promised: ObjectivesConfig, now: datetime) -> tuple[Objective, ...]:
        """What was promised beside what was measured."""
        known = [one for one in self.listing.backups if not one.is_ahead_of(now)]
        with_data = [one for one in known if one.kind.has_data]
        with_schema = [one for one in known if one.kind.has_schema]
        facts = Facts(
            now,
            next(iter(with_data), None),
            next(iter(with_schema), None),
            self.behind(now),
            self.drills,
            self.recoveries,
            None if self.live.now is None else self._holds_changes,
        )
        return judge(promised, facts)

    @property
    def _holds_changes(self) -> bool:
        return self.live.slot is not None and not self.live.slot.lost

    @property
    def newest(self) -> dict[Kind, Manifest]:
        return {one.kind: one for one in reversed(self.listing.backups)}

    def is_ahead(self, now: datetime) -> bool:
        """Whether a backup seems to come from the future."""
        return any(one.is_ahead_of(now) for one in self.listing.backups)

    @property
    def captures(self) -> bool:
        """Whether changes are or were captured."""
        return self.reach.covered is not None

    def behind(self, now: datetime) -> timedelta | None:
        """What would be lost now, if that is known."""
        return None if self.clock_went_back else loss_window(self.reach, self.live.now or now)

    @property
    def clock_went_back(self) -> timedelta:
        """By how much the server's clock is behind what it was when changes were captured."""
        covered, now = self.reach.covered, self.live.now
        back = covered - now if covered is not None and now is not None else timedelta(0)
        return back if back > CLOCK_TOLERANCE else timedelta(0)

    def needs_attention(self, now: datetime) -> bool:
        behind = self.behind(now)
        slot = self.live.slot
        return bool(
            self.listing.problems
            or not self.listing.backups
            or self.is_ahead(now)
            or self.clock_went_back
            or any(self.lacking.values())
            or (self.drills and self.drills[0].outcome is Outcome.FAILED)
            or (behind is not None and behind > LONG)
            or (self.captures and self.live.now and (slot is None or slot.lost))
        )


@click.command("status")
@click.argument("database", required=False)
@click.option("--offline", is_flag=True, help="Ask only the repositories, not the databases.")
@command_options(trust=True)
def status_command(context: Context, database: str | None, offline: bool) -> ExitCode:
    """Show for DATABASE, or all, what can be restored, and what would be lost now.

    The last line is the command that brings the database back. Ends with 3 if something needs
    attention: no backup, a long loss window, a lost slot.
    """
    names = [database] if database else sorted(context.config.databases)
    if not names:
        raise UsageError("no database is configured", hint="Run: pgkeep init")
    if database:
        context.config.database(database)
    repositories = _repositories(context)
    found = [look_at(context, name, repositories, offline=offline) for name in names]
    now = context.now()
    if context.as_json:
        context.answer([_document(context, one, now) for one in found])
    else:
        for one in found:
            _show(context, one, now)
    attention = context.needs_attention or any(one.needs_attention(now) for one in found)
    return ExitCode.ATTENTION if attention else ExitCode.DONE


def _repositories(context: Context) -> tuple[Repository, ...]:
    """Those that can be opened; none on a host that is set up and has not written to any yet."""
    try:
        return context.repositories()
    except RepositoryMissing:
        is_new = context.keys.existing_index_key() is not None
        if not is_new or context.known_repositories.all():
            raise
        return ()


def look_at(
    context: Context, name: str, repositories: Sequence[Repository], *, offline: bool
) -> DatabaseStatus:
    """Everything that is known of a database; `offline` asks only the repositories."""
    listings = context.listings(repositories, name)
    repositories = [one for one in repositories if one.name in listings]
    listing = merge_listings(list(listings.values()))
    segments: dict[str, set[SegmentName]] = {
        one.name: set(Journal(one.store, name).names()) for one in repositories
    }
    everywhere: set[SegmentName] = set().union(*segments.values())
    problems: list[PgkeepError] = []
    evidence = evidence_of(context, name, repositories, on_problem=problems.append)
    listing = replace(listing, problems=(*listing.problems, *problems))
    drills = [one for one in evidence if one.head.kind == "drill"]
    return DatabaseStatus(
        name,
        listing,
        reach(listing.backups, runs(everywhere)),
        Live() if offline else _ask(context, name, captures=bool(everywhere)),
        {one: len(everywhere - has) for one, has in segments.items()},
        tuple(one.head for one in drills),
        tuple(one.head for one in evidence if one.head.kind == "recovery"),
        _details(context, drills[0]) if drills else None,
    )


def evidence_of(
    context: Context,
    name: str,
    repositories: Sequence[Repository],
    *,
    newest: int = 50,
    on_problem: Callable[[PgkeepError], None] = lambda _: None,
) -> tuple[SealedEvidence, ...]:
    """Drills and recoveries from every repository, each once, newest first."""
    found = {
        (one.head.started, one.head.backup): one
        for repository in repositories
        for one in list_evidence(
            repository,
            name,
            partial(context.trusted, repository),
            newest=newest,
            on_problem=on_problem,
        )
    }
    return tuple(sorted(found.values(), key=lambda one: one.head.started, reverse=True))


def _details(context: Context, evidence: SealedEvidence) -> Details | None:
    """What names things, where this host made it; None where another did."""
    key = context.keys.existing_index_key()
    if key is None:
        return None
    try:
        return evidence.details([key])
    except PgkeepError:
        return None


def _ask(context: Context, name: str, *, captures: bool) -> Live:
    if not captures:
        return Live()
    try:
        address = context.address(name)
        with closing(connect(address)) as connection, translated(address):
            slot = Slot(connection, slot_name(context, name), PUBLICATIONS)
            return Live(slot.state(), slot.position().at, tables_without_identity(connection))
    except PgkeepError as exc:
        return Live(problem=exc.message)


def _show(context: Context, one: DatabaseStatus, now: datetime) -> None:
    out = context.out
    out.print(f"[bold cyan]{escape(one.name)}[/]")
    for kind, manifest in one.newest.items():
        out.print(f"  {kind:<12} {manifest.backup}  {words.age(manifest.started, now)}")
    if not one.newest:
        out.print(f"  [bold red]no backup[/]   run: pgkeep backup {escape(one.name)}")
    for manifest in one.listing.backups:
        if manifest.is_ahead_of(now):
            out.print(
                f"  [yellow]![/] {manifest.backup} is from the future: a clock was wrong on"
                f" {escape(manifest.host)} then, or is wrong here"
            )
    for problem in one.listing.problems:
        out.print(f"  [red]✗[/] {escape(problem.message)}")
    _show_reach(context, one, now)
    _show_slot(context, one)
    _show_objectives(context, one, now)
    for name, lacking in one.lacking.items():
        if lacking:
            out.print(
                f"  [yellow]![/] {escape(name)} lacks {words.count(lacking, 'segment')} of the"
                " journal: run pgkeep sync"
            )
    if command := bring_back(one, context.config):
        out.print(f"  bring back   {escape(command)}")


def bring_back(one: DatabaseStatus, config: Config) -> str:
    """The command to type when the database is gone: all that can be had, into an empty one.

    Empty where no backup has all of it.
    """
    full = one.newest.get(Kind.FULL)
    if full is None:
        return ""
    last = one.reach.windows[-1].ends if one.reach.windows else full.finished
    goes_on = last > full.finished and not one.clock_went_back
    to = " --to-last-reachable" if goes_on else ""
    by_gpg = all(str(recipient).startswith("gpg:") for recipient in config.encryption.recipients)
    key = "" if by_gpg else " --identity KEY"
    if config.database(one.name).recovery.target is not None:
        return f"pgkeep recover {one.name}{to}{key}"
    return f"pgkeep restore {one.name}{to} --target env:EMPTY_DATABASE_URL{key}"


def _show_reach(context: Context, one: DatabaseStatus, now: datetime) -> None:
    out = context.out
    for line in windows_in_words(one.reach):
        out.print(f"  {line}")
    if one.clock_went_back:
        back = words.duration(one.clock_went_back.total_seconds())
        out.print(
            f"  [yellow]![/] the server's clock is {back} behind the journal: it went back. Until"
            " it is as far again the loss window is not known, and a time may mean two moments;"
            " an LSN or a transaction means one"
        )
        return
    behind = one.behind(now)
    remedy = _capture_again(one) if behind is not None and behind > LONG else ""
    out.print(f"  {loss_in_words(behind, one.name)}{remedy}")


def _capture_again(one: DatabaseStatus) -> str:
    """What to do about a long loss window; nothing where the line of the slot says it."""
    if one.live.now and (one.live.slot is None or one.live.slot.lost):
        return ""
    return f": is capture running? pgkeep capture {escape(one.name)}, or pgkeep run"


def _show_slot(context: Context, one: DatabaseStatus) -> None:
    out, live = context.out, one.live
    if live.problem:
        out.print(f"  [yellow]![/] the server did not answer: {escape(live.problem)}")
    if live.now is None:
        return
    if live.slot is None or live.slot.lost:
        state = "is gone" if live.slot is None else "was given up by the server"
        out.print(
            f"  [bold red]slot[/]         {state}: nothing is captured; run pgkeep capture"
            f" {escape(one.name)}"
        )
    else:
        limit = live.slot.limit_bytes
        share = f", {live.slot.retained_bytes / limit:.0%} of its limit" if limit else ""
        reading = "being read" if live.slot.active_pid else "waiting"
        out.print(
            f"  slot         holds {words.size(live.slot.retained_bytes)} of WAL{share}, {reading}"
        )
    if live.without_identity:
        names = ", ".join(map(str, live.without_identity[:3]))
        more = (
            f" and {len(live.without_identity) - 3} more" if len(live.without_identity) > 3 else ""
        )
        out.print(
            f"  [yellow]![/] updates and deletes of {escape(names)}{more} are only in backups"
            " (no primary key, or another owner)"
        )


def _show_objectives(context: Context, one: DatabaseStatus, now: datetime) -> None:
    out = context.out
    if one.drills:
        last = one.drills[0]
        colour = {"passed": "green", "partial": "yellow", "failed": "bold red"}[last.outcome]
        out.print(
            f"  drill        [{colour}]{last.outcome}[/] {words.age(last.started, now)}:"
            f" {last.rows:,} rows in {words.duration(last.seconds)}"
        )
        out.print(
            f"               [dim]of {last.backup} from {escape(last.repository)}, on"
            f" {escape(last.server or 'no server')}[/]"
        )
        _show_details(context, one.last_drill)
        if found := trend(one.drills):
            out.print(f"  trend        {_trend(found)}")
    else:
        out.print(f"  drill        [yellow]none yet[/]: pgkeep drill {escape(one.name)}")
    if one.recoveries:
        recovery = one.recoveries[0]
        out.print(
            f"  recovery     {recovery.outcome} {words.age(recovery.started, now)}: in"
            f" {words.duration(recovery.seconds)}, into {escape(recovery.server)}"
        )
    for objective in one.objectives(context.config.database(one.name).objectives, now):
        mark = {True: "[green]✓[/]", False: "[bold red]✗[/]", None: "[dim]?[/]"}[objective.is_met]
        measured = (
            words.duration(objective.measured.total_seconds())
            if objective.measured is not None
            else "not measured"
        )
        promised = words.duration(objective.promised.total_seconds())
        out.print(f"  {mark} {objective.name:<22} {measured:<14} [dim]promised {promised}[/]")


def _show_details(context: Context, details: Details | None) -> None:
    """What was wrong, and what was not proven and why: the first few of each."""
    if details is None:
        return
    wrong = [*filter(None, [details.problem]), *details.differences]
    wrong += [f"{one.name}: {one.found}" for one in details.checks if not one.passed]
    for text in wrong[:_SHOWN]:
        context.out.print(f"               [red]✗[/] {escape(text)}")
    for item in details.not_covered[:_SHOWN]:
        context.out.print(
            f"               [yellow]not proven[/] {escape(item.what)}: {escape(item.why)}"
        )
    if (left := len(details.not_covered) - _SHOWN) > 0:
        context.out.print(f"               [dim]and {left} more: see --json[/]")


def _trend(found: Trend) -> str:
    took = " → ".join(words.duration(one) for one in found.seconds)
    percent = round(abs(found.change) * 100)
    if percent < _STEADY_PERCENT:
        return f"{took} [dim](as fast as before, by size)[/]"
    colour, what = ("yellow", "slower") if found.change > 0 else ("green", "faster")
    return f"{took} [{colour}]({percent} % {what} than before, by size)[/]"


def _objective_document(objective: Objective) -> dict[str, object]:
    measured = objective.measured
    return {
        "name": objective.name,
        "promised_seconds": objective.promised.total_seconds(),
        "measured_seconds": None if measured is None else round(measured.total_seconds(), 3),
        "met": objective.is_met,
        "by": objective.by,
    }


def _trend_document(found: Trend | None) -> object:
    return found and {"seconds": list(found.seconds), "change": round(found.change, 4)}


def _details_document(details: Details | None) -> object:
    return details and {
        "problem": details.problem or None,
        "differences": list(details.differences),
        "not_covered": [{"what": one.what, "why": one.why} for one in details.not_covered],
        "checks": [
            {"name": one.name, "passed": one.passed, "found": one.found} for one in details.checks
        ],
    }


def _drill_document(drill: Evidence) -> dict[str, object]:
    return {
        "backup": drill.backup,
        "started": drill.started.isoformat(),
        "outcome": drill.outcome.value,
        "seconds": drill.seconds,
        "rows": drill.rows,
        "server": drill.server,
        "repository": drill.repository,
        "moment": drill.moment.isoformat() if drill.moment else None,
        "checks": drill.checks,
        "checks_failed": drill.checks_failed,
        "differences": drill.differences,
        "not_covered": drill.not_covered,
        "steps": [{"name": step.name, "seconds": step.seconds} for step in drill.steps],
    }


def _document(context: Context, one: DatabaseStatus, now: datetime) -> dict[str, object]:
    behind, slot = one.behind(now), one.live.slot
    return {
        "database": one.name,
        "needs_attention": one.needs_attention(now),
        "backups": {
            kind: {"backup": manifest.backup, "started": manifest.started.isoformat()}
            for kind, manifest in one.newest.items()
        },
        "problems": [problem.message for problem in one.listing.problems],
        "bring_back": bring_back(one, context.config) or None,
        **reach_document(one.reach, behind),
        "slot": None
        if slot is None
        else {
            "name": slot_name(context, one.name),
            "bytes": slot.retained_bytes,
            "limit_bytes": slot.limit_bytes,
            "lost": slot.lost,
        },
        "server": one.live.problem or None,
        "without_identity": [str(name) for name in one.live.without_identity],
        "segments_lacking": dict(one.lacking),
        "drills": [_drill_document(drill) for drill in one.drills],
        "last_drill": _details_document(one.last_drill),
        "recoveries": [_drill_document(recovery) for recovery in one.recoveries],
        "drill_trend": _trend_document(trend(one.drills)),
        "objectives": [
            _objective_document(objective)
            for objective in one.objectives(context.config.database(one.name).objectives, now)
        ],
    }
