"""Which way a Supabase connection string goes: direct, or through one of the poolers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from pgkeep.platforms.projects import project_of_database
from pgkeep.postgres.address import Address

_POOLER = re.compile(r".+\.pooler\.supabase\.(?:com|co)", re.I)
_TRANSACTION_PORT = "6543"


class Way(StrEnum):
    """How a connection reaches the database."""

    DIRECT = "direct"
    SESSION_POOLER = "session pooler"
    TRANSACTION_POOLER = "transaction pooler"


@dataclass(frozen=True, slots=True)
class ProjectAddress:
    """What a connection string of Supabase says."""

    project: str
    """Empty if the user does not name it, which a pooler needs."""
    way: Way


def recognise(address: Address) -> ProjectAddress | None:
    """What it says, or None if it is not Supabase's."""
    host = address.host.split(",")[0]
    project = project_of_database(host, address.user) or ""
    if _POOLER.fullmatch(host):
        way = Way.TRANSACTION_POOLER if address.port == _TRANSACTION_PORT else Way.SESSION_POOLER
        return ProjectAddress(project, way)
    if not project:
        return None
    return ProjectAddress(
        project, Way.TRANSACTION_POOLER if address.port == _TRANSACTION_PORT else Way.DIRECT
    )


def through_session_pooler(address: Address) -> Address:
    """The same, by the port at which sessions keep their state."""
    return replace(address, parameters={**address.parameters, "port": "5432"})
