"""Scratch servers: PostgreSQL servers of our own, on loopback, that do not outlive us.

Two small shells watch over each server, since after `kill -9` nothing of ours can run:

- the *guardian* is the parent of `postgres`. It reads signal names from a pipe that only this
  process writes to, and takes the end of that pipe as an immediate shutdown;
- the *keeper* removes the directory when every holder of its pipe is gone: this process, the
  guardian, and each process of the server.

PostgreSQL refuses to run as root. For root, initdb and the server run as another user, and
nothing that this user could have put into the directory is opened, run or signalled by root.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from pgkeep.errors import DatabaseError, ProgramFailed, UsageError
from pgkeep.postgres.programs import Programs

_INITDB_SECONDS = 120
_START_SECONDS = 60
_FAST_STOP_SECONDS = 20
_IMMEDIATE_STOP_SECONDS = 15  # the postmaster itself kills what is left after 5
_PORT_ATTEMPTS = 5
_LOG_TAIL_BYTES = 64 * 1024

# The traps come after the start so that the server does not inherit ignored signals. The reader
# ends by itself only when the pipe does, which is our own end, expected or not.
_GUARDIAN = """
exec 3<&0
"$@" </dev/null 3<&- & server=$!
trap '' HUP INT TERM
exec >/dev/null 2>&1
{
    while read -r signal; do kill -s "$signal" "$server"; done
    kill -s QUIT "$server"
} <&3 & reader=$!
exec 3<&-
wait "$server"; status=$?
kill -s KILL "$reader"
exit "$status"
"""

_KEEPER = """
trap '' HUP INT TERM
read -r _
rm -rf -- "$1"
"""

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_connections": "200",
    "logging_collector": "off",
    "log_destination": "stderr",
}

# What a crash of the machine would lose is scratch.
_NOT_DURABLE: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


@dataclass(frozen=True)
class _Account:
    """The user that the server runs as when we are root."""

    name: str
    uid: int
    gid: int


class ScratchServer:
    """A PostgreSQL server in a temporary directory; a context manager that stops it.

    It ends with this process in whatever way that ends, and its directory with it.
    Not for use by several threads at once, except for `url` and `port`.
    """

    def __init__(
        self,
        programs: Programs,
        installation: _Installation,
        directory: _OwnDirectory,
        account: _Account | None,
        superuser: str,
    ) -> None:
        """Use `start`."""
        self.programs = programs
        self.superuser = superuser
        self.password = secrets.token_urlsafe(24)
        self.port = 0
        self._directory = directory
        self._account = account
        self._installation = installation
        self._guardian: subprocess.Popen[bytes] | None = None
        self._log = os.open(
            directory.path / "log", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600
        )

    @classmethod
    def start(
        cls,
        programs: Programs,
        *,
        settings: Mapping[str, str] | None = None,
        base: Path | None = None,
        superuser: str = "postgres",
        durable: bool = False,
        run_as: str = "nobody",
    ) -> Self:
        """Make a new cluster and start it; ready for connections on return.

        `base` is where the temporary directory is made. `run_as` counts only for root. Without
        `durable` the server does not wait for the disk. Raises `ProgramFailed` with the end of
        the server's log, `ProgramMissing`, or `UsageError` for an unusable `base` or `run_as`.
        """
        for name in ("initdb", "postgres", "pg_ctl"):
            programs.path(name)
        account = _account(run_as) if os.geteuid() == 0 else None
        usable_base = _usable_base(base, account)
        installation = _runnable(programs.bin_dir, account)
        directory = _OwnDirectory.make("pgkeep-server-", usable_base)
        server = cls(programs, installation, directory, account, superuser)
        atexit.register(server._stop_at_exit, os.getpid())
        try:
            server._prepare({**_SETTINGS, **({} if durable else _NOT_DURABLE), **(settings or {})})
            server._initdb()
            server._start_on_a_free_port()
        except BaseException:
            server.stop()
            raise
        return server

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def directory(self) -> Path:
        return self._directory.path

    @property
    def running(self) -> bool:
        return self._guardian is not None and self._guardian.poll() is None

    def url(self, dbname: str = "postgres") -> str:
        """The connection string, with the superuser's password."""
        user, password = quote(self.superuser, safe=""), quote(self.password, safe="")
        return (
            f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{quote(dbname, safe='')}"
            "?sslmode=disable"
        )

    def create_database(
        self, name: str, *, template: str = "template0", encoding: str = "UTF8"
    ) -> None:
        self._execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} ENCODING {}").format(
                sql.Identifier(name), sql.Identifier(template), sql.Literal(encoding)
            )
        )

    def drop_database(self, name: str) -> None:
        """Drop the database if it exists, and end the connections to it."""
        self._execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )

    def stop(self) -> None:
        """Fast shutdown, immediate if that takes too long; removes the directory. Idempotent."""
        atexit.unregister(self._stop_at_exit)
        self._shut_down("INT", "QUIT", "KILL")
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        self._directory.remove()

    def kill(self) -> None:
        """Immediate shutdown, as in a crash. The directory stays: `restart` recovers it."""
        self._shut_down("QUIT", "KILL")

    def restart(self) -> None:
        """Fast shutdown (if it runs) and start on the same port."""
        self._shut_down("INT", "QUIT", "KILL")
        if not self._start_on(self.port):
            raise self._failed(f"scratch server could not start again on port {self.port}")

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the server's log; empty after `stop`."""
        if self._log < 0:
            return ""
        size = os.fstat(self._log).st_size
        tail = os.pread(self._log, _LOG_TAIL_BYTES, max(0, size - _LOG_TAIL_BYTES))
        return "\n".join(tail.decode(errors="replace").splitlines()[-lines:])

    # --- making ---

    def _prepare(self, settings: Mapping[str, str]) -> None:
        """All that we write ourselves, before the directory is the other user's."""
        files = {
            "password": self.password + "\n",
            "server.conf": "include 'data/postgresql.conf'\n"
            + "".join(f"{name} = {_setting_literal(value)}\n" for name, value in settings.items()),
        }
        for name, text in files.items():
            path = self.directory / name
            path.touch(mode=0o600, exist_ok=False)
            path.write_text(text, encoding="utf-8")
            if self._account:
                os.chown(path, self._account.uid, self._account.gid)
        if self._account:
            os.chown(self.directory, self._account.uid, self._account.gid)

    def _initdb(self) -> None:
        command: list[str | Path] = [
            self._installation.bin_dir / "initdb",
            f"--username={self.superuser}",
            "--auth=scram-sha-256",
            "--pwfile=password",
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
            "--no-sync",
            "--no-instructions",
            "--pgdata=data",
        ]
        initdb = self._popen(command, stdin=subprocess.DEVNULL)
        try:
            initdb.wait(_INITDB_SECONDS)
        except BaseException as exc:
            initdb.kill()
            initdb.wait()
            if isinstance(exc, subprocess.TimeoutExpired):
                raise self._failed(f"initdb was not done in {_INITDB_SECONDS} s") from exc
            raise
        if initdb.returncode != 0:
            raise self._failed(f"initdb {self.programs.version} failed")

    def _start_on_a_free_port(self) -> None:
        for _ in range(_PORT_ATTEMPTS):
            self.port = _free_port()
            if self._start_on(self.port):
                return
        raise self._failed(f"scratch server found no free port in {_PORT_ATTEMPTS} attempts")

    def _start_on(self, port: int) -> bool:
        """Start and wait until it answers; False when somebody else has the port."""
        log_start = os.fstat(self._log).st_size
        postgres: list[str | Path] = [
            self._installation.bin_dir / "postgres",
            *("-D", self.directory / "data"),
            *("-p", str(port)),
            *("-c", f"config_file={self.directory / 'server.conf'}"),
        ]
        self._guardian = self._popen(
            ["/bin/sh", "-c", _GUARDIAN, "pgkeep-guardian", *postgres], stdin=subprocess.PIPE
        )
        deadline = time.monotonic() + _START_SECONDS
        while self.running:
            if self._answers():
                return True
            if time.monotonic() > deadline:
                self._shut_down("QUIT", "KILL")
                raise self._failed(f"scratch server was not ready in {_START_SECONDS} s")
            time.sleep(0.02)
        self._shut_down()
        log = os.pread(self._log, _LOG_TAIL_BYTES, log_start)
        if b"Address already in use" in log:
            return False
        raise self._failed(f"scratch server {self.programs.version} did not start")

    def _answers(self) -> bool:
        """Whether our server answers, and not another that was quicker to take the port."""
        try:
            with psycopg.connect(self.url(), connect_timeout=2) as connection:
                row = connection.execute("SHOW data_directory").fetchone()
        except psycopg.Error:
            return False
        return row == (str(self.directory / "data"),)

    def _popen(self, command: list[str | Path], *, stdin: int) -> subprocess.Popen[bytes]:
        """Run in the directory, as the server's user, in a session of its own."""
        account = self._account
        held = [self._directory.held]
        if self._installation.kept:
            held.append(self._installation.kept.held)
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=self._log,
            stderr=self._log,
            cwd=self.directory,
            env=_environment(self._installation.bin_dir),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            umask=0o077,
            start_new_session=True,
            pass_fds=held,
        )

    # --- ending ---

    def _shut_down(self, *signals: str) -> None:
        """Send one signal after the other until the server has ended."""
        guardian, self._guardian = self._guardian, None
        if guardian is None:
            return
        assert guardian.stdin is not None
        with guardian.stdin as pipe:
            for signal in signals:
                with contextlib.suppress(BrokenPipeError):  # it has ended by itself
                    os.write(pipe.fileno(), signal.encode() + b"\n")
                timeout = _FAST_STOP_SECONDS if signal == "INT" else _IMMEDIATE_STOP_SECONDS
                with contextlib.suppress(subprocess.TimeoutExpired):
                    guardian.wait(timeout)
                    break
        guardian.wait(_IMMEDIATE_STOP_SECONDS)

    def _stop_at_exit(self, pid: int) -> None:
        if os.getpid() == pid:  # not in a forked child
            self.stop()

    def _execute(self, statement: sql.Composed) -> None:
        try:
            with psycopg.connect(self.url(), autocommit=True) as connection:
                connection.execute(statement)
        except psycopg.Error as exc:
            raise DatabaseError(f"scratch server refused: {str(exc).strip()}") from exc

    def _failed(self, message: str) -> ProgramFailed:
        log = self.log_tail()
        return ProgramFailed(
            message,
            hint=f"Its log ends with:\n{log}" if log else "Its log is empty.",
        )


