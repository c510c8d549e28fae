"""A candidate for a Lease in a process that a test can stop and kill: `python -m tests.support.lease_process`.

It reads one word a line (`try`, `confirm`, `lost`, `release`) and answers each with one line.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api.migrations.electors.kubernetes.elector import LeaseElection, LeaseElector
from api.migrations.errors import MigrationError
from api.migrations.runtime.dns import run
from api.migrations.settings import MigrationSettings
from tests.support.warm import Process

ROOT = Path(__file__).resolve().parents[2]


class Candidate:
    """The process, as the test uses it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def say(self, word: str) -> None:
        """Write one word to the process."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Wait for its answer and return it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, word: str) -> str:
        """Write one word and return the answer."""
        self.say(word)
        return self.hear()

    def leads(self) -> bool:
        """Return whether one more try acquired the Lease."""
        return self.ask("try") == "True"


@contextmanager
def candidate(instance: str, lease: str, seconds: int) -> Iterator[Candidate]:
    """Run a process for the cluster of the test's KUBECONFIG; kill it at the end."""
    own = {"INSTANCE": instance, "LEASE_NAME": lease, "LEASE_SECONDS": str(seconds)}
    environment = {**os.environ, **{f"MIGRATION_{name}": value for name, value in own.items()}}
    command = [sys.executable, "-m", "tests.support.lease_process"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with Process(command, cwd=ROOT, env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield Candidate(process)
        finally:
            process.kill()


async def obey(elector: LeaseElector, word: str) -> object:
    """Do what the word says."""
    try:
        match word:
            case "try":
                return await elector.try_acquire()
            case "confirm":
                await elector.confirm()
            case "lost":
                return await elector.lost()
            case _:
                await elector.release()
    except MigrationError as error:
        return f"{type(error).__name__}: {error}"
    return None


async def main() -> None:
    """Answer words until the test closes standard input."""
    elector = LeaseElection.build(MigrationSettings.load(), "unnamed").elector()
    while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
        sys.stdout.write(f"{await obey(elector, word)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    run(main())
