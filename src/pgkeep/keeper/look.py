"""Looking at databases and repositories, through pgkeep's own commands, each with a time limit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pgkeep.config import Config
from pgkeep.keeper.children import Child, Finished, Start
from pgkeep.keeper.expiring import Expiring
from pgkeep.keeper.facts import (
    DatabaseFacts,
    DiskFact,
    PlatformFact,
    parse_platform,
    parse_status,
    parse_tables,
)

_LIMIT_SECONDS = 600
_NO_REPOSITORY = "E064"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look has found."""

    databases: Mapping[str, DatabaseFacts] = field(default_factory=dict)
    blind: Mapping[str, str] = field(default_factory=dict)
    disks: tuple[DiskFact, ...] = ()
    expiries: Mapping[str, date] = field(default_factory=dict)
    """The last days of servers' certificates."""


class Looker:
    """Looks again and again, and remembers what does not change. For one thread."""

    def __init__(self, config: Config, start: Start) -> None:
        self._config = config
        self._start = start
        self._rows: dict[str, dict[str, dict[str, int]]] = {}
        """By database and backup: rows by table."""
        self._child: Child | None = None
        self._is_closed = False
        self._expiring = Expiring(config)

    def close(self) -> None:
        """End what is under way. May be called from another thread."""
        self._is_closed = True
        if (child := self._child) is not None:
            child.ask_to_end()

    def look(self) -> Seen:
        """All databases, one after the other; one that cannot be looked at hides no other."""
        databases: dict[str, DatabaseFacts] = {}
        blind: dict[str, str] = {}
        for name in sorted(self._config.databases):
            try:
                databases[name] = self._look_at(name)
            except _Blind as exc:
                blind[name] = str(exc)
            except Exception as exc:  # an answer of a form that we do not know, a full disk
                blind[name] = f"{type(exc).__name__}: {exc}"
        expiries = self._expiring.look(datetime.now(UTC))
        return Seen(databases, blind, tuple(disks(self._config)), expiries)

    def _look_at(self, name: str) -> DatabaseFacts:
        try:
            status = self._ask("look-status", "status", name)
            backups = self._ask("look-list", "list", name)
        except _Blind as exc:
            if exc.code == _NO_REPOSITORY:  # before the first backup there is none
                return DatabaseFacts(name)
            raise
        facts = self._with_tables(parse_status(status[0], backups))
        return replace(facts, platform=self._platform(name))

    def _platform(self, name: str) -> PlatformFact | None:
        """Asked where a token is configured; that it does not answer is a fact too."""
        if self._config.databases[name].supabase.token is None:
            return None
        try:
            return parse_platform(self._ask("look-platform", "list", name, "--platform"))
        except _Blind as exc:
            return PlatformFact(False, None, None, str(exc))

    def _with_tables(self, facts: DatabaseFacts) -> DatabaseFacts:
        newest = [one.backup for one in facts.full_backups[:2]]
        known = self._rows.get(facts.name, {})
        try:
            rows = {one: known.get(one) or self._tables(facts.name, one) for one in newest}
        except _Blind:  # no key here opens the table of contents
            return facts
        self._rows[facts.name] = rows
        if len(newest) < 2:
            return facts
        return replace(facts, rows_now=rows[newest[0]], rows_before=rows[newest[1]])

    def _tables(self, name: str, backup: str) -> dict[str, int]:
        return parse_tables(self._ask("look-show", "show", name, backup))

    def _ask(self, name: str, *arguments: str) -> Any:
        if self._is_closed:
            raise _Blind("the keeper is ending")
        self._child = child = self._start(name, arguments)
        finished = child.wait(_LIMIT_SECONDS)
        self._child = None
        if finished is None:
            child.kill()
            raise _Blind(f"pgkeep {arguments[0]} took longer than {_LIMIT_SECONDS} s")
        if finished.answer is None:
            raise _Blind(_why(finished, arguments[0]), finished.code)
        return finished.answer


class _Blind(Exception):
    """A command gave no answer."""

    def __init__(self, why: str, code: str = "") -> None:
        super().__init__(why)
        self.code = code


def _why(finished: Finished, command: str) -> str:
    return finished.error or f"pgkeep {command} ended with exit code {finished.exit_code}"


def disks(config: Config) -> Iterator[DiskFact]:
    """The disks of this machine that pgkeep writes to, each once."""
    places = [config.state_dir]
    for repository in config.repositories.values():
        parts = urlsplit(repository.url)
        if parts.scheme == "file":
            places.append(Path(unquote(parts.path)))
    seen = set()
    for place in places:
        try:
            device, usage = place.stat().st_dev, shutil.disk_usage(place)
        except OSError:
            continue
        if device not in seen:
            seen.add(device)
            yield DiskFact(str(place), usage.free, usage.total)
