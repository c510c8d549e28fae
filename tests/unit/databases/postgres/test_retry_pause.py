"""A waiter reads the lock holder's pause between two attempts from the history, unless the row is outdated."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest

from api.migrations.core.batches import as_note, progress
from api.migrations.core.status import Blocker, Holder, LockStatus, Retry, Statement
from api.migrations.databases.postgres.retry_pause import LATE_SECONDS, as_recorded

LUNCH = Blocker(7, "lunch", "me", "idle in transaction", 3.0, "accounts", "AccessExclusiveLock")
GONE = Blocker(8, "gone")
SEEN = LockStatus(Holder("api-1", 99))
LONG = "payments-api-deployment-6d4f8c9b7d-x2k9p-1"


def session(pid: int = 7, **changed: Any) -> dict[str, Any]:
    """Return what the server says about a session: that of `LUNCH`, a second later."""
    fields = {"application": "lunch", "user": "me", "state": "idle in transaction", "seconds": 4.0}
    return {"pid": pid, **fields, "terminate_needs": "superuser", **changed}


def left(
    instance: str = "api-1", ago: float = 1.0, blocked_by: Sequence[Blocker] = (LUNCH, GONE), **changed: Any
) -> dict[str, Any]:
    """Return the newest row of the history: a third attempt failed, and the next one follows after 4 s."""
    note = {"retry": asdict(Retry(3, 4.0)), "blocked_by": [asdict(blocker) for blocker in blocked_by]}
    return {
        "outcome": "retried",
        "instance": instance,
        "note": json.dumps(note),
        "ago": ago,
        "sessions": json.dumps([session(), session(99)]),
        "prepared": False,
        "me": "app",
        **changed,
    }


def test_a_waiter_sees_the_holder_s_pause() -> None:
    """The lock status has the rest of the pause, and the blocking sessions that still exist, with their current age."""
    seen = as_recorded(SEEN, left())
    assert seen.retry == Retry(3, 3.0)
    assert [(blocker.pid, blocker.seconds) for blocker in seen.blocked_by] == [(7, 4.0)]
    assert "attempt 3 did not acquire its table lock; pid 7 (lunch" in str(seen)


@pytest.mark.parametrize(
    ("now", "there"),
    [
        (session(application="api"), False),
        (session(user="other"), False),
        (session(seconds=0.5), False),
        (session(state="idle", seconds=None), False),
        (session(state=None, seconds=None), True),
    ],
    ids=["another name", "another role", "a later transaction", "no transaction", "hidden"],
)
def test_a_session_that_cannot_be_the_blocking_one_is_left_out(now: dict[str, Any], there: bool) -> None:
    """A session that has the pid of a blocking one is left out if it is another one, or if the transaction ended."""
    seen = as_recorded(SEEN, left(sessions=json.dumps([now])))
    assert (bool(seen.blocked_by), seen.grant) == (there, "GRANT pg_read_all_stats TO app" if there else None)


def test_the_rights_are_those_of_the_role_that_looks() -> None:
    """A recorded blocking session has the lock that was recorded, and the rest as this role sees it now."""
    (blocker,) = as_recorded(SEEN, left()).blocked_by
    assert blocker == Blocker(**session(), relation="accounts", mode="AccessExclusiveLock")


@pytest.mark.parametrize("prepared", [True, False])
def test_a_prepared_transaction_is_shown_while_there_is_one(prepared: bool) -> None:
    """A recorded prepared transaction, which has no session, is shown while the database has one."""
    seen = as_recorded(SEEN, left(blocked_by=[Blocker(0, relation="accounts")], prepared=prepared))
    assert [blocker.pid for blocker in seen.blocked_by] == [0] * prepared


def test_a_holder_with_a_long_name_is_matched_by_its_beginning() -> None:
    """The server cuts a session's name: the pause still matches the lock holder with the long name."""
    assert as_recorded(LockStatus(Holder(LONG[:40], 99)), left(LONG)).retry is not None


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
    assert as_recorded(SEEN, row) == SEEN


@pytest.mark.parametrize(
    ("ago", "instance", "shown"), [(None, "api-1", True), (1.0, "api-1", False), (None, "api-10", False)]
)
def test_a_waiter_sees_the_progress_of_batches(ago: float | None, instance: str, shown: bool) -> None:
    """The lock status has the progress that the holder records, unless its attempt ended or is another instance's."""
    batches = progress("postings", 200, 1_000, 200, 1.0)
    row = left(instance, outcome="half_applied", note=as_note(batches)) | {"ago": ago}
    seen = replace(SEEN, statement=Statement("UPDATE"))
    assert as_recorded(seen, row).statement == (batches if shown else Statement("UPDATE"))


def test_a_free_lock_has_no_pause() -> None:
    """A lock without a holder has no pause, whatever the last run left in the history."""
    assert as_recorded(LockStatus(), left()) == LockStatus()
