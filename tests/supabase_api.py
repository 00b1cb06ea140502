"""Supabase's Management API on loopback: the shapes of its OpenAPI, and its refusals."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "sbp_0123456789abcdef"
REF = "abcdefghijklmnopqrst"


@dataclass
class Api:
    """What the platform knows of one project, and what was asked of it."""

    url: str = ""
    status: str = "ACTIVE_HEALTHY"
    pitr: bool = True
    earliest: int | None = None
    latest: int | None = None
    backups: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    login: dict[str, Any] = field(default_factory=dict)
    pooler: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str], object]] = field(default_factory=list)
    """Given before anything else, one to each request."""
    restoring: int = 0
    """How many more times it says that it is restoring."""
    on_restore: Callable[[], None] = lambda: None

    def backup(self, number: int, made: datetime, status: str = "COMPLETED") -> None:
        self.backups.append(
            {"id": number, "is_physical_backup": True, "status": status,
             "inserted_at": made.isoformat().replace("+00:00", "Z")}
        )  # fmt: skip

    @property
    def posted(self) -> list[tuple[str, Any]]:
        return [(path, body) for method, path, body in self.requests if method == "POST"]

    def answer(self, method: str, path: str, token: str, body: Any) -> tuple[int, object]:
        if token != f"Bearer {TOKEN}":
            return 401, {"message": "Unauthorized"}
        base = f"/v1/projects/{REF}"
        if not path.startswith(base):
            return 404, {"message": "Project not found"}
        match method, path.removeprefix(base):
            case "GET", "":
                return 200, self._project()
            case "GET", "/database/backups":
                return 200, self._backups()
            case "GET", "/database/backups/restore-point":
                return 200, self.points
            case "POST", "/database/backups/restore-point":
                if len(body["name"]) > 20:
                    return 400, {"message": "name: String must contain at most 20 character(s)"}
                self.points.append(
                    {"name": body["name"], "status": "PENDING", "completed_on": None}
                )
                return 201, self.points[-1]
            case "POST", "/database/backups/restore-pitr":
                if not isinstance(body.get("recovery_time_target_unix"), int):
                    return 400, {"message": "recovery_time_target_unix: Expected number"}
                if not self.pitr:
                    return 400, {"message": "PITR is not enabled for this project."}
                return self._restore()
            case "POST", "/database/backups/restore" | "/database/backups/undo":
                return self._restore()
            case "POST", "/cli/login-role":
                return 201, self.login
            case "GET", "/config/database/pooler":
                return 200, [self.pooler] if self.pooler else []
        return 404, {"message": f"Cannot {method} {path}"}

    def _project(self) -> dict[str, Any]:
        status = self.status
        if self.restoring:
            self.restoring -= 1
            status = "RESTORING"
        return {"id": REF, "ref": REF, "name": "shop", "region": "eu-west-1", "status": status,
                "organization_id": "o", "created_at": "2026-01-01T00:00:00Z",
                "database": {"host": f"db.{REF}.supabase.co", "version": "17.6.1.132",
                             "postgres_engine": "17", "release_channel": "ga"}}  # fmt: skip

    def _backups(self) -> dict[str, Any]:
        physical = {"earliest_physical_backup_date_unix": self.earliest,
                    "latest_physical_backup_date_unix": self.latest}  # fmt: skip
        return {"region": "eu-west-1", "walg_enabled": True, "pitr_enabled": self.pitr,
                "backups": self.backups,
                "physical_backup_data": {k: v for k, v in physical.items() if v}}  # fmt: skip

    def _restore(self) -> tuple[int, object]:
        self.on_restore()
        self.restoring = 2
        return 201, None


@contextmanager
def supabase_api() -> Iterator[Api]:
    """A running one."""
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            api.requests.append((self.command, self.path, body))
            headers: dict[str, str] = {}
            if api.answers:
                status, headers, document = api.answers.pop(0)
            else:
                token = self.headers.get("Authorization", "")
                status, document = api.answer(self.command, self.path, token, body)
            data = b"" if document is None else json.dumps(document).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
