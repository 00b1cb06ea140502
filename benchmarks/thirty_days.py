"""Thirty daily backups of a shop in which 1 % of the rows change each day, kept in several ways."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.commands import (
    Command,
    init_pgkeep,
    pgkeep,
    set_backup_options,
    size_bytes,
    surroundings,
)
from benchmarks.grids import Grid
from benchmarks.measure import Measured, measure, postmaster_pid
from benchmarks.shop import build_shop
from pgkeep.postgres.server import ScratchServer

DAYS = 30
SCALE = 0.2
"""Of the shop's rows at the default scale: 30 days of five tools have to end within minutes."""

_DATABASE, _VARIABLE = "shop_days", "BENCH_DAYS_URL"
_MEBI = 1 << 20


@dataclass(slots=True)
class Kept:
    """One way to keep backups, and what it took so far."""

    name: str
    stored: Path
    back_up: Callable[[int], tuple[float, int]]
    """Makes one day's backup; gives its seconds, and the bytes that left the database."""
    seconds: float = 0
    read_bytes: int = 0


class ThirtyDays:
    """Day by day, everybody in turn in the same state of the database."""

    def __init__(
        self,
        server: ScratchServer,
        folder: Path,
        console: Console,
        *,
        scale: float,
        part_pages: Sequence[int | None],
    ) -> None:
        self._server = server
        self._url = server.url(_DATABASE)
        self._folder = folder / "thirty-days"
        self._console = console
        self._scale = scale * SCALE
        self._part_pages = part_pages
        self._postmaster = postmaster_pid(server.directory / "data")
        self._environment = surroundings(
            **{_VARIABLE: self._url},
            RESTIC_REPOSITORY=str(self._folder / "restic"),
            RESTIC_PASSWORD="benchmark",
            RESTIC_CACHE_DIR=str(self._folder / "restic-cache"),
            BORG_REPO=str(self._folder / "borg"),
            BORG_PASSPHRASE="benchmark",
            BORG_BASE_DIR=str(self._folder / "borg-base"),
        )
        self._plain_seconds = 0.0

    def grid(self) -> Grid:
        self._folder.mkdir()
        shop = build_shop(self._server, _DATABASE, self._scale)
        before = shop.rows()
        ways = self._ways()
        for day in range(DAYS):
            if day:
                shop.pass_day()
                shop.vacuum()
            for way in ways:
                seconds, read = way.back_up(day)
                way.seconds += seconds
                way.read_bytes += read
            self._console.print(f"[dim]thirty-days, day {day + 1} of {DAYS}[/]")
        facts = f"{before:,} rows on the first day, {shop.rows():,} on the last"
        return self._grid(ways, facts)

    # --- ways -------------------------------------------------------------------------------------

    def _ways(self) -> list[Kept]:
        """pg_dump -Fp comes before restic and borg, which keep what it wrote."""
        return [
            *(self._pgkeep(pages) for pages in self._part_pages),
            self._custom_dump(),
            *self._deduplicating(),
        ]

    def _pgkeep(self, part_pages: int | None) -> Kept:
        place = self._folder / f"pgkeep-{part_pages}"
        place.mkdir()
        self._measure(init_pgkeep(place, _DATABASE, _VARIABLE))
        set_backup_options(place, {"part_pages": part_pages})
        command = [*pgkeep(), "backup", _DATABASE, "--json", "--config", place / "pgkeep.toml"]

        def back_up(_: int) -> tuple[float, int]:
            run = self._measure(command)
            return run.seconds, json.loads(run.output)["bytes_read"]

        name = f"pgkeep, part_pages {part_pages}" if part_pages else "pgkeep"
        return Kept(name, place / "repository", back_up)

    def _custom_dump(self) -> Kept:
        """It also makes the plain dump of the day, which tells how much pg_dump reads."""
        stored, plain = self._folder / "custom", self._folder / "dump.sql"
        stored.mkdir()
        program = self._server.programs.path("pg_dump")

        def back_up(day: int) -> tuple[float, int]:
            run = self._measure([program, "-Fc", "--compress=zstd",
                                 f"--file={stored / f'{day:02}.dump'}", self._url])  # fmt: skip
            self._plain_seconds = self._measure([program, "-Fp", f"--file={plain}",
                                                 self._url]).seconds  # fmt: skip
            return run.seconds, plain.stat().st_size

        return Kept("pg_dump -Fc --compress=zstd", stored, back_up)

    def _deduplicating(self) -> list[Kept]:
        plain = self._folder / "dump.sql"
        tools: dict[str, tuple[str, Command, Callable[[int], Command]]] = {
            "restic": (
                "restic over pg_dump -Fp",
                ["restic", "init", "--repository-version", "2"],
                lambda _: ["restic", "backup", "--quiet", plain],
            ),
            "borg": (
                "borg (zstd) over pg_dump -Fp",
                ["borg", "init", "--encryption=repokey-blake2"],
                lambda day: ["borg", "create", "--compression=zstd", f"::day-{day}", plain],
            ),
        }
        return [
            self._tool(name, self._folder / program, make, create)
            for program, (name, make, create) in tools.items()
            if shutil.which(program)
        ]

    def _tool(
        self, name: str, stored: Path, make: Command, create: Callable[[int], Command]
    ) -> Kept:
        self._measure(make)

        def back_up(day: int) -> tuple[float, int]:
            seconds = self._measure(create(day)).seconds
            return self._plain_seconds + seconds, (self._folder / "dump.sql").stat().st_size

        return Kept(name, stored, back_up)

    def _measure(self, command: Command) -> Measured:
        return measure(command, environment=self._environment, postmaster=self._postmaster)

    # --- telling ----------------------------------------------------------------------------------

    def _grid(self, ways: Sequence[Kept], facts: str) -> Grid:
        results = [
            _Result(way.name, size_bytes(way.stored), way.read_bytes, way.seconds) for way in ways
        ]
        first = results[0]
        rows: list[tuple[str, ...]] = [
            (
                result.name,
                f"{result.stored_bytes / _MEBI:.1f}",
                f"{result.stored_bytes / first.stored_bytes:.2f} x",
                f"{result.read_bytes / _MEBI:,.0f}",
                f"{result.read_bytes / first.read_bytes:.2f} x",
                f"{result.seconds:.1f}",
                f"{result.seconds / first.seconds:.2f} x",
            )
            for result in results
        ]
        rows += [
            (f"{tool}: not installed (apt-get install {package})", *([""] * 6))
            for tool, package in (("restic", "restic"), ("borg", "borgbackup"))
            if not shutil.which(tool)
        ]
        notes = (
            "The ratios are to the first line. restic's and borg's time has the dump's in it.",
        )
        return Grid(
            f"{DAYS} daily backups, 1 % of the rows change each day ({facts})",
            ("", "stored MiB", "", "read MiB", "", "seconds", ""),
            tuple(rows),
            notes,
            [asdict(result) for result in results],
        )


@dataclass(frozen=True, slots=True)
class _Result:
    name: str
    stored_bytes: int
    read_bytes: int
    seconds: float
