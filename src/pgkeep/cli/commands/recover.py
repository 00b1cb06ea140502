"""pgkeep recover: the whole disaster procedure, from stopping the application to starting it."""

from __future__ import annotations

import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import rich_click as click
from rich.markup import escape

from pgkeep import config as configuration
from pgkeep.backup.backup import back_up
from pgkeep.cli import words
from pgkeep.cli.approving import action, require_factor
from pgkeep.cli.backing_up import backup_request
from pgkeep.cli.choice import Choice, choose_backup_for, critical_tables
from pgkeep.cli.commands.capture import slot_name
from pgkeep.cli.commands.drill import checks_of
from pgkeep.cli.commands.status import look_at
from pgkeep.cli.context import Context
from pgkeep.cli.evidence import Occasion, keep_evidence
from pgkeep.cli.managed import managed_options
from pgkeep.cli.options import command_options, refuse_together
from pgkeep.cli.target import target_address
from pgkeep.errors import ConfigurationError, ExitCode, ProofFailed, UsageError
from pgkeep.events import Reporter
from pgkeep.model import Kind, Tier
from pgkeep.postgres.address import Address
from pgkeep.postgres.session import connect, translated
from pgkeep.recovery.checks import run_checks
from pgkeep.recovery.load import Sealed
from pgkeep.recovery.moment import AtTime, Moment, parse_moment
from pgkeep.recovery.objectives import Facts, restore_estimate
from pgkeep.recovery.plan import Scope
from pgkeep.recovery.recover import (
    Action,
    Keeping,
    Progress,
    RecoveryPlan,
    StepName,
    carry_out,
    describe,
    drop_database,
    make_database,
    rename_database,
    run_hooks,
)
from pgkeep.recovery.request import RestoreRequest, RestoreResult
from pgkeep.recovery.restore import raise_unless_proven, restore
from pgkeep.repository.evidence import (
    CheckResult,
    Details,
    NotCovered,
    Outcome,
    Step,
)


@click.command("recover")
@click.argument("database")
@click.option("--to", metavar="MOMENT", help="The moment: a time with its zone, an LSN, or a"
              " transaction id.  [default: the newest backup]")  # fmt: skip
@click.option("--backup", "backup", metavar="ID", help="Which backup (its id or the beginning of"
              " it).  [default: the best for the moment]")  # fmt: skip
@click.option("--target", metavar="URL", help="The empty database to recover into; env:NAME or"
              " file:PATH as for restore.  [default: as configured]")  # fmt: skip
@click.option("--in-place", is_flag=True, help="Put the old database out of the way, under another"
              " name on the same server, and make a new one in its place.")  # fmt: skip
@click.option("--forget-old", is_flag=True, help="With --in-place: drop the old database instead.")
@click.option("--back-up-old", is_flag=True, help="Make a last backup of the old database first.")
@click.option("--restart", is_flag=True, help="Forget a recovery that was not finished.")
@click.option("--yes", is_flag=True, help="Do not ask: for scripts.")
@click.option("--dry-run", is_flag=True, help="Show the plan and touch nothing.")
@command_options(identity=True)
@managed_options
def recover_command(
    context: Context,
    database: str,
    to: str | None,
    backup: str | None,
    target: str | None,
    in_place: bool,
    forget_old: bool,
    back_up_old: bool,
    restart: bool,
    yes: bool,
    dry_run: bool,
) -> ExitCode:
    """Bring DATABASE back: stop the application, keep what is left, restore, prove, ask, start.

    The commands that stop and start the application are those of the configuration. If a step
    fails, the same command goes on from there once what is wrong is put right.
    """
    refuse_together(target is not None, in_place, "--target and --in-place")
    refuse_together(forget_old, back_up_old, "--forget-old and --back-up-old")
    if forget_old and not in_place:
        raise UsageError("--forget-old goes with --in-place")
    progress = _unfinished(context, database, restart=restart)
    if to is None and backup is None and progress is None and not yes and sys.stdin.isatty():
        to = _ask_for_the_moment(context, database)
    moment = _moment(to, progress)
    named = backup or (progress.backup if progress and moment is None else None)
    choice = choose_backup_for(context, database, named, Scope(), moment)
    plan = _plan(
        context, database, choice, moment,
        target=_target(context, database, target, in_place=in_place),
        keeping=_keeping(in_place=in_place, forget_old=forget_old, back_up_old=back_up_old),
        progress=progress,
    )  # fmt: skip
    if dry_run or not context.as_json:
        for line in describe(plan):
            (context.out if dry_run else context.err).print(escape(line))
    if dry_run:
        return ExitCode.DONE
    _confirm(plan, ask=not yes)
    wanted = action(
        "recover",
        database,
        backup=plan.backup,
        moment=plan.moment,
        target=plan.target,
        old_database=plan.keeping.value,
    )
    require_factor(context, wanted, choice.found.repositories)
    return _recover(context, plan, choice, progress or _begin(context, plan, moment))


