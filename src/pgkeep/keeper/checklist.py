"""The lists of what must be set up and what must be done again and again, ticked from evidence.

Nothing is ticked because somebody meant to: each line has what proves it, when that was, and for
how long it holds, or else the command that would tick it. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from pgkeep.model import Kind, Manifest
from pgkeep.recovery.objectives import Objective
from pgkeep.repository.evidence import Evidence, Outcome
from pgkeep.repository.signoffs import SignOff

DAY = timedelta(days=1)


class Rhythm(StrEnum):
    """On which list a line is."""

    SET_UP = "set-up"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    QUARTERLY = "quarterly"


@dataclass(frozen=True, slots=True)
class Place:
    """A repository, as far as the lists care."""

    name: str
    is_local: bool
    provider: str
    """Whose it is: two of one provider can be lost together."""
    newest: Manifest | None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the lists are ticked from, of one database and of the host."""

    now: datetime
    database: str
    backups: Sequence[Manifest]
    """Newest first, of all repositories."""
    places: Sequence[Place]
    covered: datetime | None
    """Until when the journal goes."""
    drills: Sequence[Evidence]
    """Newest first; recoveries are among them."""
    objectives: Sequence[Objective]
    done: Mapping[str, datetime]
    """When each command last ended well on this host, by the ledger: `prune`, `verify` ..."""
    recipients: int
    networks: tuple[str, ...]
    told: int
    """How many channels get alerts."""
    ping: bool
    keeper_seen: datetime | None
    """When a keeper was last alive."""
    factors: Mapping[str, datetime]
    ledger_since: datetime | None
    alerts: int
    sign_offs: Sequence[SignOff] = ()


@dataclass(frozen=True, slots=True)
class Tick:
    """What proves a line."""

    at: datetime
    evidence: str


Prove = Callable[[Facts], Tick | None]


@dataclass(frozen=True, slots=True)
class Item:
    """A line of a list."""

    id: str
    rhythm: Rhythm
    text: str
    remedy: str
    """The command that ticks it; `{db}` stands for the database."""
    prove: Prove | None = None
    """None: only a person can say so."""
    holds: timedelta | None = None
    """For how long a tick holds; None: as long as it is so."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line with what is known of it now."""

    item: Item
    remedy: str
    tick: Tick | None
    due: datetime | None
    """When it falls due again."""
    is_done: bool
    sign_off: SignOff | None = field(default=None)


def judge(facts: Facts) -> tuple[Line, ...]:
    """Every line of every list."""
    return tuple(_judge(item, facts) for item in ITEMS)


def item_named(name: str) -> Item | None:
    """A line by its id."""
    return next((one for one in ITEMS if one.id == name), None)


def _judge(item: Item, facts: Facts) -> Line:
    signed = [one for one in facts.sign_offs if one.item == item.id and one.at <= facts.now]
    last = max(signed, key=lambda one: one.at, default=None)
    tick = item.prove(facts) if item.prove else None
    if item.prove is None and last is not None:
        note = f": {last.note}" if last.note else ""
        tick = Tick(last.at, f"signed off by {last.name}{note}")
    due = tick.at + item.holds if tick and item.holds else None
    is_done = tick is not None and (due is None or due > facts.now)
    return Line(item, item.remedy.format(db=facts.database), tick, due, is_done, last)


# --- what proves what ------------------------------------------------------------------------


def _backup(*kinds: Kind) -> Prove:
    def prove(facts: Facts) -> Tick | None:
        found = next((one for one in facts.backups if one.kind in kinds), None)
        return Tick(found.finished, f"backup {found.backup}") if found else None

    return prove


def _journal(facts: Facts) -> Tick | None:
    return Tick(facts.covered, "every second up to then") if facts.covered else None


def _ran(command: str, words: str) -> Prove:
    def prove(facts: Facts) -> Tick | None:
        at = facts.done.get(command)
        return Tick(at, words) if at else None

    return prove


def _keeper(facts: Facts) -> Tick | None:
    return Tick(facts.keeper_seen, "the keeper was alive") if facts.keeper_seen else None


def _with_newest(facts: Facts) -> Iterator[Place]:
    newest = facts.backups[0].backup if facts.backups else None
    for place in facts.places:
        if newest and place.newest and place.newest.backup == newest:
            yield place


def _two_places(facts: Facts) -> Tick | None:
    found = list(_with_newest(facts))
    if len(found) < 2 or all(one.is_local for one in found):
        return None
    return Tick(facts.backups[0].finished, f"the newest backup is in {_names(found)}")


def _two_providers(facts: Facts) -> Tick | None:
    away = [one for one in facts.places if not one.is_local and one.newest]
    if len({one.provider for one in away}) < 2:
        return None
    return Tick(max(one.newest.finished for one in away if one.newest), f"in {_names(away)}")


def _names(places: Sequence[Place]) -> str:
    return ", ".join(one.name for one in places)


def _keys(facts: Facts) -> Tick | None:
    if not facts.backups or facts.recipients < 2:
        return None
    return Tick(facts.backups[0].finished, f"sealed to {facts.recipients} keys")


def _ledger(facts: Facts) -> Tick | None:
    since = facts.ledger_since
    return Tick(facts.now, f"kept since {since:%Y-%m-%d}") if since else None


def _factor(facts: Facts) -> Tick | None:
    if not facts.factors:
        return None
    return Tick(max(facts.factors.values()), f"enrolled: {', '.join(sorted(facts.factors))}")


def _networks(facts: Facts) -> Tick | None:
    return Tick(facts.now, f"allowed: {', '.join(facts.networks)}") if facts.networks else None


