"""What the second backup takes, by the size of the parts and by how the database changed."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.commands import (
    Command,
    dump_directory,
    files_in,
    init_pgkeep,
    pgkeep,
    remove,
    set_backup_options,
    size_bytes,
    surroundings,
)
from benchmarks.grids import Grid
from benchmarks.measure import Measured, measure, postmaster_pid
from benchmarks.shop import Shop, build_shop
from pgkeep.postgres.server import ScratchServer

PART_PAGES = (None, 128, 512, 1024, 4096)  # None: as pgkeep chooses

WORKLOADS: Mapping[str, Callable[[Shop], None]] = {
    "append": Shop.append,
    "random-0.1%": lambda shop: shop.update_random(0.001),
    "random-1%": lambda shop: shop.update_random(0.01),
    "random-10%": lambda shop: shop.update_random(0.1),
    "hot": Shop.update_hot,
    "queue": Shop.turn_queue,
}
_TITLES: Mapping[str, str] = {
    "append": "append: 1 % new rows",
    "random-0.1%": "random updates of 0.1 % of the rows",
    "random-1%": "random updates of 1 % of the rows",
    "random-10%": "random updates of 10 % of the rows",
    "hot": "hot: updates of the newest 1 % of the orders and their items, which lie together",
    "queue": "queue: a tenth of the jobs worked off and as many new",
}
_HEADLINE = "hot"

_TEMPLATE, _DATABASE, _VARIABLE = "shop_template", "shop", "BENCH_SHOP_URL"
_MEBI = 1 << 20


@dataclass(frozen=True, slots=True)
class ChangeOptions:
    """What is measured: `runs` of each second backup, each from the same first one."""

    runs: int
    jobs: int
    scale: float
    part_pages: tuple[int | None, ...]
    workloads: tuple[str, ...]
    pgkeep_options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """The second backup after one workload with parts of one size."""

    workload: str
    part_pages: int | None
    first_seconds: float
    seconds: tuple[float, ...]
    read_bytes: tuple[int, ...]
    stored_bytes: tuple[int, ...]
    objects: tuple[int, ...]
    parts_read: tuple[int, ...]
    parts_reused: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dump:
    """pg_dump in the same state of the database; `text_bytes` is what it gets out of it."""

    workload: str
    seconds: tuple[float, ...]
    text_bytes: int
    stored_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder with a configuration, keys and a repository, and how it was after the first backup.

    Sizes of parts are kept from backup to backup, so each size has a place of its own.
    """

    folder: Path
    part_pages: int | None
    first_seconds: float

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def _saved(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.saved")

    def save(self) -> None:
        shutil.copytree(self.folder, self._saved)

    def put_back(self) -> None:
        remove(self.folder)
        shutil.copytree(self._saved, self.folder)


class Changes:
    """Workload by workload: the first backups, the changes, the second backups in turn."""

    def __init__(
        self, server: ScratchServer, folder: Path, options: ChangeOptions, console: Console
    ) -> None:
        self._server = server
        self._folder = folder
        self._options = options
        self._console = console
        self._postmaster = postmaster_pid(server.directory / "data")
        self._environment = surroundings(**{_VARIABLE: server.url(_DATABASE)})

    def grids(self) -> list[Grid]:
        shop = build_shop(self._server, _TEMPLATE, self._options.scale)
        facts = f"{shop.rows():,} rows, {shop.heap_bytes() / _MEBI:,.0f} MiB of tables"
        self._console.print(f"built a shop: {facts}")
        measured = [self._workload(name) for name in self._options.workloads]
        headline = [_headline(*pair) for pair in measured if pair[1].workload == _HEADLINE]
        return [*headline, *(_grid(cells, dump, facts) for cells, dump in measured)]

    def _workload(self, name: str) -> tuple[list[Cell], Dump]:
        with self._shop() as shop, self._places() as places:
            WORKLOADS[name](shop)
            shop.vacuum()
            answers: dict[int | None, list[_Second]] = {place.part_pages: [] for place in places}
            dumps = []
            for number in range(self._options.runs):
                for place in places:
                    answers[place.part_pages].append(self._second_backup(place))
                dumps.append(self._dump())
                self._console.print(f"[dim]{name}, run {number + 1} of {self._options.runs}[/]")
            dump = self._folder / "dump"
            whole = answers[places[0].part_pages][0].answer["bytes_of_text"]
            result = Dump(name, tuple(run.seconds for run in dumps), whole,
                          size_bytes(dump), len(files_in(dump)))  # fmt: skip
            remove(dump)
        cells = [_cell(name, place, answers[place.part_pages]) for place in places]
        return cells, result

    @contextmanager
    def _shop(self) -> Iterator[Shop]:
        """A fresh copy of the shop."""
        self._server.create_database(_DATABASE, template=_TEMPLATE)
        try:
            yield Shop(self._server.url(_DATABASE), self._options.scale)
        finally:
            self._server.drop_database(_DATABASE)

    @contextmanager
    def _places(self) -> Iterator[list[_Place]]:
        """One for each size of parts, with its first backup."""
        root = self._folder / "changes"
        try:
            yield [self._first_backup(root, pages) for pages in self._options.part_pages]
        finally:
            remove(root)

    def _first_backup(self, root: Path, part_pages: int | None) -> _Place:
        folder = root / _named(part_pages)
        folder.mkdir(parents=True)
        self._measure(init_pgkeep(folder, _DATABASE, _VARIABLE))
        set_backup_options(folder, {"part_pages": part_pages})
        run = self._backup(folder)
        place = _Place(folder, part_pages, run.seconds)
        place.save()
        return place

    def _second_backup(self, place: _Place) -> _Second:
        place.put_back()
        before = len(files_in(place.repository))
        run = self._backup(place.folder)
        objects = len(files_in(place.repository)) - before
        return _Second(run.seconds, json.loads(run.output), objects)

    def _backup(self, folder: Path) -> Measured:
        return self._measure([*pgkeep(), "backup", _DATABASE, "--json",
                              *self._options.pgkeep_options,
                              "--config", folder / "pgkeep.toml"])  # fmt: skip

    def _dump(self) -> Measured:
        stored = self._folder / "dump"
        remove(stored)
        url = self._server.url(_DATABASE)
        return self._measure(dump_directory(self._server.programs, url, stored, self._options.jobs))

    def _measure(self, command: Command) -> Measured:
        return measure(command, environment=self._environment, postmaster=self._postmaster)


@dataclass(frozen=True, slots=True)
class _Second:
    """One second backup: pgkeep's own answer, and the files that it added."""

    seconds: float
    answer: dict[str, int]
    objects: int


def _cell(workload: str, place: _Place, seconds: Sequence[_Second]) -> Cell:
    def each(name: str) -> tuple[int, ...]:
        return tuple(second.answer[name] for second in seconds)

    return Cell(
        workload,
        place.part_pages,
        place.first_seconds,
        tuple(second.seconds for second in seconds),
        each("bytes_read"),
        each("bytes_stored"),
        tuple(second.objects for second in seconds),
        each("parts_read"),
        each("parts_reused"),
    )


# --- telling --------------------------------------------------------------------------------------

_COLUMNS = ("part pages", "read MiB", "of all", "stored MiB", "objects", "parts read/reused",
            "seconds", "pg_dump's", "first backup s")  # fmt: skip


def _grid(cells: Sequence[Cell], dump: Dump, facts: str) -> Grid:
    middle = statistics.median
    rows = [
        (
            _named(cell.part_pages),
            f"{middle(cell.read_bytes) / _MEBI:.1f}",
            f"{middle(cell.read_bytes) / dump.text_bytes:.1%}",
            f"{middle(cell.stored_bytes) / _MEBI:.2f}",
            f"{middle(cell.objects):.0f}",
            f"{middle(cell.parts_read):.0f}/{middle(cell.parts_reused):.0f}",
            f"{middle(cell.seconds):.2f}",
            _times(cell, dump),
            f"{cell.first_seconds:.2f}",
        )
        for cell in cells
    ]
    rows.append(
        (
            "pg_dump -Fd",
            f"{dump.text_bytes / _MEBI:.1f}",
            "100%",
            f"{dump.stored_bytes / _MEBI:.2f}",
            str(dump.files),
            "",
            f"{middle(dump.seconds):.2f}",
            "",
            "",
        )
    )
    numbers = [*map(asdict, cells), asdict(dump)]
    return Grid(f"{_TITLES[dump.workload]} ({facts})", _COLUMNS, tuple(rows), (), numbers)


def _named(part_pages: int | None) -> str:
    return "default" if part_pages is None else str(part_pages)


def _times(cell: Cell, dump: Dump) -> str:
    """The second backup's time over pg_dump's, pair by pair."""
    pairs = zip(cell.seconds, dump.seconds, strict=True)
    return f"{statistics.median(ours / theirs for ours, theirs in pairs):.2f} x"


def _headline(cells: Sequence[Cell], dump: Dump) -> Grid:
    rows = [
        (
            _named(cell.part_pages),
            _times(cell, dump),
            f"{statistics.median(cell.read_bytes) / dump.text_bytes:.1%}",
            f"{statistics.median(cell.stored_bytes) / dump.stored_bytes:.1%}",
        )
        for cell in cells
    ]
    goal = ("goal", "0.20 x", "5.0%", "5.0%")
    return Grid(
        "second backup after the newest 1 % of orders and items changed, beside pg_dump -Fd zstd:3",
        ("part pages", "time", "bytes read", "bytes stored"),
        (*rows, goal),
    )
