"""Whose word counts for who a server is: the roots of certificates.

Programs and libraries that bring OpenSSL along look for the system's roots where their makers had
them, so the file is named to them.
"""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path

SUPABASE_ROOTS = Path(__file__).with_name("supabase-roots.pem")
_SUPABASE = re.compile(r"(.+\.)?(supabase\.(co|com|in|net|red)|supabase\.green)", re.I)
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)


def roots_for(host: str) -> str | None:
    """A file of roots for a server, as libpq's `sslrootcert` takes it.

    None where libpq finds one by itself: by PGSSLROOTCERT, or in the user's folder.
    """
    if os.environ.get("PGSSLROOTCERT"):
        return None
    if _SUPABASE.fullmatch(host):
        return str(SUPABASE_ROOTS)  # they sign their databases' certificates themselves
    if (Path.home() / ".postgresql" / "root.crt").exists():
        return None
    return system_roots()


def system_roots() -> str:
    """The system's own; `system` lets libpq ask OpenSSL where no file is found."""
    named = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    for path in (named, *_BUNDLES):
        if path and Path(path).is_file():
            return path
    return "system"
