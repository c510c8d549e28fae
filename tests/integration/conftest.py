"""Fixtures that provide the ledger on each of its three databases, at head."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import fresh_name
from tests.integration.ledger_client import LedgerClient, ledger_client
from tests.integration.ledger_schema import schema_of
from tests.support.mariadb import MariaDB


@pytest.fixture(scope="session")
def mariadb_template(mariadb: MariaDB) -> Iterator[str]:
    """Create one MariaDB database at head for the whole session, and return its name."""
    name = fresh_name()
    with mariadb.database(name) as url:
        migrate(url)
        yield name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create one SQLite database at head for the whole session."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    migrate(f"sqlite:///{path}")
    return path


def migrate(url: str) -> None:
    """Bring a database to head, in a thread, because the caller's thread may already run an event loop."""

    async def upgrade() -> None:
        schema = schema_of(url)
        await schema.upgrade("head")
        await schema.engine.dispose()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, upgrade()).result()


@pytest.fixture
def mariadb_ledger_url(mariadb: MariaDB, mariadb_template: str) -> Iterator[str]:
    """Yield a MariaDB database at head that only this test uses."""
    with mariadb.database(fresh_name(), template=mariadb_template) as url:
        yield url


@pytest.fixture
def sqlite_ledger_url(sqlite_template: Path, tmp_path: Path) -> str:
    """Return a SQLite database at head that only this test uses."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'ledger.db')}"


@pytest.fixture(
    params=["ledger_url", "mariadb_ledger_url", "sqlite_ledger_url"], ids=["postgresql", "mariadb", "sqlite"]
)
def each_ledger_url(request: pytest.FixtureRequest) -> str:
    """Return a database at head on PostgreSQL, MariaDB and SQLite in turn."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
async def client(ledger_url: str) -> AsyncIterator[LedgerClient]:
    """Yield a client of the ledger on PostgreSQL, for requests that are refused before any database is used."""
    async with ledger_client(ledger_url) as client:
        yield client


@pytest.fixture
async def each_client(each_ledger_url: str) -> AsyncIterator[LedgerClient]:
    """Yield a client of the ledger on each database in turn."""
    async with ledger_client(each_ledger_url) as client:
        yield client
