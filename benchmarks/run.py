"""`make bench`: pgkeep beside pg_dump and pg_restore, a table of medians and ratios."""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import datasets, grids, machine, object_stores
from benchmarks.arguments import CONTESTS, parse
from benchmarks.capture import CaptureCost
from benchmarks.changes import ChangeOptions, Changes
from benchmarks.commands import (
    dump_directory,
    init_pgkeep,
    pgkeep,
    remove,
    size_bytes,
    surroundings,
)
from benchmarks.datasets import ALL, BIG_TABLE, Built
from benchmarks.grids import Grid
from benchmarks.measure import CommandFailed, Measured, measure, postmaster_pid
from benchmarks.object_stores import object_server
from benchmarks.replay import ReplaySpeed
from benchmarks.thirty_days import ThirtyDays
from pgkeep.postgres.programs import choose_server
from pgkeep.postgres.server import ScratchServer

_S3_OBJECTS = 32
_DAYS_PART_PAGES = (None, 4096)
_MAJOR = 17
_TARGET = "bench_target"
_MEBI = 1 << 20


# --- what is measured -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contestant:
    """A command with its name; `stored` is what it writes, removed before each run.

    `begin` makes what the command needs that was removed, unmeasured.
    """

    name: str
    command: Sequence[str | Path]
    stored: Path | None = None
    restores: bool = False
    begin: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Result:
    """All runs of one contestant in one section."""

    name: str
    runs: list[Measured] = field(default_factory=list)
    stored_bytes: int = 0

    @property
    def seconds(self) -> float:
        return statistics.median(run.seconds for run in self.runs)

    @property
    def client_cpu_seconds(self) -> float:
        return statistics.median(run.client_cpu_seconds for run in self.runs)

    @property
    def server_cpu_seconds(self) -> float:
        return statistics.median(run.server_cpu_seconds for run in self.runs)

    @property
    def peak_bytes(self) -> int:
        return max(run.peak_bytes for run in self.runs)


@dataclass(frozen=True, slots=True)
class Section:
    """Contestants side by side; the first is pgkeep, the one that the others are compared with."""

    title: str
    results: tuple[Result, ...]

    def ratios(self, other: Result) -> list[float]:
        """pgkeep's time over the other's, pair by pair: below 1, pgkeep is faster."""
        pairs = zip(self.results[0].runs, other.runs, strict=True)
        return [ours.seconds / theirs.seconds for ours, theirs in pairs]


@dataclass(frozen=True, slots=True)
class Options:
    runs: int
    warm_ups: int
    jobs: int
    pgkeep_options: tuple[str, ...]


