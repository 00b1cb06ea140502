"""The digest of rows: the order is nothing to it, and every change of a row is."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.recovery.digest import RowDigest, RowSum, TextDigest

ROWS = st.lists(
    st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"") + b"\n"), max_size=12
)


def digest(*pieces: bytes, seed: int = 7) -> RowSum:
    made = RowDigest(seed)
    for piece in pieces:
        made.update(piece)
    return made.result()


@given(rows=ROWS, randomness=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[bytes], randomness: random.Random) -> None:
    shuffled = rows[:]
    randomness.shuffle(shuffled)
    assert digest(*shuffled) == digest(b"".join(rows))
    assert digest(*rows).rows == len(rows)


@given(rows=ROWS, cuts=st.lists(st.integers(0, 200), max_size=8))
def test_a_text_may_be_cut_anywhere(rows: list[bytes], cuts: list[int]) -> None:
    text = b"".join(rows)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in pairwise(places)]
    assert digest(*pieces) == digest(text)


def test_a_text_may_come_byte_by_byte_with_nothing_in_between() -> None:
    text = b"one\n\ntwo\tx\n"
    pieces = [bytes([byte]) for byte in text]
    assert digest(*pieces) == digest(text)
    assert digest(b"", text, b"") == digest(text)
    assert digest(b"") == digest() == RowSum(0, 0)


@given(rows=ROWS, at=st.integers(0, 12))
def test_the_sums_of_parts_are_the_sum_of_the_whole(rows: list[bytes], at: int) -> None:
    first, second = digest(*rows[:at]), digest(*rows[at:])
    assert first + second == second + first == digest(*rows)


@pytest.mark.parametrize(
    "other",
    [
        b"1\ta\n2\tb\n2\tb\n",
        b"1\ta\n",
        b"1\ta\n2\tc\n",
        b"1\tb\n2\ta\n",
        b"1\ta\n\n",
        b"1\ta2\tb\n\n",
        b"1\ta\n2\tb\r\n",
    ],
)
def test_other_rows_have_another_digest(other: bytes) -> None:
    assert digest(other) != digest(b"1\ta\n2\tb\n")


def test_one_row_twice_is_not_the_same_as_never() -> None:
    """An exclusive-or would take a pair for nothing."""
    assert digest(b"a\na\n").total != digest().total
    assert digest(b"a\na\nb\n").total != digest(b"b\n").total


def test_the_seed_changes_everything() -> None:
    assert digest(b"a\n", seed=1) == digest(b"a\n", seed=1)
    assert digest(b"a\n", seed=1).total != digest(b"a\n", seed=2).total
    assert digest(b"\n", seed=1).total != digest(b"\n", seed=2).total
    cut = RowDigest((1 << 64) - 1)
    for piece in (b"lo", b"ng\nnext", b"\n"):
        cut.update(piece)
    assert cut.result() == digest(b"next\nlong\n", seed=(1 << 64) - 1)


def test_a_row_that_has_not_ended_is_an_error() -> None:
    for text in (b"a", b"a\nb"):
        with pytest.raises(ValueError, match="does not end in a line break"):
            digest(text)


def test_sums_stay_within_128_bits() -> None:
    assert RowSum(1, (1 << 128) - 1) + RowSum(2, 2) == RowSum(3, 1)
    assert digest(*[b"%d\n" % number for number in range(1000)]).total < 1 << 128


def whole(*pieces: bytes, seed: int = 7) -> RowSum:
    made = TextDigest(seed)
    for piece in pieces:
        made.update(piece)
    return made.result()


@given(rows=ROWS, cuts=st.lists(st.integers(0, 200), max_size=8))
def test_the_digest_of_a_text_sees_its_order_and_not_where_it_was_cut(
    rows: list[bytes], cuts: list[int]
) -> None:
    text = b"".join(rows)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    assert whole(*(text[a:b] for a, b in pairwise(places)), b"") == whole(text)
    assert whole(text).rows == len(rows)
    turned = b"".join(reversed(rows))
    assert (whole(turned) == whole(text)) == (turned == text)


def test_a_text_without_its_last_line_break_has_no_digest_and_the_seed_matters() -> None:
    with pytest.raises(ValueError, match="line break"):
        whole(b"1\n2")
    assert whole(b"1\n2", b"\n") == whole(b"1\n2\n")
    assert whole(b"1\n", seed=1) != whole(b"1\n", seed=2)
