"""Digests of COPY text: of its rows in any order, or of the whole in the order that it has."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import xxhash

_MODULUS = 1 << 128


@dataclass(frozen=True, slots=True)
class RowSum:
    """How many rows, and the sum of 64-bit hashes. Sums of disjoint parts add up."""

    rows: int = 0
    total: int = 0

    def __add__(self, other: RowSum) -> RowSum:
        return RowSum(self.rows + other.rows, (self.total + other.total) % _MODULUS)


class Digest(Protocol):
    """Takes COPY text piece by piece; rows may be cut anywhere between two pieces.

    XXH3 is no cryptographic hash: it finds accidents. That it cannot be fooled on purpose comes
    from the seed, which is drawn anew for each proof and known to nobody before.
    """

    @property
    def rows(self) -> int:
        """How many rows have ended so far."""

    def update(self, text: bytes) -> None:
        """Take more of the text."""

    def result(self) -> RowSum:
        """The sum so far. `ValueError` if the last row has not ended."""


class TextDigest:
    """One hash of the whole text: equal rows in another order differ.

    It takes a tenth of the time of `RowDigest`, so it is for rows that stand as they were sent.
    """

    def __init__(self, seed: int) -> None:
        self._hash = xxhash.xxh3_64(seed=seed)
        self._rows = 0
        self._has_open_row = False

    @property
    def rows(self) -> int:
        return self._rows

    def update(self, text: bytes) -> None:
        if text:
            self._hash.update(text)
            self._rows += text.count(b"\n")
            self._has_open_row = not text.endswith(b"\n")

    def result(self) -> RowSum:
        if self._has_open_row:
            raise ValueError("the text does not end in a line break")
        return RowSum(self._rows, self._hash.intdigest())


class RowDigest:
    """The sum of all rows' hashes, in whatever order they come."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rows = 0
        self._total = 0
        self._open_row: xxhash.xxh3_64 | None = None

    @property
    def rows(self) -> int:
        return self._rows

    def update(self, text: bytes) -> None:
        lines = text.split(b"\n")
        open_row = self._open_row
        if open_row is not None:
            open_row.update(lines.pop(0))
            if not lines:
                return
            self._open_row = None
            self._total += open_row.intdigest()
            self._rows += 1
        last = lines.pop()
        self._total += sum(map(xxhash.xxh3_64_intdigest, lines, repeat(self._seed)))
        self._rows += len(lines)
        if last:
            self._open_row = xxhash.xxh3_64(last, seed=self._seed)

    def result(self) -> RowSum:
        if self._open_row is not None:
            raise ValueError("the text does not end in a line break")
        return RowSum(self._rows, self._total % _MODULUS)
