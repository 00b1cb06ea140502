"""Logging in with a token alone: the platform makes a role for a while, and no password is kept.

The role is but a way in: each session becomes `postgres` at once, without which it would see less.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import quote

from pgkeep.errors import ConfigurationError
from pgkeep.platforms.management import Login, Management
from pgkeep.postgres.address import Address

SCHEME = "supabase://"
_BECOMES = "postgres"
_SPARE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Kept:
    login: Login
    until: float


class TokenLogins:
    """Logins of this process, each made when it is needed and used until shortly before its end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    def address(self, url: str, management: Management) -> Address:
        """The address for `supabase://REF[?direct]`: by the session pooler, if not told else."""
        ref, _, options = url.removeprefix(SCHEME).partition("?")
        ref = ref.rstrip("/")
        if not ref.isalnum() or options not in ("", "direct"):
            raise ConfigurationError(
                f"{url!r} is not an address", hint="Write supabase://REF, or supabase://REF?direct."
            )
        login = self._login(ref, management)
        host, user, database = f"db.{ref}.supabase.co:5432", login.role, "postgres"
        if options != "direct":
            pooler = management.pooler(ref)
            if pooler is None:
                raise ConfigurationError(
                    f"project {ref!r} tells of no pooler", hint=f"Write {SCHEME}{ref}?direct."
                )
            host, database = f"{pooler.host}:5432", pooler.database
            user = f"{login.role}.{ref}"
        secret = quote(login.password, safe="")
        found = Address.parse(f"postgresql://{quote(user)}:{secret}@{host}/{quote(database)}")
        return replace(found, becomes=_BECOMES)

    def _login(self, ref: str, management: Management) -> Login:
        kept = self._kept.get(ref)
        if kept is None or self._clock() >= kept.until:
            login = management.login(ref, read_only=False)
            until = self._clock() + max(login.seconds - _SPARE_SECONDS, 0)
            kept = self._kept[ref] = _Kept(login, until)
        return kept.login