class Bench:
    """The commands, with a folder for what they write."""

    def __init__(self, built: Built, folder: Path, options: Options, console: Console) -> None:
        self._built = built
        self._folder = folder
        self._options = options
        self._console = console
        self._programs = built.server.programs
        self._postmaster = postmaster_pid(built.server.directory / "data")
        self._environment = surroundings(
            BENCH_URL=built.url(ALL),
            BENCH_BIG_TABLE_URL=built.url(BIG_TABLE),
            PGKEEP_IDENTITY=str(folder / ALL / "pgkeep-identity.txt"),
        )
        for name, variable in ((ALL, "BENCH_URL"), (BIG_TABLE, "BENCH_BIG_TABLE_URL")):
            self._init(name, variable)

    def backup(self) -> Section:
        contestants = [self._pgkeep_backup(ALL), self._directory_dump(ALL), self._gzip_dump()]
        return self._compete("full backup", contestants)

    def big_table(self) -> Section:
        contestants = [self._pgkeep_backup(BIG_TABLE), self._directory_dump(BIG_TABLE)]
        return self._compete("one big table", contestants)

    def restore(self) -> Section:
        self._prepare_restores()
        return self._compete("restore", [*self._restores(), self._unproven_restore()])

    def memory(self) -> list[Section]:
        """Runs of their own, since looking at memory takes time too."""
        self._prepare_restores()
        backups = [self._pgkeep_backup(ALL), self._directory_dump(ALL), self._gzip_dump()]
        return [
            self._compete("memory of a backup", backups, sample_memory=True),
            self._compete("memory of a restore", self._restores(), sample_memory=True),
            self._memory_of_three(),
        ]

    def _memory_of_three(self) -> Section:
        """A repository here, one in an object store, and one that is slow."""
        place = self._folder / "three"
        place.mkdir()
        self._measure(init_pgkeep(place, ALL, "BENCH_URL"))
        config = place / "pgkeep.toml"
        with object_server() as server, config.open("a") as file:
            file.write(server.repository("far"))
            file.write(server.repository("slow", 'upload_limit = "5MB"'))
            file.flush()
            command = [*pgkeep(), "backup", ALL, "--json", *self._options.pgkeep_options,
                       "--config", config]  # fmt: skip
            backup = Contestant("pgkeep backup, one slow", command, place / "repository")
            title = "memory of a backup into three repositories"
            return self._compete(title, [backup], sample_memory=True)

    # --- commands ---------------------------------------------------------------------------------

    def _init(self, name: str, variable: str) -> None:
        (self._folder / name).mkdir()
        self._measure(init_pgkeep(self._folder / name, ALL, variable))

    def _repository(self, database: str) -> Path:
        return self._folder / database / "repository"

    def _pgkeep_backup(self, database: str) -> Contestant:
        command = [*pgkeep(), "backup", ALL, "--json", *self._options.pgkeep_options,
                   "--config", self._folder / database / "pgkeep.toml"]  # fmt: skip
        variable = "BENCH_URL" if database == ALL else "BENCH_BIG_TABLE_URL"

        def begin() -> None:
            # A repository that vanishes is missed: so the whole place is new.
            remove(self._folder / database)
            self._init(database, variable)

        return Contestant("pgkeep backup", command, self._repository(database), begin=begin)

    def _pgkeep_restore_arguments(self) -> list[str | Path]:
        return ["restore", ALL, "--json", "--target", self._built.url(_TARGET),
                "--config", self._folder / ALL / "pgkeep.toml",
                *self._options.pgkeep_options]  # fmt: skip

    def _directory_dump(self, database: str) -> Contestant:
        stored = self._folder / f"{database}.dump"
        jobs = self._options.jobs
        command = dump_directory(self._programs, self._built.url(database), stored, jobs)
        return Contestant(f"pg_dump -Fd -j{jobs} zstd:3", command, stored)

    def _gzip_dump(self) -> Contestant:
        stored = self._folder / "dump.sql.gz"
        script = 'set -e; "$1" --dbname="$2" | gzip > "$3"'
        command: list[str | Path] = ["/bin/sh", "-c", script, "sh", self._programs.path("pg_dump"),
                   self._built.url(ALL), stored]  # fmt: skip
        return Contestant("pg_dump | gzip", command, stored)

    def _restores(self) -> list[Contestant]:
        target, jobs = self._built.url(_TARGET), self._options.jobs
        directory: list[str | Path] = [
            self._programs.path("pg_restore"),
            f"-j{jobs}",
            f"--dbname={target}",
            "--exit-on-error",
            self._folder / f"{ALL}.dump",
        ]
        plain: list[str | Path] = [
            "/bin/sh",
            "-c",
            '"$1" -q -X -v ON_ERROR_STOP=1 -o /dev/null "$2" < "$3"',
            "sh",
            self._programs.path("psql"),
            target,
            self._folder / "dump.sql",
        ]
        return [
            Contestant(
                "pgkeep restore", [*pgkeep(), *self._pgkeep_restore_arguments()], restores=True
            ),
            Contestant(f"pg_restore -j{jobs}", directory, restores=True),
            Contestant("psql < dump.sql", plain, restores=True),
        ]

    def _unproven_restore(self) -> Contestant:
        command = [sys.executable, "-m", "benchmarks.unproven", *self._pgkeep_restore_arguments()]
        return Contestant("pgkeep, proof taken out", command, restores=True)

    def _prepare_restores(self) -> None:
        for contestant in (self._pgkeep_backup(ALL), self._directory_dump(ALL)):
            assert contestant.stored is not None
            if not contestant.stored.exists():
                self._measure(contestant.command)
        plain = self._folder / "dump.sql"
        if not plain.exists():
            url = self._built.url(ALL)
            self._measure([self._programs.path("pg_dump"), f"--file={plain}", f"--dbname={url}"])

    # --- running ----------------------------------------------------------------------------------

    def _compete(
        self, title: str, contestants: Sequence[Contestant], *, sample_memory: bool = False
    ) -> Section:
        results = tuple(Result(contestant.name) for contestant in contestants)
        runs = 1 if sample_memory else self._options.runs
        warm_ups = 0 if sample_memory else self._options.warm_ups
        for number in range(-warm_ups, runs):
            for contestant, result in zip(contestants, results, strict=True):
                run = self._run_once(contestant, sample_memory=sample_memory)
                what = "warm-up" if number < 0 else f"run {number + 1} of {runs}"
                self._console.print(
                    f"[dim]{title}, {what}: {contestant.name} {run.seconds:.2f} s[/]"
                )
                if number >= 0:
                    result.runs.append(run)
                    result.stored_bytes = size_bytes(contestant.stored) if contestant.stored else 0
        return Section(title, results)

    def _run_once(self, contestant: Contestant, *, sample_memory: bool) -> Measured:
        if contestant.stored is not None:
            remove(contestant.stored)
        contestant.begin()
        if not contestant.restores:
            self._built.settle()
            return self._measure(contestant.command, sample_memory=sample_memory)
        with self._built.empty_database(_TARGET):
            self._built.settle()
            run = self._measure(contestant.command, sample_memory=sample_memory)
            if contestant.name == "pgkeep restore" and not json.loads(run.output)["proven"]:
                raise CommandFailed("pgkeep restore did not prove what it restored")
            return run

    def _measure(self, command: Sequence[str | Path], *, sample_memory: bool = False) -> Measured:
        return measure(
            command,
            environment=self._environment,
            postmaster=self._postmaster,
            sample_memory=sample_memory,
        )


