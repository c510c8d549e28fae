"""Several releases, services or databases are migrated at the same time."""

import os
from pathlib import Path

import pytest

from tests.support import evidence, project
from tests.support.fakes import tree
from tests.support.fleet import Instance, fleet, until_all_ready, until_one_migrates, until_phase
from tests.support.servers import Server, fetch_sync
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

NEWER = "newer"
CREATE_AND_WAIT = """\
op.execute("CREATE TABLE {table} (a int)")
while not op.get_bind().scalar(sa.text("SELECT count(*) FROM pg_class WHERE relname = 'let_go'")):
    op.execute("SELECT pg_sleep(0.05)")
"""


def histories(folder: Path, shared: project.Revision) -> tuple[Path, Path]:
    """Create the histories of an older release and of a newer one, which has one more revision."""
    for name in ("older", "newer"):
        (folder / name).mkdir()
    return (
        project.make_history(folder / "older", shared),
        project.make_history(folder / "newer", shared, project.quick(NEWER)),
    )


def assert_once(url: str, shared: str) -> None:
    """Assert that both revisions were applied by one attempt each, and no lock is left."""
    rows = evidence.history(url, extra_only=True)
    assert [(row["revision"], row["outcome"]) for row in rows] == [(shared, "applied"), (NEWER, "applied")]
    assert evidence.marks(url) == sorted([shared, NEWER])
    assert evidence.versions(url) == [NEWER]
    assert evidence.advisory_locks(url) == 0


def test_two_releases_that_start_at_once_both_become_ready(ledger_url: str, tmp_path: Path) -> None:
    """Two releases start together: all become ready and nothing is applied twice; an older start then warns."""
    older, newer = histories(tmp_path, project.slow("shared", 1.5))
    with fleet(2, ledger_url, ini=older) as old, fleet(2, ledger_url, ini=newer, first=3) as new:
        until_all_ready([*old, *new])
        assert {instance.health()["state"] for instance in new} == {"at_head"}
        # an older instance may have become ready a moment before the newer revision was applied
        assert {instance.health()["state"] for instance in old} <= {"at_head", "ahead"}
    assert_once(ledger_url, "shared")
    with fleet(1, ledger_url, ini=older) as (again,):
        until_all_ready([again])
        assert (again.health()["status"], again.health()["state"]) == ("warn", "ahead")
    assert_once(ledger_url, "shared")


def test_an_older_release_waits_while_a_newer_one_migrates(ledger_url: str, tmp_path: Path) -> None:
    """The older release is unready and names the lock holder; after the migration it serves, with a warning."""
    older, newer = histories(tmp_path, project.held("shared"))
    with fleet(1, ledger_url, ini=newer) as new:
        until_one_migrates(new)
        # woken by the notification alone, it does not read the version between the two revisions
        with fleet(2, ledger_url, ini=older, first=2, MIGRATION_POLL_SECONDS="60") as old:
            until_listening(ledger_url, old)
            for instance in old:
                assert instance.get("/health/ready").status_code == 503
                assert instance.health()["lock"]["holder"]["instance"] == new[0].name
            evidence.let_go(ledger_url)
            until_all_ready([*old, *new])
            for instance in old:
                body = instance.health()
                assert (body["status"], body["state"]) == ("warn", "ahead")
                assert f"deploy the release that contains {NEWER}" in body["message"]
            assert (new[0].health()["status"], new[0].health()["state"]) == ("pass", "at_head")
    assert_once(ledger_url, "shared")
    assert evidence.appliers(ledger_url) >= {"api-1"}
    assert not evidence.appliers(ledger_url) & {"api-2", "api-3"}


def until_listening(url: str, instances: list[Instance]) -> None:
    """Wait until each instance waits for the lock holder's notification."""
    until_phase(instances, "waiting")
    quiet = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle' "
        "AND application_name LIKE 'migrations:%:waiting:%' AND state_change < now() - interval '1 second'"
    )

    def all_listen() -> bool:
        return bool(fetch_sync(url, quiet)[0][0] >= len(instances))

    wait_until(all_listen, f"{len(instances)} listening", seconds=60)


def test_two_services_in_one_database_migrate_at_once(database_url: str, tmp_path: Path) -> None:
    """Two services with their own version tables share a database: they have two locks and migrate at the same time."""
    names = ("billing", "shipping")
    inis = [tree(tmp_path / name, CREATE_AND_WAIT.format(table=name)) for name in names]
    with (
        fleet(2, database_url, ini=inis[0], MIGRATION_VERSION_TABLE="billing_version") as one,
        fleet(
            2,
            database_url,
            ini=inis[1],
            first=3,
            MIGRATION_VERSION_TABLE="shipping_version",
            MIGRATION_LOCK_NAME="shipping",
        ) as other,
    ):
        until_both_migrate(one, other)
        evidence.let_go(database_url)
        until_all_ready([*one, *other])
        assert one[0].health()["lock"]["key"] != other[0].health()["lock"]["key"]
    for name in names:
        assert [tuple(row) for row in fetch_sync(database_url, f"SELECT * FROM {name}_version")] == [("r1",)]
        rows = fetch_sync(database_url, f"SELECT revision, outcome FROM {name}_version_history")
        assert [tuple(row) for row in rows] == [("r1", "applied")]


def test_one_service_has_a_lock_per_database(server: Server, template: str, ledger_url: str, tmp_path: Path) -> None:
    """One service has two databases: the same lock name gives two locks, and neither migration waits for the other."""
    ini = project.make_history(tmp_path, project.held())
    with server.database(f"second_{os.getpid()}", template=template) as second_url:
        with fleet(2, ledger_url, ini=ini) as one, fleet(2, second_url, ini=ini, first=3) as other:
            until_both_migrate(one, other)
            evidence.let_go(second_url)
            until_all_ready(other)
            assert until_one_migrates(one) in one
            evidence.let_go(ledger_url)
            until_all_ready(one)
        for url in (ledger_url, second_url):
            assert evidence.outcomes(url, "held") == ["applied"]
            assert evidence.marks(url) == ["held"]


def until_both_migrate(one: list[Instance], other: list[Instance]) -> None:
    """Wait until one instance of each fleet is inside its revision at the same moment."""

    def both() -> bool:
        return all(any(instance.phase() == "migrating" for instance in each) for each in (one, other))

    wait_until(both, "two that migrate at the same time", seconds=60)
