"""A run that is out of time, while others poll for its lock as often as they can."""

import asyncio
from pathlib import Path

import pytest

from api.migrations.errors import AlreadyFailed, RevisionFailed
from tests.places import HISTORY, Place, outcomes
from tests.unit.fakes import assembled, tree

INSTANCES = 8
LONG = {
    "postgresql": "SELECT pg_sleep(60)",
    "mariadb": "SELECT SLEEP(60)",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
}
# what is done about a failure takes its time, as on a server that is far away
SLOW_RECORD = f"""
op.execute("CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS "
           "'BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END'")
op.execute("CREATE TRIGGER dawdle BEFORE UPDATE ON {HISTORY} FOR EACH ROW "
           "WHEN (NEW.outcome = 'failed') EXECUTE FUNCTION dawdle()")
"""
BUDGET = {"run_seconds": 1, "poll_seconds": 0.05}


@pytest.mark.parametrize("place", ["postgresql", "mariadb", "sqlite"], indirect=True)
async def test_nobody_repeats_it_in_turn(place: Place, tmp_path: Path) -> None:
    """The lock is free at once, but its holder's failure was recorded before: everybody learns of it, one ran."""
    before = SLOW_RECORD if place.kind == "postgresql" else "pass"
    ini = tree(tmp_path, before, f'op.execute("{LONG[place.kind]}")')
    fleet = [
        assembled(place.url, ini, f"api-{number}", strategy="advisory_lock", **BUDGET) for number in range(INSTANCES)
    ]
    ended = await asyncio.gather(*(each.coordinator().become_ready() for each in fleet), return_exceptions=True)
    told = [str(error) for error in ended if isinstance(error, AlreadyFailed)]
    [failure] = [error for error in ended if not isinstance(error, AlreadyFailed)]
    assert isinstance(failure, RevisionFailed)
    assert "MIGRATION_RUN_SECONDS=1" in str(failure)
    assert all(str(failure) in each for each in told)
    assert outcomes(place, "r2") == ["failed"]
    assert place.lock_is_free()
