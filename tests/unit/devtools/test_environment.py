"""`./dev` builds its virtual environment again if and only if the environment is outdated."""

import subprocess
import sys
from pathlib import Path

import pytest

from devtools import environment
from devtools.lock import oldest_supported, pins


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with requirements and a complete environment."""
    for name in environment.REQUIREMENTS:
        (tmp_path / name).write_text("some==1\n")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (tmp_path / ".venv" / "stamp").write_text(environment.fingerprint(tmp_path))
    return tmp_path


def test_a_complete_environment_is_kept(project: Path) -> None:
    """An environment whose stamp matches the requirements is current."""
    assert environment.is_current(project)


@pytest.mark.parametrize("name", environment.REQUIREMENTS)
def test_an_environment_with_changed_requirements_is_outdated(project: Path, name: str) -> None:
    """A change of either requirements file makes the environment outdated."""
    (project / name).write_text("some==2\n")
    assert not environment.is_current(project)


def test_an_environment_without_a_stamp_is_outdated(project: Path) -> None:
    """An environment without a stamp, which is written last, was interrupted and is outdated."""
    (project / ".venv" / "stamp").unlink()
    assert not environment.is_current(project)


def test_an_environment_of_a_moved_project_is_outdated(project: Path) -> None:
    """An environment whose project was moved is outdated, because its scripts name the old folder."""
    moved = project.rename(project.with_name("moved"))
    assert not environment.is_current(moved)


def test_an_environment_without_its_python_is_outdated(project: Path) -> None:
    """An environment whose Python was removed from the system is outdated."""
    python = project / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(project / "removed")
    assert not environment.is_current(project)


def test_building_without_ensurepip_names_the_package_to_install(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Building an environment without ensurepip fails and names Debian's package python3-venv."""
    monkeypatch.setattr(environment, "find_spec", lambda _name: None)
    with pytest.raises(SystemExit, match="apt-get install python3-venv"):
        environment.build(project)


def test_pins_are_exact_and_sorted() -> None:
    """The pinned requirements have exact versions in alphabetical order."""
    assert pins({"b": "2", "a": "1.0"}) == "a==1.0\nb==2\n"


def test_the_oldest_python_is_read_from_the_project() -> None:
    """The oldest supported Python is parsed from `requires-python`."""
    assert oldest_supported(">=3.11") == (3, 11)


def test_an_unknown_command_is_a_usage_error() -> None:
    """`./dev` with an unknown command prints its help and exits with code 2."""
    done = subprocess.run([environment.PROJECT / "dev", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "./dev up" in done.stderr
    assert done.stderr.endswith("unknown command: nonsense\n")
