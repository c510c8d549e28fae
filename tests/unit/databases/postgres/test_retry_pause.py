"""A waiter reads the lock holder's pause between two attempts from the history, unless the row is outdated."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from api.migrations.core.status import Blocker, Holder, LockStatus, Retry
from api.migrations.databases.postgres.retry_pause import LATE_SECONDS, resting

LUNCH = Blocker(7, "lunch", "me", "idle in transaction", 3.0, "accounts", "AccessExclusiveLock")
GONE = Blocker(8, "gone")
SEEN = LockStatus(Holder("api-1", 99))
LONG = "payments-api-deployment-6d4f8c9b7d-x2k9p-1"


def left(instance: str = "api-1", ago: float = 1.0, **changed: Any) -> dict[str, Any]:
    """Return the newest row of the history: a third attempt failed, and the next one follows after 4 s."""
    note = {"retry": asdict(Retry(3, 4.0)), "blocked_by": [asdict(LUNCH), asdict(GONE)]}
    return {
        "outcome": "retried",
        "instance": instance,
        "note": json.dumps(note),
        "ago": ago,
        "alive": [7, 99],
        **changed,
    }


def test_a_waiter_sees_the_holder_s_pause() -> None:
    """The lock status has the rest of the pause, and the blocking sessions that still exist, with their current age."""
    seen = resting(SEEN, left())
    assert seen.retry == Retry(3, 3.0)
    assert [(blocker.pid, blocker.seconds) for blocker in seen.blocked_by] == [(7, 4.0)]
    assert "attempt 3 did not acquire its table lock; pid 7 (lunch" in str(seen)


def test_a_holder_with_a_long_name_is_matched_by_its_beginning() -> None:
    """The server cuts a session's name: the pause still matches the lock holder with the long name."""
    assert resting(LockStatus(Holder(LONG[:40], 99)), left(LONG)).retry is not None


@pytest.mark.parametrize(
    "row",
    [
        None,
        left(outcome="running"),
        left(note=None),
        left("api-10"),
        left(ago=4.0 + LATE_SECONDS + 1),
        left(note="not JSON"),
        left(note='{"retry": {"attempt": 3, "seconds": 4, "reason": "of a later release"}, "blocked_by": []}'),
        left(note='{"blocked_by": []}'),
    ],
    ids=[
        "no history",
        "at work",
        "no note",
        "of another",
        "of a dead run",
        "no JSON",
        "of another release",
        "no retry",
    ],
)
def test_a_row_that_is_not_the_holder_s_current_pause_is_ignored(row: dict[str, Any] | None) -> None:
    """A row of another instance, an ended run or an unknown format does not change the lock status."""
    assert resting(SEEN, row) == SEEN


def test_a_free_lock_has_no_pause() -> None:
    """A lock without a holder has no pause, whatever the last run left in the history."""
    assert resting(LockStatus(), left()) == LockStatus()
