"""Reading a journal back with the keys alone: what tests compare with what a workload has done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from conftest import Workbench
from pgkeep.postgres import pgoutput
from pgkeep.repository.hostkeys import HostKeys
from pgkeep.repository.journal import FrameKind, Journal, Run
from pgkeep.repository.repository import Repository
from pgkeep.sealing import (
    X25519Identity,
    load_epoch_of,
    load_identities,
    open_with,
)
from pgkeep.stores import LocalStore


@dataclass(slots=True)
class Transaction:
    """A transaction of the journal, as a reader sees it."""

    xid: int
    commit_lsn: int
    changes: list[tuple[str, pgoutput.Change]] = field(default_factory=list)
    """Table and change. TRUNCATE has the names of all its tables."""
    messages: list[dict[str, Any]] = field(default_factory=list)

    def rows(self, table: str) -> list[list[pgoutput.Value]]:
        """The rows that it inserts into a table."""
        return [
            change.new
            for name, change in self.changes
            if name == table and isinstance(change, pgoutput.Insert)
        ]


@dataclass(slots=True)
class JournalReader:
    """The journal in a workbench's repository."""

    workbench: Workbench

    @property
    def runs(self) -> tuple[Run, ...]:
        return Journal(LocalStore(self.workbench.repository), "shop").runs()

    def newest(self) -> list[Transaction]:
        """All whole transactions of the newest run; every head, link and signature is checked."""
        return list(self.transactions(self.runs[-1]))

    def transactions(self, run: Run) -> Iterator[Transaction]:
        store = LocalStore(self.workbench.repository)
        repository, journal = Repository("test", store), Journal(store, "shop")
        trusted = [HostKeys(self.workbench.state).signing_key().public]
        tables: dict[int, str] = {}
        opened: dict[str, X25519Identity] = {}
        current: Transaction | None = None
        previous_end: int | None = None
        for name in run.segments:
            sealed = journal.read(name, trusted)
            head = sealed.head
            assert previous_end in (None, head.start), "segments are not contiguous"
            previous_end = head.end
            assert head.begins_whole == (current is None)
            if head.epoch not in opened:
                opened[head.epoch] = self._epoch(repository, head.epoch)
            for frame in sealed.frames([opened[head.epoch]]):
                if frame.kind != FrameKind.MESSAGE:
                    continue
                message = pgoutput.parse(frame.data)
                match message:
                    case pgoutput.Begin():
                        assert current is None
                        current = Transaction(message.xid, message.commit_lsn)
                    case pgoutput.Commit():
                        assert current is not None
                        assert message.end_lsn <= head.end
                        yield current
                        current = None
                    case pgoutput.Relation():
                        tables[message.oid] = str(message.name)
                    case pgoutput.LogicalMessage():
                        assert current is not None
                        current.messages.append(json.loads(message.content))
                    case pgoutput.Truncate():
                        assert current is not None
                        names = ", ".join(tables[oid] for oid in message.relations)
                        current.changes.append((names, message))
                    case pgoutput.Insert() | pgoutput.Update() | pgoutput.Delete():
                        assert current is not None
                        current.changes.append((tables[message.relation], message))
            assert head.ends_whole == (current is None)

    def _epoch(self, repository: Repository, epoch: str) -> X25519Identity:
        sealed = repository.sealed_epoch_key(epoch)
        assert sealed.age is not None
        identities = load_identities(
            self.workbench.identity.read_bytes(), passphrase=lambda _: "", name="test"
        )
        return load_epoch_of(epoch, open_with(identities, sealed.age))
