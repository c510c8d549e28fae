"""Alembic's memory of a run, such as the types that it created, survives the retry of a blocked revision."""

import asyncio
from pathlib import Path

import pytest

from api.migrations.errors import RevisionFailed
from tests.support.evidence import outcomes
from tests.support.fakes import FOREVER_SECONDS, assembled, in_the_way, tree
from tests.support.servers import fetch
from tests.support.waiting import wait_until

ENUM = 'sa.Enum("x", "y", name="colour")'
TABLE = f'op.create_table("{{}}", sa.Column("colour", {ENUM}))'
ALTER = 'op.execute("ALTER TABLE busy ADD COLUMN b int")'


async def upgraded_past_a_lock(url: str, ini: Path, waits: str) -> None:
    """Start an instance and block its revision `waits` with a table lock until one attempt has been retried."""
    await fetch(url, "CREATE TABLE busy (a int)")
    async with in_the_way(url, "SELECT * FROM busy", "report") as report:
        start = asyncio.create_task(assembled(url, ini, lock_timeout_seconds=0.3).coordinator().become_ready())
        retried = lambda: "retried" in outcomes(url, waits)  # noqa: E731 - one line is all it is
        await asyncio.to_thread(
            wait_until, retried, "a try that did not acquire its table lock", seconds=FOREVER_SECONDS
        )
        await report.execute("ROLLBACK")
        await start


async def test_a_retry_does_not_create_a_type_twice(database_url: str, tmp_path: Path) -> None:
    """r1 creates a type, r2 is retried, and r3 uses the type: all are applied, as in one run of plain Alembic."""
    await upgraded_past_a_lock(database_url, tree(tmp_path, TABLE.format("a"), ALTER, TABLE.format("b")), "r2")
    assert len(await fetch(database_url, "SELECT 1 FROM pg_type WHERE typname = 'colour'")) == 1
    assert outcomes(database_url, "r3") == ["applied"]


async def test_a_retry_creates_a_type_that_was_rolled_back(database_url: str, tmp_path: Path) -> None:
    """The attempt that created a type is rolled back: the retry creates the type again."""
    await upgraded_past_a_lock(database_url, tree(tmp_path, f"{TABLE.format('a')}\n{ALTER}", TABLE.format("b")), "r1")
    assert outcomes(database_url, "r2") == ["applied"]


async def test_a_type_of_an_earlier_process_fails_with_the_remedy(database_url: str, tmp_path: Path) -> None:
    """A revision creates a type that an earlier process created: the error proposes create_type=False."""
    ini = tree(tmp_path, TABLE.format("a"))
    await assembled(database_url, ini).coordinator().become_ready()
    ini = tree(tmp_path, TABLE.format("a"), TABLE.format("b"))
    with pytest.raises(RevisionFailed, match=r'"colour" already exists.*create_type=False'):
        await assembled(database_url, ini).coordinator().become_ready()