def _told(facts: Facts) -> Tick | None:
    at = facts.done.get("run --test-notify")
    return Tick(at, f"a test reached {facts.told} channels") if facts.told and at else None


def _ping(facts: Facts) -> Tick | None:
    return Tick(facts.now, "a dead man's switch is configured") if facts.ping else None


def _drill(facts: Facts) -> Tick | None:
    found = next((one for one in facts.drills if one.outcome is not Outcome.FAILED), None)
    if found is None or facts.drills[0].outcome is Outcome.FAILED:
        return None
    return Tick(found.started, f"{found.rows:,} rows restored and compared: {found.outcome}")


def _recovery(facts: Facts) -> Tick | None:
    found = next((one for one in facts.drills if one.kind == "recovery"), None)
    if found is None or found.outcome is Outcome.FAILED:
        return None
    return Tick(found.started, f"recovered in {found.seconds:.0f} s")


def _objectives(facts: Facts) -> Tick | None:
    if not facts.objectives or any(one.is_met is not True for one in facts.objectives):
        return None
    return Tick(facts.now, f"all {len(facts.objectives)} are met")


def _quiet(facts: Facts) -> Tick | None:
    if facts.keeper_seen is None or facts.alerts:
        return None
    return Tick(facts.keeper_seen, "the keeper has nothing to tell")


_SIGN = 'pgkeep checklist --sign {item} --name "YOUR NAME"'


def _person(item: str, rhythm: Rhythm, text: str, days: int) -> Item:
    return Item(item, rhythm, text, _SIGN.replace("{item}", item), None, days * DAY)


ITEMS: tuple[Item, ...] = (
    Item("full", Rhythm.SET_UP, "Full backups", "pgkeep backup {db}", _backup(Kind.FULL)),
    Item("schema", Rhythm.SET_UP, "Schema backups", "pgkeep backup {db} --kind schema",
         _backup(Kind.SCHEMA)),
    Item("data", Rhythm.SET_UP, "Data backups", "pgkeep backup {db} --kind data",
         _backup(Kind.DATA)),
    Item("point-in-time", Rhythm.SET_UP, "Recovery to any second", "pgkeep capture {db}",
         _journal),
    Item("schedule", Rhythm.SET_UP, "A schedule that runs by itself",
         "pgkeep run (or: pgkeep schedule --systemd)", _keeper, DAY),
    Item("storage", Rhythm.SET_UP, "Two places, one of them not on this machine",
         "add [repositories.s3] to the configuration, then: pgkeep sync", _two_places),
    Item("second-provider", Rhythm.SET_UP, "A second provider",
         "add a repository at another provider, then: pgkeep sync", _two_providers),
    Item("retention", Rhythm.SET_UP, "Retention is applied", "pgkeep prune",
         _ran("prune", "pruned")),
    Item("encryption", Rhythm.SET_UP, "Sealed to two keys, kept apart",
         "add a second key to encryption.recipients, then: pgkeep reseal", _keys),
    Item("access-log", Rhythm.SET_UP, "Every access is on record", "pgkeep list", _ledger),
    Item("second-factor", Rhythm.SET_UP, "A second factor before what cannot be undone",
         "pgkeep factor enroll", _factor),
    Item("network", Rhythm.SET_UP, "Only over the VPN",
         'set allowed_networks = ["10.8.0.0/16"] in the configuration', _networks),
    Item("alerts", Rhythm.SET_UP, "Alerts reach somebody",
         "add [notify] slack = [...], then: pgkeep run --test-notify", _told),
    Item("watched", Rhythm.SET_UP, "The watcher is watched", 'set notify.ping = "https://..."',
         _ping),
    Item("validated", Rhythm.SET_UP, "A restore was validated", "pgkeep drill {db}", _drill),
    Item("runbook", Rhythm.SET_UP, "The recovery plan is written down",
         "pgkeep runbook {db} -o runbook.html", _ran("runbook", "written"), 180 * DAY),
    Item("objectives", Rhythm.SET_UP, "The objectives are met", "pgkeep status {db}", _objectives),
    _person("team", Rhythm.SET_UP, "The team is trained", 365),
    _person("contacts", Rhythm.SET_UP, "Contacts and keys are where the plan says", 180),
    Item("daily-backup", Rhythm.DAILY, "A backup was made", "pgkeep backup {db}",
         _backup(Kind.FULL, Kind.DATA), DAY + timedelta(hours=6)),
    Item("daily-alerts", Rhythm.DAILY, "Nothing is wrong", "pgkeep status {db}", _quiet, DAY),
    Item("weekly-restore", Rhythm.WEEKLY, "A backup was restored and compared", "pgkeep drill {db}",
         _drill, 8 * DAY),
    Item("weekly-prune", Rhythm.WEEKLY, "What is too old was removed", "pgkeep prune",
         _ran("prune", "pruned"), 8 * DAY),
    Item("monthly-verify", Rhythm.MONTHLY, "Every copy was read", "pgkeep verify --read all",
         _ran("verify", "verified"), 32 * DAY),
    Item("monthly-audit", Rhythm.MONTHLY, "The audit was written", "pgkeep audit {db}",
         _ran("audit", "written"), 32 * DAY),
    _person("monthly-review", Rhythm.MONTHLY, "The strategy was reviewed", 32),
    _person("monthly-costs", Rhythm.MONTHLY, "The costs were looked at", 32),
    Item("quarterly-rehearsal", Rhythm.QUARTERLY, "The whole recovery was rehearsed",
         "pgkeep recover {db} --target URL", _recovery, 92 * DAY),
    _person("quarterly-keys", Rhythm.QUARTERLY, "Passwords and keys were renewed", 92),
)  # fmt: skip
