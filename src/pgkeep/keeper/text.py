"""Numbers as alerts say them."""

from __future__ import annotations

from datetime import timedelta

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(count: float) -> str:
    """Bytes with a decimal unit: 812 B, 1.5 MB."""
    unit = 0
    while count >= 999.5 and unit + 1 < len(_UNITS):
        count, unit = count / 1000, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit else f"{count:.0f} B"


def duration(value: timedelta) -> str:
    """One unit, rounded: 12 s, 3 min, 5 h, 2 d."""
    seconds = max(value.total_seconds(), 0)
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} d"


def percent(share: float) -> str:
    """A share of one: 12 %."""
    return f"{share * 100:.0f} %"
