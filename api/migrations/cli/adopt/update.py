"""`adopt --update`: replaces the files of a copied folder with those of a newer one, and keeps what was changed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath

from ...errors import ConfigurationError, MigrationError
from ..results import Result
from .copied import OWN_TEXT, Copy, staged


class Action(StrEnum):
    """What an update does with a file that differs between the copied folder and the source."""

    REPLACE = "replace"
    ADD = "add"
    REMOVE = "remove"
    KEEP = "keep"
    LEAVE_OUT = "leave out"
    CONFLICT = "conflict"


_WHY = {
    Action.REPLACE: "as it was copied; the source has another text",
    Action.ADD: "only in the source",
    Action.REMOVE: "as it was copied; no longer in the source",
    Action.KEEP: "changed or added here, and the source did not change it",
    Action.LEAVE_OUT: "deleted here",
    Action.CONFLICT: "changed or added here, and the source has another text or none",
}
_WRITES = {Action.REPLACE, Action.ADD, Action.REMOVE}


@dataclass(frozen=True)
class Step:
    """What an update does with one file, and why."""

    path: str
    action: Action

    @property
    def why(self) -> str:
        """The reason, for people."""
        return _WHY[self.action]


@dataclass(frozen=True, kw_only=True)
class Updated(Result):
    """The steps of an update, and whether they were made."""

    steps: Sequence[Step]
    written: bool = False
    refused: bool = False

    @property
    def exit_code(self) -> int:
        """1 if the update was refused."""
        return int(self.refused)

    def lines(self) -> Iterator[str]:
        """Yield one line for each file."""
        yield from (f"{step.action:9}  {step.path}  ({step.why})" for step in self.steps)
        yield self.message

    def as_json(self) -> dict[str, object]:
        """Return the steps with their reasons."""
        steps = [{"path": step.path, "action": step.action, "why": step.why} for step in self.steps]
        return {"steps": steps, "written": self.written, "refused": self.refused, "message": self.message}


def plan(here: Copy, source: Copy, recorded: Copy) -> list[Step]:
    """Compare the copied folder and the source with the record of what was copied; files that are equal are left out.

    Without a record (an empty one) every file that differs from the source is a conflict.
    """
    folders = {folder for path in here.files for folder in PurePosixPath(path).parents}
    deleted = {folder for path in recorded.files for folder in PurePosixPath(path).parents} - folders
    steps = []
    for path in sorted(here.files.keys() | source.files.keys()):
        is_left_out = path in recorded.files or not deleted.isdisjoint(PurePosixPath(path).parents)
        texts = (each.files.get(path) for each in (here, source, recorded))
        action = _action(*texts, is_left_out=is_left_out)
        if action is not None:
            steps.append(Step(path, action))
    return steps


def _action(here: str | None, source: str | None, recorded: str | None, *, is_left_out: bool) -> Action | None:
    if here == source:
        return None
    if here is None:
        return Action.LEAVE_OUT if is_left_out else Action.ADD
    if here == recorded:
        return Action.REMOVE if source is None else Action.REPLACE
    return Action.KEEP if source == recorded else Action.CONFLICT


def update(folder: Path, given: Path, *, write: bool, overwrite: bool) -> Updated:
    """Compare the copied `folder` with the newer one `given`; with `write`, replace its files.

    A file that would lose changes refuses the update. With `overwrite` it is replaced too, and its text is kept beside
    it with the suffix `.orig`.

    Raises:
        ConfigurationError: `given` is not a folder of the package, or a file with the suffix is in the way.
        MigrationError: a file cannot be written.
    """
    source_folder = _folder_of_package(given, folder)
    here, source, recorded = Copy.of(folder), Copy.of(source_folder), Copy.recorded(folder)
    steps = plan(here, source, recorded or Copy())
    conflicts = [step.path for step in steps if step.action is Action.CONFLICT]
    about = f"version {here.version} in {folder.name}, version {source.version} in {given}"
    if recorded is None:
        about += f"; {folder.name} has no record of what was copied, so every file that differs is a conflict"
    result = Updated(steps=steps, message=f"{about}. {_advice(steps, conflicts)}")
    if not write:
        return result
    if conflicts and not overwrite:
        return replace(result, refused=True, message=f"{about}. Nothing was written. {_advice(steps, conflicts)}")
    _refuse_earlier_texts(folder, conflicts)
    try:
        _write(folder, source_folder, steps)
        source.record(folder)
    except OSError as error:
        raise MigrationError(
            f"{folder} is not updated completely: {error.strerror}: {error.filename}. To fix: let this user write "
            "there, and run the command again"
        ) from error
    kept = f"; your texts are kept as *{OWN_TEXT}: {', '.join(conflicts)}" if conflicts else ""
    return replace(result, written=True, message=f"{folder.name} has version {source.version} now{kept}")


def _advice(steps: list[Step], conflicts: list[str]) -> str:
    if conflicts:
        return (
            f"These files would lose their changes: {', '.join(conflicts)}. To fix: give each the source's text, or "
            f"add --write --overwrite, which keeps yours beside it with the suffix {OWN_TEXT}"
        )
    written = sum(step.action in _WRITES for step in steps)
    return f"--write changes {written} files" if written else "No file is to be replaced"


def _folder_of_package(given: Path, folder: Path) -> Path:
    """Return `given`, or the folder of the package in a checkout or an unpacked wheel."""
    places = (given, given / "api" / "migrations", given / "alembic_fleet")
    found = next((place for place in places if (place / "lock_manager.py").is_file()), given)
    if found.resolve() == folder:
        raise ConfigurationError(f"{found} is the copied folder itself. To fix: name a newer folder of the package")
    return found


def _write(folder: Path, source: Path, steps: list[Step]) -> None:
    """Make the steps. Until every new text is written under another name, nothing is replaced."""
    of_source = [step.path for step in steps if step.action in _WRITES | {Action.CONFLICT}]
    removed = {path for path in of_source if not (source / path).is_file()}
    for path in of_source:
        if path not in removed:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, staged(folder / path))
    for step in steps:
        if step.action is Action.CONFLICT:
            shutil.copy2(folder / step.path, folder / f"{step.path}{OWN_TEXT}")
    for path in of_source:
        if path in removed:
            (folder / path).unlink()
        else:
            staged(folder / path).replace(folder / path)


def _refuse_earlier_texts(folder: Path, conflicts: list[str]) -> None:
    exist = [f"{path}{OWN_TEXT}" for path in conflicts if (folder / f"{path}{OWN_TEXT}").exists()]
    if exist:
        raise ConfigurationError(
            f"{', '.join(exist)} of an earlier update exists. To fix: merge it, and delete or rename it"
        )
