"""Sealing the epochs' keys to other operators: some hundred bytes each, and never an object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pgkeep.errors import DamagedObject, KeyMissing, NotAuthentic, PgkeepError
from pgkeep.repository.repository import Repository
from pgkeep.sealing import Recipients, SealedKey, load_epoch_of

OpenKey = Callable[[SealedKey, str], bytes]
"""Opens a sealed key with an operator's; the text says what it is, for errors."""


@dataclass(frozen=True, slots=True)
class Resealed:
    """What became of an epoch's key, in the repositories (by name) that have it."""

    epoch: str
    repositories: tuple[str, ...]
    problem: PgkeepError | None = None
    """Why it was left as it is."""


def reseal(
    repositories: Sequence[Repository],
    recipients: Recipients,
    open_key: OpenKey,
    *,
    dry_run: bool = False,
) -> tuple[Resealed, ...]:
    """Seal every epoch's key to `recipients` alone, with the same bytes in each repository.

    May be done again, and picks up where it was interrupted. One copy that opens is enough: a
    damaged one elsewhere is replaced.
    """
    with ExitStack() as stack:
        if not dry_run:
            for repository in repositories:
                stack.enter_context(repository.exclusive("sealing keys anew"))
        holders: dict[str, list[Repository]] = {}
        for repository in repositories:
            for epoch in repository.epochs():
                holders.setdefault(epoch, []).append(repository)
        return tuple(
            _reseal(epoch, holders[epoch], recipients, open_key, dry_run=dry_run)
            for epoch in sorted(holders)
        )


def _reseal(
    epoch: str,
    holders: Sequence[Repository],
    recipients: Recipients,
    open_key: OpenKey,
    *,
    dry_run: bool,
) -> Resealed:
    names = tuple(repository.name for repository in holders)
    try:
        private = _open(epoch, holders, open_key)
    except (KeyMissing, DamagedObject, NotAuthentic) as exc:
        return Resealed(epoch, names, exc)
    if not dry_run:
        sealed = recipients.seal(private)
        for repository in holders:
            repository.replace_epoch_key(epoch, sealed)
    return Resealed(epoch, names)


def _open(epoch: str, holders: Sequence[Repository], open_key: OpenKey) -> bytes:
    problem: PgkeepError | None = None
    for repository in holders:
        try:
            private = open_key(repository.sealed_epoch_key(epoch), f"the key of epoch {epoch}")
            load_epoch_of(epoch, private)
            return private
        except (KeyMissing, DamagedObject, NotAuthentic) as exc:
            problem = problem or exc
    assert problem is not None
    raise problem
