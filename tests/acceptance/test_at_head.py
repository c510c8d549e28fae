"""At head there is nothing to do, and next to nothing is done: one connection, one query, no lock, no words."""

import pytest

from tests.acceptance.wire import wire
from tests.support import evidence
from tests.support.fleet import MARK, fleet, migrate, until_all_ready

pytestmark = pytest.mark.acceptance


def test_the_wire_sees_everything(ledger_url: str) -> None:
    """A command that is known to ask several questions is counted: the numbers below are not zero by accident."""
    with wire(ledger_url) as (server, url):
        code, output = migrate("stamp", "head", url=url)
        assert code == 0, output
    assert server.connections == 2, "one for the lock and the work, one to verify"
    assert any("pg_try_advisory_lock" in statement for statement in server.statements)


def test_a_start_at_head_takes_one_connection_and_one_query(ledger_url: str) -> None:
    """The service's pool connects with the first request, so all that is counted is the package's."""
    with wire(ledger_url) as (server, url), fleet(1, url) as instances:
        until_all_ready(instances)
        assert len(server.statements) == 1, server.statements
        assert "alembic_version" in server.statements[0]
        assert server.connections == 1
        assert evidence.sessions(ledger_url) == []
        assert instances[0].get("/accounts/1").status_code == 404
        assert server.connections == 2


def test_a_start_without_the_package_takes_none(ledger_url: str) -> None:
    """The baseline: with MIGRATION_STRATEGY=off an instance starts and is ready without the database."""
    with wire(ledger_url) as (server, url), fleet(1, url, MIGRATION_STRATEGY="off") as instances:
        until_all_ready(instances)
        assert instances[0].health()["phase"] == "off"
        assert (server.connections, server.statements) == (0, [])


def test_nobody_takes_the_lock_at_head(ledger_url: str) -> None:
    """Three start at once: no advisory lock is asked for, nothing is written, and nobody says that it migrates."""
    before = evidence.history(ledger_url)
    with wire(ledger_url) as (server, url), fleet(3, url) as instances:
        until_all_ready(instances)
        assert (server.connections, len(server.statements)) == (3, 3)
        assert "advisory" not in "".join(server.statements)
        assert MARK not in "".join(instance.log() for instance in instances)
        assert all("Ready: the database is at head" in instance.log() for instance in instances)
        assert {instance.health()["phase"] for instance in instances} == {"ready"}
    assert evidence.history(ledger_url) == before
