"""What the recipe's instances find to migrate: Alembic trees of a few revisions, written for a scenario."""

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
"""The other place where people put it: in the transaction around all revisions."""

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
"""Whoever is at it writes its pid."""

ADD_COLUMN = 'op.execute("ALTER TABLE hot ADD COLUMN b int")'

AT_WORK = "INSERT INTO t SELECT pg_sleep"
"""What a session executes that is inside `long`."""


def long(seconds: float) -> str:
    """One long statement."""
    return f'op.execute("{AT_WORK}({seconds})::text")'


def asleep(folder: Path) -> str:
    """Make `folder/asleep`, and do something in Python that takes a minute, with the transaction open."""
    return f"{TABLE}\nPath({str(folder / 'asleep')!r}).touch()\ntime.sleep(60)"


def tree(folder: Path, *bodies: str, version_table: str = "alembic_version", env: str = ENV) -> Path:
    """Write revisions r0, r1, … with the given bodies, each on top of the one before; returns their alembic.ini."""
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
