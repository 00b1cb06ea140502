"""pgkeep recover: the whole disaster procedure, from stopping the application to starting it."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import rich_click as click
from rich.markup import escape

from pgkeep import config as configuration
from pgkeep.cli import words
from pgkeep.cli.approving import action, require_factor
from pgkeep.cli.choice import Choice, choose_backup_for
from pgkeep.cli.commands.status import look_at
from pgkeep.cli.context import Context
from pgkeep.cli.managed import managed_options
from pgkeep.cli.options import command_options, refuse_together
from pgkeep.cli.reached import windows_in_words
from pgkeep.cli.recovering import Recovery
from pgkeep.cli.target import target_address
from pgkeep.config import ObjectivesConfig
from pgkeep.errors import ConfigurationError, ExitCode, UsageError
from pgkeep.postgres.address import Address
from pgkeep.recovery.moment import AtEnd, AtLsn, AtTime, AtTransaction, Moment, parse_moment
from pgkeep.recovery.objectives import Facts, Objective, judge_recovery, restore_estimate
from pgkeep.recovery.plan import Scope
from pgkeep.recovery.recover import Keeping, Progress, RecoveryPlan, carry_out, describe
from pgkeep.recovery.whole_databases import name_aside
from pgkeep.repository.evidence import Step

LAST = "last"
"""In the place of a moment: the end of the journal."""

BEFORE = "before "
"""In front of a transaction's id: all that committed before it did."""


@click.command("recover")
@click.argument("database")
@click.option("--to", metavar="MOMENT", help="The moment: a time with its zone, an LSN, or a"
              " transaction id.  [default: the newest backup]")  # fmt: skip
@click.option("--before-transaction", type=click.IntRange(3), metavar="XID", help="All that"
              " committed before this transaction did.")  # fmt: skip
@click.option("--to-last-reachable", is_flag=True, help="To the end of the journal, or as far on"
              " the way there as can be reached.")  # fmt: skip
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
    before_transaction: int | None,
    to_last_reachable: bool,
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
    refuse_together(to is not None, to_last_reachable, "--to and --to-last-reachable")
    refuse_together(
        before_transaction is not None,
        to is not None or to_last_reachable,
        "--before-transaction and --to or --to-last-reachable",
    )
    refuse_together(target is not None, in_place, "--target and --in-place")
    refuse_together(forget_old, back_up_old, "--forget-old and --back-up-old")
    if forget_old and not in_place:
        raise UsageError("--forget-old goes with --in-place")
    progress = None if restart else _unfinished(context, database)
    if to_last_reachable:
        to = LAST
    elif before_transaction is not None:
        to = f"{BEFORE}{before_transaction}"
    elif to is None and backup is None and progress is None and not yes and sys.stdin.isatty():
        to = _ask_for_the_moment(context, database)
    moment = _moment(to, progress)
    named = backup or (progress.backup if progress else None)
    choice = choose_backup_for(
        context, database, named, Scope(), moment, to_last_reachable=isinstance(moment, AtEnd)
    )
    if choice.journey is not None and choice.journey.shortfall:
        context.warn(choice.journey.shortfall)
    plan = _plan(
        context, database, choice, moment,
        target=_target(context, database, target, in_place=in_place),
        keeping=_keeping(in_place=in_place, forget_old=forget_old, back_up_old=back_up_old),
        progress=progress,
    )  # fmt: skip
    if progress is not None:
        progress.refuse_another(plan)
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


def _unfinished(context: Context, database: str) -> Progress | None:
    found = Progress.load(_note(context, database))
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
    for line in windows_in_words(known.reach):
        context.err.print(line)
    answer = click.prompt(
        f"To which moment (as 2026-01-15 12:00:00+00:00, or {LAST}; nothing: the newest backup)",
        default="",
        show_default=False,
        err=True,
    )
    return str(answer).strip() or None


def _moment(to: str | None, progress: Progress | None) -> Moment | None:
    """As asked; a recovery that goes on keeps its own."""
    if progress is None:
        return _parsed(to) if to else None
    begun = _parsed(progress.moment) if progress.moment else None
    if to is not None and _parsed(to) != begun:
        raise UsageError(
            f"the recovery that was begun is to {progress.moment or 'a backup'!r}, not to {to!r}",
            hint="Let it go on without --to, or begin anew with --restart.",
        )
    return begun


def _parsed(text: str) -> Moment:
    if text == LAST:
        return AtEnd()
    moment = parse_moment(text.removeprefix(BEFORE))
    if text.startswith(BEFORE):
        if not isinstance(moment, AtTransaction):
            raise UsageError(f"{text!r}: only a transaction has a before")
        return replace(moment, inclusive=False)
    return moment


