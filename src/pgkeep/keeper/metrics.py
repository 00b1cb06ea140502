"""What Prometheus may ask: made from what the keeper knows, at the moment of asking."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pgkeep import __version__
from pgkeep.config import ObjectivesConfig
from pgkeep.errors import AddressTaken
from pgkeep.keeper.facts import DatabaseFacts
from pgkeep.keeper.look import Seen
from pgkeep.keeper.schedule import Job, Past
from pgkeep.keeper.state import KeeperState
from pgkeep.keeper.watch import Severity


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: what it is called, what it says, and its labels."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()


_DATABASE = ("database",)
_KIND = ("database", "kind")
_JOB = ("job", "database")

METRICS = (
    Metric("pgkeep_info", "Always 1; the version of pgkeep.", ("version",)),
    Metric("pgkeep_look_timestamp_seconds", "When databases and repositories were looked at."),
    Metric("pgkeep_blind", "1 if the database could not be looked at.", _DATABASE),
    Metric("pgkeep_backups", "Backups that are kept.", _KIND),
    Metric("pgkeep_backup_timestamp_seconds", "When the newest backup began.", _KIND),
    Metric("pgkeep_backup_age_seconds", "How old the newest backup is.", _KIND),
    Metric("pgkeep_backup_duration_seconds", "How long the newest backup took.", _KIND),
    Metric("pgkeep_backup_rows", "Rows in the newest backup.", _KIND),
    Metric("pgkeep_backup_text_bytes", "Size of the newest backup as text.", _KIND),
    Metric("pgkeep_backup_stored_bytes", "Size of the newest backup as it is stored.", _KIND),
    Metric("pgkeep_backup_read_bytes", "Of it, what was read out of the database.", _KIND),
    Metric("pgkeep_backup_sent_bytes", "Of it, what was new to the repositories.", _KIND),
    Metric("pgkeep_backup_parts_read", "Parts of the newest backup that were read.", _KIND),
    Metric("pgkeep_backup_parts_reused", "Parts of it that had not changed.", _KIND),
    Metric("pgkeep_copy_behind", "1 if a repository lacks the newest backup or segments of the"
           " journal.", ("database", "repository")),
    Metric("pgkeep_loss_window_seconds", "What would be lost now.", _DATABASE),
    Metric("pgkeep_loss_promised_seconds", "What may be lost (RPO).", _DATABASE),
    Metric("pgkeep_capture_running", "1 if changes are being captured.", _DATABASE),
    Metric("pgkeep_slot_wal_bytes", "WAL that the replication slot holds.", _DATABASE),
    Metric("pgkeep_slot_limit_bytes", "At how much the server gives it up.", _DATABASE),
    Metric("pgkeep_slot_lost", "1 if the server gave the slot up.", _DATABASE),
    Metric("pgkeep_drill_timestamp_seconds", "When the last drill began.", _DATABASE),
    Metric("pgkeep_drill_passed_timestamp_seconds", "When the last that passed began.", _DATABASE),
    Metric("pgkeep_drill_passed", "1 if the last drill passed.", _DATABASE),
    Metric("pgkeep_drill_duration_seconds", "How long the last drill took.", _DATABASE),
    Metric("pgkeep_job_running", "1 while the job runs.", _JOB),
    Metric("pgkeep_job_success_timestamp_seconds", "When the last run that succeeded began.", _JOB),
    Metric("pgkeep_job_failures", "Failures since then.", _JOB),
    Metric("pgkeep_job_duration_seconds", "How long the last run took.", _JOB),
    Metric("pgkeep_job_exit_code", "How the last run ended.", _JOB),
    Metric("pgkeep_job_next_timestamp_seconds", "When the job is due next.", _JOB),
    Metric("pgkeep_alerts", "Alerts that are open.", ("database", "severity")),
    Metric("pgkeep_messages_waiting", "Messages that no channel has taken yet."),
    Metric("pgkeep_disk_free_bytes", "What is free on a disk that pgkeep writes to.", ("path",)),
    Metric("pgkeep_disk_size_bytes", "How large it is.", ("path",)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the keeper knows at one moment."""

    now: datetime
    state: KeeperState
    seen: Seen = field(default_factory=Seen)
    looked: datetime | None = None
    jobs: tuple[Job, ...] = ()
    pasts: Mapping[str, Past] = field(default_factory=dict)
    running: frozenset[str] = frozenset()
    capturing: frozenset[str] = frozenset()
    captured: frozenset[str] = frozenset()
    objectives: Mapping[str, ObjectivesConfig] = field(default_factory=dict)
    repositories: tuple[str, ...] = ()


Sample = tuple[str, tuple[str, ...], float]


def samples(snapshot: Snapshot) -> Iterator[Sample]:
    """Every value, as the metric's name, its labels, and the number."""
    yield "pgkeep_info", (__version__,), 1
    if snapshot.looked is not None:
        yield "pgkeep_look_timestamp_seconds", (), snapshot.looked.timestamp()
    for name in (*snapshot.seen.databases, *snapshot.seen.blind):
        yield "pgkeep_blind", (name,), float(name in snapshot.seen.blind)
    for facts in snapshot.seen.databases.values():
        yield from _of_backups(facts, snapshot)
        yield from _of_capture(facts, snapshot)
        yield from _of_drills(facts)
    for job in snapshot.jobs:
        yield from _of_job(job, snapshot)
    yield from _of_alerts(snapshot)
    for disk in snapshot.seen.disks:
        yield "pgkeep_disk_free_bytes", (disk.path,), disk.free_bytes
        yield "pgkeep_disk_size_bytes", (disk.path,), disk.total_bytes


