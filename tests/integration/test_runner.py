"""Alembic on the session that holds the lock: which env.py it accepts, and what one statement may wait for."""

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
    """Upgrade to the head under the lock; returns the `attributes` of Alembic's configuration."""
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
    """The tables and indexes that there are."""
    rows = await fetch(url, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    return {row[0] for row in rows}


@pytest.mark.parametrize("env", [COOKBOOK, SEARCH_PATH], ids=["cookbook", "search_path"])
async def test_an_env_that_uses_the_given_connection_works(database_url: str, tmp_path: Path, env: str) -> None:
    """Without a word about transactions: each revision is one of its own all the same."""
    ini = tree(tmp_path, CREATE, "op.execute(\"CREATE TABLE u (a int)\")\nraise ValueError('boom')", env=env)
    with pytest.raises(RevisionFailed, match="boom") as failed:
        await upgrade(database_url, ini)
    assert failed.value.applied == ("r1",)
    there = await relations(database_url)
    assert "t" in there
    assert "u" not in there
    assert [tuple(row) for row in await fetch(database_url, "SELECT * FROM alembic_version")] == [("r1",)]


async def refusal(url: str, ini: Path) -> str:
    """The line that refuses an env.py; the error itself, with all its frames, is gone when this returns."""
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
async def test_any_other_env_is_refused_before_anything_runs(
    database_url: str, tmp_path: Path, env: str, word: str
) -> None:
    """With the three lines that would be right."""
    line = await refusal(database_url, tree(tmp_path, CREATE, env=env))
    gc.collect()  # what the refused env.py left unawaited is finished here, not under the next test
    assert word in line
    assert "api.migrations.environment import run_env" in line
    assert await relations(database_url) == set()


@pytest.mark.parametrize("form", ["heard", "[heard]", "(heard,)"])
async def test_the_user_s_own_callback_is_kept(database_url: str, tmp_path: Path, form: str) -> None:
    """`on_version_apply` of their env.py is called for each revision, whatever form it is given in."""
    attributes = await upgrade(database_url, tree(tmp_path, CREATE, "pass", env=CALLBACK.replace("FORM", form)))
    assert attributes["heard"] == ["r1", "r2"]
    assert len(await fetch(database_url, "SELECT 1 FROM alembic_version_history WHERE outcome = 'applied'")) == 2


@pytest.mark.parametrize("statement", ["CREATE INDEX CONCURRENTLY i ON t (a)", "REINDEX TABLE CONCURRENTLY t"])
async def test_a_concurrent_build_outwaits_the_lock_timeout(database_url: str, tmp_path: Path, statement: str) -> None:
    """It waits for older transactions, and stalls nobody; right after it the limit is back."""
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


async def test_other_ddl_asks_again_for_its_lock(database_url: str, tmp_path: Path) -> None:
    """Briefly each time, so that a long read does not stall everybody behind the revision; the history has each try."""
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


async def test_a_statement_over_its_timeout_fails_the_revision(database_url: str, tmp_path: Path) -> None:
    """MIGRATION_STATEMENT_TIMEOUT_SECONDS."""
    ini = tree(tmp_path, 'op.execute("SELECT pg_sleep(60)")')
    with pytest.raises(RevisionFailed, match="SQLSTATE 57014"):
        await upgrade(database_url, ini, statement_timeout_seconds=scaled(0.5))


async def test_a_revision_may_have_limits_of_its_own(database_url: str, tmp_path: Path) -> None:
    """`lock_timeout_seconds` and `statement_timeout_seconds` in its file count for it, and not for the next one."""
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


async def test_several_statements_in_one_go_are_refused_by_the_driver(database_url: str, tmp_path: Path) -> None:
    """The line says what the driver says; psycopg would take them."""
    with pytest.raises(RevisionFailed, match="multiple commands"):
        await upgrade(database_url, tree(tmp_path, 'op.execute("SELECT 1; SELECT 2")'))


async def test_a_file_that_is_not_there_is_no_lost_connection(database_url: str, tmp_path: Path) -> None:
    """An operating system's error of the revision's own: failed once, with its place, and recorded."""
    ini = tree(tmp_path, 'open("/nonexistent/seed.csv")')
    with pytest.raises(RevisionFailed, match=r"FileNotFoundError: No such file or directory, at r1\.py:\d+"):
        await upgrade(database_url, ini)
    rows = await fetch(database_url, "SELECT outcome, error_class FROM alembic_version_history")
    assert [tuple(row) for row in rows] == [("failed", "FileNotFoundError")]


@pytest.mark.parametrize("words", ["COMMIT", "-- done\\nEND", "ROLLBACK"])
async def test_a_revision_may_not_end_its_transaction(database_url: str, tmp_path: Path, words: str) -> None:
    """What it has done is rolled back, nothing is half applied, and the line says what to use instead."""
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
async def test_a_mistake_in_a_revision_is_a_failed_revision(database_url: str, tmp_path: Path, body: str) -> None:
    """The driver notices it without asking the server; trying again would repeat it until the budget ends."""
    with pytest.raises(MigrationError) as failed:
        await upgrade(database_url, tree(tmp_path, body))
    assert "geh3im" not in str(failed.value)
    assert type(failed.value) is RevisionFailed


async def test_at_head_nothing_is_written(database_url: str, tmp_path: Path) -> None:
    """A second run leaves no trace in the history."""
    for ini in (tree(tmp_path, CREATE), tree(tmp_path, CREATE)):
        await upgrade(database_url, ini)
    assert len(await fetch(database_url, "SELECT 1 FROM alembic_version_history")) == 1
