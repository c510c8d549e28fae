"""`adopt --update` replaces the files of a copied folder, and none that would lose a change of its own."""

from pathlib import Path

import pytest

from api.migrations.cli.adopt.copied import RECORD, Copy, copied_folder
from api.migrations.cli.adopt.update import Action, Updated, update
from api.migrations.errors import ConfigurationError, MigrationError
from tests.support.project import ROOT

OLD = {
    "__init__.py": '"""Old."""\n\n__version__ = "1.0"\n',
    "lock_manager.py": "old\n",
    "core/same.py": "same\n",
    "core/gone.py": "gone\n",
    "optional/one.py": "one\n",
}
NEW = {
    "__init__.py": '"""New."""\n\n__version__ = "2.0"\n',
    "lock_manager.py": "new\n",
    "core/same.py": "same\n",
    "core/added.py": "added\n",
    "optional/one.py": "one\n",
    "optional/two.py": "two\n",
}


def tree(folder: Path, files: dict[str, str]) -> Path:
    """Write the files and return the folder."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text.encode())
    return folder


def texts(folder: Path) -> dict[str, str]:
    """Return the text of each file but the record."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {path.relative_to(folder).as_posix(): path.read_bytes().decode() for path in paths}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copied folder whose record was written."""
    folder = tree(tmp_path / "copy", OLD)
    Copy.of(folder).record(folder)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return the newer folder."""
    return tree(tmp_path / "newer" / "alembic_fleet", NEW)


def actions(result: Updated) -> dict[str, Action]:
    """Return what the update does with each file."""
    return {step.path: step.action for step in result.steps}


def test_an_unchanged_copy_becomes_the_source(copy: Path, source: Path) -> None:
    """Without `write` nothing changes; with it the folder is the source's, and a second update has nothing to do."""
    before = texts(copy)
    shown = update(copy, source.parent, write=False, overwrite=False)
    assert (texts(copy), shown.exit_code) == (before, 0)
    assert actions(shown) == {
        "__init__.py": Action.REPLACE,
        "core/added.py": Action.ADD,
        "core/gone.py": Action.REMOVE,
        "lock_manager.py": Action.REPLACE,
        "optional/two.py": Action.ADD,
    }
    assert update(copy, source, write=True, overwrite=False).written
    assert texts(copy) == NEW
    assert Copy.recorded(copy) == Copy.of(source)
    assert update(copy, source, write=False, overwrite=False).steps == []


@pytest.mark.parametrize(
    ("path", "text"), [("lock_manager.py", "mine\n"), ("core/gone.py", "mine\n"), ("core/added.py", "mine\n")]
)
def test_a_text_that_would_be_lost_refuses_the_update(copy: Path, source: Path, path: str, text: str) -> None:
    """A file was changed, or added, here and differs in the source: exit code 1 and no write; or it is kept beside."""
    before = texts(tree(copy, {path: text}))
    refused = update(copy, source, write=True, overwrite=False)
    assert (refused.exit_code, refused.written, texts(copy)) == (1, False, before)
    assert f"would lose their changes: {path}. To fix: " in refused.message
    assert update(copy, source, write=True, overwrite=True).written
    assert texts(copy) == NEW | {f"{path}.orig": text}


def test_a_text_kept_by_an_earlier_update_is_not_overwritten(copy: Path, source: Path) -> None:
    """The file `lock_manager.py.orig` exists: the update is refused before it writes anything."""
    before = texts(tree(copy, {"lock_manager.py": "mine\n", "lock_manager.py.orig": "mine before\n"}))
    with pytest.raises(ConfigurationError, match=r"lock_manager\.py\.orig of an earlier update exists"):
        update(copy, source, write=True, overwrite=True)
    assert texts(copy) == before


def test_what_the_source_did_not_change_stays_as_it_is_here(copy: Path, source: Path) -> None:
    """Changed and added files stay; a deleted folder stays deleted with the source's new files in it, also later."""
    tree(copy, {"core/same.py": "mine\n", "mine.py": "mine\n"})
    (copy / "optional/one.py").unlink()
    expected = {name: text for name, text in NEW.items() if not name.startswith("optional/")}
    for _ in range(2):
        result = update(copy, source, write=True, overwrite=False)
        assert texts(copy) == expected | {"core/same.py": "mine\n", "mine.py": "mine\n"}
        kept = {path: action for path, action in actions(result).items() if action in {Action.KEEP, Action.LEAVE_OUT}}
        assert kept == {
            "core/same.py": Action.KEEP,
            "mine.py": Action.KEEP,
            "optional/one.py": Action.LEAVE_OUT,
            "optional/two.py": Action.LEAVE_OUT,
        }


def test_line_ends_are_no_change(copy: Path, source: Path) -> None:
    """The copy was checked out with CRLF: no file counts as changed here."""
    tree(copy, {path: text.replace("\n", "\r\n") for path, text in OLD.items()})
    assert update(copy, source, write=True, overwrite=False).written
    assert (copy / "core/same.py").read_bytes() == b"same\r\n"


def test_without_a_record_each_difference_is_a_conflict(copy: Path, source: Path) -> None:
    """There is no record: the update cannot know what was changed here, and refuses each file that differs."""
    (copy / RECORD).unlink()
    result = update(copy, source, write=True, overwrite=False)
    assert {path for path, action in actions(result).items() if action is Action.CONFLICT} == {
        "__init__.py",
        "lock_manager.py",
    }
    assert (result.refused, "has no record" in result.message) == (True, True)


def test_a_write_that_fails_replaces_nothing(copy: Path, source: Path) -> None:
    """A new file cannot be written: no text is replaced, the record is the old one, and the next update completes."""
    (copy / "core/.added.py.new").mkdir()
    with pytest.raises(MigrationError, match=r"not updated completely: .*\.added\.py\.new"):
        update(copy, source, write=True, overwrite=False)
    (copy / "core/.added.py.new").rmdir()
    assert {path: text for path, text in texts(copy).items() if not path.endswith(".new")} == OLD
    assert Copy.recorded(copy) == Copy.of(copy)
    assert update(copy, source, write=True, overwrite=False).written
    assert texts(copy) == NEW


@pytest.mark.parametrize(
    ("folder", "words"),
    [("nowhere", "cannot be read"), ("copy", "is the copied folder itself"), ("other", "is not a folder of this")],
)
def test_another_folder_than_a_newer_one_is_refused(copy: Path, tmp_path: Path, folder: str, words: str) -> None:
    """The source does not exist, is the copy, or is another package: refused with what to name."""
    tree(tmp_path / "other", {"__init__.py": ""})
    with pytest.raises(ConfigurationError, match=f"{words}.*To fix: name"):
        update(copy, tmp_path / folder, write=False, overwrite=False)


def test_a_damaged_record_is_refused(copy: Path, source: Path) -> None:
    """The record is no JSON: it is named with the remedy."""
    (copy / RECORD).write_text("{")
    with pytest.raises(ConfigurationError, match=rf"{RECORD} cannot be read: JSONDecodeError. To fix: "):
        update(copy, source, write=False, overwrite=False)


def test_only_a_folder_of_another_project_is_a_copy(tmp_path: Path) -> None:
    """The package's own project, and a project that the package lies outside of, have no copied folder."""
    assert copied_folder(ROOT) is None
    assert copied_folder(tmp_path) is None
    assert copied_folder(ROOT / "api") == ROOT / "api" / "migrations"
