"""The runbook: how to get one database back, with its real names, for a day when nobody knows.

Pure: facts in, Markdown out. It names no secret, only where each is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pgkeep import __version__
from pgkeep.model import Manifest
from pgkeep.recovery.objectives import Objective
from pgkeep.repository.evidence import Evidence
from pgkeep.repository.windows import Reach


@dataclass(frozen=True, slots=True)
class Place:
    """A repository, and how one gets into it."""

    name: str
    url: str
    access: str
    """In words; empty for a folder of this machine."""
    has_newest: bool
    variables: Sequence[tuple[str, str]] = ()
    """What has to be in the environment, by name, and what it is."""


@dataclass(frozen=True, slots=True)
class RunbookFacts:
    """All that the page says."""

    database: str
    source: str
    """Without a password."""
    written: datetime
    host: str
    places: Sequence[Place]
    recipients: Sequence[str]
    signers: Sequence[str]
    """Fingerprints."""
    newest: Manifest | None
    reach: Reach
    drills: Sequence[Evidence]
    objectives: Sequence[Objective]
    checks: Sequence[tuple[str, str]]
    """Name and SQL of what must hold afterwards."""
    critical: Sequence[str]


def write_runbook(facts: RunbookFacts) -> str:
    """The page as Markdown. Every block marked `sh` can be run as it stands."""
    sections = (_head, _state, _needs, _prepare, _whole, _moment, _parts, _afterwards, _without)
    return "\n".join(line for section in sections for line in section(facts)) + "\n"


def _head(facts: RunbookFacts) -> Iterator[str]:
    yield f"# How to get `{facts.database}` back"
    yield ""
    yield (
        f"Written on {facts.written:%Y-%m-%d %H:%M} UTC by pgkeep {__version__} on"
        f" `{facts.host}`. Source: `{facts.source}`. Print it, or keep it where the database is"
        " not."
    )
    yield ""
    yield (
        "**Before anything else:** leave the broken database as it is. Nothing here writes to it;"
        " everything is restored into a new, empty one."
    )
    yield ""


def _state(facts: RunbookFacts) -> Iterator[str]:
    yield "## What can be reached"
    yield ""
    if facts.newest is None:
        yield "**There is no backup yet.**"
    else:
        newest = facts.newest
        yield (
            f"- newest backup: `{newest.backup}` ({newest.started:%Y-%m-%d %H:%M} UTC,"
            f" {newest.totals.rows:,} rows, {newest.totals.text_bytes / 1e9:.2f} GB of rows)"
        )
    for window in facts.reach.windows:
        begins, ends = window.begins, window.ends
        yield f"- every second from {begins:%Y-%m-%d %H:%M:%S} to {ends:%Y-%m-%d %H:%M:%S} UTC"
    last = next(iter(facts.drills), None)
    if last is None:
        yield "- it was never proven by a drill: `pgkeep drill` does that"
    else:
        yield (
            f"- last drill: {last.outcome} on {last.started:%Y-%m-%d}, {last.rows:,} rows in"
            f" {last.seconds:,.0f} s"
        )
    for objective in facts.objectives:
        measured = objective.measured
        if measured is not None and objective.name == "whole database back":
            yield f"- a restore takes about {measured.total_seconds():,.0f} s, by the last drills"
    yield ""


def _needs(facts: RunbookFacts) -> Iterator[str]:
    yield "## What you need"
    yield ""
    yield "1. The private key (identity) of one of these recipients, from where it is kept safe:"
    for recipient in facts.recipients:
        yield f"   - `{recipient}`"
    yield "2. One of these repositories:"
    for place in facts.places:
        newest = "" if place.has_newest else " (**lacks the newest backup**)"
        access = f": {place.access}" if place.access else ""
        yield f"   - {place.name}: `{place.url}`{access}{newest}"
    yield "3. An empty PostgreSQL database of the same major version or newer, and its URL."
    yield "4. A machine with Python 3.11 or newer, pgkeep, and PostgreSQL's client programs."
    yield ""
    yield "The backups are signed by:"
    yield ""
    for signer in facts.signers:
        yield f"- `{signer}`"
    yield ""


def _prepare(facts: RunbookFacts) -> Iterator[str]:
    url = facts.places[0].url if facts.places else "file:///backups"
    variables = facts.places[0].variables if facts.places else ()
    signer = facts.signers[0] if facts.signers else "SHA256:..."
    yield "## Prepare"
    yield ""
    yield "Set these, with your own paths and values:"
    yield ""
    yield from _block(
        [
            'export PGKEEP_IDENTITY="$HOME/pgkeep-identity.txt"',
            'export TARGET_URL="postgresql://user:password@host:5432/empty_database"',
            f'export REPOSITORY="{url}"',
            *(f'export {name}="{value}"' for name, value in variables),
        ],
        "sh set",
    )
    yield "Then look whether the backup is there:"
    yield ""
    yield from _block(
        [f'pgkeep list {facts.database} --repository "$REPOSITORY" --trust "{signer}"']
    )


def _whole(facts: RunbookFacts) -> Iterator[str]:
    yield "## The whole database, as of the newest backup"
    yield ""
    yield from _block([_restore(facts, "")])
    yield (
        "It ends with `proven` and exit code 0 only if every row, definition and sequence is as it"
        " was. If it fails, it says which object; drop the database, create it again, and use"
        " another repository of those above."
    )
    yield ""


def _moment(facts: RunbookFacts) -> Iterator[str]:
    windows = facts.reach.windows
    if not windows:
        return
    yield "## To a moment (a table was dropped at 14:03:20: restore to 14:03:19)"
    yield ""
    moment = f"{windows[-1].ends:%Y-%m-%d %H:%M:%S}+00:00"
    yield from _block([_restore(facts, f" --to '{moment}'")], "sh moment")


def _parts(facts: RunbookFacts) -> Iterator[str]:
    yield "## Schema first, then the rows"
    yield ""
    yield "When the application may look at the tables before they are full:"
    yield ""
    steps = [_restore(facts, " --schema-only"), _restore(facts, " --data-only")]
    yield from _block(steps, "sh schema-then-data")
    yield "## Ten rows, not everything"
    yield ""
    table = facts.critical[0] if facts.critical else "public.some_table"
    yield "Beside the live tables, in the live database, then look at what differs:"
    yield ""
    yield from _block(
        [
            _restore(facts, f" --table {table} --into-schema recovered"),
            "pgkeep diff --target env:TARGET_URL --schema recovered --sql put-back.sql",
        ],
        "sh rows",
    )


def _afterwards(facts: RunbookFacts) -> Iterator[str]:
    yield "## Afterwards"
    yield ""
    yield "1. Set the passwords of roles that log in: backups hold none."
    yield "2. Ask what must hold:"
    for name, sql in facts.checks:
        yield f"   - {name}: `{sql}`"
    if not facts.checks:
        yield "   - (no checks are configured: `[[databases...checks]]`)"
    yield "3. Point the application at the new database, and only then start it."
    yield "4. Keep the old database until everybody is sure."
    yield "5. Begin to back up the new one: `pgkeep backup`, `pgkeep capture`."
    yield ""


def _without(facts: RunbookFacts) -> Iterator[str]:
    yield "## Without pgkeep"
    yield ""
    names = ", ".join(place.name for place in facts.places)
    yield (
        f"`RESTORE.txt` in each repository ({names}) says how to open everything with `age`, `zstd`"
        " and `psql` alone."
    )


def _restore(facts: RunbookFacts, options: str) -> str:
    signer = facts.signers[0] if facts.signers else "SHA256:..."
    return (
        f'pgkeep restore {facts.database} --repository "$REPOSITORY" --trust "{signer}"'
        f" --target env:TARGET_URL{options}"
    )


def _block(lines: Sequence[str], language: str = "sh") -> Iterator[str]:
    yield f"```{language}"
    yield from lines
    yield "```"
    yield ""
