"""A report that reads postings in one long transaction, as somebody always does while a release is deployed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

LONGEST_SECONDS = 120.0
LOOK_SECONDS = 0.05
MIGRATES = (
    "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
    "WHERE datname = current_database() "
    "AND (locktype = 'advisory' AND granted OR locktype = 'relation' AND NOT granted))"
)
"""A migration has begun: it holds its advisory lock, or waits for a table."""


@contextmanager
def open_report(url: str, seconds: float) -> Iterator[None]:
    """Read postings in a transaction that stays open until a migration has begun, and `seconds` longer.

    The block begins with the transaction; its end waits for the transaction's end. An error ends it at once, because
    no migration may come.
    """
    with psycopg.connect(url, application_name="report") as connection:
        connection.execute("SELECT sum(amount) FROM postings")
        failed = threading.Event()
        thread = threading.Thread(target=_stay, args=(connection, seconds, failed), name="report")
        thread.start()
        try:
            yield
        except BaseException:
            failed.set()
            raise
        finally:
            thread.join()


def _stay(connection: psycopg.Connection, seconds: float, failed: threading.Event) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline and not failed.is_set():
        row = connection.execute(MIGRATES).fetchone()
        if row and row[0]:
            break
        time.sleep(LOOK_SECONDS)
    failed.wait(seconds)
    connection.commit()
