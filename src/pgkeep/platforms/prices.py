"""What storage and reading cost, by published prices; a repository's `price` overrides them.

US dollars for a gigabyte (10^9 bytes), read in November 2026 where the comment says.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

# https://aws.amazon.com/s3/pricing (Standard), https://cloud.google.com/storage/pricing (Standard,
# one region), https://developers.cloudflare.com/r2/pricing, https://supabase.com/pricing
_BY_SCHEME = {"s3": 0.023, "gs": 0.020, "file": 0.0}
_BY_ENDPOINT = (
    (re.compile(r"\.r2\.cloudflarestorage\.com$"), 0.015),
    (re.compile(r"\.supabase\.(co|com)$"), 0.0213),
    (re.compile(r"\.backblazeb2\.com$"), 0.006),
    (re.compile(r"\.wasabisys\.com$"), 0.0068),
)

SUPABASE_EGRESS = 0.09
"""Over the quota: 5 GB on the free plan, 250 GB on Pro and Team."""


def storage_price(url: str, endpoint: str | None) -> float:
    """Dollars for a gigabyte and month."""
    host = urlsplit(endpoint or "").hostname or ""
    for pattern, price in _BY_ENDPOINT:
        if pattern.search(host):
            return price
    return _BY_SCHEME.get(url.partition("://")[0], 0.0)
