"""What is run, in which surroundings, and what it left on disk."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from pgkeep.postgres.programs import Programs

Command = list[str | Path]


def surroundings(**more: str) -> dict[str, str]:
    """The environment of every contestant."""
    return {**{key: value for key, value in os.environ.items() if not _steers(key)}, **more}


def _steers(variable: str) -> bool:
    """Whether it changes what programs do, or makes Python compile all modules at each start."""
    return variable.startswith("PG") or variable in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")


def pgkeep() -> Command:
    """As users call it: the script beside the interpreter, a process of its own."""
    script = Path(sys.executable).parent / "pgkeep"
    return [script] if script.exists() else [sys.executable, "-m", "pgkeep"]


def init_pgkeep(place: Path, database: str, url_variable: str) -> Command:
    """Make `place` hold everything that pgkeep keeps: configuration, keys, repository."""
    return [*pgkeep(), "init", database, "--url-env", url_variable,
            "--state-dir", place / "state", "--config", place / "pgkeep.toml",
            "--repository", (place / "repository").as_uri()]  # fmt: skip


def set_backup_options(place: Path, options: Mapping[str, int | None]) -> None:
    """Add options to the configuration that `init` wrote, which has no such section.

    None leaves an option as it is by default.
    """
    config = place / "pgkeep.toml"
    text = config.read_text()
    assert "[backup]" not in text
    lines = [f"{name} = {value}" for name, value in options.items() if value is not None]
    config.write_text("\n".join([text, "[backup]", *lines, ""]))


def dump_directory(programs: Programs, url: str, stored: Path, jobs: int) -> Command:
    """pg_dump as it is at its fastest, compressing as pgkeep does."""
    return [programs.path("pg_dump"), "-Fd", f"-j{jobs}", "--compress=zstd:3",
            f"--file={stored}", f"--dbname={url}"]  # fmt: skip


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def files_in(path: Path) -> list[Path]:
    """All files of a folder, or the file itself."""
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*") if file.is_file()]


def size_bytes(path: Path) -> int:
    """What a file, or all files of a folder, take together."""
    return sum(file.stat().st_size for file in files_in(path))
