"""The history table tells what happened, also what nobody could say any more: it is asked from another connection."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config

from api.migrations.core.protocols import MigrationRequest, OperatorSession
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.status import Tracker
from api.migrations.errors import DatabaseUnreachable, RevisionFailed, SchemaRefused
from tests.support.fakes import STOP, assembled, barrier, revision, tree
from tests.support.servers import fetch

HEAD = MigrationRequest("upgrade", "head")
CREATE = 'op.execute("CREATE TABLE t (a int)")'
STOPS = f'{CREATE}\nop.execute("{STOP}")'
IN_A_BLOCK = 'with op.get_context().autocommit_block():\n    op.execute("{}")'
ENV_OF_MODELS = """
import sqlalchemy as sa
from api.migrations.environment import run_env

metadata = sa.MetaData()
sa.Table("t", metadata, sa.Column("a", sa.Integer))
run_env(metadata)
"""


async def locked(url: str, ini: Path, instance: str = "one", **settings: Any) -> OperatorSession:
    """A session that holds the lock."""
    session = assembled(url, ini, instance, lock_timeout_seconds=0, **settings).session()
    await session.open()
    assert await session.try_lock()
    return session


async def run(url: str, ini: Path, order: MigrationRequest = HEAD, instance: str = "one", **settings: Any) -> None:
    """Carry out one order."""
    session = await locked(url, ini, instance, **settings)
    try:
        await session.run(order, ProgressReporter(Tracker()))
    finally:
        await session.close()


async def history(url: str, columns: str = "revision, outcome") -> list[tuple[Any, ...]]:
    """The attempts, oldest first, as another connection sees them."""
    return [tuple(row) for row in await fetch(url, f"SELECT {columns} FROM alembic_version_history ORDER BY id")]


async def test_an_attempt_is_visible_while_the_revision_runs(database_url: str, tmp_path: Path) -> None:
    """Committed before the step, so that a crash leaves a trace."""
    ini = tree(tmp_path, STOPS)
    async with barrier(database_url) as reached:
        task = asyncio.create_task(run(database_url, ini, release="v7"))
        await reached()
        columns = "revision, direction, outcome, instance, release, database_user, finished_at, error"
        expected = ("r1", "upgrade", "running", "one", "v7", "postgres", None, None)
        assert await history(database_url, columns) == [expected]
        assert await fetch(database_url, "SELECT * FROM alembic_version") == []
    await task
    assert await history(database_url) == [("r1", "applied")]
    assert await history(database_url, "finished_at > started_at") == [(True,)]


async def test_applied_is_written_by_the_transaction_that_writes_the_version(database_url: str, tmp_path: Path) -> None:
    """The two can never disagree; a row's xmin names the transaction that wrote it."""
    ini = tree(tmp_path, CREATE)
    for head in ("r1", "r2"):
        await run(database_url, ini)
        ((version, transaction),) = await fetch(database_url, "SELECT version_num, xmin::text FROM alembic_version")
        assert version == head
        assert (await history(database_url, "revision, outcome, xmin::text"))[-1] == (head, "applied", transaction)
        revision(tmp_path, "r2", "pass", after="r1")


async def test_a_commit_in_the_middle_is_marked_by_that_very_commit(database_url: str, tmp_path: Path) -> None:
    """Inside the autocommit block the mark is already there; at the end it becomes applied."""
    unseen = f'with op.get_context().autocommit_block():\n    op.get_bind().connection.cursor().execute("{STOP}")'
    ini = tree(tmp_path, f"{CREATE}\n{unseen}")
    async with barrier(database_url) as reached:
        task = asyncio.create_task(run(database_url, ini))
        await reached()
        assert await history(database_url, "revision, outcome, finished_at") == [("r1", "half_applied", None)]
        (made,) = await fetch(database_url, "SELECT xmin::text FROM pg_class WHERE relname = 't'")
        assert await history(database_url, "xmin::text") == [tuple(made)]
    await task
    assert await history(database_url) == [("r1", "applied")]


