"""What a measure gets: the server, a folder, the size of the run, and the environment of what it starts."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.process import run
from bench.server import BenchServer, bench_server
from bench.spread import Usage

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".data" / "bench"
"""Where the peers are installed."""


@dataclass
class Laboratory:
    """The server and the tools of one run of `./dev bench`.

    Attributes:
        quick: small sizes and few rounds, to see that everything works; such figures mean nothing.
        rounds: how often each variant is measured instead of as often as the measure wants.
    """

    database: BenchServer
    quick: bool = False
    rounds: int | None = None
    _folder: Path = field(default_factory=Path)

    def folder(self) -> Path:
        """Return a new, empty folder."""
        return Path(tempfile.mkdtemp(dir=self._folder))

    def times(self, usual: int) -> int:
        """Return how often to measure each variant."""
        return self.rounds or (2 if self.quick else usual)

    def size(self, usual: int, quick: int) -> int:
        """Return how many of something to use."""
        return quick if self.quick else usual

    def environment(self, url: str, ini: Path | None = None, **settings: str) -> dict[str, str]:
        """Return the environment of a program: this one's without Python's and the project's settings, and the given.

        Args:
            url: of the database.
            ini: Alembic's configuration, for those who read it from there.
            settings: further variables.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MIGRATION_", "PYTHON"))}
        ours = {"ALEMBIC_CONFIG": str(ini)} if ini else {}
        return {**kept, "PYTHONPATH": str(ROOT), "DATABASE_URL": url, **ours, **settings}


def our_upgrade() -> list[str]:
    """Return the command that `./migrate.sh upgrade` runs."""
    return [sys.executable, "-m", "api.migrations", "upgrade"]


def bare_upgrade() -> list[str]:
    """Return the command `alembic upgrade head`."""
    return [sys.executable, "-m", "alembic", "upgrade", "head"]


def bare_stamp() -> list[str]:
    """Return the command `alembic stamp head`."""
    return [sys.executable, "-m", "alembic", "stamp", "head"]


def timed(words: Sequence[str], environment: Mapping[str, str]) -> Usage:
    """Run a command in the folder of its alembic.ini, where people run it."""
    return run(words, environment, Path(environment["ALEMBIC_CONFIG"]).parent)


@contextmanager
def laboratory(*, quick: bool, rounds: int | None) -> Iterator[Laboratory]:
    """Run the server and provide a temporary folder until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, bench_server() as database:
        yield Laboratory(database, quick, rounds, Path(folder))
