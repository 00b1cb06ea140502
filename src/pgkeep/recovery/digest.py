"""A digest of rows that does not depend on their order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat

import xxhash

_MODULUS = 1 << 128


@dataclass(frozen=True, slots=True)
class RowSum:
    """How many rows, and the sum of their 64-bit hashes. Sums of disjoint parts add up."""

    rows: int = 0
    total: int = 0

    def __add__(self, other: RowSum) -> RowSum:
        return RowSum(self.rows + other.rows, (self.total + other.total) % _MODULUS)


class RowDigest:
    """Hashes COPY text row by row. Rows may be cut anywhere between two calls of `update`.

    XXH3 is no cryptographic hash: it finds accidents. That it cannot be fooled on purpose comes
    from the `seed`, which is drawn anew for each proof and known to nobody before.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rows = 0
        self._total = 0
        self._open_row: xxhash.xxh3_64 | None = None

    @property
    def rows(self) -> int:
        """How many rows have ended so far."""
        return self._rows

    def update(self, text: bytes) -> None:
        """Take more of the text."""
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
        """The sum so far; every row must have ended."""
        if self._open_row is not None:
            raise ValueError("the text does not end in a line break")
        return RowSum(self._rows, self._total % _MODULUS)
