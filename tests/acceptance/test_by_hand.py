"""Every path to DDL takes the same lock: what people type races the instances and loses nothing."""

from pathlib import Path

import pytest

from tests.acceptance.test_fleet import EXTRA, assert_applied_once
from tests.support import evidence, project
from tests.support.fleet import MARK, alembic, finish, fleet, migrate, start_alembic, start_migrate, until_all_ready
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    """The history of the fleet's test: slow, held, and an index built concurrently."""
    return project.make_history(tmp_path, *EXTRA)


def test_five_instances_and_two_commands_race(database_url: str, ini: Path) -> None:
    """Seven start at once; whoever migrates, all succeed, and everything was applied once."""
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


def test_reading_commands_work_while_somebody_migrates(database_url: str, ini: Path) -> None:
    """`current`, `history` and `upgrade --sql` take no lock, so they do not wait for the one who has it."""
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


def test_the_models_agree_with_the_history(ledger_url: str) -> None:
    """`alembic check` finds nothing to generate, and our own table is none of its business."""
    code, output = alembic("check", url=ledger_url)
    assert code == 0, output
    assert "No new upgrade operations detected" in output
    code, output = alembic("current", url=ledger_url)
    assert (code, output.splitlines()[-1]) == (0, f"{project.head()} (head)"), output


def test_a_script_needs_no_database() -> None:
    """`--sql` writes the whole history, the concurrent index outside any transaction, and connects to nothing."""
    code, output = alembic("upgrade", "head", "--sql", url="postgresql://nobody@127.0.0.1:1/nowhere")
    assert code == 0, output
    assert "CREATE TABLE accounts" in output
    before, _, after = output.partition("CREATE INDEX CONCURRENTLY")
    assert before.count("BEGIN;") == before.count("COMMIT;") > 0
    assert after.count("BEGIN;") == after.count("COMMIT;") > 0


def test_downgrade_and_stamp_by_hand_write_history(ledger_url: str) -> None:
    """What Alembic is told to do is done under the lock and recorded like everything else."""
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


def test_a_downgrade_waits_for_its_turn(ledger_url: str, tmp_path: Path) -> None:
    """Alembic's own command does not start before the lock is free, and then finds what the other has done."""
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


def test_migrate_sh_goes_down_and_up_again(ledger_url: str) -> None:
    """The operator's way does the same, and asks first where it can."""
    code, output = migrate("downgrade", "-2", url=ledger_url)
    assert (code, "pass --yes" in output) == (2, True), output
    assert migrate("downgrade", "-2", "--yes", url=ledger_url)[0] == 0
    assert migrate("check", url=ledger_url)[0] == 3
    assert migrate("upgrade", url=ledger_url)[0] == 0
    assert migrate("check", url=ledger_url)[0] == 0
    assert evidence.versions(ledger_url) == [project.head()]


def test_env_py_is_short() -> None:
    """The package does the work, so that adopting it is no transplantation."""
    lines = (project.ROOT / "alembic" / "env.py").read_text().splitlines()
    assert len(lines) < 40


def test_the_service_keeps_its_voice(database_url: str) -> None:
    """After a migration inside the service its own loggers still speak; the template's fileConfig would mute them."""
    with fleet(1, database_url) as instances:
        until_all_ready(instances)
        assert instances[0].get("/accounts/999").status_code == 404
        _, migrated, after = instances[0].log().partition(MARK)
    assert migrated
    assert "INFO api.migrations.core.coordinator: Ready:" in after
    assert '"GET /accounts/999 HTTP/1.1" 404' in after
