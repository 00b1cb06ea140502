"""The runbook: how to get one database back, with its real names, for a day when nobody knows.

Pure: facts in, Markdown out. It names no secret, only where each is kept.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

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
    """As `--table` takes them."""
    stop: Sequence[str] = ()
    """Commands that stop the application; `start` those that start it."""
    start: Sequence[str] = ()


def write_runbook(facts: RunbookFacts) -> str:
    """The page as Markdown. Every block marked `sh` can be run as it stands."""
    sections = (
        _head, _state, _promises, _needs, _prepare, _stop, _whole, _moment, _parts, _rows,
        _afterwards, _again, _without,
    )  # fmt: skip
    return "\n".join(line for section in sections for line in section(facts)) + "\n"


def _head(facts: RunbookFacts) -> Iterator[str]:
    yield f"# How to get {_code(facts.database)} back"
    yield ""
    yield (
        f"Written on {facts.written:%Y-%m-%d %H:%M} UTC by pgkeep {__version__} on"
        f" {_code(facts.host)}. Source: {_code(facts.source)}. Print it, or keep it where the"
        " database is not."
    )
    yield ""
    yield (
        "**Before anything else:** leave the broken database as it is. Nothing here writes to it"
        " (but for ten rows, below); everything is restored into a new, empty one."
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
            f"- newest backup: {_code(newest.backup)} ({newest.started:%Y-%m-%d %H:%M} UTC,"
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
            f"- last drill: {last.outcome} on {last.started:%Y-%m-%d}, of {_code(last.backup)},"
            f" {last.rows:,} rows in {last.seconds:,.0f} s"
        )
    yield ""


def _promises(facts: RunbookFacts) -> Iterator[str]:
    if not facts.objectives:
        return
    yield "| what | promised | measured last |"
    yield "|---|---:|---:|"
    for one in facts.objectives:
        measured = "not yet" if one.measured is None else _in_words(one.measured)
        yield f"| {one.name} | {_in_words(one.promised)} | {measured} |"
    yield ""


def _in_words(span: timedelta) -> str:
    seconds = span.total_seconds()
    if seconds < 120:
        return f"{seconds:,.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:,.0f} min"
    return f"{seconds / 3600:,.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:,.0f} days"


def _needs(facts: RunbookFacts) -> Iterator[str]:
    version = f" {facts.newest.server_version}" if facts.newest else ""
    major = version.split(".")[0]
    yield "## What you need"
    yield ""
    yield "1. The private key (identity) of one of these recipients, from where it is kept safe:"
    for recipient in facts.recipients:
        yield f"   - {_code(recipient)}"
    yield "2. One of these repositories:"
    for place in facts.places:
        newest = "" if place.has_newest else " (**lacks the newest backup**)"
        access = f": {_plain(place.access)}" if place.access else ""
        yield f"   - {_plain(place.name)}: {_code(place.url)}{access}{newest}"
    yield (
        f"3. An empty PostgreSQL database and its URL. The source was PostgreSQL{version}: take"
        f" version{major} or a newer one, with the same extensions."
        if version
        else "3. An empty PostgreSQL database of the source's version or newer, and its URL."
    )
    yield (
        "4. A machine with Python 3.11 or newer, and pgkeep's source (keep a copy of it beside this"
        " page). In the source's folder, `make setup` makes the command `.venv/bin/pgkeep`, with"
        " PostgreSQL's client programs of versions 17 and 18 (psql too); a newer PostgreSQL needs"
        " its own."
    )
    yield ""
    yield "The backups are signed by:"
    yield ""
    for signer in facts.signers:
        yield f"- {_code(signer)}"
    yield ""


# Where `make setup` puts the command, and the wheels psql.
_PROGRAMS = (
    "$PGKEEP_SOURCE/.venv/bin:$PATH"
    "$(printf ':%s' \"$PGKEEP_SOURCE\"/.venv/lib/python3*/site-packages/*/pginstall/bin)"
)


def _prepare(facts: RunbookFacts) -> Iterator[str]:
    url = facts.places[0].url if facts.places else "file:///backups"
    variables = facts.places[0].variables if facts.places else ()
    yield "## Prepare"
    yield ""
    yield "Set these, with your own paths and values:"
    yield ""
    yield from _block(
        [
            _export("PGKEEP_SOURCE", "$HOME/pgkeep", as_it_is=True),
            _export("PATH", _PROGRAMS, as_it_is=True),
            _export("PGKEEP_IDENTITY", "$HOME/pgkeep-identity.txt", as_it_is=True),
            _export("TARGET_URL", "postgresql://user:password@host:5432/empty_database"),
            _export("REPOSITORY", url),
            *(_export(name, value) for name, value in variables),
        ],
        "sh set",
    )
    if any(one.startswith("gpg:") for one in facts.recipients):
        yield "With a gpg key leave out PGKEEP_IDENTITY: gpg opens the backup."
        yield ""
    yield "Then look whether the backup is there:"
    yield ""
    yield from _block([f"pgkeep list {shlex.quote(facts.database)} {_from(facts)}"])


def _stop(facts: RunbookFacts) -> Iterator[str]:
    if facts.stop:
        yield "## Stop the application"
        yield ""
        yield "On its own machine, so that nobody works with what is broken:"
        yield ""
        yield from _block(facts.stop, "sh stop")


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


def _rows(facts: RunbookFacts) -> Iterator[str]:
    yield "## Ten rows, not everything"
    yield ""
    yield "Beside the live tables, in the live database. Set these:"
    yield ""
    table = facts.critical[0] if facts.critical else "public.some_table"
    yield from _block(
        [
            _export("LIVE_URL", "postgresql://user:password@host:5432/live_database"),
            _export("LIVE_TABLE", table),
        ],
        "sh set-rows",
    )
    beside = ' --table "$LIVE_TABLE" --into-schema recovered'
    yield from _block([_restore(facts, beside, target="LIVE_URL")], "sh rows")
    yield "Then see what differs (exit code 3: something does), and write SQL that mends it:"
    yield ""
    yield from _block(
        ["pgkeep diff --target env:LIVE_URL --schema recovered --sql put-back.sql"], "sh diff"
    )
    yield "Read that file, and run it: all of it comes back, or nothing has changed."
    yield ""
    yield from _block(['psql "$LIVE_URL" -v ON_ERROR_STOP=1 -f put-back.sql'], "sh put-back")


def _afterwards(facts: RunbookFacts) -> Iterator[str]:
    yield "## Afterwards"
    yield ""
    yield "1. Set the passwords of roles that log in: backups hold none."
    yield "2. Ask what must hold:"
    yield ""
    for name, sql in facts.checks:
        yield f"   {_plain(name)}:"
        yield ""
        yield from (f"   {line}".rstrip() for line in _block(sql.strip().splitlines(), "sql"))
    if not facts.checks:
        yield "   (no checks are configured: `[[databases.NAME.checks]]`)"
        yield ""
    yield "3. Point the application at the new database, and only then start it."
    if facts.start:
        yield ""
        yield from (f"   {line}".rstrip() for line in _block(facts.start, "sh start"))
    yield "4. Keep the old database until everybody is sure."
    yield "5. Begin to back up the new one: `pgkeep backup`, `pgkeep capture`."
    yield ""


def _again(facts: RunbookFacts) -> Iterator[str]:
    yield "## On the host that makes the backups"
    yield ""
    yield (
        f"If {_code(facts.host)} and its configuration are still there, one command does all of the"
        " above, and goes on after a crash. It shows its plan first:"
    )
    yield ""
    yield from _block(
        [f"pgkeep recover {shlex.quote(facts.database)} --target env:TARGET_URL"], "sh recover"
    )


def _without(facts: RunbookFacts) -> Iterator[str]:
    yield "## Without pgkeep"
    yield ""
    names = ", ".join(_plain(place.name) for place in facts.places)
    yield (
        f"`RESTORE.txt` in each repository ({names}) says how to open everything with `age`, `zstd`"
        " and `psql` alone."
    )


def _restore(facts: RunbookFacts, options: str, *, target: str = "TARGET_URL") -> str:
    database = shlex.quote(facts.database)
    return f"pgkeep restore {database} {_from(facts)} --target env:{target}{options}"


def _from(facts: RunbookFacts) -> str:
    signer = facts.signers[0] if facts.signers else "SHA256:..."
    return f'--repository "$REPOSITORY" --trust "{signer}"'


def _export(name: str, value: str, *, as_it_is: bool = False) -> str:
    text = value if as_it_is else re.sub(r'([\\$`"])', r"\\\1", value)
    return f'export {name}="{text}"'


def _block(lines: Sequence[str], language: str = "sh") -> Iterator[str]:
    fence = _fence(lines, 3)
    yield f"{fence}{language}"
    yield from lines
    yield fence
    yield ""


def _code(text: str) -> str:
    """A code span, whatever is in it."""
    fence = _fence([text], 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{' '.join(text.splitlines())}{space}{fence}"


def _fence(lines: Sequence[str], least: int) -> str:
    runs = (len(run) for line in lines for run in re.findall("`+", line))
    return "`" * max(least, 1 + max(runs, default=0))


def _plain(text: str) -> str:
    """Words of the user's, which Markdown must leave as they are."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&])", r"\\\1", " ".join(text.splitlines()))
