"""Codes of an authenticator app: RFC 6238's own numbers, and what is not accepted."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from pgkeep.errors import KeyUnusable
from pgkeep.sealing import totp

RFC_SECRET = b"12345678901234567890"
NOW = datetime(2026, 1, 15, 6, 0, 10, tzinfo=UTC)
NONE_YET = -1


@pytest.mark.parametrize(
    ("seconds", "code"),
    [
        (59, "94287082"), (1111111109, "07081804"), (1111111111, "14050471"),
        (1234567890, "89005924"), (2000000000, "69279037"), (20000000000, "65353130"),
    ],
)  # fmt: skip
def test_the_numbers_of_rfc_6238(seconds: int, code: str) -> None:
    moment = datetime.fromtimestamp(seconds, UTC)
    assert totp.code_for(RFC_SECRET, totp.counter_at(moment), digits=8) == code
    assert totp.code_for(RFC_SECRET, totp.counter_at(moment)) == code[2:]


@pytest.mark.parametrize("counter", range(10))
def test_the_numbers_of_rfc_4226(counter: int) -> None:
    codes = [
        "755224",
        "287082",
        "359152",
        "969429",
        "338314",
        "254676",
        "287922",
        "162583",
        "399871",
        "520489",
    ]
    assert totp.code_for(RFC_SECRET, counter) == codes[counter]


@pytest.mark.parametrize(("periods", "accepted"), [(-2, 0), (-1, 1), (0, 1), (1, 1), (2, 0)])
def test_a_code_is_good_for_one_period_more_on_either_side(periods: int, accepted: int) -> None:
    counter = totp.counter_at(NOW) + periods
    code = totp.code_for(RFC_SECRET, counter)
    found = totp.matching_counter(RFC_SECRET, code, NOW, above=NONE_YET)
    assert found == (counter if accepted else None)


def test_a_code_is_good_once_and_none_before_it_either() -> None:
    now = totp.counter_at(NOW)
    codes = [totp.code_for(RFC_SECRET, now + step) for step in (-1, 0, 1)]
    found = [totp.matching_counter(RFC_SECRET, code, NOW, above=now) for code in codes]
    assert found == [None, None, now + 1]


@pytest.mark.parametrize("code", ["", "0", "1234567", "abcdef", "１２３４５６", "\udcff"])
def test_what_is_no_code_matches_nothing(code: str) -> None:
    text = code.encode("utf-8", "replace").decode()
    assert totp.matching_counter(RFC_SECRET, text, NOW, above=NONE_YET) is None


def test_the_address_says_what_an_app_needs() -> None:
    secret = totp.new_secret()
    parts = urlsplit(totp.address(secret, "pgkeep backup/1", "ada & bob"))
    assert (parts.scheme, parts.netloc) == ("otpauth", "totp")
    assert parts.path == "/pgkeep%20backup%2F1:ada%20%26%20bob"
    values = {name: value for name, [value] in parse_qs(parts.query).items()}
    assert totp.parse_secret(values["secret"]) == secret
    assert (values["digits"], values["period"], values["algorithm"]) == ("6", "30", "SHA1")


@pytest.mark.parametrize("text", ["gezd gnbv gy3t qojq gezd gnbv gy3t qojq",
                                  "GEZDGNBVGY3TQOJQ-GEZDGNBVGY3TQOJQ=="])  # fmt: skip
def test_a_secret_may_be_written_as_apps_write_it(text: str) -> None:
    assert totp.parse_secret(text) == RFC_SECRET


@pytest.mark.parametrize("text", ["", "GEZDGNBV", "not base32!", "GEZDGNBVGY3TQOJ1"])
def test_a_weak_or_broken_secret_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(KeyUnusable) as caught:
        totp.parse_secret(text)
    assert not text or text not in str(caught.value)


def test_secrets_differ() -> None:
    assert len({totp.new_secret() for _ in range(5)}) == 5
