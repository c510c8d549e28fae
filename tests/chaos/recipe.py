"""The recipe that is written by hand: `pg_advisory_lock()` around `alembic upgrade head`, and what becomes of it.

`python -m tests.chaos.recipe URL INI` is one instance of it: lock and revisions on one session, as careful people do.
With `--beside` the lock has a connection of its own, as most do. The rest of the module runs fleets of them.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.acceptance.evidence import invalid_indexes
from tests.acceptance.project import ROOT
from tests.servers import Server, fetch_sync
from tests.waiting import wait_until

LOCK, UNLOCK = "SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)"
WAIT_SECONDS = 30.0

ENV = """
from alembic import context
connection = context.config.attributes["connection"]
context.configure(connection=connection, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
"""
REVISION = """
from alembic import op
revision, down_revision = {id!r}, {below!r}
def upgrade():
{body}
"""
SLOW_TABLE = '    op.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a, pg_sleep(0.004)::text AS b")'
BUILD = """
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)")
"""
TABLE = '    op.execute("CREATE TABLE t (a text)")'
LONG = '    op.execute("INSERT INTO t SELECT pg_sleep(6)::text")'


async def migrate(url: str, ini: str, *, beside: bool) -> None:
    """What one instance does at start."""
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool)
    async with engine.connect() as connection, engine.connect() as other:
        holder = other if beside else connection
        await holder.execution_options(isolation_level="AUTOCOMMIT")
        await holder.execute(sa.text(LOCK))
        await holder.commit()
        if not beside:
            await connection.execution_options(isolation_level="READ COMMITTED")
        await connection.run_sync(_upgrade, Config(ini))
        await holder.execute(sa.text(UNLOCK))


def _upgrade(connection: sa.Connection, config: Config) -> None:
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()


def history(folder: Path, *bodies: str) -> Path:
    """Write an Alembic tree of revisions with the given bodies; returns its alembic.ini."""
    (folder / "versions").mkdir()
    (folder / "env.py").write_text(ENV)
    for number, body in enumerate(bodies):
        below = f"r{number - 1}" if number else None
        (folder / "versions" / f"r{number}.py").write_text(REVISION.format(id=f"r{number}", below=below, body=body))
    ini = folder / "alembic.ini"
    ini.write_text("[alembic]\nscript_location = %(here)s\npath_separator = os\n")
    return ini


def start(url: str, ini: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start one instance."""
    words = [sys.executable, "-m", "tests.chaos.recipe", url, str(ini), *options]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def concurrent_index(server: Server) -> str:
    """Six instances, one CREATE INDEX CONCURRENTLY: the waiters' snapshots are what it waits for."""
    with server.database("recipe_index") as url, tempfile.TemporaryDirectory() as folder:
        ini = history(Path(folder), SLOW_TABLE, BUILD)
        instances = [start(url, ini) for _ in range(6)]
        codes = [instance.wait(4 * WAIT_SECONDS) for instance in instances]
        at = fetch_sync(url, "SELECT version_num FROM alembic_version")[0][0]
        return f"{sum(map(bool, codes))} of 6 dead, at {at}, invalid indexes: {invalid_indexes(url) or 'none'}"


def killed_holder(server: Server) -> str:
    """The lock on a connection of its own, and the holder killed inside a long statement."""
    with server.database("recipe_kill") as url, tempfile.TemporaryDirectory() as folder:
        ini = history(Path(folder), TABLE, LONG)
        first = start(url, ini, "--beside")
        wait_until(lambda: _at_work(url) == 1, "the first at work", seconds=WAIT_SECONDS)
        second = start(url, ini, "--beside")
        first.kill()
        began = time.monotonic()
        most = 1
        while second.poll() is None and time.monotonic() - began < WAIT_SECONDS:
            most = max(most, _at_work(url))
        first.wait()
        second.wait(WAIT_SECONDS)
        return f"{most} migrators inside the same statement at once"


def _at_work(url: str) -> int:
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND state = 'active' AND query LIKE 'INSERT INTO t SELECT pg_sleep%'"
    )
    count: int = fetch_sync(url, sql)[0][0]
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("ini")
    parser.add_argument("--beside", action="store_true")
    given = parser.parse_args()
    asyncio.run(migrate(given.url, given.ini, beside=given.beside))
