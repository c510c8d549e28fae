"""Other lifespans (of routers, around the package's, of mounted applications) start only on the new schema."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import fresh_name
from tests.support import evidence, project
from tests.support.fleet import Instance, migrate, one_of, until_all_ready, until_one_migrates
from tests.support.servers import Server

pytestmark = pytest.mark.acceptance

READS = """
import os
from contextlib import asynccontextmanager

import asyncpg
from fastapi import APIRouter, FastAPI, Request

from api.migrations import MigrationSettings, lifespan_with_migrations


def reads(name):
    @asynccontextmanager
    async def lifespan(app):
        print(name, "starts", flush=True)
        connection = await asyncpg.connect(os.environ["DATABASE_URL"])
        rows = await connection.fetch("SELECT revision FROM marks ORDER BY 1")
        await connection.close()
        yield {name: [row[0] for row in rows]}
        print(name, "ends", flush=True)

    return lifespan
"""

ROUTERS = (
    READS
    + """
outer, inner = APIRouter(lifespan=reads("outer")), APIRouter(lifespan=reads("inner"))
outer.include_router(inner)
app = FastAPI(lifespan=lifespan_with_migrations.then(reads("then")))
app.include_router(APIRouter())
app.include_router(outer)


@app.get("/found")
def found(request: Request):
    return {name: getattr(request.state, name) for name in ("then", "outer", "inner")}
"""
)

WRAPPED = (
    READS
    + """
app = FastAPI(lifespan=lifespan_with_migrations)
within = app.router.lifespan_context


@asynccontextmanager
async def instrumented(app):
    async with within(app), reads("library")(app) as found:
        yield found


app.router.lifespan_context = instrumented


@app.get("/found")
def found(request: Request):
    return request.state.library
"""
)

MOUNTED = """
import os

from fastapi import FastAPI

from api.migrations import MigrationSettings, lifespan_with_migrations


def mounted(lifespan):
    application = FastAPI(lifespan=lifespan)
    application.add_api_route("/things", lambda: "served")
    return application


other = lifespan_with_migrations(settings=MigrationSettings.load(database_url=os.environ["OTHER_URL"]))
same, entered, never = mounted(lifespan_with_migrations), mounted(other), mounted(other)
enter = lambda _: entered.router.lifespan_context(entered)
"""

PARENT_WITH_OURS = (
    MOUNTED
    + """
app = FastAPI(lifespan=lifespan_with_migrations.then(enter))
app.mount("/same", same)
app.mount("/entered", entered)
app.mount("/never", never)
"""
)

PARENT_WITHOUT_OURS = (
    MOUNTED
    + """
app = FastAPI(lifespan=enter)
app.mount("/entered", entered)
"""
)

ORDER = ["then", "outer", "inner"]

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a module with a given text."""

    def write(text: str) -> Path:
        path = tmp_path / "served.py"
        path.write_text(text)
        return path

    return write


@pytest.fixture(params=["an empty database", "an upgrade"])
def ini(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Path:
    """Create a history that ends with `held`, all of it pending or only `held`."""
    if request.param == "an upgrade":
        (tmp_path / "before").mkdir()
        assert (
            migrate("upgrade", url=database_url, ini=project.make_history(tmp_path / "before", project.quick()))[0] == 0
        )
    return project.make_history(tmp_path, project.quick(), project.held())


def test_the_lifespans_of_routers_start_on_the_new_schema(database_url: str, ini: Path, write: Write) -> None:
    """Router lifespans start in order after the migration and end in reverse; until then only probes are answered."""
    with one_of(write(ROUTERS), database_url, ini=ini) as instance:
        until_one_migrates([instance])
        assert [instance.get(path).status_code for path in ("/health/live", "/found")] == [200, 503]
        assert "starts" not in instance.log()
        evidence.let_go(database_url)
        until_all_ready([instance])
        assert instance.get("/found").json() == {name: ["held", "quick"] for name in ORDER}
        instance.kill(signal.SIGTERM)
        assert instance.wait() == 143
        said = [line for line in instance.log().splitlines() if line.endswith((" starts", " ends"))]
    assert said == [f"{name} starts" for name in ORDER] + [f"{name} ends" for name in reversed(ORDER)]


@pytest.mark.parametrize("ini", ["an upgrade"], indirect=True)
def test_a_wrapper_of_the_lifespan_starts_on_the_new_schema(database_url: str, ini: Path, write: Write) -> None:
    """A library wraps the lifespan: the server listens only after the migration, and a warning names the wrapper."""
    with one_of(write(WRAPPED), database_url, ini=ini) as instance:
        instance.until(lambda: "held" in evidence.running(database_url), "runs the held revision")
        assert not listens(instance)
        evidence.let_go(database_url)
        until_all_ready([instance])
        assert instance.get("/found").json() == ["held", "quick"]
        (warning,) = [line for line in instance.log().splitlines() if "MIGRATION_STARTUP_MODE=block" in line]
        assert " WARNING " in warning
        assert "runs inside served.instrumented," in warning


def listens(instance: Instance) -> bool:
    """Return whether the instance's port accepts connections."""
    try:
        instance.get("/health/live")
    except httpx.TransportError:
        return False
    return True


def test_a_wrapper_of_a_failed_lifespan_never_starts(database_url: str, tmp_path: Path, write: Write) -> None:
    """A wrapped start fails: the instance exits with 3 despite MIGRATION_ON_FAILURE=hold; the wrapper never starts."""
    ini = project.make_history(tmp_path, project.failing())
    with one_of(write(WRAPPED), database_url, ini=ini, MIGRATION_ON_FAILURE="hold") as instance:
        assert instance.wait() == 3
        assert "Not ready: revision failing" in instance.log()
        assert "library starts" not in instance.log()


@pytest.fixture
def other_url(server: Server) -> Iterator[str]:
    """Yield a second empty database."""
    with server.database(fresh_name()) as url:
        yield url


def test_a_mounted_application_that_never_starts_is_refused(
    database_url: str, other_url: str, tmp_path: Path, write: Write
) -> None:
    """Of three mounted applications one never runs its lifespan: it answers 503 and is named, the others serve."""
    ini = project.make_history(tmp_path, project.quick())
    with one_of(write(PARENT_WITH_OURS), database_url, ini=ini, OTHER_URL=other_url) as instance:
        until_all_ready([instance])
        instance.until(lambda: instance.get("/entered/health/ready").status_code == 200, "entered is ready")
        answers = {path: instance.get(f"/{path}/things").status_code for path in ("same", "entered", "never")}
        assert answers == {"same": 200, "entered": 200, "never": 503}
        assert "no server runs the lifespan" in instance.get("/never/health/migrations").json()["message"]
        (error,) = [line for line in instance.log().splitlines() if " ERROR " in line]
        assert "The application mounted at /never " in error
    assert [evidence.marks(url) for url in (database_url, other_url)] == [["quick"], ["quick"]]


def test_a_mounted_application_refuses_until_it_is_migrated(other_url: str, tmp_path: Path, write: Write) -> None:
    """Only the mounted application has migrations: it answers 503 until its schema is verified, then it serves."""
    ini = project.make_history(tmp_path, project.held())
    with one_of(write(PARENT_WITHOUT_OURS), None, ini=ini, OTHER_URL=other_url) as instance:
        instance.until(lambda: "held" in evidence.running(other_url), "runs the held revision")
        assert instance.get("/entered/things").status_code == 503
        evidence.let_go(other_url)
        instance.until(lambda: instance.get("/entered/things").status_code == 200, "serves")
