"""pgkeep factor: second factors, which are asked for before what cannot be undone."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from rich.markup import escape

from pgkeep.cli import words
from pgkeep.cli.approving import action, ask_for_factor, sign_command
from pgkeep.cli.context import Context
from pgkeep.cli.enrolled import Enrolled, host_name, look_up
from pgkeep.cli.enrolling import Wanted, enroll, enroll_codes, free_name
from pgkeep.cli.options import command_options
from pgkeep.cli.recording import note_decision
from pgkeep.errors import ApprovalInvalid, ExitCode, UsageError
from pgkeep.repository.approvals import Challenge
from pgkeep.repository.factors import Factor, FactorKind, Removal
from pgkeep.sealing.operators import OperatorKey


@click.command("factor")
@click.argument("what", type=click.Choice(["list", "enroll", "remove", "challenge"]))
@click.argument("name", required=False)
@click.option("--ssh-key", type=click.Path(path_type=Path), metavar="FILE",
              help="With enroll: the .pub file of an SSH key, FIDO2 keys included, rather than an"
              " app.")  # fmt: skip
@click.option("--verify-required", is_flag=True, help="With --ssh-key: of a FIDO2 key, the device"
              " has to verify its owner (PIN or finger) each time.")  # fmt: skip
@click.option("--recovery-codes", is_flag=True, help="With enroll: new recovery codes; those from"
              " before count no more.")  # fmt: skip
@click.option("--secret", metavar="WHERE", help="With enroll: the secret of an app, in base32, from"
              " env:NAME or file:PATH.  [default: a new one, shown once]")  # fmt: skip
@command_options(identity=True)
def factor_command(
    context: Context,
    what: str,
    name: str | None,
    ssh_key: Path | None,
    verify_required: bool,
    recovery_codes: bool,
    secret: str | None,
) -> ExitCode:
    """Enroll a second factor, and look after it: list, enroll NAME, remove NAME, challenge.

    Once one is enrolled, it is asked for by export, recover, reseal and forget, by a restore into a
    database that is not empty, and by a prune that keeps less than the last one. A factor is an
    authenticator app, or an SSH key whose owner signs a challenge. A script gives a code in
    PGKEEP_CODE or the path of a signature in PGKEEP_APPROVAL; of a factor that is being enrolled,
    in PGKEEP_NEW_CODE or PGKEEP_NEW_APPROVAL.
    """
    options = (ssh_key is not None) + recovery_codes + (secret is not None)
    if (options and what != "enroll") or options > 1:
        raise UsageError("--ssh-key, --recovery-codes and --secret go with enroll, and alone")
    if verify_required and ssh_key is None:
        raise UsageError("--verify-required goes with --ssh-key")
    enrolled = look_up(context)
    match what:
        case "list":
            return _list(enrolled)
        case "challenge":
            return _challenge(enrolled, name)
        case "remove":
            return _remove(enrolled, name)
    if recovery_codes:
        return _show_enrolled(context, None, enroll_codes(enrolled))
    wanted = Wanted(
        free_name(enrolled, name or ("app" if ssh_key is None else "key")),
        ssh_key,
        verify_required,
        secret,
    )
    return _show_enrolled(context, *enroll(enrolled, wanted))


def _show_enrolled(context: Context, factor: Factor | None, codes: tuple[str, ...]) -> ExitCode:
    """What is new; recovery codes are shown this one time."""
    if context.as_json:
        document = _document(look_up(context), factor) if factor else {}
        context.answer({**document, "recovery_codes": list(codes)})
        return ExitCode.ATTENTION if context.needs_attention else ExitCode.DONE
    if factor is not None:
        context.out.print(f"[bold]enrolled[/] {escape(factor.name)}: it is asked for from now on")
    if codes:
        context.out.print("\nrecovery codes, each good once; they are not shown again:")
    for code in codes:
        context.out.print(f"  {code}")
    return ExitCode.ATTENTION if context.needs_attention else ExitCode.DONE


# --- looking --------------------------------------------------------------------------------


def _list(enrolled: Enrolled) -> ExitCode:
    context, gathered = enrolled.context, enrolled.gathered
    guard = enrolled.guard.look(context.now())
    paused = guard.paused if gathered.is_enrolled else None
    until = paused + guard.pause() if paused is not None else None
    if until is not None and until <= context.now():
        until = None
    if context.as_json:
        context.answer(
            {
                "factors": [_document(enrolled, one) for one in gathered.factors],
                "doubtful": list(gathered.doubtful),
                "foreign": list(gathered.foreign),
                "no_code_before": until and until.isoformat(),
            }
        )
    else:
        for factor in gathered.factors:
            context.out.print(_line(enrolled, factor))
        if not gathered.is_enrolled:
            context.out.print("no second factor is enrolled: nothing asks for one")
        for name in gathered.foreign:
            context.out.print(f"[dim]of another host, not asked for here: {escape(name)}[/]")
        if until is not None:
            context.out.print(f"[yellow]![/] no code is looked at before {words.moment(until)}")
    for name in gathered.doubtful:
        context.warn(f"a record cannot be believed: {name}")
    for problem in gathered.problems:
        context.notice(problem)
    attention = gathered.doubtful or until or context.needs_attention
    return ExitCode.ATTENTION if attention else ExitCode.DONE


def _line(enrolled: Enrolled, factor: Factor) -> str:
    what = {FactorKind.TOTP: "app", FactorKind.SSH: "SSH key", FactorKind.RECOVERY: "codes"}
    more = ""
    if factor.kind is FactorKind.SSH:
        key = OperatorKey.parse(factor.key)
        more = f" {key.kind} {key.fingerprint}" + (", verified" if factor.must_verify else "")
    elif factor.kind is FactorKind.RECOVERY:
        more = f" {enrolled.gathered.codes_left(factor)} of {len(factor.codes)} left"
    places = sum(f"{factor.id}.enrolled" in there for there in enrolled.gathered.present.values())
    return (
        f"[bold]{escape(factor.name)}[/]  {what[factor.kind]}{more}  [dim]since"
        f" {factor.enrolled:%Y-%m-%d}, by {escape(factor.host)}, on record in"
        f" {words.count(places, 'place')}[/]"
    )


def _document(enrolled: Enrolled, factor: Factor) -> dict[str, object]:
    key = OperatorKey.parse(factor.key) if factor.key else None
    left = enrolled.gathered.codes_left(factor)
    there = enrolled.gathered.present.items()
    return {
        "id": factor.id,
        "name": factor.name,
        "kind": factor.kind.value,
        "enrolled": factor.enrolled.isoformat(),
        "host": factor.host,
        "key": key and key.kind,
        "fingerprint": key and key.fingerprint,
        "verify_required": factor.must_verify,
        "codes_left": left if factor.kind is FactorKind.RECOVERY else None,
        "recorded_in": [place for place, names in there if f"{factor.id}.enrolled" in names],
    }


def _challenge(enrolled: Enrolled, nonce: str | None) -> ExitCode:
    """What waits for a signature; of one of them, the text to sign."""
    context = enrolled.context
    waiting = enrolled.challenges.open(enrolled.clock())
    if nonce is not None:
        return _show_challenge(context, waiting, nonce)
    if context.as_json:
        context.answer(
            [
                {
                    "nonce": one.nonce,
                    "action": one.action.name,
                    "database": one.action.database or None,
                    "about": dict(one.action.about),
                    "expires": one.expires.isoformat(),
                    "file": str(enrolled.challenges.path(one)),
                }
                for one in waiting
            ]
        )
        return ExitCode.DONE
    for one in waiting:
        path = enrolled.challenges.path(one)
        context.out.print(
            f"[bold]{escape(str(one.action))}[/]  [dim]until {words.moment(one.expires)}[/]\n"
            f"  {escape(sign_command(path))}"
        )
    if not waiting:
        context.out.print(
            "nothing waits for a signature: the command itself asks for one, and makes the file"
        )
    return ExitCode.DONE


def _show_challenge(context: Context, waiting: tuple[Challenge, ...], nonce: str) -> ExitCode:
    for one in waiting:
        if one.nonce == nonce:
            if context.as_json:
                context.answer({"nonce": nonce, "text": one.text})
            else:
                click.echo(one.text, nl=False)
            return ExitCode.DONE
    raise ApprovalInvalid(
        f"no challenge {nonce!r} waits for a signature",
        hint="Those that do: pgkeep factor challenge.",
    )


# --- removing -------------------------------------------------------------------------------


def _remove(enrolled: Enrolled, name: str | None) -> ExitCode:
    """An enrolled factor has to agree. With the last one go the recovery codes."""
    context = enrolled.context
    factor = enrolled.gathered.named(name or "")
    if factor is None:
        known = ", ".join(one.name for one in enrolled.gathered.factors) or "none"
        raise UsageError(f"no factor {name or ''!r} is enrolled (enrolled: {known})")
    wanted = action("remove a factor", name=factor.name, id=factor.id)
    used = ask_for_factor(enrolled, wanted)
    others = [one for one in enrolled.gathered.factors if one.id != factor.id]
    gone = [factor]
    if all(one.kind is FactorKind.RECOVERY for one in others):
        gone += others
    for one in gone:
        enrolled.record(Removal(one.id, context.now(), host_name()))
    note_decision(context.config, wanted, "removed", factor=used.name)
    if context.as_json:
        context.answer({"removed": [one.name for one in gone]})
    else:
        context.out.print(f"removed: {escape(', '.join(one.name for one in gone))}")
        if len(gone) > len(others):
            context.out.print("[yellow]![/] no second factor is left: nothing asks for one")
    return ExitCode.ATTENTION if context.needs_attention else ExitCode.DONE
