"""The formats of `lint`, its exit codes, and the findings of squawk."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from api.migrations.cli import commands
from api.migrations.cli.lint.rules import RULES
from api.migrations.cli.main import _parser
from api.migrations.errors import ConfigurationError
from tests.support.planted_faults import BASE, Planted, write_history
from tests.support.project import ROOT
from tests.unit.cli.lint.conftest import Find, Lint

FILE = "alembic/versions/01_drops.py"
SQUAWK = """#!/bin/sh
cat > seen.sql
echo '[{"line": 1, "rule_name": "prefer-text-field", "message": "Use text.", "help": null}]'
exit 1
"""


@pytest.fixture(autouse=True)
def history(folder: Path) -> None:
    """Write a revision with one finding, in line 15."""
    write_history(folder, BASE, Planted("drops", 'op.execute("SELECT 1")\nop.drop_table("carts")'))


@pytest.fixture
def squawk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a program that stands for squawk, writes what it reads, and has one finding."""
    program = folder / "bin" / "squawk"
    program.parent.mkdir()
    program.write_text(SQUAWK)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("sys.executable", str(program.parent / "python"))
    return program


def test_text_has_the_place_the_effect_and_the_fix(lint: Lint) -> None:
    """Each finding has its file, line, rule and effect in one line, and the fix in the next; the last line counts."""
    first, fix, message = lint("drops").lines()
    assert first == f"{FILE}:15: drop-table: Queries of the old release that name carts fail from the COMMIT on."
    assert fix.startswith("    To fix: remove the model first")
    assert message == "1 revision checked (the revisions named): 1 finding"


def test_json_has_the_same_findings(lint: Lint) -> None:
    """`--format json` prints what `--json` prints."""
    report = lint("drops", "--format", "json")
    [line] = report.lines()
    assert json.loads(line) == report.as_json()
    [finding] = report.as_json()["findings"]
    assert {name: finding[name] for name in ("rule", "path", "line", "revision")} == {
        "rule": "drop-table", "path": FILE, "line": 15, "revision": "drops",
    }  # fmt: skip


def test_sarif_names_rules_and_places(lint: Lint) -> None:
    """`--format sarif` is a log of SARIF 2.1.0 with all rules and the findings."""
    [line] = lint("drops", "--format", "sarif").lines()
    log = json.loads(line)
    [run], version = log["runs"], log["version"]
    assert version == "2.1.0"
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == list(RULES)
    [result] = run["results"]
    place = result["locations"][0]["physicalLocation"]
    assert (result["ruleId"], place["artifactLocation"]["uri"], place["region"]["startLine"]) == (
        "drop-table",
        FILE,
        15,
    )


def test_github_annotations_are_one_line_each(lint: Lint) -> None:
    """`--format github` prints one workflow command for each finding."""
    [line] = lint("drops", "--format", "github").lines()
    assert line.startswith(f"::error file={FILE},line=15,title=drop-table::Queries of the old release")


def test_the_command_needs_no_database(folder: Path) -> None:
    """The command ends with 1 for findings, writes them to standard output only, and needs no URL."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "api.migrations", "lint"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith(f"{FILE}:15: drop-table: ")


def test_no_finding_is_success(lint: Lint) -> None:
    """Without a finding the exit code is 0, and one line says how many revisions were checked."""
    report = lint("tables")
    assert (report.exit_code, list(report.lines())) == (0, ["1 revision checked (the revisions named): 0 findings"])


def test_all_rules_are_listed(folder: Path) -> None:
    """`--rules` lists each rule, and needs no project."""
    shutil.rmtree(folder / "alembic")
    result = commands.lint(_parser().parse_args(["lint", "--rules"]))
    assert [line.split()[0] for line in result.lines()] == list(RULES)
    assert [rule["id"] for rule in result.as_json()["rules"]] == list(RULES)


def test_a_build_that_does_not_load_is_refused(folder: Path, lint: Lint) -> None:
    """A revision file with a syntax error is a usage error that names the file."""
    (folder / FILE).write_text("def upgrade(:\n")
    with pytest.raises(ConfigurationError, match=FILE) as raised:
        lint("--all")
    assert raised.value.exit_code == 2


def test_findings_of_squawk_are_added_at_their_lines(lint: Lint, squawk: Path, folder: Path) -> None:
    """`--squawk` gives squawk the SQL, one statement in a line, and finds the line of the revision."""
    found = {finding.rule: finding.line for finding in lint("drops", "--squawk").findings}
    assert found == {"drop-table": 15, "squawk/prefer-text-field": 15}
    assert (folder / "seen.sql").read_text() == "select 1;\ndrop table carts;\n"


def test_a_finding_of_squawk_can_be_suppressed(find: Find, lint: Lint, squawk: Path) -> None:
    """A comment suppresses a rule of squawk by its name with `squawk/` before it."""
    find('op.execute("SELECT 1")\nop.execute("SELECT 2")  # lint: ignore[squawk/prefer-text-field] a test')
    assert lint("one", "--squawk").findings == []


@pytest.mark.parametrize("output", ["echo nonsense", "exit 3"])
def test_a_failing_squawk_is_an_error(lint: Lint, squawk: Path, output: str) -> None:
    """A squawk that does not print JSON stops the command with exit code 2."""
    squawk.write_text(f"#!/bin/sh\ncat > /dev/null\n{output}\n")
    with pytest.raises(ConfigurationError, match="squawk failed: "):
        lint("drops", "--squawk")


def test_a_missing_squawk_is_an_error(lint: Lint, squawk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without squawk, `--squawk` stops the command and says what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    squawk.unlink()
    with pytest.raises(ConfigurationError, match="pip install squawk-cli"):
        lint("drops", "--squawk")
