"""What `./dev up` reads from /health/migrations."""

from typing import Any

import pytest

from devtools.report import Report, exited, last_run, read


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"phase": "checking"}, "reading the schema"),
        ({"phase": "waiting", "lock": {"holder": {"instance": "api-2"}}}, "waiting for api-2"),
        ({"phase": "waiting", "lock": {"holder": None}}, "waiting: for the database"),
        ({"phase": "waiting", "message": "attempt 2 is in 8 s"}, "waiting: attempt 2 is in 8 s"),
        ({"phase": "migrating", "progress": {"applied": 0, "total": 6, "current": "a1"}}, "migrating 1 of 6: a1"),
        ({"phase": "migrating", "progress": {"applied": 6, "total": 6, "current": None}}, "migrating 6 of 6"),
        ({"phase": "verifying"}, "verifying the schema"),
        ({}, "starting"),
    ],
)
def test_each_unready_phase_is_described(body: dict[str, Any], words: str) -> None:
    """Each phase before readiness has its own description and is neither ready nor final."""
    report = read(503, body)
    assert report.words == words
    assert not report.ready
    assert not report.over


def test_status_code_200_means_ready() -> None:
    """Status code 200 means ready, and a warning adds its state to the description."""
    assert read(200, {"phase": "ready", "status": "pass"}) == Report("ready", "ready", ready=True, over=True)
    assert read(200, {"phase": "ready", "status": "warn", "state": "ahead"}).words == "ready (ahead)"


def test_a_failed_instance_shows_its_error() -> None:
    """A failed instance that stays up is final, and has the error of its run, or of the one that it waited for."""
    report = read(503, {"phase": "failed", "last_run": {"error": "no such column"}, "message": "not this"})
    assert report == Report("failed", "failed: no such column", over=True, error="no such column")
    assert read(503, {"phase": "failed", "last_run": None, "message": "api-2 failed"}).error == "api-2 failed"
    assert read(503, {"phase": "failed", "last_run": None}).words == "failed: see its log"


def test_a_long_error_is_cut_on_the_line_of_the_instance() -> None:
    """The line of an instance has the beginning of a long error; the report has all of it."""
    report = read(503, {"phase": "failed", "message": "revision a1 " + "word " * 40})
    assert report.words.startswith("failed: revision a1 word")
    assert len(report.words) <= 80
    assert report.error == "revision a1 " + "word " * 40


def test_an_ended_process_shows_its_exit_code_or_signal() -> None:
    """An ended process is described by its exit code or by its signal."""
    assert exited(3).words == "exited with code 3"
    assert exited(-9).words == "ended by SIGKILL"


@pytest.mark.parametrize(("started", "finished"), [(100.0, 102.5), ("2026-01-01T00:00:00Z", "2026-01-01T00:00:02.5Z")])
def test_a_run_shows_revisions_and_seconds(started: object, finished: object) -> None:
    """The last run shows its number of revisions and its seconds, from numbers or from ISO 8601."""
    body = {"applied": ["a", "b"], "started_at": started, "finished_at": finished, "result": "applied"}
    run = last_run({"last_run": body})
    assert str(run) == "2 revisions in 2.5 s"
    assert run
    assert run.succeeded
    failed = last_run({"last_run": {**body, "result": "failed"}})
    assert failed
    assert not failed.succeeded


def test_an_unfinished_run_is_not_shown() -> None:
    """A run without an end is not shown."""
    assert last_run({"last_run": {"applied": [], "started_at": 1.0, "finished_at": None}}) is None
    assert last_run({"last_run": None}) is None
