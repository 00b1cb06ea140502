"""What leaves a hosted database for its backups, and what that costs: told before the first run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgkeep.findings import Finding, Severity
from pgkeep.platforms.prices import SUPABASE_EGRESS

_GIGABYTE = 1e9
_QUOTAS = (("free plan", 5), ("Pro or Team", 250))
_CHANGED_A_DAY = 0.02
"""What a database that people work with changes, roughly; the first backups tell better."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """How much there is, and how often it would be read."""

    database_bytes: int
    files: int
    files_bytes: int
    reads_a_month: int
    """Backups with rows, by the schedule."""

    @property
    def whole(self) -> float:
        """Bytes a month if each backup read everything, as a dump does."""
        return float((self.database_bytes + self.files_bytes) * self.reads_a_month)

    @property
    def changed(self) -> float:
        """Bytes a month as pgkeep reads: all once, then what changed."""
        whole = self.database_bytes + self.files_bytes
        return whole + whole * _CHANGED_A_DAY * 30


def traffic_findings(about: str, traffic: Traffic) -> Iterator[Finding]:
    """What the first backup reads, and a month of them, with and without reading only changes."""
    files = f" and {traffic.files:,} files of {_size(traffic.files_bytes)}" if traffic.files else ""
    yield Finding(
        Severity.NOTE,
        about,
        f"the first backup reads {_size(traffic.database_bytes)} of the database{files}; the"
        f" {traffic.reads_a_month} backups of a month about {_size(traffic.changed)} (2 % changed a"
        f" day), and {_size(traffic.whole)} if each read everything",
        f"Egress over the quota costs {SUPABASE_EGRESS} $ a gigabyte: "
        + "; ".join(_cost(traffic, name, quota) for name, quota in _QUOTAS),
    )


def _cost(traffic: Traffic, plan: str, quota: int) -> str:
    def dollars(read: float) -> str:
        return f"{max(read / _GIGABYTE - quota, 0) * SUPABASE_EGRESS:,.2f} $"

    return (
        f"{plan} ({quota} GB): {dollars(traffic.changed)} a month, {dollars(traffic.whole)} if each"
        " read everything"
    )


def _size(count: float) -> str:
    for unit, limit in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
