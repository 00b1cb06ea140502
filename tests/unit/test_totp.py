"""One-time codes against the vectors of RFC 6238, and what must not be accepted."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pgkeep.sealing import totp

SECRET = b"12345678901234567890"


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"),
     (2000000000, "279037"), (20000000000, "353130")],
)  # fmt: skip
def test_the_vectors_of_the_rfc(seconds: int, expected: str) -> None:
    assert totp.code(SECRET, totp.step_at(at(seconds))) == expected


def test_a_code_is_good_a_step_early_and_late_and_no_more() -> None:
    code = totp.code(SECRET, 100)
    found = {step: totp.matching_step(SECRET, code, at(step * 30), after=-1)
             for step in range(97, 104)}  # fmt: skip
    assert found == {97: None, 98: None, 99: 100, 100: 100, 101: 100, 102: None, 103: None}


def test_a_code_that_was_used_is_good_no_more() -> None:
    assert totp.matching_step(SECRET, totp.code(SECRET, 100), at(3000), after=100) is None
    assert totp.matching_step(SECRET, totp.code(SECRET, 101), at(3000), after=100) == 101


@pytest.mark.parametrize("given", ["", "0", "28708", "2870822", "２８７０８２", "abcdef"])
def test_other_texts_are_no_codes(given: str) -> None:
    assert totp.matching_step(SECRET, given, at(59), after=-1) is None


def test_the_address_is_one_that_authenticators_read() -> None:
    assert totp.address(SECRET, account="shop & co") == (
        "otpauth://totp/pgkeep:shop%20%26%20co?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=pgkeep"
    )
    assert len(totp.new_secret()) == 20
