"""MIGRATION_STRATEGY=job: a process of its own migrates before the release, and the instances only verify."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.acceptance import holders
from tests.support import evidence, project
from tests.support.fleet import (
    MARK,
    WAIT_SECONDS,
    Instance,
    finish,
    fleet,
    migrate,
    start_migrate,
    until_all_ready,
)
from tests.support.pace import scaled
from tests.support.servers import Server, fetch_sync
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

SAME: dict[str, Any] = {"MIGRATION_STRATEGY": "job"}
"""What the job and the instances have in common, as on a platform with one environment for both."""

UPGRADE = ("upgrade", "head")
READER, PASSWORD = f"reader_{os.getpid()}", "reads"


def start_job(url: str, ini: Path, name: str = "the-job", **settings: str) -> "AbstractContextManager[Popen[str]]":
    """The job, for a `with`."""
    return start_migrate(*UPGRADE, url=url, ini=ini, MIGRATION_INSTANCE=name, **SAME, **settings)


def run_job(url: str, ini: Path, **settings: str) -> tuple[int, str]:
    """The job from start to end: exit code and output."""
    return migrate(*UPGRADE, url=url, ini=ini, MIGRATION_INSTANCE="the-job", **SAME, **settings)


def until_all_say(instances: Sequence[Instance], words: str) -> None:
    """Wait until each is waiting and says why."""

    def says(instance: Instance) -> bool:
        health = instance.health()
        return health.get("phase") == "waiting" and words in (health["message"] or "")

    wait_until(lambda: all(map(says, instances)), f"{len(instances)} that say {words!r}", seconds=2 * WAIT_SECONDS)


def until_running(url: str, revision: str) -> None:
    """Wait until a job is inside a revision."""
    wait_until(lambda: evidence.running(url) == [revision], f"revision {revision}", seconds=WAIT_SECONDS)


def assert_they_wait(instances: Sequence[Instance]) -> None:
    """Each is alive, unready, and behind its gate."""
    for instance in instances:
        codes = [instance.get(path).status_code for path in ("/health/live", "/health/ready", "/accounts/1")]
        assert codes == [200, 503, 503]


def assert_they_only_verified(instances: Sequence[Instance], url: str) -> None:
    """None of them ran anything, by its log and by the history."""
    assert MARK not in "".join(instance.log() for instance in instances)
    assert not evidence.appliers(url) & {instance.name for instance in instances}


def test_the_job_migrates_and_the_instances_only_verify(database_url: str, tmp_path: Path) -> None:
    """Three wait for it, see it, and serve after it; a second run of it finds nothing to do and ends with 0."""
    ini = project.make_history(tmp_path, project.held(), project.concurrent_index())
    with fleet(3, database_url, ini=ini, **SAME) as instances:
        until_all_say(instances, "nobody holds the lock")
        assert_they_wait(instances)
        assert (evidence.history(database_url), evidence.advisory_locks(database_url)) == ([], 0)
        with start_job(database_url, ini) as job:
            wait_until(lambda: holders.all_see_the_held_one(instances), "three that look on", seconds=60)
            assert {i.health()["lock"]["holder"]["instance"] for i in instances} == {"the-job"}
            assert_they_wait(instances)
            evidence.let_go(database_url)
            code, output = finish(job)
        assert (code, output.count(MARK)) == (0, 1), output
        until_all_ready(instances)
        assert_they_only_verified(instances, database_url)
    done = evidence.history(database_url)
    assert evidence.applied(database_url) == project.revisions(ini)
    assert evidence.invalid_indexes(database_url) == []
    code, output = run_job(database_url, ini)
    assert (code, MARK in output, "at head" in output) == (0, False, True), output
    assert (evidence.history(database_url), evidence.advisory_locks(database_url)) == (done, 0)


def test_two_jobs_at_once(ledger_url: str, tmp_path: Path) -> None:
    """A deploy that was started twice: one migrates, the other waits for it, and both end with 0."""
    ini = project.make_history(tmp_path, project.held(), project.quick())
    with start_job(ledger_url, ini, "job-1") as one, start_job(ledger_url, ini, "job-2") as two:
        until_running(ledger_url, "held")
        wait_until(lambda: len(evidence.sessions(ledger_url)) == 2, "two sessions", seconds=WAIT_SECONDS)
        evidence.let_go(ledger_url)
        ends = [finish(one), finish(two)]
    assert [code for code, _ in ends] == [0, 0], ends
    assert sorted(output.count(MARK) for _, output in ends) == [0, 1], ends
    assert evidence.marks(ledger_url) == ["held", "quick"]
    assert len({row["instance"] for row in evidence.history(ledger_url, extra_only=True)}) == 1


def test_a_job_that_fails_keeps_them_unready(ledger_url: str, tmp_path: Path) -> None:
    """It ends with 1, they say its error and go on waiting; the next job, with the revision mended, lets them serve."""
    failing = project.failing()
    ini = project.make_history(tmp_path, failing)
    with fleet(3, ledger_url, ini=ini, **SAME) as instances:
        until_all_say(instances, "nobody holds the lock")
        code, output = run_job(ledger_url, ini)
        assert (code, "RevisionFailed: revision failing" in output) == (1, True), output
        until_all_say(instances, "the last attempt failed: revision failing")
        assert_they_wait(instances)
        mended = project.quick(failing.id)
        project.revision_file(ini, mended).write_text(mended.source(project.head()))
        code, output = run_job(ledger_url, ini)
        assert code == 0, output
        until_all_ready(instances)
        assert_they_only_verified(instances, ledger_url)
    assert evidence.outcomes(ledger_url, failing.id) == ["failed", "applied"]


def test_they_give_up_with_the_error_of_the_job(ledger_url: str, tmp_path: Path) -> None:
    """At the end of their budget they end with a code that is not zero, and the last line of each says why."""
    ini = project.make_history(tmp_path, project.failing())
    assert run_job(ledger_url, ini)[0] == 1
    limit = f"{scaled(3):g}"
    budgets: dict[str, Any] = {"MIGRATION_WAIT_SECONDS": limit, "MIGRATION_RUN_SECONDS": limit}
    with fleet(3, ledger_url, ini=ini, **budgets, **SAME) as instances:
        assert [instance.wait() for instance in instances] == [143] * 3
        for instance in instances:
            (line,) = (line for line in instance.log().splitlines() if "Not ready: " in line)
            assert f"gave up after MIGRATION_WAIT_SECONDS={limit}" in line
            assert "the last attempt failed: revision failing" in line
            assert "secret-word" not in instance.log()
        assert_they_only_verified(instances, ledger_url)
    assert evidence.outcomes(ledger_url, "failing") == ["failed"]


def test_a_job_that_is_killed_is_finished_by_the_next(ledger_url: str, tmp_path: Path) -> None:
    """SIGKILL in mid-run: they stay unready with the lock free, and nobody but the next job takes it."""
    ini = project.make_history(tmp_path, project.quick(), project.held())
    with fleet(3, ledger_url, ini=ini, **SAME) as instances:
        with start_job(ledger_url, ini) as job:
            wait_until(lambda: holders.all_see_the_held_one(instances), "three that look on", seconds=60)
            job.kill()
            assert finish(job)[0] == 128 + signal.SIGKILL
        until_all_say(instances, "nobody holds the lock")
        assert_they_wait(instances)
        assert evidence.advisory_locks(ledger_url) == 0
        evidence.let_go(ledger_url)
        code, output = run_job(ledger_url, ini)
        assert (code, output.count(MARK)) == (0, 1), output
        until_all_ready(instances)
        assert_they_only_verified(instances, ledger_url)
    assert evidence.outcomes(ledger_url, "held") == ["interrupted", "applied"]
    assert evidence.marks(ledger_url) == ["held", "quick"]


def test_a_job_that_is_stopped_is_finished_by_the_next(ledger_url: str, tmp_path: Path) -> None:
    """SIGSTOP in mid-run: the server frees its lock when its time is up; once it wakes up, it finds all of it done."""
    ini = project.make_history(tmp_path, project.quick(), project.held())
    with fleet(3, ledger_url, ini=ini, **SAME) as instances:
        with start_job(ledger_url, ini, "stopped", MIGRATION_IDLE_SECONDS=f"{scaled(2):g}") as job:
            wait_until(lambda: holders.all_see_the_held_one(instances), "three that look on", seconds=60)
            job.send_signal(signal.SIGSTOP)
            until_all_say(instances, "nobody holds the lock")
            assert_they_wait(instances)
            evidence.let_go(ledger_url)
            code, output = run_job(ledger_url, ini)
            assert (code, output.count(MARK)) == (0, 1), output
            until_all_ready(instances)
            done = evidence.history(ledger_url)
            job.send_signal(signal.SIGCONT)
            code, output = finish(job)
        assert (code, output.count(MARK)) == (0, 1), output
        assert_they_only_verified(instances, ledger_url)
    assert (evidence.history(ledger_url), evidence.advisory_locks(ledger_url)) == (done, 0)
    assert [row["outcome"] for row in done if row["revision"] == "held"] == ["interrupted", "applied"]
    assert evidence.marks(ledger_url) == ["held", "quick"]


def test_the_job_of_an_older_image_says_that_the_database_is_newer(ledger_url: str, tmp_path: Path) -> None:
    """A rollback's job changes nothing and lets the older release serve, or ends with 7 where that is refused."""
    assert run_job(ledger_url, project.make_history(tmp_path, project.quick("newer")))[0] == 0
    before = evidence.history(ledger_url)
    words = "the database is ahead: it is at newer, which this build"
    code, output = run_job(ledger_url, project.PLAIN)
    assert (code, words in output) == (0, True), output
    code, output = run_job(ledger_url, project.PLAIN, MIGRATION_ON_AHEAD="refuse")
    assert (code, words in output) == (7, True), output
    assert (evidence.history(ledger_url), evidence.versions(ledger_url)) == (before, ["newer"])