async def test_what_runs_outside_a_transaction_is_written_down_before(database_url: str, tmp_path: Path) -> None:
    """While it runs the history has its kind, and not its text; what is applied needs no such note."""
    ini = tree(tmp_path, IN_A_BLOCK.format("CREATE TABLE u (a int)") + f'\n    op.execute("{STOP}")')
    async with barrier(database_url) as reached:
        task = asyncio.create_task(run(database_url, ini))
        await reached()
        assert await history(database_url, "outcome, statement") == [("half_applied", "SELECT")]
    await task
    assert await history(database_url, "outcome, statement") == [("applied", None)]


async def test_a_table_of_an_older_version_gets_what_it_lacks(database_url: str, tmp_path: Path) -> None:
    """Its rows stay, and a half-applied revision in it stops the fleet as before."""
    ini = tree(tmp_path, CREATE, IN_A_BLOCK.format("CREATE TABLE u (a int)"))
    await run(database_url, ini, MigrationRequest("upgrade", "r1"))
    await fetch(database_url, "ALTER TABLE alembic_version_history DROP COLUMN statement, DROP COLUMN invalid_before")
    await fetch(database_url, "UPDATE alembic_version_history SET outcome = 'half_applied'")
    with pytest.raises(SchemaRefused, match="revision r1 committed a part"):
        await assembled(database_url, ini, "two").coordinator().become_ready()
    await run(database_url, ini, MigrationRequest("repair", "r1"))
    await run(database_url, ini)
    assert await history(database_url, "revision, outcome, invalid_before") == [
        ("r1", "interrupted", None),
        ("r2", "applied", "[]"),
    ]


@pytest.mark.parametrize(("direction", "outcome"), [("backup", "backed_up"), ("unlock", "unlocked")])
async def test_a_note_in_between_hides_no_try(database_url: str, tmp_path: Path, direction: str, outcome: str) -> None:
    """What was INVALID before the first try is still known after somebody ended it, or took a backup."""
    ini = tree(tmp_path, CREATE)
    await run(database_url, ini)
    table = "alembic_version_history"
    await fetch(database_url, f"UPDATE {table} SET outcome = 'interrupted', invalid_before = '[\"before\"]'")
    values = f"'wrong', '{direction}', '{outcome}', 'night-shift', clock_timestamp()"
    columns = "revision, parents, direction, outcome, instance, finished_at"
    await fetch(database_url, f"INSERT INTO {table} ({columns}) VALUES ('r1', {values}), ('r1,other', {values})")
    await run(database_url, ini, MigrationRequest("downgrade", "base"))
    assert (await history(database_url, "direction, invalid_before"))[-1] == ("downgrade", '["before"]')
    session = await locked(database_url, ini)
    assert await session.store.lineage() == {"r1": frozenset()}
    await session.close()


async def test_a_half_applied_revision_stops_the_fleet(database_url: str, tmp_path: Path) -> None:
    """Nobody goes on before a person has looked."""
    ini = tree(tmp_path, IN_A_BLOCK.format("CREATE TABLE u (a int)") + '\nraise ValueError("boom")')
    with pytest.raises(RevisionFailed, match="committed a part of its work"):
        await run(database_url, ini)
    assert await history(database_url) == [("r1", "half_applied")]
    with pytest.raises(SchemaRefused, match="revision r1 committed a part"):
        await assembled(database_url, ini, "two").coordinator().become_ready()
    assert await history(database_url) == [("r1", "half_applied")]


