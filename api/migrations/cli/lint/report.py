"""The result of `lint`, as text, JSON, SARIF, and annotations of GitHub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..results import Result
from .rules import RULES, Finding


@dataclass(frozen=True, kw_only=True)
class LintReport(Result):
    """The findings of `lint`, in the order of the revisions."""

    findings: Sequence[Finding]
    revisions: int
    """How many were checked."""
    output: str = "text"

    @property
    def exit_code(self) -> int:
        """1 if there are findings."""
        return int(bool(self.findings))

    def lines(self) -> Iterator[str]:
        """Yield the findings in the format of the command."""
        if self.output == "json":
            yield json.dumps(self.as_json())
        elif self.output == "sarif":
            yield json.dumps(self.as_sarif())
        elif self.output == "github":
            yield from map(_annotation, self.findings)
        else:
            for finding in self.findings:
                yield f"{finding.path}:{finding.line}: {finding.rule}: {finding.message}"
                yield f"    To fix: {finding.fix}"
            yield self.message

    def as_json(self) -> dict[str, Any]:
        """Return the findings and their number."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "revisions": self.revisions,
            "message": self.message,
            "exit_code": self.exit_code,
        }

    def as_sarif(self) -> dict[str, Any]:
        """Return a log of SARIF 2.1.0, which GitHub's code scanning and editors read."""
        rules = [{"id": rule.id, "shortDescription": {"text": rule.finds}} for rule in RULES.values()]
        driver = {"name": "alembic-fleet lint", "rules": rules}
        run = {"tool": {"driver": driver}, "results": list(map(_sarif, self.findings))}
        schema = "https://json.schemastore.org/sarif-2.1.0.json"
        return {"$schema": schema, "version": "2.1.0", "runs": [run]}


@dataclass(frozen=True, kw_only=True)
class RuleList(Result):
    """The rules of `lint`."""

    def lines(self) -> Iterator[str]:
        """Yield one line for each rule."""
        yield from (f"{rule.id:26} {rule.finds}" for rule in RULES.values())

    def as_json(self) -> dict[str, Any]:
        """Return the rules."""
        return {"rules": [asdict(rule) for rule in RULES.values()]}


def _sarif(finding: Finding) -> dict[str, Any]:
    place = {"artifactLocation": {"uri": finding.path}, "region": {"startLine": finding.line}}
    message = {"text": f"{finding.message} To fix: {finding.fix}"}
    locations = [{"physicalLocation": place}]
    return {"ruleId": finding.rule, "level": "error", "message": message, "locations": locations}


def _annotation(finding: Finding) -> str:
    text = _escaped(f"{finding.message} To fix: {finding.fix}")
    path = _escaped(finding.path).replace(":", "%3A").replace(",", "%2C")
    return f"::error file={path},line={finding.line},title={finding.rule}::{text}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
