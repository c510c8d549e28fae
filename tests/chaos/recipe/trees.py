"""The Alembic trees that the recipe's instances migrate, with a few revisions for each scenario."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

ENV = """
from alembic import context
connection = context.config.attributes["connection"]
context.configure(connection=connection, transaction_per_migration=True, version_table={table!r})
with context.begin_transaction():
    context.run_migrations()
"""
ENV_WITH_THE_LOCK = """
from alembic import context
connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table={table!r})
with context.begin_transaction():
    context.execute("SELECT pg_advisory_xact_lock(1)")
    context.run_migrations()
"""
"""The recipe's other usual place: in the transaction around all revisions."""

REVISION = """
import os
import time
from pathlib import Path
from alembic import op
revision, down_revision = {id!r}, {below!r}
def upgrade():
{body}
"""
TABLE = 'op.execute("CREATE TABLE t (a text)")'
FULL_TABLE = 'op.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a")'
SLOW_TABLE = 'op.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a, pg_sleep(0.004)::text AS b")'
BUILD = """\
with op.get_context().autocommit_block():
    op.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)")
"""
BATCHES = """\
with op.get_context().autocommit_block():
    for _ in range(60):
        op.execute(f"INSERT INTO t VALUES ('{os.getpid()}')")
        time.sleep(0.1)
"""
"""Each migrating instance writes its pid into the table."""

ADD_COLUMN = 'op.execute("ALTER TABLE hot ADD COLUMN b int")'

AT_WORK = "INSERT INTO t SELECT pg_sleep"
"""The start of the statement of `long`."""


def long(seconds: float) -> str:
    """Return the source of a revision with one statement of that many seconds."""
    return f'op.execute("{AT_WORK}({seconds})::text")'


def asleep(folder: Path) -> str:
    """Return the source of a revision that creates `folder/asleep` and sleeps a minute in its transaction."""
    return f"{TABLE}\nPath({str(folder / 'asleep')!r}).touch()\ntime.sleep(60)"


def tree(folder: Path, *bodies: str, version_table: str = "alembic_version", env: str = ENV) -> Path:
    """Write revisions r0, r1, … with the given bodies, each above the last; return their alembic.ini."""
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(env.format(table=version_table))
    for number, body in enumerate(bodies):
        add_revision(folder, f"r{number}", body, f"r{number - 1}" if number else None)
    ini = folder / "alembic.ini"
    ini.write_text("[alembic]\nscript_location = %(here)s\npath_separator = os\n")
    return ini


def add_revision(folder: Path, id: str, body: str, below: str | None) -> None:
    """Write one revision into a tree."""
    text = REVISION.format(id=id, below=below, body=indent(body, "    "))
    (folder / "versions" / f"{id}.py").write_text(text)
