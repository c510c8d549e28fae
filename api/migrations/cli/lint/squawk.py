"""The findings of squawk (PyPI: squawk-cli) in the SQL of a revision, without those of our own rules."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from ...errors import ConfigurationError
from ..sql.rendering import Rendered
from .rules import Finding

_OURS = (
    # our rules find these
    *("adding-field-with-default", "adding-foreign-key-constraint", "adding-not-nullable-field"),
    *(
        "adding-required-field",
        "adding-serial-primary-key-field",
        "changing-column-type",
        "constraint-missing-not-valid",
    ),
    *("disallowed-unique-constraint", "renaming-column", "renaming-table", "ban-drop-column", "ban-drop-table"),
    *("require-concurrent-index-creation", "ban-concurrent-index-creation-in-transaction"),
    # the coordinator makes these safe: time limits, retries, one transaction for each revision, no lock on DROP INDEX
    *("require-timeout-settings", "require-lock-timeout", "require-statement-timeout", "prefer-robust-stmts"),
    *("require-concurrent-index-deletion", "ban-uncommitted-transaction", "transaction-nesting"),
)


def findings(rendered: Rendered, path: str) -> list[Finding]:
    """Return what squawk finds in the statements of a revision.

    Raises:
        ConfigurationError: squawk is not installed, or fails.
    """
    sql = "".join(f"{statement.sql.replace(chr(10), ' ')};\n" for statement in rendered.statements)
    if not sql:
        return []
    command = [_executable(), "--reporter", "json", f"--exclude={','.join(_OURS)}", "--stdin-filepath", path]
    done = subprocess.run(command, input=sql, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        reports = json.loads(done.stdout or "[]")
    except ValueError:
        reports = None
    if reports is None or (done.returncode and not reports):
        reason = (done.stderr.strip().splitlines() or ["no JSON"])[-1]
        raise ConfigurationError(f"squawk failed: {reason}. To fix: update squawk-cli, or run lint without --squawk")
    # squawk counts lines from 0, and each statement is one
    return [
        Finding(
            f"squawk/{report['rule_name']}",
            path,
            rendered.statements[min(report["line"], len(rendered.statements) - 1)].line,
            rendered.script.revision,
            report["message"],
            report.get("help") or "see the documentation of squawk",
        )
        for report in reports
    ]


def _executable() -> str:
    found = shutil.which("squawk", path=str(Path(sys.executable).parent)) or shutil.which("squawk")
    if found is None:
        raise ConfigurationError("--squawk needs squawk, which is not installed. To fix: pip install squawk-cli")
    return found
