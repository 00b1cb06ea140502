"""What expires by itself: certificates of servers, and keys of gpg recipients. Looked at daily."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timedelta
from urllib.parse import urlsplit

from pgkeep.config import Config, resolve
from pgkeep.errors import PgkeepError
from pgkeep.networks import is_this_machine
from pgkeep.postgres.address import Address
from pgkeep.postgres.certificates import expiry_of_server

Ask = Callable[[str, int, bool], date | None]
_AGAIN = timedelta(hours=20)


def _ask(host: str, port: int, is_postgres: bool) -> date | None:
    return expiry_of_server(host, port, is_postgres=is_postgres)


class Expiring:
    """Remembers for most of a day what the servers showed."""

    def __init__(self, config: Config, ask: Ask = _ask) -> None:
        self._config = config
        self._ask = ask
        self._at: datetime | None = None
        self._found: dict[str, date] = {}

    def look(self, now: datetime) -> Mapping[str, date]:
        """The last days of certificates, by what they are of; a server that is silent has none."""
        if self._at is None or not timedelta(0) <= now - self._at < _AGAIN:
            self._at, self._found = now, dict(self._look())
        return self._found

    def _look(self) -> Iterator[tuple[str, date]]:
        for name, host, port in self._databases():
            if day := self._ask(host, port, True):
                yield f"the certificate of database {name} ({host})", day
        for name, place in self._config.repositories.items():
            parts = urlsplit(place.endpoint or "")
            server = parts.hostname if parts.scheme == "https" else None
            if server and (day := self._ask(server, parts.port or 443, False)):
                yield f"the certificate of repository {name} ({server})", day

    def _databases(self) -> Iterator[tuple[str, str, int]]:
        for name, database in self._config.databases.items():
            try:
                address = Address.parse(resolve(database.url, f"the URL of database {name!r}"))
            except PgkeepError:
                continue  # its own job says what is wrong
            host, port = address.host.split(",")[0], address.port.split(",")[0]
            if not is_this_machine(host) and port.isdecimal():
                yield name, host, int(port)
