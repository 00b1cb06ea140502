"""Asking for a second factor before what cannot be undone, where one is enrolled.

A command calls `require_factor` once it knows exactly what it is about to do, and before it does
it. Whoever is at a terminal is asked; a script gives a code in `PGKEEP_CODE` or the path of a
signature in `PGKEEP_APPROVAL`. Each answer is on record in the ledger.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.markup import escape

from pgkeep.cli.context import Context
from pgkeep.cli.enrolled import Enrolled, host_name, look_up
from pgkeep.cli.recording import note_decision
from pgkeep.config import SecretReference
from pgkeep.errors import ApprovalInvalid, ConfigurationError, FactorNeeded, FactorRefused
from pgkeep.repository.approvals import Action
from pgkeep.repository.factors import Factor, FactorKind, Spent, normal_recovery_code
from pgkeep.repository.repository import Repository
from pgkeep.sealing.operators import NAMESPACE

CODE_VARIABLE = "PGKEEP_CODE"
APPROVAL_VARIABLE = "PGKEEP_APPROVAL"
_TRIES = 3

_DIGITS = re.compile(r"[0-9]{6}")


def action(name: str, database: str = "", /, **about: object) -> Action:
    """What is to be done. Of `about`, what is nothing or false is left out."""
    given = ((key.replace("_", " "), value) for key, value in about.items())
    return Action(
        name, database, tuple((key, _shown(value)) for key, value in given if _says(value))
    )


def _says(value: object) -> bool:
    return value not in (None, False, "", ())


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "yes" if value is True else str(value)


def require_factor(
    context: Context,
    wanted: Action,
    repositories: Sequence[Repository] | None = None,
    *,
    strict: bool = False,
) -> None:
    """Go on only with a second factor, where one is enrolled; else nothing happens.

    `FactorNeeded` if none was given, `FactorRefused` or `ApprovalInvalid` if it is not right.
    `repositories` saves opening them again; for `strict` see `look_up`.
    """
    enrolled = look_up(context, repositories, strict=strict)
    for name in enrolled.gathered.foreign:
        context.warn(f"a second factor of another host is not asked for here: {name}")
    if enrolled.gathered.is_enrolled:
        ask_for_factor(enrolled, wanted)


def ask_for_factor(enrolled: Enrolled, wanted: Action) -> Factor:
    """The factor that was given for an action."""
    try:
        factor = _answered(enrolled, wanted)
    except (FactorNeeded, FactorRefused, ApprovalInvalid) as exc:
        note_decision(enrolled.context.config, wanted, "refused", error=str(exc))
        raise
    note_decision(enrolled.context.config, wanted, "granted", factor=factor.name)
    enrolled.mend()
    return factor


def _answered(enrolled: Enrolled, wanted: Action) -> Factor:
    if path := os.environ.get(APPROVAL_VARIABLE):
        return take_approval(enrolled, wanted, Path(path))
    if text := os.environ.get(CODE_VARIABLE):
        return take_code(enrolled, given_code(text, CODE_VARIABLE))
    if sys.stdin.isatty() and enrolled.gathered.factors:
        return _asked(enrolled, wanted)
    raise _needed(enrolled, wanted)


def given_code(text: str, variable: str) -> str:
    """The code itself, or what `file:PATH` or `command:PROGRAM ARGUMENTS` gives."""
    what = f"the code of {variable}"
    if text.startswith("file:"):
        return SecretReference(file=Path(text.removeprefix("file:"))).resolve(what)
    if text.startswith("command:"):
        try:
            command = tuple(shlex.split(text.removeprefix("command:")))
        except ValueError as exc:
            raise ConfigurationError(f"{what} is to come from a command: {exc}") from exc
        return SecretReference(command=command).resolve(what)
    return text


def take_code(enrolled: Enrolled, text: str) -> Factor:
    """The factor whose code this is. It is used up."""
    code = "".join(text.split())
    now = enrolled.context.now()
    if _DIGITS.fullmatch(code):
        return _take_digits(enrolled, code)
    if normal_recovery_code(text) is None:
        raise FactorRefused(
            "that is not a code",
            hint="An app shows six digits; a recovery code has sixteen letters and digits.",
        )
    factor, number = enrolled.guard.take_recovery_code(
        text, enrolled.of_kind(FactorKind.RECOVERY), enrolled.gathered.spent, now
    )
    enrolled.record(Spent(factor.id, number, now, host_name()))
    left = enrolled.gathered.codes_left(factor) - 1
    enrolled.context.warn(f"a recovery code was used: {left} left (pgkeep factor list)")
    return factor


def _take_digits(enrolled: Enrolled, code: str) -> Factor:
    apps, problems = enrolled.apps()
    if apps:
        return enrolled.guard.take_code(code, apps, enrolled.context.now())
    if problems:
        raise FactorRefused(
            f"the code cannot be checked here: {problems[0].message}",
            hint="Pass the --identity of an operator where the command takes it, use a recovery"
            " code or a signature, or do this on the host where the app was enrolled.",
        )
    raise FactorRefused(
        "no authenticator app is enrolled", hint="What is enrolled: pgkeep factor list."
    )


def take_approval(enrolled: Enrolled, wanted: Action, path: Path) -> Factor:
    """The factor whose signature over a challenge for this very action this is. It is used up."""
    return use_signature(enrolled, wanted, path, enrolled.of_kind(FactorKind.SSH))


def use_signature(enrolled: Enrolled, wanted: Action, path: Path, keys: Sequence[Factor]) -> Factor:
    """The one of these keys that signed a challenge for an action. The challenge is used up."""
    try:
        signature = path.read_bytes()
    except OSError as exc:
        raise ApprovalInvalid(
            f"cannot read the approval {str(path)!r}: {(exc.strerror or str(exc)).lower()}",
            hint="Give the path of the file that ssh-keygen -Y sign has written (.sig).",
        ) from exc
    approved = enrolled.challenges.check(wanted, signature, keys, enrolled.clock())
    enrolled.challenges.use(approved)
    enrolled.guard.take_approval(approved.factor, approved.counter, enrolled.context.now())
    return approved.factor


def _asked(enrolled: Enrolled, wanted: Action) -> Factor:
    """Whoever is at the terminal answers, and may mistype."""
    context = enrolled.context
    context.err.print(f"[bold]{escape(str(wanted))}[/] needs a second factor")
    for line in wanted.lines.splitlines()[1:]:
        context.err.print(f"  [dim]{escape(line)}[/]")
    to_sign = _file_to_sign(enrolled, wanted)
    if to_sign is not None:
        context.err.print(f"to approve it with an SSH key:\n  {escape(sign_command(to_sign))}")
    for left in reversed(range(_TRIES)):
        try:
            return _one_answer(enrolled, wanted, to_sign)
        except (FactorRefused, ApprovalInvalid) as exc:
            if not left:
                raise
            note_decision(context.config, wanted, "refused", error=str(exc))
            context.err.print(f"[yellow]![/] {escape(exc.message)}")
    raise AssertionError("unreachable: the last try raises")


def _one_answer(enrolled: Enrolled, wanted: Action, to_sign: Path | None) -> Factor:
    prompt = "Code of an app, or a recovery code"
    if to_sign is None:
        answer = str(click.prompt(prompt, err=True)).strip()
        return take_code(enrolled, answer)
    prompt = "Code, or the path of the signature (nothing: beside the file)"
    answer = str(click.prompt(prompt, err=True, default="", show_default=False)).strip()
    if not answer or answer.endswith(".sig"):
        signature = Path(answer) if answer else to_sign.with_name(f"{to_sign.name}.sig")
        return take_approval(enrolled, wanted, signature)
    return take_code(enrolled, answer)


def _needed(enrolled: Enrolled, wanted: Action) -> FactorNeeded:
    gathered = enrolled.gathered
    if not gathered.factors:
        return FactorNeeded(
            f"{wanted} needs a second factor, and the record of it cannot be believed here:"
            f" {', '.join(gathered.doubtful)}",
            hint="Name the host that enrolled it under encryption.trusted_signers, or bring the"
            " record back from another repository. If somebody planted it, delete that file there.",
        )
    ways = []
    if any(one.kind is not FactorKind.SSH for one in gathered.factors):
        ways.append(f"Set {CODE_VARIABLE} to a code (or file:PATH, or command:PROGRAM).")
    to_sign = _file_to_sign(enrolled, wanted)
    if to_sign is not None:
        ways.append(
            f"Sign with: {sign_command(to_sign)}, and set {APPROVAL_VARIABLE}={to_sign}.sig"
            " for the same command."
        )
    return FactorNeeded(
        f"{wanted} needs a second factor, and none was given", hint=" Or: ".join(ways)
    )


def _file_to_sign(enrolled: Enrolled, wanted: Action) -> Path | None:
    """The challenge for an action, if anybody could sign it."""
    if not enrolled.of_kind(FactorKind.SSH):
        return None
    challenge = enrolled.challenges.ask(wanted, host_name(), enrolled.clock())
    return enrolled.challenges.path(challenge)


def sign_command(path: Path) -> str:
    """How an operator signs a challenge."""
    return f"ssh-keygen -Y sign -n {NAMESPACE} -f KEY {shlex.quote(str(path))}"
