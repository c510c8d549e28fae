"""The ledger on a MariaDB or MySQL server that has unusual defaults, refuses a login, or crashes."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from api.ledger.database import Database
from api.ledger.errors import DatabaseUnavailable
from api.migrations.urls.database_url import DatabaseURL
from devtools.account import Account
from tests.integration.conftest import migrate
from tests.integration.ledger_client import LedgerClient, ledger_client, refusal, transfer
from tests.support.mariadb import MariaDB, running_mariadb
from tests.support.mysql import running_mysql
from tests.support.servers import program, self_signed, temporary_home

# SQL modes in which the driver would quote wrongly or the server would cut values, and other unusual defaults.
STRANGE = {
    "sql-mode": "NO_BACKSLASH_ESCAPES,ANSI_QUOTES",
    "default-time-zone": "+05:00",
    "transaction-isolation": "REPEATABLE-READ",
    "character-set-server": "latin1",
}


@pytest.fixture(scope="module")
def certificate() -> Iterator[Path]:
    """Yield the self-signed certificate of the server; its key is beside it."""
    account = Account.unprivileged()
    with temporary_home(account) as folder:
        made = self_signed(program("openssl", "apt-get install openssl"), folder)
        account.own(*made)
        yield made[0]


@pytest.fixture(scope="module")
def strange(request: pytest.FixtureRequest, certificate: Path) -> Iterator[MariaDB]:
    """Yield a server that has unusual defaults, uses TLS, and may be killed."""
    settings = {**STRANGE, "ssl-cert": str(certificate), "ssl-key": str(certificate.with_suffix(".key"))}
    on_mysql = getattr(request, "param", "") == "mysql"
    with running_mysql(**settings) if on_mysql else running_mariadb(**settings) as server:
        yield server


@pytest.fixture
def strange_url(strange: MariaDB) -> Iterator[str]:
    """Yield a database at head on that server."""
    with strange.database("strange") as url:
        migrate(url)
        yield url


@pytest.fixture
async def client(strange_url: str) -> AsyncIterator[LedgerClient]:
    """Yield a client of the ledger on that database."""
    async with ledger_client(strange_url) as client:
        yield client


# MySQL no longer has tx_isolation; MariaDB has transaction_isolation since 11.1
@pytest.mark.parametrize(
    ("strange", "isolation"), [("mariadb", "tx_isolation"), ("mysql", "transaction_isolation")], indirect=["strange"]
)
async def test_the_ledger_overrides_the_server_defaults(client: LedgerClient, strange_url: str, isolation: str) -> None:
    """The server has another time zone, isolation and SQL mode: the ledger sets its own, and quotes stay text."""
    posted = await client.post({**transfer(*await client.pair()), "description": "\\' OR 1=1 -- \\\\ \" 🏠"})
    assert (await client.http.get("/transactions")).json()["transactions"] == [posted.json()]
    database = Database(DatabaseURL.parse(strange_url))
    try:
        async with database.sessions() as session:
            row = (await session.execute(text(f"SELECT @@time_zone, @@{isolation}, @@sql_mode"))).one()
    finally:
        await database.dispose()
    assert tuple(row[:2]) == ("+00:00", "READ-COMMITTED")
    assert "STRICT_ALL_TABLES" in row[2]
    assert "NO_BACKSLASH_ESCAPES" not in row[2]


async def test_a_connection_ended_by_the_server_is_replaced(client: LedgerClient, strange: MariaDB) -> None:
    """The server kills the pool's connection between two requests: the next request succeeds."""
    account = await client.open()
    [[number]] = strange.query("SELECT id FROM information_schema.processlist WHERE db = 'strange'")
    strange.query(f"KILL {number}")
    assert await client.balance(account) == 0


async def test_a_server_that_crashes_is_503_until_it_is_back(client: LedgerClient, strange: MariaDB) -> None:
    """The server crashes: the answer is 503 until it runs again, and committed rows are kept."""
    left, right = await client.pair()
    made = await client.move(left, right)
    strange.kill()
    try:
        response = await client.http.get("/transactions")
        detail = refusal(response, 503, "database-unavailable")
        assert response.headers["retry-after"] == "1"
        assert "127.0.0.1" not in detail
    finally:
        strange.start()
    assert (await client.http.get("/transactions")).json()["transactions"] == [made]


@pytest.mark.parametrize(
    ("change", "reason"),
    [(("ledger:", "nobody:"), "MySQL 1045"), (("/strange", "/elsewhere"), "MySQL 1044")],
    ids=["login", "database"],
)
async def test_a_refused_log_in_is_503_with_the_servers_number(
    strange_url: str, change: tuple[str, str], reason: str
) -> None:
    """The server refuses the login: the reason is only its error number, because its text names account and host."""
    with pytest.raises(DatabaseUnavailable) as refused:
        await first_row(strange_url.replace(*change), "SELECT 1")
    assert refused.value.reason == reason


@pytest.mark.parametrize("strange", ["mariadb", "mysql"], indirect=True)
@pytest.mark.parametrize(
    ("query", "encrypted"),
    [("", False), ("?ssl-mode=REQUIRED", True), ("?sslmode=verify-full&sslrootcert={ca}", True)],
)
async def test_tls_is_used_if_the_url_requires_it(
    strange_url: str, certificate: Path, query: str, encrypted: bool
) -> None:
    """The URL requires TLS, or does not: the server reports a cipher, or none."""
    row = await first_row(strange_url + query.format(ca=certificate), "SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    assert bool(row[1]) is encrypted


async def test_a_server_whose_certificate_is_not_trusted_is_503(strange_url: str) -> None:
    """The URL verifies a self-signed certificate without its CA: the database is unavailable."""
    with pytest.raises(DatabaseUnavailable):
        await first_row(f"{strange_url}?ssl-mode=VERIFY_CA", "SELECT 1")


async def test_a_password_with_any_characters_is_accepted(strange: MariaDB, strange_url: str) -> None:
    """A password has a character outside the driver's own encoding: the login succeeds."""
    strange.query("CREATE USER guarded IDENTIFIED BY '€ @ö'; GRANT ALL ON strange.* TO guarded")
    try:
        row = await first_row(strange.url("strange", user="guarded", password="€ @ö"), "SELECT user()")
    finally:
        strange.query("DROP USER guarded")
    assert row[0].startswith("guarded@")


async def first_row(url: str, sql: str) -> Any:
    """Return the first row of a query through the ledger's own pool."""
    database = Database(DatabaseURL.parse(url))
    try:
        async with database.sessions() as session:
            return (await session.execute(text(sql))).first()
    finally:
        await database.dispose()
