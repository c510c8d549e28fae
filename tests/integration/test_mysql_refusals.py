"""Real refusals by MariaDB and MySQL: a refused login ends the start, a server that is closed for now is retried.

Either way the exit code is 5, so that a Job retries.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.migrations.assembly import Assembly
from api.migrations.errors import AccessRefused, DatabaseUnreachable, MigrationError, ReadOnlyServer
from api.migrations.urls.database_url import DatabaseURL
from tests.support.fakes import FOREVER_SECONDS, assembled, tree
from tests.support.mariadb import MariaDB
from tests.support.pace import scaled
from tests.support.places import HISTORY, MariaDBPlace, marks
from tests.support.waiting import until

GROUND = 'op.execute("CREATE TABLE marks (revision varchar(40))")'
MARK = "op.execute(\"INSERT INTO marks VALUES ('r2')\")"
MARIADB, MYSQL = "mariadb", "mysql"


def instance(url: str, ini: Path, **settings: Any) -> Assembly:
    """Return an instance that polls often."""
    return assembled(url, ini, "one", strategy="advisory_lock", poll_seconds=0.1, **settings)


@contextmanager
def account(place: MariaDBPlace, option: str) -> Iterator[str]:
    """Yield the URL of an account that has every right in the database and this account option."""
    place.server.query(f"CREATE USER guest IDENTIFIED BY 'pw'; GRANT ALL ON `{place.database}`.* TO guest")
    try:
        place.server.query(f"ALTER USER guest {option}")
        yield place.server.url(place.database, user="guest", password="pw")
    finally:
        place.server.query("DROP USER guest")


@contextmanager
def globally(server: MariaDB, variable: str) -> Iterator[None]:
    """Set a global variable of the server to 1 while the block runs."""
    server.query(f"SET GLOBAL {variable} = 1")
    try:
        yield
    finally:
        server.query(f"SET GLOBAL {variable} = 0")


async def refusal(url: str, ini: Path, kind: type[MigrationError]) -> str:
    """Assert that a start is refused at once, without the user in the message; return the message."""
    with pytest.raises(kind) as raised:
        await asyncio.wait_for(instance(url, ini).coordinator().become_ready(), FOREVER_SECONDS)
    message = str(raised.value)
    assert type(raised.value) is kind
    assert "gave up" not in message
    assert "guest" not in message
    return message


@pytest.mark.parametrize(
    ("each_mysql", "option", "number", "remedy"),
    [
        (MARIADB, "ACCOUNT LOCK", 4151, "ACCOUNT UNLOCK"),
        (MYSQL, "ACCOUNT LOCK", 3118, "ACCOUNT UNLOCK"),
        (MARIADB, "PASSWORD EXPIRE", 1820, "ALTER USER … IDENTIFIED BY"),
        (MYSQL, "PASSWORD EXPIRE", 1862, "ALTER USER … IDENTIFIED BY"),
        (MARIADB, "REQUIRE SSL", 1045, "?ssl-mode=REQUIRED"),
        (MYSQL, "REQUIRE SSL", 1045, "?ssl-mode=REQUIRED"),
    ],
    indirect=["each_mysql"],
)
async def test_a_refused_account_is_reported_with_number_and_remedy(
    each_mysql_place: MariaDBPlace, tmp_path: Path, option: str, number: int, remedy: str
) -> None:
    """The server refuses the account: the error has the server's number and the remedy, and the exit code is 5."""
    with account(each_mysql_place, option) as url:
        message = await refusal(url, tree(tmp_path, GROUND), AccessRefused)
    assert f"error {number} while {DatabaseURL.parse(url).connecting}: " in message
    assert remedy in message.partition("To fix: ")[2]
    assert AccessRefused.exit_code == 5
    assert not each_mysql_place.has(HISTORY)


