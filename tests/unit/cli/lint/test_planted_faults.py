"""Each planted fault is found by its rule and by no other, and the safe revisions have no finding."""

from pathlib import Path

import pytest

from api.migrations.cli.lint.rules import RULES
from tests.support.planted_faults import BASE, FAULTS, SAFE, Planted, write_history
from tests.support.project import ROOT
from tests.unit.cli.lint.conftest import Lint

ELSEWHERE = {"several-heads", "not-rendered", "bad-ignore", "expand-breaks"}
"""The rules whose faults are not one more revision of a history; other tests show them."""


@pytest.mark.parametrize("planted", [*FAULTS, *SAFE], ids=lambda planted: planted.id)
def test_each_fault_is_found_by_its_rules_only(folder: Path, lint: Lint, planted: Planted) -> None:
    """A revision with a fault has the findings of its rules, and a safe revision has none."""
    before = SAFE[: SAFE.index(planted)] if planted in SAFE else ()
    write_history(folder, BASE, *before, planted)
    report = lint(planted.id)
    assert sorted(finding.rule for finding in report.findings) == sorted(planted.rules)
    assert report.exit_code == (1 if planted.rules else 0)
    assert all(finding.revision == planted.id for finding in report.findings)


def test_every_rule_has_a_planted_fault() -> None:
    """Each rule finds at least one planted fault, and there are at least twenty."""
    assert {rule for planted in FAULTS for rule in planted.rules} | ELSEWHERE == set(RULES)
    assert len(FAULTS) >= 20


def test_all_faults_of_one_history_are_found_at_once(folder: Path, lint: Lint) -> None:
    """`--all` finds each fault in the file that has it, although later revisions follow."""
    write_history(folder, BASE, *FAULTS)
    found = {(finding.revision, finding.rule) for finding in lint("--all").findings}
    assert found == {(planted.id, rule) for planted in FAULTS for rule in planted.rules}


def test_the_history_of_the_service_has_no_finding(lint: Lint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The revisions of this repository have no finding."""
    monkeypatch.chdir(ROOT)
    report = lint("--all")
    assert (report.findings, report.exit_code) == ([], 0)
    assert report.revisions == len(list((ROOT / "alembic" / "versions").glob("*.py")))


def test_the_document_lists_the_rules() -> None:
    """docs/linting.md has a row for each rule, with what it finds."""
    text = (ROOT / "docs" / "linting.md").read_text()
    assert [rule.id for rule in RULES.values() if f"| `{rule.id}` | {rule.finds} |" not in text] == []
