"""What a person types in a shell: the lines of the runbook, and those that an advice shows."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import environment, migrate
from tests.support.project import PLAIN, ROOT
from tests.support.servers import Server
from tests.support.waiting import FOREVER_SECONDS, wait_until

RUNBOOK = (ROOT / "docs" / "operations.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.M | re.S))
(OWNER_URL,) = re.findall(r"^OWNER_URL=.*$", RUNBOOK, re.M)
"""The line of the runbook that makes a URL for `psql` from the service's, whose driver `psql` does not know."""


def commands(section: str) -> list[str]:
    """Return the commands in the boxes of a section of the runbook."""
    boxes = re.findall(r"^```\n(.*?)^```", SECTIONS[section].replace("\\\n", ""), re.M | re.S)
    return [line for box in boxes for line in box.splitlines()]


def psql_on_path(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the server's own psql on PATH, as on a database host."""
    if server.process is not None:
        monkeypatch.setenv("PATH", f"{server.process.binaries}{os.pathsep}{os.environ['PATH']}")


def type_in(command: str, url: str, ini: Path = PLAIN, **settings: str) -> tuple[int, str]:
    """Run a line in a shell in the project's folder, or as the process that it becomes; return code and output."""
    if re.fullmatch(r"\./migrate\.sh[\w .-]+", command):
        return migrate(*command.split()[1:], url=url, ini=ini, **settings)
    if "$OWNER_URL" in command:
        command, url = f"{OWNER_URL}\n{command}", url.replace("postgresql:", "postgresql+asyncpg:")
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env=environment(url, VIRTUAL_ENV=sys.prefix, MIGRATION_ALEMBIC_CONFIG=str(ini), **settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=FOREVER_SECONDS,
    )
    return done.returncode, done.stdout


def works(command: str, url: str, ini: Path = PLAIN, **settings: str) -> str:
    """Run a line that must succeed; return its output."""
    code, output = type_in(command, url, ini, **settings)
    assert code == 0, output
    return output


def until_advised(read: Callable[[], dict[str, Any]], words: str) -> dict[str, Any]:
    """Wait until the advice in what `read` returns has the words, and return the advice."""
    found: dict[str, Any] = {}

    def said() -> bool:
        found.update(read().get("advice") or {})
        return words in found.get("text", "")

    wait_until(said, f"an advice with {words!r}", seconds=60)
    return found
