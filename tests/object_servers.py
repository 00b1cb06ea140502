"""Object storage on the loopback: rclone and moto for S3, an emulator for Google Cloud Storage."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from pgkeep.stores import StoreSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ACCESS_KEY = "test-access-key"
SECRET_KEY = "Secret-of-the-object-store-0123456789"

# Each client of the SDK parses a megabyte of descriptions anew; a test makes several clients.
botocore.session.create_loader = cache(botocore.session.create_loader)

_NUMBERS = itertools.count(1)
_START_SECONDS = 60


@dataclass(frozen=True)
class S3Server:
    """A running server that speaks S3."""

    endpoint: str
    folder: Path | None = None
    """Where the objects are files, a folder for each bucket."""

    @cached_property
    def client(self) -> S3Client:
        """The SDK as it is, for what the tests do behind the store's back."""
        return boto3.session.Session(ACCESS_KEY, SECRET_KEY).client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )

    def new_bucket(self, *, object_lock: bool = False) -> str:
        """An empty bucket of a new name."""
        name = f"bucket-{next(_NUMBERS)}"
        self.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=object_lock)
        return name

    def settings(
        self,
        *,
        endpoint: str | None = None,
        secret: str = SECRET_KEY,
        timeout_seconds: float = 30,
        lock_folder: Path | None = None,
    ) -> StoreSettings:
        """How to reach this server, or a proxy before it."""
        return StoreSettings(
            endpoint=endpoint or self.endpoint,
            access_key_id=ACCESS_KEY,
            secret_access_key=secret,
            timeout_seconds=timeout_seconds,
            lock_folder=lock_folder,
        )


@dataclass(frozen=True)
class GcsServer:
    """A running emulator of Google Cloud Storage, and of the place where tokens come from."""

    endpoint: str
    token_uri: str

    def new_bucket(self) -> str:
        """An empty bucket of a new name."""
        name = f"bucket-{next(_NUMBERS)}"
        self.client.create_bucket(name)
        return name

    def service_account(self, folder: Path) -> Path:
        """A service account's key, good for this server."""
        path = folder / "service-account.json"
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        document = {
            "type": "service_account",
            "client_email": "backup@test.example",
            "private_key": pem.decode(),
            "private_key_id": "1",
            "token_uri": self.token_uri,
        }
        path.write_text(json.dumps(document))
        return path

    @cached_property
    def client(self) -> Any:
        """The SDK as it is, for what the tests do behind the store's back."""
        return storage.Client(
            project="test",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": self.endpoint},
        )


@contextmanager
def rclone_server() -> Iterator[S3Server]:
    """`rclone serve s3` over a folder; it checks signatures and Content-MD5."""
    folder = Path(tempfile.mkdtemp(prefix="pgkeep-rclone-"))
    port = free_port()
    command = [
        _program("rclone"), "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}",
        "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--config", str(folder / ".conf"),
    ]  # fmt: skip
    try:
        with _running(command, port):
            yield S3Server(f"http://127.0.0.1:{port}", folder)
    finally:
        shutil.rmtree(folder)


@contextmanager
def moto_server() -> Iterator[S3Server]:
    """moto: it has versions, object lock, lifecycle rules and policies."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port):
        yield S3Server(f"http://127.0.0.1:{port}")


@dataclass(frozen=True)
class EnforcingS3Server(S3Server):
    """One that lets each user do only what their policy allows."""

    admin: tuple[str, str] = ("", "")

    @cached_property
    def client(self) -> S3Client:
        return boto3.session.Session(*self.admin).client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip

    def new_user(self, policy: dict[str, Any]) -> tuple[str, str]:
        """A user with this policy alone; their key and its secret."""
        iam = boto3.session.Session(*self.admin).client(
            "iam", endpoint_url=self.endpoint, region_name="us-east-1"
        )
        return _new_user(iam, policy)


def _new_user(iam: Any, policy: dict[str, Any]) -> tuple[str, str]:
    name = f"user-{next(_NUMBERS)}"
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="only", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


@contextmanager
def enforcing_moto_server() -> Iterator[EnforcingS3Server]:
    """moto that enforces policies. It evaluates no conditions but refuses what has one."""
    with moto_server() as server:
        iam = boto3.session.Session(ACCESS_KEY, SECRET_KEY).client(
            "iam", endpoint_url=server.endpoint, region_name="us-east-1"
        )
        statement = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        admin = _new_user(iam, {"Version": "2012-10-17", "Statement": statement})
        reset = urllib.request.Request(
            f"{server.endpoint}/moto-api/reset-auth",
            data=b"0",
            method="POST",
            headers={"Content-Type": "text/plain"},
        )
        with urllib.request.urlopen(reset) as answer:
            assert answer.status == 200
        yield EnforcingS3Server(server.endpoint, admin=admin)


@contextmanager
def gcs_server() -> Iterator[GcsServer]:
    """An emulator that checks the MD5 of what is uploaded."""
    port = free_port()
    command = [
        sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1",
        "--port", str(port), "--in-memory", "--quiet",
    ]  # fmt: skip
    with _running(command, port), _token_server() as token_uri:
        yield GcsServer(f"http://127.0.0.1:{port}", token_uri)


@contextmanager
def _token_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Tokens)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/token"
    server.shutdown()
    thread.join()
    server.server_close()


class _Tokens(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}')

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    """A server as a process of its own, from when it answers until the block ends."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment()
        )

        def story() -> str:
            log.seek(0)
            return f"{command}: {log.read().decode(errors='replace')[-2000:]}"

        try:
            _wait_for(port, lambda: process.poll() is None, story)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment() -> dict[str, str]:
    """Without what would send a server or its SDK elsewhere."""
    odd = ("AWS_", "RCLONE_", "STORAGE_EMULATOR", "GOOGLE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(odd)}


def _wait_for(port: int, alive: Callable[[], bool], story: Callable[[], str]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            assert alive(), story()
            assert time.monotonic() < deadline, story()
            time.sleep(0.05)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _program(name: str) -> str:
    """A program that a package of the tests has brought along."""
    return str(Path(sysconfig.get_path("scripts")) / name)
