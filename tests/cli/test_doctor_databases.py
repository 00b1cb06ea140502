"""pgkeep doctor on databases: what would keep a backup from being made, or make it less."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from conftest import Workbench
from pgkeep.doctor.databases import DatabaseFacts, database_findings
from pgkeep.errors import ConnectionFailed
from pgkeep.findings import Severity
from pgkeep.platforms.addresses import Way, recognise
from pgkeep.postgres.address import Address
from pgkeep.postgres.reachability import Reached, reach
from pgkeep.postgres.server import ScratchServer
from receivers import free_port
from supabase_server import PASSWORD, ProjectServer, Version

NewProject = Callable[[Version], ProjectServer]
DIRECT = "postgresql://postgres:x@db.abcdefghijklmnopqrst.supabase.co:5432/postgres"
POOLER = "postgresql://postgres.abcdefghijklmnopqrst:x@aws-0-eu-west-1.pooler.supabase.com"


def examined(bench: Workbench, *, expect: int | None = None) -> tuple[dict[str, Any], list[str]]:
    """What is told of the one database, and each finding about it."""
    document = bench.pgkeep("doctor", "--json", expect=expect).document
    assert isinstance(document, dict)
    findings = [
        f"{one['severity']}: {one['what']} -> {one['remedy']}"
        for one in document["findings"]
        if one["about"] == "database shop"
    ]
    return document["databases"][0], findings


@pytest.mark.parametrize(
    ("url", "project", "way"),
    [
        (DIRECT, "abcdefghijklmnopqrst", Way.DIRECT),
        (DIRECT.replace(":5432", ":6543"), "abcdefghijklmnopqrst", Way.TRANSACTION_POOLER),
        (f"{POOLER}:5432/postgres", "abcdefghijklmnopqrst", Way.SESSION_POOLER),
        (f"{POOLER}:6543/postgres", "abcdefghijklmnopqrst", Way.TRANSACTION_POOLER),
        (f"{POOLER.replace('.abcdefghijklmnopqrst', '')}:5432/x", "", Way.SESSION_POOLER),
    ],
)
def test_a_supabase_address_is_recognised(url: str, project: str, way: Way) -> None:
    found = recognise(Address.parse(url))
    assert found is not None
    assert (found.project, found.way) == (project, way)
    assert recognise(Address.parse("postgresql://x@db.example.com/d")) is None


def test_a_transaction_pooler_is_told_without_connecting(workbench: Workbench) -> None:
    outcome = workbench.init(f"{POOLER}:6543/postgres")
    assert "Supabase project abcdefghijklmnopqrst, by the transaction pooler" in outcome.err
    assert "cannot hold a snapshot" in outcome.err
    told, findings = examined(workbench, expect=1)
    assert told["usable"] is False
    assert any("is the transaction pooler" in one and "port 5432" in one for one in findings)


def test_a_project_is_examined_as_its_role(
    workbench: Workbench, sample_project: ProjectServer
) -> None:
    sample_project.run("CREATE TABLE public.loose (note text)")
    workbench.init(sample_project.url)
    told, findings = examined(workbench, expect=3)
    assert told["platform"] == "supabase"
    assert (told["role"], told["superuser"], told["replication"]) == ("postgres", False, True)
    assert (told["slots"], told["slot_wal_bytes"]) == (5, 4 << 30)
    assert any("public.loose" in one and "REPLICA IDENTITY FULL" in one for one in findings)
    assert any(
        "the first backup reads" in one and "5 files of 5 kB" in one and "0.09 $ a gigabyte" in one
        for one in findings
    )
    assert any("needs the extensions" in one and "pg_cron" in one for one in findings)
    assert not any(one.startswith("error") for one in findings)


def test_a_role_that_may_not_read_or_see_all_is_told(
    workbench: Workbench, new_database: Callable[[], str], server: ScratchServer
) -> None:
    url = new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS poor")
        connection.execute("CREATE ROLE poor LOGIN PASSWORD 'poor' CONNECTION LIMIT 2")
        connection.execute("CREATE TABLE closed (id int PRIMARY KEY)")
        connection.execute("CREATE TABLE hidden (id int PRIMARY KEY)")
        connection.execute("ALTER TABLE hidden ENABLE ROW LEVEL SECURITY")
        connection.execute("GRANT SELECT ON hidden TO poor")
        connection.execute("ALTER ROLE poor SET statement_timeout = '8s'")
    name = url.rpartition("/")[2]
    workbench.init(f"postgresql://poor:poor@127.0.0.1:{server.port}/{name}")
    _, findings = examined(workbench, expect=1)
    joined = "\n".join(findings)
    assert "error: this role may not read public.closed" in joined
    assert "error: row-level security hides rows from this role in public.hidden" in joined
    assert "role 'poor' has not REPLICATION" in joined
    assert "of 2 are free" in joined
    assert "statement_timeout is 8 s" in joined
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP OWNED BY poor")
        connection.execute("DROP ROLE poor")


@pytest.fixture
def counting_proxy(server: ScratchServer) -> Iterator[tuple[int, list[int]]]:
    """A way to the server on which every connection is counted."""
    listener = socket.create_server(("127.0.0.1", 0))
    counted: list[int] = []

    def pump(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            counted.append(1)
            behind = socket.create_connection(("127.0.0.1", server.port))
            for pair in ((client, behind), (behind, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1], counted
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize("command", [("doctor",), ("backup", "shop"), ("status",)])
def test_after_a_refused_password_nobody_tries_again(
    workbench: Workbench, counting_proxy: tuple[int, list[int]], command: tuple[str, ...]
) -> None:
    port, counted = counting_proxy
    workbench.init(f"postgresql://postgres:wrong@127.0.0.1:{port}/postgres?sslmode=disable")
    outcome = workbench.pgkeep(*command, expect=None)
    assert len(counted) <= 1, outcome
    if command[0] != "status":
        assert "refused the login" in outcome.out + outcome.err


def facts(url: str, **changes: Any) -> DatabaseFacts:
    address = Address.parse(url)
    return DatabaseFacts("shop", 3, False, address, recognise(address), **changes)


@pytest.mark.parametrize(
    ("reached", "said"),
    [
        (Reached(True, False, True, False, False, True), "has only an IPv6 address"),
        (Reached(True, True, True, False, True, False), "banned for half an hour"),
    ],
)
def test_why_a_project_is_not_reached_is_told(reached: Reached, said: str) -> None:
    problem = ConnectionFailed("cannot connect", hint="Is it up?")
    (found,) = database_findings(facts(DIRECT, problem=problem, reached=reached))
    assert found.severity is Severity.ERROR
    assert said in found.remedy


def test_reaching_tells_what_came_of_it() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    here = reach("127.0.0.1", str(listener.getsockname()[1]))
    assert here.answers
    assert not here.has_ipv6
    listener.close()
    assert reach("127.0.0.1", str(free_port())).refused
    assert not reach("no-such-host.invalid", "5432").known


def test_a_pooler_needs_the_project_in_the_user() -> None:
    url = f"{POOLER.replace('.abcdefghijklmnopqrst', '')}:5432/postgres"
    assert any("does not name the project" in one.what for one in database_findings(facts(url)))


def test_init_tells_which_project_it_is(workbench: Workbench) -> None:
    assert "by the direct" in workbench.init(DIRECT).err
    assert PASSWORD not in workbench.config.read_text()
