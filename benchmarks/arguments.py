"""What `python -m benchmarks.run` can be told."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from benchmarks.changes import PART_PAGES, WORKLOADS
from benchmarks.datasets import Filler

CONTESTS = ("backup", "big-table", "restore", "memory")
SECTIONS = (*CONTESTS, "s3", "changes", "thirty-days", "capture", "replay")
_DESCRIPTION = "pgkeep beside pg_dump and pg_restore, a table of medians and ratios."


def parse() -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=_DESCRIPTION)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of 8.2 million rows, or of 1.5 million in changes"
    )
    parser.add_argument("--filler", choices=get_args(Filler), default="text",
                        help="what is in pgbench's filler column (pgbench: blank)")  # fmt: skip
    parser.add_argument("--only", type=_sections, default=SECTIONS, metavar="SECTION,...",
                        help=f"some of {','.join(SECTIONS)}")  # fmt: skip
    parser.add_argument("-n", "--runs", type=int, default=3)
    parser.add_argument("--warm-ups", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="of pg_dump and pg_restore")
    parser.add_argument("--pgkeep-option", action="append", default=[], metavar="OPTION",
                        help="for pgkeep, as in --pgkeep-option=--jobs=4")  # fmt: skip
    parser.add_argument("--part-pages", type=_part_pages, default=PART_PAGES, metavar="N,...",
                        help="sizes of parts in changes; default: as pgkeep chooses")  # fmt: skip
    parser.add_argument("--workloads", type=_workloads, default=tuple(WORKLOADS),
                        metavar="NAME,...",
                        help=f"some of {','.join(WORKLOADS)}".replace("%", "%%"))  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="- for standard output")
    parser.add_argument("--serve", action="store_true", help="build the databases and wait")
    return parser.parse_args()


def _sections(text: str) -> tuple[str, ...]:
    return _some_of(SECTIONS, text)


def _workloads(text: str) -> tuple[str, ...]:
    return _some_of(tuple(WORKLOADS), text)


def _some_of(known: Sequence[str], text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return names


def _part_pages(text: str) -> tuple[int | None, ...]:
    return tuple(None if word == "default" else int(word) for word in text.split(","))
