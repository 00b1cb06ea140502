"""Which addresses may be connected to, whatever a name says and however often it is asked."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pgkeep.errors import ConfigurationError, NetworkRefused, UnknownHost
from pgkeep.networks import Rule, is_this_machine
from pgkeep.postgres.address import Address
from pgkeep.postgres.trust import SUPABASE_ROOTS, roots_for

VPN = Rule.parse(["10.8.0.0/16", "fd00::/8"])
NAMES = {
    "db.vpn": ["10.8.1.2"], "both.vpn": ["10.8.1.2", "fd00::5"], "half": ["10.8.1.2", "192.0.2.7"],
    "outside": ["192.0.2.7"], "unknown": [], "10.8.0.9": ["10.8.0.9"], "here": ["127.0.0.1"],
}  # fmt: skip


def resolve(host: str) -> list[str]:
    return NAMES[host]


def pinned(url: str) -> Address:
    return Address.parse(url).within(VPN, "database 'shop'", resolve=resolve)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.8.255.255", True), ("10.9.0.0", False), ("fd12::1", True), ("fe80::1%eth0", False),
     ("::ffff:10.8.0.1", True), ("::ffff:192.0.2.7", False), ("127.0.0.1", True), ("::1", True)],
)  # fmt: skip
def test_an_address_is_within_or_not(address: str, expected: bool) -> None:
    assert VPN.allows(address) is expected
    assert Rule().allows(address)


@pytest.mark.parametrize("text", ["", "10.8.0.1/16", "hello", "10.8.0.0/40", "10.8/16"])
def test_what_is_no_range_is_told(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not a range of addresses"):
        Rule.parse([text])


@pytest.mark.parametrize("host", ["outside", "half"])
def test_a_host_with_an_address_outside_is_refused(host: str) -> None:
    with pytest.raises(NetworkRefused, match=r"192\.0\.2\.7, outside of 10\.8\.0\.0/16, fd00::/8"):
        pinned(f"postgresql://app:secret@{host}/shop")


def test_a_connection_goes_to_the_address_that_was_checked() -> None:
    address = pinned("postgresql://app@both.vpn:6000/shop")
    assert address.parameters["hostaddr"] == "10.8.1.2,fd00::5"
    assert address.parameters["host"] == "both.vpn,both.vpn"
    assert address.parameters["port"] == "6000,6000"
    assert str(address) == "app@both.vpn:6000/shop"
    assert address.parameters["sslmode"] == "verify-full"


def test_several_hosts_are_checked_each() -> None:
    address = pinned("postgresql://app@db.vpn:1,10.8.0.9:2/shop")
    assert address.parameters["hostaddr"] == "10.8.1.2,10.8.0.9"
    assert address.parameters["port"] == "1,2"
    with pytest.raises(NetworkRefused):
        pinned("postgresql://app@db.vpn,outside/shop")


def test_an_address_beside_the_name_is_what_counts() -> None:
    with pytest.raises(NetworkRefused):
        Address.parse("host=db.vpn hostaddr=192.0.2.7 dbname=shop").within(
            VPN, "the target", resolve=lambda host: [host]
        )


def test_a_socket_is_left() -> None:
    assert "hostaddr" not in pinned("postgresql:///shop?host=/run/postgresql").parameters


def test_a_socket_takes_no_other_host_along() -> None:
    """libpq goes on with the next host where a socket does not answer."""
    for host in ("/run/postgresql,outside", "outside,/run", "/run,half"):
        with pytest.raises(NetworkRefused):
            pinned(f"host={host} dbname=shop")
    parameters = pinned("host=/run,both.vpn,/tmp port=1,2,3").parameters
    assert parameters["host"] == "/run,both.vpn,both.vpn,/tmp"
    assert parameters["hostaddr"] == ",10.8.1.2,fd00::5,"
    assert parameters["port"] == "1,2,2,3"


def test_an_unknown_name_is_not_left_to_a_second_look_up() -> None:
    """Whoever answers for the name could say nothing first, and then an address outside."""
    for url in ("postgresql://unknown/x", "postgresql://db.vpn,unknown/x"):
        with pytest.raises(UnknownHost, match="'unknown'"):
            pinned(url)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.8.8.8", True), ("[::1]", True), ("/tmp", True), ("@abstract", True),
     ("localhost.example.com", False), ("10.0.0.1", False), ("", False)],
)  # fmt: skip
def test_this_machine_is_told_by_its_addresses(host: str, expected: bool) -> None:
    assert is_this_machine(host) is expected


def test_the_roots_of_supabase_are_theirs_and_valid() -> None:
    found = x509.load_pem_x509_certificates(SUPABASE_ROOTS.read_bytes())
    fingerprints = [one.fingerprint(hashes.SHA256()).hex(":").upper() for one in found]
    assert [one[:11] for one in fingerprints] == ["80:70:25:AD", "5F:9B:77:95"]
    assert [one[-8:] for one in fingerprints] == ["E6:CA:FA"[-8:], "2C:9A:E2"]
    assert all(one.not_valid_after_utc > datetime(2031, 1, 1, tzinfo=UTC) for one in found)


@pytest.mark.parametrize(
    ("host", "is_theirs"),
    [("db.abcdefghijklmnopqrst.supabase.co", True), ("aws-0-x.pooler.supabase.com", True),
     ("supabase.co.example.com", False), ("db.example.com", False)],
)  # fmt: skip
def test_roots_are_chosen_by_the_host(
    host: str, is_theirs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    assert (roots_for(host) == str(SUPABASE_ROOTS)) is is_theirs
    monkeypatch.setenv("PGSSLROOTCERT", "/mine.pem")
    assert roots_for(host) is None
