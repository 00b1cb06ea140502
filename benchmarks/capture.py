"""What capture costs a busy source, how much would be lost, and what one huge transaction takes."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import psycopg
from rich.console import Console

from benchmarks.commands import Command, init_pgkeep, pgkeep, surroundings
from benchmarks.grids import Grid
from benchmarks.measure import measure, postmaster_pid
from pgkeep.postgres.server import ScratchServer

SECONDS = 20
CLIENTS = 4
HUGE_ROWS = 5_000_000
_DATABASE, _VARIABLE = "busy", "BENCH_BUSY_URL"
_TICKS = os.sysconf("SC_CLK_TCK")
_MEBI = 1 << 20


@dataclass(slots=True)
class Load:
    """One run of pgbench."""

    transactions_per_second: float = 0
    capture_cpu_share: float = 0
    windows_seconds: list[float] = field(default_factory=list)
    """The server's clock less `covered` of the newest segment, looked at twice a second."""


class CaptureCost:
    """pgbench -N with and without capture, in turn; then one transaction of many rows."""

    def __init__(self, server: ScratchServer, folder: Path, console: Console, runs: int) -> None:
        self._server = server
        self._url = server.url(_DATABASE)
        self._folder = folder / "capture"
        self._console = console
        self._runs = runs
        self._environment = surroundings(**{_VARIABLE: self._url})

    def grids(self, *, scale: float) -> list[Grid]:
        self._folder.mkdir()
        self._server.create_database(_DATABASE)
        self._pgbench("-i", "-q", "-s", "20")
        with psycopg.connect(self._url) as connection:  # without a key capture would warn
            connection.execute("ALTER TABLE pgbench_history REPLICA IDENTITY FULL")
        measure(init_pgkeep(self._folder, _DATABASE, _VARIABLE), environment=self._environment,
                postmaster=self._postmaster)  # fmt: skip
        with (self._folder / "pgkeep.toml").open("a") as config:
            config.write("\n[capture]\nbackups = false\n")
        pairs = []
        for number in range(self._runs):
            without = self._load()
            with self._capturing() as process:
                pairs.append((without, self._load(process.pid)))
            measure(self._capture("--remove", "--yes"), environment=self._environment,
                    postmaster=self._postmaster)  # fmt: skip
            self._console.print(f"[dim]capture, pair {number + 1} of {self._runs}[/]")
        return [_loads(pairs), self._huge(int(HUGE_ROWS * scale))]

    @property
    def _postmaster(self) -> int:
        return postmaster_pid(self._server.directory / "data")

    def _capture(self, *options: str) -> Command:
        return [*pgkeep(), "capture", _DATABASE, *options,
                "--config", self._folder / "pgkeep.toml"]  # fmt: skip

    @contextmanager
    def _capturing(self) -> Iterator[subprocess.Popen[bytes]]:
        before = len(self._segments())
        process = subprocess.Popen(self._capture("--quiet"), env=self._environment)
        try:
            while len(self._segments()) == before:
                assert process.poll() is None, "capture has ended"
                time.sleep(0.1)
            yield process
        finally:
            process.terminate()
            process.wait()

    def _load(self, captured_by: int | None = None) -> Load:
        load, ended = Load(), threading.Event()
        watching = threading.Thread(target=self._watch, args=(load, ended))
        cpu, begun = _cpu_seconds(captured_by), time.monotonic()
        if captured_by is not None:
            watching.start()
        out = self._pgbench("-n", "-N", f"-c{CLIENTS}", "-j2", f"-T{SECONDS}")
        if captured_by is not None:
            ended.set()
            watching.join()
        load.capture_cpu_share = (_cpu_seconds(captured_by) - cpu) / (time.monotonic() - begun)
        found = re.search(r"tps = ([\d.]+)", out)
        assert found, out
        load.transactions_per_second = float(found[1])
        return load

    def _watch(self, load: Load, ended: threading.Event) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not ended.wait(0.5):
                newest = max(self._segments(), key=lambda path: path.name)
                with newest.open("rb") as file:
                    file.readline()
                    covered = datetime.fromisoformat(json.loads(file.readline())["covered"])
                row = connection.execute("SELECT clock_timestamp()").fetchone()
                assert row
                load.windows_seconds.append((row[0] - covered).total_seconds())

    def _segments(self) -> list[Path]:
        chains = list((self._folder / "repository" / _DATABASE / "journal").glob("*"))
        newest = max(chains, key=lambda chain: chain.stat().st_mtime, default=None)
        return [] if newest is None else list(newest.iterdir())

    def _pgbench(self, *arguments: str) -> str:
        command = [self._server.programs.bin_dir / "pgbench", *arguments, self._url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout

    def _huge(self, rows: int) -> Grid:
        once = self._capture("--once", "--json")
        measure(once, environment=self._environment, postmaster=self._postmaster)
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("CREATE TABLE huge (id bigint PRIMARY KEY, note text)")
            measure(once, environment=self._environment, postmaster=self._postmaster)
            connection.execute(
                "INSERT INTO huge SELECT n, md5(n::text) FROM generate_series(1, %s) n", (rows,)
            )
        run = measure(
            once, environment=self._environment, postmaster=self._postmaster, sample_memory=True
        )
        with suppress(ValueError):
            assert json.loads(run.output)["changes"] >= rows
        return Grid(
            f"capture of one transaction of {rows:,} rows",
            ("", "seconds", "peak MiB", "client CPU s", "server CPU s"),
            (("pgkeep capture --once", f"{run.seconds:.1f}", f"{run.peak_bytes / _MEBI:.0f}",
              f"{run.client_cpu_seconds:.1f}", f"{run.server_cpu_seconds:.1f}"),),
            numbers=({"rows": rows, "seconds": run.seconds, "peak_bytes": run.peak_bytes},),
        )  # fmt: skip


def _cpu_seconds(pid: int | None) -> float:
    if pid is None:
        return 0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _loads(pairs: Sequence[tuple[Load, Load]]) -> Grid:
    ratios = [
        captured.transactions_per_second / without.transactions_per_second
        for without, captured in pairs
    ]
    rows = [
        (
            f"pair {number}",
            f"{without.transactions_per_second:,.0f}",
            f"{captured.transactions_per_second:,.0f}",
            f"{captured.transactions_per_second / without.transactions_per_second:.3f}",
            f"{statistics.median(captured.windows_seconds):.1f}",
            f"{max(captured.windows_seconds):.1f}",
            f"{captured.capture_cpu_share:.0%}",
        )
        for number, (without, captured) in enumerate(pairs, 1)
    ]
    return Grid(
        f"pgbench -N, {CLIENTS} clients, {SECONDS} s, without and with capture",
        ("", "without, tps", "with, tps", "ratio", "loss window s, median", "max", "capture CPU"),
        tuple(rows),
        (f"median ratio {statistics.median(ratios):.3f}; everything shares one machine",),
        [{"without": asdict(without), "with": asdict(captured)} for without, captured in pairs],
    )
