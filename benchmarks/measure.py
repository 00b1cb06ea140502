"""One command, measured: time, processor time of client and server, and peak memory."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SAMPLE_SECONDS = 0.05
_SETTLE_SECONDS = 3.0
_LIMIT_SECONDS = 1800.0  # whoever takes longer hangs


class CommandFailed(RuntimeError):
    """A measured command did not end well, so there is nothing to compare."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run took. `peak_bytes` is 0 where memory was not sampled."""

    seconds: float
    client_cpu_seconds: float
    server_cpu_seconds: float
    peak_bytes: int
    output: str


def measure(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    postmaster: int,
    sample_memory: bool = False,
) -> Measured:
    """Run a command to its end. Raises `CommandFailed` with the end of what it said."""
    os.sync()  # what others left to write is not to slow down whoever syncs
    server_before = server_cpu_seconds(postmaster)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=dict(environment),
            start_new_session=True,
        )
        memory = _Memory(process.pid) if sample_memory else None
        limit = threading.Timer(_LIMIT_SECONDS, _end, [process.pid])
        limit.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _end(process.pid)
            process.wait()
            raise
        finally:
            limit.cancel()
            peak = memory.stop() if memory else 0
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise CommandFailed(
                f"{command[0]} ended with exit code {process.returncode}: {_text(err)[-2000:]}"
            )
        text = _text(out)
    server_after = _settled_server_cpu_seconds(postmaster)
    return Measured(
        seconds, usage.ru_utime + usage.ru_stime, server_after - server_before, peak, text
    )


def _end(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", "replace").strip()


# --- processor time of the server -----------------------------------------------------------------


def postmaster_pid(data_directory: Path) -> int:
    """The server's first process."""
    return int((data_directory / "postmaster.pid").read_text().splitlines()[0])


def server_cpu_seconds(postmaster: int) -> float:
    """Of the postmaster, of its children that run, and of those that have ended."""
    own = _stat(postmaster)
    if own is None:
        raise CommandFailed("the server has ended")
    live = [_stat(pid) for pid in _children(postmaster)]
    ticks = own.user + own.system + own.children
    ticks += sum(child.user + child.system for child in live if child is not None)
    return ticks / _TICKS_A_SECOND


def _settled_server_cpu_seconds(postmaster: int) -> float:
    """Backends end a moment after their clients: wait until the number stands still."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    before = server_cpu_seconds(postmaster)
    while time.monotonic() < deadline:
        time.sleep(0.1)
        now = server_cpu_seconds(postmaster)
        if now - before < 1.5 / _TICKS_A_SECOND:
            return now
        before = now
    return before


@dataclass(frozen=True, slots=True)
class _Stat:
    parent: int
    user: int
    system: int
    children: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name may hold anything
    return _Stat(
        int(fields[1]), int(fields[11]), int(fields[12]), int(fields[13]) + int(fields[14])
    )


# --- memory of the client -------------------------------------------------------------------------


class _Memory:
    """Samples the memory of a process and all below it until `stop`."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._ended = threading.Event()
        self._peak = 0
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The largest sum that was seen, in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _sample(self) -> None:
        while not self._ended.is_set():
            self._peak = max(self._peak, sum(_memory_bytes(pid) for pid in _tree(self._root)))
            self._ended.wait(_SAMPLE_SECONDS)


def _tree(root: int) -> Iterator[int]:
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += _children(pid)


def _children(pid: int) -> list[int]:
    """From the kernel's own list where it keeps one, else from everybody's parent."""
    tasks = Path(f"/proc/{pid}/task")
    try:
        lists = [(task / "children").read_text() for task in tasks.iterdir()]
        return [int(child) for text in lists for child in text.split()]
    except FileNotFoundError:
        if not tasks.exists():
            return []
    except ProcessLookupError:
        return []
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [one for one in pids if (stat := _stat(one)) is not None and stat.parent == pid]


def _memory_bytes(pid: int) -> int:
    """Its proportional share (PSS), or all that is resident where that cannot be read."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except OSError:
        pass
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    return 0
