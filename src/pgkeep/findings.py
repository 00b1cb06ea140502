"""A problem with its remedy: what `pgkeep doctor` tells, whatever it looked at.

A finding is data; showing it is someone else's work. That something could not be looked at is a
finding too, if it would keep a backup from being made, and else an exception.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    """A backup would fail."""
    WARNING = "warning"
    """Backups are made, and something may be lost, shown or late all the same."""
    NOTE = "note"
    """Good to know; nobody has to act."""


_ORDER = tuple(Severity)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with something, and what to do about it."""

    severity: Severity
    about: str
    """What it is wrong with: `repository s3`, `database shop`, `recipients`."""
    what: str
    """Lower case, one line, no full stop, with the value that matters."""
    remedy: str = ""
    """A sentence, or a command to run."""


def worst(findings: Iterable[Finding]) -> Severity | None:
    """The gravest severity among them; `None` if there are none."""
    found = {finding.severity for finding in findings}
    return next((severity for severity in _ORDER if severity in found), None)


def gravest_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """In order of severity; those of the same in the order in which they came."""
    return tuple(sorted(findings, key=lambda finding: _ORDER.index(finding.severity)))
