"""The keys of each command's JSON."""

import pytest

from api.migrations.cli.results import (
    Attempts,
    Backups,
    Finding,
    Findings,
    InEachScope,
    Result,
    SchemaReport,
    StatusReport,
)
from api.migrations.core.schema import SchemaState
from api.migrations.databases.backend import Verdict

AT_HEAD = SchemaState.AT_HEAD
STATUS = StatusReport(
    message="at head",
    state=AT_HEAD,
    revisions=("a",),
    expected_heads=("a",),
    pending=(),
    lock={"key": "k", "holder": None},
    statement=None,
    retry=None,
    blocked_by=(),
    elected=None,
    fleet=(),
    grant=None,
    invalid_indexes=(),
    advice=None,
)
STATUS_KEYS = """
    message state revisions expected_heads pending lock statement retry blocked_by elected fleet grant invalid_indexes
    advice
"""


@pytest.mark.parametrize(
    ("result", "keys"),
    [
        (Result(message="done"), "message"),
        (SchemaReport(message="at head", state=AT_HEAD), "message state"),
        (SchemaReport(message="at head", state=AT_HEAD, revisions=("a",)), "message state revisions"),
        (SchemaReport(message="", state=AT_HEAD, revisions=(), steps=()), "message state revisions steps"),
        (
            SchemaReport(message="", backups=Backups(made=[], restores_into=""), dialect="sqlite"),
            "message backups dialect",
        ),
        (Attempts(history=[]), "history"),
        (Findings(message="0 checks", findings=[]), "message findings exit_code"),
        (STATUS, STATUS_KEYS),
        (InEachScope(message="", scopes={"schema main": STATUS}), "message schemas"),
    ],
)
def test_the_json_of_a_result_has_the_documented_keys(result: Result, keys: str) -> None:
    """A result has a key for each of its facts, also if that is empty or None, and none for what the command omits."""
    assert set(result.as_json()) == set(keys.split())


def test_the_json_of_each_schema_is_nested() -> None:
    """A command that runs for several schemas has each schema's own object under its name."""
    document = InEachScope(message="", scopes={"schema main": STATUS}).as_json()
    assert document["schemas"] == {"main": STATUS.as_json()}


@pytest.mark.parametrize(("verdict", "code"), [(Verdict.OK, 0), (Verdict.WARN, 0), (Verdict.FAIL, 1)])
def test_a_failed_check_is_the_exit_code_of_doctor(verdict: Verdict, code: int) -> None:
    """`doctor` exits with 1 if a check failed, not for a warning, and its JSON has the same number."""
    findings = Findings(message="1 check", findings=[Finding("server", verdict, "")])
    assert (findings.exit_code, findings.as_json()["exit_code"]) == (code, code)