def _unfinished(context: Context, database: str, *, restart: bool) -> Progress | None:
    path = _note(context, database)
    if restart:
        path.unlink(missing_ok=True)
    found = Progress.load(path)
    if found is not None:
        context.warn(
            f"a recovery to {found.moment or 'backup ' + found.backup} was begun on"
            f" {words.moment(found.began)}: it goes on (--restart begins anew)"
        )
    return found


def _note(context: Context, database: str) -> Path:
    return context.config.state_dir / "recoveries" / f"{database}.json"


def _ask_for_the_moment(context: Context, database: str) -> str | None:
    known = look_at(context, database, context.repositories(), offline=True)
    for window in known.reach.windows:
        context.err.print(
            f"every second from {words.moment(window.begins)} to {words.moment(window.ends)}"
        )
    answer = click.prompt(
        "To which moment (as 2026-01-15 12:00:00+00:00; nothing: the newest backup)",
        default="",
        show_default=False,
        err=True,
    )
    return str(answer).strip() or None


def _moment(to: str | None, progress: Progress | None) -> Moment | None:
    """As asked; a recovery that goes on keeps its own."""
    if progress is None:
        return parse_moment(to) if to else None
    if to is not None and to != progress.moment:
        raise UsageError(
            f"the recovery that was begun is to {progress.moment or 'a backup'!r}, not to {to!r}",
            hint="Let it go on without --to, or begin anew with --restart.",
        )
    return parse_moment(progress.moment) if progress.moment else None


def _begin(context: Context, plan: RecoveryPlan, moment: Moment | None) -> Progress:
    text = moment.time.isoformat() if isinstance(moment, AtTime) else ""
    if moment is not None and not text:
        text = str(moment).rpartition(" ")[2]
    return Progress(_note(context, plan.database), context.now(), text, plan.backup, plan.old_name)


def _target(context: Context, database: str, target: str | None, *, in_place: bool) -> Address:
    if target is not None:
        return target_address(context, target)
    if in_place:
        return context.address(database)
    configured = context.config.database(database).recovery.target
    if configured is None:
        raise ConfigurationError(
            f"it is not said where {database!r} is to be recovered to",
            hint="Pass --target URL (an empty database), or --in-place to put the old one aside.",
        )
    url = configuration.resolve(configured, f"the recovery target of database {database!r}")
    return Address.parse(url)


def _keeping(*, in_place: bool, forget_old: bool, back_up_old: bool) -> Keeping:
    if back_up_old and not in_place:
        return Keeping.BACK_UP
    if in_place:
        return Keeping.FORGET if forget_old else Keeping.RENAME
    return Keeping.LEAVE


def _plan(
    context: Context,
    database: str,
    choice: Choice,
    moment: Moment | None,
    *,
    target: Address,
    keeping: Keeping,
    progress: Progress | None,
) -> RecoveryPlan:
    configured = context.config.database(database)
    source = context.address(database)
    now = context.now()
    known = look_at(context, database, context.repositories(), offline=True)
    facts = Facts(now, choice.found.manifest, None, None, known.drills)
    reached = moment.time if isinstance(moment, AtTime) else choice.contents.point.taken
    old_name = f"{source.database[:40]}_before_{now:%Y%m%d_%H%M%S}"
    return RecoveryPlan(
        database=database,
        backup=choice.found.manifest.backup,
        moment=str(moment) if moment else f"{choice.contents.point.taken:%Y-%m-%d %H:%M:%S} UTC",
        source=source,
        target=target,
        keeping=keeping,
        old_name=progress.old_name if progress else old_name,
        makes_target=keeping in (Keeping.RENAME, Keeping.FORGET),
        stop=configured.recovery.stop,
        start=configured.recovery.start,
        hook_seconds=configured.recovery.hook_seconds,
        checks=len(configured.checks),
        expected=restore_estimate(facts),
        loses=max(now - reached, timedelta(0)),
    )


def _confirm(plan: RecoveryPlan, *, ask: bool) -> None:
    """Whoever is at the terminal types the name of what is to be recovered."""
    if not ask:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to confirm the plan", hint="Pass --yes in a script.")
    if click.prompt(f"Type {plan.database} to go on", err=True) != plan.database:
        raise UsageError("nothing was done")


def _recover(context: Context, plan: RecoveryPlan, choice: Choice, progress: Progress) -> ExitCode:
    began = context.now()
    with context.reporter() as reporter:
        run = _Run(context, plan, choice, reporter)
        steps = carry_out(plan, run.actions(), progress, reporter)
    whole = context.now() - progress.began
    path = run.keep_evidence(progress.began, steps, whole)
    progress.finish()
    promised = context.config.database(plan.database).objectives
    document = {
        "database": plan.database,
        "backup": plan.backup,
        "moment": plan.moment,
        "target": str(plan.target),
        "old_database": plan.old_name if plan.keeping is Keeping.RENAME else None,
        "seconds": round(whole.total_seconds(), 3),
        "this_try_seconds": round((context.now() - began).total_seconds(), 3),
        "steps": [{"name": step.name, "seconds": step.seconds} for step in steps],
        "application_objective_seconds": promised.application_rto_minutes * 60,
        "within_objective": whole <= timedelta(minutes=promised.application_rto_minutes),
        "not_exact": [one.what for one in run.not_exact],
        "evidence": path,
    }
    if context.as_json:
        context.answer(document)
    else:
        _show(context, plan, steps, whole, promised.application_rto_minutes)
    return ExitCode.ATTENTION if run.not_exact or context.needs_attention else ExitCode.DONE