@pytest.fixture
def reader_url(server: Server, ledger_url: str) -> Iterator[str]:
    """A role that may read the version and history tables; nobody but the superuser may take an advisory lock."""
    name = urlsplit(ledger_url).path[1:]
    server.execute(f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'")
    server.execute(f"GRANT SELECT ON alembic_version, {evidence.HISTORY} TO {READER}", database=name)
    locking = fetch_sync(ledger_url, "SELECT oid::regprocedure FROM pg_proc WHERE proname ~ 'advisory.*lock'")
    for (function,) in locking:
        server.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC", database=name)
    yield server.url(name, user=READER, password=PASSWORD)
    server.execute(f"DROP OWNED BY {READER}", database=name)
    server.execute(f"DROP ROLE {READER}")


def test_reading_two_tables_is_enough(reader_url: str, ledger_url: str, tmp_path: Path) -> None:
    """A role that may do nothing else, and would be refused if it tried the lock, waits for the job and serves."""
    ini = project.make_history(tmp_path, project.held())
    with fleet(2, reader_url, ini=ini, **SAME) as instances:
        with start_job(ledger_url, ini) as job:
            wait_until(lambda: holders.all_see_the_held_one(instances), "two that look on", seconds=60)
            evidence.let_go(ledger_url)
            assert finish(job)[0] == 0
        until_all_ready(instances)
        assert_they_only_verified(instances, ledger_url)
    further = project.make_history(tmp_path / "further", project.held(), project.quick())
    with fleet(1, reader_url, ini=further) as (tries,):
        assert tries.wait() == 143
        assert "permission denied for function pg_try_advisory_lock" in tries.log()
