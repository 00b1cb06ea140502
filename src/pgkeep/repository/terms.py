"""What was last agreed on: how long backups are kept, and in which repositories.

`<serial>-<random>.terms` beside the records of factors, signed. What is less than that needs a
second factor, where one is enrolled.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from pgkeep.errors import NotAuthentic, PgkeepError
from pgkeep.model import FORMAT, Tier
from pgkeep.records import JsonForm
from pgkeep.repository.envelope import pack, unpack
from pgkeep.repository.factors import Shelf
from pgkeep.repository.retention import Policy
from pgkeep.sealing import PublicSigner, SigningKey

_FIRST_LINE = b"pgkeep terms\n"
_NAME = re.compile(r"(\d{8})-[0-9a-f]{8}\.terms")


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds."""

    days: Mapping[str, float]
    """By tier."""
    minimum: int
    journal_days: float
    repositories: Mapping[str, str] = field(default_factory=dict)
    """The names of this host's repositories, by what tells places apart (`place_id`)."""


@dataclass(frozen=True, slots=True)
class KeptTerms:
    """As they are recorded."""

    serial: int
    host: str
    at: datetime
    terms: Terms
    format: int = FORMAT
    record: Literal["terms"] = "terms"


_TERMS = JsonForm(KeptTerms)


def terms_of(policy: Policy, journal_days: float, repositories: Mapping[str, str]) -> Terms:
    """The terms that a configuration means."""
    days = {tier.value: policy.keep[tier] / timedelta(days=1) for tier in Tier}
    return Terms(days, policy.minimum, journal_days, dict(repositories))


def shortened(before: Terms, now: Terms) -> tuple[str, ...]:
    """What is kept for less time than before, in words. Pure."""
    return tuple(_shortened(before, now))


def _shortened(before: Terms, now: Terms) -> Iterator[str]:
    for tier, days in before.days.items():
        if (left := now.days.get(tier, 0.0)) < days:
            yield f"{tier} from {days:g} to {left:g} days"
    if now.minimum < before.minimum:
        yield f"the minimum from {before.minimum} to {now.minimum} backups"
    if now.journal_days < before.journal_days:
        yield f"the journal from {before.journal_days:g} to {now.journal_days:g} days"


@dataclass(frozen=True, slots=True)
class FoundTerms:
    """Terms and the file that they stand in."""

    kept: KeptTerms
    name: str
    data: bytes = field(repr=False)


def read_terms(shelves: Sequence[Shelf]) -> FoundTerms | None:
    """The newest of all places that can be believed."""
    found = [terms for shelf in shelves for terms in _on(shelf)]
    return max(found, key=lambda one: (one.kept.serial, one.kept.at), default=None)


def mend_terms(shelves: Sequence[Shelf], found: FoundTerms) -> None:
    """Give the terms to each place that lacks them; one that takes nothing stays as it is."""
    for shelf in shelves:
        with suppress(PgkeepError):
            if found.name not in shelf.files.names():
                shelf.files.write(found.name, found.data)


def _on(shelf: Shelf) -> Iterator[FoundTerms]:
    try:
        names = [name for name in shelf.files.names() if _NAME.fullmatch(name)]
    except PgkeepError:  # told by whoever gathers the factors
        return
    for name in sorted(names, reverse=True):  # the newest that is right is enough
        try:
            data = shelf.files.read(name)
            terms = _parse(name, data, shelf.trusted)
        except (PgkeepError, ValueError):
            continue
        yield FoundTerms(terms, name, data)
        return


def _parse(name: str, data: bytes, trusted: Sequence[PublicSigner]) -> KeptTerms:
    """`ValueError` or `NotAuthentic` if they cannot be believed."""
    head, _ = unpack(data, _FIRST_LINE, trusted)
    terms = _TERMS.load(head)
    if not name.startswith(f"{terms.serial:08}-"):
        raise NotAuthentic(f"{name} is a copy of another record")
    return terms


def dump_terms(kept: KeptTerms, key: SigningKey) -> tuple[str, bytes]:
    """The name and the bytes of the record."""
    name = f"{kept.serial:08}-{secrets.token_hex(4)}.terms"
    return name, pack(_FIRST_LINE, _TERMS.dump(kept) + b"\n", b"", key)