async def test_a_commit_that_fails_leaves_the_half_that_is_there(database_url: str, tmp_path: Path) -> None:
    """The version row and "applied" went with the last transaction; what the block committed did not."""
    block = IN_A_BLOCK.format("CREATE TABLE u (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    ini = tree(tmp_path, block + '\nop.execute("INSERT INTO u VALUES (1), (1)")')
    with pytest.raises(RevisionFailed, match="after it had committed a part of its work: UniqueViolationError"):
        await run(database_url, ini)
    assert await history(database_url) == [("r1", "half_applied")]
    assert await fetch(database_url, "SELECT * FROM alembic_version") == []


async def test_an_idempotent_revision_is_run_again(database_url: str, tmp_path: Path) -> None:
    """It declared that an interruption does no harm; the first attempt is closed as interrupted."""
    ini = tree(tmp_path)
    block = IN_A_BLOCK.format("CREATE TABLE IF NOT EXISTS u (a int)")
    revision(tmp_path, "r1", block + '\nraise ValueError("boom")', extra="idempotent = True\n")
    with pytest.raises(RevisionFailed):
        await run(database_url, ini)
    revision(tmp_path, "r1", block, extra="idempotent = True  # repaired\n")
    await assembled(database_url, ini, "two").coordinator().become_ready()
    assert await history(database_url) == [("r1", "interrupted"), ("r1", "applied")]


async def test_an_attempt_of_a_dead_session_is_interrupted(database_url: str, tmp_path: Path) -> None:
    """The next holder of the lock closes it: under the lock nobody else can be running."""
    ini = tree(tmp_path, STOPS)
    async with barrier(database_url) as reached:
        task = asyncio.create_task(run(database_url, ini))
        await reached()
        await fetch(
            database_url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%:one'"
        )
        with pytest.raises(DatabaseUnreachable):
            await task
    assert await history(database_url) == [("r1", "running")]
    await run(database_url, ini, instance="two")
    expected = [("r1", "interrupted", "one", True), ("r1", "applied", "two", True)]
    assert await history(database_url, "revision, outcome, instance, finished_at IS NOT NULL") == expected


async def test_a_stamp_records_the_whole_lineage(database_url: str, tmp_path: Path) -> None:
    """An older build must be able to prove that this database is ahead of it."""
    ini = tree(tmp_path, CREATE, "pass", "pass")
    await run(database_url, ini, MigrationRequest("stamp", "r2"))
    rows = await history(database_url, "revision, parents, direction, outcome")
    assert sorted(rows) == [("r1", "", "stamp", "stamped"), ("r2", "r1", "stamp", "stamped")]
    await run(database_url, ini, MigrationRequest("stamp", "head"))
    assert (await history(database_url, "revision, parents"))[2:] == [("r3", "r2")]
    assert (await fetch(database_url, "SELECT to_regclass('t')"))[0][0] is None


async def test_a_failed_attempt_is_recorded_without_values(database_url: str, tmp_path: Path) -> None:
    """Name, SQLSTATE and place, and neither the statement nor what was in it."""
    ini = tree(tmp_path, CREATE, "op.execute(\"INSERT INTO t VALUES ('geh3im')\")")
    with pytest.raises(RevisionFailed) as failed:
        await run(database_url, ini)
    assert (failed.value.revision, failed.value.applied) == ("r2", ("r1",))
    assert await history(database_url) == [("r1", "applied"), ("r2", "failed")]
    ((error, error_class),) = (await history(database_url, "error, error_class"))[1:]
    assert error_class == "InvalidTextRepresentationError"
    assert error == str(failed.value)
    assert "geh3im" not in error
    assert "INSERT" not in error
    assert "r2, Do r2 failed and was rolled back" in error
    assert '(SQLSTATE 22P02): invalid input syntax for type integer: "…", at r2.py:' in error


async def test_a_downgrade_is_recorded_as_one(database_url: str, tmp_path: Path) -> None:
    """With the revision that was undone, and its parents."""
    ini = tree(tmp_path, CREATE, "pass")
    await run(database_url, ini)
    await run(database_url, ini, MigrationRequest("downgrade", "-1"))
    rows = await history(database_url, "revision, parents, direction, outcome")
    assert rows[2:] == [("r2", "r1", "downgrade", "applied")]


async def test_repair_settles_what_was_half_applied(database_url: str, tmp_path: Path) -> None:
    """A person has put it in order; the next upgrade runs the revision again."""
    ini = tree(tmp_path, IN_A_BLOCK.format("CREATE TABLE u (a int)") + '\nraise ValueError("boom")')
    with pytest.raises(RevisionFailed):
        await run(database_url, ini)
    await run(database_url, ini, MigrationRequest("repair", "r1"))
    assert await history(database_url) == [("r1", "interrupted")]


@pytest.mark.parametrize("name", [None, "log of migrations"])
async def test_autogenerate_does_not_see_the_history_table(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """`alembic check` would propose to drop it."""
    ini = tree(tmp_path, CREATE, env=ENV_OF_MODELS)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("MIGRATION_ALEMBIC_CONFIG", str(ini))
    monkeypatch.setenv("MIGRATION_HISTORY_TABLE", name or "")
    await run(database_url, ini, history_table=name)
    await asyncio.to_thread(command.check, Config(ini))
