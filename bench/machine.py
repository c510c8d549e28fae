"""On what the figures were measured: the machine, its load, the versions, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

PACKAGES = ["alembic", "sqlalchemy", "asyncpg", "fastapi", "uvicorn"]
GIBIBYTE = 2**30


def machine() -> str:
    """Return processor, memory and system in one line."""
    memory = psutil.virtual_memory().total / GIBIBYTE
    return f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GiB, {platform.system()} {platform.release()}"


def versions(postgres: str) -> str:
    """Return the versions of PostgreSQL, Python and the packages in one line."""
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    return ", ".join([f"PostgreSQL {postgres}", f"Python {platform.python_version()}", *packages])


def moment() -> str:
    """Return the time, the commit and the load of the machine, which has to be quiet, in one line."""
    load, _, _ = os.getloadavg()
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {_commit()}, load average before it {load:.1f}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--", "api") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed
