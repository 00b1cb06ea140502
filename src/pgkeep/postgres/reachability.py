"""Can a host be reached at all, and by which kind of address? Without any login."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Reached:
    """What came of trying a host's addresses, each once."""

    known: bool
    """Whether the name is known at all."""
    has_ipv4: bool
    has_ipv6: bool
    answers: bool
    """Whether one of them took a connection."""
    refused: bool
    """Whether one of them refused it, as a host does that has banned us."""
    no_ipv6_here: bool
    """Whether this machine has no way to IPv6."""


def reach(host: str, port: str, *, seconds: float = _SECONDS) -> Reached:
    """Try to connect, and end it at once: nothing is sent."""
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError):
        return Reached(False, False, False, False, False, False)
    families = {family for family, *_ in found}
    answers = refused = no_route = False
    for family, kind, protocol, _, address in found:
        problem = _try(family, kind, protocol, address, seconds)
        answers = answers or problem == 0
        refused = refused or problem == errno.ECONNREFUSED
        is_6 = family == socket.AF_INET6
        no_route = no_route or (
            is_6 and problem in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
        )
        if answers:
            break
    return Reached(
        True,
        socket.AF_INET in families,
        socket.AF_INET6 in families,
        answers,
        refused,
        no_route,
    )


def _try(family: int, kind: int, protocol: int, address: tuple[object, ...], seconds: float) -> int:
    """0, or why not."""
    try:
        with socket.socket(family, kind, protocol) as one:
            one.settimeout(seconds)
            one.connect(address)
    except TimeoutError:
        return errno.ETIMEDOUT
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0