# --- directories that do not outlive us -------------------------------------------------------


class _OwnDirectory:
    """A temporary directory, removed by `remove` or when no process holds `held` any more."""

    def __init__(self, path: Path, held: int, keeper: subprocess.Popen[bytes]) -> None:
        self.path = path
        self.held = held
        self._keeper = keeper

    @classmethod
    def make(cls, prefix: str, base: Path) -> _OwnDirectory:
        # The keeper is there first: who is killed in between leaves nothing.
        path = base / f"{prefix}{secrets.token_hex(8)}"
        read_end, low_end = os.pipe()
        # The guardian, a shell, uses the file descriptors below 10 for itself.
        write_end = fcntl.fcntl(low_end, fcntl.F_DUPFD_CLOEXEC, 10)
        os.close(low_end)
        try:
            keeper = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER, "pgkeep-keeper", path],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
            path.mkdir(mode=0o700)
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        return cls(path, write_end, keeper)

    def remove(self) -> None:
        """Idempotent."""
        if self.held < 0:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.held)
        self.held = -1
        # If another process still holds the pipe, the keeper stays and removes what is left.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(5)


def _usable_base(base: Path | None, account: _Account | None) -> Path:
    """Where the server's user can get at its directory. Some machines have a private TMPDIR."""
    bases = [base] if base else [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 -- mkdtemp below it
    for candidate in bases:
        if os.access(candidate, os.W_OK | os.X_OK) and _works_for(account, 'cd -- "$1"', candidate):
            return candidate.absolute()
    user = f' for user "{account.name}"' if account else ""
    raise UsageError(
        f'directory "{bases[0]}" cannot be used{user}',
        hint="PostgreSQL does not run as root, so name a directory that this user can reach."
        if account
        else "Name a directory that exists and can be written to.",
    )


# --- the other user -----------------------------------------------------------------------------


def _account(name: str) -> _Account:
    try:
        entry = pwd.getpwnam(name)
    except KeyError as exc:
        raise UsageError(
            f'user "{name}" does not exist',
            hint="PostgreSQL does not run as root: name a user for the scratch server.",
        ) from exc
    if entry.pw_uid == 0:
        raise UsageError(
            f'user "{name}" is root',
            hint="PostgreSQL does not run as root: name another user for the scratch server.",
        )
    return _Account(name, entry.pw_uid, entry.pw_gid)


def _works_for(account: _Account | None, script: str, path: Path) -> bool:
    """Whether a shell script succeeds as that user: asking beats computing rights and ACLs."""
    result = subprocess.run(
        ["/bin/sh", "-c", script, "pgkeep", path.absolute()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=_environment(),
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        check=False,
    )
    return result.returncode == 0


_RUNS = '"$1"/initdb --version && "$1"/postgres --version'


@dataclass(frozen=True)
class _Installation:
    """Programs where the server's user can run them; `kept` is set if that is a copy of ours."""

    bin_dir: Path
    kept: _OwnDirectory | None = None


_copies: dict[Path, _Installation] = {}
_copies_lock = threading.Lock()


def _runnable(bin_dir: Path, account: _Account | None) -> _Installation:
    """The programs in place, or else in a copy that the servers of this process share."""
    if account is None or _works_for(account, _RUNS, bin_dir):
        return _Installation(bin_dir)
    with _copies_lock:
        if bin_dir not in _copies:
            _copies[bin_dir] = _copy_installation(bin_dir, account)
        copy = _copies[bin_dir]
    if not _works_for(account, _RUNS, copy.bin_dir):
        raise ProgramFailed(
            f'the programs in "{bin_dir}" do not run for user "{account.name}"',
            hint="Install PostgreSQL where every user can run it, or do not run as root.",
        )
    return copy


def _copy_installation(bin_dir: Path, account: _Account) -> _Installation:
    """Copy what is needed of the prefix, in a layout in which it finds its own files.

    The programs look for libraries and shared files relative to themselves; a wheel may also
    have libraries in `<package>.libs`, a sibling of the package (auditwheel).
    """
    directory = _OwnDirectory.make("pgkeep-programs-", _usable_base(None, account))
    atexit.register(_remove_at_exit, directory, os.getpid())
    prefix = bin_dir.parent
    package = prefix.parent
    target = directory.path / package.name / prefix.name
    for part in ("bin", "lib", "share"):
        if (prefix / part).is_dir():
            shutil.copytree(prefix / part, target / part, ignore_dangling_symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, directory.path / libraries.name)
    _let_everybody_run(directory.path)
    return _Installation(target / bin_dir.name, directory)


def _let_everybody_run(directory: Path) -> None:
    directory.chmod(0o755)
    for path in directory.rglob("*"):
        runnable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if runnable else 0o644)


def _remove_at_exit(directory: _OwnDirectory, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        directory.remove()


# --- small things -------------------------------------------------------------------------------


def _environment(bin_dir: Path | None = None) -> dict[str, str]:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C",
        "LC_ALL": "C",
        "TZ": "UTC",
    }
    icu_data = bin_dir.parent / "share" / "icu" if bin_dir else None
    if icu_data and icu_data.is_dir():  # wheels for musl bring ICU's data as a file
        environment["ICU_DATA"] = str(icu_data)
    return environment


def _setting_literal(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n")
    return f"'{escaped}'"


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
