"""How fast the journal is replayed into a local server: rows a second, by what was changed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from rich.console import Console

from benchmarks.commands import Command, init_pgkeep, pgkeep, surroundings
from benchmarks.grids import Grid
from benchmarks.measure import measure, postmaster_pid
from pgkeep.postgres.server import ScratchServer

CHANGES = 300_000
_DATABASE, _TARGET, _VARIABLE = "replayed", "replay_target", "BENCH_REPLAY_URL"

# Ten changes in a transaction, as an application makes them; each statement changes one row.
WORKLOADS = {
    "inserts": "INSERT INTO items (id, a, v) VALUES (10000000 + i, i, md5(i::text))",
    "updates": "UPDATE items SET a = a + 1 WHERE id = 1 + (i::bigint * 7919) % {rows}",
    "updates of a long row": "UPDATE items SET v = repeat(md5(i::text), 8)"
    " WHERE id = 1 + (i::bigint * 7919) % {rows}",
    "deletes": "DELETE FROM items WHERE id = i",
    "in turn": "IF i % 3 = 0 THEN INSERT INTO items (id, a, v) VALUES (10000000 + i, i, 'new');"
    " ELSIF i % 3 = 1 THEN UPDATE items SET a = -a WHERE id = 1 + (i::bigint * 7919) % {rows};"
    " ELSE DELETE FROM items WHERE id = i; END IF",
    "without a key (REPLICA IDENTITY FULL)": "UPDATE whole SET a = a + 1"
    " WHERE id = 1 + (i::bigint * 7919) % {rows}",
}


@dataclass(frozen=True, slots=True)
class Replayed:
    """One replay. The survey that comes before it reads all of the journal once."""

    changes: int
    seconds: float
    whole_seconds: float
    """Of the whole restore, its backup and proof included."""


class ReplaySpeed:
    """For each workload a database, a backup, the changes, and a restore to the journal's end."""

    def __init__(self, server: ScratchServer, folder: Path, console: Console, runs: int) -> None:
        self._server = server
        self._folder = folder / "replay"
        self._console = console
        self._runs = runs
        self._environment = surroundings(**{_VARIABLE: server.url(_DATABASE)})

    def grid(self, *, scale: float) -> Grid:
        changes = max(int(CHANGES * scale), 100)
        found = {name: self._workload(name, changes) for name in WORKLOADS}
        rows = [
            (name, f"{runs[0].changes:,}", _per_second(runs), f"{_median(runs).seconds:.1f}",
             f"{_median(runs).whole_seconds:.1f}")
            for name, runs in found.items()
        ]  # fmt: skip
        return Grid(
            "replay into a local server, ten changes in a transaction",
            ("", "changes", "changes/s", "replay s", "whole restore s"),
            tuple(rows),
            ("the median of the runs; whole: with backup, proof, and the survey of the journal",),
            [{"workload": name, "runs": [one.seconds for one in runs]}
             for name, runs in found.items()],
        )  # fmt: skip

    def _workload(self, name: str, changes: int) -> list[Replayed]:
        folder = self._folder / name.partition(" (")[0].replace(" ", "-")
        folder.mkdir(parents=True)
        self._server.drop_database(_DATABASE)
        self._server.create_database(_DATABASE)
        self._run(init_pgkeep(folder, _DATABASE, _VARIABLE))
        with (folder / "pgkeep.toml").open("a") as config:
            config.write("\n[capture]\nbackups = false\n")
        self._prepare(name, changes)
        self._run(self._pgkeep(folder, "capture", "--once", "--yes"))
        self._run(self._pgkeep(folder, "backup"))
        with psycopg.connect(self._server.url(_DATABASE), autocommit=True) as connection:
            connection.execute("SET synchronous_commit = on")
            connection.execute("CALL work(%s)", (changes,))
        self._run(self._pgkeep(folder, "capture", "--once"))
        runs = [self._restore(folder) for _ in range(self._runs)]
        self._run(self._pgkeep(folder, "capture", "--remove", "--yes"))
        self._console.print(f"[dim]replay of {name}: {_per_second(runs)} changes/s[/]")
        return runs

    def _prepare(self, name: str, changes: int) -> None:
        statement = WORKLOADS[name].format(rows=changes)
        with psycopg.connect(self._server.url(_DATABASE), autocommit=True) as connection:
            for table in ("items", "whole"):
                key = "PRIMARY KEY" if table == "items" else ""
                connection.execute(
                    f"CREATE TABLE {table} (id bigint {key}, a int, v text)".encode()
                )
                connection.execute(
                    f"INSERT INTO {table} SELECT n, n, md5(n::text)"
                    f" FROM generate_series(1, {changes}) n".encode()
                )
            connection.execute("CREATE INDEX ON whole (id)")
            connection.execute("ALTER TABLE whole REPLICA IDENTITY FULL")
            connection.execute(
                "CREATE PROCEDURE work(n int) LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..n LOOP"
                f" {statement}; IF i % 10 = 0 THEN COMMIT; END IF; END LOOP; END $$".encode()
            )

    def _restore(self, folder: Path) -> Replayed:
        self._server.drop_database(_TARGET)
        self._server.create_database(_TARGET)
        command = self._pgkeep(folder, "restore", "--to-last-reachable", "--json",
                               "--target", self._server.url(_TARGET))  # fmt: skip
        environment = {
            **self._environment, "PGKEEP_IDENTITY": str(folder / "pgkeep-identity.txt")
        }  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode in (0, 3), done.stderr
        document = json.loads(done.stdout)
        events = [json.loads(line) for line in done.stderr.splitlines() if line[:1] == "{"]
        (seconds,) = [one["seconds"] for one in events
                      if (one["event"], one.get("stage")) == ("ended", "replaying")]  # fmt: skip
        return Replayed(document["replayed"]["changes"], seconds, document["seconds"])

    def _pgkeep(self, folder: Path, command: str, *options: str) -> Command:
        return [*pgkeep(), command, _DATABASE, *options, "--config", folder / "pgkeep.toml"]

    def _run(self, command: Sequence[str | Path]) -> None:
        measure(command, environment=self._environment, postmaster=self._postmaster)

    @property
    def _postmaster(self) -> int:
        return postmaster_pid(self._server.directory / "data")


def _median(runs: Sequence[Replayed]) -> Replayed:
    return sorted(runs, key=lambda one: one.seconds)[len(runs) // 2]


def _per_second(runs: Sequence[Replayed]) -> str:
    middle = _median(runs)
    return f"{middle.changes / max(middle.seconds, 0.001):,.0f}"
