"""Five instances start at once on an empty database: one migrates, four wait, and none serves before it is done."""

from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.acceptance import holders
from tests.support import evidence, project
from tests.support.extra_revisions import EXTRA, assert_applied_once
from tests.support.fleet import (
    MARK,
    Instance,
    fleet,
    until_all_ready,
    until_one_migrates,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

LEDGER = "/accounts/1"


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    """Create the project's history plus a slow revision, a held one, and an index that is built concurrently."""
    return project.make_history(tmp_path, *EXTRA)


def assert_one_migrated(instances: Sequence[Instance], url: str) -> None:
    """Assert that exactly one log says that migrations ran, that of the instance in the history."""
    counts = {instance.name: instance.log().count(MARK) for instance in instances}
    assert sorted(counts.values()) == [0] * (len(instances) - 1) + [1]
    assert {name for name, count in counts.items() if count} == evidence.appliers(url)


def retry_after(response: httpx.Response) -> int:
    """Return the Retry-After header in seconds; assert that the response must not be cached."""
    assert response.headers["cache-control"] == "no-store"
    return int(response.headers["retry-after"])


def assert_closed(instance: Instance, holder: Instance, total: int) -> None:
    """Assert what an instance answers to probes and clients while `holder` migrates."""
    assert instance.get("/health/live").status_code == 200
    ready = instance.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "fail")
    assert retry_after(ready) > 0
    migrations = instance.get("/health/migrations")
    assert (migrations.status_code, migrations.json()["status"]) == (503, "fail")
    assert retry_after(migrations) > 0
    body = migrations.json()
    assert body["instance"] == instance.name
    assert body["lock"]["holder"]["instance"] == holder.name
    assert body["lock"]["held"] is (instance is holder)
    assert body["progress"]["current"] == "held"
    assert 0 < body["progress"]["applied"] < body["progress"]["total"] <= total
    refused = instance.get(LEDGER)
    assert (refused.status_code, refused.json()["status"]) == (503, 503)
    assert refused.headers["content-type"] == "application/problem+json"
    assert retry_after(refused) > 0


def assert_serves(instance: Instance) -> None:
    """Assert that every probe passes and the ledger takes requests."""
    for path in ("/health/live", "/health/ready", "/health/migrations"):
        response = instance.get(path)
        assert (response.status_code, response.json()["status"]) == (200, "pass")
        assert response.headers["cache-control"] == "no-store"
    opened = instance.post("/accounts", {"name": instance.name, "currency": "EUR"})
    assert opened.status_code == 201
    assert instance.get(opened.headers["location"]).json()["name"] == instance.name


def test_one_of_five_instances_migrates(database_url: str, ini: Path) -> None:
    """Five instances start: all are alive and unready while one migrates, then all serve; nothing is applied twice."""
    with fleet(5, database_url, ini=ini) as instances:
        holder = until_one_migrates(instances)
        wait_until(lambda: holders.all_see_the_held_one(instances), "five that look on", seconds=60)
        for instance in instances:
            assert_closed(instance, holder, len(project.revisions(ini)))
        assert evidence.advisory_locks(database_url) == 1
        evidence.let_go(database_url)
        until_all_ready(instances)
        assert_one_migrated(instances, database_url)
        for instance in instances:
            assert_serves(instance)
    assert_applied_once(database_url, ini)


def test_in_block_mode_no_instance_listens_before_the_schema_is_ready(database_url: str, ini: Path) -> None:
    """Three instances start in mode `block`: none opens its port until one has migrated, then all serve."""
    with fleet(3, database_url, ini=ini, MIGRATION_STARTUP_MODE="block") as instances:
        wait_until(lambda: "held" in evidence.running(database_url), "the held revision", seconds=60)
        wait_until(lambda: len(evidence.sessions(database_url)) == 3, "three sessions", seconds=60)
        for instance in instances:
            with pytest.raises(httpx.ConnectError):
                instance.get("/health/live")
        evidence.let_go(database_url)
        until_all_ready(instances)
        assert_one_migrated(instances, database_url)
        for instance in instances:
            assert_serves(instance)
    assert_applied_once(database_url, ini)
