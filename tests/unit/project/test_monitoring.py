"""The alert rules and the dashboard use exported metrics, and the rules fire as specified."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from api.migrations.core.status import Status
from api.migrations.web.metrics import MigrationCollector
from tests.support.project import ROOT
from tests.support.servers import program
from tests.support.waiting import FOREVER_SECONDS

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
CASES = ROOT / "deploy" / "prometheus" / "alerts_test.yml"
SCRAPE = ROOT / "deploy" / "prometheus" / "prometheus.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "migrations.json"

KUBE_STATE_METRICS = {"kube_job_status_failed", "kube_job_status_succeeded"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def exported() -> dict[str, set[str]]:
    """Return every name that a scrape has, with its labels."""
    families = MigrationCollector(Status).collect()
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def rules() -> list[str]:
    """Return the text of each rule."""
    return ALERTS.read_text().split("      - alert: ")[1:]


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    parsed: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return parsed


def expressions() -> list[str]:
    """Return every expression of the dashboard."""
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def promtool(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run promtool, or skip."""
    tool = program("promtool", "apt-get install --no-install-recommends prometheus")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=FOREVER_SECONDS)


def names(text: str) -> set[str]:
    """Return every part of `text` that looks like the name of a metric."""
    return set(re.findall(r"\b(?:migration|kube)_[a-z_]+\b", text))


@pytest.mark.parametrize("where", [ALERTS, CASES, DASHBOARD], ids=lambda path: path.name)
def test_every_metric_in_rules_and_dashboard_is_exported(where: Path) -> None:
    """Every metric that a rule or the dashboard uses is exported."""
    found = names(where.read_text())
    assert len(found) > 5
    assert found - exported().keys() - KUBE_STATE_METRICS == set()


def test_every_selector_uses_labels_of_its_metric() -> None:
    """Every selector uses labels that its metric has, or `job` and `instance`, which Prometheus adds."""
    text = "\n".join([*(rule.partition("labels:")[0] for rule in rules()), *expressions()])
    selectors = re.findall(r"(migration_[a-z_]+)\{([^}]*)\}", text)
    assert len(selectors) > 10
    for name, matchers in selectors:
        labels = set(re.findall(r"([a-z_]+)[=!]", matchers))
        assert labels <= exported()[name] | {"job", "instance"}, (name, matchers)


def test_every_rule_has_a_severity_a_command_and_a_runbook() -> None:
    """Every rule has a severity, a summary, a command to run and a link to its place in the runbook."""
    anchors = "stuck-migration failed-migration dirty-schema database-ahead waiting-too-long invalid-indexes".split()
    assert len(rules()) == 14
    for rule in rules():
        assert re.search(r"severity: (warning|critical)\n", rule), rule
        assert re.search(r"summary: \S.+\n", rule), rule
        description = re.search(r"description: (.+)\n", rule)
        assert description, rule
        assert "./migrate.sh " in description[1], rule
        anchor = re.search(r"runbook_url: docs/operations\.md#(\S+)\n", rule)
        assert anchor, rule
        assert anchor[1] in anchors, rule


def test_every_runbook_link_leads_to_a_heading() -> None:
    """Every rule's runbook link leads to a heading of docs/operations.md."""
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.M)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"runbook_url: docs/operations\.md#(.+)", ALERTS.read_text())
    assert len(links) == len(rules())
    assert set(links) <= anchors


def test_every_rule_has_a_case_in_which_it_fires() -> None:
    """Every rule fires in at least one case of the rule tests."""
    fires = set(re.findall(r'alertname="(\w+)"', CASES.read_text()))
    assert fires == {rule.partition("\n")[0] for rule in rules()}


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
    filled = [text.replace("$__rate_interval", "1m").replace("$job", "ledger") for text in expressions()]
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


def test_no_panel_covers_another() -> None:
    """No two panels of the dashboard overlap in its 24 columns."""
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
