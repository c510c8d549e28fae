"""Sessions that migrate, as the server sees them, and revisions that can be held in one place."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.fleet import Instance
from tests.support.project import GATE, Revision
from tests.support.servers import fetch_sync
from tests.support.waiting import wait_until

MIGRATING = "datname = current_database() AND application_name LIKE 'migrations:%:migrating:%'"
HOLDING = "datname = current_database() AND application_name ~ '^migrations:[^:]*:(migrating|locking):'"
"""The session that holds the lock between two attempts, also if revisions run on another one (TESTS_DRIVER)."""

BESIDE = f"""\
op.execute("INSERT INTO marks SELECT 'beside ' || application_name FROM pg_stat_activity "
           "WHERE pid <> pg_backend_pid() AND state <> 'idle' AND {MIGRATING}")
"""
"""Leaves a second mark if another session migrates at the same time, which no revision may ever see."""


def in_the_server(id: str = "in_the_server") -> Revision:
    """Make a revision of one long statement, unless `evidence.let_go` came before it."""
    body = f"""mark()\n{BESIDE}if not op.get_bind().scalar({GATE}):\n    op.execute("SELECT pg_sleep(300)")"""
    return Revision(id, body)


def in_python(folder: Path, id: str = "in_python") -> Revision:
    """Make a revision that creates `folder/asleep` and waits for `folder/wake`, unless `evidence.let_go` came first."""
    body = f"""mark()
{BESIDE}if not op.get_bind().scalar({GATE}):
    Path({str(folder / "asleep")!r}).touch()
    while not Path({str(folder / "wake")!r}).exists():
        time.sleep(0.05)
"""
    return Revision(id, body, header="from pathlib import Path\n")


def watched(id: str = "watched") -> Revision:
    """Make a revision that leaves its mark, and a second one if another session migrates."""
    return Revision(id, "mark()\n" + BESIDE)


def signal_holder(url: str, function: str) -> int:
    """Call `pg_terminate_backend` or `pg_cancel_backend` on the one session that migrates; return its pid."""
    rows = fetch_sync(url, f"SELECT pid, {function}(pid) FROM pg_stat_activity WHERE {MIGRATING}")
    assert [row[1] for row in rows] == [True], rows
    pid: int = rows[0][0]
    return pid


def pids(url: str) -> list[int]:
    """Return the pids of the sessions that migrate."""
    return [row[0] for row in fetch_sync(url, f"SELECT pid FROM pg_stat_activity WHERE {MIGRATING}")]


def writers(url: str) -> int:
    """Return how many migrating sessions are in a transaction that has written something.

    The transaction counts, not the state: a backend that is ending frees its locks before it leaves the list.
    """
    rows = fetch_sync(url, f"SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND {MIGRATING}")
    count: int = rows[0][0]
    return count


def alone_until(url: str, condition: Callable[[], bool], what: str, *, seconds: float) -> None:
    """Wait for `condition`; fail if two migrating sessions ever write at once."""

    def still_alone() -> bool:
        assert writers(url) <= 1, "two sessions migrate at once"
        return condition()

    wait_until(still_alone, what, seconds=seconds)


def all_see_the_held_one(instances: Sequence[Instance]) -> bool:
    """Return whether each instance has read the status since `project.held` began, and knows the lock holder."""
    healths = [instance.health() for instance in instances]
    return all(h and h["progress"]["current"] == "held" and h["lock"]["holder"] for h in healths)
