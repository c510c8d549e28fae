"""The figures in docs/zero_downtime.md: the part between two comments is written anew, the rest stays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.laboratory import ROOT
from bench.report import in_markdown
from bench.rollout.outcome import Outcome
from bench.rollout.report import table
from bench.rollout.timeline import svg

DOCUMENT = ROOT / "docs" / "zero_downtime.md"
PICTURE = "zero-downtime.svg"
BEGIN, END = "<!-- The figures: ./dev rollout --write -->", "<!-- End of the figures -->"


def write(outcomes: Sequence[Outcome], about: Sequence[str], folder: Path = DOCUMENT.parent) -> Path:
    """Write the document with these figures, and its picture, into `folder`; return its path.

    Args:
        outcomes: this project's, and the recipe's.
        about: sentences about the machine, the versions and the moment.
        folder: where to write; the text comes from docs/ in any case.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / DOCUMENT.name
    file.write_text(with_figures(DOCUMENT.read_text(), figures(outcomes, about)))
    (folder / PICTURE).write_text(svg(outcomes))
    return file


def with_figures(text: str, figures: str) -> str:
    """Return the document's text with other figures."""
    between = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    return between.sub(lambda _: f"{BEGIN}\n\n{figures}\n\n{END}", text)


def figures(outcomes: Sequence[Outcome], about: Sequence[str]) -> str:
    """Return the load, the table, the picture and the steps."""
    found = table(outcomes)
    size = outcomes[0].size
    load = (
        f"{size.rate} requests a second by {outcomes[0].generator}, {size.postings:,} postings, "
        f"{size.instances} instances of each release, a report of {size.report_seconds:.0f} s."
    )
    steps = [_steps(outcome) for outcome in outcomes]
    picture = f"![Latency of each second]({PICTURE})"
    return "\n\n".join([load, in_markdown(found), *found.notes, picture, *steps, *about])


def _steps(outcome: Outcome) -> str:
    deploy = outcome.phase("deploy")
    began = deploy.began if deploy else 0.0
    lines = [f"{event.at - began:7.1f} s  {event.words}" for event in outcome.events]
    head = f"<details><summary>The steps of {outcome.variant}</summary>"
    return "\n".join([head, "", "```", *lines, "```", "", "</details>"])
