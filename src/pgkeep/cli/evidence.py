"""Keeping evidence of a restore beside the backups."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from datetime import datetime

from pgkeep import __version__
from pgkeep.cli.context import Context, Found
from pgkeep.model import FORMAT
from pgkeep.recovery.moment import AtTime, Moment
from pgkeep.repository.evidence import Compared, Details, Evidence, Outcome, Step, seal_evidence
from pgkeep.sealing import X25519Identity


@dataclass(frozen=True, slots=True)
class Occasion:
    """Why, when and where something was restored, and what came of it."""

    kind: str
    started: datetime
    seconds: float
    steps: tuple[Step, ...]
    outcome: Outcome
    server: str
    compared: Compared = field(default_factory=Compared)
    moment: Moment | None = None
    """If the journal was replayed to one."""


def keep_evidence(
    context: Context,
    found: Found,
    identity: X25519Identity,
    occasion: Occasion,
    details: Details,
) -> str:
    """Put it into every repository; what one cannot take is a notice. The path of the file."""
    compared, moment = occasion.compared, occasion.moment
    head = Evidence(
        format=FORMAT,
        kind=occasion.kind,
        database=found.manifest.database,
        backup=found.manifest.backup,
        moment=moment.time if isinstance(moment, AtTime) else None,
        repository=found.repositories[0].name,
        started=occasion.started,
        seconds=round(occasion.seconds, 3),
        steps=occasion.steps,
        outcome=occasion.outcome,
        server=occasion.server,
        tables=compared.tables,
        rows=compared.rows,
        text_bytes=found.manifest.totals.text_bytes,
        definitions=compared.definitions,
        sequences=compared.sequences,
        differences=len(details.differences) + bool(details.problem),
        checks=len(details.checks),
        checks_failed=sum(not one.passed for one in details.checks),
        not_covered=len(details.not_covered),
        host=socket.gethostname(),
        tool=f"pgkeep {__version__}",
        epoch=found.manifest.epoch,
    )
    key = context.keys.signing_key()
    recipients = [identity.recipient, context.keys.index_key().recipient]
    path, data = seal_evidence(head, details, recipients, key)
    context.keep_everywhere(path, data, key.public)
    return path
