"""The text of a revision, an exception or a row cannot draw on a terminal or forge a log line, and is not public."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import evidence, project
from tests.support.fleet import Instance, fleet, migrate
from tests.support.pace import scaled
from tests.support.servers import fetch_sync

pytestmark = pytest.mark.acceptance

TOKEN = "geh3im-0123456789"
CUSTOMER = "Anna Muster"
HOSTILE = project.Revision(
    "hostile",
    f'mark()\nraise ValueError("no such customer: {CUSTOMER} \\x1b[2J\\u202e\\x9b31m\\r\\nINFO forged")',
    doc="Add \\x1b[2J\\u202e it",
)


def ask(instance: Instance, path: str, accept: str = "*/*", **credentials: str) -> httpx.Response:
    """Send a request with a bearer token or with basic authentication."""
    bearer = {"Authorization": f"Bearer {credentials['bearer']}"} if "bearer" in credentials else {}
    basic = ("anybody", credentials["password"]) if "password" in credentials else None
    with httpx.Client(trust_env=False, timeout=scaled(10)) as client:
        return client.get(instance.url(path), headers={"Accept": accept, **bearer}, auth=basic)


def test_a_hostile_revision_is_harmless_and_its_customer_stays_private(ledger_url: str, tmp_path: Path) -> None:
    """Its exception names a customer: log and `history` say so in printable lines, and the health endpoints do not."""
    ini, file = project.make_history(tmp_path, HOSTILE), tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    settings: Any = {"MIGRATION_ON_FAILURE": "hold", "MIGRATION_HEALTH_TOKEN_FILE": str(file)}
    with fleet(1, ledger_url, ini=ini, **settings) as (one,):
        one.until(lambda: "Not ready" in one.log(), "failed")
        refused = [ask(one, path) for path in ("/health/migrations", "/metrics")]
        probes = [ask(one, path) for path in ("/health/live", "/health/ready")]
        body, metrics = (ask(one, path, bearer=TOKEN) for path in ("/health/migrations", "/metrics"))
        page = ask(one, "/health/migrations", "text/html", password=TOKEN)
        log = one.log()
    assert [answer.status_code for answer in (*refused, *probes)] == [401, 401, 200, 503]
    assert [answer.status_code for answer in (body, page, metrics)] == [503, 503, 200]
    assert probes[1].json() == {"status": "fail", "phase": "failed"}
    assert re.search(r"ValueError: the text is in the log, at 2030_01_01_hostile.py:\d+$", body.json()["message"])
    for answer in (*refused, *probes, body, page, metrics):
        assert CUSTOMER not in answer.text
        assert answer.text.replace("\n", "").isprintable()
    assert f"ValueError: no such customer: {CUSTOMER} \\x1b[2J\\u202e\\x9b31m, at 2030" in log
    fetch_sync(
        ledger_url, f"UPDATE {evidence.HISTORY} SET instance = $1 WHERE outcome = 'failed'", "x\x1b[2J\u202e\nINFO"
    )
    outputs = {words: migrate(*words.split(), url=ledger_url, ini=ini, **settings) for words in COMMANDS}
    for code, output in outputs.values():
        assert code == 0, output
        assert [line for line in output.splitlines() if not line.isprintable()] == []
    assert CUSTOMER in outputs["history"][1]
    assert "by x\\x1b[2J\\u202e\\nINFO (postgres)" in outputs["history"][1]
    assert "pending: hostile, Add \\x1b[2J\\u202e it" in outputs["status"][1]
    assert "/health/migrations and /metrics require a token" in outputs["doctor"][1]
    assert [
        text for text in (log, *(output for _, output in outputs.values())) if TOKEN in text or "\x1b" in text
    ] == []
    assert [line for line in log.splitlines() if not line.isprintable()] == []


COMMANDS = ("history", "status", "current", "doctor", "history --json", "status --json")


def test_an_instance_with_a_bad_token_answers_nobody(ledger_url: str) -> None:
    """The token is too short: the start fails with a message without it, and the endpoints are closed meanwhile."""
    settings: Any = {"MIGRATION_ON_FAILURE": "hold", "MIGRATION_HEALTH_TOKEN": "geh3im"}
    with fleet(1, ledger_url, **settings) as (one,):
        one.until(lambda: "Not ready" in one.log(), "failed")
        answers = [ask(one, path, bearer="geh3im") for path in ("/health/migrations", "/metrics", "/health/live")]
        log = one.log()
    assert [answer.status_code for answer in answers] == [401, 401, 200]
    assert "Not ready: MIGRATION_HEALTH_TOKEN is not a token of at least 16 ASCII characters" in log
    code, output = migrate("doctor", url=ledger_url, **settings)
    assert (code, "fail  health" in output) == (1, True), output
    assert "geh3im" not in log + output
