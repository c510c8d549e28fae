"""`unlock` on MariaDB, MySQL and SQLite terminates no session: it prints what would."""

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


async def test_unlock_prints_the_statement_that_frees_the_lock(each_mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """A session holds the lock on MariaDB or MySQL: `unlock` prints a KILL statement, which frees the lock."""
    holder = session_in(each_mysql_place, tree(tmp_path, GROUND), "other")
    await holder.open()
    assert await holder.try_lock()
    asking = assembled(each_mysql_place.url, tree(tmp_path, GROUND), "asking")
    with pytest.raises(LockHeld, match=r"run '(KILL \d+;)' on the server") as told:
        await commands.unlock(asking, Namespace(force=False))
    assert "Its process then connects" in str(told.value)
    each_mysql_place.rows(str(told.value).split("'")[1])
    await until_free(each_mysql_place)
    await holder.close()


async def until_free(place: Place) -> None:
    """Wait until the lock is free."""

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
async def test_unlock_never_names_a_process_of_another_host(
    sqlite_place: SqlitePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: int | None, words: str
) -> None:
    """`unlock` names the holder's host, and its pid unless that is a container's 1, and never says `kill`."""

    async def held(_: OperatorSession) -> LockStatus:
        return LockStatus(Holder("vm", pid))

    sqlite_place.path.touch()
    monkeypatch.setattr(SqlSession, "lock_status", held)
    asking = assembled(sqlite_place.url, tree(tmp_path, GROUND), "asking", strategy="advisory_lock")
    with pytest.raises(LockHeld) as told:
        await commands.unlock(asking, Namespace(force=False))
    assert words in str(told.value)
    assert "kill" not in str(told.value).lower()
