"""Runs on MariaDB and SQLite without a service: one session, one order, and what another connection sees of it."""

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
    """A session, not yet open."""
    return assembled(place.url, ini, instance, strategy="advisory_lock", **settings).session()


async def run_request(place: Place, ini: Path, order: MigrationRequest = HEAD, **settings: Any) -> None:
    """One order on a session of its own."""
    session = session_in(place, ini, **settings)
    await session.open()
    try:
        assert await session.try_lock()
        await session.run(order, ProgressReporter(Tracker()))
    finally:
        await session.close()


async def failure(place: Place, ini: Path, **settings: Any) -> str:
    """The message of a run that must fail."""
    with pytest.raises(RevisionFailed) as raised:
        await run_request(place, ini, **settings)
    return str(raised.value)


async def look(place: Place, ini: Path) -> Observed:
    """What a new session sees."""
    session = session_in(place, ini)
    await session.open()
    try:
        return await session.store.observe()
    finally:
        await session.close()


def outcomes(place: Place) -> list[tuple[str, str]]:
    """The attempts, oldest first."""
    return [(row[0], row[1]) for row in place.rows(f"SELECT revision, outcome FROM {HISTORY} ORDER BY id")]
