"""A database that is newer than the build: served if the history proves it, refused otherwise, and always explained."""

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
    """A database that the next release has migrated."""
    code, output = migrate("upgrade", url=ledger_url, ini=project.make_history(tmp_path, project.quick(NEWER)))
    assert code == 0, output
    return ledger_url


@pytest.fixture
def diverged(ledger_url: str) -> str:
    """A database at a revision that nobody has ever recorded."""
    fetch_sync(ledger_url, f"UPDATE alembic_version SET version_num = '{STRANGER}'")
    return ledger_url


def assert_readable(output: str) -> None:
    """No word of what Alembic or Python would say."""
    assert "Can't locate revision" not in output
    assert "Traceback" not in output


def logs(instances: list[Instance]) -> str:
    """All that was written."""
    return "".join(instance.log() for instance in instances)


def test_an_older_build_serves_and_warns(ahead: str) -> None:
    """A rollback, or an old pod that restarts: ready, with `warn`, and nothing is touched."""
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


def test_an_older_build_refuses_if_told_to(ahead: str) -> None:
    """With MIGRATION_ON_AHEAD=refuse it stays unready, or ends, and says what to deploy."""
    with fleet(1, ahead, MIGRATION_ON_AHEAD="refuse", MIGRATION_ON_FAILURE="hold") as instances:
        until_phase(instances, "failed")
        body = instances[0].health()
        assert (body["status"], body["state"]) == ("fail", "ahead")
        assert f"deploy the release that contains {NEWER}" in body["message"]
        assert instances[0].get("/health/ready").status_code == 503
        assert_readable(logs(instances))
    with fleet(1, ahead, MIGRATION_ON_AHEAD="refuse") as instances:
        assert instances[0].wait() == 143
        assert_readable(logs(instances))
    assert evidence.versions(ahead) == [NEWER]


def test_the_commands_serve_or_refuse_alike(ahead: str) -> None:
    """`upgrade` has nothing to do and warns, or refuses with 7; `check` never calls it "at head"."""
    code, output = migrate("upgrade", url=ahead)
    assert (code, f"deploy the release that contains {NEWER}" in output) == (0, True), output
    assert_readable(output)
    for command in ("upgrade", "check"):
        code, output = migrate(command, url=ahead, MIGRATION_ON_AHEAD="refuse")
        assert (code, output.count("SchemaRefused: the database is ahead: it is at newer")) == (7, 1), output
        assert_readable(output)
    assert migrate("check", url=ahead)[0] == 7


@pytest.mark.parametrize("arguments", [("downgrade", "-1", "--yes"), ("upgrade", HEAD)])
def test_nothing_runs_from_a_revision_this_build_does_not_have(ahead: str, arguments: tuple[str, ...]) -> None:
    """An older build can neither undo nor pass by what it does not know."""
    before = evidence.history(ahead)
    code, output = migrate(*arguments, url=ahead)
    assert (code, NEWER in output) == (7, True), output
    assert_readable(output)
    assert (evidence.history(ahead), evidence.versions(ahead)) == (before, [NEWER])


def test_without_proof_it_is_another_line(diverged: str) -> None:
    """Nothing shows that the unknown revision is newer: refused, naming both and what to deploy."""
    with fleet(2, diverged, MIGRATION_ON_FAILURE="hold") as instances:
        until_phase(instances, "failed")
        for instance in instances:
            body = instance.health()
            assert (body["status"], body["state"]) == ("fail", "diverged")
            assert STRANGER in body["message"]
            assert HEAD in body["message"]
            assert "deploy the release that has it" in body["message"]
        assert_readable(logs(instances))
    assert evidence.versions(diverged) == [STRANGER]


@pytest.mark.parametrize("command", ["upgrade", "check", "wait"])
def test_the_commands_name_both_lines(diverged: str, command: str) -> None:
    """Exit 7 and one line."""
    code, output = migrate(command, url=diverged)
    assert code == 7, output
    assert len(output.splitlines()) == 1
    assert STRANGER in output
    assert HEAD in output
    assert "deploy the release that has it" in output
    assert_readable(output)


def test_a_stamp_blames_the_database_and_not_its_target(ledger_url: str) -> None:
    """Where the database is at a revision that this build does not have; and the way that overrides it."""
    fetch_sync(ledger_url, "UPDATE alembic_version SET version_num = 'of_another_build'")
    code, output = migrate("stamp", "head", url=ledger_url)
    assert (code, "of_another_build" in output, "alembic stamp --purge" in output) == (7, True, True), output
    code, output = alembic("stamp", "--purge", "head", url=ledger_url)
    assert code == 0, output
    assert evidence.versions(ledger_url) == [project.head()]


def test_alembic_by_hand_explains_it_too(ahead: str) -> None:
    """`alembic upgrade head`, typed by hand with the older build, ends with the same line."""
    code, output = alembic("upgrade", "head", url=ahead)
    assert code != 0
    assert f"deploy the release that contains {NEWER}" in output
    assert_readable(output)


@pytest.mark.parametrize("command", ["current", "check"])
def test_alembic_reads_by_hand_without_a_traceback(ahead: str, command: str) -> None:
    """Reading commands meet a revision that this build does not have, and say so."""
    _, output = alembic(command, url=ahead)
    assert NEWER in output
    assert_readable(output)
