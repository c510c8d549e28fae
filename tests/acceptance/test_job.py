"""With MIGRATION_STRATEGY=job a separate process migrates before the release, and the instances only verify."""

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
"""The settings that the job and the instances share, as on a platform with one environment for both."""

UPGRADE = ("upgrade", "head")
READER, PASSWORD = f"reader_{os.getpid()}", "reads"


def start_job(url: str, ini: Path, name: str = "the-job", **settings: str) -> "AbstractContextManager[Popen[str]]":
    """Start the job for a `with` block."""
    return start_migrate(*UPGRADE, url=url, ini=ini, MIGRATION_INSTANCE=name, **SAME, **settings)


def run_job(url: str, ini: Path, **settings: str) -> tuple[int, str]:
    """Run the job to its end; return exit code and output."""
    return migrate(*UPGRADE, url=url, ini=ini, MIGRATION_INSTANCE="the-job", **SAME, **settings)


def until_all_say(instances: Sequence[Instance], words: str) -> None:
    """Wait until each instance waits and its message contains `words`."""

    def says(instance: Instance) -> bool:
        health = instance.health()
        return health.get("phase") == "waiting" and words in (health["message"] or "")

    wait_until(lambda: all(map(says, instances)), f"{len(instances)} that say {words!r}", seconds=2 * WAIT_SECONDS)


def until_running(url: str, revision: str) -> None:
    """Wait until a job runs `revision`."""
    wait_until(lambda: evidence.running(url) == [revision], f"revision {revision}", seconds=WAIT_SECONDS)


def assert_they_wait(instances: Sequence[Instance]) -> None:
    """Assert that each instance is alive, unready, and refuses requests with 503."""
    for instance in instances:
        codes = [instance.get(path).status_code for path in ("/health/live", "/health/ready", "/accounts/1")]
        assert codes == [200, 503, 503]


def assert_they_only_verified(instances: Sequence[Instance], url: str) -> None:
    """Assert by logs and history that no instance ran a revision."""
    assert MARK not in "".join(instance.log() for instance in instances)
    assert not evidence.appliers(url) & {instance.name for instance in instances}


def test_the_job_migrates_and_the_instances_only_verify(database_url: str, tmp_path: Path) -> None:
    """Three instances wait for the job and serve after it; a second run of the job finds head and exits with 0."""
    ini = project.make_history(tmp_path, project.held(), project.concurrent_index())
    with fleet(3, database_url, ini=ini, **SAME) as instances:
        until_all_say(instances, "no session holds the lock")
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


def test_one_of_two_jobs_migrates(ledger_url: str, tmp_path: Path) -> None:
    """Two jobs start at once: one migrates, the other waits for it, and both exit with 0."""
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


def test_a_failed_job_keeps_the_instances_unready(ledger_url: str, tmp_path: Path) -> None:
    """The job fails: the instances report its error and keep waiting; they serve once a corrected job has run."""
    failing = project.failing()
    ini = project.make_history(tmp_path, failing)
    with fleet(3, ledger_url, ini=ini, **SAME) as instances:
        until_all_say(instances, "no session holds the lock")
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


def test_the_instances_time_out_with_the_error_of_the_job(ledger_url: str, tmp_path: Path) -> None:
    """The job has failed and no other runs: the instances time out with 143 and log one line with the job's error."""
    ini = project.make_history(tmp_path, project.failing())
    assert run_job(ledger_url, ini)[0] == 1
    limit = f"{scaled(3):g}"
    budgets: dict[str, Any] = {"MIGRATION_WAIT_SECONDS": limit, "MIGRATION_RUN_SECONDS": limit}
    with fleet(3, ledger_url, ini=ini, **budgets, **SAME) as instances:
        assert [instance.wait() for instance in instances] == [143] * 3
        for instance in instances:
            (line,) = (line for line in instance.log().splitlines() if "Not ready: " in line)
            assert f"timed out after MIGRATION_WAIT_SECONDS={limit}" in line
            assert "the last attempt failed: revision failing" in line
            assert "secret-word" not in instance.log()
        assert_they_only_verified(instances, ledger_url)
    assert evidence.outcomes(ledger_url, "failing") == ["failed"]


def test_the_next_job_finishes_a_killed_one(ledger_url: str, tmp_path: Path) -> None:
    """SIGKILL ends the job: the lock is free, the instances stay unready, and only the next job runs the revision."""
    ini = project.make_history(tmp_path, project.quick(), project.held())
    with fleet(3, ledger_url, ini=ini, **SAME) as instances:
        with start_job(ledger_url, ini) as job:
            wait_until(lambda: holders.all_see_the_held_one(instances), "three that look on", seconds=60)
            job.kill()
            assert finish(job)[0] == 128 + signal.SIGKILL
        until_all_say(instances, "no session holds the lock")
        assert_they_wait(instances)
        assert evidence.advisory_locks(ledger_url) == 0
        evidence.let_go(ledger_url)
        code, output = run_job(ledger_url, ini)
        assert (code, output.count(MARK)) == (0, 1), output
        until_all_ready(instances)
        assert_they_only_verified(instances, ledger_url)
    assert evidence.outcomes(ledger_url, "held") == ["interrupted", "applied"]
    assert evidence.marks(ledger_url) == ["held", "quick"]


def test_the_next_job_finishes_a_stopped_one(ledger_url: str, tmp_path: Path) -> None:
    """SIGSTOP: the server ends the job's session and the next job finishes; the first wakes up and applies nothing."""
    ini = project.make_history(tmp_path, project.quick(), project.held())
    with fleet(3, ledger_url, ini=ini, **SAME) as instances:
        with start_job(ledger_url, ini, "stopped", MIGRATION_IDLE_SECONDS=f"{scaled(2):g}") as job:
            wait_until(lambda: holders.all_see_the_held_one(instances), "three that look on", seconds=60)
            job.send_signal(signal.SIGSTOP)
            until_all_say(instances, "no session holds the lock")
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


def test_the_job_of_an_older_image_reports_a_newer_database(ledger_url: str, tmp_path: Path) -> None:
    """On a newer database an older job exits with 0, or with 7 if MIGRATION_ON_AHEAD=refuse, and changes nothing."""
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
    """Yield the URL of a role that may read the version and history tables and may not acquire an advisory lock."""
    name = urlsplit(ledger_url).path[1:]
    server.execute(f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'")
    server.execute(f"GRANT SELECT ON alembic_version, {evidence.HISTORY} TO {READER}", database=name)
    locking = fetch_sync(ledger_url, "SELECT oid::regprocedure FROM pg_proc WHERE proname ~ 'advisory.*lock'")
    for (function,) in locking:
        server.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC", database=name)
    yield server.url(name, user=READER, password=PASSWORD)
    server.execute(f"DROP OWNED BY {READER}", database=name)
    server.execute(f"DROP ROLE {READER}")


def test_an_instance_needs_only_to_read_two_tables(reader_url: str, ledger_url: str, tmp_path: Path) -> None:
    """A role that may only read two tables waits for the job and serves; with another strategy it is refused."""
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
