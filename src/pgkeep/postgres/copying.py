"""Rows out of a database and into one, as COPY text.

Reading goes through `psql`: its C loop takes 1.6 CPU-seconds for 7 million narrow rows where the
same loop over libpq in Python takes 3.7 (docs/decisions.md), and it waits in a process of its
own, so threads are enough here.
"""

from __future__ import annotations

import fcntl
import re
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import IO, Self

from pgkeep.errors import ConnectionLost, PgkeepError
from pgkeep.postgres.address import Address, client_access
from pgkeep.postgres.programs import Programs
from pgkeep.postgres.session import (
    BYTES_AS_THEY_ARE,
    SESSION_SETTINGS,
    connection_error,
    lock_timeout_statement,
    statement_error,
)

_CHUNK_BYTES = 2 << 20  # more than half of it is handed on: what is compressed at once
_PIPE_BYTES = 1 << 20
_MARKER_BYTES = 33  # a nonce of 32 digits and a line break
_LONG_LINE_BYTES = 50
_ERROR_TEXT_BYTES = 64 << 10


class CopyReader:
    """One psql process that runs `COPY ... TO STDOUT`, one query after another.

    With `snapshot`, all of them see that exported snapshot. Used by one thread at a time; only
    `abort` may be called from another. The process ends when ours does, however that ends, since
    its standard input closes.
    """

    def __init__(
        self,
        programs: Programs,
        address: Address,
        *,
        snapshot: str | None = None,
        lock_timeout_seconds: float = 30,
        on_started: Callable[[CopyReader], None] | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        """`on_started` is given the reader before it connects, which may take long: it may be
        aborted from then on. `settings` are statements for all of the session."""
        self._address = address
        self._settings = settings
        self._buffer = bytearray(_CHUNK_BYTES + _MARKER_BYTES)
        self._lines = 0
        self._are_long = True
        self._errors = bytearray()
        self._in_use = threading.Lock()
        with client_access(address) as access:
            self._process = subprocess.Popen(
                [
                    *_in_large_writes(),
                    programs.path("psql"),
                    *("-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1"),
                    *("-v", "VERBOSITY=verbose", "-f", "-", "-d", access.dbname),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=access.environment,
                pass_fds=access.pass_fds,
                start_new_session=True,  # Ctrl-C is for us; we end it
            )
            self._listener = threading.Thread(target=self._collect_errors, daemon=True)
            self._listener.start()
            with suppress(OSError):  # an unprivileged user may have reached a limit
                fcntl.fcntl(self._stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            try:
                if on_started is not None:
                    on_started(self)
                self._begin(snapshot, lock_timeout_seconds)
            except BaseException:
                self.abort()
                raise

    @property
    def lines(self) -> int:
        """How many line breaks, and so rows, the current query has given so far."""
        return self._lines

    def read(self, query: str) -> Iterator[memoryview]:
        """The text that `COPY (query) TO STDOUT` gives, in pieces of 1 to 2 MiB.

        A piece is valid until the next one is asked for. Rows end in a line break, and no other
        line breaks occur: COPY text escapes them.
        """
        nonce = secrets.token_hex(16)
        # The line break keeps a comment at the query's end from swallowing what follows.
        self._send(f"COPY ({query}\n) TO STDOUT;\n\\qecho {nonce}\n")
        return self._pieces(nonce.encode())

    def execute(self, statements: Iterable[str]) -> None:
        """Run statements that give no rows."""
        nonce = secrets.token_hex(16)
        self._send("".join(f"{one};\n" for one in statements) + f"\\qecho {nonce}\n")
        for _ in self._pieces(nonce.encode()):
            pass

    def close(self) -> None:
        """End the session in order."""
        with suppress(OSError):
            self._stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self.abort()

    def abort(self) -> None:
        """End the process at once; a thread that is reading gets an error."""
        with suppress(OSError):
            self._process.kill()
        self._process.wait()
        self._listener.join(timeout=5)
        # A descriptor that is closed while another thread reads from it may be somebody else's
        # by then. With psql gone, that thread is at the end of the pipe soon.
        with self._in_use:
            for stream in (self._stdin, self._stdout):
                with suppress(OSError):
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _begin(self, snapshot: str | None, lock_timeout_seconds: float) -> None:
        statements: list[str] = [
            *self._address.first_statements,
            *SESSION_SETTINGS,
            BYTES_AS_THEY_ARE,
            lock_timeout_statement(lock_timeout_seconds),
        ]
        statements += self._settings
        statements.append("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        if snapshot is not None:
            statements.append(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
        self.execute(statements)

    def _send(self, text: str) -> None:
        try:
            data = memoryview(text.encode())
            while data:
                with self._in_use:
                    data = data[self._stdin.write(data) :]
        except (BrokenPipeError, ValueError) as exc:
            raise self._failure() from exc

    def _pieces(self, nonce: bytes) -> Iterator[memoryview]:
        """What comes before the marker line. The end of the buffer is held back for it."""
        buffer, view, filled = self._buffer, memoryview(self._buffer), 0
        self._lines = 0
        while True:
            try:
                with self._in_use:
                    count = self._stdout.readinto(view[filled:])  # type: ignore[attr-defined]
            except ValueError:
                count = 0  # closed by abort()
            if not count:
                raise self._failure()
            filled += count
            at = filled - _MARKER_BYTES
            if at >= 0 and buffer.startswith(nonce, at, filled):
                self._lines += self._lines_in(buffer[:at])
                if at:
                    yield view[:at]
                return
            if filled > _CHUNK_BYTES // 2:
                ready = filled - _MARKER_BYTES
                self._lines += self._lines_in(buffer[:ready])
                yield view[:ready]
                view[:_MARKER_BYTES] = view[ready:filled]
                filled = _MARKER_BYTES

    def _lines_in(self, text: bytearray) -> int:
        """Where lines are not short, taking them out is three times as fast as counting bytes."""
        lines = len(text) - len(text.replace(b"\n", b"")) if self._are_long else text.count(b"\n")
        self._are_long = lines * _LONG_LINE_BYTES < len(text)
        return lines

    def _collect_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            while piece := stream.read(4096):
                self._errors = (self._errors + piece)[-_ERROR_TEXT_BYTES:]

    def _failure(self) -> PgkeepError:
        """Why psql ended, from what it wrote on standard error."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        self._listener.join(timeout=5)
        return psql_error(self._errors.decode("utf-8", "replace"), self._address)


@cache
def _in_large_writes() -> tuple[str, ...]:
    """What makes psql write 128 kB at a time into its pipe, not 4 kB, where the system has it.

    That halves the processor time of getting rows through the pipe (docs/decisions.md).
    """
    stdbuf = shutil.which("stdbuf")
    return (stdbuf, "--output=131072") if stdbuf else ()


def psql_error(text: str, address: Address) -> PgkeepError:
    """The kind of the first error that psql (VERBOSITY=verbose) wrote, as one of ours."""
    # The server writes the first word in its own language.
    found = re.search(r"\w+:\s+(?=[0-9A-Z]*\d)([0-9A-Z]{5}): (.*)", text)
    if found:
        return statement_error(found[1], found[2].strip(), address)
    if re.search(r"^psql: error:", text, re.MULTILINE):  # it never got so far as to read a command
        return connection_error(re.sub(r"psql: error:\s*", "", text), address)
    found = re.search(r"^psql:\S+ error: (.*)", text, re.MULTILINE)
    last = found[1] if found else (text.strip().splitlines() or ["psql ended without a word"])[-1]
    return ConnectionLost(
        f"the connection to {address} was lost: {last}",
        hint="Run the same command again; nothing that was stored is lost.",
    )
