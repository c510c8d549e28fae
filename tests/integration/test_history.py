"""The history table records every attempt, even after its instance was lost; another connection reads it."""

import asyncio
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from api.migrations.core.protocols import MigrationRequest
from api.migrations.errors import DatabaseUnreachable, RevisionFailed, SchemaRefused
from tests.support.fakes import STOP, assembled, barrier, revision, tree
from tests.support.postgres_runs import history, locked, run
from tests.support.servers import fetch

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


async def test_an_attempt_is_visible_while_the_revision_runs(database_url: str, tmp_path: Path) -> None:
    """An attempt is committed before its revision runs, so another connection sees it and a crash leaves a row."""
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
    """One transaction writes the version and the outcome `applied`, so the two never disagree."""
    ini = tree(tmp_path, CREATE)
    for head in ("r1", "r2"):
        await run(database_url, ini)
        ((version, transaction),) = await fetch(database_url, "SELECT version_num, xmin::text FROM alembic_version")
        assert version == head
        assert (await history(database_url, "revision, outcome, xmin::text"))[-1] == (head, "applied", transaction)
        revision(tmp_path, "r2", "pass", after="r1")


async def test_a_commit_in_an_autocommit_block_records_half_applied(database_url: str, tmp_path: Path) -> None:
    """The commit of an autocommit_block's table also records `half_applied`; at the end that becomes `applied`."""
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


async def test_a_statement_outside_a_transaction_is_recorded_before_it_runs(database_url: str, tmp_path: Path) -> None:
    """While a statement runs in autocommit the history has its kind; once the revision is applied it has none."""
    ini = tree(tmp_path, IN_A_BLOCK.format("CREATE TABLE u (a int)") + f'\n    op.execute("{STOP}")')
    async with barrier(database_url) as reached:
        task = asyncio.create_task(run(database_url, ini))
        await reached()
        assert await history(database_url, "outcome, statement") == [("half_applied", "SELECT")]
    await task
    assert await history(database_url, "outcome, statement") == [("applied", None)]


async def test_a_history_table_of_an_older_version_gets_its_missing_columns(database_url: str, tmp_path: Path) -> None:
    """The history table lacks columns: a run adds them, keeps the rows, and refuses the half-applied revision."""
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
async def test_a_backup_or_unlock_row_does_not_hide_an_attempt(
    database_url: str, tmp_path: Path, direction: str, outcome: str
) -> None:
    """An `unlock` or a backup is recorded after an attempt: that attempt's list of INVALID indexes is still found."""
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


async def test_a_half_applied_revision_stops_every_instance(database_url: str, tmp_path: Path) -> None:
    """A revision fails after it committed a part: the next instance refuses to start and adds no attempt."""
    ini = tree(tmp_path, IN_A_BLOCK.format("CREATE TABLE u (a int)") + '\nraise ValueError("boom")')
    with pytest.raises(RevisionFailed, match="committed a part of its work"):
        await run(database_url, ini)
    assert await history(database_url) == [("r1", "half_applied")]
    with pytest.raises(SchemaRefused, match="revision r1 committed a part"):
        await assembled(database_url, ini, "two").coordinator().become_ready()
    assert await history(database_url) == [("r1", "half_applied")]


async def test_a_failed_commit_after_an_autocommit_block_is_half_applied(database_url: str, tmp_path: Path) -> None:
    """The last COMMIT fails after an autocommit_block: the revision is half applied and no version is written."""
    block = IN_A_BLOCK.format("CREATE TABLE u (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    ini = tree(tmp_path, block + '\nop.execute("INSERT INTO u VALUES (1), (1)")')
    with pytest.raises(RevisionFailed, match="after it had committed a part of its work: UniqueViolationError"):
        await run(database_url, ini)
    assert await history(database_url) == [("r1", "half_applied")]
    assert await fetch(database_url, "SELECT * FROM alembic_version") == []


async def test_an_idempotent_revision_is_run_again(database_url: str, tmp_path: Path) -> None:
    """An idempotent revision is half applied: the next instance records it as interrupted and runs it again."""
    ini = tree(tmp_path)
    block = IN_A_BLOCK.format("CREATE TABLE IF NOT EXISTS u (a int)")
    revision(tmp_path, "r1", block + '\nraise ValueError("boom")', extra="idempotent = True\n")
    with pytest.raises(RevisionFailed):
        await run(database_url, ini)
    revision(tmp_path, "r1", block, extra="idempotent = True  # repaired\n")
    await assembled(database_url, ini, "two").coordinator().become_ready()
    assert await history(database_url) == [("r1", "interrupted"), ("r1", "applied")]


async def test_the_next_lock_holder_records_a_lost_attempt_as_interrupted(database_url: str, tmp_path: Path) -> None:
    """A session is terminated in mid-revision: the next lock holder records its attempt as interrupted."""
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
    """`stamp` records each ancestor, so that an older build can prove that the database is newer."""
    ini = tree(tmp_path, CREATE, "pass", "pass")
    await run(database_url, ini, MigrationRequest("stamp", "r2"))
    rows = await history(database_url, "revision, parents, direction, outcome")
    assert sorted(rows) == [("r1", "", "stamp", "stamped"), ("r2", "r1", "stamp", "stamped")]
    await run(database_url, ini, MigrationRequest("stamp", "head"))
    assert (await history(database_url, "revision, parents"))[2:] == [("r3", "r2")]
    assert (await fetch(database_url, "SELECT to_regclass('t')"))[0][0] is None


async def test_a_failed_attempt_is_recorded_without_values(database_url: str, tmp_path: Path) -> None:
    """A failure is recorded with its SQLSTATE and place, without the statement and the value in it."""
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


async def test_a_downgrade_is_recorded(database_url: str, tmp_path: Path) -> None:
    """`downgrade` records the revision that it undid, with its parents."""
    ini = tree(tmp_path, CREATE, "pass")
    await run(database_url, ini)
    await run(database_url, ini, MigrationRequest("downgrade", "-1"))
    rows = await history(database_url, "revision, parents, direction, outcome")
    assert rows[2:] == [("r2", "r1", "downgrade", "applied")]


async def test_repair_records_a_half_applied_revision_as_interrupted(database_url: str, tmp_path: Path) -> None:
    """An operator runs `repair`: the half-applied attempt is recorded as interrupted."""
    ini = tree(tmp_path, IN_A_BLOCK.format("CREATE TABLE u (a int)") + '\nraise ValueError("boom")')
    with pytest.raises(RevisionFailed):
        await run(database_url, ini)
    await run(database_url, ini, MigrationRequest("repair", "r1"))
    assert await history(database_url) == [("r1", "interrupted")]


@pytest.mark.parametrize("name", [None, "log of migrations"])
async def test_alembic_check_ignores_the_history_table(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """`alembic check` finds no difference, so autogenerate does not propose to drop the history table."""
    ini = tree(tmp_path, CREATE, env=ENV_OF_MODELS)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("MIGRATION_ALEMBIC_CONFIG", str(ini))
    monkeypatch.setenv("MIGRATION_HISTORY_TABLE", name or "")
    await run(database_url, ini, history_table=name)
    await asyncio.to_thread(command.check, Config(ini))
