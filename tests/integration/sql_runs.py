"""Runs on MariaDB, MySQL and SQLite without a service: one session, one request, and the result on a new connection."""

from pathlib import Path
from typing import Any

import pytest

from api.migrations.core.protocols import MigrationRequest, OperatorSession
from api.migrations.core.reporter import ProgressReporter
from api.migrations.core.schema import Observed
from api.migrations.core.status import Tracker
from api.migrations.errors import RevisionFailed
from tests.support.fakes import assembled
from tests.support.places import HISTORY, Place

HEAD = MigrationRequest("upgrade", "head")
GROUND = 'op.execute("CREATE TABLE marks (revision varchar(40))")'
MARK = "op.execute(\"INSERT INTO marks VALUES ('{}')\")\n"


def session_in(place: Place, ini: Path, instance: str = "one", **settings: Any) -> OperatorSession:
    """Return a session that is not open yet."""
    return assembled(place.url, ini, instance, strategy="advisory_lock", **settings).session()


async def run_request(place: Place, ini: Path, order: MigrationRequest = HEAD, **settings: Any) -> None:
    """Run one request on a session of its own."""
    session = session_in(place, ini, **settings)
    await session.open()
    try:
        assert await session.try_lock()
        await session.run(order, ProgressReporter(Tracker()))
    finally:
        await session.close()


async def failure(place: Place, ini: Path, **settings: Any) -> str:
    """Run the history, assert that a revision fails, and return the message."""
    with pytest.raises(RevisionFailed) as raised:
        await run_request(place, ini, **settings)
    return str(raised.value)


async def observe(place: Place, ini: Path) -> Observed:
    """Return what a new session reads from the database."""
    session = session_in(place, ini)
    await session.open()
    try:
        return await session.store.observe()
    finally:
        await session.close()


def outcomes(place: Place) -> list[tuple[str, str]]:
    """Return revision and outcome of each attempt, oldest first."""
    return [(row[0], row[1]) for row in place.rows(f"SELECT revision, outcome FROM {HISTORY} ORDER BY id")]
