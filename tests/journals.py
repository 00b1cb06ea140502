"""A journal for tests: capture itself, one look at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from conftest import Workbench
from pgkeep import config
from pgkeep.capture.beginning import begin_capture, remove
from pgkeep.capture.capture import Capture, CaptureRequest
from pgkeep.events import Silent
from pgkeep.model import Lsn
from pgkeep.postgres.address import Address
from pgkeep.repository.hostkeys import HostKeys
from pgkeep.repository.journal import Journal, SegmentName
from pgkeep.repository.journal_copies import JournalCopies
from pgkeep.repository.repository import Repository
from pgkeep.stores import Store, open_store


def now() -> datetime:
    """This host's clock."""
    return datetime.now(UTC)


@dataclass(slots=True)
class TestJournal:
    """One chain under way: `cut` stores what came since the last call as a segment, or several."""

    __test__ = False

    url: str
    store: Store
    capture: Capture
    database: str
    names: list[SegmentName] = field(default_factory=list)

    @property
    def end_lsn(self) -> Lsn:
        """How far it leads."""
        return self.capture.tip.end

    def cut(self) -> SegmentName:
        """Keep everything that has committed by now; the newest segment."""
        before = self.capture.tip
        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            # Only what is flushed is decoded, and the tests' servers do not wait for that.
            connection.execute("SET synchronous_commit = on")
            connection.execute("SELECT pg_logical_emit_message(true, 'flush', '')")
        while self.capture.step().is_more or self.capture.tip is before:
            time.sleep(0.01)
        name = SegmentName.of(self.capture.tip)
        known = {one.path for one in self.names}
        found = [one for one in Journal(self.store, self.database).names() if one.path not in known]
        self.names += sorted(found, key=lambda one: one.sequence)
        return name


@contextmanager
def captured(
    workbench: Workbench, url: str, slot: str, *, capturing: str = ""
) -> Iterator[TestJournal]:
    """A journal of the database into the workbench's repository, for as long as the block runs.

    `capturing` is the address of the role that captures, if another one than the tests' own.

    Nothing of it is left in the database or holds the server's WAL afterwards.
    """
    store = open_store(workbench.repository.as_uri())
    copies = JournalCopies("shop", {"local": lambda: _open(store)})
    request = CaptureRequest(
        database="shop",
        address=Address.parse(capturing or url),
        slot=slot,
        copies=copies,
        recipients=config.load(workbench.config).encryption.recipients,
        keys=HostKeys(Path(workbench.state)),
        now=now,
        heartbeat=timedelta(minutes=1),
        slot_limit_bytes=8 << 30,
    )
    with begin_capture(request, Silent()) as begun:
        journal = TestJournal(url, store, begun.capture, "shop")
        journal.cut()
        yield journal
    copies.close()
    remove(request)


def _open(store: Store) -> Repository:
    return Repository.open_or_create("local", store, now=now())[0]
