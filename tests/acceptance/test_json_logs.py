"""With MIGRATION_LOG_FORMAT=json a collector can read every line of a fleet, and each event names its instance."""

import json
from datetime import datetime
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from tests.support import evidence, project
from tests.support.fleet import (
    alembic,
    fleet,
    migrate,
    until_all_ready,
    until_one_migrates,
    until_phase,
)

pytestmark = pytest.mark.acceptance

JSON: Any = {"MIGRATION_LOG_FORMAT": "json", "MIGRATION_RELEASE": "v7"}
PASSWORD = "geh3im"
WARNING = project.Revision("two", 'mark()\nimport warnings\nwarnings.warn("no index on accounts")')
Lines = list[dict[str, Any]]


def read(text: str) -> Lines:
    """Parse every line as JSON; assert that each has the common keys and a time zone."""
    lines: Lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert line.keys() >= {"time", "level", "logger", "message", "instance", "strategy", "release"}, line
        assert datetime.fromisoformat(line["time"]).utcoffset() is not None
    return lines


def events(lines: Lines) -> list[str]:
    """Return the package's events, each once, in the order of their first line."""
    return list(dict.fromkeys(line["event"] for line in lines if "event" in line))


def test_every_line_of_a_fleet_is_json(ledger_url: str, tmp_path: Path) -> None:
    """Three instances log JSON from start to stop; only the one that migrates logs the run and its revisions."""
    ini = project.make_history(tmp_path, project.held("one"), WARNING)
    with fleet(3, ledger_url, ini=ini, **JSON) as instances:
        migrator = until_one_migrates(instances)
        waiters = [instance for instance in instances if instance is not migrator]
        until_phase(waiters, "waiting")
        evidence.let_go(ledger_url)
        until_all_ready(instances)
        for instance in instances:
            instance.kill(SIGTERM)
            instance.wait()
        logs = {instance: read(instance.log()) for instance in instances}
    assert evidence.applied(ledger_url)[-2:] == ["one", "two"]
    for instance, lines in logs.items():
        assert {(line["instance"], line["release"]) for line in lines} == {(instance.name, "v7")}
        assert {"uvicorn.error", "uvicorn.access"} <= {line["logger"] for line in lines}
        assert lines[0]["message"].startswith("Started server process")
        assert lines[-1]["message"].startswith("Finished server process")
    assert events(logs[migrator]) == ["strategy", "run_started", "revision_applied", "ready"]
    assert [events(logs[waiter]) for waiter in waiters] == [["strategy", "waiting", "ready"]] * 2
    assert applied(logs[migrator]) == ["one", "two"]
    (warned,) = [line for line in logs[migrator] if line["logger"] == "py.warnings"]
    assert (warned["revision"], "no index on accounts" in warned["message"]) == ("two", True)
    assert {line["strategy"] for line in logs[migrator] if "event" in line} == {"advisory_lock"}
    assert {line["revision"] for waiter in waiters for line in logs[waiter] if line.get("event") == "waiting"} == {
        "one"
    }


def applied(lines: Lines) -> list[str]:
    """Return the revisions that the log reports as applied."""
    return [line["revision"] for line in lines if line.get("event") == "revision_applied"]


def test_a_failed_start_logs_only_json(ledger_url: str, tmp_path: Path) -> None:
    """A revision fails: the reason is a JSON line like any other, without the value that the server quoted."""
    ini = project.make_history(tmp_path, project.failing())
    with fleet(1, ledger_url, ini=ini, **JSON) as (one,):
        one.wait()
        lines = read(one.log())
    (failed,) = [line for line in lines if line.get("event") == "failed"]
    assert (failed["level"], "revision failing" in failed["message"]) == ("error", True)
    assert "secret-word" not in str(lines)


def test_a_wrong_setting_is_reported_in_json(tmp_path: Path) -> None:
    """A setting cannot be parsed: the instance still logs the failure as JSON, without the password of the URL."""
    url = f"postgresql://ledger:{PASSWORD}@127.0.0.1:1/ledger"
    with fleet(1, url, MIGRATION_RUN_SECONDS="soon", **JSON) as (one,):
        one.wait()
        lines = read(one.log())
    assert ["MIGRATION_RUN_SECONDS" in line["message"] for line in lines if line.get("event") == "failed"] == [True]
    assert PASSWORD not in str(lines)


@pytest.mark.parametrize("run", [migrate, alembic])
def test_a_command_logs_json_beside_its_result(ledger_url: str, tmp_path: Path, run: Any) -> None:
    """`./migrate.sh` and a manual `alembic` log each event as JSON, and so the reason when they fail."""
    ini = project.make_history(tmp_path, project.quick("quick"))
    code, output = run("upgrade", "head", url=ledger_url, ini=ini, MIGRATION_INSTANCE="desk", **JSON)
    assert code == 0, output
    lines = read("\n".join(line for line in output.splitlines() if line.startswith("{")))
    assert events(lines)[:2] == ["run_started", "revision_applied"]
    assert applied(lines) == ["quick"]
    assert {line["instance"] for line in lines} == {"desk"}
    code, output = run("downgrade", "nowhere", *(["--yes"] if run is migrate else []), url=ledger_url, ini=ini, **JSON)
    assert code != 0
    assert events(read(output)) == ["failed"]
