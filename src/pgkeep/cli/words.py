"""Numbers and moments as people read them."""

from __future__ import annotations

from datetime import datetime, timedelta

from pgkeep.events import counted

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(count: int) -> str:
    """Bytes with three digits and a decimal unit: 812 B, 1.53 MB."""
    value, unit = float(count), 0
    while value >= 999.5 and unit + 1 < len(_UNITS):
        value, unit = value / 1000, unit + 1
    if unit == 0:
        return f"{count} B"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Seconds as 0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 8 d 0 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def age(moment: datetime, now: datetime) -> str:
    """How long ago, in one unit: just now, 5 min ago, 3 h ago, 12 d ago."""
    passed = now - moment
    if passed < timedelta(0):
        return "in the future"
    if passed < timedelta(minutes=1):
        return "just now"
    if passed < timedelta(hours=1):
        return f"{passed // timedelta(minutes=1)} min ago"
    if passed < timedelta(days=2):
        return f"{passed // timedelta(hours=1)} h ago"
    return f"{passed.days} d ago"


def ratio(before: int, after: int) -> str:
    """How many times smaller: 4.1x."""
    return f"{before / after:.1f}x" if after else "-"


def moment(value: datetime) -> str:
    """A moment to the second, in UTC."""
    return f"{value:%Y-%m-%d %H:%M:%S} UTC"


count = counted
