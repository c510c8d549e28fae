"""The environment of ./dev: made again when it must be, and only then."""

import subprocess
import sys
from pathlib import Path

import pytest

from devtools import environment
from devtools.lock import oldest_supported, pins


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with requirements and a complete environment."""
    for name in environment.REQUIREMENTS:
        (tmp_path / name).write_text("some==1\n")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (tmp_path / ".venv" / "stamp").write_text(environment.fingerprint(tmp_path))
    return tmp_path


def test_a_complete_environment_is_kept(project: Path) -> None:
    """Nothing is made while the stamp matches."""
    assert environment.is_current(project)


@pytest.mark.parametrize("name", environment.REQUIREMENTS)
def test_changed_requirements_make_it_anew(project: Path, name: str) -> None:
    """Both requirement files count."""
    (project / name).write_text("some==2\n")
    assert not environment.is_current(project)


def test_an_interrupted_environment_is_made_anew(project: Path) -> None:
    """The stamp is written last, so without one the environment is not trusted."""
    (project / ".venv" / "stamp").unlink()
    assert not environment.is_current(project)


def test_a_moved_project_makes_it_anew(project: Path) -> None:
    """Scripts in .venv/bin name the folder they were made in."""
    moved = project.rename(project.with_name("moved"))
    assert not environment.is_current(moved)


def test_an_environment_whose_python_is_gone_is_made_anew(project: Path) -> None:
    """An upgrade of the system may remove the Python that .venv points to."""
    python = project / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(project / "removed")
    assert not environment.is_current(project)


def test_a_python_without_ensurepip_says_what_to_install(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian packs venv on its own; the message names the package."""
    monkeypatch.setattr(environment, "find_spec", lambda _name: None)
    with pytest.raises(SystemExit, match="apt-get install python3-venv"):
        environment.build(project)


def test_pins_are_exact_and_sorted() -> None:
    """A requirements file changes only where a version does."""
    assert pins({"b": "2", "a": "1.0"}) == "a==1.0\nb==2\n"


def test_the_oldest_python_is_read_from_the_project() -> None:
    """Locking is tied to `requires-python`."""
    assert oldest_supported(">=3.11") == (3, 11)


def test_an_unknown_command_is_a_usage_error() -> None:
    """./dev with a word it does not know prints the help and exits 2."""
    done = subprocess.run([environment.PROJECT / "dev", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "./dev up" in done.stderr
    assert done.stderr.endswith("unknown command: nonsense\n")
