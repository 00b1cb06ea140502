"""Object stores on the loopback: what our PUTs cost beside those of the SDK alone.

As a module it is one contestant: `python -m benchmarks.object_stores pgkeep ENDPOINT BUCKET N`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import boto3
from rich.console import Console

from benchmarks.commands import remove, surroundings
from benchmarks.measure import Measured, measure
from pgkeep.stores import StoreSettings, open_store

CONTESTANTS = ("pgkeep", "boto3")
_ACCESS_KEY, _SECRET_KEY = "bench", "bench-secret"
_BUCKET = "bench"
OBJECT_BYTES = 32 << 20
_DIFFERENT = 4
_THREADS = 3
_START_SECONDS = 20


@dataclass(frozen=True, slots=True)
class ObjectServer:
    """`rclone serve s3` over a folder, with one bucket."""

    endpoint: str
    pid: int
    folder: Path

    def repository(self, name: str, *more: str) -> str:
        """The configuration of a repository here."""
        lines = (
            f"[repositories.{name}]", f'url = "s3://{_BUCKET}/{name}"',
            f'endpoint = "{self.endpoint}"', 'region = "us-east-1"',
            f'access_key_id = "{_ACCESS_KEY}"', f'secret_access_key = "{_SECRET_KEY}"', *more,
        )  # fmt: skip
        return "\n".join(("", *lines, ""))


@contextmanager
def object_server() -> Iterator[ObjectServer]:
    """A server of S3 until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="pgkeep-bench-s3-"))
    (folder / _BUCKET).mkdir()
    program = Path(sysconfig.get_path("scripts")) / "rclone"
    process = subprocess.Popen(
        [program, "serve", "s3", folder, "--addr", f"127.0.0.1:{port}",
         "--auth-key", f"{_ACCESS_KEY},{_SECRET_KEY}", "--config", folder / ".conf"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(port)
        yield ObjectServer(f"http://127.0.0.1:{port}", process.pid, folder)
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


# --- side by side -----------------------------------------------------------------------------


def compete(
    console: Console, *, objects: int, runs: int, warm_ups: int
) -> list[tuple[str, list[Measured]]]:
    """All runs of each contestant, in turn; the time is that of the PUTs alone."""
    found: list[tuple[str, list[Measured]]] = [(name, []) for name in CONTESTANTS]
    with object_server() as server:
        for number in range(-warm_ups, runs):
            for name, measured in found:
                run = _run_once(server, name, objects)
                console.print(f"[dim]s3, run {number + 1} of {runs}: {name} {run.seconds:.2f} s[/]")
                if number >= 0:
                    measured.append(run)
    return found


def _run_once(server: ObjectServer, name: str, objects: int) -> Measured:
    remove(server.folder / _BUCKET)
    (server.folder / _BUCKET).mkdir()
    command: Sequence[str | Path] = [
        sys.executable, "-m", "benchmarks.object_stores", name, server.endpoint, str(objects),
    ]  # fmt: skip
    run = measure(command, environment=surroundings(), postmaster=server.pid)
    told = json.loads(run.output)
    return replace(run, seconds=told["seconds"], client_cpu_seconds=told["cpu_seconds"])


# --- a contestant -----------------------------------------------------------------------------


def main() -> int:
    """PUT many objects, and say how long that took."""
    name, endpoint, count = sys.argv[1:]
    bodies = [os.urandom(OBJECT_BYTES) for _ in range(_DIFFERENT)]
    names = [sha256(body).hexdigest() for body in bodies]
    put = _put_of_pgkeep(endpoint) if name == "pgkeep" else _put_of_boto3(endpoint)

    def put_one(number: int) -> None:
        digest = names[number % _DIFFERENT]
        put(f"objects/{digest[:2]}/{digest}", bodies[number % _DIFFERENT])

    began, cpu = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(_THREADS) as executor:
        for _ in executor.map(put_one, range(int(count))):
            pass
    taken = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
    sys.stdout.write(json.dumps(taken))
    return 0


def _put_of_pgkeep(endpoint: str) -> Callable[[str, bytes], object]:
    settings = StoreSettings(
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=_ACCESS_KEY,
        secret_access_key=_SECRET_KEY,
    )
    store = open_store(f"s3://{_BUCKET}/pgkeep", settings)
    return store.put


def _put_of_boto3(endpoint: str) -> Callable[[str, bytes], object]:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=_ACCESS_KEY,
        aws_secret_access_key=_SECRET_KEY,
    )
    return lambda name, body: client.put_object(Bucket=_BUCKET, Key=f"boto3/{name}", Body=body)


if __name__ == "__main__":
    sys.exit(main())