async def test_a_fetched_password_wins_over_the_url_s(each_mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """The URL has an expired password: the instance migrates with the one that `fetch_password` returns."""
    with account(each_mysql_place, "ACCOUNT UNLOCK") as url:
        expired = url.replace(":pw@", ":expired@")
        await instance(expired, tree(tmp_path, GROUND), fetch_password=lambda: "pw").coordinator().become_ready()
    assert each_mysql_place.has("marks")


async def test_a_blocked_account_is_reported(mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """MySQL has blocked the account after failed logins: the error says so, even with the right password."""
    ini = tree(tmp_path, GROUND)
    with account(mysql_place, "FAILED_LOGIN_ATTEMPTS 1 PASSWORD_LOCK_TIME 2") as url:
        for each in (url.replace(":pw@", ":wrong@"), url):
            message = await refusal(each, ini, AccessRefused)
            assert (
                f"error 3955 while {DatabaseURL.parse(url).connecting}: the account is blocked after failed logins"
                in message
            )


async def test_a_database_that_does_not_exist_is_reported(each_mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """An account with rights on every database names one that does not exist: the error 1049 says so."""
    with account(each_mysql_place, "ACCOUNT UNLOCK") as url:
        each_mysql_place.server.query("GRANT SELECT ON *.* TO guest")
        message = await refusal(url.rpartition("/")[0] + "/nowhere", tree(tmp_path, GROUND), AccessRefused)
    assert f"error 1049 while {DatabaseURL.parse(url).connecting}: the database in the URL does not exist" in message


async def test_a_server_that_requires_tls_is_reported_with_the_parameter(
    mysql_place: MariaDBPlace, tmp_path: Path
) -> None:
    """The server requires TLS: the error names the URL parameter, and with it the instance migrates."""
    ini = tree(tmp_path, GROUND)
    with globally(mysql_place.server, "require_secure_transport"):
        message = await refusal(mysql_place.url, ini, AccessRefused)
        assert "error 3159 while connecting" in message
        assert "To fix: add ?ssl-mode=REQUIRED to the URL" in message
        await instance(f"{mysql_place.url}?ssl-mode=REQUIRED", ini).coordinator().become_ready()
    assert mysql_place.has("marks")


CLOSED = [
    (MYSQL, "offline_mode", 3032, "SET GLOBAL offline_mode = OFF"),
    (MYSQL, "super_read_only", 1290, "point MIGRATION_DATABASE_URL at the primary"),
    (MYSQL, "read_only", 1290, "point MIGRATION_DATABASE_URL at the primary"),
    (MARIADB, "read_only", 1290, "point MIGRATION_DATABASE_URL at the primary"),
]


@pytest.mark.parametrize(("each_mysql", "variable", "number", "remedy"), CLOSED, indirect=["each_mysql"])
async def test_an_instance_waits_for_a_closed_server(
    each_mysql_place: MariaDBPlace,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    variable: str,
    number: int,
    remedy: str,
) -> None:
    """The server is offline or read-only for now: the instance says why, starts no run, and migrates later."""
    await instance(each_mysql_place.url, tree(tmp_path, GROUND)).coordinator().become_ready()
    caplog.set_level("INFO")
    caplog.clear()
    waiting = instance(each_mysql_place.url, tree(tmp_path, GROUND, MARK))

    async def says_so() -> bool:
        message = waiting.tracker.status.message or ""
        return f"error {number} while " in message and remedy in message

    with globally(each_mysql_place.server, variable):
        task = asyncio.create_task(waiting.coordinator().become_ready())
        await until(says_so, "its message", seconds=FOREVER_SECONDS)
        assert "run_started" not in {getattr(record, "event", "") for record in caplog.records}
    each_mysql_place.server.query("SET GLOBAL read_only = 0")
    await asyncio.wait_for(task, FOREVER_SECONDS)
    assert marks(each_mysql_place) == ["r2"]
    assert each_mysql_place.rows(f"SELECT outcome FROM {HISTORY}") == [["applied"], ["applied"]]


async def test_an_instance_times_out_on_a_closed_server(mysql_place: MariaDBPlace, tmp_path: Path) -> None:
    """The server stays offline: the instance times out after MIGRATION_WAIT_SECONDS with exit code 5."""
    with globally(mysql_place.server, "offline_mode"), pytest.raises(DatabaseUnreachable, match="error 3032") as raised:
        stays = instance(mysql_place.url, tree(tmp_path, GROUND), wait_seconds=scaled(1), run_seconds=scaled(1))
        await stays.coordinator().become_ready()
    assert raised.value.exit_code == 5


@pytest.mark.parametrize(
    ("each_mysql", "number", "read_only", "writable"),
    [
        (MARIADB, 1792, "SET GLOBAL tx_read_only = 1", "SET GLOBAL tx_read_only = 0"),
        (MYSQL, 1792, "SET GLOBAL transaction_read_only = 1", "SET GLOBAL transaction_read_only = 0"),
        (MYSQL, 3989, "ALTER DATABASE {} READ ONLY = 1", "ALTER DATABASE {} READ ONLY = 0"),
    ],
    indirect=["each_mysql"],
)
async def test_a_read_only_setting_is_refused_at_once(
    each_mysql_place: MariaDBPlace, tmp_path: Path, number: int, read_only: str, writable: str
) -> None:
    """A setting makes every transaction read-only, which no failover ends: the start is refused without a retry."""
    name = each_mysql_place.database
    each_mysql_place.server.query(read_only.format(name))
    try:
        message = await refusal(each_mysql_place.url, tree(tmp_path, GROUND), ReadOnlyServer)
    finally:
        each_mysql_place.server.query(writable.format(name))
    assert f"error {number} while " in message
    assert "To fix: " in message
