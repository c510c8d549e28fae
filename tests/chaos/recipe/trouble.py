"""Other activity in the database while the recipe runs: readers, and a COMMIT that is not answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import asyncpg

from tests.support.servers import Server, fetch_sync
from tests.support.waiting import wait_until

NOTICED_SECONDS = 0.2
"""A read that takes longer has waited in a queue."""


def reading(url: str, table: str, seconds: float) -> None:
    """Start a long report on a table, and return once it reads."""
    sql = f"SELECT pg_sleep({seconds}) FROM (SELECT count(*) FROM {table}) AS counted"
    threading.Thread(target=_quietly, args=(url, sql), daemon=True).start()
    locked = f"SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND pid <> pg_backend_pid()"
    wait_until(lambda: fetch_sync(url, locked)[0][0] > 0, "the report reads", seconds=10)


def _quietly(url: str, sql: str) -> None:
    # some scenarios stop the server
    with suppress(OSError, asyncpg.PostgresError):
        fetch_sync(url, sql)


class Readers:
    """A session that reads a table repeatedly.

    Attributes:
        stalls: the seconds of each read that had to queue.
    """

    def __init__(self) -> None:
        self.stalls: list[float] = []
        self.seconds = 0.0

    def __str__(self) -> str:
        longest = max(self.stalls, default=0)
        return f"readers stalled for {sum(self.stalls):.1f} s of {self.seconds:.1f} s, the longest {longest:.1f} s"


@contextmanager
def readers_of(url: str, table: str) -> Iterator[Readers]:
    """Read a table repeatedly within the block."""
    readers, over, began = Readers(), threading.Event(), time.monotonic()

    def read() -> None:
        while not over.wait(0.02):
            before = time.monotonic()
            fetch_sync(url, f"SELECT count(*) FROM {table}")
            took = time.monotonic() - before
            readers.stalls += [took] if took > NOTICED_SECONDS else []

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield readers
    finally:
        readers.seconds = time.monotonic() - began
        over.set()
        thread.join()


@contextmanager
def commits_without_answer(server: Server) -> Iterator[None]:
    """Commit within the block without an answer, which waits for a standby that does not exist."""
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    server.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        server.execute("SELECT pg_reload_conf()")
