"""`./migrate.sh revision` writes a revision file that passes the project's checks, whatever the shape of env.py."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.shop import fresh_project, python
from tests.support import evidence
from tests.support.project import ROOT
from tests.support.servers import fetch_sync

pytestmark = pytest.mark.acceptance


def ledger(folder: Path) -> Path:
    """Create a project with the ledger's models, history, configuration of Alembic and rules of ruff."""
    for name in ("alembic.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "alembic", folder / "alembic", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "api").symlink_to(ROOT / "api")
    return folder


def test_a_revision_passes_the_checks_of_the_project(ledger_url: str, tmp_path: Path) -> None:
    """Two tables are missing: the revision creates them, imports the type of the models, and ruff finds nothing."""
    project = ledger(tmp_path)
    fetch_sync(ledger_url, "DROP TABLE postings, transactions")
    done = python(project, "-m", "api.migrations", "revision", "create what is missing", url=ledger_url)
    assert done.returncode == 0, done.stderr
    made = project / done.stdout.strip()
    source = made.read_text()
    assert source.startswith('"""Create what is missing.\n')
    assert "import api.ledger.types\n" in source
    assert "history" not in source
    for command in ("check", "format --check"):
        checked = subprocess.run(
            [sys.executable, "-m", "ruff", *command.split(), str(made)], cwd=project, capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout
    upgraded = python(project, "-m", "api.migrations", "upgrade", url=ledger_url)
    assert upgraded.returncode == 0, upgraded.stderr
    again = python(project, "-m", "api.migrations", "revision", "nothing", "--json", url=ledger_url)
    assert "no difference between the models and the database" in json.loads(again.stdout)["message"], again.stderr
    assert list(made.parent.glob("*_nothing.py")) == []


def test_a_revision_of_an_env_with_its_own_engine_needs_a_database_at_head(database_url: str, tmp_path: Path) -> None:
    """The template's env.py: `revision` is refused until the database is at head, and keeps the history table then."""
    project = fresh_project(tmp_path, "generic")
    own = database_url.replace("postgresql://", "postgresql+psycopg2://").replace("%", "%%")
    ini, env = project / "alembic.ini", project / "alembic" / "env.py"
    ini.write_text(ini.read_text().replace("driver://user:pass@localhost/dbname", own))
    env.write_text(
        env.read_text().replace("target_metadata = None", "from shop.models import metadata as target_metadata")
    )
    evidence.let_go(database_url)
    command = ("-m", "shop.db_migrations", "revision", "next")
    refused = python(project, *command, url=database_url)
    assert refused.returncode == 3
    assert "2 pending. To fix: run './migrate.sh upgrade'" in refused.stderr
    assert python(project, "-m", "shop.db_migrations", "upgrade", url=database_url).returncode == 0
    fetch_sync(database_url, "ALTER TABLE things ADD COLUMN note text")
    done = python(project, *command, url=database_url)
    assert done.returncode == 0, done.stderr
    source = (project / done.stdout.strip()).read_text()
    assert "op.drop_column('things', 'note')" in source
    assert "alembic_version_history" not in source
    empty = python(project, *command, "--empty", url=database_url)
    assert (empty.returncode, "pass" in (project / empty.stdout.strip()).read_text()) == (0, True), empty.stderr
