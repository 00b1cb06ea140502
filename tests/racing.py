"""What several processes try at the same moment. A module of its own: they have to import it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pgkeep.errors import ApprovalInvalid, FactorRefused
from pgkeep.repository.approvals import Approved, Challenges
from pgkeep.repository.factors import Factor
from pgkeep.repository.guard import App, Guard

PROCESSES, TRIES = 4, 12

R = TypeVar("R")


def race(act: Callable[..., R], *arguments: object) -> list[R]:
    """What each of the tries answers."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as executor:
        tries = [executor.submit(act, *arguments) for _ in range(TRIES)]
        return [one.result() for one in tries]


def take_code(folder: Path, code: str, app: App, now: datetime) -> str:
    """`taken`, or why not."""
    try:
        Guard(folder).take_code(code, [app], now)
    except FactorRefused as exc:
        return exc.message
    return "taken"


def use_approval(folder: Path, approved: Approved) -> bool:
    """Whether it could be used."""
    try:
        Challenges(folder).use(approved)
    except ApprovalInvalid:
        return False
    return True


def take_recovery_code(folder: Path, code: str, factor: Factor, now: datetime) -> bool:
    """Whether it was taken."""
    try:
        Guard(folder).take_recovery_code(code, [factor], frozenset(), now)
    except FactorRefused:
        return False
    return True
