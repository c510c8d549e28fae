"""The command `adopt`; it contacts no database."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import COMMAND, ConfigurationError
from ..results import Result
from . import alembic_setup, application, deployment, env_file
from .copied import RECORD, Copy, copied_folder
from .project import PACKAGE, Project
from .report import Adoption, Change, Fact, Need
from .update import update

_NOT_CHECKED = (
    "not contacted: version, pooler, roles and revision are not checked. To fix: set DATABASE_URL and run "
    f"'{COMMAND} doctor'"
)


def look(arguments: argparse.Namespace) -> Result:
    """Look at the project in the current folder; `arguments` are those of the command `adopt`."""
    if arguments.update is not None or arguments.overwrite:
        return _update(arguments)
    project = Project(Path.cwd())
    setup, facts = alembic_setup.find(project)
    shape, about_env, of_env = env_file.judge(project, setup)
    about_app, lifespans = application.judge(project, setup, deployment.served(project))
    has_lock = setup.has_fleet or shape is env_file.Shape.RUN_ENV
    about_commands, commands = deployment.commands(project, has_lock=has_lock)
    about_probes, probes = deployment.probes(project)
    facts += [*about_env, *alembic_setup.driver(project, setup), *about_app, *about_commands, *about_probes]
    facts += [*deployment.workers(project), Fact("server", Need.UNKNOWN, _NOT_CHECKED)]
    changes = [*lifespans, *of_env, *commands, *probes]
    facts += _copy(project.root, write=arguments.write)
    changed = _written(project, changes) if arguments.write else []
    return Adoption(facts=facts, changes=changes, message="; ".join([_summary(facts, changes), *changed]))


def _update(arguments: argparse.Namespace) -> Result:
    folder = copied_folder(Path.cwd())
    if arguments.overwrite and not (arguments.write and arguments.update):
        raise ConfigurationError("--overwrite belongs to --update FOLDER --write. To fix: add both")
    if folder is None:
        raise ConfigurationError(
            f"--update replaces a copied folder below the current one, and {PACKAGE} is not such a copy. To fix: run "
            "it in the project's folder; replace an installed package with 'pip install --upgrade alembic-fleet'"
        )
    return update(folder, Path(arguments.update), write=arguments.write, overwrite=arguments.overwrite)


def _copy(root: Path, *, write: bool) -> list[Fact]:
    """Return what is recorded about a copied folder; with `write`, record it unless that was done before."""
    folder = copied_folder(root)
    if folder is None:
        return []
    here, recorded, file = Copy.of(folder), Copy.recorded(folder), (folder / RECORD).relative_to(root).as_posix()
    if recorded is None and not write:
        why = "so that 'adopt --update FOLDER' knows what you change"
        return [Fact("copy", Need.MAY, f"version {here.version}; adopt --write records its files in {file}, {why}")]
    if recorded is None:
        try:
            here.record(folder)
        except OSError as error:
            return [Fact("copy", Need.DO, f"{file} cannot be written: {error.strerror}")]
        return [Fact("copy", Need.OK, f"version {here.version}; its files are now recorded in {file}")]
    if recorded.version != here.version:
        fix = f"To fix: delete {file}, and run adopt --write before you change a file"
        return [Fact("copy", Need.DO, f"{file} records version {recorded.version}, not {here.version}. {fix}")]
    changed = ", ".join(here.differing(recorded)) or "no file"
    return [Fact("copy", Need.OK, f"version {here.version}; changed since it was recorded in {file}: {changed}")]


def _written(project: Project, changes: list[Change]) -> list[str]:
    safe = [change for change in changes if change.safe]
    if not safe:
        return ["--write made none of them, because none is safe"]
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
