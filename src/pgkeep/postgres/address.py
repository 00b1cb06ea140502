"""Where a database is and how programs are told, without a password on any command line."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgkeep.errors import ConfigurationError, TransactionPooler
from pgkeep.postgres.memory_files import memory_file

_TRANSACTION_POOLER_PORT = "6543"
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

_FROM_ENVIRONMENT = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "user": "PGUSER",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
}

# A dead peer must be noticed in minutes, not in the two hours of most systems' defaults.
_DEFAULTS = {
    "connect_timeout": "15",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "4",
    "tcp_user_timeout": "120000",
    "gssencmode": "disable",  # old clients stumble over poolers that do not know it
    "application_name": "pgkeep",
}


@dataclass(frozen=True, slots=True)
class Address:
    """A database by its connection parameters (libpq's names). The password never shows."""

    parameters: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """From a URL or a libpq connection string; `ConfigurationError` if it is neither.

        Without `sslmode`, connections that leave this machine must be encrypted.
        """
        if not url.strip():
            raise ConfigurationError(
                "the database's address is empty",
                hint="Write postgresql://user:password@host:5432/database.",
            )
        try:
            given = {key: str(value) for key, value in conninfo_to_dict(url).items()}
        except (psycopg.Error, UnicodeError):
            # Not chained: the parser quotes what it stumbles over, which may be a password.
            raise ConfigurationError(
                "the database's address is not a connection string",
                hint="Write postgresql://user:password@host:5432/database.",
            ) from None
        _refuse_torn_password(given)
        _refuse_unpassable(given)
        if given.get("sslmode", "prefer") not in _SSL_MODES:
            raise ConfigurationError(
                f"there is no sslmode {given['sslmode']!r}", hint=f"Use {', '.join(_SSL_MODES)}."
            )
        for name, variable in _FROM_ENVIRONMENT.items():
            if name not in given and (value := os.environ.get(variable)):
                given[name] = value
        address = cls({**_DEFAULTS, **given})
        if "sslmode" not in given and not address.is_local:
            return cls({**address.parameters, "sslmode": "require"})
        return address

    @property
    def host(self) -> str:
        return self.parameters.get("host") or self.parameters.get("hostaddr") or "localhost"

    @property
    def port(self) -> str:
        return self.parameters.get("port", "5432")

    @property
    def user(self) -> str:
        return self.parameters.get("user", "")

    @property
    def database(self) -> str:
        return self.parameters.get("dbname") or self.user

    @property
    def is_local(self) -> bool:
        """On this machine: a Unix socket or a loopback address."""
        # libpq connects to hostaddr where one is given, and host is but a name then.
        where = self.parameters.get("hostaddr") or self.host
        if where.startswith(("/", "@")) or where == "localhost":
            return True
        try:
            return ipaddress.ip_address(where).is_loopback
        except ValueError:
            return False

    @property
    def needs_tls(self) -> bool:
        """Whether programs without TLS are useless for this address."""
        return self.parameters.get("sslmode", "prefer") in ("require", "verify-ca", "verify-full")

    @property
    def conninfo(self) -> str:
        """For libpq inside this process. Holds the password: never print it."""
        return make_conninfo("", **dict(self.parameters))

    def with_database(self, name: str) -> Address:
        """Another database on the same server."""
        return Address({**self.parameters, "dbname": name})

    def refuse_transaction_pooler(self) -> None:
        """Raise `TransactionPooler` for the port that such poolers have by convention."""
        if self.port == _TRANSACTION_POOLER_PORT:
            raise TransactionPooler(
                f"{self} is a transaction pooler, which cannot hold a snapshot",
                hint="Use the direct connection or the session pooler, both on port 5432.",
            )

    def __str__(self) -> str:
        """For people: never with a password."""
        who = f"{self.user}@" if self.user else ""
        return f"{who}{self.host}:{self.port}/{self.database}"


def _refuse_torn_password(given: Mapping[str, str]) -> None:
    """A URL whose password holds a bare @ or / is read as another host, which errors would show."""
    host, port = given.get("host", ""), given.get("port", "5432")
    torn = "@" in host and not host.startswith(("/", "@"))
    if torn or "@" in given.get("dbname", "") or not re.fullmatch(r"[\d,]+", port):
        raise ConfigurationError(
            "the database's address is not read as it was meant: a user or password in it has"
            " characters that a URL keeps for itself",
            hint="Write @ as %40, / as %2F, : as %3A, # as %23, ? as %3F and % as %25 there.",
        )


def _refuse_unpassable(parameters: Mapping[str, str]) -> None:
    """Children get the parameters as lines of a file, under a service name of our own."""
    for name, value in parameters.items():
        if name == "service":
            raise ConfigurationError(
                "a service name in the database's address is not supported",
                hint="Write out what the service file says: host, port, user, database.",
            )
        if any(ord(character) < 32 for character in value) or value != value.rstrip():
            raise ConfigurationError(
                f"{name} in the database's address ends in a blank or holds a control character",
                hint="Correct the URL.",
            )


@dataclass(frozen=True, slots=True)
class ClientAccess:
    """What a child process needs to connect: environment, open files, and a `-d` argument."""

    environment: Mapping[str, str]
    pass_fds: tuple[int, ...]
    dbname: str = "service=pgkeep"


@contextmanager
def client_access(address: Address) -> Iterator[ClientAccess]:
    """Let programs connect to `address` while the block runs.

    Parameters go into a service file and the password into a password file, both in memory where
    the system has it (memfd), so that neither is in an argument list, an environment that others
    might see, or on a disk.
    """
    parameters = dict(address.parameters)
    password = parameters.pop("password", None)
    service = "".join(f"{key}={value}\n" for key, value in parameters.items())
    with memory_file(f"[pgkeep]\n{service}".encode()) as (service_path, service_fds):
        environment = _environment(service_path)
        if password is None:
            yield ClientAccess(environment, service_fds)
            return
        escaped = password.replace("\\", "\\\\").replace(":", "\\:")
        with memory_file(f"*:*:*:*:{escaped}\n".encode()) as (password_path, password_fds):
            environment["PGPASSFILE"] = password_path
            environment.pop("PGPASSWORD", None)
            yield ClientAccess(environment, (*service_fds, *password_fds))


def _environment(service_path: str) -> dict[str, str]:
    """Our own environment, with what would steer psql and pg_dump from outside taken out."""
    unwanted = {"PGSERVICE", "PGSYSCONFDIR", "PGOPTIONS", "PGTZ", "PGDATESTYLE", "PGCLIENTENCODING",
                "PGHOSTADDR", "PSQLRC", "PAGER", "PSQL_PAGER"}  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key not in unwanted}
    return {**environment, "PGSERVICEFILE": service_path, "PGCLIENTENCODING": "UTF8", "LC_ALL": "C"}
