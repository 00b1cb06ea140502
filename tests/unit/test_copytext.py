"""Rows as COPY reads them."""

from __future__ import annotations

import pytest

from pgkeep.postgres.copytext import copy_line


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([b"1", b"a"], b"1\ta\n"),
        ([None, b"", b"\\N"], b"\\N\t\t\\\\N\n"),
        ([b"a\tb\nc\rd\\e"], b"a\\tb\\nc\\rd\\\\e\n"),
        ([b"\\."], b"\\\\.\n"),
        (["ü\v\f\b".encode()], "ü\v\f\b\n".encode()),
        ([], b"\n"),
    ],
)
def test_a_row_is_a_line(values: list[bytes | None], line: bytes) -> None:
    assert copy_line(values) == line