# --- telling --------------------------------------------------------------------------------------

_COLUMNS = ("", "seconds", "pgkeep takes", "client CPU s", "server CPU s", "stored MiB", "peak MiB")


def _rows(section: Section) -> Iterator[tuple[str, ...]]:
    for result in section.results:
        yield (
            result.name,
            f"{result.seconds:.2f}",
            "" if result is section.results[0] else _ratio(section.ratios(result)),
            f"{result.client_cpu_seconds:.2f}",
            f"{result.server_cpu_seconds:.2f}",
            f"{result.stored_bytes / _MEBI:.1f}" if result.stored_bytes else "",
            f"{result.peak_bytes / _MEBI:.0f}" if result.peak_bytes else "",
        )


def _ratio(ratios: Sequence[float]) -> str:
    middle = f"{statistics.median(ratios):.2f} x"
    return middle if len(ratios) == 1 else f"{middle} ({min(ratios):.2f}-{max(ratios):.2f})"


def _show(console: Console, sections: Sequence[Section], more: Sequence[Grid]) -> None:
    for section in sections:
        table = Table(title=section.title, title_justify="left", header_style="bold")
        for index, name in enumerate(_COLUMNS):
            table.add_column(name, justify="right" if index else "left")
        for row in _rows(section):
            table.add_row(*row)
        console.print(table)
    for grid in more:
        grids.show(console, grid)


def _markdown(sections: Sequence[Section], more: Sequence[Grid]) -> str:
    lines = []
    for section in sections:
        lines += [f"**{section.title}**", ""]
        lines.append("| " + " | ".join(_COLUMNS) + " |")
        lines.append("|---" + "|---:" * (len(_COLUMNS) - 1) + "|")
        cells = [[cell.replace("|", "\\|") for cell in row] for row in _rows(section)]
        lines += ["| " + " | ".join(row) + " |" for row in cells]
        lines.append("")
    return "\n".join([*lines, *map(grids.markdown, more)])


def _document(
    sections: Sequence[Section], more: Sequence[Grid], facts: dict[str, object]
) -> dict[str, object]:
    return {
        **facts,
        "sections": [
            {
                "title": section.title,
                "contestants": [
                    {
                        "name": result.name,
                        "median_seconds": result.seconds,
                        "stored_bytes": result.stored_bytes,
                        "pgkeep_takes": section.ratios(result),
                        "runs": [
                            {key: value for key, value in asdict(run).items() if key != "output"}
                            for run in result.runs
                        ],
                    }
                    for result in section.results
                ],
            }
            for section in sections
        ],
        "grids": [grids.document(grid) for grid in more],
    }


# --- the command ----------------------------------------------------------------------------------


