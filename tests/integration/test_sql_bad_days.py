"""MariaDB, MySQL and SQLite that are down, frozen or restarted, which is retried, or that refuse, which is final."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from api.migrations.assembly import Assembly
from api.migrations.core.protocols import ANSWER_SECONDS
from api.migrations.databases import sql_session
from api.migrations.errors import (
    AccessRefused,
    DatabaseUnreachable,
    MigrationError,
    PrivilegeMissing,
    ReadOnlyServer,
    WaitTimeout,
)
from tests.support.fakes import FOREVER_SECONDS, assembled, tree
from tests.support.mariadb import MariaDB, running_mariadb
from tests.support.mysql import running_mysql
from tests.support.pace import scaled
from tests.support.places import HISTORY, MariaDBPlace, SqlitePlace, marks, nobody
from tests.support.waiting import until, wait_until

SECONDS = scaled(1)
GROUND = 'op.execute("CREATE TABLE marks (revision varchar(40))")'
HELD = """\
import time
from pathlib import Path
op.execute("INSERT INTO marks VALUES ('r2')")
Path({folder!r}, "reached").touch()
while not Path({folder!r}, "let_go").exists():
    op.execute("SELECT 1")
    time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def own(request: pytest.FixtureRequest) -> Iterator[MariaDB]:
    """Yield a server that may be stopped and killed: MariaDB, or MySQL if the test names it."""
    with running_mysql() if getattr(request, "param", "") == "mysql" else running_mariadb() as server:
        yield server


@pytest.fixture
def own_place(own: MariaDB, request: pytest.FixtureRequest) -> Iterator[MariaDBPlace]:
    """Yield a database on that server."""
    if own._process is None:
        own.start()
    with own.database(f"bad_{abs(hash(request.node.name))}") as url:
        yield MariaDBPlace(own, url)


def instance(url: str, ini: Path, name: str = "one", **settings: Any) -> Assembly:
    """Return an instance that polls often."""
    return assembled(url, ini, name, strategy="advisory_lock", poll_seconds=0.1, **settings)


async def refused(url: str, ini: Path, error: type[MigrationError], *words: str) -> str:
    """Assert that a start fails with `error` and `words`; return the message."""
    with pytest.raises(error) as raised:
        await asyncio.wait_for(instance(url, ini).coordinator().become_ready(), FOREVER_SECONDS)
    assert type(raised.value) is error
    assert [word for word in words if word not in str(raised.value)] == []
    return str(raised.value)


async def test_an_instance_waits_for_a_server_that_is_down(
    own: MariaDB, own_place: MariaDBPlace, tmp_path: Path
) -> None:
    """The server is down: the instance says that it waits, without the database, and migrates once it is up."""
    waiting = instance(own_place.url, tree(tmp_path, GROUND))
    own.stop()
    task = asyncio.create_task(waiting.coordinator().become_ready())

    async def says_so() -> bool:
        return "waiting for the database" in (waiting.tracker.status.message or "")

    await until(says_so, "its message", seconds=FOREVER_SECONDS)
    message = waiting.tracker.status.message or ""
    assert "ledger" not in message
    await asyncio.to_thread(own.start)
    await asyncio.wait_for(task, FOREVER_SECONDS)
    assert own_place.has("marks")


async def test_an_instance_times_out_on_a_server_that_stays_down(
    own: MariaDB, own_place: MariaDBPlace, tmp_path: Path
) -> None:
    """The server stays down: the instance times out after MIGRATION_WAIT_SECONDS with exit code 5."""
    own.stop()
    with pytest.raises(DatabaseUnreachable, match=f"timed out after MIGRATION_WAIT_SECONDS={SECONDS:g}") as raised:
        await (
            instance(own_place.url, tree(tmp_path, GROUND), wait_seconds=SECONDS, run_seconds=SECONDS)
            .coordinator()
            .become_ready()
        )
    assert raised.value.exit_code == 5
    await asyncio.to_thread(own.start)


