"""The whole disaster procedure, step by step, each done once: what was done is remembered.

    stop the application · keep what is left · make a new database · restore and prove ·
    ask what must hold · start the application

Planning is apart from doing: the plan can be printed, and a crash or a failure at any step leaves
a note from which the same command goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from pgkeep.errors import ConfigurationError, UsageError
from pgkeep.events import Noticed, Reporter, StageBegan, StageEnded
from pgkeep.model import BackupId
from pgkeep.postgres.address import Address
from pgkeep.records import JsonForm
from pgkeep.recovery.hooks import in_words
from pgkeep.repository.evidence import CheckResult, Compared, NotCovered, Step
from pgkeep.repository.hostkeys import write_private


class StepName(StrEnum):
    """The steps in their order."""

    STOP = "stop the application"
    KEEP = "keep what is left"
    MAKE = "make a new database"
    RESTORE = "restore and prove"
    ASK = "ask what must hold"
    START = "start the application"


class Keeping(StrEnum):
    """What becomes of the old database."""

    RENAME = "rename"
    BACK_UP = "back up"
    BACK_UP_AND_RENAME = "back up and rename"
    FORGET = "forget"
    LEAVE = "leave"
    """It is elsewhere, and nothing here touches it."""

    @property
    def renames(self) -> bool:
        return self in (Keeping.RENAME, Keeping.BACK_UP_AND_RENAME)


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """All that is decided before anything is done."""

    database: str
    backup: BackupId
    moment: str
    """In words."""
    source: Address | None
    """None where nothing is done to the old database."""
    target: Address
    keeping: Keeping
    old_name: str
    """What the old database is called afterwards, if it is renamed."""
    makes_target: bool
    stop: Sequence[Sequence[str]]
    start: Sequence[Sequence[str]]
    hook_seconds: float
    checks: int
    expected: timedelta | None
    """How long the restore takes, by the last drills."""
    loses: timedelta
    """From the moment until now."""

    @property
    def steps(self) -> tuple[StepName, ...]:
        """Those that there is something to do in."""
        wanted = {
            StepName.STOP: bool(self.stop),
            StepName.KEEP: self.keeping is not Keeping.LEAVE,
            StepName.MAKE: self.makes_target,
            StepName.RESTORE: True,
            StepName.ASK: bool(self.checks),
            StepName.START: bool(self.start),
        }
        return tuple(step for step, is_wanted in wanted.items() if is_wanted)


def describe(plan: RecoveryPlan) -> Iterator[str]:
    """The plan in words."""
    yield f"recover {plan.database} to {plan.moment}, from backup {plan.backup}"
    yield f"  what happened since then is lost: {_in_words(plan.loses)}"
    if plan.expected is not None:
        yield f"  the restore takes about {_in_words(plan.expected)}, by the last drills"
    for number, step in enumerate(plan.steps, 1):
        yield f"{number}. {step}: {_what(plan, step)}"


def _what(plan: RecoveryPlan, step: StepName) -> str:
    match step:
        case StepName.STOP:
            return "; ".join(map(in_words, plan.stop))
        case StepName.START:
            return "; ".join(map(in_words, plan.start))
        case StepName.KEEP:
            return {
                Keeping.RENAME: f"{plan.source} becomes {plan.old_name}",
                Keeping.BACK_UP: f"a last backup of {plan.source}",
                Keeping.BACK_UP_AND_RENAME: f"a last backup of {plan.source}, which then becomes"
                f" {plan.old_name}",
                Keeping.FORGET: f"{plan.source} is DROPPED",
                Keeping.LEAVE: "",
            }[plan.keeping]
        case StepName.ASK:
            return f"{plan.checks} checks"
        case _:
            return str(plan.target)


def _in_words(span: timedelta) -> str:
    seconds = round(span.total_seconds())
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"


# --- what was done --------------------------------------------------------------------------------


@dataclass(slots=True)
class Findings:
    """What the steps found, for the evidence: it must outlive the process that found it."""

    compared: Compared = field(default_factory=Compared)
    critical_seconds: float | None = None
    """Until the critical tables were back, from the beginning of the recovery."""
    restored_seconds: float | None = None
    """Until the whole database was back and proven, counted likewise."""
    not_exact: tuple[NotCovered, ...] = ()
    checks: tuple[CheckResult, ...] = ()


_FINDINGS = JsonForm(Findings)


@dataclass(slots=True)
class Progress:
    """Which steps of a recovery are done, in a file, so that a second try goes on from there."""

    path: Path
    began: datetime
    moment: str
    backup: str
    old_name: str
    target: str = ""
    """Without a password; as `keeping`, empty in notes of older versions."""
    keeping: str = ""
    done: dict[str, float] = field(default_factory=dict)
    """Seconds that each step took."""
    attempts: int = 0
    restoring: bool = False
    """Whether a restore into the target was begun: what is incomplete there is ours."""
    findings: Findings = field(default_factory=Findings)

    @classmethod
    def load(cls, path: Path) -> Progress | None:
        """What an unfinished recovery left; None if there is none."""
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            found = json.loads(text)
            return cls(
                path,
                datetime.fromisoformat(found["began"]),
                found["moment"],
                found["backup"],
                found["old_name"],
                found.get("target", ""),
                found.get("keeping", ""),
                {str(name): float(seconds) for name, seconds in found["done"].items()},
                int(found["attempts"]),
                bool(found.get("restoring")),
                _FINDINGS.check(found.get("findings", {})),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ConfigurationError(
                f"the note of an unfinished recovery, {str(path)!r}, cannot be read",
                hint="Look which steps were done, delete the file, and begin anew.",
            ) from exc

    def seconds_at(self, moment: datetime) -> float:
        """Since the recovery was begun, with all that lay between its tries."""
        return round((moment - self.began).total_seconds(), 3)

    def save(self) -> None:
        """Durably, before the next step begins."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        document = {
            "began": self.began.astimezone(UTC).isoformat(),
            "moment": self.moment,
            "backup": self.backup,
            "old_name": self.old_name,
            "target": self.target,
            "keeping": self.keeping,
            "done": self.done,
            "attempts": self.attempts,
            "restoring": self.restoring,
            "findings": asdict(self.findings),
        }
        write_private(self.path, json.dumps(document, indent=2).encode())

    def refuse_another(self, plan: RecoveryPlan) -> None:
        """`UsageError` if a plan is not the one that was begun: half of each would be done."""
        for what, before, now in (
            ("from backup", self.backup, plan.backup),
            ("into", self.target, str(plan.target)),
            ("and the old database is to be kept so:", self.keeping, plan.keeping.value),
        ):
            if before and before != now:
                raise UsageError(
                    f"the recovery that was begun is {what} {before}, not {now}",
                    hint="Run the command as it was begun, or begin anew with --restart.",
                )

    def finish(self) -> None:
        """Nothing is unfinished any more."""
        self.path.unlink(missing_ok=True)


Action = Callable[[], None]


def carry_out(
    plan: RecoveryPlan,
    actions: Mapping[StepName, Action],
    progress: Progress,
    reporter: Reporter,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Step, ...]:
    """Do every step that is not done yet. An error ends it; what was done stays noted."""
    progress.attempts += 1
    progress.save()
    for step in plan.steps:
        if step in progress.done:
            reporter.report(Noticed(f"done before: {step}"))
            continue
        reporter.report(StageBegan(step))
        began = clock()
        actions[step]()
        progress.done[step] = round(clock() - began, 3)
        progress.save()
        reporter.report(StageEnded(step, _what(plan, step)))
    return tuple(Step(step, progress.done[step]) for step in plan.steps)
