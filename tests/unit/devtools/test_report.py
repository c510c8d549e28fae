"""What ./dev up reads out of /health/migrations."""

from typing import Any

import pytest

from devtools.report import Report, exited, last_run, read


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"phase": "checking"}, "reading the schema"),
        ({"phase": "waiting", "lock": {"holder": {"instance": "api-2"}}}, "waiting for api-2"),
        ({"phase": "waiting", "lock": {"holder": None}}, "waiting"),
        ({"phase": "migrating", "progress": {"applied": 0, "total": 6, "current": "a1"}}, "migrating 1 of 6: a1"),
        ({"phase": "migrating", "progress": {"applied": 6, "total": 6, "current": None}}, "migrating 6 of 6"),
        ({"phase": "verifying"}, "verifying the schema"),
        ({}, "starting"),
    ],
)
def test_an_unready_instance_in_words(body: dict[str, Any], words: str) -> None:
    """Each phase on the way to ready has words of its own, and none of them ends the watch."""
    report = read(503, body)
    assert report.words == words
    assert not report.ready
    assert not report.over


def test_ready_is_what_the_status_code_says() -> None:
    """200 means ready, with the reason when it comes with a warning."""
    assert read(200, {"phase": "ready", "status": "pass"}) == Report("ready", "ready", ready=True, over=True)
    assert read(200, {"phase": "ready", "status": "warn", "state": "ahead"}).words == "ready (ahead)"


def test_a_failure_shows_its_error() -> None:
    """An instance that holds after a failure is over, and says why."""
    report = read(503, {"phase": "failed", "last_run": {"error": "no such column"}})
    assert report == Report("failed", "failed: no such column", over=True)
    assert read(503, {"phase": "failed", "last_run": None}).words == "failed: see its log"


def test_an_ended_process_shows_how() -> None:
    """An exit code and a signal read differently."""
    assert exited(3).words == "exited with code 3"
    assert exited(-9).words == "ended by SIGKILL"


@pytest.mark.parametrize(("started", "finished"), [(100.0, 102.5), ("2026-01-01T00:00:00Z", "2026-01-01T00:00:02.5Z")])
def test_a_run_tells_revisions_and_seconds(started: object, finished: object) -> None:
    """Times may be numbers or ISO 8601."""
    body = {"last_run": {"applied": ["a", "b"], "started_at": started, "finished_at": finished}}
    assert str(last_run(body)) == "2 revisions in 2.5 s"


def test_an_unfinished_run_tells_nothing() -> None:
    """A start without an end has no duration."""
    assert last_run({"last_run": {"applied": [], "started_at": 1.0, "finished_at": None}}) is None
    assert last_run({"last_run": None}) is None
