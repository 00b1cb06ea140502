"""A recovery under way: what each of its steps does."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial

from pgkeep.backup.backup import back_up
from pgkeep.cli.backing_up import backup_request
from pgkeep.cli.choice import Choice, critical_tables
from pgkeep.cli.commands.capture import slot_name
from pgkeep.cli.commands.drill import checks_of
from pgkeep.cli.context import Context
from pgkeep.cli.evidence import Occasion, keep_evidence
from pgkeep.errors import ProofFailed
from pgkeep.events import Reporter
from pgkeep.model import Kind, Tier
from pgkeep.platforms import supabase
from pgkeep.postgres.session import connect, translated
from pgkeep.recovery.checks import run_checks
from pgkeep.recovery.fill import CRITICAL
from pgkeep.recovery.hooks import Hooks
from pgkeep.recovery.load import Sealed
from pgkeep.recovery.plan import Scope
from pgkeep.recovery.recover import Action, Keeping, Progress, RecoveryPlan, StepName
from pgkeep.recovery.request import RestoreRequest, RestoreResult
from pgkeep.recovery.restore import COUNTED_SINCE, raise_unless_proven, restore
from pgkeep.recovery.target import is_marked, refuse_occupied, take_mark_off
from pgkeep.recovery.timed import Timed
from pgkeep.recovery.whole_databases import (
    database_exists,
    drop_database,
    make_again,
    make_database,
    rename_database,
)
from pgkeep.repository.evidence import Details, NotCovered, Outcome, Step


class Recovery:
    """What the steps of one recovery share. What they find is noted in its progress."""

    def __init__(
        self,
        context: Context,
        plan: RecoveryPlan,
        choice: Choice,
        progress: Progress,
        reporter: Reporter,
    ) -> None:
        self._context = context
        self._plan = plan
        self._choice = choice
        self._progress = progress
        self._reporter = reporter

    def actions(self) -> dict[StepName, Action]:
        """What each step does."""
        plan = self._plan
        hooks = Hooks(plan.hook_seconds, self._facts(), self._secrets())
        return {
            StepName.STOP: partial(hooks.run, plan.stop),
            StepName.KEEP: self._keep_old,
            StepName.MAKE: self._make,
            StepName.RESTORE: self._restore,
            StepName.ASK: self._ask,
            StepName.START: partial(hooks.run, plan.start),
        }

    def refuse_occupied_target(self) -> None:
        """Before anything is stopped. A project of a platform's is never empty: the restore looks
        into that."""
        plan, progress = self._plan, self._progress
        if plan.makes_target or progress.restoring or StepName.RESTORE in progress.done:
            return
        with closing(connect(plan.target)) as connection, translated(plan.target):
            if not supabase.is_supabase(connection):
                refuse_occupied(connection, plan.target.database)

    def unmark(self) -> None:
        """Who was killed once the restore was proven may have left its mark on the target."""
        if StepName.RESTORE in self._progress.done:
            target = self._plan.target
            with closing(connect(target)) as connection, translated(target):
                take_mark_off(connection)

    def _facts(self) -> dict[str, str]:
        plan = self._plan
        return {
            "PGKEEP_DATABASE": plan.database,
            "PGKEEP_TARGET_HOST": plan.target.host,
            "PGKEEP_TARGET_PORT": plan.target.port,
            "PGKEEP_TARGET_DATABASE": plan.target.database,
            "PGKEEP_MOMENT": plan.moment,
        }

    def _secrets(self) -> tuple[str, ...]:
        addresses = (self._plan.target, self._plan.source)
        return tuple(one.parameters.get("password", "") for one in addresses if one is not None)

    def _keep_old(self) -> None:
        plan, source = self._plan, self._plan.source
        if source is None:
            return
        slot = slot_name(self._context, plan.database)
        if plan.keeping is Keeping.BACK_UP or (
            plan.keeping is Keeping.BACK_UP_AND_RENAME
            and not database_exists(source, plan.old_name)
        ):
            request = backup_request(self._context, plan.database, Kind.FULL, Tier.MANUAL)
            back_up(request, self._reporter)
        if plan.keeping.renames:
            rename_database(source, plan.old_name, slot)
        elif plan.keeping is Keeping.FORGET:
            drop_database(source, slot)

    def _make(self) -> None:
        make_database(self._plan.target, self._choice.contents.database)

    def _restore(self) -> None:
        plan, choice, context = self._plan, self._choice, self._context
        self._clear_the_target()
        identity = context.epoch_identity(choice.found)
        timed = Timed(self._reporter, since=COUNTED_SINCE)
        before = self._progress.seconds_at(context.now())
        result = restore(
            RestoreRequest(
                manifest=choice.found.manifest,
                contents=choice.contents,
                sealed=Sealed(choice.found.source, [identity]),
                target=plan.target,
                scope=Scope(critical=critical_tables(context, plan.database)),
                choose_client=context.choose_client,
                jobs=context.jobs_to_restore(None),
                now=context.now,
                journey=choice.journey,
                when_proven=lambda result: self._note(result, timed, before),
            ),
            timed,
        )
        raise_unless_proven(result)

    def _clear_the_target(self) -> None:
        """An earlier try may have left it incomplete."""
        plan, progress = self._plan, self._progress
        if plan.makes_target:
            self._make()
        elif progress.restoring:
            with closing(connect(plan.target)) as connection, translated(plan.target):
                is_managed = supabase.is_supabase(connection)
            if not is_managed:  # else it cannot be dropped, and the restore says what is there
                make_again(plan.target, self._choice.contents.database)
        else:
            with closing(connect(plan.target)) as connection, translated(plan.target):
                progress.restoring = not is_marked(connection)
            progress.save()

    def _note(self, result: RestoreResult, timed: Timed, before: float) -> None:
        """Before the target stops to be marked as incomplete, so that either tells what it is."""
        progress, findings = self._progress, self._progress.findings
        findings.compared = result.proof.compared
        critical = timed.seconds(CRITICAL)
        findings.critical_seconds = None if critical is None else round(before + critical, 3)
        findings.restored_seconds = progress.seconds_at(self._context.now())
        replayed = result.replayed.not_exact if result.replayed else ()
        findings.not_exact = (
            *(NotCovered(one.what, one.why) for one in replayed),
            *(NotCovered(one.what, one.reason) for one in result.refused),
        )
        progress.done[StepName.RESTORE] = round(findings.restored_seconds - before, 3)
        progress.save()

    def _ask(self) -> None:
        checks = tuple(run_checks(self._plan.target, checks_of(self._context, self._plan.database)))
        self._progress.findings.checks = checks
        failed = [one for one in checks if not one.passed]
        if failed:
            raise ProofFailed(
                f"check {failed[0].name!r}: {failed[0].found}",
                hint="The database is restored, and the application is not started. Look at it;"
                " then start the application by hand, or recover to another moment (--restart).",
            )

    def keep_evidence(self, began: datetime, steps: tuple[Step, ...], whole: timedelta) -> str:
        """What was done, signed, beside the backups. The path of the file."""
        context, choice, findings = self._context, self._choice, self._progress.findings
        critical = findings.critical_seconds
        more = (Step(CRITICAL, critical),) if critical is not None else ()
        return keep_evidence(
            context,
            choice.found,
            context.epoch_identity(choice.found),
            Occasion(
                kind="recovery",
                started=began.astimezone(UTC),
                seconds=whole.total_seconds(),
                steps=(*steps, *more),
                outcome=Outcome.PARTIAL if findings.not_exact else Outcome.PASSED,
                server=str(self._plan.target),
                compared=findings.compared,
                moment=choice.journey.moment if choice.journey else None,
            ),
            Details(not_covered=findings.not_exact, checks=findings.checks),
        )
