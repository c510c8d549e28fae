"""`unlock` and `status` while Redis, and not the database's lock, keeps the other instances waiting."""

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
    """Return the assembly of an instance that Redis elects."""
    place: PostgresPlace | SqlitePlace = request.getfixturevalue(f"{request.param}_place")
    if isinstance(place, SqlitePlace):
        place.need_volume()
        place.path.touch()
    values = {"database_url": place.url, "alembic_config": str(tree(tmp_path, "pass")), "instance": "one"}
    return Assembly.build(MigrationSettings.load(strategy="redis", redis_url=redis_server.url, **values))


async def elected_in(assembly: Assembly) -> Mapping[str, str] | None:
    """Return the leader that `status` reports."""
    report = await commands.status(assembly, Namespace())
    assert isinstance(report, StatusReport)
    return report.elected


async def test_unlock_names_the_elected_leader(assembly: Assembly) -> None:
    """A leader holds its key but no lock: `unlock` frees nothing and says when the leader's hold expires."""
    assert assembly.elector is not None
    elector = assembly.elector()
    assert await elector.try_acquire()
    message = (await commands.unlock(assembly, UNLOCK)).message
    assert "no session holds the database's lock, but one is elected" in message
    assert "within 30 s" in message
    await elector.confirm()
    await elector.release()
    assert (await commands.unlock(assembly, UNLOCK)).message == "no session holds the lock, so there is nothing to do"


async def test_unlock_works_without_redis(assembly: Assembly, redis_server: RedisServer) -> None:
    """Redis is down: `unlock` still reports that no session holds the lock."""
    redis_server.kill()
    assert (await commands.unlock(assembly, UNLOCK)).message == "no session holds the lock, so there is nothing to do"


async def test_status_names_the_elected_leader(assembly: Assembly, redis_server: RedisServer) -> None:
    """`status` names the leader and its key; if Redis is down, `status` leaves the leader out and succeeds."""
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
