"""Which addresses may be connected to: names are resolved here, and what they say is checked.

A rule that is checked on a name and then followed by another look-up of that name would be none:
who connects gets the very addresses that were checked.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgkeep.errors import ConfigurationError, NetworkRefused

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Rule:
    """Address ranges; an empty rule allows everything."""

    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Rule:
        """`10.8.0.0/16`, `fd00::/8`; `ConfigurationError` for what is no range."""
        return cls(tuple(_network(text) for text in texts))

    def allows(self, address: str) -> bool:
        """Whether an address is within; this machine's own always are."""
        found = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
            found = found.ipv4_mapped
        return (
            not self.networks
            or found.is_loopback
            or any(found.version == one.version and found in one for one in self.networks)
        )

    def check(self, host: str, what: str, *, resolve: Resolve | None = None) -> tuple[str, ...]:
        """The addresses of a host, all of them within; `NetworkRefused` if one is not.

        A host that cannot be resolved gives none.
        """
        addresses = tuple((resolve or addresses_of)(host))
        outside = [one for one in addresses if not self.allows(one)]
        if outside:
            allowed = ", ".join(map(str, self.networks))
            raise NetworkRefused(
                f"{what}: {host} is {outside[0]}, outside of {allowed}; nothing was sent",
                hint="Is the VPN up? Otherwise correct allowed_networks in the configuration.",
            )
        return addresses


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError:
        raise ConfigurationError(
            f"{text!r} is not a range of addresses", hint='Write "10.8.0.0/16" or "fd00::/8".'
        ) from None


def addresses_of(host: str) -> tuple[str, ...]:
    """What the system's resolver says, each once, in its order; none if it knows nothing."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(one[4][0]) for one in found))


def is_this_machine(host: str) -> bool:
    """A Unix socket, or a loopback address or its name."""
    if host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
