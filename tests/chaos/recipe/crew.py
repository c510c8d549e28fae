"""The processes of a scenario, and what the scenario reads from the database about them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

from tests.chaos.recipe.instance import KEY
from tests.chaos.recipe.trees import AT_WORK, tree
from tests.support.evidence import invalid_indexes, versions
from tests.support.project import ROOT
from tests.support.servers import fetch_sync
from tests.support.vanishing import Namespace
from tests.support.waiting import STEP_SECONDS, wait_until

START_SECONDS = 30.0
ERROR = re.compile(r"[\w.]+(Error|Exception)\b.*: ")
INSTANCE = (sys.executable, "-m", "tests.chaos.recipe.instance")

_OURS = (
    f"locktype = 'advisory' AND objid = {KEY} "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@dataclass
class Member:
    """One process and its output."""

    process: subprocess.Popen[bytes]
    log: Path

    def code(self, seconds: float = START_SECONDS) -> int | None:
        """Return the exit code; None if the process still runs after `seconds`."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def last_words(self) -> str:
        """The last line of the output."""
        return (self.log.read_text().strip().splitlines() or [""])[-1]

    def error(self) -> str:
        """The message of the exception that ended the process, without SQLAlchemy's and Alembic's additions."""
        raised = [line for line in self.log.read_text().splitlines() if ERROR.match(line)]
        said = (raised or [self.last_words()])[-1].split(": ", 1)[-1].split(">: ")[-1]
        return re.sub(r"^\(\S+\) ", "", said).split(";")[0]

    def kill(self) -> None:
        """Kill the process, and its children if it is a crowd."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, SIGKILL)
        self.process.wait()


class Crew:
    """Starts instances against one database; none outlives the scenario."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.members: list[Member] = []

    def start(self, ini: Path, *options: str, url: str | None = None, host: Namespace | None = None) -> Member:
        """Start an instance, inside `host` if one is given."""
        url = url or self.url
        words = [*INSTANCE, host.there(url) if host else url, str(ini), *options]
        return self.run(host.inside(*words) if host else words)

    def run(self, words: Sequence[str], **environment: str) -> Member:
        """Start any command as a member."""
        log = self.folder / f"log-{len(self.members)}"
        with log.open("wb") as file:
            # its own process group, because a crowd has children
            process = subprocess.Popen(
                words, cwd=ROOT, stdout=file, stderr=file, env=environment or None, start_new_session=True
            )
        self.members.append(Member(process, log))
        return self.members[-1]

    def close(self) -> None:
        """Kill all members."""
        for member in self.members:
            member.kill()


@contextmanager
def crew(url: str) -> Iterator[Crew]:
    """Yield a crew with its own folder."""
    with tempfile.TemporaryDirectory(prefix="recipe-") as folder, ExitStack() as stack:
        made = Crew(url, Path(folder))
        stack.callback(made.close)
        yield made


def holder_and_peer(crew: Crew, *bodies: str, lock: str = "same") -> tuple[Member, Member]:
    """Start an instance inside the statement of `trees.long`, and one that waits for it."""
    ini = tree(crew.folder / "tree", *bodies)
    holder = crew.start(ini, "--lock", lock)
    until(lambda: at_work(crew.url) == 1, "one at work")
    peer = crew.start(ini, "--lock", lock)
    until(lambda: waiting(crew.url) == 1, "one waiting")
    return holder, peer


def dead(members: Sequence[Member], seconds: float = START_SECONDS) -> int:
    """Return how many members exit with an error within `seconds`."""
    deadline = time.monotonic() + seconds
    return sum(bool(member.code(max(0.1, deadline - time.monotonic()))) for member in members)


def waiting(url: str) -> int:
    """Return how many sessions are blocked in `pg_advisory_lock()`."""
    return _count(url, f"SELECT count(*) FROM pg_locks WHERE {_OURS} AND NOT granted")


def holders(url: str) -> list[int]:
    """Return the sessions that hold the recipe's lock."""
    return [row[0] for row in fetch_sync(url, f"SELECT pid FROM pg_locks WHERE {_OURS} AND granted")]


def at_work(url: str) -> int:
    """Return how many sessions are inside the statement of `trees.long`."""
    return _count(
        url,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        f"AND state = 'active' AND query LIKE '{AT_WORK}%'",
    )


def _count(url: str, sql: str) -> int:
    count: int = fetch_sync(url, sql)[0][0]
    return count


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition that soon holds."""
    wait_until(condition, what, seconds=START_SECONDS)


def within(seconds: float, condition: Callable[[], bool]) -> float | None:
    """Return the seconds until `condition` held; None if it did not within `seconds`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            return None
        time.sleep(STEP_SECONDS)
    return time.monotonic() - began


def most(seconds: float, count: Callable[[], int], enough: int) -> int:
    """Return the highest `count` within `seconds`, or the first that is `enough`."""
    seen = [0]

    def look() -> bool:
        seen.append(count())
        return seen[-1] >= enough

    within(seconds, look)
    return max(seen)


def state(url: str) -> str:
    """Return the revision of the database and its INVALID indexes."""
    broken = invalid_indexes(url)
    return f"version {', '.join(versions(url)) or 'none'}" + (f", INVALID index {broken[0]}" if broken else "")
