"""Every command is written into the ledger, here and nowhere else, so that none can forget it.

What cannot be written is told loudly, and keeps no command from its work: a restore on the day of
the disaster must not fail because a disk is full.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import wraps
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape

from pgkeep.errors import ExitCode, PgkeepError

if TYPE_CHECKING:
    from pgkeep.config import Config
    from pgkeep.repository.approvals import Action
    from pgkeep.repository.ledger import Access, Ledger

# What shows no more than that something is there.
NOT_RECORDED = frozenset({"demo", "list", "status", "schedule", "ledger"})
# What adds to repositories: afterwards the head of the ledger is put there too.
ANCHORED = frozenset({"backup", "drill"})

_NOT_DETAILS = frozenset({"config_path", "as_json", "quiet", "debug", "reason", "database"})
_ADDRESSES = frozenset({"target", "url", "repository_urls", "repository"})
_STATES = {ExitCode.DONE: "done", ExitCode.ATTENTION: "attention"}


def recorded(name: str, command: click.Command) -> click.Command:
    """The command, which writes down that it began and how it ended."""
    if name in NOT_RECORDED or command.callback is None:
        return command
    wrapped = copy(command)
    wrapped.callback = _around(name, command.callback)
    return wrapped


def note_decision(
    config: Config, action: Action, state: str, *, factor: str = "", error: str = ""
) -> None:
    """An entry of its own for each second factor that was granted or refused."""
    from pgkeep.repository.ledger import Access, Ledger

    details = {"action": action.name, "factor": factor, **dict(action.about)}
    if config.origin is not None:
        details["config"] = _configuration(config.origin)
    access = Access(
        at=datetime.now(UTC),
        state=state,
        what="second factor",
        database=action.database,
        who=_who(),
        source=_source(),
        reason=os.environ.get("PGKEEP_REASON", ""),
        details={name: value for name, value in details.items() if value},
        error=error,
    )
    _append(Ledger(config.state_dir), access)


def _around(name: str, callback: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(callback)
    def run(**values: Any) -> Any:
        recording = _Recording.begin(name, values)
        try:
            code = callback(**values)
        except PgkeepError as exc:
            recording.end("failed", str(exc))
            raise
        except (KeyboardInterrupt, click.Abort, click.exceptions.Exit):
            recording.end("ended", "")
            raise
        except BaseException as exc:
            recording.end("failed", f"[E000] {type(exc).__name__}")
            raise
        recording.end(_STATES.get(code, "failed"), "")
        if name in ANCHORED and not values.get("dry_run"):
            recording.keep_anchor()
        return code

    return run


@dataclass(slots=True)
class _Recording:
    """One command and its two entries."""

    config_path: Path | None
    access: Access
    ledger: Ledger | None
    number: int | None = None

    @classmethod
    def begin(cls, name: str, values: Mapping[str, Any]) -> _Recording:
        from pgkeep.repository.ledger import Access

        access = Access(
            at=datetime.now(UTC),
            state="began",
            what=name,
            database=values.get("database") or "",
            who=_who(),
            source=_source(),
            reason=values.get("reason") or "",
            details=_details(values),
        )
        made = cls(values.get("config_path"), access, None)
        made._open(values)
        if made.ledger is not None:
            made._note_configuration()
            made.number = made._append(made.access)
        return made

    def end(self, state: str, error: str) -> None:
        if self.ledger is None:
            self._open({})  # `pgkeep init` has just made the configuration
        self._append(
            replace(self.access, at=datetime.now(UTC), state=state, error=error, began=self.number)
        )

    def keep_anchor(self) -> None:
        """Put the signed head into every repository that takes it; others have earlier ones."""
        with suppress(PgkeepError):  # the command has told what is wrong with repositories
            self._keep_anchor()

    def _keep_anchor(self) -> None:
        from pgkeep.cli.context import Context
        from pgkeep.repository.ledger import anchor

        context = Context(self.config_path, as_json=True, quiet=True, err=Console(quiet=True))
        key = context.keys.existing_signing_key()
        head = self.ledger.head() if self.ledger is not None else None
        if key is None or head is None:
            return
        name, data = anchor(head, socket.gethostname(), datetime.now(UTC), key)
        for repository in context.repositories():
            with suppress(PgkeepError):
                repository.store.put(name, data)

    def _open(self, values: Mapping[str, Any]) -> None:
        from pgkeep import config as configuration
        from pgkeep.repository.ledger import Ledger

        try:
            path = configuration.locate(self.config_path)
            if not path.exists() and values.get("repository_urls"):
                self.ledger = Ledger(configuration.default_state_dir())
                return
            self.ledger = Ledger(configuration.load(path).state_dir)
        except PgkeepError:  # the command says it
            return
        details = {**self.access.details, "config": _configuration(path)}
        self.access = replace(self.access, details=details)

    def _note_configuration(self) -> None:
        """An entry of its own, if the configuration is not the one of the last time."""
        assert self.ledger is not None
        last, mine = self.ledger.last(), self.access.details.get("config")
        before = last.details.get("config") if last else None
        if before and mine and before != mine:
            details = {"before": before, "config": mine}
            self._append(
                replace(self.access, state="changed", what="configuration", details=details)
            )

    def _append(self, access: Access) -> int | None:
        return None if self.ledger is None else _append(self.ledger, access)


def _append(ledger: Ledger, access: Access) -> int | None:
    try:
        return ledger.append(access)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold red]! the ledger was not written:[/] {escape(str(ledger.path))}:"
            f" {escape(reason)}; this {escape(access.what)} is not on record"
        )
        return None


def _configuration(path: Path) -> str:
    """The file, and which text it has."""
    return f"{path.resolve()} {sha256(path.read_bytes()).hexdigest()[:16]}"


def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    sudo = os.environ.get("SUDO_USER")
    return f"{user}{f' (sudo from {sudo})' if sudo else ''}@{socket.gethostname()}"


def _source() -> str:
    if ssh := os.environ.get("SSH_CONNECTION", "").split():
        return f"ssh from {ssh[0]}"
    with suppress(OSError, ValueError):
        return os.ttyname(sys.stdin.fileno())
    return "no terminal"


def _details(values: Mapping[str, Any]) -> dict[str, str]:
    """The options that were given, without any secret."""
    return {
        name: _harmless(name, value)
        for name, value in values.items()
        if name not in _NOT_DETAILS and value not in (None, False, (), "")
    }


def _harmless(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_harmless(name, one) for one in value)
    text = str(value)
    if name in _ADDRESSES or "://" in text or "password=" in text:
        from pgkeep.postgres.address import Address

        if text.startswith(("postgres", "host=")) or "=" in text.partition("/")[0]:
            try:
                return str(Address.parse(text))
            except PgkeepError:
                return "?"
        scheme, _, rest = text.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}" if rest else text
    return text[:500]
