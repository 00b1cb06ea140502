"""The records of a restore: what is asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pgkeep.model import Contents, Manifest, TableName
from pgkeep.postgres.address import Address
from pgkeep.postgres.programs import ChooseClient
from pgkeep.recovery.journey import Journey
from pgkeep.recovery.load import Sealed
from pgkeep.recovery.onward import ReplayResult
from pgkeep.recovery.plan import Scope
from pgkeep.recovery.proof import Proof
from pgkeep.recovery.refusals import Refused


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """What to restore, from where, into what, and how far."""

    manifest: Manifest
    contents: Contents
    sealed: Sealed
    target: Address
    scope: Scope
    choose_client: ChooseClient
    jobs: int
    now: Callable[[], datetime]
    owners: bool = True
    privileges: bool = True
    allow_occupied: bool = False
    go_on_after_damage: bool = False
    journey: Journey | None = None
    """What to replay once the backup is restored."""
    when_proven: Callable[[RestoreResult], None] | None = None
    """Told before the target stops to be marked as incomplete: who is killed then knows it."""

    @property
    def archive_options(self) -> tuple[str, ...]:
        """For pg_restore."""
        owners = () if self.owners else ("--no-owner",)
        privileges = () if self.privileges else ("--no-privileges",)
        return (*owners, *privileges)


@dataclass(frozen=True, slots=True)
class Lost:
    """Rows that could not be restored, and the stored object that is to blame."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What was restored, what was proven, and what is lost."""

    proof: Proof
    created_roles: tuple[str, ...]
    lost: tuple[Lost, ...]
    matviews: tuple[TableName, ...]
    replayed: ReplayResult | None = None
    refused: tuple[Refused, ...] = ()
    """What the target's platform refused; the rest is restored."""
    remarks: tuple[str, ...] = ()
    """What to know of this restore, or to do after it."""