def _of_backups(facts: DatabaseFacts, snapshot: Snapshot) -> Iterator[Sample]:
    newest = {one.kind: one for one in reversed(facts.backups)}
    for kind, one in newest.items():
        labels = (facts.name, kind.value)
        yield "pgkeep_backups", labels, sum(other.kind is kind for other in facts.backups)
        yield "pgkeep_backup_timestamp_seconds", labels, one.started.timestamp()
        yield "pgkeep_backup_age_seconds", labels, (snapshot.now - one.started).total_seconds()
        yield "pgkeep_backup_duration_seconds", labels, one.seconds
        yield "pgkeep_backup_rows", labels, one.rows
        yield "pgkeep_backup_text_bytes", labels, one.text_bytes
        yield "pgkeep_backup_stored_bytes", labels, one.stored_bytes
        yield "pgkeep_backup_read_bytes", labels, one.read_bytes
        yield "pgkeep_backup_sent_bytes", labels, one.added_bytes
        yield "pgkeep_backup_parts_read", labels, one.parts_read
        yield "pgkeep_backup_parts_reused", labels, one.parts_reused
    behind = {
        key.rpartition("/behind/")[2]
        for key in (alert.key for alert in snapshot.state.alerts)
        if key.startswith(f"{facts.name}/behind/")
    }
    for repository in snapshot.repositories:
        yield "pgkeep_copy_behind", (facts.name, repository), float(repository in behind)


def _of_capture(facts: DatabaseFacts, snapshot: Snapshot) -> Iterator[Sample]:
    labels = (facts.name,)
    promised = snapshot.objectives.get(facts.name, ObjectivesConfig())
    if facts.loss_window is not None:
        loss: float | None = facts.loss_window.total_seconds()
        allowed = promised.automated_rpo_minutes * 60
    else:
        newest = next(iter(facts.backups_with_rows), None)
        loss = (snapshot.now - newest.started).total_seconds() if newest else None
        allowed = promised.manual_rpo_hours * 3600
    if loss is not None:
        yield "pgkeep_loss_window_seconds", labels, loss
    yield "pgkeep_loss_promised_seconds", labels, allowed
    if facts.name in snapshot.captured:
        yield "pgkeep_capture_running", labels, float(facts.name in snapshot.capturing)
    if facts.slot is not None:
        yield "pgkeep_slot_wal_bytes", labels, facts.slot.bytes
        yield "pgkeep_slot_lost", labels, float(facts.slot.is_lost)
        if facts.slot.limit_bytes is not None:
            yield "pgkeep_slot_limit_bytes", labels, facts.slot.limit_bytes


def _of_drills(facts: DatabaseFacts) -> Iterator[Sample]:
    labels = (facts.name,)
    if facts.drills:
        last = facts.drills[0]
        yield "pgkeep_drill_timestamp_seconds", labels, last.started.timestamp()
        yield "pgkeep_drill_passed", labels, float(last.has_passed)
        yield "pgkeep_drill_duration_seconds", labels, last.seconds
    passed = next((one for one in facts.drills if one.has_passed), None)
    if passed is not None:
        yield "pgkeep_drill_passed_timestamp_seconds", labels, passed.started.timestamp()


def _of_job(job: Job, snapshot: Snapshot) -> Iterator[Sample]:
    labels = (job.name, job.database)
    past, run = snapshot.pasts.get(job.name, Past()), snapshot.state.runs.get(job.name)
    yield "pgkeep_job_running", labels, float(job.name in snapshot.running)
    yield "pgkeep_job_failures", labels, past.failures
    if past.succeeded is not None:
        yield "pgkeep_job_success_timestamp_seconds", labels, past.succeeded.timestamp()
    if run is not None:
        yield "pgkeep_job_duration_seconds", labels, (run.ended - run.began).total_seconds()
        yield "pgkeep_job_exit_code", labels, run.exit_code
    if (following := job.next_after(snapshot.now)) is not None:
        yield "pgkeep_job_next_timestamp_seconds", labels, following.timestamp()


def _of_alerts(snapshot: Snapshot) -> Iterator[Sample]:
    names = {"", *snapshot.seen.databases, *snapshot.seen.blind}
    for name in sorted(names | {alert.database for alert in snapshot.state.alerts}):
        for severity in Severity:
            count = sum(
                (one.database, one.severity) == (name, severity) for one in snapshot.state.alerts
            )
            yield "pgkeep_alerts", (name, severity.value), count
    yield "pgkeep_messages_waiting", (), len(snapshot.state.outbox)


class _FromSnapshot(Collector):
    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterator[GaugeMetricFamily]:
        for one in METRICS:
            yield GaugeMetricFamily(one.name, one.meaning, labels=one.labels)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = {family.name: family for family in self.describe()}
        for name, labels, value in samples(self._snapshot()):
            families[name].add_metric(labels, value)
        yield from families.values()


def registry(snapshot: Callable[[], Snapshot]) -> CollectorRegistry:
    """What Prometheus is shown; `snapshot` is called from its own threads."""
    made = CollectorRegistry()
    made.register(_FromSnapshot(snapshot))
    return made


@contextmanager
def served(address: str | None, snapshot: Callable[[], Snapshot]) -> Iterator[None]:
    """Answer at HOST:PORT while the block runs; `AddressTaken` if that cannot be."""
    if address is None:
        yield
        return
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(
            int(port), host.strip("[]") or "127.0.0.1", registry(snapshot)
        )
    except (OSError, OverflowError) as exc:
        raise AddressTaken(f"cannot listen for metrics at {address!r}: {exc}") from exc
    assert isinstance(thread, threading.Thread)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
