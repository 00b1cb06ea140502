"""A server between a store and its real server, which does what networks and providers do.

    with FaultProxy(server.endpoint) as proxy:
        proxy.on(Answer(503), method="PUT", times=2)
        store = open_store(url, settings with endpoint=proxy.endpoint)

Everything else is passed on as it came; the `Host` header too, which signatures cover.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_PATIENCE_SECONDS = 60
_OWN_HEADERS = ("connection", "content-length", "transfer-encoding", "date", "server")


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer so, and pass nothing on. With status 200 to a PUT: a promise that is not kept."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stall:
    """Take the request and never answer."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Answer nothing, and cut the connection when so many bytes of the request's body have come."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class SlowUpload:
    """Take the request's body in so many pieces with a pause before each, then go on."""

    pieces: int
    pause_seconds: float


@dataclass(frozen=True, slots=True)
class CutAnswer:
    """Give the answer's head and so many bytes of its body, then cut, or go silent."""

    after_bytes: int
    then_stall: bool = False


@dataclass(frozen=True, slots=True)
class FlipAnswer:
    """Change one bit of the answer's body."""


@dataclass(frozen=True, slots=True)
class FlipUpload:
    """Change one bit of the request's body."""


Fault = Answer | Stall | Cut | SlowUpload | CutAnswer | FlipAnswer | FlipUpload


@dataclass(frozen=True, slots=True)
class Request:
    """What a client has asked."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(slots=True)
class _Plan:
    fault: Fault
    method: str
    match: str
    left: int | None

    def meets(self, method: str, path: str) -> bool:
        return self.left != 0 and fnmatchcase(method, self.method) and fnmatchcase(path, self.match)


class FaultProxy:
    """The proxy; it runs as long as its block."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        assert parts.hostname
        self.upstream = (parts.hostname, parts.port)
        self.requests: list[Request] = []
        self.released = threading.Event()
        self._plans: list[_Plan] = []
        self._mutex = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        # Little is on the way between, so that a slow reader is felt.
        self._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def on(
        self, fault: Fault, *, method: str = "*", match: str = "*", times: int | None = None
    ) -> None:
        """Let matching requests meet a fault: the next so many of them, or all from now on."""
        with self._mutex:
            self._plans.append(_Plan(fault, method, match, times))

    def clear(self) -> None:
        """From now on nothing goes wrong, and no request was seen."""
        with self._mutex:
            self._plans.clear()
            self.requests.clear()

    def due(self, request: Request) -> Fault | None:
        """The fault that this request meets; it counts as met."""
        with self._mutex:
            self.requests.append(request)
            for plan in self._plans:
                if plan.meets(request.method, request.path):
                    if plan.left is not None:
                        plan.left -= 1
                    return plan.fault
        return None

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: FaultProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        fault = self.server.proxy.due(Request(self.command, self.path, dict(self.headers.items())))
        size = int(self.headers.get("Content-Length") or 0)
        if isinstance(fault, Cut):
            self.rfile.read(min(size, fault.after_bytes))
            self._cut()
            return
        body = self._slow_body(fault, size) if isinstance(fault, SlowUpload) else b""
        body += self.rfile.read(size - len(body))
        match fault:
            case Answer():
                self._answer(fault.status, fault.headers, fault.body)
                return
            case Stall():
                self._stall()
                return
            case FlipUpload():
                body = _flipped(body)
        status, headers, data = self._forward(body)
        if isinstance(fault, FlipAnswer):
            data = _flipped(data)
        kept = fault.after_bytes if isinstance(fault, CutAnswer) else None
        self._answer(status, headers, data, kept)
        if isinstance(fault, CutAnswer):
            if fault.then_stall:
                self._stall()
            self._cut()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815  (names of http.server)

    def _slow_body(self, fault: SlowUpload, size: int) -> bytes:
        body = bytearray()
        for _ in range(fault.pieces):
            time.sleep(fault.pause_seconds)
            body += self.rfile.read(size // fault.pieces)
        return bytes(body)

    def _forward(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        connection = HTTPConnection(*self.server.proxy.upstream, timeout=_PATIENCE_SECONDS)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: Mapping[str, str], data: bytes, kept: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _OWN_HEADERS:
                self.send_header(name, value)
        size = str(len(data))
        if self.command == "HEAD":
            size = next((v for n, v in headers.items() if n.lower() == "content-length"), "0")
        self.send_header("Content-Length", size)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:kept])

    def _stall(self) -> None:
        self.server.proxy.released.wait(_PATIENCE_SECONDS)
        self.close_connection = True

    def _cut(self) -> None:
        """Close so that the other side gets a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
