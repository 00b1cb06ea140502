"""COPY text for a table that lacks some of the columns."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pgkeep.recovery.load import without_columns

FIELD = st.binary(max_size=6).map(
    lambda data: data.replace(b"\n", b"n").replace(b"\t", b"t").replace(b"\r", b"r")
)


@given(
    rows=st.lists(st.lists(FIELD, min_size=4, max_size=4), max_size=20),
    places=st.sets(st.integers(0, 3), max_size=3),
    cuts=st.lists(st.integers(0, 300), max_size=8),
)
def test_each_row_keeps_its_other_fields_wherever_the_text_is_cut(
    rows: list[list[bytes]], places: set[int], cuts: list[int]
) -> None:
    text = b"".join(b"\t".join(row) + b"\n" for row in rows)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in pairwise(edges)]
    expected = b"".join(
        b"\t".join(field for at, field in enumerate(row) if at not in places) + b"\n"
        for row in rows
    )
    assert b"".join(without_columns(pieces, places)) == expected


def test_a_text_that_ends_early_is_not_mended() -> None:
    assert b"".join(without_columns([b"1\ta\n2\tb"], {1})) == b"1\n2"
