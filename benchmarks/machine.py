"""Where it was measured, and with which versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def describe() -> dict[str, object]:
    """The machine and the software besides the server."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load_before": os.getloadavg()[2],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "pgkeep": version("pgkeep"),
        "commit": _commit(),
        "packages": {
            name: version(name) for name in ("blake3", "cryptography", "psycopg", "zstandard")
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), ""
    )


def _commit() -> str:
    """Of the working tree, with a mark if it holds changes."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