def _begin(context: Context, plan: RecoveryPlan, moment: Moment | None) -> Progress:
    match moment:
        case None:
            text = ""
        case AtTime(time):
            text = time.isoformat()
        case AtEnd():
            text = LAST
        case AtTransaction(xid, inclusive):
            text = str(xid) if inclusive else f"{BEFORE}{xid}"
        case AtLsn(lsn):
            text = str(lsn)
    return Progress(
        _note(context, plan.database), context.now(), text, plan.backup, plan.old_name,
        str(plan.target), plan.keeping.value,
    )  # fmt: skip


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
    if not in_place:
        return Keeping.BACK_UP if back_up_old else Keeping.LEAVE
    if forget_old:
        return Keeping.FORGET
    return Keeping.BACK_UP_AND_RENAME if back_up_old else Keeping.RENAME


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
    # Where nothing is done to the old database, nobody has to know where it was.
    source = None if keeping is Keeping.LEAVE else context.address(database)
    now = context.now()
    known = look_at(context, database, context.repositories(), offline=True)
    facts = Facts(now, choice.found.manifest, None, None, known.drills)
    old_name = name_aside(source.database, f"_before_{now:%Y%m%d_%H%M%S}") if source else ""
    return RecoveryPlan(
        database=database,
        backup=choice.found.manifest.backup,
        moment=str(moment) if moment else f"{choice.contents.point.taken:%Y-%m-%d %H:%M:%S} UTC",
        source=source,
        target=target,
        keeping=keeping,
        old_name=progress.old_name if progress else old_name,
        makes_target=keeping.renames or keeping is Keeping.FORGET,
        stop=configured.recovery.stop,
        start=configured.recovery.start,
        hook_seconds=configured.recovery.hook_seconds,
        checks=len(configured.checks),
        expected=restore_estimate(facts),
        loses=max(now - _reached(choice, moment), timedelta(0)),
    )


def _reached(choice: Choice, moment: Moment | None) -> datetime:
    """The time as of which the database will be."""
    if isinstance(moment, AtTime):
        return moment.time
    survey = choice.journey.survey if choice.journey is not None else None
    if survey is None or not isinstance(moment, AtEnd):
        return choice.contents.point.taken
    if survey.obstacle is None:
        return survey.covered
    return survey.last.committed if survey.last is not None else choice.contents.point.taken


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
        run = Recovery(context, plan, choice, progress, reporter)
        run.refuse_occupied_target()
        run.unmark()
        steps = carry_out(plan, run.actions(), progress, reporter)
    whole = context.now() - progress.began
    path = run.keep_evidence(progress.began, steps, whole)
    progress.finish()
    not_exact = progress.findings.not_exact
    timeline = _timeline(context.config.database(plan.database).objectives, progress, whole)
    document = {
        "database": plan.database,
        "backup": plan.backup,
        "moment": plan.moment,
        "target": str(plan.target),
        "old_database": plan.old_name if plan.keeping.renames else None,
        "seconds": round(whole.total_seconds(), 3),
        "this_try_seconds": round((context.now() - began).total_seconds(), 3),
        "tries": progress.attempts,
        "steps": [{"name": step.name, "seconds": step.seconds} for step in steps],
        "objectives": [
            {
                "name": one.name,
                "promised_seconds": one.promised.total_seconds(),
                "measured_seconds": round(one.measured_seconds, 3),
                "met": one.is_met,
            }
            for one in timeline
        ],
        "within_objective": all(one.is_met is not False for one in timeline),
        "not_exact": [one.what for one in not_exact],
        "evidence": path,
    }
    if context.as_json:
        context.answer(document)
    else:
        _show(context, plan, progress, steps, timeline)
    return ExitCode.ATTENTION if not_exact or context.needs_attention else ExitCode.DONE


def _timeline(
    promised: ObjectivesConfig, progress: Progress, whole: timedelta
) -> tuple[Objective, ...]:
    """When what was back, beside what was promised; all counts from when it was begun."""
    findings = progress.findings
    return judge_recovery(
        promised, findings.critical_seconds, findings.restored_seconds, whole.total_seconds()
    )


def _show(
    context: Context,
    plan: RecoveryPlan,
    progress: Progress,
    steps: tuple[Step, ...],
    timeline: tuple[Objective, ...],
) -> None:
    out = context.out
    out.print(f"\n[bold green]recovered[/] {plan.database} to {escape(plan.moment)}")
    for step in steps:
        out.print(f"  {step.name:<22} {words.duration(step.seconds)}")
    for one in timeline:
        colour = "green" if one.is_met else "red"
        took = words.duration(one.measured_seconds)
        promised = words.duration(one.promised.total_seconds())
        out.print(f"  {one.name:<22} [{colour}]{took}[/] since it was begun; promised {promised}")
    for item in progress.findings.not_exact:
        out.print(f"[bold yellow]inexact[/]  {escape(item.what)}: {escape(item.why)}")
    if plan.keeping.renames:
        out.print(f"the old database is now {escape(plan.old_name)}: drop it when all are sure")
    out.print(f"next: pgkeep backup {plan.database}, and pgkeep capture {plan.database} again")
