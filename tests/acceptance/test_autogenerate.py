"""`alembic revision --autogenerate` through the three-line env.py writes what the database can execute."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance import project
from tests.acceptance.fleet import alembic, migrate

pytestmark = pytest.mark.acceptance

NATIVE = "advisory_lock"
"""The strategy, by name: a test's folder may be a container's own, where `auto` refuses a file."""


def test_on_sqlite_a_column_is_changed_in_a_batch(tmp_path: Path) -> None:
    """SQLite cannot drop a column that is in an index; a batch copies the table, and what was generated runs."""
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
