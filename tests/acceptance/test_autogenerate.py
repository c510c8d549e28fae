"""`alembic revision --autogenerate` with the three-line env.py writes revisions that the database can run."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import project
from tests.support.fleet import alembic, migrate
from tests.support.servers import fetch_sync

pytestmark = pytest.mark.acceptance

NATIVE = "advisory_lock"
"""The tests name the strategy, because `auto` refuses a SQLite file in a container's own file system."""


def test_autogenerate_drops_a_sqlite_column_in_a_batch(tmp_path: Path) -> None:
    """Only the SQLite database has a column: the generated revision drops it with batch_alter_table, and it runs."""
    url, ini = f"sqlite:///{tmp_path / 'shop.db'}", project.make_history(tmp_path)
    assert migrate("upgrade", url=url, ini=ini, MIGRATION_STRATEGY=NATIVE)[0] == 0
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        database.execute("ALTER TABLE accounts ADD COLUMN note TEXT")
    code, output = alembic("revision", "--autogenerate", "-m", "drop", url=url, ini=ini, MIGRATION_STRATEGY=NATIVE)
    assert code == 0, output
    [made] = (tmp_path / "alembic" / "versions").glob("*_drop.py")
    source = made.read_text()
    assert "batch_alter_table('accounts'" in source.replace('"', "'")
    assert "alembic_version_history" not in source
    code, output = migrate("upgrade", url=url, ini=ini, MIGRATION_STRATEGY=NATIVE)
    assert code == 0, output
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(accounts)")]
    assert "note" not in columns


FILTERS = """
from api.ledger import metadata
from api.migrations.environment import run_env

run_env(
    metadata,
    include_schemas=True,
    include_name=lambda name, kind, parents: kind != "schema" or name in {None, "core"},
    include_object=lambda thing, name, kind, reflected, compare_to: name != "spatial_ref_sys",
    process_revision_directives=lambda context, revision, directives: print("directives of the project"),
)
"""


def test_autogenerate_keeps_the_history_table_despite_own_filters(database_url: str, tmp_path: Path) -> None:
    """env.py has filters of its own: autogenerate applies them, drops the unknown table and keeps the history table."""
    ini = project.make_history(tmp_path)
    fetch_sync(database_url, "CREATE SCHEMA core")
    fetch_sync(database_url, "CREATE TABLE spatial_ref_sys (a int)")
    fetch_sync(database_url, "CREATE TABLE core.unknown (a int)")
    code, output = migrate("upgrade", url=database_url, ini=ini)
    assert code == 0, output
    (tmp_path / "alembic" / "env.py").write_text(FILTERS)
    code, output = alembic("revision", "--autogenerate", "-m", "nothing", url=database_url, ini=ini)
    assert (code, "directives of the project" in output) == (0, True), output
    [made] = (tmp_path / "alembic" / "versions").glob("*_nothing.py")
    dropped = re.findall(r"drop_table\(['\"](\w+)", made.read_text().partition("def downgrade")[0])
    assert dropped == ["unknown"]
