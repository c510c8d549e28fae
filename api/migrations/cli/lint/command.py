"""The command `lint`; it executes the revisions in Alembic's offline mode, and changes nothing."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from alembic.script import Script

from ...errors import ConfigurationError
from ...execution.revisions import Revisions
from ...settings import MigrationSettings
from ..results import Result
from ..sql.rendering import Rendered, in_order, render
from ..sql.tables import Tables
from . import squawk
from .mark_rules import by_mark
from .report import LintReport, RuleList
from .revision_rules import check_file, check_revision, line_of_id
from .rules import Finding, Hit, finding, hit
from .selection import choose
from .suppressions import Suppressions


def lint(arguments: argparse.Namespace) -> Result:
    """Check the revisions that `arguments`, those of the command `lint`, name."""
    if arguments.rules:
        return RuleList()
    revisions = _revisions(arguments)
    chosen, which = choose(revisions, arguments)
    findings: list[Finding] = []
    for rendered, hits in checked(revisions, chosen):
        findings += _reported(rendered.script, hits, revisions)
        if arguments.squawk:
            findings += _not_suppressed(rendered.script, squawk.findings(rendered, _path(rendered.script)))
    count = f"{len(chosen)} revision{'' if len(chosen) == 1 else 's'} checked ({which})"
    message = f"{count}: {len(findings)} finding{'' if len(findings) == 1 else 's'}"
    return LintReport(findings=findings, revisions=len(chosen), output=arguments.format, message=message)


def _revisions(arguments: argparse.Namespace) -> Revisions:
    settings = MigrationSettings.load_partial("alembic_config", "alembic_section", "target")
    revisions = Revisions(settings.alembic_config, settings.target, section=settings.alembic_section)
    if any(getattr(script.module, "upgrade", None) is None for script in in_order(revisions)):
        raise ConfigurationError("a revision has no function upgrade(). To fix: write it")
    revisions.config.cmd_opts = argparse.Namespace(x=arguments.x)
    return revisions


def checked(revisions: Revisions, chosen: frozenset[str]) -> Iterator[tuple[Rendered, list[Hit]]]:
    """Yield each chosen revision with its hits; the others are executed too, for what they make."""
    seen, known = Tables(), Tables()
    last = [script.revision for script in in_order(revisions) if script.revision in chosen][-1:]
    for script in in_order(revisions) if last else ():
        rendered = render(revisions, script, seen)
        hits = list(check_revision(rendered, known))
        if script.revision in chosen:
            yield rendered, hits
        if script.revision == last[0]:
            return


def _reported(script: Script, hits: list[Hit], revisions: Revisions) -> list[Finding]:
    path = Path(script.path)
    comments = Suppressions(path)
    hits = list(by_mark(hits, script.revision, revisions.code))
    hits += [*check_file(path, script.revision), *comments.bad, *_heads(script, revisions)]
    kept = {(one.line, one.rule, str(one.words)): one for one in hits if not comments.cover(one)}
    return [finding(kept[key], _path(script), script.revision) for key in sorted(kept)]


def _heads(script: Script, revisions: Revisions) -> Iterator[Hit]:
    if revisions.ambiguous and script.revision in revisions.code.heads:
        why = ", ".join(sorted(revisions.code.heads))
        yield hit("several-heads", line_of_id(Path(script.path)), why=why)


def _not_suppressed(script: Script, findings: list[Finding]) -> list[Finding]:
    comments = Suppressions(Path(script.path))
    return [one for one in findings if not comments.cover(hit(one.rule, one.line))]


def _path(script: Script) -> str:
    return os.path.relpath(script.path)
