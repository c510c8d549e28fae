"""MIGRATION_BOOTSTRAP=create_all: one of three processes creates the tables of the models; so does `migrate.sh`."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support import evidence
from tests.support.fakes import tree
from tests.support.fleet import MARK, alembic, fleet, marks_in_logs, migrate, until_all_ready
from tests.support.servers import fetch_sync
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

ENV = """
import sqlalchemy as sa
from api.migrations.environment import run_env

metadata = sa.MetaData()
sa.Table("a", metadata, sa.Column("id", sa.Integer, primary_key=True))
sa.event.listen(metadata, "after_create", sa.DDL("SELECT pg_sleep(1.5)"))
run_env(metadata)
"""
SETTINGS: dict[str, Any] = {"MIGRATION_BOOTSTRAP": "create_all", "MIGRATION_BASELINE": ""}
SLEEPS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = 'SELECT pg_sleep(1.5)'"
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename !~ '^alembic'"


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    """Write two revisions, which create other tables than the models in env.py."""
    return tree(
        tmp_path, 'op.execute("CREATE TABLE by_r1 (a int)")', 'op.execute("CREATE TABLE by_r2 (a int)")', env=ENV
    )


def tables(url: str) -> set[str]:
    """Return the tables of the database but the package's own."""
    return {row[0] for row in fetch_sync(url, TABLES)}


def test_one_of_three_instances_creates_the_tables(database_url: str, ini: Path) -> None:
    """Three instances start at once on an empty database: one creates the tables, and all become ready."""
    with fleet(3, database_url, ini=ini, **SETTINGS) as instances:
        until_all_ready(instances)
        assert marks_in_logs(instances) == 1
    assert (tables(database_url), evidence.versions(database_url)) == ({"a"}, ["r2"])
    assert evidence.applied(database_url) == ["r2"]


def test_another_instance_creates_the_tables_of_a_killed_one(database_url: str, ini: Path) -> None:
    """SIGKILL while the tables are being created: the database is empty again, and another instance creates them."""
    with fleet(3, database_url, ini=ini, **SETTINGS) as instances:
        wait_until(lambda: bool(fetch_sync(database_url, SLEEPS)[0][0]), "the creation")
        [killed] = [instance for instance in instances if MARK in instance.log()]
        killed.kill(signal.SIGKILL)
        until_all_ready([instance for instance in instances if instance is not killed])
        assert marks_in_logs(instances) == 2
    assert (tables(database_url), evidence.versions(database_url)) == ({"a"}, ["r2"])
    assert evidence.outcomes(database_url, "r2") == ["interrupted", "applied", "stamped"]


def test_the_command_upgrade_creates_the_tables(database_url: str, ini: Path) -> None:
    """`upgrade` creates the tables of the models; the history says so."""
    assert migrate("upgrade", url=database_url, ini=ini, **SETTINGS)[0] == 0
    assert tables(database_url) == {"a"}
    code, output = migrate("history", url=database_url, ini=ini)
    assert (code, output.count("the tables were created from the models")) == (0, 2), output


def test_a_typed_revision_or_alembic_itself_runs_the_revisions(database_url: str, ini: Path) -> None:
    """`upgrade r1`, and `alembic upgrade head` typed by hand, run the revisions on an empty database."""
    assert migrate("upgrade", "r1", url=database_url, ini=ini, **SETTINGS)[0] == 0
    assert tables(database_url) == {"by_r1"}
    fetch_sync(database_url, "DROP TABLE by_r1, alembic_version, alembic_version_history")
    assert alembic("upgrade", "head", url=database_url, ini=ini, **SETTINGS)[0] == 0
    assert tables(database_url) == {"by_r1", "by_r2"}


def test_the_command_refuses_an_env_py_without_models(database_url: str, ini: Path) -> None:
    """env.py passes no models: `upgrade` exits with 2 and changes nothing."""
    (ini.parent / "env.py").write_text("from api.migrations.environment import run_env\n\nrun_env()\n")
    code, output = migrate("upgrade", url=database_url, ini=ini, **SETTINGS)
    assert (code, "MIGRATION_BOOTSTRAP=create_all needs the models" in output) == (2, True), output
    assert fetch_sync(database_url, "SELECT FROM pg_tables WHERE schemaname = 'public'") == []
