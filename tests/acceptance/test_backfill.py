"""A backfill in a fleet: it is killed in the middle, continues on another instance, and blocks no writer meanwhile."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import evidence, project
from tests.support.fleet import Instance, fleet, migrate, until_all_ready, until_one_migrates
from tests.support.places import MariaDBPlace, Place, outcomes
from tests.support.project import Revision
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

ROWS, STOP_AT = 1_000, 250
CREATE = "CREATE TABLE orders (id int PRIMARY KEY, filled int, times int NOT NULL DEFAULT 0, session int)"
BARRIER = """
CREATE FUNCTION stopped(id int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    WHILE id = {stop} AND to_regclass('let_go') IS NULL LOOP PERFORM pg_sleep(0.05); END LOOP;
    RETURN id;
END $$
"""
EXPRESSIONS = {
    "postgresql": ("stopped(id)", "pg_backend_pid()"),
    "mariadb": (f"id + 0 * IF(id = {STOP_AT}, GET_LOCK('barrier', 600), 0)", "CONNECTION_ID()"),
}


@pytest.fixture(params=["postgresql", "mariadb"])
def place(request: pytest.FixtureRequest) -> Place:
    """Return an empty database on each kind."""
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found


def make_history(folder: Path, place: Place) -> Path:
    """Write a history whose last revision fills a table and stops in its third batch, until the test lets it go."""
    filled, session = EXPRESSIONS[place.kind]
    assignments = {"filled": filled, "times": "times + 1", "session": session}
    values = ", ".join(f"({id})" for id in range(1, ROWS + 1))
    ground = [CREATE, f"INSERT INTO orders (id) VALUES {values}", "ANALYZE TABLE orders"]
    if place.kind == "postgresql":
        ground[2:] = ["ANALYZE orders", BARRIER.format(stop=STOP_AT)]
    call = f'backfill("orders", key="id", set={assignments!r}, where="filled IS NULL", batch_rows=100)'
    header = "from api.migrations.backfill import backfill\n\nidempotent = True\n"
    body = "\n".join(f"op.execute({sql!r})" for sql in ground)
    return project.make_history(folder, Revision("ground", body), Revision("fill", call, header=header))


@contextmanager
def stopped_in_the_third_batch(place: Place) -> Iterator[None]:
    """Let the third batch stop in its UPDATE while the block runs, and continue after it."""
    if isinstance(place, MariaDBPlace):
        with place.server.holding("DO GET_LOCK('barrier', 0)", database=place.database):
            yield
    else:
        yield
        evidence.let_go(place.url)


def progress(instance: Instance) -> tuple[str | None, int | None, int | None]:
    """Return the phase, the rows and the total of the statement that the instance shows."""
    statement = instance.health().get("progress", {}).get("statement") or {}
    return statement.get("phase"), statement.get("rows"), statement.get("total_rows")


def filled(place: Place) -> int:
    """Return how many rows are filled and committed."""
    return int(place.rows("SELECT count(filled) FROM orders")[0][0]) if place.has("orders") else 0


def test_a_killed_backfill_is_continued(place: Place, tmp_path: Path) -> None:
    """SIGKILL in the third batch: another instance continues, every row is filled once, and writers never wait."""
    ini = make_history(tmp_path, place)
    with fleet(3, place.url, ini=ini, MIGRATION_POLL_SECONDS="0.3") as instances:
        with stopped_in_the_third_batch(place):
            wait_until(lambda: filled(place) == 200, "two batches", seconds=60)
            first = until_one_migrates(instances)
            others = [instance for instance in instances if instance is not first]
            shown = ("backfill of orders", 200, ROWS)
            wait_until(lambda: progress(first) == shown, "its progress", seconds=60)
            wait_until(lambda: progress(others[0])[0] == shown[0], "what a waiter shows", seconds=60)
            assert "backfill of orders" in migrate("status", url=place.url, ini=ini)[1]
            place.rows(f"UPDATE orders SET session = 0 WHERE id IN (1, {ROWS})")
            first.kill(signal.SIGKILL)
            first.wait()
            assert not any(instance.ready() for instance in others)
        until_all_ready(others)
    assert outcomes(place, "fill") == ["interrupted", "applied"]
    assert filled(place) == ROWS
    assert place.rows("SELECT min(times), max(times) FROM orders") == [["1", "1"]]
    sessions = place.rows("SELECT session, count(*) FROM orders WHERE id > 1 GROUP BY session ORDER BY min(id)")
    assert [count for _, count in sessions] in (["199", str(ROWS - 200)], ["299", str(ROWS - 300)])
