"""`./dev` installs what a command needs, once, and again if and only if the environment is outdated."""

import sys
from pathlib import Path

import pytest

from devtools import environment
from devtools.environment import SERVICE, TOOLS, entries

PSUTIL = "psutil==1 \\\n    --hash=sha256:aa\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with requirements and a complete environment."""
    (tmp_path / SERVICE).write_text("# comment\nsome==1 \\\n    --hash=sha256:ab\n")
    (tmp_path / TOOLS).write_text(f"-r {SERVICE}\n{PSUTIL}pytest==1\n")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    for group in environment.GROUPS:
        (tmp_path / ".venv" / f"stamp-{group}").write_text(environment.fingerprint(tmp_path, group))
    return tmp_path


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list to which `ensure` adds what it does, in place of doing it."""
    steps: list[str] = []
    monkeypatch.setattr(environment, "create", lambda _project: steps.append("create"))
    monkeypatch.setattr(environment, "add", lambda _project, group: steps.append(group))
    return steps


def stamp(project: Path, group: str) -> Path:
    """Return the file that says that the group is installed."""
    return project / ".venv" / f"stamp-{group}"


@pytest.mark.parametrize("group", environment.GROUPS)
def test_a_complete_environment_is_kept(project: Path, done: list[str], group: str) -> None:
    """Nothing is installed if the stamp matches the requirements."""
    environment.ensure(project, group)
    assert done == []


def test_tests_are_installed_into_the_environment_of_dev_up(project: Path, done: list[str]) -> None:
    """The packages of the tests are added to an environment that has those of `./dev up`."""
    stamp(project, "tests").unlink()
    environment.ensure(project, "tests")
    assert done == ["tests"]


def test_a_change_of_the_tools_does_not_concern_dev_up(project: Path, done: list[str]) -> None:
    """Changed tools leave `./dev up` as it is; for the tests the environment is made anew, without the old tools."""
    (project / TOOLS).write_text(f"{PSUTIL}pytest==2\n")
    environment.ensure(project, "up")
    assert done == []
    environment.ensure(project, "tests")
    assert done[0] == "create"
    assert "tests" in done


@pytest.mark.parametrize(("name", "text"), [(SERVICE, "some==2\n"), (TOOLS, "psutil==2\npytest==1\n")])
def test_a_change_of_what_dev_up_needs_makes_the_environment_anew(
    project: Path, done: list[str], name: str, text: str
) -> None:
    """Changed pins of the service, or of a tool that `./dev up` needs, make the environment outdated."""
    (project / name).write_text(text)
    environment.ensure(project, "up")
    assert done == ["create", "up"]


def test_an_environment_without_a_stamp_is_outdated(project: Path) -> None:
    """An environment without a stamp, which is written last, was interrupted and is outdated."""
    stamp(project, "up").unlink()
    assert not environment.is_current(project, "up")


def test_an_environment_of_a_moved_project_is_outdated(project: Path) -> None:
    """An environment whose project was moved is outdated, because its scripts name the old folder."""
    moved = project.rename(project.with_name("moved"))
    assert not environment.is_current(moved, "up")


def test_an_environment_without_its_python_is_outdated(project: Path) -> None:
    """An environment whose Python was removed from the system is outdated."""
    python = project / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(project / "removed")
    assert not environment.is_current(project, "up")


def test_the_entries_are_the_packages_with_their_hashes(project: Path) -> None:
    """The entries of a requirements file are its packages, without comments and included files."""
    assert entries((project / TOOLS).read_text()) == {"psutil": PSUTIL, "pytest": "pytest==1\n"}


@pytest.mark.parametrize("name", [SERVICE, TOOLS])
def test_each_locked_package_has_hashes_and_no_address(name: str) -> None:
    """Each package of the lock has an exact version and hashes, and the lock names no package index."""
    lock = (environment.PROJECT / name).read_text()
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries(lock).values())
    assert "://" not in lock
    assert "--index" not in lock


def test_what_is_installed_by_name_is_locked() -> None:
    """The packages that `./dev up` installs by name are in the lock of the tools."""
    assert {*environment.FOR_UP, environment.SERVER} <= entries((environment.PROJECT / TOOLS).read_text()).keys()


def test_the_environment_of_another_folder_is_not_emptied(project: Path, tmp_path: Path) -> None:
    """A .venv that links to another folder's environment is refused, and that environment stays complete."""
    other = (project / ".venv").rename(tmp_path / "other")
    (project / ".venv").symlink_to(other)
    (other / "stamp-up").unlink()
    with pytest.raises(SystemExit, match="symbolic link"):
        environment.ensure(project, "up")
    assert (other / "bin" / "python").exists()
