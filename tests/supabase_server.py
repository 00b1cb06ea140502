"""Projects shaped like Supabase's, on real PostgreSQL servers: the roles, rights and refusals.

Each project is a server of its own. What a loaded library (supautils) lends to role `postgres` in a
real project - publications, event triggers, extensions of a list, policies on managed tables - is
lent by a proxy before the server, which sends just those statements to a function that may.
"""

from __future__ import annotations

import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import psycopg

from pgkeep.postgres.address import Address
from pgkeep.postgres.dumping import run_script
from pgkeep.postgres.programs import Programs, choose_server
from pgkeep.postgres.server import ScratchServer
from supabase_lending import as_the_library_would

SQL = Path(__file__).parent / "supabase"
PASSWORD = "of-the-project/+&"
Version = Literal["older", "newer"]


@contextmanager
def installation(major: int = 17) -> Iterator[Programs]:
    """A copy of a PostgreSQL with the platform's extensions in it."""
    programs = choose_server(major)
    with tempfile.TemporaryDirectory(prefix="pgkeep-supabase-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        copied = root / "postgres"
        shutil.copytree(programs.bin_dir.parent, copied, symlinks=True)
        extensions = next(copied.glob("share/**/extension"))
        for file in (SQL / "extensions").iterdir():
            shutil.copy(file, extensions / file.name)
        yield replace(programs, bin_dir=copied / "bin")


@dataclass(slots=True)
class ProjectServer:
    """A project: its server, and the proxy through which users reach it."""

    server: ScratchServer
    proxy: LendingProxy

    @property
    def url(self) -> str:
        """As role `postgres`, which is no superuser."""
        return self.url_of("postgres", PASSWORD)

    @property
    def admins_url(self) -> str:
        """As the platform's superuser, to set up and to look behind: not for the product."""
        return self.server.url("postgres")

    def url_of(self, role: str, password: str) -> str:
        """As another role."""
        secret = quote(password, safe="")
        return f"postgresql://{role}:{secret}@127.0.0.1:{self.proxy.port}/postgres?sslmode=disable"

    def run(self, script: str) -> None:
        """Statements as role `postgres`."""
        run_script(self.server.programs, Address.parse(self.url), script.encode())

    def run_as_admin(self, script: str) -> None:
        """What only the platform can do."""
        run_script(self.server.programs, Address.parse(self.admins_url), script.encode())

    def ask(self, query: str) -> list[tuple[object, ...]]:
        """A question as the superuser, who sees everything."""
        with psycopg.connect(self.admins_url) as connection:
            return connection.execute(query.encode()).fetchall()

    def value(self, query: str) -> object:
        """The one value that a question answers."""
        return self.ask(query)[0][0]

    def stop(self) -> None:
        """Everything goes."""
        self.proxy.stop()
        self.server.stop()


def start_project(programs: Programs, version: Version) -> ProjectServer:
    """A fresh project, as the platform hands it over."""
    server = ScratchServer.start(
        programs,
        superuser="supabase_admin",
        settings={"wal_level": "logical", "max_replication_slots": "5", "max_wal_senders": "10",
                  "max_slot_wal_keep_size": "4096MB"},
    )  # fmt: skip
    try:
        admin = Address.parse(server.url("postgres"))
        for name in ("roles", "managed", version):
            run_script(programs, admin, (SQL / f"{name}.sql").read_bytes())
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER ROLE postgres PASSWORD '{PASSWORD}'".encode())
        return ProjectServer(server, LendingProxy(server.port))
    except BaseException:
        server.stop()
        raise


def with_application(project: ProjectServer) -> ProjectServer:
    """The same project with a user's application and its rows in it."""
    project.run((SQL / "sample.sql").read_text())
    return project


class LendingProxy:
    """Passes on everything between clients and a server, but for the statements that are lent."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Close all connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._open):
            _close(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            for target, pair in ((self._forth, (client, server)), (self._back, (server, client))):
                threading.Thread(target=target, args=pair, daemon=True).start()

    def _forth(self, client: socket.socket, server: socket.socket) -> None:
        """From the client, message by message once the session has begun."""
        stream = client.makefile("rb")
        try:
            while True:  # a startup packet may follow on one that asks for TLS
                head = _exactly(stream, 8)
                size, code = struct.unpack("!ii", head)
                server.sendall(head + _exactly(stream, size - 8))
                if code not in (80877103, 80877104):  # SSLRequest, GSSENCRequest
                    break
            while True:
                kind, size = _exactly(stream, 1), struct.unpack("!i", _exactly(stream, 4))[0]
                server.sendall(_changed(kind, _exactly(stream, size - 4)))
        except (OSError, EOFError):
            pass
        finally:
            self._end(client, server)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)
        self._end(client, server)

    def _end(self, *pair: socket.socket) -> None:
        for one in pair:
            self._open.discard(one)
            _close(one)


def _changed(kind: bytes, body: bytes) -> bytes:
    if kind == b"Q":
        body = as_the_library_would(body[:-1].decode()).encode() + b"\0"
    elif kind == b"P":
        name, query, rest = body.split(b"\0", 2)
        body = b"\0".join([name, as_the_library_would(query.decode()).encode(), rest])
    return kind + struct.pack("!i", len(body) + 4) + body


def _exactly(stream: object, size: int) -> bytes:
    data: bytes = stream.read(size)  # type: ignore[attr-defined]
    if len(data) < size:
        raise EOFError
    return data


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
