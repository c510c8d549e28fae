"""Alembic on the session that holds the lock: the env.py files that it accepts, and the limits of a statement."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from api.migrations.core.protocols import MigrationRequest
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.status import Tracker
from api.migrations.errors import ForeignConnection, MigrationError, RevisionFailed
from tests.support.fakes import FOREVER_SECONDS, assembled, eventually, revision, tree
from tests.support.pace import scaled
from tests.support.servers import fetch

HEAD = MigrationRequest("upgrade", "head")
CREATE = 'op.execute("CREATE TABLE t (a int)")'
BLOCK = 'with op.get_context().autocommit_block():\n    op.execute("{}")'


COOKBOOK = """
from alembic import context
connection = context.config.attributes["connection"]
context.configure(connection=connection)
with context.begin_transaction():
    context.run_migrations()
"""
SEARCH_PATH = """
from alembic import context
import sqlalchemy as sa
connection = context.config.attributes["connection"]
context.configure(connection=connection)
connection.execute(sa.text("SET search_path TO public"))
with context.begin_transaction():
    context.run_migrations()
"""
OF_ITS_OWN = """
import asyncio
from alembic import context
from sqlalchemy import pool
from sqlalchemy.ext.asyncio import async_engine_from_config

def do_run_migrations(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()

async def run_async_migrations():
    url = {"sqlalchemy.url": "postgresql+asyncpg://"}
    connectable = async_engine_from_config(url, prefix="sqlalchemy.", poolclass=pool.NullPool)
    async with connectable.connect() as connection:
        await connection.run_sync(do_run_migrations)
    await connectable.dispose()

asyncio.run(run_async_migrations())
"""
SYNC_ENGINE = """
from alembic import context
import sqlalchemy as sa
engine = sa.create_engine("sqlite://", poolclass=sa.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""
IN_A_THREAD = f"""
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(1) as threads:
    threads.submit(exec, {SYNC_ENGINE!r}, {{}}).result()
"""
ANOTHER = """
from alembic import context
given = context.config.attributes["connection"]
with given.engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
ALL_IN_ONE = """
from alembic import context
connection = context.config.attributes["connection"]
with connection.begin():
    context.configure(connection=connection)
    context.run_migrations()
"""
SELECT_FIRST = """
from alembic import context
import sqlalchemy as sa
connection = context.config.attributes["connection"]
connection.execute(sa.text("SELECT 1"))
context.configure(connection=connection)
with context.begin_transaction():
    context.run_migrations()
"""
NOTHING = "from alembic import context\n"
CALLBACK = """
from alembic import context
from api.migrations.environment import run_env

def heard(*, ctx, step, heads, run_args):
    context.config.attributes.setdefault("heard", []).append(step.up_revision_id)

run_env(on_version_apply=FORM)
"""


async def upgrade(url: str, ini: Path, **settings: Any) -> Any:
    """Upgrade to head under the lock; return the `attributes` of Alembic's configuration."""
    assembly = assembled(url, ini, **settings)
    session = assembly.session()
    await session.open()
    try:
        assert await session.try_lock()
        await session.run(HEAD, ProgressReporter(Tracker()))
    finally:
        await session.close()
    return assembly.revisions.config.attributes


async def relations(url: str) -> set[str]:
    """Return the names of all tables and indexes."""
    rows = await fetch(url, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    return {row[0] for row in rows}


@pytest.mark.parametrize("env", [COOKBOOK, SEARCH_PATH], ids=["cookbook", "search_path"])
async def test_an_env_py_that_uses_the_given_connection_is_accepted(
    database_url: str, tmp_path: Path, env: str
) -> None:
    """env.py uses the given connection and sets no transactions: each revision still has its own."""
    ini = tree(tmp_path, CREATE, "op.execute(\"CREATE TABLE u (a int)\")\nraise ValueError('boom')", env=env)
    with pytest.raises(RevisionFailed, match="boom") as failed:
        await upgrade(database_url, ini)
    assert failed.value.applied == ("r1",)
    there = await relations(database_url)
    assert "t" in there
    assert "u" not in there
    assert [tuple(row) for row in await fetch(database_url, "SELECT * FROM alembic_version")] == [("r1",)]


async def refusal(url: str, ini: Path) -> str:
    """Return the line that refuses an env.py; the error and its frames are freed when this returns."""
    with pytest.raises(ForeignConnection) as refused:
        await upgrade(url, ini)
    return str(refused.value)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize(
    ("env", "word"),
    [
        (OF_ITS_OWN, "opens a connection of its own"),
        (SYNC_ENGINE, "does not hold the lock"),
        (IN_A_THREAD, "does not hold the lock"),
        (ANOTHER, "does not hold the lock"),
        (ALL_IN_ONE, "begins a transaction around all revisions"),
        (SELECT_FIRST, "begins a transaction around all revisions"),
        (NOTHING, "never called context.configure"),
    ],
    ids=[
        "asyncio.run",
        "engine of its own",
        "in a thread",
        "another connection",
        "one transaction",
        "select first",
        "none",
    ],
)
async def test_any_other_env_py_is_refused_before_a_revision_runs(
    database_url: str, tmp_path: Path, env: str, word: str
) -> None:
    """env.py opens a connection, wraps all revisions, or runs none: it is refused with the right lines."""
    line = await refusal(database_url, tree(tmp_path, CREATE, env=env))
    gc.collect()  # finalises the coroutines of the refused env.py here and not in the next test
    assert word in line
    assert "api.migrations.environment import run_env" in line
    assert await relations(database_url) == set()


@pytest.mark.parametrize("form", ["heard", "[heard]", "(heard,)"])
async def test_a_callback_in_env_py_is_called(database_url: str, tmp_path: Path, form: str) -> None:
    """env.py passes `on_version_apply` in any form: it is called for each revision."""
    attributes = await upgrade(database_url, tree(tmp_path, CREATE, "pass", env=CALLBACK.replace("FORM", form)))
    assert attributes["heard"] == ["r1", "r2"]
    assert len(await fetch(database_url, "SELECT 1 FROM alembic_version_history WHERE outcome = 'applied'")) == 2


@pytest.mark.parametrize("statement", ["CREATE INDEX CONCURRENTLY i ON t (a)", "REINDEX TABLE CONCURRENTLY t"])
async def test_a_concurrent_build_outwaits_the_lock_timeout(database_url: str, tmp_path: Path, statement: str) -> None:
    """CREATE INDEX CONCURRENTLY waits for older transactions past the lock timeout, which then applies again."""
    shown = "op.execute(\"CREATE TABLE shown AS SELECT current_setting('lock_timeout')\")"
    ini = tree(tmp_path, f'{CREATE}\nop.create_index("j", "t", ["a"])')
    await upgrade(database_url, ini)
    ini = tree(tmp_path, f'{CREATE}\nop.create_index("j", "t", ["a"])', BLOCK.format(statement), shown)
    writer = await asyncpg.connect(database_url)
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute("INSERT INTO t VALUES (1)")
    waits = f"query = '{statement}' AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '0.5 s'"
    run = asyncio.create_task(upgrade(database_url, ini, lock_timeout_seconds=0.1))
    waiting = asyncio.create_task(
        eventually(database_url, f"SELECT count(*) FROM pg_stat_activity WHERE {waits}", "the build waits")
    )
    await asyncio.wait({run, waiting}, return_when=asyncio.FIRST_COMPLETED)
    await transaction.commit()
    await asyncio.wait_for(asyncio.gather(run, waiting), FOREVER_SECONDS)
    await writer.close()
    assert await fetch(database_url, "SELECT 1 FROM pg_index WHERE NOT indisvalid") == []
    assert [tuple(row) for row in await fetch(database_url, "SELECT * FROM shown")] == [("300ms",)]


async def test_blocked_ddl_is_retried_and_recorded(database_url: str, tmp_path: Path) -> None:
    """A long read blocks DDL: each attempt times out briefly and is recorded, and the last one is applied."""
    await upgrade(database_url, tree(tmp_path, CREATE))
    ini = tree(tmp_path, CREATE, 'op.execute("ALTER TABLE t ADD COLUMN b int")')
    reader = await asyncpg.connect(database_url)
    async with reader.transaction():
        await reader.execute("SELECT * FROM t")
        run = asyncio.create_task(upgrade(database_url, ini, lock_timeout_seconds=2))
        retried = "SELECT count(*) >= 2 FROM alembic_version_history WHERE outcome = 'retried' AND error LIKE '%55P03%'"
        await eventually(database_url, retried, "two tries")
    await asyncio.wait_for(run, FOREVER_SECONDS)
    await reader.close()
    rows = await fetch(database_url, "SELECT outcome FROM alembic_version_history WHERE revision = 'r2' ORDER BY id")
    assert [row["outcome"] for row in rows][-1] == "applied"


async def test_a_statement_timeout_fails_the_revision(database_url: str, tmp_path: Path) -> None:
    """A statement exceeds MIGRATION_STATEMENT_TIMEOUT_SECONDS: its revision fails."""
    ini = tree(tmp_path, 'op.execute("SELECT pg_sleep(60)")')
    with pytest.raises(RevisionFailed, match="SQLSTATE 57014"):
        await upgrade(database_url, ini, statement_timeout_seconds=scaled(0.5))


async def test_a_revision_can_set_its_own_limits(database_url: str, tmp_path: Path) -> None:
    """A revision file sets its own timeouts: they apply to it and not to the next revision."""
    shown = "op.execute(\"CREATE TABLE {} AS SELECT current_setting('statement_timeout')\")"
    ini = tree(tmp_path)
    revision(tmp_path, "r1", shown.format("own"), extra="statement_timeout_seconds = 7.5\n")
    revision(tmp_path, "r2", shown.format("usual"), after="r1")
    await upgrade(database_url, ini, statement_timeout_seconds=8)
    seen = [row[0] for row in await fetch(database_url, "TABLE own UNION ALL TABLE usual")]
    assert seen == ["7500ms", "8s"]
    revision(
        tmp_path,
        "r3",
        'op.execute("SELECT pg_sleep(60)")',
        after="r2",
        extra=f"statement_timeout_seconds = {scaled(0.5)}\n",
    )
    with pytest.raises(RevisionFailed, match="SQLSTATE 57014"):
        await upgrade(database_url, ini)


async def test_several_statements_in_one_string_are_refused(database_url: str, tmp_path: Path) -> None:
    """A string has two statements: asyncpg refuses it and the error quotes the driver."""
    with pytest.raises(RevisionFailed, match="multiple commands"):
        await upgrade(database_url, tree(tmp_path, 'op.execute("SELECT 1; SELECT 2")'))


async def test_a_missing_file_fails_the_revision(database_url: str, tmp_path: Path) -> None:
    """A revision opens a missing file: it fails with that error and place, and not as a lost connection."""
    ini = tree(tmp_path, 'open("/nonexistent/seed.csv")')
    with pytest.raises(RevisionFailed, match=r"FileNotFoundError: No such file or directory, at r1\.py:\d+"):
        await upgrade(database_url, ini)
    rows = await fetch(database_url, "SELECT outcome, error_class FROM alembic_version_history")
    assert [tuple(row) for row in rows] == [("failed", "FileNotFoundError")]


@pytest.mark.parametrize("words", ["COMMIT", "-- done\\nEND", "ROLLBACK"])
async def test_a_revision_may_not_end_its_transaction(database_url: str, tmp_path: Path, words: str) -> None:
    """A revision executes COMMIT or ROLLBACK: it is rolled back, and the error names autocommit_block."""
    ini = tree(tmp_path, f'{CREATE}\nop.execute("{words}")')
    with pytest.raises(RevisionFailed, match=r"failed and was rolled back: InvalidRequestError: .*autocommit_block"):
        await upgrade(database_url, ini)
    assert "t" not in await relations(database_url)


@pytest.mark.parametrize(
    "body",
    [
        'op.get_bind().exec_driver_sql("SELECT $1::int")',
        'op.get_bind().exec_driver_sql("SELECT $1::int", ("geh3im",))',
        'op.get_bind().execute(sa.text("SELECT :a"))',
    ],
    ids=["too few arguments", "wrong type", "missing value"],
)
async def test_a_wrong_argument_fails_the_revision_without_a_retry(
    database_url: str, tmp_path: Path, body: str
) -> None:
    """A revision passes a wrong argument: it fails without a retry and without the value."""
    with pytest.raises(MigrationError) as failed:
        await upgrade(database_url, tree(tmp_path, body))
    assert "geh3im" not in str(failed.value)
    assert type(failed.value) is RevisionFailed


async def test_a_run_at_head_writes_nothing(database_url: str, tmp_path: Path) -> None:
    """A second run at head adds no row to the history."""
    for ini in (tree(tmp_path, CREATE), tree(tmp_path, CREATE)):
        await upgrade(database_url, ini)
    assert len(await fetch(database_url, "SELECT 1 FROM alembic_version_history")) == 1