def main() -> int:
    arguments = parse()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # so that everything is removed
    console = Console(stderr=True, highlight=False)
    facts: dict[str, object] = {
        "machine": machine.describe(),
        "server": {**datasets.SETTINGS,
                   "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"},
    }  # fmt: skip
    if arguments.serve:
        with _built(arguments, console, big_table=True) as built:
            return _serve(built, console)
    sections: list[Section] = []
    if set(CONTESTS) & set(arguments.only):
        sections, data = _contests(arguments, console)
        facts |= data
    if "s3" in arguments.only:
        sections.append(_s3(arguments, console))
    more = _changes(arguments, console)
    _show(Console(highlight=False, width=120), sections, more)
    if arguments.json:
        document = _document(sections, more, facts)
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    if arguments.markdown == Path("-"):
        print(_markdown(sections, more))
    elif arguments.markdown:
        arguments.markdown.write_text(_markdown(sections, more))
    return 0


def _contests(
    arguments: argparse.Namespace, console: Console
) -> tuple[list[Section], dict[str, object]]:
    """The sections that share the big database, and what was in it."""
    big_table = "big-table" in arguments.only
    options = Options(
        arguments.runs, arguments.warm_ups, arguments.jobs, tuple(arguments.pgkeep_option)
    )
    with _folder() as folder, _built(arguments, console, big_table=big_table) as built:
        sections = _run_sections(Bench(built, folder, options, console), arguments.only)
    return sections, {
        "server_version": built.server.programs.version,
        "data": {"rows": built.rows, "database_bytes": built.database_bytes,
                 "scale": arguments.scale, "filler": arguments.filler},
    }  # fmt: skip


def _changes(arguments: argparse.Namespace, console: Console) -> list[Grid]:
    """The sections about databases that change, each with a server of its own."""
    more: list[Grid] = []
    if "changes" in arguments.only:
        with _folder() as folder, _server() as server:
            options = ChangeOptions(arguments.runs, arguments.jobs, arguments.scale,
                                    arguments.part_pages, arguments.workloads,
                                    tuple(arguments.pgkeep_option))  # fmt: skip
            more += Changes(server, folder, options, console).grids()
    if "thirty-days" in arguments.only:
        with _folder() as folder, _server() as server:
            scale = arguments.scale
            days = ThirtyDays(server, folder, console, scale=scale, part_pages=_DAYS_PART_PAGES)
            more.append(days.grid())
    if "capture" in arguments.only:
        with _folder() as folder, _server() as server:
            cost = CaptureCost(server, folder, console, arguments.runs)
            more += cost.grids(scale=arguments.scale)
    if "replay" in arguments.only:
        with _folder() as folder, _server() as server:
            speed = ReplaySpeed(server, folder, console, arguments.runs)
            more.append(speed.grid(scale=arguments.scale))
    return more


def _s3(arguments: argparse.Namespace, console: Console) -> Section:
    """PUTs of the same objects, ours and the SDK's, which needs no database."""
    objects = max(round(_S3_OBJECTS * arguments.scale), 1)
    found = object_stores.compete(
        console, objects=objects, runs=arguments.runs, warm_ups=arguments.warm_ups
    )
    stored = objects * object_stores.OBJECT_BYTES
    results = [Result(f"PUT by {name}", runs, stored) for name, runs in found]
    return Section(f"{objects} objects of 32 MiB to rclone serve s3", tuple(results))


@contextmanager
def _server() -> Iterator[ScratchServer]:
    with ScratchServer.start(choose_server(_MAJOR), settings=datasets.SETTINGS) as server:
        yield server


def _run_sections(bench: Bench, wanted: Sequence[str]) -> list[Section]:
    single: dict[str, Callable[[], Section]] = {
        "backup": bench.backup,
        "big-table": bench.big_table,
        "restore": bench.restore,
    }
    sections = [single[name]() for name in CONTESTS if name in wanted and name in single]
    return [*sections, *(bench.memory() if "memory" in wanted else ())]


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pgkeep-bench-") as name:
        yield Path(name)


@contextmanager
def _built(arguments: argparse.Namespace, console: Console, *, big_table: bool) -> Iterator[Built]:
    started = time.monotonic()
    programs = choose_server(_MAJOR)
    with datasets.serve(programs, arguments.scale, arguments.filler, big_table=big_table) as built:
        console.print(
            f"built {built.rows:,} rows ({built.database_bytes / _MEBI:,.0f} MiB with indexes) on"
            f" PostgreSQL {programs.version} in {time.monotonic() - started:.0f} s"
        )
        yield built


def _serve(built: Built, console: Console) -> int:
    """For trying things out by hand."""
    for name in (ALL, BIG_TABLE):
        console.print(built.url(name), soft_wrap=True)
    console.print("Press Enter to end.")
    sys.stdin.readline()
    return 0


if __name__ == "__main__":
    sys.exit(main())
