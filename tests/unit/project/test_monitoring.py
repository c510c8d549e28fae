"""The alert rules and the dashboard use exported metrics, and the rules fire as specified."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from api.migrations.core.status import Limit, Status
from api.migrations.web.metrics import MigrationCollector
from tests.support.project import ROOT
from tests.support.prometheus import ALERTS, DASHBOARD, INSTALL, dashboard, expressions, rules
from tests.support.servers import program
from tests.support.waiting import FOREVER_SECONDS

CASES = ALERTS.with_name("alerts_test.yml")
SCRAPE = ALERTS.with_name("prometheus.yml")

KUBE_STATE_METRICS = {"kube_job_status_failed", "kube_job_status_succeeded"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def exported() -> dict[str, set[str]]:
    """Return every name that a scrape has, with its labels."""
    families = MigrationCollector(lambda: Status(limit=Limit(0.0, "")), time.time).collect()
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def alerts() -> list[dict[str, Any]]:
    """Return the rules that are alerts."""
    return [rule for rule in rules() if "alert" in rule]


def promtool(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run promtool, or skip."""
    tool = program("promtool", INSTALL)
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=FOREVER_SECONDS)


def names(text: str) -> set[str]:
    """Return every part of `text` that looks like the name of a metric."""
    return set(re.findall(r"(?<!:)\b(?:migration|kube)_[a-z_]+\b(?!:)", text))


@pytest.mark.parametrize("where", [ALERTS, CASES, DASHBOARD], ids=lambda path: path.name)
def test_every_metric_in_rules_and_dashboard_is_exported(where: Path) -> None:
    """Every metric that a rule or the dashboard uses is exported."""
    found = names(where.read_text())
    assert len(found) > 5
    assert found - exported().keys() - KUBE_STATE_METRICS == set()


def test_every_selector_uses_labels_of_its_metric() -> None:
    """Every selector, in annotations too, uses labels that its metric has, or `job` and `instance` of Prometheus."""
    texts = [text for rule in rules() for text in (rule["expr"], *rule.get("annotations", {}).values())]
    selectors = re.findall(
        r"(?<!:)\b(migration_[a-z_]+)\{([^}]*)\}", "\n".join([*texts, *expressions("ledger").values()])
    )
    assert len(selectors) > 20
    for name, matchers in selectors:
        labels = set(re.findall(r"([a-z_]+)[=!]", matchers))
        assert labels <= exported()[name] | {"job", "instance"}, (name, matchers)


def test_every_recorded_series_is_used_and_every_one_used_is_recorded() -> None:
    """The series with a colon in their names are those that the rules record."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = set(re.findall(r"\b[a-z]+:[a-z_]+:[a-z]+\b", " ".join(map(repr, alerts())).replace("\\n", " ")))
    assert used == recorded


def test_every_alert_has_a_severity_a_command_and_a_runbook() -> None:
    """Every alert has a severity, a summary, a command to run and a link to its place in the runbook."""
    anchors = "stuck-migration failed-migration dirty-schema database-ahead waiting-too-long invalid-indexes".split()
    assert len(alerts()) == 14
    for alert in alerts():
        notes = alert["annotations"]
        assert alert["labels"]["severity"] in {"warning", "critical"}, alert
        assert notes["summary"], alert
        assert "./migrate.sh " in notes["description"], alert
        assert notes["runbook_url"].removeprefix("docs/operations.md#") in anchors, alert


def test_every_alert_about_instances_names_them_and_how_long() -> None:
    """Every alert names the instances that show it, and how long they do if there is a threshold of time."""
    elsewhere = {"MigrationJobFailed", "MigrationMetricsAbsent"}
    at_once = {"MigrationSchemaDirty", "MigrationDatabaseDiverged", "MigrationJobFailed"}
    for alert in alerts():
        notes = " ".join(alert["annotations"].values())
        assert (alert["alert"] in elsewhere) is ("abels.instance" not in notes), alert
        says = re.search(r"humanizeDuration|humanizeTimestamp|for \d+ (minutes|hour)", notes)
        assert (alert["alert"] in at_once) is (says is None), alert


def test_every_runbook_link_leads_to_a_heading() -> None:
    """Every rule's runbook link leads to a heading of docs/operations.md."""
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.M)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = {alert["annotations"]["runbook_url"] for alert in alerts()}
    assert {link.removeprefix("docs/operations.md#") for link in links} <= anchors


def test_every_rule_has_a_case_in_which_it_fires() -> None:
    """Every rule fires in at least one case of the rule tests."""
    cases = CASES.read_text()
    fires = {
        *re.findall(r"labels: '\{alertname=\"(\w+)\"", cases),
        *re.findall(r"alertname: (\w+)\n +exp_alerts:\n", cases),
    }
    assert fires == {alert["alert"] for alert in alerts()}


def test_the_rules_pass_promtool_s_cases() -> None:
    """Promtool confirms that the rules fire and stay silent as the cases in alerts_test.yml say."""
    done = promtool("test", "rules", CASES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_scrape_job() -> None:
    """Promtool accepts the configuration of the scrape job, which reads the token from a file."""
    done = promtool("check", "config", "--syntax-only", SCRAPE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "credentials_file:" in SCRAPE.read_text()


def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    """Promtool accepts every expression of the dashboard once its variables are replaced."""
    filled = list(expressions("ledger").values())
    assert not [text for text in filled if "$" in text]
    recorded = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(filled)]
    rules_file = tmp_path / "rules.yml"
    rules_file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))
    done = promtool("check", "rules", rules_file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(filled)} rules found" in done.stdout


def test_the_dashboard_can_be_imported() -> None:
    """The dashboard has what an import needs and refers to its data source by a variable."""
    board = dashboard()
    assert {key: type(board[key]) for key in ("uid", "title", "schemaVersion")} == {
        "uid": str,
        "title": str,
        "schemaVersion": int,
    }
    assert board.get("id") is None
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "job"]
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    for panel in panels:
        assert {"type", "title", "description", "fieldConfig", "options"} <= panel.keys()
        assert panel["datasource"] == DATASOURCE
        assert panel["targets"]
        assert all(target["datasource"] == DATASOURCE and target["refId"] for target in panel["targets"])


def lost(given: Any, kept: Any, path: str = "dashboard") -> Iterator[str]:
    """Yield the paths of what is in `given` and not, or not the same, in `kept`, which may have more keys."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            yield from lost(value, kept.get(key, KeyError(key)), f"{path}.{key}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, pair in enumerate(zip(given, kept, strict=True)):
            yield from lost(*pair, f"{path}[{number}]")
    elif given != kept:
        yield f"{path}: {given!r} became {kept!r}"


def test_grafana_s_schema_has_every_key_of_the_dashboard() -> None:
    """Grafana's own classes read the dashboard and write it again without losing a key or changing a value."""
    register_default_plugins()
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard())))
    assert list(lost(dashboard(), written)) == []


def test_no_panel_covers_another() -> None:
    """No two panels of the dashboard overlap in its 24 columns."""
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
