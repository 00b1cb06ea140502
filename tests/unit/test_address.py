"""Addresses: what is taken from them, what is added, and that no password ever shows."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from pgkeep.errors import ConfigurationError, TransactionPooler
from pgkeep.postgres.address import Address, client_access, program_environment

SECRET = "hunter2"
PRINTABLE = st.characters(exclude_categories=("Cs", "Cc"))


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)


def files(address: Address) -> tuple[str, str | None, dict[str, str]]:
    """The service file, the password file and the environment that a child would find."""
    with client_access(address) as access:
        environment = dict(access.environment)
        service = Path(environment["PGSERVICEFILE"]).read_text()
        password = None
        if "PGPASSFILE" in environment:
            password = Path(environment["PGPASSFILE"]).read_text()
    return service, password, environment


# --- parsing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:hunter2@db.example.com:5433/shop?application_name=mine",
        "postgres://ada:hunter2@db.example.com:5433/shop?application_name=mine",
        "host=db.example.com port=5433 user=ada password=hunter2 dbname=shop application_name=mine",
    ],
)
def test_a_url_and_a_connection_string_are_read_alike(url: str) -> None:
    address = Address.parse(url)
    assert (address.host, address.port) == ("db.example.com", "5433")
    assert (address.user, address.database) == ("ada", "shop")
    assert address.parameters["password"] == SECRET
    assert address.parameters["application_name"] == "mine"
    assert str(address) == "ada@db.example.com:5433/shop"


def test_what_is_not_given_has_a_default() -> None:
    address = Address.parse("postgresql://")
    assert (address.host, address.port, address.user, address.database) == (
        "localhost", "5432", "", "",
    )  # fmt: skip
    assert dict(address.parameters) == {
        "connect_timeout": "15",
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "4",
        "tcp_user_timeout": "120000",
        "gssencmode": "disable",
        "application_name": "pgkeep",
    }
    assert Address.parse("postgresql://ada@h/").database == "ada"
    given = Address.parse("postgresql://h/d?connect_timeout=3")
    assert given.parameters["connect_timeout"] == "3"


def test_libpqs_variables_fill_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PGHOST", "far"), ("PGPORT", "9"), ("PGUSER", "u"), ("PGDATABASE", "d")):
        monkeypatch.setenv(name, value)
    assert str(Address.parse("postgresql://")) == "u@far:9/d"
    assert Address.parse("postgresql://").needs_tls
    assert str(Address.parse("postgresql://x@near:7/y")) == "x@near:7/y"
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert not Address.parse("postgresql://").needs_tls


@pytest.mark.parametrize(
    "url",
    [
        "", "  ", "nonsense", "mysql://h/d", f"postgresql://u:{SECRET}@[h/d",
        f"password={SECRET} port",
        f"postgresql://u:{SECRET}@h:port/d", f"postgresql://h/d?passwort={SECRET}",
        f"postgresql://u:{SECRET}@%zz/d",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Address.parse(url)
    error = caught.value
    shown = f"{error} {error.hint} {error.__cause__!r}"
    assert SECRET not in shown


def test_another_database_on_the_same_server() -> None:
    address = Address.parse("postgresql://ada:hunter2@h:5433/shop").with_database("other one")
    assert str(address) == "ada@h:5433/other one"
    assert address.parameters["password"] == SECRET


# --- encryption of the connection -------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("postgresql:///d", True),
        ("postgresql://localhost/d", True),
        ("postgresql://127.0.0.1/d", True),
        ("postgresql://127.9.9.9/d", True),
        ("postgresql://[::1]/d", True),
        ("host=/var/run/postgresql", True),
        ("host=@abstract", True),
        ("hostaddr=127.0.0.1", True),
        ("postgresql://db.example.com/d", False),
        ("postgresql://10.0.0.5/d", False),
        ("postgresql://localhost.example.com/d", False),
        ("postgresql://localhost,db.example.com/d", False),
        ("hostaddr=10.0.0.5", False),
        ("host=localhost hostaddr=10.0.0.5", False),
    ],
)
def test_who_answers_outside_of_this_machine_must_prove_who_they_are(url: str, local: bool) -> None:
    address = Address.parse(url)
    assert address.is_local is local
    assert address.needs_tls is not local
    assert address.parameters.get("sslmode") == (None if local else "verify-full")


@pytest.mark.parametrize(
    ("mode", "needs_tls"),
    [
        ("disable", False), ("allow", True), ("prefer", True),
        ("require", True), ("verify-ca", True), ("verify-full", True),
    ],
)  # fmt: skip
def test_a_mode_that_is_given_counts(mode: str, needs_tls: bool) -> None:
    address = Address.parse(f"postgresql://db.example.com/d?sslmode={mode}")
    assert address.parameters["sslmode"] == mode
    assert address.needs_tls is needs_tls
    local = Address.parse(f"postgresql://localhost/d?sslmode={mode}")
    assert local.needs_tls is (mode in ("require", "verify-ca", "verify-full"))


def test_a_transaction_pooler_is_refused_by_its_port() -> None:
    address = Address.parse("postgresql://ada:hunter2@pooler.example.com:6543/d")
    with pytest.raises(TransactionPooler) as caught:
        address.refuse_transaction_pooler()
    assert caught.value.message == (
        "ada@pooler.example.com:6543/d is a transaction pooler, which cannot hold a snapshot"
    )
    Address.parse("postgresql://pooler.example.com:5432/d").refuse_transaction_pooler()


# --- secrets --------------------------------------------------------------------------------


def test_no_password_is_in_what_may_be_shown() -> None:
    address = Address.parse(f"postgresql://ada:{SECRET}@db.example.com/shop")
    other = address.with_database("x")
    shown = f"{address} {address!r} {other} {other!r} {[address]} {address.host} {address.database}"
    assert SECRET not in shown
    assert SECRET in address.conninfo


def test_a_child_gets_parameters_and_password_in_files_of_memory() -> None:
    address = Address.parse(f"postgresql://ada:{SECRET}@db.example.com:5433/shop")
    service, password, environment = files(address)
    lines = service.splitlines()
    assert lines[0] == "[pgkeep]"
    for line in (
        "host=db.example.com",
        "port=5433",
        "user=ada",
        "dbname=shop",
        "sslmode=verify-full",
    ):
        assert line in lines
    assert SECRET not in service
    assert password == f"*:*:*:*:{SECRET}\n"
    assert SECRET not in str(environment)
    assert environment["PGCLIENTENCODING"] == "UTF8"


@pytest.mark.parametrize(
    ("password", "line"),
    [
        ("a:b", "*:*:*:*:a\\:b\n"),
        ("a\\b", "*:*:*:*:a\\\\b\n"),
        ("\\:", "*:*:*:*:\\\\\\:\n"),
        (" ünïcode #*'\" ", "*:*:*:*: ünïcode #*'\" \n"),
        ("=", "*:*:*:*:=\n"),
    ],
)
def test_a_password_with_any_characters_is_escaped(password: str, line: str) -> None:
    address = Address({"host": "h", "password": password})
    assert files(address)[1] == line


@pytest.mark.parametrize("name", ["two words", "a=b", "#x", "a'b", 'a"b', "a\\b", "[x]"])
def test_a_database_of_any_name_is_in_the_service_file_as_it_is(name: str) -> None:
    assert f"dbname={name}\n" in files(Address({"dbname": name}))[0]


def test_a_child_can_open_the_files_and_others_cannot() -> None:
    with client_access(Address({"host": "h", "password": SECRET})) as access:
        for name, text in (("PGSERVICEFILE", "host=h"), ("PGPASSFILE", SECRET)):
            command = f'cat "${name}"; stat -L -c %a "${name}"'
            done = subprocess.run(
                ["sh", "-c", command],
                env=dict(access.environment), pass_fds=access.pass_fds,
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert text in done.stdout
            assert done.stdout.endswith("600\n")
        handles = access.pass_fds
    for handle in handles:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)


def test_what_would_steer_the_programs_from_outside_is_taken_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unwanted = (
        "PGSERVICE", "PGOPTIONS", "PGTZ", "PGDATESTYLE", "PGHOSTADDR", "PSQLRC", "PAGER",
        "PSQL_PAGER", "PGSYSCONFDIR",
    )  # fmt: skip
    for name in unwanted:
        monkeypatch.setenv(name, "outside")
    monkeypatch.setenv("PGPASSWORD", "outside")
    monkeypatch.setenv("PGSERVICEFILE", "outside")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    _, _, environment = files(Address({"host": "h", "password": SECRET}))
    assert not {*unwanted, "PGPASSWORD"}.intersection(environment)
    assert environment["LC_ALL"] == "C"
    assert environment["PATH"] == os.environ["PATH"]
    assert os.environ["PGPASSWORD"] == "outside"


def test_a_child_gets_no_variable_that_is_none_of_its_business(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SHOP_DATABASE_URL", "PGKEEP_PASSPHRASE", "AWS_SECRET_ACCESS_KEY", "HOOK"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("PGSSLCERT", "/mine.crt")
    monkeypatch.setenv("SSL_CERT_FILE", "/roots.pem")
    for environment in (files(Address({"host": "h"}))[2], program_environment()):
        assert SECRET not in environment.values()
        assert environment["PGSSLCERT"] == "/mine.crt"
        assert environment["SSL_CERT_FILE"] == "/roots.pem"


@given(
    user=st.text(PRINTABLE, min_size=1), password=st.text(PRINTABLE), database=st.text(PRINTABLE),
    host=st.sampled_from(["127.0.0.1", "localhost", "::1", "/tmp/some where"]),
)  # fmt: skip
def test_its_url_is_the_same_address(user: str, password: str, database: str, host: str) -> None:
    given_ = {"user": user, "host": host, "port": "5433", "dbname": database or user}
    address = Address({**given_, **({"password": password} if password else {})})
    again = conninfo_to_dict(address.url)
    assert {name: again.get(name) for name in address.parameters} == address.parameters
