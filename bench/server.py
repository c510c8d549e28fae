"""The PostgreSQL of all measures: the embedded one of the tests, with the durability that PostgreSQL has by default."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.errors import BenchError
from tests.support.servers import Server, embedded_postgres

DEFAULTS = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "128MB"}
COMMIT_TIMES = {"track_commit_timestamp": "on"}
"""Not a default: without it the moment of a COMMIT cannot be read from the server."""

COMMITTED = "SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM {table}"


@dataclass
class BenchServer:
    """The server, a new database for each run, and what the server's processes have spent."""

    server: Server
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def empty_database(self) -> str:
        """Create a database and return its URL; it is removed with the server."""
        name = f"bench_{next(self._numbers)}"
        self.server.execute(f'CREATE DATABASE "{name}"')
        return self.server.url(name)

    def execute(self, url: str, sql: str) -> list[Any]:
        """Run one statement in the database at `url` and return the rows."""
        return self.server.execute(sql, database=url.rpartition("/")[2])

    def committed_at(self, url: str, table: str = "alembic_version") -> float:
        """Return when the transaction that wrote the only row of `table` was committed, in seconds since 1970.

        Raises:
            BenchError: the table has no row, or more than one.
        """
        rows = self.execute(url, COMMITTED.format(table=table))
        if len(rows) != 1:
            raise BenchError(f"{table} has {len(rows)} rows instead of one")
        at: float = rows[0][0]
        return at

    def cpu_seconds(self) -> float:
        """Return what all processes of the server have spent so far, with those that have ended."""
        assert self.server.process, "the tests' own server has a process"
        main = int((self.server.process.data / "postmaster.pid").read_text().split()[0])
        spent = psutil.Process(main).cpu_times()
        ended = spent.children_user + spent.children_system
        living = (on_cpu(process.pid) for process in psutil.Process(main).children())
        return ended + on_cpu(main) + sum(living)

    @property
    def version(self) -> str:
        """PostgreSQL's version."""
        return str(self.server.execute("SHOW server_version")[0][0])


def on_cpu(pid: int) -> float:
    """Return the CPU seconds of a process with one thread, to the nanosecond; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


@contextmanager
def bench_server(**settings: str) -> Iterator[BenchServer]:
    """Run a server with PostgreSQL's defaults and the given settings, until the end of the block."""
    with embedded_postgres(**{**DEFAULTS, **COMMIT_TIMES, **settings}) as server:
        yield BenchServer(server)
