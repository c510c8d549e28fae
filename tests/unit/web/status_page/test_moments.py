"""What the status page says of now, of then and of later: a failure, an outage, a countdown, retries."""

from dataclasses import replace

import pytest

from api.migrations.core.schema import Recorded, Schema
from api.migrations.core.status import Blocker, Holder, Limit, LockStatus, Phase, Retry, Status, Tracker
from tests.support.page import NOW, drawn
from tests.support.statuses import STATUS


def failed(**changes: object) -> Status:
    """Return the status of an instance that failed 5 s ago, while another session blocked it."""
    tracker = Tracker()
    tracker.status = STATUS
    tracker.move(Phase.FAILED, message="b was cancelled")
    return replace(tracker.status, since=NOW - 5, **changes)  # type: ignore[arg-type]


def test_a_failed_instance_says_nothing_in_the_present_tense() -> None:
    """The page of a failed instance has the time of the failure, and the blocking session only as seen before it."""
    page = drawn(failed())
    assert "Failed at 22:15:00 UTC, not ready" in page.text
    for words in (
        "blocks",
        "executes",
        "lock held by",
        "next attempt",
        "migrating",
        "gives up",
        "looks at the database",
    ):
        assert words not in page.text, words
    assert "Last seen before 22:15:00 UTC; it may have changed since" in page.text
    assert "blocked by pid 77 (reports, user app, idle in transaction for 12 s) blocked AccessExclusive" in page.text
    assert "lock was held by web-1 (pid 4242)" in page.text


@pytest.mark.parametrize(
    ("read_at", "words"),
    [
        (NOW - 10, "As read at 22:14:55 UTC, before the failure. c d"),
        (NOW - 2, "As read at 22:15:03 UTC. c d"),
        (None, "As read before the failure. c d"),
    ],
)
def test_the_pending_list_of_a_failed_instance_has_a_time(read_at: float | None, words: str) -> None:
    """The page of a failed instance says when the pending revisions were read, and whether before the failure."""
    page = drawn(failed(read_at=read_at))
    assert words in page.text
    assert page.all("progress") == []


def test_a_held_instance_shows_another_run_as_just_seen() -> None:
    """The page of a held instance says that it looks at the database, and shows the run that it has just seen."""
    text = drawn(failed(held=True, read_at=NOW - 1, lock_status=LockStatus(Holder("person", 9)))).text
    assert "This instance looks at the database every few seconds, and becomes ready when it is at head." in text
    assert "read 22:15:04 UTC, 1.0 s ago" in text
    assert "held by person session pid 9" in text


def test_an_unreachable_database_is_called_so() -> None:
    """The page of an instance that never reached the database shows no revision of it, since when, and until when."""
    limit = Limit(NOW + 60, "MIGRATION_WAIT_SECONDS")
    schema = Schema(heads=frozenset({"d"}))
    status = Status(Phase.CHECKING, reachable=False, unreachable_since=NOW - 45, limit=limit, schema=schema)
    text = drawn(status).text
    assert "The database is unreachable" in text
    assert "unreachable since 22:14:20 UTC (45 s), retried until 22:16:05 UTC database not read yet" in text
    assert "→" not in text


def test_an_outage_leaves_what_was_read_with_its_time() -> None:
    """The page of an instance that lost the database shows when it read the revisions."""
    text = drawn(replace(STATUS, reachable=False, unreachable_since=NOW - 1, lock_status=LockStatus())).text
    assert "unreachable since 22:15:04 UTC (1.0 s), retried until 22:19:10 UTC database a, b → d" in text
    assert "read 22:15:04 UTC, 1.0 s ago" in text


def test_a_countdown_says_since_when_and_until_when() -> None:
    """The page says for how long the migration has been blocked, when the instance gives up, and by which setting."""
    limit = Limit(NOW + 1320, "MIGRATION_RUN_SECONDS")
    text = drawn(replace(STATUS, blocked_since=NOW - 180, limit=limit)).text
    assert "Blocked for 3 min, gives up in 22 min (MIGRATION_RUN_SECONDS)." in text


def test_the_next_attempt_has_one_time() -> None:
    """The page shows the time of the next attempt once, although the lock holder's pause has one too."""
    lock_status = replace(STATUS.lock_status, statement=None, retry=Retry(2, 4.0))
    text = drawn(replace(STATUS, message=str(lock_status), lock_status=lock_status)).text
    assert text.count(" in 5.0 s") == 1
    assert "4 s" not in text


@pytest.mark.parametrize(
    ("relation", "words"),
    [
        ("accounts", "blocks the migration, which needs AccessExclusiveLock on accounts"),
        (None, "blocks the migration, until this session's transaction ends"),
    ],
)
def test_a_blocking_session_blocks_the_migration(relation: str | None, words: str) -> None:
    """The page says what a session blocks: the migration, which needs a table or the end of that transaction."""
    blocker = Blocker(77, "reports", "app", "idle in transaction", 12.5, relation, "AccessExclusiveLock")
    assert words in drawn(replace(STATUS, lock_status=LockStatus(blocked_by=(blocker,)))).text


def test_sessions_of_an_old_build_block_until_it_stops() -> None:
    """The page names the build, how many sessions it has, and what it lacks."""
    blocker = Blocker(77, "shop@a", "app", lacks="b", sessions=3)
    text = drawn(replace(STATUS, lock_status=LockStatus(blocked_by=(blocker,)))).text
    assert "shop@a pid 77 sessions 3 user app" in text
    assert "blocks the migration, until its instance stops, because its build lacks b" in text


def test_the_retries_of_a_revision_are_one_row() -> None:
    """The history shows consecutive retries of a revision as one row with their number and whole duration."""
    retried = [Recorded("c", "upgrade", "retried", "web-1", NOW - 10 * n, 2.0) for n in range(1, 6)]
    rows = (Recorded("c", "upgrade", "applied", "web-1", NOW, 1.0), *retried)
    text = drawn(Status(Phase.READY, recent=(*rows, Recorded("b", "upgrade", "retried", "web-1", NOW - 99, 2.0)))).text
    assert "c retried 5 times 2023-11-14 22:14:15 UTC, 42 s, web-1 b retried 2023-11-14 22:13:26 UTC" in text


def test_the_retries_of_an_upgrade_and_of_a_downgrade_are_two_rows() -> None:
    """The page counts the retries of a downgrade apart from those of the upgrade of the same revision."""
    rows = tuple(Recorded("c", way, "retried", "web-1", NOW - 10, 2.0) for way in ("downgrade", "upgrade", "upgrade"))
    text = drawn(Status(Phase.READY, recent=rows)).text
    assert "c downgrade, retried" in text
    assert "c retried 2 times" in text
