"""The command `adopt`; it contacts no database."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import COMMAND
from ..results import Result
from . import alembic_setup, application, deployment, env_file
from .project import PACKAGE, Project
from .report import Adoption, Change, Fact, Need

_NOT_CHECKED = (
    "not contacted: version, pooler, roles and revision are not checked. To fix: set DATABASE_URL and run "
    f"'{COMMAND} doctor'"
)


def adopt(arguments: argparse.Namespace) -> Result:
    """Look at the project in the current folder and show what to change; needs no database.

    Each change is shown as a unified diff. --write makes the change of the application's lifespan, if there is one
    application and the file is what it was; the other changes are decisions.
    """
    project = Project(Path.cwd())
    setup, facts = alembic_setup.find(project)
    shape, about_env, without_locks = env_file.judge(project, setup)
    about_app, lifespans = application.judge(project, setup, deployment.served(project))
    about_commands, commands = deployment.commands(project, shape)
    about_probes, probes = deployment.probes(project)
    facts += [*about_env, *alembic_setup.driver(project, setup), *about_app, *about_commands, *about_probes]
    facts += [*deployment.workers(project), Fact("server", Need.UNKNOWN, _NOT_CHECKED)]
    changes = [*lifespans, *without_locks, *commands, *probes]
    changed = _written(project, changes) if arguments.write else []
    return Adoption(facts=facts, changes=changes, message="; ".join([_summary(facts, changes), *changed]))


def _written(project: Project, changes: list[Change]) -> list[str]:
    safe = [change for change in changes if change.safe]
    if not safe:
        return ["--write made no change, because none is safe"]
    refused = [change.path for change in safe if not change.write(project.root)]
    return [
        f"{path} was not written, because it changed meanwhile, is a link, or cannot be written" for path in refused
    ]


def _summary(facts: list[Fact], changes: list[Change]) -> str:
    counts = {need: sum(fact.need is need for fact in facts) for need in Need}
    safe = sum(change.safe and not change.written for change in changes)
    return (
        f"{len(facts)} facts for the package {PACKAGE}: {counts[Need.DO]} to do, {counts[Need.MAY]} to decide, "
        f"{counts[Need.UNKNOWN]} not checked; {len(changes)} changes, {safe} of them for --write"
    )