async def test_an_instance_waits_for_a_frozen_server(
    own: MariaDB, own_place: MariaDBPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server accepts and never answers: each attempt times out, and the instance migrates after the thaw."""
    monkeypatch.setattr(sql_session, "ANSWER_SECONDS", scaled(1))
    waiting = instance(own_place.url, tree(tmp_path, GROUND))
    os.kill(own.pid, signal.SIGSTOP)
    try:
        task = asyncio.create_task(waiting.coordinator().become_ready())

        async def says_so() -> bool:
            return "no answer in time" in (waiting.tracker.status.message or "")

        await until(says_so, "its message", seconds=FOREVER_SECONDS)
    finally:
        os.kill(own.pid, signal.SIGCONT)
    await asyncio.wait_for(task, FOREVER_SECONDS)
    assert own_place.has("marks")


async def test_a_run_on_a_server_that_freezes_times_out(
    own: MariaDB, own_place: MariaDBPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server freezes in mid-revision: the run ends with its budget, and the next instance finishes."""
    ini = tree(tmp_path / "tree", GROUND, HELD.format(folder=str(tmp_path)))
    upgrade = instance(own_place.url, ini, run_seconds=scaled(3), wait_seconds=scaled(3))
    usual = ANSWER_SECONDS

    def freeze() -> None:
        wait_until((tmp_path / "reached").exists, "the held revision", seconds=FOREVER_SECONDS)
        os.kill(own.pid, signal.SIGSTOP)
        monkeypatch.setattr(sql_session, "ANSWER_SECONDS", 0.3)

    try:
        freezing = asyncio.create_task(asyncio.to_thread(freeze))
        with pytest.raises(DatabaseUnreachable, match="r2 was cancelled, and its outcome is unknown"):
            await asyncio.wait_for(upgrade.coordinator().become_ready(), FOREVER_SECONDS)
        await freezing
    finally:
        os.kill(own.pid, signal.SIGCONT)
        monkeypatch.setattr(sql_session, "ANSWER_SECONDS", usual)
        (tmp_path / "let_go").touch()
    await asyncio.wait_for(instance(own_place.url, ini, "two").coordinator().become_ready(), FOREVER_SECONDS)
    assert marks(own_place) == ["r2"]


@pytest.mark.parametrize(
    ("own", "end"), [("mariadb", "stop"), ("mariadb", "kill"), ("mysql", "stop"), ("mysql", "kill")], indirect=["own"]
)
async def test_a_restart_in_mid_migration_is_survived(
    own: MariaDB, own_place: MariaDBPlace, tmp_path: Path, end: str
) -> None:
    """The server stops or crashes in mid-revision: lock holder and waiter finish, and it is applied once."""
    ini = tree(tmp_path / "tree", GROUND, HELD.format(folder=str(tmp_path)))
    # both instances share a thread, so only the first can be in the Python code of the revision
    both = [instance(own_place.url, ini, name) for name in ("one", "two")]

    def restart() -> None:
        wait_until((tmp_path / "reached").exists, "the held revision", seconds=FOREVER_SECONDS)
        getattr(own, end)()
        (tmp_path / "let_go").touch()
        own.start()

    work = [asyncio.create_task(each.coordinator().become_ready()) for each in both]
    await asyncio.to_thread(restart)
    await asyncio.wait_for(asyncio.gather(*work), 2 * FOREVER_SECONDS)
    assert marks(own_place) == ["r2"]
    rows = own_place.rows(f"SELECT outcome FROM {HISTORY} WHERE revision = 'r2' ORDER BY id")
    assert rows == [["interrupted"], ["applied"]]


@pytest.mark.parametrize(
    ("each_mysql", "counter"),
    [("mariadb", "Access_denied_errors"), ("mysql", "Aborted_connects")],
    indirect=["each_mysql"],
)
async def test_a_wrong_password_is_tried_once(each_mysql_place: MariaDBPlace, tmp_path: Path, counter: str) -> None:
    """The password is wrong: the instance connects once, so that no account is blocked, and shows no password."""
    server = each_mysql_place.server

    def refusals() -> int:
        return int(server.query(f"SHOW GLOBAL STATUS LIKE '{counter}'")[0][1])

    before = refusals()
    url = server.url(each_mysql_place.database, password="wr0ng")
    message = await refused(url, tree(tmp_path, GROUND), AccessRefused, "error 1045", "check user and password")
    assert "wr0ng" not in message
    assert "ledger" not in message
    assert refusals() == before + 1


async def test_an_unknown_database_is_reported(each_mysql: MariaDB, tmp_path: Path) -> None:
    """The account has no rights on an unknown database: the error 1044 says that it does not exist or is denied."""
    await refused(each_mysql.url("nowhere"), tree(tmp_path, GROUND), AccessRefused, "error 1044", "does not exist")


async def test_a_missing_privilege_is_reported(each_mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """The account may only read: the error 1142 says to GRANT the missing right."""
    server, name = each_mysql_place.server, each_mysql_place.database
    server.query(f"CREATE USER reader@`%` IDENTIFIED BY 'pw'; GRANT SELECT ON `{name}`.* TO reader@`%`")
    try:
        url = server.url(name, user="reader", password="pw")
        await refused(url, tree(tmp_path, GROUND), PrivilegeMissing, "error 1142", "GRANT it")
    finally:
        server.query("DROP USER reader@`%`")


async def test_a_sqlite_file_that_cannot_be_opened_is_refused(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """The folder is missing or read-only, or the file is no database: the start is refused with what to check."""
    ini = tree(tmp_path, GROUND)
    sqlite_place.path.write_text("I am a letter, and a rather long one; somebody has taken me for a database.\n" * 20)
    for url in ("sqlite:////nowhere/shop.db", "sqlite:////sys/shop.db", sqlite_place.url):
        await refused(url, ini, AccessRefused, "the file cannot be opened", "its folder exists and is writable")
    assert not sqlite_place.lock_file.exists()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Yield a folder that every user can read."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
async def shared_database(open_folder: Path) -> tuple[SqlitePlace, Path]:
    """Return a database in that folder and a history with one pending revision."""
    place = SqlitePlace(open_folder / "shop.db")
    await instance(place.url, tree(open_folder, GROUND)).coordinator().become_ready()
    return place, tree(open_folder, GROUND, "pass")


async def test_a_folder_without_write_permission_is_refused(shared_database: tuple[SqlitePlace, Path]) -> None:
    """The process may write the database and not its folder: the error says that the lock file needs it."""
    place, ini = shared_database
    place.path.chmod(0o666)
    place.lock_file.unlink()
    with nobody():
        await refused(place.url, ini, PrivilegeMissing, "let this process write the database's folder")


async def test_a_read_only_sqlite_file_is_refused(shared_database: tuple[SqlitePlace, Path]) -> None:
    """The process can lock the file and not write the database: the error says to make it writable."""
    place, ini = shared_database
    place.path.chmod(0o444)
    place.lock_file.chmod(0o666)
    with nobody():
        await refused(place.url, ini, ReadOnlyServer, "make the file and its folder writable")


async def test_a_waiter_times_out_and_names_the_lock_holder(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """The lock holder keeps the lock: the waiter times out and names the holder and its pid."""
    ini = tree(tmp_path, GROUND)
    holder = instance(sqlite_place.url, ini, "api-7").session()
    await holder.open()
    assert await holder.try_lock()
    with pytest.raises(WaitTimeout, match=r"api-7 \(pid \d+\) holds the lock"):
        hasty = instance(sqlite_place.url, ini, "api-8", wait_seconds=SECONDS, run_seconds=SECONDS)
        await hasty.coordinator().become_ready()
    await holder.close()


async def test_tls_on_a_server_without_tls_is_refused(mariadb_place: MariaDBPlace, tmp_path: Path) -> None:
    """The URL requires TLS and the server has none: the start is refused without a retry."""
    with pytest.raises(AccessRefused, match="does not support TLS"):
        await instance(f"{mariadb_place.url}?ssl-mode=REQUIRED", tree(tmp_path, GROUND)).coordinator().become_ready()
