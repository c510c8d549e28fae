"""The project in the current folder, and whether the package is installed."""

from pathlib import Path

import pytest

from api.migrations.cli.adopt import alembic_setup, env_file
from tests.unit.cli.adopt.foreign_project import INI, MAIN, RUN_ENV, write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder: a project with a configuration, an env.py and an application, without a URL."""
    for name in ("DATABASE_URL", "MIGRATION_DATABASE_URL", "MIGRATION_ALEMBIC_CONFIG", "ALEMBIC_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    for path, text in {"alembic.ini": INI, "migrations/env.py": RUN_ENV, "shop/main.py": MAIN}.items():
        write(tmp_path, path, text)
    return tmp_path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `adopt` run as the distribution, whose plugin Alembic loads."""
    for module in (alembic_setup, env_file):
        monkeypatch.setattr(module, "IS_INSTALLED", True)
