"""A server outside of this machine proves who it is, before it gets a password."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from conftest import Workbench
from pgkeep.postgres import address
from pgkeep.postgres.certificates import expiry_of_server
from pgkeep.postgres.programs import choose_server
from pgkeep.postgres.server import ScratchServer
from receivers import free_port

HOST = "db.example.test"


def certificate(
    name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


@dataclass
class TlsServer:
    server: ScratchServer
    root: Path

    def url(self, host: str = HOST, more: str = "") -> str:
        return (
            f"postgresql://postgres:{self.server.password}@{host}:{self.server.port}/postgres"
            f"?hostaddr=127.0.0.1{more}"
        )


@pytest.fixture(scope="module")
def tls_server() -> Iterator[TlsServer]:
    folder = Path(tempfile.mkdtemp(prefix="pgkeep-tls-"))
    folder.chmod(0o755)
    ca = certificate("a root of ours", None)
    own, key = certificate(HOST, ca)
    (folder / "root.pem").write_bytes(ca[0].public_bytes(Encoding.PEM))
    (folder / "server.pem").write_bytes(own.public_bytes(Encoding.PEM))
    path = folder / "server.key"
    path.touch(0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    if os.geteuid() == 0:
        os.chown(path, pwd.getpwnam("nobody").pw_uid, -1)
    settings = {"ssl": "on", "ssl_cert_file": str(folder / "server.pem"),
                "ssl_key_file": str(path)}  # fmt: skip
    server = ScratchServer.start(choose_server(17), settings=settings)
    yield TlsServer(server, folder / "root.pem")
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's address counts as another machine's."""
    monkeypatch.setattr(address, "is_this_machine", lambda _: False)


def test_a_certificate_with_a_known_root_and_the_right_name_is_trusted(
    workbench: Workbench, tls_server: TlsServer, far_away: None
) -> None:
    with psycopg.connect(tls_server.server.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes AS SELECT 1 AS id")
    workbench.init(tls_server.url(more=f"&sslrootcert={tls_server.root}"))
    workbench.pgkeep("backup", "shop")
    document = workbench.pgkeep("list", "shop", "--json").document
    assert isinstance(document, list)
    assert document[0]["rows"] == 1


@pytest.mark.parametrize(
    ("host", "with_root", "what"),
    [(HOST, False, "certificate verify failed"), ("other.example.test", True, "does not match")],
    ids=["an unknown root", "another host"],
)
def test_whoever_does_not_prove_who_they_are_gets_no_password(
    workbench: Workbench,
    tls_server: TlsServer,
    far_away: None,
    host: str,
    with_root: bool,
    what: str,
) -> None:
    more = f"&sslrootcert={tls_server.root}" if with_root else ""
    workbench.init(tls_server.url(host, more))
    outcome = workbench.pgkeep("backup", "shop", expect=1)
    assert "does not prove who it is" in outcome.err
    assert what in outcome.err
    assert "sslrootcert=FILE" in outcome.err
    assert tls_server.server.password not in outcome.err
    assert len(outcome.err.strip().splitlines()) <= 3


def test_a_weaker_mode_that_is_asked_for_works_and_is_warned_of(
    workbench: Workbench, tls_server: TlsServer, far_away: None
) -> None:
    workbench.init(tls_server.url(more="&sslmode=require"))
    workbench.pgkeep("backup", "shop")
    outcome = workbench.pgkeep("doctor", expect=None)
    assert "sslmode=require in its URL" in outcome.out


def test_a_network_rule_is_kept_before_anything_is_sent(
    workbench: Workbench, tls_server: TlsServer
) -> None:
    workbench.init("postgresql://postgres:secret@192.0.2.7/postgres")
    text = workbench.config.read_text()
    workbench.config.write_text('allowed_networks = ["10.8.0.0/16"]\n' + text)
    outcome = workbench.pgkeep("backup", "shop", expect=1)
    assert "[E093] database 'shop': 192.0.2.7 is 192.0.2.7, outside of 10.8.0.0/16" in outcome.err
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", tls_server.server.url())
    workbench.pgkeep("backup", "shop")  # this machine itself is always within
    workbench.config.write_text('allowed_networks = ["10.8.0.0/16x"]\n' + text)
    assert "not a range of addresses" in workbench.pgkeep("backup", "shop", expect=2).err


def test_a_store_is_reached_encrypted_and_within_the_networks(workbench: Workbench) -> None:
    workbench.init("postgresql://localhost/x")
    text = workbench.config.read_text()
    store = (
        '\n[repositories.far]\nurl = "s3://bucket"\nregion = "x"\nrequired = true\n'
        'access_key_id = "a"\nsecret_access_key = "b"\n'
    )
    workbench.config.write_text(text + store + 'endpoint = "http://192.0.2.7:9000"\n')
    outcome = workbench.pgkeep("list", expect=2)
    assert "keys would go there readable" in outcome.err
    more = 'endpoint = "https://192.0.2.7:9000"\nallowed_networks = ["10.8.0.0/16"]\n'
    workbench.config.write_text(text + store + more)
    assert "[E093] repository 'far'" in workbench.pgkeep("list", expect=1).err


def test_until_when_a_certificate_is_valid_is_read_without_a_login(tls_server: TlsServer) -> None:
    port = tls_server.server.port
    found = expiry_of_server("127.0.0.1", port, is_postgres=True)
    assert found is not None
    assert 7 <= (found - datetime.now(UTC).date()).days <= 9
    assert expiry_of_server("127.0.0.1", free_port(), is_postgres=True) is None


def test_a_server_without_tls_has_no_certificate(server: ScratchServer) -> None:
    assert expiry_of_server("127.0.0.1", server.port, is_postgres=True) is None
    assert expiry_of_server("127.0.0.1", server.port, is_postgres=False) is None
