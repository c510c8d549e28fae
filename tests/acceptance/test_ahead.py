"""A build that is older than the database serves with a warning if the history proves it, and refuses otherwise."""

from pathlib import Path

import pytest

from tests.support import evidence, project
from tests.support.fleet import Instance, alembic, fleet, migrate, until_all_ready, until_phase
from tests.support.servers import fetch_sync

pytestmark = pytest.mark.acceptance

NEWER = "newer"
HEAD = project.head()
STRANGER = "5f0e1dab1e55"


@pytest.fixture
def ahead(ledger_url: str, tmp_path: Path) -> str:
    """Return a database that a newer release has migrated."""
    code, output = migrate("upgrade", url=ledger_url, ini=project.make_history(tmp_path, project.quick(NEWER)))
    assert code == 0, output
    return ledger_url


@pytest.fixture
def diverged(ledger_url: str) -> str:
    """Return a database whose version table names a revision that no history row records."""
    fetch_sync(ledger_url, f"UPDATE alembic_version SET version_num = '{STRANGER}'")
    return ledger_url


def assert_readable(output: str) -> None:
    """Assert that the output contains no traceback and no "Can't locate revision" of Alembic."""
    assert "Can't locate revision" not in output
    assert "Traceback" not in output


def logs(instances: list[Instance]) -> str:
    """Return the logs of all instances as one string."""
    return "".join(instance.log() for instance in instances)


def test_an_older_build_serves_and_warns(ahead: str) -> None:
    """Two instances of an older build start on a newer database: they serve with status `warn` and change nothing."""
    before = evidence.history(ahead)
    with fleet(2, ahead) as instances:
        until_all_ready(instances)
        for instance in instances:
            response = instance.get("/health/migrations")
            body = response.json()
            assert (response.status_code, body["status"], body["state"]) == (200, "warn", "ahead")
            assert body["database"]["revisions"] == [NEWER]
            assert body["expected_heads"] == [HEAD]
            assert f"deploy the release that contains {NEWER}" in body["message"]
            assert instance.get("/health/ready").json()["status"] == "warn"
            assert instance.get("/accounts/1").status_code == 404
            assert "WARNING api.migrations.core.coordinator: Ready: the database is ahead" in instance.log()
        assert_readable(logs(instances))
    assert evidence.history(ahead) == before


def test_an_older_build_refuses_with_on_ahead_refuse(ahead: str) -> None:
    """With MIGRATION_ON_AHEAD=refuse an older build stays unready or exits, and says which release to deploy."""
    with fleet(1, ahead, MIGRATION_ON_AHEAD="refuse", MIGRATION_ON_FAILURE="hold") as instances:
        until_phase(instances, "failed")
        body = instances[0].health()
        assert (body["status"], body["state"]) == ("fail", "ahead")
        assert f"deploy the release that contains {NEWER}" in body["message"]
        assert f"Deploy the release that contains {NEWER}. Do not stamp." in body["advice"]["text"]
        assert instances[0].get("/health/ready").status_code == 503
        assert_readable(logs(instances))
    with fleet(1, ahead, MIGRATION_ON_AHEAD="refuse") as instances:
        assert instances[0].wait() == 143
        assert_readable(logs(instances))
    assert evidence.versions(ahead) == [NEWER]


def test_the_commands_warn_or_refuse_on_a_newer_database(ahead: str) -> None:
    """`upgrade` exits with 0 and warns, or with 7 if MIGRATION_ON_AHEAD=refuse; `check` exits with 7 in both cases."""
    code, output = migrate("upgrade", url=ahead)
    assert (code, f"deploy the release that contains {NEWER}" in output) == (0, True), output
    assert_readable(output)
    for command in ("upgrade", "check"):
        code, output = migrate(command, url=ahead, MIGRATION_ON_AHEAD="refuse")
        assert (code, output.count("SchemaRefused: the database is ahead: it is at newer")) == (7, 1), output
        assert_readable(output)
    assert migrate("check", url=ahead)[0] == 7


@pytest.mark.parametrize("arguments", [("downgrade", "-1", "--yes"), ("upgrade", HEAD)])
def test_no_revision_runs_from_a_revision_this_build_does_not_have(ahead: str, arguments: tuple[str, ...]) -> None:
    """On a newer database an older build's `downgrade` and `upgrade` to its own head exit with 7 and change nothing."""
    before = evidence.history(ahead)
    code, output = migrate(*arguments, url=ahead)
    assert (code, NEWER in output) == (7, True), output
    assert_readable(output)
    assert (evidence.history(ahead), evidence.versions(ahead)) == (before, [NEWER])


def test_instances_refuse_a_revision_without_proof_that_it_is_newer(diverged: str) -> None:
    """The history does not know the database's revision: both instances refuse, and name it and their own head."""
    with fleet(2, diverged, MIGRATION_ON_FAILURE="hold") as instances:
        until_phase(instances, "failed")
        for instance in instances:
            body = instance.health()
            assert (body["status"], body["state"]) == ("fail", "diverged")
            assert STRANGER in body["message"]
            assert HEAD in body["message"]
            assert "deploy the release that contains it" in body["message"]
        assert_readable(logs(instances))
    assert evidence.versions(diverged) == [STRANGER]


@pytest.mark.parametrize("command", ["upgrade", "check", "wait"])
def test_a_command_names_both_revisions_of_a_diverged_database(diverged: str, command: str) -> None:
    """On a diverged database the command exits with 7; its one line names both revisions and the release to deploy."""
    code, output = migrate(command, url=diverged)
    assert code == 7, output
    assert len(output.splitlines()) == 1
    assert STRANGER in output
    assert HEAD in output
    assert "deploy the release that contains it" in output
    assert_readable(output)


def test_a_stamp_from_an_unknown_revision_is_refused(ledger_url: str) -> None:
    """`stamp` exits with 7, names the database's unknown revision and proposes `alembic stamp --purge`, which works."""
    fetch_sync(ledger_url, "UPDATE alembic_version SET version_num = 'of_another_build'")
    code, output = migrate("stamp", "head", url=ledger_url)
    assert (code, "of_another_build" in output, "alembic stamp --purge" in output) == (7, True, True), output
    code, output = alembic("stamp", "--purge", "head", url=ledger_url)
    assert code == 0, output
    assert evidence.versions(ledger_url) == [project.head()]


def test_a_manual_alembic_upgrade_says_which_release_to_deploy(ahead: str) -> None:
    """`alembic upgrade head` of an older build fails, says which release to deploy, and prints no traceback."""
    code, output = alembic("upgrade", "head", url=ahead)
    assert code != 0
    assert f"deploy the release that contains {NEWER}" in output
    assert_readable(output)


@pytest.mark.parametrize("command", ["current", "check"])
def test_a_manual_alembic_read_names_the_unknown_revision(ahead: str, command: str) -> None:
    """On a newer database `alembic current` and `alembic check` print the database's revision and no traceback."""
    _, output = alembic(command, url=ahead)
    assert NEWER in output
    assert_readable(output)
