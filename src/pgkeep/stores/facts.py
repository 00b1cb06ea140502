"""What can be learned about a store: what protects its files, and what might remove or show them.

Each fact is its value or `Unknown` with the reason, since rights and servers differ. Whoever reads
the facts decides what is good; nothing is judged here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

T = TypeVar("T")

_PAUSES_SECONDS = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class Unknown:
    """A fact that was not learned, and why not."""

    reason: str

    @property
    def is_elsewhere(self) -> bool:
        """Whether there is nothing to know: this kind of store has no such thing."""
        return self == ELSEWHERE


ELSEWHERE = Unknown("there is no such thing in this kind of store")


@dataclass(frozen=True, slots=True)
class ObjectLock:
    """S3 Object Lock is on; `mode` and `days` are what each new object gets, if anything."""

    mode: str = ""
    """`COMPLIANCE` or `GOVERNANCE`; empty where objects are not locked unless asked for."""
    days: int = 0
    """For how long; a year counts 365 days."""


@dataclass(frozen=True, slots=True)
class ExpiryRule:
    """A rule of the bucket that removes current files of ours after some time."""

    name: str
    prefix: str
    """Of whole keys in the bucket; empty for all."""
    days: int | None = None
    """After a file's creation; not set where the rule names a day or depends on something else."""
    on: date | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """Google Cloud Storage's retention policy: no file can be removed before this age."""

    seconds: int
    locked: bool
    """Whether nobody can shorten it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """What was learned. `None` says that the thing is off or absent."""

    versioning: bool | Unknown = ELSEWHERE
    """Whether what is overwritten or deleted stays as an older version."""
    object_lock: ObjectLock | Unknown | None = ELSEWHERE
    expiry: tuple[ExpiryRule, ...] | Unknown = ELSEWHERE
    """Rules that would remove files below this store's prefix."""
    public: bool | Unknown = ELSEWHERE
    """Whether strangers may read or write."""
    soft_delete_seconds: int | Unknown | None = ELSEWHERE
    """For how long what was deleted can be brought back."""
    retention: Retention | Unknown | None = ELSEWHERE
    uniform_access: bool | Unknown = ELSEWHERE
    """Whether rights are given for the bucket only, never for single files."""
    free_bytes: int | Unknown = ELSEWHERE
    """Room that is left for this user."""
    mode: int | Unknown = ELSEWHERE
    """The folder's permission bits, such as 0o700."""


def asked(question: Callable[[], T], passes: Callable[[Exception], bool]) -> T:
    """The answer to a question, which is asked again after an error that passes.

    A lock that is not told for a moment must not be taken for none.
    """
    for pause in _PAUSES_SECONDS:
        try:
            return question()
        except Exception as exc:
            if not passes(exc):
                raise
            time.sleep(pause)
    return question()


def prefixes_meet(one: str, other: str) -> bool:
    """Whether a key can begin with both."""
    return one.startswith(other) or other.startswith(one)