def _show(
    context: Context,
    plan: RecoveryPlan,
    steps: tuple[Step, ...],
    whole: timedelta,
    promised_minutes: float,
) -> None:
    out = context.out
    out.print(f"\n[bold green]recovered[/] {plan.database} to {escape(plan.moment)}")
    for step in steps:
        out.print(f"  {step.name:<22} {words.duration(step.seconds)}")
    colour = "green" if whole <= timedelta(minutes=promised_minutes) else "red"
    out.print(
        f"in all [{colour}]{words.duration(whole.total_seconds())}[/] since it was begun; promised"
        f" {promised_minutes:g} min"
    )
    if plan.keeping is Keeping.RENAME:
        out.print(f"the old database is now {escape(plan.old_name)}: drop it when all are sure")
    out.print(f"next: pgkeep backup {plan.database}, and pgkeep capture {plan.database} again")


class _Run:
    """One recovery under way: what the steps share."""

    def __init__(
        self, context: Context, plan: RecoveryPlan, choice: Choice, reporter: Reporter
    ) -> None:
        self._context = context
        self._plan = plan
        self._choice = choice
        self._reporter = reporter
        self._result: RestoreResult | None = None
        self._checks: list[CheckResult] = []

    @property
    def not_exact(self) -> tuple[NotCovered, ...]:
        """What is not as it was at the moment."""
        replayed = self._result.replayed if self._result else None
        return (
            tuple(NotCovered(one.what, one.why) for one in replayed.not_exact) if replayed else ()
        )

    def actions(self) -> dict[StepName, Action]:
        """What each step does."""
        plan = self._plan
        hooks = partial(run_hooks, seconds=plan.hook_seconds, facts=self._facts())
        return {
            StepName.STOP: partial(hooks, plan.stop),
            StepName.KEEP: self._keep_old,
            StepName.MAKE: self._make,
            StepName.RESTORE: self._restore,
            StepName.ASK: self._ask,
            StepName.START: partial(hooks, plan.start),
        }

    def _facts(self) -> dict[str, str]:
        plan = self._plan
        return {
            "PGKEEP_DATABASE": plan.database,
            "PGKEEP_TARGET_HOST": plan.target.host,
            "PGKEEP_TARGET_PORT": plan.target.port,
            "PGKEEP_TARGET_DATABASE": plan.target.database,
            "PGKEEP_MOMENT": plan.moment,
        }

    def _keep_old(self) -> None:
        plan, context = self._plan, self._context
        slot = slot_name(context, plan.database)
        if plan.keeping is Keeping.RENAME:
            rename_database(plan.source, plan.old_name, slot)
        elif plan.keeping is Keeping.FORGET:
            drop_database(plan.source, slot)
        elif plan.keeping is Keeping.BACK_UP:
            request = backup_request(context, plan.database, Kind.FULL, Tier.MANUAL)
            back_up(request, self._reporter)

    def _make(self) -> None:
        make_database(self._plan.target, self._choice.contents.database)

    def _restore(self) -> None:
        plan, choice, context = self._plan, self._choice, self._context
        if plan.makes_target:  # an earlier try may have left it incomplete
            self._make()
        identity = context.epoch_identity(choice.found)
        self._result = restore(
            RestoreRequest(
                manifest=choice.found.manifest,
                contents=choice.contents,
                sealed=Sealed(choice.found.source, [identity]),
                target=plan.target,
                scope=Scope(critical=critical_tables(context, plan.database)),
                choose_client=context.choose_client,
                jobs=context.jobs(None),
                now=context.now,
                journey=choice.journey,
            ),
            self._reporter,
        )
        raise_unless_proven(self._result)

    def _ask(self) -> None:
        address = self._plan.target
        with closing(connect(address)) as connection, translated(address):
            self._checks = list(
                run_checks(connection, checks_of(self._context, self._plan.database))
            )
        failed = [one for one in self._checks if not one.passed]
        if failed:
            raise ProofFailed(
                f"check {failed[0].name!r}: {failed[0].found}",
                hint="The database is restored, and the application is not started. Look at it;"
                " then start the application by hand, or recover to another moment (--restart).",
            )

    def keep_evidence(self, began: datetime, steps: tuple[Step, ...], whole: timedelta) -> str:
        """What was done, signed, beside the backups. The path of the file."""
        context, choice = self._context, self._choice
        return keep_evidence(
            context,
            choice,
            context.epoch_identity(choice.found),
            Occasion(
                kind="recovery",
                started=began.astimezone(UTC),
                seconds=whole.total_seconds(),
                steps=steps,
                outcome=Outcome.PARTIAL if self.not_exact else Outcome.PASSED,
                server=str(self._plan.target),
                proof=self._result.proof if self._result else None,
            ),
            Details(not_covered=self.not_exact, checks=tuple(self._checks)),
        )
