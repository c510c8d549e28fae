"""What an operator is told where the election, and not the database, keeps the others waiting."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import pytest

from api.migrations.assembly import Assembly
from api.migrations.cli import commands
from api.migrations.cli.results import StatusReport
from api.migrations.settings import MigrationSettings
from tests.support.fakes import tree
from tests.support.places import PostgresPlace, SqlitePlace
from tests.support.redis_server import RedisServer

UNLOCK = Namespace(force=False)


@pytest.fixture(params=["postgresql", "sqlite"])
def assembly(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> Assembly:
    """Of an instance that is elected by Redis."""
    place: PostgresPlace | SqlitePlace = request.getfixturevalue(f"{request.param}_place")
    if isinstance(place, SqlitePlace):
        place.need_volume()
        place.path.touch()
    values = {"database_url": place.url, "alembic_config": str(tree(tmp_path, "pass")), "instance": "one"}
    return Assembly.build(MigrationSettings.load(strategy="redis", redis_url=redis_server.url, **values))


async def elected_in(assembly: Assembly) -> Mapping[str, str] | None:
    """Who is elected, as `status` reports it."""
    report = await commands.status(assembly, Namespace())
    assert isinstance(report, StatusReport)
    return report.elected


async def test_unlock_names_who_is_elected(assembly: Assembly) -> None:
    """A dead leader's hold in Redis is no lock in the database, and ends by itself: it says when."""
    assert assembly.elector is not None
    elector = assembly.elector()
    assert await elector.try_acquire()
    message = (await commands.unlock(assembly, UNLOCK)).message
    assert "no session holds the database's lock, but one is elected" in message
    assert "within 30 s" in message
    await elector.confirm()
    await elector.release()
    assert (await commands.unlock(assembly, UNLOCK)).message == "no session holds the lock, so there is nothing to do"


async def test_unlock_does_without_redis(assembly: Assembly, redis_server: RedisServer) -> None:
    """What cannot be asked is no reason to fail."""
    redis_server.kill()
    assert (await commands.unlock(assembly, UNLOCK)).message == "no session holds the lock, so there is nothing to do"


async def test_status_names_who_is_elected(assembly: Assembly, redis_server: RedisServer) -> None:
    """With what it holds; without an answer it says nothing of it, and does not fail."""
    assert assembly.elector is not None
    elector = assembly.elector()
    assert await elector.try_acquire()
    elected = await elected_in(assembly)
    assert elected is not None
    assert elected["leader"] == "one"
    assert elected["hold"].startswith("key fastapi-migrations:")
    await elector.release()
    assert await elected_in(assembly) is None
    redis_server.kill()
    assert await elected_in(assembly) is None
