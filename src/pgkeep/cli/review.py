"""What the checklist and the audit are made of: repositories, ledger, keeper, configuration."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from urllib.parse import urlsplit

from pgkeep.cli.commands.status import DatabaseStatus, evidence_of, look_at
from pgkeep.cli.context import Context
from pgkeep.cli.enrolled import enrolled_here
from pgkeep.config import Config
from pgkeep.errors import PgkeepError
from pgkeep.keeper.checklist import Facts, Place
from pgkeep.keeper.state import StateFile
from pgkeep.recovery.objectives import Objective
from pgkeep.repository.ledger import Entry, Ledger, anchors_in, read_anchors
from pgkeep.repository.repository import Listing, Repository
from pgkeep.repository.signoffs import SignOff, list_sign_offs

TEST_NOTIFY = "run --test-notify"


def checklist_facts(
    context: Context,
    name: str,
    repositories: Sequence[Repository],
    entries: Sequence[Entry],
    signed: Sequence[SignOff],
) -> tuple[Facts, DatabaseStatus]:
    """The facts of one database."""
    now, config = context.now(), context.config
    status = look_at(context, name, repositories, offline=True)
    listings = context.listings(repositories, name)
    state = StateFile(config.state_dir)
    keeper = state.load(now) if state.path.exists() else None
    facts = Facts(
        now=now,
        database=name,
        backups=status.listing.backups,
        places=[
            _place(config, one, listings[one.name]) for one in repositories if one.name in listings
        ],
        covered=status.reach.covered,
        drills=[one.head for one in evidence_of(context, name, repositories, newest=200)],
        objectives=objectives(context, status, now),
        done=when_done(entries),
        recipients=len(config.encryption.recipients),
        networks=config.database(name).allowed_networks or config.allowed_networks,
        told=_channels(config),
        ping=config.notify.ping is not None,
        keeper_seen=keeper.seen if keeper else None,
        factors={
            one.name: one.enrolled for one in enrolled_here(context)
        },
        ledger_since=entries[0].at if entries else None,
        alerts=len(keeper.alerts) if keeper else 0,
        sign_offs=signed,
    )  # fmt: skip
    return facts, status


def objectives(context: Context, status: DatabaseStatus, now: datetime) -> tuple[Objective, ...]:
    """What was promised beside what was measured."""
    return status.objectives(context.config.database(status.name).objectives, now)


def sign_offs(context: Context, repositories: Sequence[Repository]) -> tuple[SignOff, ...]:
    """From every repository, each once."""
    found: dict[tuple[str, str, datetime], SignOff] = {}
    for repository in repositories:
        try:
            for one in list_sign_offs(repository, partial(context.trusted, repository)):
                found[one.item, one.name, one.at] = one
        except PgkeepError as exc:
            context.notice(exc)
    return tuple(found.values())


def when_done(entries: Sequence[Entry]) -> Mapping[str, datetime]:
    """When each command last ended well; a verification counts if it read, a run if it tested."""
    found: dict[str, datetime] = {}
    for one in entries:
        if one.state not in ("done", "attention") or "dry_run" in one.details:
            continue
        what = one.what
        if what == "verify" and "read" not in one.details:
            continue
        if what == "run":
            what = TEST_NOTIFY if "test_notify" in one.details else what
        found[what] = one.at
    return found


def ledger_problems(context: Context, repositories: Sequence[Repository]) -> tuple[str, ...]:
    """What is wrong with the chain, by itself and by what repositories hold of it."""
    host = socket.gethostname()
    anchors = {}
    for repository in repositories:
        try:
            found, _ = read_anchors(repository, host, context.trusted(repository))
            signed = anchors_in(context.listing(repository, None).backups, host)
            anchors[repository.name] = (*found, *signed)
        except PgkeepError as exc:
            context.notice(exc)
    return Ledger(context.config.state_dir).verify(anchors).problems


def _place(config: Config, repository: Repository, listing: Listing) -> Place:
    configured = config.repositories.get(repository.name)
    url = repository.store.url
    endpoint = urlsplit(configured.endpoint).hostname if configured and configured.endpoint else ""
    newest = listing.backups[0] if listing.backups else None
    return Place(
        repository.name, url.startswith("file://"), endpoint or url.partition("://")[0], newest
    )


def _channels(config: Config) -> int:
    notify = config.notify
    mails = 1 if notify.mail is not None else 0
    return len(notify.slack) + len(notify.webhooks) + len(notify.apprise) + mails
