"""Where a database is and how programs are told, without a password on any command line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgkeep.errors import ConfigurationError, TransactionPooler, UnknownHost
from pgkeep.model import quote_identifier
from pgkeep.networks import Resolve, Rule, is_this_machine
from pgkeep.postgres.memory_files import memory_file
from pgkeep.postgres.trust import roots_for

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
    becomes: str = ""
    """The role to take on once logged in: a temporary login is but the way to it."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """From a URL or a libpq connection string; `ConfigurationError` if it is neither.

        Without `sslmode`, who answers outside of this machine must prove to be who they are
        (verify-full): a password is given to nobody else.
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
        if address.is_local:
            return address
        return cls({**address.parameters, **_verified(given, address.host)})

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
        return all(is_this_machine(one) for one in where.split(","))

    @property
    def is_verified(self) -> bool:
        """Whether the server must prove to be who it is called."""
        return self.is_local or self.parameters.get("sslmode") == "verify-full"

    def within(self, rule: Rule, what: str, *, resolve: Resolve | None = None) -> Address:
        """The same, tied to addresses that a rule allows; `NetworkRefused` if one is outside.

        Each host becomes as many as it has addresses, so that none is looked up a second time.
        """
        if not rule.networks:
            return self
        hosts, ports = self.host.split(","), self.port.split(",")
        given = (self.parameters.get("hostaddr") or "").split(",")
        found: list[tuple[str, str, str]] = []
        for at, host in enumerate(hosts):
            port = ports[at] if at < len(ports) else ports[-1]
            named = given[at] if at < len(given) and given[at] else host
            if named.startswith(("/", "@")):  # a socket of this machine
                found.append((host, "", port))
                continue
            within = rule.check(named, what, resolve=resolve)
            if not within:  # a second look-up, which nobody checks, could give one
                raise UnknownHost(
                    f"host {named!r} is not known",
                    hint="Check the spelling of the host in the URL.",
                )
            found += [(host, one, port) for one in within]
        if not any(one for _, one, _ in found):
            return self
        names, addresses, at_ports = (",".join(parts) for parts in zip(*found, strict=True))
        pinned = {"host": names, "hostaddr": addresses, "port": at_ports}
        return replace(self, parameters={**self.parameters, **pinned})

    @property
    def needs_tls(self) -> bool:
        """Whether programs without TLS must not be used for this address.

        One that merely prefers TLS would do without, and send what it sends in the clear.
        """
        mode = self.parameters.get("sslmode", "prefer")
        return mode not in ("disable", "allow", "prefer") or (
            mode != "disable" and not self.is_local
        )

    @property
    def conninfo(self) -> str:
        """For libpq inside this process. Holds the password: never print it."""
        return make_conninfo("", **dict(self.parameters))

    @property
    def url(self) -> str:
        """For programs that want a URL. Holds the password: never print it."""
        of_its_own = ("user", "password", "host", "port", "dbname", "application_name")
        options = {k: v for k, v in self.parameters.items() if k not in of_its_own}
        who = quote(self.user, safe="")
        if password := self.parameters.get("password"):
            who += f":{quote(password, safe='')}"
        more = f"?{urlencode(options, quote_via=quote)}" if options else ""
        host = self.host
        if host.startswith("/"):
            host = quote(host, safe="")
        elif ":" in host:
            host = f"[{host}]"
        database = quote(self.database, safe="")
        return f"postgresql://{who}{'@' if who else ''}{host}:{self.port}/{database}{more}"

    def with_database(self, name: str) -> Address:
        """Another database on the same server."""
        return replace(self, parameters={**self.parameters, "dbname": name})

    @property
    def first_statements(self) -> tuple[str, ...]:
        """What each session begins with."""
        if not self.becomes:
            return ()
        return (f"SET SESSION ROLE {quote_identifier(self.becomes)}",)

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
        host, port = (",".join(dict.fromkeys(one.split(","))) for one in (self.host, self.port))
        return f"{who}{host}:{port}/{self.database}"


def _verified(given: Mapping[str, str], host: str) -> dict[str, str]:
    """How to make sure who answers, as far as the address itself does not say it."""
    mode = given.get("sslmode", "verify-full")
    if mode not in ("verify-ca", "verify-full") or "sslrootcert" in given:
        return {"sslmode": mode}
    roots = roots_for(host.split(",")[0])
    return {"sslmode": mode, **({"sslrootcert": roots} if roots else {})}


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
        environment = {**program_environment(), "PGSERVICEFILE": service_path}
        if password is None:
            yield ClientAccess(environment, service_fds)
            return
        escaped = password.replace("\\", "\\\\").replace(":", "\\:")
        with memory_file(f"*:*:*:*:{escaped}\n".encode()) as (password_path, password_fds):
            environment["PGPASSFILE"] = password_path
            environment.pop("PGPASSWORD", None)
            yield ClientAccess(environment, (*service_fds, *password_fds))


# What the programs need of our environment, in which also secrets are that are none of theirs.
_KEPT = frozenset(
    {"HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "OPENSSL_CONF", "PATH", "SSL_CERT_DIR",
     "SSL_CERT_FILE", "TMPDIR", "TZ", "USER", "LOGNAME",
     "KRB5CCNAME", "KRB5_CONFIG", "KRB5_CLIENT_KTNAME", "KRB5_KTNAME"}
)  # fmt: skip
# Of libpq's own, what would steer psql and pg_dump from outside.
_UNWANTED = frozenset(
    {"PGSERVICE", "PGSYSCONFDIR", "PGOPTIONS", "PGTZ", "PGDATESTYLE", "PGCLIENTENCODING",
     "PGHOSTADDR"}
)  # fmt: skip


def program_environment() -> dict[str, str]:
    """Of our own environment what has to do with libpq or with running at all."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or (_is_of_libpq(name) and name not in _UNWANTED)
    }
    return {**kept, "PGCLIENTENCODING": "UTF8", "LC_ALL": "C"}


def _is_of_libpq(name: str) -> bool:
    return name.startswith("PG") and not name.startswith("PGKEEP")
