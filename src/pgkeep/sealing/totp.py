"""Time-based one-time passwords (RFC 6238): six digits, thirty seconds, HMAC-SHA-1.

SHA-1 is what every authenticator understands; HMAC with it is not broken.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from datetime import datetime
from urllib.parse import quote, urlencode

_DIGITS = 6
_STEP_SECONDS = 30
_SECRET_BYTES = 20
_WINDOW = 1
"""Steps before and after, for clocks that differ and for slow typing."""


def new_secret() -> bytes:
    """As long as the hash, as RFC 4226 asks for."""
    return secrets.token_bytes(_SECRET_BYTES)


def as_text(secret: bytes) -> str:
    """Base32 without padding, as people type it into an authenticator."""
    return base64.b32encode(secret).decode().rstrip("=")


def address(secret: bytes, *, account: str, issuer: str = "pgkeep") -> str:
    """The `otpauth://` address that authenticators read."""
    label = quote(f"{issuer}:{account}", safe=":")
    parameters = urlencode({"secret": as_text(secret), "issuer": issuer})
    return f"otpauth://totp/{label}?{parameters}"


def step_at(moment: datetime) -> int:
    """The number of the thirty seconds that a moment is in."""
    return int(moment.timestamp()) // _STEP_SECONDS


def code(secret: bytes, step: int) -> str:
    """The code of a step."""
    digest = hmac.digest(secret, step.to_bytes(8, "big"), "sha1")
    at = digest[-1] & 0x0F
    number = int.from_bytes(digest[at : at + 4], "big") & 0x7FFFFFFF
    return f"{number % 10**_DIGITS:0{_DIGITS}}"


def matching_step(secret: bytes, given: str, moment: datetime, *, after: int) -> int | None:
    """The step whose code was given, if it is later than `after`, the last that was accepted.

    Every candidate is compared, each in constant time.
    """
    now, found = step_at(moment), None
    for step in range(now - _WINDOW, now + _WINDOW + 1):
        is_equal = hmac.compare_digest(code(secret, step).encode(), given.encode())
        if is_equal and step > after:
            found = step
    return found
