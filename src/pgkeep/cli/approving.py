"""Asking for a second factor, on a terminal or through variables, before something dangerous."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from getpass import getpass
from pathlib import Path

from pgkeep.cli.context import Context
from pgkeep.cli.recording import access_now
from pgkeep.errors import FactorNeeded, PgkeepError
from pgkeep.repository.factors import Action, Factor, FactorStore, Given, copy_name
from pgkeep.repository.hostkeys import write_private
from pgkeep.repository.ledger import Ledger
from pgkeep.sealing.operators import NAMESPACE

CODE_VARIABLE = "PGKEEP_CODE"
APPROVAL_VARIABLE = "PGKEEP_APPROVAL"


def require_factor(context: Context, name: str, what: str, *, database: str = "") -> None:
    """Ask for a second factor if one is enrolled; every answer is written into the ledger."""
    store = FactorStore(context.config.state_dir)
    _take_back(context, store)
    confirmed = store.load().confirmed
    if not confirmed:
        return
    action = Action(name, what)
    try:
        factor = _ask(context, store, action, confirmed, context.now())
    except PgkeepError as exc:
        _note(context, database, "refused", action, str(exc))
        raise
    _note(context, database, "granted", action, "", factor=factor.name)
    keep_copies(context, store)


def _ask(
    context: Context,
    store: FactorStore,
    action: Action,
    confirmed: tuple[Factor, ...],
    now: datetime,
) -> Factor:
    given = _given()
    if given != Given():
        return store.check(action, given, now)
    text = store.challenge(action, now) if any(one.kind == "ssh" for one in confirmed) else None
    if not _is_terminal():
        raise FactorNeeded(f"a second factor is needed to {action}", hint=_hint(confirmed, text))
    context.warn(f"this needs a second factor: {action}")
    if text is not None:
        context.warn(f"to approve with a key: ssh-keygen -Y sign -n {NAMESPACE} -f KEY {text}")
    answer = getpass("Code, or the path of the signature: ").strip()
    if "/" in answer or answer.endswith(".sig"):
        return store.check(action, Given(approval=Path(answer)), context.now())
    return store.check(action, Given(code=answer), context.now())


def _given() -> Given:
    code, approval = os.environ.get(CODE_VARIABLE, ""), os.environ.get(APPROVAL_VARIABLE, "")
    return Given(code, Path(approval) if approval else None)


def _is_terminal() -> bool:
    with suppress(ValueError, AttributeError):
        return sys.stdin.isatty()
    return False


def _hint(confirmed: tuple[Factor, ...], text: Path | None) -> str:
    ways = []
    if any(one.kind == "totp" for one in confirmed):
        ways.append(f"Set {CODE_VARIABLE} to the code of your device.")
    if text is not None:
        ways.append(
            f"Sign the text: ssh-keygen -Y sign -n {NAMESPACE} -f KEY {text}, and set"
            f" {APPROVAL_VARIABLE}={text}.sig."
        )
    return " ".join(ways)


def _note(
    context: Context, database: str, state: str, action: Action, error: str, **details: str
) -> None:
    """A ledger that cannot be written has been told of already."""
    with suppress(OSError):
        Ledger(context.config.state_dir).append(
            access_now(
                state,
                "second factor",
                database,
                error=error,
                details={"for": str(action), **details},
            )
        )


# --- what is kept for a shorter time --------------------------------------------------------------


def require_for_shorter_retention(context: Context) -> None:
    """Ask if less would be kept than at the last prune of this host, or in fewer places."""
    path = context.config.state_dir / "retention.json"
    now = _retention(context)
    if shorter := list(_shorter(_remembered(path), now)):
        require_factor(context, "keep less", "; ".join(shorter))
    with suppress(OSError):  # then the next prune compares with an older one
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, json.dumps(now).encode())


def _retention(context: Context) -> dict[str, float]:
    """How many days each tier is kept, and where: what is not configured counts as for ever."""
    policy = context.retention()
    found = {
        f"tier {tier.value}": keep.total_seconds() / 86400 for tier, keep in policy.keep.items()
    }
    found["backups at least"] = policy.minimum
    found["journal"] = context.config.capture.keep_days
    return found | {f"repository {name}": 1 for name in context.config.repositories}


def _remembered(path: Path) -> dict[str, float]:
    try:
        document = json.loads(path.read_bytes())
        return {str(name): float(value) for name, value in document.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _shorter(before: dict[str, float], now: dict[str, float]) -> Iterator[str]:
    for name, value in before.items():
        if name not in now:
            yield f"{name} is no longer configured"
        elif now[name] < value:
            yield f"{name}: {value:g} before, {now[name]:g} now"


# --- the copies in the repositories ---------------------------------------------------------------


def keep_copies(context: Context, store: FactorStore) -> None:
    """Put the factors into every repository that can be reached, signed by this host."""
    keys = context.keys
    name, data = store.copy(socket.gethostname(), keys.signing_key(), keys.index_key())
    with suppress(PgkeepError):  # the command itself says what is wrong with repositories
        for repository in context.repositories():
            with suppress(PgkeepError):
                repository.store.put(name, data)


def _take_back(context: Context, store: FactorStore) -> None:
    """From a repository, where the file here was taken away or is an older one."""
    signing, index = context.keys.existing_signing_key(), context.keys.existing_index_key()
    if signing is None or index is None or not context.config.repositories:
        return
    name = copy_name(socket.gethostname())
    with suppress(PgkeepError):
        for repository in context.repositories():
            with suppress(PgkeepError):
                if store.take_back(repository.store.get(name), signing.public, index):
                    context.warn(
                        "the second factors of this host were older than a repository knows, or"
                        f" gone: they are back from {repository.name!r}"
                    )
