"""`pgkeep restore` with the proof taken out, to show what the proof costs. For the benchmark only.

Rows are still counted. If pgkeep's insides change, `patch.object` fails here, and loudly.
"""

from __future__ import annotations

import sys
from unittest.mock import patch

from pgkeep.cli.main import run
from pgkeep.recovery import load, proof
from pgkeep.recovery.digest import RowSum


class _CountOnly:
    def __init__(self, _: int) -> None:
        self.rows = 0

    def update(self, text: bytes) -> None:
        self.rows += text.count(b"\n")

    def result(self) -> RowSum:
        return RowSum(self.rows)


def main() -> int:
    """The command line of pgkeep, less the proof."""
    with (
        patch.object(load, "RowDigest", _CountOnly),
        patch.object(load, "TextDigest", _CountOnly),
        patch.object(proof, "read_back", lambda *_: RowSum()),
        patch.object(load, "digest_of_rows", lambda *_: RowSum()),
        patch.object(proof, "compare_tables", lambda *_: ()),
        patch.object(proof, "compare_definitions", lambda *_, **__: ()),
    ):
        return int(run(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
