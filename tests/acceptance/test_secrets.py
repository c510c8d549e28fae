"""The database's URL comes from a container's secret, and its password from a function, anew for each connection."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.shop import adopted, python, shops
from tests.conftest import fresh_name
from tests.support import evidence
from tests.support.fleet import until_all_ready, until_one_migrates, until_phase
from tests.support.servers import Server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

PASSWORDS = ("first-geh3im", "second-geh3im")

MAIN = """\
from pathlib import Path

from fastapi import FastAPI

from shop.db_migrations import lifespan_with_migrations
from shop.db_migrations.settings import MigrationSettings


{kind} token() -> str:
    return Path("token").read_text()


app = FastAPI(lifespan=lifespan_with_migrations(settings=MigrationSettings.load(fetch_password=token)))
"""


@pytest.fixture
def owner(server: Server, database_url: str) -> Iterator[str]:
    """Yield a role that owns the database and logs in with the first password."""
    role = fresh_name()
    server.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORDS[0]}'")
    name = database_url.rpartition("/")[2]
    server.execute(f"ALTER DATABASE {name} OWNER TO {role}")
    yield role
    server.execute(f"ALTER DATABASE {name} OWNER TO postgres")
    server.execute(f"DROP OWNED BY {role}", database=name)
    server.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize(("kind", "driver"), [("async def", "asyncpg"), ("def", "psycopg")])
def test_each_connection_gets_the_password_of_its_time(
    server: Server, database_url: str, owner: str, tmp_path: Path, kind: str, driver: str
) -> None:
    """The password changes while one of two instances migrates: both get ready by new connections, and log none."""
    project, secret = adopted(tmp_path, "run_env"), tmp_path / "secret"
    (project / "shop" / "main.py").write_text(MAIN.format(kind=kind))
    url = server.url(database_url.rpartition("/")[2], user=owner, password="expired")
    secret.write_text(url.replace("postgresql://", f"postgresql+{driver}://") + "\n")
    (project / "token").write_text(PASSWORDS[0])
    with shops(2, None, project, DATABASE_URL_FILE=str(secret)) as both:
        holder = until_one_migrates(both)
        until_phase([shop for shop in both if shop is not holder], "waiting")
        wait_until(lambda: evidence.executing(database_url, "pg_sleep"), "the second revision runs")
        server.execute(f"ALTER ROLE {owner} PASSWORD '{PASSWORDS[1]}'")
        (project / "token").write_text(PASSWORDS[1])
        evidence.let_go(database_url)
        until_all_ready(both)
        shown = "".join(shop.log() for shop in both)
    assert [word for word in (*PASSWORDS, "expired") if word in shown] == []
    assert evidence.applied(database_url) == ["first", "second"]


CLOUD = """\
from pathlib import Path


def token() -> str:
    return Path("token").read_text()
"""


@pytest.mark.parametrize("command", [("shop.db_migrations", "upgrade"), ("alembic", "upgrade", "head")])
def test_a_command_gets_the_password_from_a_function(
    server: Server, database_url: str, owner: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The setting names a function: `upgrade` and a typed `alembic` log in with the password that it returns."""
    project = adopted(tmp_path, "run_env")
    (project / "shop" / "cloud.py").write_text(CLOUD)
    (project / "token").write_text(PASSWORDS[0])
    evidence.let_go(database_url)
    url = server.url(database_url.rpartition("/")[2], user=owner, password="expired")
    done = python(project, "-m", *command, url=url, MIGRATION_FETCH_PASSWORD="shop.cloud:token")
    assert done.returncode == 0, done.stderr
    assert evidence.applied(database_url) == ["first", "second"]


def test_a_function_that_cannot_be_imported_is_refused_before_the_database_is_contacted(tmp_path: Path) -> None:
    """No server listens at the URL: the command exits with 2 and names the setting."""
    project = adopted(tmp_path, "run_env")
    values = {"url": "postgresql://somebody@127.0.0.1:1/d", "MIGRATION_FETCH_PASSWORD": "shop.cloud:token"}
    done = python(project, "-m", "shop.db_migrations", "check", **values)
    message = "ConfigurationError: MIGRATION_FETCH_PASSWORD='shop.cloud:token' cannot be used: ModuleNotFoundError"
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_a_command_names_the_server_that_does_not_answer(tmp_path: Path) -> None:
    """The URL in the file leads to a closed port: the command names host and port, and neither user nor password."""
    project, secret = adopted(tmp_path, "run_env"), tmp_path / "secret"
    secret.write_text("postgresql://somebody:geh3im@127.0.0.1:1/d")
    done = python(project, "-m", "shop.db_migrations", "check", DATABASE_URL_FILE=str(secret))
    message = "DatabaseUnreachable: no connection while connecting to 127.0.0.1:1: Connection refused"
    assert (done.returncode, message in done.stderr + done.stdout) == (5, True), done.stderr
    assert [word for word in ("somebody", "geh3im") if word in done.stderr + done.stdout] == []
