"""The alert rules and the dashboard, and a real Prometheus that scrapes instances and evaluates the rules.

So that a test need not wait for minutes, every duration in the rules, and every budget that they compare with, can be
divided by a scale. The instances keep their budgets, so that none of them gives up meanwhile.
"""

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from devtools.ports import HOST, free_port
from tests.support.fleet import Instance
from tests.support.project import ROOT
from tests.support.servers import program
from tests.support.waiting import FOREVER_SECONDS, wait_until

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "migrations.json"
INSTALL = "apt-get install --no-install-recommends prometheus"

SCRAPE_SECONDS = 30.0
"""How often Prometheus scrapes and evaluates without a scale."""
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600}


def rules() -> list[dict[str, Any]]:
    """Return the alert rules and recording rules, in their order."""
    parsed = yaml.safe_load(ALERTS.read_text())
    return [rule for group in parsed["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    parsed: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return parsed


def expressions(job: str) -> dict[str, str]:
    """Return every expression of the dashboard for one service, by panel and query."""
    found = {}
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "1m").replace("$job", job)
            found[f"{panel['title']} {target['refId']}"] = text
    return found


@dataclass(frozen=True)
class Episode:
    """A time in which an alert was pending or firing, in epoch seconds of the first and last evaluation."""

    alert: str
    state: str
    began: float
    ended: float


class Prometheus:
    """A running Prometheus; the job is called `ledger`."""

    def __init__(self, client: httpx.Client, step_seconds: float) -> None:
        self._client = client
        self._step_seconds = step_seconds

    def is_up(self) -> bool:
        """Return whether it answers."""
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query, which must be valid."""
        return list(self._ask("query", query=expression)["result"])

    def firing(self) -> dict[str, dict[str, str]]:
        """Return the annotations of the alerts that fire now, by name."""
        alerts = [alert for alert in self._ask("alerts")["alerts"] if alert["state"] == "firing"]
        return {alert["labels"]["alertname"]: alert["annotations"] for alert in alerts}

    def broken_rules(self) -> list[str]:
        """Return the errors of rules whose last evaluation failed."""
        found = [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]
        return [f"{rule['name']}: {rule.get('lastError')}" for rule in found if rule["health"] == "err"]

    def episodes(self) -> list[Episode]:
        """Return when each alert was pending and firing, oldest first, from the series that Prometheus recorded."""
        found = []
        for series in self.query("ALERTS[1h]"):
            name, state = series["metric"]["alertname"], series["metric"]["alertstate"]
            began = ended = series["values"][0][0]
            for at, _ in series["values"]:
                if at - ended > 2.5 * self._step_seconds:
                    found.append(Episode(name, state, began, ended))
                    began = at
                ended = at
            found.append(Episode(name, state, began, ended))
        return sorted(found, key=lambda episode: episode.began)

    def _ask(self, path: str, **parameters: str) -> dict[str, Any]:
        answer = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        data: dict[str, Any] = answer["data"]
        return data


@contextmanager
def prometheus(instances: Sequence[Instance], folder: Path, scale: float = 1) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes `instances`, with its data in `folder`; skip if this machine has none."""
    binary, port, step_seconds = program("prometheus", INSTALL), free_port(), SCRAPE_SECONDS / scale
    folder.mkdir()
    targets = [f"{HOST}:{instance.port}" for instance in instances]
    step, rules_file, config = f"{step_seconds * 1000:.0f}ms", folder / "rules.yml", folder / "prometheus.yml"
    job = {"job_name": "ledger", "static_configs": [{"targets": targets}]}
    times = {"scrape_interval": step, "scrape_timeout": step, "evaluation_interval": step}
    rules_file.write_text(
        json.dumps({"groups": [{"name": "scaled", "rules": [_scaled(rule, scale) for rule in rules()]}]})
    )
    config.write_text(json.dumps({"global": times, "rule_files": [str(rules_file)], "scrape_configs": [job]}))
    options = [f"--config.file={config}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={HOST}:{port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([binary, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://{HOST}:{port}", trust_env=False, verify=False) as client:
            server = Prometheus(client, step_seconds)
            wait_until(server.is_up, f"Prometheus answers: {folder}/log")
            yield server
    finally:
        process.terminate()
        process.wait(FOREVER_SECONDS)


def _scaled(rule: dict[str, Any], scale: float) -> dict[str, Any]:
    text = re.sub(r"\[[^\]]+\]", lambda found: _shorter(found[0], scale), rule["expr"])
    if rule.get("record", "").endswith("_budget:seconds"):
        text = f"({text}) / {scale}"
    return {**rule, "expr": text} | ({"for": _shorter(rule["for"], scale)} if "for" in rule else {})


def _shorter(text: str, scale: float) -> str:
    milliseconds = lambda found: f"{int(found[1]) * _UNIT_SECONDS[found[2]] * 1000 / scale:.0f}ms"  # noqa: E731 - one expression
    return re.sub(r"(\d+)([smh])", milliseconds, text)
