"""Fixtures every test can ask for: a real PostgreSQL, databases on it, and the other servers a test may need."""

import fcntl
import os
import signal
import subprocess
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
from tests.support.pace import factor
from tests.support.places import MariaDBPlace, Place, PostgresPlace, SqlitePlace
from tests.support.pooler import PgBouncer, running_pgbouncer
from tests.support.redis_server import RedisServer, running_redis
from tests.support.referees import LeaseReferee, RedisReferee, Referee
from tests.support.servers import Server, embedded_postgres, tls_postgres
from tests.support.waiting import FOREVER_SECONDS

PROJECT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"

_numbers = count(1)


def fresh_name() -> str:
    """A database name no other test run on the same server uses."""
    return f"test_{os.getpid()}_{next(_numbers)}"


def pytest_configure() -> None:
    """End on SIGTERM as on Ctrl-C, with the fixtures torn down, so that no server outlives its run."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_report_header() -> str:
    """Say by how much the limits of this run are longer than on an idle machine."""
    return f"pace: limits are scaled by {factor():g}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put one of the two files that need `ports_from_8000` behind the other acceptance tests: it would only wait."""
    late = [item for item in items if item.path.name == "test_dev_up.py"]
    others = [item for item in items if item not in late]
    end = next((n for n, item in enumerate(others) if item.path.parent.name != "acceptance"), len(others))
    items[:] = [*others[:end], *late, *others[end:]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI everything is installed, so a skip means that something went missing: fail instead."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although CI=true: {report.longreprtext}"
    return report


@pytest.fixture(autouse=True)
def _settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the caller's database settings: a test names its database, or it must fail."""
    for name in list(os.environ):
        if name == "DATABASE_URL" or name.startswith("MIGRATION_"):
            monkeypatch.delenv(name)


@pytest.fixture
def ports_from_8000() -> Iterator[None]:
    """The ports that `./dev up` and the compose file publish, which others on this machine leave alone meanwhile."""
    with (Path(tempfile.gettempdir()) / "migrations-tests-8000.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server of this run: the one TEST_DATABASE_URL names, else an embedded one."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield Server(given)
        return
    with embedded_postgres() as started:
        yield started


@pytest.fixture
def database_url(server: Server) -> Iterator[str]:
    """An empty database of the test's own."""
    with server.database(fresh_name()) as url:
        yield url


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """The name of a database at head, made once: copying it takes a tenth of migrating."""
    name = fresh_name()
    with server.database(name) as url:
        command = [sys.executable, "-m", "api.migrations", "upgrade"]
        environment = {**os.environ, "DATABASE_URL": url, "MIGRATION_INSTANCE": "release-job"}
        done = subprocess.run(
            command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=FOREVER_SECONDS
        )
        assert done.returncode == 0, f"the template could not be migrated ({done.returncode}): {done.stderr}"
        yield name


@pytest.fixture
def ledger_url(server: Server, template: str) -> Iterator[str]:
    """A database at head of the test's own."""
    with server.database(fresh_name(), template=template) as url:
        yield url


@pytest.fixture(scope="session")
def debian_postgres() -> Iterator[Server]:
    """A server that speaks TLS, and nothing but TLS, on its port."""
    with tls_postgres() as started:
        yield started


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """The MariaDB of this run; a test that stops or freezes a server starts one of its own."""
    with running_mariadb() as started:
        yield started


@pytest.fixture
def mariadb_url(mariadb: MariaDB) -> Iterator[str]:
    """An empty database of the test's own on MariaDB."""
    with mariadb.database(fresh_name()) as url:
        yield url


@pytest.fixture
def mariadb_place(mariadb: MariaDB, mariadb_url: str) -> MariaDBPlace:
    """An empty database on MariaDB."""
    return MariaDBPlace(mariadb, mariadb_url)


@pytest.fixture(scope="session")
def mysql() -> Iterator[MySQL]:
    """The MySQL of this run."""
    with running_mysql() as started:
        yield started


@pytest.fixture(params=["mariadb", "mysql"])
def each_mysql(request: pytest.FixtureRequest) -> MariaDB:
    """MariaDB, then MySQL."""
    server: MariaDB = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def each_mysql_place(each_mysql: MariaDB) -> Iterator[MariaDBPlace]:
    """An empty database on MariaDB, then on MySQL."""
    with each_mysql.database(fresh_name()) as url:
        yield MariaDBPlace(each_mysql, url, each_mysql.kind)


@pytest.fixture
def mysql_place(mysql: MySQL) -> Iterator[MariaDBPlace]:
    """An empty database on MySQL."""
    with mysql.database(fresh_name()) as url:
        yield MariaDBPlace(mysql, url, mysql.kind)


@pytest.fixture
def sqlite_place(tmp_path_factory: pytest.TempPathFactory) -> SqlitePlace:
    """A SQLite file that is not there yet."""
    return SqlitePlace(tmp_path_factory.mktemp("sqlite") / "shop.db")


@pytest.fixture
def postgresql_place(database_url: str) -> PostgresPlace:
    """An empty database on PostgreSQL."""
    return PostgresPlace(database_url)


@pytest.fixture(params=["mariadb", "mysql", "sqlite"])
def place(request: pytest.FixtureRequest) -> Place:
    """An empty database, on each that is not PostgreSQL."""
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
    """A Redis of the test's own, that it may kill."""
    return redis_servers()


@pytest.fixture
def redis_referee(redis_server: RedisServer) -> RedisReferee:
    """A Redis that says who may try to migrate."""
    return RedisReferee(redis_server)


@pytest.fixture
def kubernetes_referee(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeaseReferee]:
    """An API of Leases that says who may try to migrate."""
    with lease_api(tmp_path_factory.mktemp("kubernetes")) as api:
        yield LeaseReferee(api)


@pytest.fixture
def referee_and_place(request: pytest.FixtureRequest) -> tuple[Referee, Place]:
    """What elects and a database, by the parameter that names both: `redis-mariadb`."""
    referee, place = request.param.split("-")
    return request.getfixturevalue(f"{referee}_referee"), request.getfixturevalue(f"{place}_place")
