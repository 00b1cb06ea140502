"""Supabase Storage on loopback: REST and S3, answered from rows of the project's own database.

As the real one does it: an overwrite makes a new version and removes the old bytes; bytes lie under
their version; what the row says is what listings and HEAD say.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import psycopg

from supabase_server import ProjectServer

KEY = "sb_secret_0123456789abcdef"
_REST = re.compile(r"/storage/v1/object/(?:authenticated/)?([^/]+)/(.+)")
_S3 = re.compile(r"/storage/v1/s3/([^/]+)/(.+)")


@dataclass
class Storage:
    """The storage of one project, and what shall go wrong with it."""

    project: ProjectServer
    url: str = ""
    bytes_of: dict[str, bytes] = field(default_factory=dict)
    """By version."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, Range)."""
    cut_after: int | None = None
    """Close the next answer after so many bytes."""
    answers: list[int] = field(default_factory=list)
    """Codes to answer before anything else."""
    file_size_limit: int | None = None

    def put(self, bucket: str, name: str, data: bytes, mime: str = "image/png") -> None:
        """As the service does: the row and the bytes, the old ones gone."""
        version, etag = str(uuid.uuid4()), f'"{md5(data, usedforsecurity=False).hexdigest()}"'
        metadata = {"eTag": etag, "size": len(data), "mimetype": mime,
                    "cacheControl": "max-age=3600", "contentLength": len(data)}  # fmt: skip
        with psycopg.connect(self.project.admins_url, autocommit=True) as connection:
            row = connection.execute(
                "SELECT version FROM storage.objects WHERE bucket_id = %s AND name = %s",
                (bucket, name),
            ).fetchone()
            connection.execute(
                "INSERT INTO storage.objects (bucket_id, name, version, metadata)"
                " VALUES (%s, %s, %s, %s) ON CONFLICT (bucket_id, name)"
                " DO UPDATE SET version = excluded.version, metadata = excluded.metadata",
                (bucket, name, version, json.dumps(metadata)),
            )
        if row is not None:
            self.bytes_of.pop(row[0], None)
        self.bytes_of[version] = data

    def find(self, bucket: str, name: str) -> tuple[bytes, str, str] | None:
        """Bytes, ETag and type, by the row."""
        with psycopg.connect(self.project.admins_url) as connection:
            row = connection.execute(
                "SELECT version, metadata ->> 'eTag', metadata ->> 'mimetype'"
                "  FROM storage.objects WHERE bucket_id = %s AND name = %s",
                (bucket, name),
            ).fetchone()
        data = self.bytes_of.get(row[0]) if row else None
        return None if data is None or row is None else (data, row[1], row[2])

    def has_bucket(self, bucket: str) -> bool:
        query = f"SELECT count(*) FROM storage.buckets WHERE id = '{bucket}'"
        return self.project.value(query) == 1


@contextmanager
def supabase_storage(project: ProjectServer) -> Iterator[Storage]:
    """A running one, over the rows of a project."""
    storage = Storage(project)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _where(self) -> tuple[str, str, bool] | None:
            path = urlsplit(self.path).path
            for pattern, is_s3 in ((_S3, True), (_REST, False)):
                if found := pattern.fullmatch(path):
                    return unquote(found[1]), unquote(found[2]), is_s3
            return None

        def _answer(self, code: int, data: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if storage.cut_after is not None and len(data) > storage.cut_after:
                self.wfile.write(data[: storage.cut_after])
                storage.cut_after, self.close_connection = None, True
            else:
                self.wfile.write(data)

        def _refused(self) -> bool:
            storage.requests.append((self.command, self.path, self.headers.get("Range") or ""))
            if storage.answers:
                self._answer(storage.answers.pop(0), b'{"message": "not now"}')
                return True
            where = self._where()
            bearer = self.headers.get("Authorization") == f"Bearer {KEY}"
            if where is None or not (where[2] or bearer):
                self._answer(403, b'{"statusCode": "403", "error": "Unauthorized"}')
                return True
            return False

        def do_GET(self) -> None:
            if self._refused():
                return
            where = self._where()
            assert where is not None
            found = storage.find(where[0], where[1])
            if found is None:
                if where[2]:
                    body = b"<Error><Code>NoSuchKey</Code><Message>not found</Message></Error>"
                    self._answer(404, body)
                else:
                    self._answer(400, b'{"statusCode": "404", "error": "not_found"}')
                return
            data, etag, mime = found
            if (wanted := self.headers.get("If-Match")) and wanted != etag:
                self._answer(412, b'{"error": "PreconditionFailed"}')
                return
            start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            rest = data[int(start[1]) :] if start else data
            self._answer(206 if start else 200, rest, ETag=etag, Content_Type=mime)

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self._refused():
                return
            where = self._where()
            assert where is not None
            if not storage.has_bucket(where[0]):
                self._answer(400, b'{"statusCode": "404", "error": "Bucket not found"}')
            elif storage.file_size_limit is not None and len(data) > storage.file_size_limit:
                self._answer(413, b'{"statusCode": "413", "error": "Payload too large"}')
            else:
                mime = self.headers.get("Content-Type") or ""
                storage.put(where[0], where[1], data, mime)
                self._answer(200, b'{"Key": "x"}')

        do_PUT = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    storage.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield storage
    finally:
        server.shutdown()
        server.server_close()
