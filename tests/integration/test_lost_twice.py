"""A revision that loses its connection twice on another database than PostgreSQL, and the record of that failure."""

import asyncio
from pathlib import Path

import pytest

from api.migrations.errors import RevisionFailed
from tests.integration.sql_runs import GROUND, MARK, outcomes, run_request, session_in
from tests.support.fakes import FOREVER_SECONDS, assembled, tree
from tests.support.places import HISTORY, MariaDBPlace, Place, versions

LARGE = """
size = op.get_bind().scalar(sa.text("SELECT @@max_allowed_packet"))
op.get_bind().execute(sa.text("INSERT INTO marks VALUES (:text)"), {"text": "x" * (size + 1)})
"""


@pytest.mark.parametrize("body", ['op.execute("KILL CONNECTION_ID()")', LARGE], ids=["kill", "max_allowed_packet"])
async def test_a_revision_fails_after_it_lost_its_connection_twice(
    mariadb_place: MariaDBPlace, tmp_path: Path, body: str
) -> None:
    """A revision loses its connection twice: both attempts are rolled back, and the error names the usual cause."""
    ini = tree(tmp_path, GROUND, MARK.format("r2") + body)
    coordinator = assembled(mariadb_place.url, ini, strategy="advisory_lock").coordinator()
    with pytest.raises(RevisionFailed, match=r"revision r2, Do r2 failed: .*lost twice .*max_allowed_packet"):
        await asyncio.wait_for(coordinator.become_ready(), FOREVER_SECONDS)
    assert outcomes(mariadb_place) == [("r1", "applied"), ("r2", "interrupted"), ("r2", "failed")]
    assert mariadb_place.rows("SELECT * FROM marks") == []
    assert mariadb_place.lock_is_free()


@pytest.mark.parametrize("place", ["postgresql", "mariadb", "sqlite"], indirect=True)
@pytest.mark.parametrize(("age_seconds", "outcome"), [(60, "failed"), (-5, "interrupted")], ids=["its own", "older"])
async def test_an_attempt_that_the_next_holder_closed_is_still_failed(
    place: Place, tmp_path: Path, age_seconds: float, outcome: str
) -> None:
    """The next lock holder closed the attempt: its own process records it as failed, a later process does not."""
    ini = tree(tmp_path, GROUND, MARK.format("r2"))
    await run_request(place, ini)
    place.rows(f"UPDATE {HISTORY} SET outcome = 'interrupted' WHERE revision = 'r2'")
    session = session_in(place, ini)
    await session.open()
    await session.store.record_failure("lost twice", "r2", age_seconds, "AdminShutdownError")
    await session.close()
    newest = place.rows(f"SELECT outcome, error_class FROM {HISTORY} WHERE revision = 'r2' ORDER BY id")[0]
    assert newest == [outcome, "AdminShutdownError" if outcome == "failed" else "NULL"]
    assert versions(place) == ["r2"]
