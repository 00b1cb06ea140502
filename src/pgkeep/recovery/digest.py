"""A digest of rows that does not depend on their order."""

from __future__ import annotations

from dataclasses import dataclass

import xxhash

_MODULUS = 1 << 128


@dataclass(frozen=True, slots=True)
class RowSum:
    """How many rows, and the sum of their 128-bit hashes. Sums of disjoint parts add up."""

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
        self._open_row: xxhash.xxh3_128 | None = None

    @property
    def rows(self) -> int:
        """How many rows have ended so far."""
        return self._rows

    def update(self, text: bytes) -> None:
        """Take more of the text."""
        if not text:
            return
        first, found, rest = text.partition(b"\n")
        if self._open_row is None:
            self._open_row = xxhash.xxh3_128(seed=self._seed)
        self._open_row.update(first)
        if not found:
            return
        self._total += self._open_row.intdigest()
        self._rows += 1
        lines = rest.split(b"\n")
        last = lines.pop()
        seed, digest = self._seed, xxhash.xxh3_128_intdigest
        self._total += sum([digest(line, seed) for line in lines])
        self._rows += len(lines)
        self._open_row = xxhash.xxh3_128(last, seed=seed) if last else None

    def result(self) -> RowSum:
        """The sum so far; every row must have ended."""
        if self._open_row is not None:
            raise ValueError("the text does not end in a line break")
        return RowSum(self._rows, self._total % _MODULUS)
