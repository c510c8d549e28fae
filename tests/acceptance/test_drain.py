"""A deploy stops an instance: it is unready at once, serves until balancers have noticed, finishes, and ends."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM

import httpx
import pytest

from tests.support.fleet import Instance, one_of, until_all_ready
from tests.support.project import PLAIN

pytestmark = pytest.mark.acceptance

SERVED = """
import asyncio
from pathlib import Path

from fastapi import FastAPI

from api.migrations import lifespan_with_migrations

app = FastAPI(lifespan=lifespan_with_migrations)
here = Path(__file__).parent


@app.get("/quick")
async def quick():
    return "quick"


@app.get("/held")
async def held():
    (here / "reached").touch()
    while not (here / "let_go").exists():
        await asyncio.sleep(0.05)
    return "held"
"""


@contextmanager
def serving(folder: Path, drain_seconds: float) -> Iterator[tuple[Instance, Future[httpx.Response]]]:
    """Start an instance and send a request that lasts until the file `let_go` exists."""
    (folder / "served.py").write_text(SERVED)
    settings = {"MIGRATION_STRATEGY": "off", "MIGRATION_DRAIN_SECONDS": f"{drain_seconds}"}
    with (
        one_of(folder / "served.py", None, ini=PLAIN, **settings) as instance,
        ThreadPoolExecutor(1) as client,
    ):
        until_all_ready([instance])
        held = client.submit(instance.get, "/held")
        instance.until((folder / "reached").exists, "executes the request")
        yield instance, held


def refused(instance: Instance) -> bool:
    """Return whether the instance's port is closed."""
    try:
        instance.get("/health/live")
    except httpx.ConnectError:
        return True
    return False


def test_a_stopped_instance_is_unready_and_serves(tmp_path: Path) -> None:
    """SIGTERM: readiness fails at once while requests are served and end their connections; a second one ends it.

    The request in flight is answered although the port is closed, and the exit code is the server's own.
    """
    with serving(tmp_path, 3600) as (instance, held):
        assert "connection" not in instance.get("/quick").headers
        instance.kill(SIGTERM)
        instance.until(lambda: instance.phase() == "draining", "drains")
        paths = ("/health/live", "/health/ready", "/health/migrations", "/quick")
        answers = [instance.get(path) for path in paths]
        assert [answer.status_code for answer in answers] == [200, 503, 503, 200]
        assert {answer.headers["Connection"] for answer in answers} == {"close"}
        assert answers[1].headers["Retry-After"].isdecimal()
        assert 'migration_phase{phase="draining"} 1.0' in instance.get("/metrics").text
        assert "Stopping, not ready any more" in instance.get("/health/migrations", accept="text/html").text
        instance.kill(SIGTERM)
        instance.until(lambda: refused(instance), "closes its port")
        assert not held.done()
        (tmp_path / "let_go").touch()
        assert held.result().json() == "held"
        assert instance.wait() == 143


def test_the_server_shuts_down_after_the_drain(tmp_path: Path) -> None:
    """The drain ends: the server closes its port, finishes the request in flight and ends."""
    with serving(tmp_path, 0.2) as (instance, held):
        instance.kill(SIGTERM)
        instance.until(lambda: refused(instance), "closes its port")
        assert "serves for 0.2 s and then shuts down" in instance.log()
        (tmp_path / "let_go").touch()
        assert held.result().json() == "held"
        assert instance.wait() == 143


def test_ctrl_c_does_not_wait_for_the_drain(tmp_path: Path) -> None:
    """SIGINT reaches an instance that drains: it shuts down at once."""
    with serving(tmp_path, 3600) as (instance, held):
        instance.kill(SIGTERM)
        instance.until(lambda: instance.phase() == "draining", "drains")
        instance.kill(SIGINT)
        instance.until(lambda: refused(instance), "closes its port")
        (tmp_path / "let_go").touch()
        assert held.result().json() == "held"
        assert instance.wait() == 0
