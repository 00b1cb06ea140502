"""Rows as the text that COPY reads."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SPECIAL = re.compile(rb"[\\\t\n\r]")
_ESCAPES = {b"\\": b"\\\\", b"\t": b"\\t", b"\n": b"\\n", b"\r": b"\\r"}
_NULL = b"\\N"


def copy_line(values: Iterable[bytes | None]) -> bytes:
    """One row, with its line break."""
    return b"\t".join([_NULL if value is None else escape(value) for value in values]) + b"\n"


def escape(value: bytes) -> bytes:
    """A value as it stands between two tabs."""
    if _SPECIAL.search(value) is None:
        return value
    return _SPECIAL.sub(_escaped, value)


def _escaped(match: re.Match[bytes]) -> bytes:
    return _ESCAPES[match[0]]
