"""What Alembic remembers within a run survives a table lock that has to be asked for again."""

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
    """Start an instance whose revision `waits` for a table that another session holds until a first try has failed."""
    await fetch(url, "CREATE TABLE busy (a int)")
    async with in_the_way(url, "SELECT * FROM busy", "report") as report:
        start = asyncio.create_task(assembled(url, ini, lock_timeout_seconds=0.3).coordinator().become_ready())
        retried = lambda: "retried" in outcomes(url, waits)  # noqa: E731 - one line is all it is
        await asyncio.to_thread(
            wait_until, retried, "a try that did not acquire its table lock", seconds=FOREVER_SECONDS
        )
        await report.execute("ROLLBACK")
        await start


async def test_a_type_is_created_once(database_url: str, tmp_path: Path) -> None:
    """r1 creates an Enum's type, r2 waits for a lock, r3 uses the Enum: plain Alembic upgrades that, and so do we."""
    await upgraded_past_a_lock(database_url, tree(tmp_path, TABLE.format("a"), ALTER, TABLE.format("b")), "r2")
    assert len(await fetch(database_url, "SELECT 1 FROM pg_type WHERE typname = 'colour'")) == 1
    assert outcomes(database_url, "r3") == ["applied"]


async def test_a_type_that_was_rolled_back_is_created_again(database_url: str, tmp_path: Path) -> None:
    """The revision that creates the type is the one that waits: its second try has to create the type again."""
    await upgraded_past_a_lock(database_url, tree(tmp_path, f"{TABLE.format('a')}\n{ALTER}", TABLE.format("b")), "r1")
    assert outcomes(database_url, "r2") == ["applied"]


async def test_another_process_is_told_the_remedy(database_url: str, tmp_path: Path) -> None:
    """A process that comes later cannot know which types were created: the error says why, and what to write."""
    ini = tree(tmp_path, TABLE.format("a"))
    await assembled(database_url, ini).coordinator().become_ready()
    ini = tree(tmp_path, TABLE.format("a"), TABLE.format("b"))
    with pytest.raises(RevisionFailed, match=r'"colour" already exists.*create_type=False'):
        await assembled(database_url, ini).coordinator().become_ready()
