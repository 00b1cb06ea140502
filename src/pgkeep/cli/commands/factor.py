"""pgkeep factor: second factors, asked for before something dangerous."""

from __future__ import annotations

import os
from getpass import getpass
from pathlib import Path

import rich_click as click
from rich.markup import escape

from pgkeep.cli.approving import CODE_VARIABLE, keep_copies, require_factor
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.errors import ExitCode, UsageError
from pgkeep.repository.factors import Factor, FactorStore
from pgkeep.sealing import totp


@click.command("factor")
@click.argument("what", type=click.Choice(["list", "enroll", "confirm", "remove"]))
@click.option("--name", default="", help="What the factor is called.")
@click.option(
    "--ssh-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="enroll: an operator's public SSH key (.pub), one in a hardware token included. Without"
    " it, an authenticator's codes.",
)
@click.option(
    "--verify-required",
    is_flag=True,
    help="enroll: the token must ask for its PIN at each signature, not just for a touch.",
)
@command_options()
def factor_command(
    context: Context, what: str, name: str, ssh_key: Path | None, verify_required: bool
) -> ExitCode:
    """List, enroll, confirm or remove second factors of this host.

    While one is enrolled, pgkeep asks for it before it exports, restores over what is there,
    recovers, reseals, forgets a repository, or prunes after the retention was shortened. In scripts
    the code comes in PGKEEP_CODE, the path of a signature in PGKEEP_APPROVAL.
    """
    store = FactorStore(context.config.state_dir)
    if what == "list":
        _list(context, store)
    elif what == "enroll":
        _enroll(context, store, name, ssh_key, verify_required=verify_required)
    elif what == "confirm":
        _confirm(context, store)
    else:
        _remove(context, store, name)
    return ExitCode.DONE


def _list(context: Context, store: FactorStore) -> None:
    factors = store.load().factors
    if context.as_json:
        context.answer([_document(one) for one in factors])
        return
    for one in factors:
        more = f"{len(one.codes)} spare codes left" if one.kind == "totp" else _about_key(one)
        waiting = "" if one.confirmed else "  [yellow]not confirmed: it does not count yet[/]"
        facts = f"{one.kind}, since {one.enrolled:%Y-%m-%d}, {more}"
        context.out.print(f"{escape(one.name)}  [dim]{facts}[/]{waiting}")
    if not factors:
        context.out.print("no second factor is enrolled: pgkeep asks for none")


def _about_key(one: Factor) -> str:
    kind = "in a hardware token" if one.key.is_hardware else one.key.kind
    return f"{one.key.fingerprint}, {kind}"


def _document(one: Factor) -> dict[str, object]:
    return {
        "name": one.name,
        "kind": one.kind,
        "enrolled": one.enrolled.isoformat(),
        "confirmed": one.confirmed,
        "fingerprint": one.key.fingerprint if one.kind == "ssh" else "",
        "spare_codes": len(one.codes),
    }


def _enroll(
    context: Context, store: FactorStore, name: str, ssh_key: Path | None, *, verify_required: bool
) -> None:
    require_factor(context, "enroll", f"another second factor called {name or ssh_key or 'codes'}")
    if ssh_key is not None:
        _enroll_key(context, store, name, ssh_key, verify_required=verify_required)
        return
    factor, secret, codes = store.enroll_totp(name or "codes", context.now())
    address = totp.address(secret, account=factor.name)
    if context.as_json:
        context.answer({**_document(factor), "address": address, "codes": list(codes)})
        return
    context.out.print(f"Give this to your authenticator: [bold]{totp.as_text(secret)}[/]")
    context.out.print(f"or as an address: {escape(address)}")
    context.out.print("For the day when the device is lost, keep these elsewhere; each works once:")
    for one in codes:
        context.out.print(f"  {one}")
    if os.isatty(0):
        _confirm(context, store)
    else:
        context.out.print("It counts once you have run: pgkeep factor confirm")


def _enroll_key(
    context: Context, store: FactorStore, name: str, path: Path, *, verify_required: bool
) -> None:
    try:
        line = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as exc:
        raise UsageError(
            f"cannot read {str(path)!r}: {(exc.strerror or str(exc)).lower()}",
            hint="Give the file that ends in .pub.",
        ) from exc
    factor = store.enroll_ssh(name, line, context.now(), verified_user=verify_required)
    keep_copies(context, store)
    _say(context, factor, "enrolled")


def _confirm(context: Context, store: FactorStore) -> None:
    code = os.environ.get(CODE_VARIABLE) or (
        getpass("The code that the device shows now: ") if os.isatty(0) else ""
    )
    if not code:
        raise UsageError("no code was given", hint=f"Set {CODE_VARIABLE}, or use a terminal.")
    factor = store.confirm(code, context.now())
    keep_copies(context, store)
    _say(context, factor, "enrolled and confirmed")


def _remove(context: Context, store: FactorStore, name: str) -> None:
    if not name:
        raise UsageError("which one?", hint="Add --name NAME; pgkeep factor list shows the names.")
    require_factor(context, "remove", f"second factor {name}")
    factor = store.remove(name)
    keep_copies(context, store)
    _say(context, factor, "removed")


def _say(context: Context, factor: Factor, done: str) -> None:
    if context.as_json:
        context.answer({**_document(factor), "done": done})
    else:
        context.out.print(f"{escape(factor.name)}: {done}")
