"""`status` says for how long the lock holder has been blocked, and when its run gives up."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from api.migrations.cli.countdown import countdown_of
from api.migrations.core.status import Blocker, Holder, LockStatus, Statement

MINUTE = 60.0
BLOCKED = (Blocker(77, "reports"),)


def row(minutes_ago: float, revision: str = "b", outcome: str = "retried", **changed: Any) -> dict[str, Any]:
    """Return a row of the history table that began so long ago."""
    began = datetime.fromtimestamp(time.time() - minutes_ago * MINUTE, UTC)
    row = {"revision": revision, "outcome": outcome, "direction": "upgrade", "instance": "web-1", "started_at": began}
    return row | changed


def seen(**changed: Any) -> LockStatus:
    """Return the status of a lock whose holder connected 30 minutes ago."""
    return LockStatus(Holder("web-1", 7, time.time() - 30 * MINUTE), **changed)


def test_the_run_of_the_holder_gives_up_by_the_command_s_setting() -> None:
    """A run that began 3 minutes ago, blocked for 2 of them, gives up 22 minutes from now; older rows do not count."""
    rows = [row(1), row(2), row(3, "a", "applied"), row(40, "z", "failed")]
    words = countdown_of(seen(blocked_by=BLOCKED), rows, 25 * MINUTE)
    assert words is not None
    assert words.startswith("blocked for 2 min, gives up in 22 min (MIGRATION_RUN_SECONDS=1500, if the lock holder ")


def test_a_statement_that_waits_counts_from_its_start() -> None:
    """Without retries the blockage counts from the start of the statement that waits."""
    lock_status = seen(blocked_by=BLOCKED, statement=Statement("ALTER TABLE", seconds=4 * MINUTE))
    words = countdown_of(lock_status, [row(5, outcome="running")], 25 * MINUTE)
    assert words is not None
    assert words.startswith("blocked for 4 min, gives up in 20 min")


def test_a_run_that_is_not_blocked_only_gives_up() -> None:
    """A run that is not blocked has no time of a blockage, although its revision was retried."""
    words = countdown_of(seen(), [row(1, outcome="running"), row(5)], 25 * MINUTE)
    assert words is not None
    assert words.startswith("gives up in 20 min")


@pytest.mark.parametrize(
    ("lock_status", "rows"),
    [
        (LockStatus(), [row(1)]),
        (LockStatus(Holder("web-1", 7)), [row(1)]),
        (seen(), []),
        (seen(), [row(1, instance="web-2")]),
        (seen(), [row(1, direction="backup")]),
    ],
    ids=["no holder", "no time", "no history", "of another instance", "a backup"],
)
def test_without_a_run_there_is_no_countdown(lock_status: LockStatus, rows: list[dict[str, Any]]) -> None:
    """Without a run of the lock holder in the history there is no countdown."""
    assert countdown_of(lock_status, rows, 25 * MINUTE) is None
