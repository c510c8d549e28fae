"""A project in the current folder, and the command `lint` in it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from api.migrations.cli import commands
from api.migrations.cli.lint.report import LintReport
from api.migrations.cli.lint.rules import Finding
from api.migrations.cli.main import _parser
from tests.support.planted_faults import BASE, EXPLAINED, Planted, write_history

Lint = Callable[..., LintReport]
Find = Callable[..., Sequence[Finding]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, without settings."""
    for name in ("DATABASE_URL", "MIGRATION_DATABASE_URL", "MIGRATION_ALEMBIC_CONFIG", "ALEMBIC_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def lint(folder: Path) -> Lint:
    """Return a function that runs the command with arguments in the current folder."""

    def run(*arguments: str) -> LintReport:
        result = commands.lint(_parser().parse_args(["lint", *arguments]))
        assert isinstance(result, LintReport)
        return result

    return run


@pytest.fixture
def find(folder: Path, lint: Lint, monkeypatch: pytest.MonkeyPatch) -> Find:
    """Return a function that lints the body of one `upgrade()` on top of the tables of BASE."""

    def run(upgrade: str, downgrade: str = EXPLAINED) -> Sequence[Finding]:
        project = folder / str(len(list(folder.iterdir())))
        write_history(project, BASE, Planted("one", upgrade, downgrade=downgrade))
        monkeypatch.chdir(project)
        return lint("one").findings

    return run
