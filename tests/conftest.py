"""Fixtures for all tests: a real PostgreSQL, databases on it, and the other servers that a test may need."""

import fcntl
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import count
from pathlib import Path

import pytest

from tests.support.lease_api import lease_api
from tests.support.mariadb import MariaDB, running_mariadb
from tests.support.mysql import MySQL, running_mysql
from tests.support.order import begin_elsewhere, put_in_order
from tests.support.pace import factor
from tests.support.places import MariaDBPlace, Place, PostgresPlace, SqlitePlace
from tests.support.pooler import PgBouncer, running_pgbouncer
from tests.support.redis_server import RedisServer, running_redis
from tests.support.referees import LeaseReferee, RedisReferee, Referee
from tests.support.servers import Server, embedded_postgres, tls_postgres
from tests.support.warm import run

PROJECT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"

_numbers = count(1)


def fresh_name() -> str:
    """Return a database name that no other test run uses on the same server."""
    return f"test_{os.getpid()}_{next(_numbers)}"


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGTERM interrupt the run as Ctrl-C does, so that the fixtures stop their servers."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin_elsewhere(config)


def pytest_report_header() -> str:
    """Return the factor by which the limits of this run are longer than on an idle machine."""
    return f"pace: limits are scaled by {factor():g}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests so that all processes of a run end at nearly the same time."""
    put_in_order(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure in CI, where everything that a test needs is installed."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although CI=true: {report.longreprtext}"
    return report


@pytest.fixture(autouse=True)
def _settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the caller's database settings: a test that does not name its database must fail."""
    for name in list(os.environ):
        if name == "DATABASE_URL" or name.startswith("MIGRATION_"):
            monkeypatch.delenv(name)


@pytest.fixture
def ports_from_8000() -> Iterator[None]:
    """Reserve the ports that `./dev up` and the compose file publish for this test run."""
    with (Path(tempfile.gettempdir()) / "migrations-tests-8000.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Yield the server of this run: that of TEST_DATABASE_URL, else an embedded one."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield Server(given)
        return
    with embedded_postgres() as started:
        yield started


@pytest.fixture
def database_url(server: Server) -> Iterator[str]:
    """Yield the URL of an empty database for this test."""
    with server.database(fresh_name()) as url:
        yield url


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """Yield the name of a database at head, migrated once: a copy takes a tenth of a migration's time."""
    name = fresh_name()
    with server.database(name) as url:
        environment = {**os.environ, "DATABASE_URL": url, "MIGRATION_INSTANCE": "release-job"}
        done = run([sys.executable, "-m", "api.migrations", "upgrade"], cwd=PROJECT, env=environment)
        assert done.returncode == 0, f"the template could not be migrated ({done.returncode}): {done.stderr}"
        yield name


@pytest.fixture
def ledger_url(server: Server, template: str) -> Iterator[str]:
    """Yield the URL of a database at head for this test."""
    with server.database(fresh_name(), template=template) as url:
        yield url


@pytest.fixture(scope="session")
def debian_postgres() -> Iterator[Server]:
    """Yield a server that accepts TCP connections only with TLS."""
    with tls_postgres() as started:
        yield started


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """Yield the MariaDB of this run; a test that stops or freezes a server starts its own."""
    with running_mariadb() as started:
        yield started


@pytest.fixture
def mariadb_url(mariadb: MariaDB) -> Iterator[str]:
    """Yield the URL of an empty MariaDB database for this test."""
    with mariadb.database(fresh_name()) as url:
        yield url


@pytest.fixture
def mariadb_place(mariadb: MariaDB, mariadb_url: str) -> MariaDBPlace:
    """Return an empty database on MariaDB."""
    return MariaDBPlace(mariadb, mariadb_url)


@pytest.fixture(scope="session")
def mysql() -> Iterator[MySQL]:
    """Yield the MySQL of this run."""
    with running_mysql() as started:
        yield started


@pytest.fixture(params=["mariadb", "mysql"])
def each_mysql(request: pytest.FixtureRequest) -> MariaDB:
    """Return MariaDB, then MySQL."""
    server: MariaDB = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def each_mysql_place(each_mysql: MariaDB) -> Iterator[MariaDBPlace]:
    """Yield an empty database on MariaDB, then on MySQL."""
    with each_mysql.database(fresh_name()) as url:
        yield MariaDBPlace(each_mysql, url, each_mysql.kind)


@pytest.fixture
def mysql_place(mysql: MySQL) -> Iterator[MariaDBPlace]:
    """Yield an empty database on MySQL."""
    with mysql.database(fresh_name()) as url:
        yield MariaDBPlace(mysql, url, mysql.kind)


@pytest.fixture
def sqlite_place(tmp_path_factory: pytest.TempPathFactory) -> SqlitePlace:
    """Return a SQLite file that does not exist yet."""
    return SqlitePlace(tmp_path_factory.mktemp("sqlite") / "shop.db")


@pytest.fixture
def postgresql_place(database_url: str) -> PostgresPlace:
    """Return an empty database on PostgreSQL."""
    return PostgresPlace(database_url)


@pytest.fixture(params=["mariadb", "mysql", "sqlite"])
def place(request: pytest.FixtureRequest) -> Place:
    """Return an empty database on each kind but PostgreSQL."""
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found


@pytest.fixture
def pgbouncer(server: Server) -> Iterator[Callable[..., PgBouncer]]:
    """Start PgBouncers in front of `server`: `pgbouncer(pool_mode="transaction", pool_size=4)`."""
    with ExitStack() as stack:

        def start(**options: str | int) -> PgBouncer:
            pooler: AbstractContextManager[PgBouncer] = running_pgbouncer(server, **options)  # type: ignore[arg-type]
            return stack.enter_context(pooler)

        yield start


@pytest.fixture
def redis_servers() -> Iterator[Callable[..., RedisServer]]:
    """Start Redis servers: `redis_servers(requirepass="…")`, `redis_servers(replica_of=primary)`."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running_redis(**settings))


@pytest.fixture
def redis_server(redis_servers: Callable[..., RedisServer]) -> RedisServer:
    """Return a Redis that this test may kill."""
    return redis_servers()


@pytest.fixture
def redis_referee(redis_server: RedisServer) -> RedisReferee:
    """Return a Redis that elects the migrating instance."""
    return RedisReferee(redis_server)


@pytest.fixture
def kubernetes_referee(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeaseReferee]:
    """Yield a Lease API that elects the migrating instance."""
    with lease_api(tmp_path_factory.mktemp("kubernetes")) as api:
        yield LeaseReferee(api)


@pytest.fixture
def referee_and_place(request: pytest.FixtureRequest) -> tuple[Referee, Place]:
    """Return an elector's service and a database, by the parameter that names both: `redis-mariadb`."""
    referee, place = request.param.split("-")
    return request.getfixturevalue(f"{referee}_referee"), request.getfixturevalue(f"{place}_place")
