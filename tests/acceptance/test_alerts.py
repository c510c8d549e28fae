"""A real Prometheus evaluates the alert rules on a real fleet whose migration another session blocks."""

import logging
import re
from pathlib import Path

import pytest

from tests.support import project
from tests.support.fakes import in_the_way
from tests.support.fleet import fleet, until_all_ready, until_one_migrates, until_phase
from tests.support.prometheus import Prometheus, expressions, prometheus
from tests.support.servers import fetch_sync
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

log = logging.getLogger(__name__)

SCALE = 60
"""A minute of the rules is a second here."""
SLOW_MACHINE = {"MigrationInstanceNotReady", "MigrationUnverified"}
"""They fire too if the test takes long between two steps."""


def log_timeline(server: Prometheus, began: float) -> None:
    """Log when each alert was pending, firing and resolved, in seconds from `began`."""
    for each in server.episodes():
        log.info("%-26s %-8s %6.1f to %6.1f s", each.alert, each.state, each.began - began, each.ended - began)


async def test_alerts_follow_a_blocked_migration(ledger_url: str, tmp_path: Path) -> None:
    """MigrationStuck fires, then MigrationLongWait; both end once the blocking session is terminated."""
    ini = project.make_history(tmp_path, project.contended(pause_seconds=0.5))
    async with in_the_way(ledger_url, "SELECT count(*) FROM accounts", "report") as blocker:
        with fleet(3, ledger_url, ini=ini, MIGRATION_WAIT_SECONDS="600") as instances:
            holder = until_one_migrates(instances)
            until_phase([instance for instance in instances if instance is not holder], "waiting")
            wait_until(lambda: bool(holder.health()["blocked_by"]), "a blocked migration")
            # the first scrape takes long
            assert all("migration_info" in instance.get("/metrics").text for instance in instances)
            with prometheus(instances, tmp_path / "prometheus", SCALE) as server:
                wait_until(lambda: {"MigrationStuck", "MigrationLongWait"} <= server.firing().keys(), "two alerts")
                alerts = server.firing()
                answers = {name: server.query(text) for name, text in expressions("ledger").items()}
                fetch_sync(ledger_url, f"SELECT pg_terminate_backend({blocker.get_server_pid()})")
                until_all_ready(instances)
                wait_until(lambda: not server.query("ALERTS"), "no alert")
                assert server.broken_rules() == []
                episodes = server.episodes()
                log_timeline(server, episodes[0].began)
    stuck, wait = alerts["MigrationStuck"], alerts["MigrationLongWait"]
    assert stuck["summary"].startswith(f"{holder.name} (127.0.0.1:{holder.port}) has been migrating ledger for ")
    blocked = r"Another session has blocked it for \d.*s\. It is cancelled and rolled back in \d.*s\. "
    assert re.match(blocked, stuck["description"])
    assert re.match(r"It gives up in \d.+s. Instances that wait: 2. ", wait["description"])
    assert "error" not in str(alerts)
    # each fired once: the pauses between the attempts do not interrupt the alert
    fired = [each for each in episodes if each.state == "firing" and each.alert not in SLOW_MACHINE]
    assert sorted(each.alert for each in fired) == ["MigrationLongWait", "MigrationStuck"]
    began = {each.alert: each.began for each in fired}
    # on a slow machine both fire at the first evaluation
    assert began["MigrationStuck"] <= began["MigrationLongWait"]
    assert {name for name, series in answers.items() if not series} == {"Last failure A"}
