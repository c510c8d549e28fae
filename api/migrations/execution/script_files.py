"""Checks the files of a build, env.py and the revisions, and refuses a missing or damaged one by name.

Alembic treats a build without revisions as being at head, skips a folder that does not exist, only warns about two
files with the same id, and raises a KeyError for a missing parent.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from importlib.machinery import SourceFileLoader
from pathlib import Path

from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError, RevisionMap
from alembic.util import CommandError, to_tuple
from alembic.util.pyfiles import coerce_resource_to_filename, pyc_file_from_path

from ..core.schema import CodeRevisions
from ..errors import ConfigurationError
from .alembic_config import name_of
from .error_translation import describe
from .revision_files import (
    LIMITS,
    MARKS,
    RevisionFile,
    RevisionFiles,
    WrongMark,
    first_paragraph,
    marked,
    valid_limit,
)

_NO_REVISION_YET = "if the project has no revision yet, set MIGRATION_STRATEGY=off"


def read(config: Config) -> ScriptDirectory:
    """Return the script directory that `config` names; raise `ConfigurationError` for a missing or damaged file."""
    directory = _opened(config)
    scripts = _loaded(directory)
    _refuse_bad_links(scripts)
    directory.revision_map = RevisionMap(lambda: scripts)
    _check_env(directory)
    return directory


def revisions(config: Config, directory: ScriptDirectory) -> RevisionFiles:
    """Return the revisions of `directory`; raise `ConfigurationError` if they do not form a graph."""
    try:
        scripts = list(reversed(list(directory.walk_revisions())))
        parents = {script.revision: _resolved(directory, script) for script in scripts}
        heads = frozenset(directory.get_heads())
    except (CommandError, RevisionError) as error:
        raise ConfigurationError(
            f"the revisions of {name_of(config)} do not form a graph: {error}. To fix: correct the revision files"
        ) from error
    idempotent = frozenset(s.revision for s in scripts if getattr(s.module, "idempotent", False) is True)
    files = {s.revision: RevisionFile(Path(s.path), first_paragraph(s.module.__doc__), _limits(s)) for s in scripts}
    declared = {s.revision: {name: getattr(s.module, name, None) for name in MARKS} for s in scripts}
    try:
        code = marked(CodeRevisions(parents, heads, idempotent), declared)
    except WrongMark as error:
        raise ConfigurationError(f"{files[error.revision].path.name}: {error}") from None
    return RevisionFiles(code, files, Path(directory.env_py_location))


def incomplete(config: Config, directory: ScriptDirectory, env_may_choose: bool, has_revisions: bool) -> str | None:
    """Return the message about missing folders or revisions, if any; env.py names the folders if it may not choose."""
    named_by = str(name_of(config)) if env_may_choose else "env.py"
    folders = [Path(folder) for folder in directory._version_locations]
    source = f"{'version_locations' if directory.version_locations else 'script_location'} in {named_by}"
    # even if other folders have revisions, because Alembic would silently skip those of this one
    unusable = [f"{folder} {why}" for folder in folders if (why := _unusable(folder))]
    if unusable:
        failure = "a folder of revisions is missing" if has_revisions else "this build has no revisions"
        return (
            f"{failure}: {'; '.join(unusable)} ({source}). To fix: put the folder into the build, or correct the "
            f"setting; {_NO_REVISION_YET}"
        )
    if has_revisions:
        return None
    deeper = sorted({path.parent for folder in folders for path in folder.glob("*/*.py") if path.parent.name[0] != "_"})
    found = f", but {deeper[0]} has some and is not searched" if deeper else ""
    remedy = (
        "set recursive_version_locations = true in alembic.ini" if deeper else "put the revision files into the build"
    )
    return (
        f"this build has no revisions: no revision files in {', '.join(map(str, folders))}{found} ({source}). "
        f"To fix: {remedy}; {_NO_REVISION_YET}"
    )


def env_chooses(directory: ScriptDirectory) -> bool:
    """Whether the text of env.py mentions folders of revisions; then it must be executed to know them."""
    path = Path(directory.env_py_location)
    return not path.is_file() or b"version_locations" in path.read_bytes()


def _limits(script: Script) -> dict[str, float]:
    declared = {name: getattr(script.module, name) for name in LIMITS if hasattr(script.module, name)}
    for name, value in declared.items():
        if not valid_limit(value):
            place = Path(script.path).name
            raise ConfigurationError(
                f"{place}: {name} is {value!r}. To fix: set it to a number of seconds, or to 0 for no limit"
            )
    return declared


def _resolved(directory: ScriptDirectory, script: Script) -> frozenset[str]:
    links = [script.down_revision, script.dependencies]
    return frozenset(parent.revision for link in links if link for parent in directory.get_revisions(link))


def _opened(config: Config) -> ScriptDirectory:
    ini = name_of(config)
    try:
        return ScriptDirectory.from_config(config)
    except CommandError as error:
        if "Path doesn't exist" not in str(error):
            raise ConfigurationError(f"{ini} cannot be used: {error}. To fix: correct the file") from error
        folder = coerce_resource_to_filename(str(config.get_alembic_option("script_location"))).absolute()
        raise ConfigurationError(
            f"the script folder {folder} does not exist (script_location in {ini}). To fix: put the folder into the "
            "build, or correct script_location"
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f"{ini} cannot be used: {describe(error, quotes=True)}. To fix: correct the file"
        ) from error


def _loaded(directory: ScriptDirectory) -> list[Script]:
    try:
        return list(directory._load_revisions())
    except (Exception, SystemExit) as error:
        # importing a revision file may raise any error
        path = _being_loaded(error)
        reason = str(error) if isinstance(error, CommandError) else describe(error, quotes=True)
        failure = f"the revision file {path} does not load" if path else "the revisions do not load"
        raise ConfigurationError(
            f"{failure}: {reason}{_line(error, path)}. To fix: correct the file, or remove it if it is not a revision"
        ) from error


def _refuse_bad_links(scripts: Sequence[Script]) -> None:
    by_id: dict[str, Script] = {}
    for script in scripts:
        if (other := by_id.setdefault(script.revision, script)) is not script:
            raise ConfigurationError(
                f"two revision files have the id {script.revision}: {other.path} and {script.path}. To fix: remove one "
                "of them, or give it an id of its own"
            )
    labels = {label: script for script in scripts for label in script.branch_labels}
    parents = {script.revision: list(_parents(script, {**labels, **by_id})) for script in scripts}
    try:
        TopologicalSorter(parents).prepare()
    except CycleError as error:
        files = ", ".join(sorted({by_id[revision].path for revision in error.args[1]}))
        raise ConfigurationError(
            f"these revisions are ancestors of one another: {' -> '.join(error.args[1])} ({files}). To fix: correct a "
            "down_revision or depends_on"
        ) from error


def _parents(script: Script, known: dict[str, Script]) -> list[str]:
    found: list[str] = []
    for name, value in (("down_revision", script.down_revision), ("depends_on", script.dependencies)):
        for parent in to_tuple(value, default=()):
            if parent not in known:
                raise ConfigurationError(
                    f"{script.path} names {parent} as its {name}, and no revision file has that id. To fix: put the "
                    f"file of {parent} into the build, or correct {name}"
                )
            found.append(known[parent].revision)
    return found


def _check_env(directory: ScriptDirectory) -> None:
    path = Path(directory.env_py_location).absolute()
    if not path.exists() and pyc_file_from_path(path):
        return  # Alembic executes the compiled file
    try:
        # compiled as Alembic's import does, which then finds the result in the cache
        SourceFileLoader("env_py", str(path)).get_code("env_py")
    except Exception as error:
        failure = "does not exist" if isinstance(error, FileNotFoundError) else f"does not load: {describe(error)}"
        raise ConfigurationError(f"{path} {failure}. To fix: put the file into the build, or correct it") from error


def _unusable(folder: Path) -> str | None:
    try:
        next(folder.iterdir(), None)
    except FileNotFoundError:
        return "does not exist"
    except NotADirectoryError:
        return "is not a folder"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def _being_loaded(error: BaseException) -> str | None:
    # Alembic's error does not name the file, but the frames of its loader do
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
    files = [Path(f["dir_"], f["filename"]) for f in frames if "dir_" in f and "filename" in f]
    return str(files[0].absolute()) if files else None


def _line(error: BaseException, path: str | None) -> str:
    lines = [number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == path]
    return f", at line {lines[-1]}" if lines else ""
