"""`unlock` on MariaDB, MySQL and SQLite ends nobody: it says what would."""

from argparse import Namespace
from pathlib import Path

import pytest

from api.migrations.cli import commands
from api.migrations.core.protocols import OperatorSession
from api.migrations.core.status import Holder, LockStatus
from api.migrations.databases.sql_session import SqlSession
from api.migrations.errors import LockHeld
from tests.integration.sql_runs import GROUND, session_in
from tests.support.fakes import FOREVER_SECONDS, assembled, tree
from tests.support.places import MariaDBPlace, Place, SqlitePlace
from tests.support.waiting import until


async def test_unlock_says_what_would_free_the_lock(each_mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """The statement that it quotes does, as it stands there."""
    holder = session_in(each_mysql_place, tree(tmp_path, GROUND), "other")
    await holder.open()
    assert await holder.try_lock()
    asking = assembled(each_mysql_place.url, tree(tmp_path, GROUND), "asking")
    with pytest.raises(LockHeld, match=r"run '(KILL \d+;)' on the server") as told:
        await commands.unlock(asking, Namespace(force=False))
    assert "Its process then connects" in str(told.value)
    each_mysql_place.rows(str(told.value).split("'")[1])
    await wait_free(each_mysql_place)
    await holder.close()


async def wait_free(place: Place) -> None:
    """Until nobody has the lock."""

    async def free() -> bool:
        return place.lock_is_free()

    await until(free, "a free lock", seconds=FOREVER_SECONDS)


@pytest.mark.parametrize(
    ("pid", "words"),
    [
        (4687, "end process 4687 of vm (on its host, or in its container)"),
        (1, "end instance vm (on its host"),
        (0, "end instance vm (on its host"),
        (None, "end instance vm (on its host"),
    ],
)
async def test_unlock_never_tells_to_end_a_foreign_process(
    sqlite_place: SqlitePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: int | None, words: str
) -> None:
    """The number of a container's first process, or none, would be another one's on the host."""

    async def held(_: OperatorSession) -> LockStatus:
        return LockStatus(Holder("vm", pid))

    sqlite_place.path.touch()
    monkeypatch.setattr(SqlSession, "lock_status", held)
    asking = assembled(sqlite_place.url, tree(tmp_path, GROUND), "asking", strategy="advisory_lock")
    with pytest.raises(LockHeld) as told:
        await commands.unlock(asking, Namespace(force=False))
    assert words in str(told.value)
    assert "kill" not in str(told.value).lower()
