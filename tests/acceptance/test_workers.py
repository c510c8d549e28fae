"""Each worker of one uvicorn is an instance of its own, with a name of its own."""

import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance import portable
from tests.support import project
from tests.support.fleet import MARK, Instance, fleet
from tests.support.places import HISTORY, SqlitePlace, applied, marks, versions
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

WORKERS = 3


@contextmanager
def workers(place: SqlitePlace, ini: Path) -> Iterator[Instance]:
    """Run uvicorn with three workers and no instance name; end it with SIGTERM, which ends the workers too."""
    # uvicorn reads the number of workers from WEB_CONCURRENCY too; an empty instance name is none
    settings = {**place.settings, "WEB_CONCURRENCY": f"{WORKERS}", "MIGRATION_INSTANCE": ""}
    settings["MIGRATION_DRAIN_SECONDS"] = "0.1"
    with fleet(1, place.url, ini=ini, first=1, inside=(), **settings) as (parent,):
        try:
            yield parent
        finally:
            parent.kill(signal.SIGTERM)
            parent.wait()


def speakers(parent: Instance, words: str) -> set[str]:
    """Return the names of the instances that have logged a line with these words."""
    return {*re.findall(rf"{re.escape(words)}.* \[(.+)\]$", parent.log(), re.M)}


def until_said(parent: Instance, words: str, count: int) -> set[str]:
    """Wait until so many instances have logged these words; return their names."""
    wait_until(lambda: len(speakers(parent, words)) == count, f"{count} who say {words!r}", seconds=60)
    return speakers(parent, words)


def test_one_of_three_workers_migrates_a_file(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """Three workers share a SQLite file: one migrates while two wait and name it; then all three serve, and drain."""
    ini = portable.make_history(tmp_path, portable.held(), portable.noted())
    with workers(sqlite_place, ini) as parent:
        portable.until_reached(ini)
        names = until_said(parent, "Strategy advisory_lock", WORKERS)
        pids = re.findall(r"Started server process \[(\d+)\]", parent.log())
        assert names == {f"{socket.gethostname()}-{pid}" for pid in pids}
        (migrator,) = until_said(parent, MARK, 1)
        held = f"{migrator} (pid {migrator.rpartition('-')[2]}) holds the lock"
        assert until_said(parent, held, WORKERS - 1) == names - {migrator}
        assert not parent.ready()
        portable.let_go(ini)
        assert until_said(parent, "Ready: the database is at head", WORKERS) == names
        # any of the workers may answer
        assert {parent.ready() for _ in range(5 * WORKERS)} == {True}
        assert parent.log().count(MARK) == 1
        parent.kill(signal.SIGTERM)
        assert until_said(parent, "SIGTERM received: not ready any more", WORKERS) == names
    assert applied(sqlite_place) == project.revisions(ini)
    assert versions(sqlite_place) == [project.head(ini)]
    assert marks(sqlite_place) == ["ground", "held", "noted"]
    assert sqlite_place.rows(f"SELECT DISTINCT instance FROM {HISTORY}") == [[migrator]]
    assert sqlite_place.lock_is_free()
