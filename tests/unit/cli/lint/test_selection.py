"""Which revisions `lint` looks at, and what it says about them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from api.migrations.errors import ConfigurationError, UnknownRevision
from tests.support.planted_faults import BASE, Planted, write_history
from tests.support.servers import optional
from tests.unit.cli.lint.conftest import Lint

DROPS = [Planted(name, f'op.drop_table("{name}")') for name in ("first", "second", "third")]


@pytest.fixture(autouse=True)
def history(folder: Path) -> Path:
    """Write the tables and three revisions with one finding each; return the folder of the revisions."""
    write_history(folder, BASE, *DROPS)
    return folder / "alembic" / "versions"


def git(*arguments: str | Path) -> None:
    """Run git in the current folder, or skip the test without it."""
    if shutil.which("git") is None:
        optional("git", "apt-get install git")
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", ["first", "second", "third"]),
        ("--all", ["first", "second", "third"]),
        ("second", ["second"]),
        ("third first", ["first", "third"]),
        ("head", ["third"]),
        ("first:third", ["second", "third"]),
        ("first:", ["second", "third"]),
        (":second", ["first", "second"]),
        ("alembic/versions/02_second.py", ["second"]),
        ("alembic/env.py", []),
    ],
)
def test_revisions_are_chosen_by_id_range_or_file(lint: Lint, arguments: str, expected: list[str]) -> None:
    """The findings are those of the chosen revisions, oldest first."""
    report = lint(*arguments.split())
    assert [finding.revision for finding in report.findings] == expected
    assert all(
        finding.path == f"alembic/versions/{finding.path[17:19]}_{finding.revision}.py" for finding in report.findings
    )


def test_without_a_database_all_revisions_are_checked(lint: Lint) -> None:
    """The message says that all were checked, and why."""
    assert lint().message == (
        "4 revisions checked (all revisions, because the pending ones are not known: DATABASE_URL is not set): "
        "3 findings"
    )


def test_without_a_choice_the_pending_revisions_are_checked(
    lint: Lint, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty database has all revisions pending; the command reads it and does not change it."""
    (folder / "alembic" / "env.py").write_text("from api.migrations.environment import run_env\nrun_env(None)\n")
    database = folder / "empty.db"
    database.touch()
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{database}")
    monkeypatch.setenv("MIGRATION_STRATEGY", "advisory_lock")  # in a container the default refuses the file
    assert lint().message == "4 revisions checked (the pending revisions): 3 findings"
    assert database.stat().st_size == 0


def test_the_files_that_changed_since_a_reference_are_checked(lint: Lint, history: Path) -> None:
    """A file that differs from the reference, committed or not, and a file that git does not know are checked."""
    git("init")
    git("add", history.joinpath("00_tables.py"), history.joinpath("01_first.py"), history.joinpath("02_second.py"))
    git("commit", "-m", "before")
    git("tag", "v1")
    assert [finding.revision for finding in lint("--since", "v1").findings] == ["third"]
    file = history / "02_second.py"
    file.write_text(file.read_text() + "# changed\n")
    git("commit", "-am", "after")
    assert [finding.revision for finding in lint("--since", "v1").findings] == ["second", "third"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("unknown", UnknownRevision),
        ("unknown:third", UnknownRevision),
        ("missing.py", ConfigurationError),
        ("--all second", ConfigurationError),
        ("--since nonsense", ConfigurationError),
        ("--since=--output=x", ConfigurationError),
    ],
)
def test_a_wrong_choice_is_refused_as_usage(
    lint: Lint, arguments: str, error: type[ConfigurationError | UnknownRevision]
) -> None:
    """What does not exist, and two choices at once, end with exit code 2 and the way out."""
    git("init")
    with pytest.raises(error, match="To fix: ") as raised:
        lint(*arguments.split())
    assert raised.value.exit_code == 2


def test_each_of_several_heads_is_found(lint: Lint, history: Path) -> None:
    """Two heads are found at their ids, unless several are intended."""
    (history / "other.py").write_text(Planted("other", "pass").source("second"))
    heads = [finding for finding in lint("second:heads").findings if finding.rule == "several-heads"]
    assert {(finding.revision, finding.line) for finding in heads} == {("third", 7), ("other", 7)}
    assert "other, third" in heads[0].message


def test_several_intended_heads_are_accepted(lint: Lint, history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MIGRATION_TARGET=heads says that several are intended."""
    monkeypatch.setenv("MIGRATION_TARGET", "heads")
    (history / "other.py").write_text(Planted("other", "pass").source("second"))
    assert "several-heads" not in {finding.rule for finding in lint("--all").findings}
