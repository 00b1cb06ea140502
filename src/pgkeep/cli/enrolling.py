"""Enrolling a second factor: it counts once it has been proven to work."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import click
from rich.markup import escape

from pgkeep.cli.agreed import keep_terms
from pgkeep.cli.approving import action, ask_for_factor, given_code, sign_command, use_signature
from pgkeep.cli.context import Context
from pgkeep.cli.enrolled import Enrolled, host_name, seal_secret
from pgkeep.cli.recording import note_decision
from pgkeep.config import SecretReference
from pgkeep.errors import (
    FactorNeeded,
    FactorRefused,
    KeyUnusable,
    UsageError,
)
from pgkeep.repository.approvals import Action
from pgkeep.repository.factors import (
    Factor,
    FactorKind,
    Removal,
    new_id,
    new_recovery_codes,
    recovery_factor,
)
from pgkeep.repository.guard import App
from pgkeep.repository.terms import read_terms
from pgkeep.sealing import totp
from pgkeep.sealing.operators import OperatorKey

NEW_CODE_VARIABLE = "PGKEEP_NEW_CODE"
NEW_APPROVAL_VARIABLE = "PGKEEP_NEW_APPROVAL"
RECOVERY_NAME = "recovery-codes"
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """A factor that somebody wants to enroll."""

    name: str
    ssh_key: Path | None
    verify_required: bool
    secret: str | None

    @property
    def action(self) -> Action:
        kind = FactorKind.TOTP if self.ssh_key is None else FactorKind.SSH
        return action("enroll a factor", name=self.name, kind=kind.value)


def free_name(enrolled: Enrolled, name: str) -> str:
    """A name that a new factor may have; `UsageError` otherwise."""
    if not name.strip() or not name.isprintable() or len(name) > 60 or name == RECOVERY_NAME:
        raise UsageError(
            f"{name!r} cannot be the name of a factor",
            hint="Give it a name that tells whose it is: pgkeep factor enroll ada-phone.",
        )
    if enrolled.gathered.named(name) is not None:
        raise UsageError(
            f"there is a factor {name!r} already", hint="Remove it first, or take another name."
        )
    return name


def enroll(enrolled: Enrolled, wanted: Wanted) -> tuple[Factor, tuple[str, ...]]:
    """Prove that it works, then let it count; with the first come recovery codes.

    If others are enrolled, one of them has to agree.
    """
    context = enrolled.context
    key = None if wanted.ssh_key is None else _public_key(enrolled, wanted)
    if enrolled.gathered.is_enrolled:
        ask_for_factor(enrolled, wanted.action)
    else:
        enrolled.guard.begin(context.now())
    factor = _proven_app(enrolled, wanted) if key is None else _proven_key(enrolled, wanted, key)
    is_first = not enrolled.gathered.factors
    if is_first:  # before it counts: a crash in between must not leave a factor and no terms
        found = read_terms(enrolled.shelves)
        keep_terms(enrolled, found.kept if found else None)
    enrolled.record(factor)
    note_decision(context.config, wanted.action, "enrolled", factor=factor.name)
    return factor, _record_codes(enrolled) if is_first else ()


def _public_key(enrolled: Enrolled, wanted: Wanted) -> OperatorKey:
    assert wanted.ssh_key is not None
    try:
        text = wanted.ssh_key.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise KeyUnusable(
            f"cannot read {str(wanted.ssh_key)!r}",
            hint="Give the .pub file: the public half of the key.",
        ) from exc
    key = OperatorKey.parse(text, must_verify=wanted.verify_required)
    for factor in enrolled.of_kind(FactorKind.SSH):
        if OperatorKey.parse(factor.key).blob == key.blob:
            raise UsageError(
                f"this key is enrolled already, as {factor.name!r}",
                hint="Remove that factor first, if the key is to be enrolled in another way.",
            )
    return key


def _proven_app(enrolled: Enrolled, wanted: Wanted) -> Factor:
    """An app that has shown a right code. The code is used up."""
    context = enrolled.context
    if wanted.secret is None:
        secret = totp.new_secret()
        _show_secret(context, secret, wanted.name)
    else:
        secret = totp.parse_secret(_secret_from(wanted.secret))
    sealed = seal_secret(context, secret)
    factor = Factor(
        new_id(), wanted.name, FactorKind.TOTP, context.now(), host_name(), secret=sealed
    )
    _take_first_code(enrolled, wanted, App(factor, secret))
    return factor


def _take_first_code(enrolled: Enrolled, wanted: Wanted, app: App) -> None:
    """Whoever is at a terminal may mistype: the secret was shown, and is not shown again."""
    may_mistype = NEW_CODE_VARIABLE not in os.environ
    for left in reversed(range(_TRIES if may_mistype else 1)):
        code = "".join(_first_code(wanted).split())
        try:
            enrolled.guard.take_code(code, [app], enrolled.context.now())
            return
        except FactorRefused as exc:
            if not left:
                raise
            enrolled.context.err.print(f"[yellow]![/] {escape(exc.message)}")


def _secret_from(where: str) -> str:
    for prefix in ("env", "file"):
        if where.startswith(f"{prefix}:"):
            reference = SecretReference.model_validate({prefix: where.removeprefix(f"{prefix}:")})
            return reference.resolve("the secret of the app")
    raise UsageError(
        "--secret is env:NAME or file:PATH, not the secret itself",
        hint="Every user of this machine can see what stands on a command line.",
    )


def _show_secret(context: Context, secret: bytes, name: str) -> None:
    """Once, to whoever is at the terminal: a script brings its own."""
    if not sys.stdin.isatty():
        raise FactorNeeded(
            "a new secret can only be shown at a terminal",
            hint=f"Pass --secret file:PATH and {NEW_CODE_VARIABLE}, or run this in a terminal.",
        )
    address = totp.address(secret, f"pgkeep {host_name()}", name)
    context.err.print(f"secret for the app: [bold]{totp.show_secret(secret)}[/]")
    context.err.print(f"or as an address:   {escape(address)}")


def _first_code(wanted: Wanted) -> str:
    if text := os.environ.get(NEW_CODE_VARIABLE):
        return given_code(text, NEW_CODE_VARIABLE)
    if sys.stdin.isatty():
        return str(click.prompt(f"The code that {wanted.name} shows", err=True))
    raise FactorNeeded(
        f"{wanted.name!r} counts once it has shown a code, and none was given",
        hint=f"Set {NEW_CODE_VARIABLE} to the code.",
    )


def _proven_key(enrolled: Enrolled, wanted: Wanted, key: OperatorKey) -> Factor:
    """A key that has signed a challenge."""
    context = enrolled.context
    factor = Factor(
        new_id(), wanted.name, FactorKind.SSH, context.now(), host_name(),
        key=key.line, must_verify=key.must_verify,
    )  # fmt: skip
    proof = action("prove a new key", name=wanted.name, key=key.fingerprint)
    challenge = enrolled.challenges.ask(proof, host_name(), enrolled.clock())
    to_sign = enrolled.challenges.path(challenge)
    return use_signature(enrolled, proof, _first_signature(context, wanted, to_sign), [factor])


def _first_signature(context: Context, wanted: Wanted, to_sign: Path) -> Path:
    if text := os.environ.get(NEW_APPROVAL_VARIABLE):
        return Path(text)
    if sys.stdin.isatty():
        context.err.print(f"sign with the new key:\n  {escape(sign_command(to_sign))}")
        beside = to_sign.with_name(f"{to_sign.name}.sig")
        answer = click.prompt(
            "The path of the signature (nothing: beside the file)",
            default=str(beside), show_default=False, err=True,
        )  # fmt: skip
        return Path(str(answer).strip())
    raise FactorNeeded(
        f"{wanted.name!r} counts once it has signed a challenge, and there is no signature",
        hint=f"Sign with: {sign_command(to_sign)}, and set {NEW_APPROVAL_VARIABLE}={to_sign}.sig"
        " for the same command.",
    )


def enroll_codes(enrolled: Enrolled) -> tuple[str, ...]:
    """New recovery codes; those from before count no more."""
    if not enrolled.gathered.factors:
        raise UsageError(
            "recovery codes stand in for a factor, and none is enrolled",
            hint="Enroll one first: it comes with recovery codes.",
        )
    ask_for_factor(enrolled, action("make new recovery codes"))
    return _record_codes(enrolled)


def _record_codes(enrolled: Enrolled) -> tuple[str, ...]:
    """New codes first, then those from before count no more: a crash between leaves both."""
    context = enrolled.context
    codes = new_recovery_codes()
    enrolled.record(recovery_factor(codes, RECOVERY_NAME, host_name(), context.now()))
    for old in enrolled.of_kind(FactorKind.RECOVERY):
        enrolled.record(Removal(old.id, context.now(), host_name()))
    return codes
