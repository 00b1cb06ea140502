"""pg_dump, pg_dumpall and pg_restore, run so that no secret and no error is lost."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pgkeep.errors import (
    ConnectionLost,
    PermissionMissing,
    PgkeepError,
    ProgramFailed,
    TableChanged,
)
from pgkeep.model import TableName
from pgkeep.postgres.address import Address, client_access, program_environment
from pgkeep.postgres.memory_files import memory_file
from pgkeep.postgres.programs import Programs
from pgkeep.postgres.session import connection_error


class Runs:
    """Programs that run for one piece of work, so that they can be ended together with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def end(self) -> None:
        """End what runs, and what is yet to start, at once. May be called from any thread."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.kill()

    @contextmanager
    def keep(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """While the block runs, `end` ends this process too."""
        with self._lock:
            self._running.add(process)
            if self._ended:
                process.kill()
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process)


def dump_schema(
    programs: Programs,
    address: Address,
    *,
    snapshot: str | None = None,
    lock_timeout_seconds: float = 30,
    leave_out: Sequence[TableName] = (),
    runs: Runs | None = None,
) -> bytes:
    """The schema as an uncompressed custom-format archive, as a snapshot shows it.

    Without some tables, on request: pg_dump ends where it meets one that it may not read.
    """
    arguments = [
        "--format=custom",
        "--compress=0",
        "--schema-only",
        "--quote-all-identifiers",
        f"--lock-wait-timeout={round(lock_timeout_seconds * 1000)}",
    ]
    if snapshot is not None:
        arguments.append(f"--snapshot={snapshot}")
    # In double quotes a pattern of pg_dump stands for itself.
    arguments += [f"--exclude-table={name.sql}" for name in leave_out]
    return _run_connected(programs, "pg_dump", arguments, address, runs=runs)


def dump_roles(programs: Programs, address: Address, *, runs: Runs | None = None) -> bytes:
    """All roles of the server as SQL, without passwords."""
    return _run_connected(
        programs,
        "pg_dumpall",
        ["--roles-only", "--no-role-passwords", "--quote-all-identifiers"],
        address,
        runs=runs,
    )


def script_from_archive(
    programs: Programs,
    archive: bytes,
    arguments: Sequence[str],
    *,
    use_list: str,
    for_major: int,
) -> bytes:
    """The SQL that pg_restore writes for the entries in `use_list`, for a server to understand."""
    script = _script(programs, archive, arguments, use_list)
    if for_major < 17:  # pg_restore 17 and newer set what older servers do not know
        head, setting, rest = script.partition(b"\nSET transaction_timeout = 0;\n")
        if setting and b"\nCREATE " not in head:
            return head + b"\n" + rest
    return script


def _script(programs: Programs, archive: bytes, arguments: Sequence[str], use_list: str) -> bytes:
    listed = use_list.encode("utf-8", "surrogateescape")
    with (
        memory_file(archive) as (archive_path, archive_fds),
        memory_file(listed) as (list_path, list_fds),
    ):
        return _run(
            [
                *(str(programs.path("pg_restore")), "--file=-", *arguments),
                *(f"--use-list={list_path}", archive_path),
            ],
            "pg_restore",
            pass_fds=(*archive_fds, *list_fds),
        )


def run_script(
    programs: Programs,
    address: Address,
    script: bytes,
    *,
    single: bool = False,
    runs: Runs | None = None,
) -> None:
    """Run SQL through psql, which stops at the first error; the error says where."""
    arguments = [
        "-X",
        "-q",
        "-w",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        "VERBOSITY=verbose",
        "-o",
        "/dev/null",
    ]
    if single:
        arguments.append("--single-transaction")
    _run_connected(programs, "psql", [*arguments, "-f", "-"], address, stdin=script, runs=runs)


@dataclass(frozen=True, slots=True)
class StatementFailed:
    """A statement of a script that the server refused, and at which line psql had read it."""

    line: int
    sqlstate: str
    message: str


_FAILED = re.compile(r"^psql:<stdin>:(\d+): (?:ERROR|FATAL):\s+(?:([0-9A-Z]{5}): )?(.*)$", re.M)


def run_script_through(
    programs: Programs, address: Address, script: bytes, *, runs: Runs | None = None
) -> tuple[StatementFailed, ...]:
    """Run SQL through psql to its end, whatever the server refuses of it; what it refused.

    A connection that is lost on the way is an error all the same.
    """
    arguments = ["-X", "-q", "-w", "-v", "ON_ERROR_STOP=0", "-v", "VERBOSITY=verbose"]
    with client_access(address) as access:
        ended = _ended(
            [str(programs.path("psql")), *arguments, "-o", "/dev/null", "-f", "-",
             "-d", access.dbname],
            stdin=_first(address) + script,
            environment=access.environment,
            pass_fds=access.pass_fds,
            runs=runs,
        )  # fmt: skip
    if ended.code != 0:
        raise _error("psql", ended, address)
    found = _FAILED.findall(ended.text)
    return tuple(StatementFailed(int(line), state, message) for line, state, message in found)


def _first(address: Address) -> bytes:
    """On one line with what follows, so that the lines of errors stay right."""
    return "".join(f"{statement}; " for statement in address.first_statements).encode()


def _run_connected(
    programs: Programs,
    name: str,
    arguments: Sequence[str],
    address: Address,
    *,
    stdin: bytes | None = None,
    runs: Runs | None = None,
) -> bytes:
    with client_access(address) as access:
        command = [str(programs.path(name)), *arguments, "-d", access.dbname]
        if name != "psql":
            command.append("--no-password")
            if address.becomes:
                command.append(f"--role={address.becomes}")
        elif stdin is not None:
            stdin = _first(address) + stdin
        return _run(
            command,
            name,
            stdin=stdin,
            environment=access.environment,
            pass_fds=access.pass_fds,
            address=address,
            runs=runs,
        )


def _run(
    command: Sequence[str],
    name: str,
    *,
    stdin: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
    address: Address | None = None,
    runs: Runs | None = None,
) -> bytes:
    ended = _ended(command, stdin=stdin, environment=environment, pass_fds=pass_fds, runs=runs)
    if ended.code != 0:
        raise _error(name, ended, address)
    return ended.out


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a program ended, and what it wrote."""

    code: int
    out: bytes
    text: str
    """On its standard error."""


