"""Codes that an authenticator app shows: RFC 6238 with SHA-1, six digits, thirty seconds. Pure.

That is the one form which every app reads, whatever else the address for it says.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from datetime import datetime
from urllib.parse import quote

from pgkeep.errors import KeyUnusable

DIGITS = 6
PERIOD_SECONDS = 30
WINDOW = 1
"""So many periods before and after are accepted too: clocks differ, and fingers take time."""

_SECRET_BYTES = 20
_LEAST_BYTES = 10


def new_secret() -> bytes:
    """A fresh secret, as long as SHA-1's output (RFC 4226, section 4)."""
    return secrets.token_bytes(_SECRET_BYTES)


def parse_secret(text: str) -> bytes:
    """A secret in base32, as apps show it: spaces, small letters and no padding are all right."""
    compact = "".join(text.split()).replace("-", "").upper().rstrip("=")
    try:
        secret = base64.b32decode(compact + "=" * (-len(compact) % 8))
    except ValueError:
        raise KeyUnusable(  # not chained: it may quote the secret
            "the secret of an authenticator app is not base32",
            hint="It is made of the letters A to Z and the digits 2 to 7.",
        ) from None
    if len(secret) < _LEAST_BYTES:
        raise KeyUnusable(
            f"the secret of an authenticator app has {len(secret) * 8} bits, which is too few",
            hint="Use at least 80 bits, or let pgkeep make one.",
        )
    return secret


def show_secret(secret: bytes) -> str:
    """Base32, to type into an app that takes no address."""
    return base64.b32encode(secret).decode().rstrip("=")


def address(secret: bytes, issuer: str, account: str) -> str:
    """`otpauth://totp/...`, which apps take."""
    label = f"{quote(issuer, safe='')}:{quote(account, safe='')}"
    return (
        f"otpauth://totp/{label}?secret={show_secret(secret)}&issuer={quote(issuer, safe='')}"
        f"&algorithm=SHA1&digits={DIGITS}&period={PERIOD_SECONDS}"
    )


def counter_at(moment: datetime) -> int:
    """The number of the period that a moment is in."""
    return int(moment.timestamp() // PERIOD_SECONDS)


def code_for(secret: bytes, counter: int, digits: int = DIGITS) -> str:
    """The code of a period (RFC 4226, section 5.3)."""
    mac = hmac.digest(secret, counter.to_bytes(8, "big"), "sha1")
    offset = mac[-1] & 0x0F
    number = int.from_bytes(mac[offset : offset + 4], "big") & 0x7FFFFFFF
    return f"{number % 10**digits:0{digits}}"


def matching_counter(secret: bytes, code: str, moment: datetime, *, above: int) -> int | None:
    """Of which period near `moment`, later than `above`, this is the code; None if of none.

    Takes the same time whatever the code is.
    """
    now = counter_at(moment)
    found: int | None = None
    for counter in range(max(now - WINDOW, 0), now + WINDOW + 1):
        same = hmac.compare_digest(code_for(secret, counter).encode(), code.encode())
        if same and counter > above:
            found = counter
    return found
