"""Until when a server's certificate is valid: read from the server, without any login."""

from __future__ import annotations

import socket
import ssl
import struct
from datetime import date

from cryptography import x509

_SECONDS = 10.0
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def expiry_of_server(host: str, port: int, *, is_postgres: bool) -> date | None:
    """The last day of the certificate that answers there; None without TLS, or without an answer.

    Whether it is to be trusted is decided where it is used, not here.
    """
    try:
        with socket.create_connection((host, port), timeout=_SECONDS) as plain:
            if is_postgres:
                plain.sendall(_SSL_REQUEST)
                if plain.recv(1) != b"S":
                    return None
            return _expiry(plain, host)
    except (OSError, ValueError):
        return None


def _expiry(plain: socket.socket, host: str) -> date | None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: it is only looked at
    with context.wrap_socket(plain, server_hostname=host) as wrapped:
        der = wrapped.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der).not_valid_after_utc.date() if der else None