def _ended(
    command: Sequence[str],
    *,
    stdin: bytes | None,
    environment: Mapping[str, str] | None,
    pass_fds: tuple[int, ...],
    runs: Runs | None,
) -> _Ended:
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=program_environment() if environment is None else environment,
        pass_fds=pass_fds,
        start_new_session=True,  # Ctrl-C is for us; we end it
    ) as process:
        try:
            with (runs or Runs()).keep(process):
                out, err = process.communicate(b"" if stdin is None else stdin)
        except BaseException:
            process.kill()
            raise
    return _Ended(process.returncode, out, err.decode("utf-8", "replace"))


def _error(name: str, ended: _Ended, address: Address | None) -> PgkeepError:
    if address is not None and "connection to server at" in ended.text:
        return connection_error(ended.text, address)
    if address is not None and (lost := _LOST.search(ended.text)):
        return ConnectionLost(
            f"{name}: the connection to {address} was lost: {lost[0]}",
            hint="Run the same command again; nothing that was stored is lost.",
        )
    return _failure(name, ended.code, ended.text)


_LOST = re.compile(
    r"server closed the connection unexpectedly|terminating connection due to [a-z ]+"
    r"|no connection to the server|connection to server was lost"
    r"|SSL connection has been closed unexpectedly"
)


def _failure(name: str, code: int, text: str) -> PgkeepError:
    """What went wrong, from the program's own words: the error, and the statement it belongs to."""
    lines = [line for line in text.splitlines() if line.strip()]
    at = next(
        (i for i, line in enumerate(lines) if re.search(r"(ERROR|FATAL):|error:", line)), None
    )
    if at is None:
        return ProgramFailed(f"{name} ended with exit code {code} and no word")
    message = re.sub(r"^.*?(ERROR|FATAL):\s+(?:[0-9A-Z]{5}: )?", "", lines[at])
    message = re.sub(rf"^(?:psql:\S+ )?{name}: error: ", "", message)
    around = " ".join(line.strip() for line in lines[at + 1 : at + 4])
    hint = f"{name} says: {around}"[:400] if around else ""
    if "permission denied" in message:
        return PermissionMissing(f"{name}: {message}", hint=hint or "Grant the right to this role.")
    # pg_dump waits for its locks under a statement timeout.
    if re.search(r"due to (lock|statement) timeout|could not obtain lock", message):
        return TableChanged(
            f"{name} waited in vain for a lock: {message}",
            hint="Somebody is waiting to alter or drop a table, and pgkeep gave way. Run the backup"
            " again when that is done.",
        )
    return ProgramFailed(f"{name}: {message}", hint=hint)
