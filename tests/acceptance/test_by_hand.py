"""Commands that people type acquire the same lock as the instances, so no revision is lost or applied twice."""

from pathlib import Path

import pytest

from tests.support import evidence, project
from tests.support.extra_revisions import EXTRA, assert_applied_once
from tests.support.fleet import MARK, alembic, finish, fleet, migrate, start_alembic, start_migrate, until_all_ready
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    """Create the history of test_fleet: a slow revision, a held one, and an index that is built concurrently."""
    return project.make_history(tmp_path, *EXTRA)


def test_one_of_five_instances_and_two_commands_migrates(database_url: str, ini: Path) -> None:
    """`alembic upgrade`, `./migrate.sh upgrade` and five instances start at once: one migrates, all seven succeed."""
    with (
        start_alembic("upgrade", "head", url=database_url, ini=ini, MIGRATION_INSTANCE="by-hand") as by_hand,
        start_migrate("upgrade", url=database_url, ini=ini, MIGRATION_INSTANCE="script") as script,
        fleet(5, database_url, ini=ini) as instances,
    ):
        wait_until(lambda: len(evidence.sessions(database_url)) == 7, "seven sessions", seconds=60)
        wait_until(lambda: evidence.running(database_url) == ["held"], "the held revision", seconds=60)
        assert by_hand.poll() is None
        assert script.poll() is None
        evidence.let_go(database_url)
        outputs = {"by-hand": finish(by_hand), "script": finish(script)}
        until_all_ready(instances)
        outputs |= {instance.name: (0, instance.log()) for instance in instances}
    assert [code for code, _ in outputs.values()] == [0] * 7, outputs
    assert sum(output.count(MARK) for _, output in outputs.values()) == 1
    assert {name for name, (_, output) in outputs.items() if MARK in output} == evidence.appliers(database_url)
    assert_applied_once(database_url, ini)


def test_reading_commands_work_while_another_process_migrates(database_url: str, ini: Path) -> None:
    """`alembic current`, `history` and `upgrade --sql` succeed while another process holds the lock and migrates."""
    with start_migrate("upgrade", url=database_url, ini=ini) as upgrade:
        wait_until(lambda: evidence.running(database_url) == ["held"], "the held revision", seconds=60)
        code, output = alembic("current", url=database_url, ini=ini)
        assert (code, output.splitlines()[-1]) == (0, "slow"), output
        code, output = alembic("history", url=database_url, ini=ini)
        assert (code, output.count(" -> ")) == (0, len(project.revisions(ini))), output
        code, output = alembic("upgrade", "head", "--sql", url=database_url)
        assert code == 0, output
        assert upgrade.poll() is None
        evidence.let_go(database_url)
        code, output = finish(upgrade)
        assert code == 0, output


def test_alembic_check_finds_no_difference_at_head(ledger_url: str) -> None:
    """At head `alembic check` finds no difference between models and database, and ignores the history table."""
    code, output = alembic("check", url=ledger_url)
    assert code == 0, output
    assert "No new upgrade operations detected" in output
    code, output = alembic("current", url=ledger_url)
    assert (code, output.splitlines()[-1]) == (0, f"{project.head()} (head)"), output


def test_upgrade_sql_needs_no_database() -> None:
    """`alembic upgrade head --sql` never connects, and writes the concurrent index outside any transaction."""
    code, output = alembic("upgrade", "head", "--sql", url="postgresql://nobody@127.0.0.1:1/nowhere")
    assert code == 0, output
    assert "CREATE TABLE accounts" in output
    before, _, after = output.partition("CREATE INDEX CONCURRENTLY")
    assert before.count("BEGIN;") == before.count("COMMIT;") > 0
    assert after.count("BEGIN;") == after.count("COMMIT;") > 0


def test_manual_alembic_commands_write_the_history(ledger_url: str) -> None:
    """A manual `alembic downgrade`, `stamp` or `upgrade` is recorded in the history and leaves no lock."""
    *_, below, top = project.revisions()
    for arguments in (("downgrade", "-1"), ("stamp", "head"), ("stamp", below), ("upgrade", "head")):
        code, output = alembic(*arguments, url=ledger_url, MIGRATION_INSTANCE="by-hand")
        assert code == 0, output
    rows = [row for row in evidence.history(ledger_url) if row["instance"] == "by-hand"]
    assert [(row["revision"], row["direction"], row["outcome"]) for row in rows] == [
        (top, "downgrade", "applied"),
        (top, "stamp", "stamped"),
        (below, "stamp", "stamped"),
        (top, "upgrade", "applied"),
    ]
    assert evidence.versions(ledger_url) == [top]
    assert evidence.advisory_locks(ledger_url) == 0


def test_a_manual_downgrade_waits_for_the_lock(ledger_url: str, tmp_path: Path) -> None:
    """`alembic downgrade` starts while an upgrade holds the lock: it waits, then undoes what the upgrade applied."""
    ini = project.make_history(tmp_path, project.held(), project.quick())
    with start_migrate("upgrade", url=ledger_url, ini=ini) as upgrade:
        wait_until(lambda: evidence.running(ledger_url) == ["held"], "the held revision", seconds=60)
        with start_alembic("downgrade", project.head(), url=ledger_url, ini=ini) as downgrade:
            wait_until(lambda: len(evidence.sessions(ledger_url)) == 2, "two sessions", seconds=60)
            evidence.let_go(ledger_url)
            assert [finish(process)[0] for process in (upgrade, downgrade)] == [0, 0]
    directions = [(row["revision"], row["direction"]) for row in evidence.history(ledger_url, extra_only=True)]
    assert directions == [("held", "upgrade"), ("quick", "upgrade"), ("quick", "downgrade"), ("held", "downgrade")]
    assert evidence.marks(ledger_url) == []


def test_migrate_sh_downgrades_and_upgrades_again(ledger_url: str) -> None:
    """`./migrate.sh downgrade -2` needs --yes; then `check` exits with 3, and after `upgrade` with 0."""
    code, output = migrate("downgrade", "-2", url=ledger_url)
    assert (code, "pass --yes" in output) == (2, True), output
    assert migrate("downgrade", "-2", "--yes", url=ledger_url)[0] == 0
    assert migrate("check", url=ledger_url)[0] == 3
    assert migrate("upgrade", url=ledger_url)[0] == 0
    assert migrate("check", url=ledger_url)[0] == 0
    assert evidence.versions(ledger_url) == [project.head()]


def test_env_py_is_short() -> None:
    """The project's alembic/env.py has fewer than 40 lines, because the package does the work."""
    lines = (project.ROOT / "alembic" / "env.py").read_text().splitlines()
    assert len(lines) < 40


def test_the_service_still_logs_after_its_migration(database_url: str) -> None:
    """After an instance has migrated, its own loggers still write; Alembic's fileConfig would disable them."""
    with fleet(1, database_url) as instances:
        until_all_ready(instances)
        assert instances[0].get("/accounts/999").status_code == 404
        _, migrated, after = instances[0].log().partition(MARK)
    assert migrated
    assert "INFO api.migrations.core.coordinator: Ready:" in after
    assert '"GET /accounts/999 HTTP/1.1" 404' in after
