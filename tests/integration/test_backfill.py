"""`backfill()` on real servers: each row is filled once, in batches, and an interrupted backfill continues."""

import asyncio
from pathlib import Path

import pytest

from api.migrations.core.schema import RUNS_AGAIN
from api.migrations.errors import RevisionFailed
from tests.integration.sql_runs import failure, outcomes, run_request
from tests.integration.test_observer import BlockerReporter, migrating
from tests.support.fakes import FOREVER_SECONDS, assembled, in_the_way, revision, tree
from tests.support.pace import scaled
from tests.support.places import Place, PostgresPlace, SqlitePlace
from tests.support.servers import fetch

HEADER = "from api.migrations.backfill import backfill\n\n"
IDEMPOTENT = f"{HEADER}idempotent = True"
GROUND = """
op.execute(
    "CREATE TABLE orders (shop int, number int, a int, filled int, counted int, PRIMARY KEY (shop, number),"
    " CONSTRAINT c CHECK (filled <> 60))"
)
rows = [(shop, number) for shop in range(1, 4) for number in range(70)]
op.execute("INSERT INTO orders VALUES " + ", ".join(f"({shop}, {number}, {number}, NULL, 0)" for shop, number in rows))
"""
FILL = """
backfill(
    "orders", key=("shop", "number"), set={{"filled": "{filled}", "counted": "counted + 1"}}, where="filled IS NULL",
    batch_rows=20,
)
"""


def history(folder: Path, filled: str = "a * 4 + 1", extra: str = IDEMPOTENT) -> Path:
    """Write a history of two revisions: the first creates a table of 210 rows, the second fills it."""
    ini = tree(folder, GROUND)
    revision(folder, "r2", FILL.format(filled=filled), after="r1", extra=extra)
    return ini


def counted(place: Place) -> list[int]:
    """Return the number of rows, of those that are filled, and of those that were filled more than once."""
    [row] = place.rows("SELECT count(*), count(filled), sum(counted), max(counted) FROM orders")
    return [int(value) for value in row]


@pytest.fixture(params=["postgresql", "mariadb", "mysql"])
def server_place(request: pytest.FixtureRequest) -> Place:
    """Return an empty database on each kind on which batches are committed."""
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found


async def test_each_row_is_filled_once(server_place: Place, tmp_path: Path) -> None:
    """A batch in the middle fails: those before it stay committed, and the next run fills only the other rows."""
    ini = history(tmp_path, "CASE WHEN shop = 2 AND number = 50 THEN 60 ELSE a * 4 + 1 END")
    assert "failed after it had committed a part of its work" in await failure(server_place, ini)
    rows, filled, *times = counted(server_place)
    assert (rows, times) == (210, [filled, 1])
    assert 100 <= filled < 121
    await run_request(server_place, history(tmp_path))
    assert counted(server_place) == [210, 210, 210, 1]
    assert outcomes(server_place) == [("r1", "applied"), ("r2", "interrupted"), ("r2", "applied")]


async def test_sqlite_fills_in_one_transaction(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """On SQLite all batches are in the revision's transaction, so a failure rolls all of them back."""
    ini = history(tmp_path, "CASE WHEN shop = 2 AND number = 50 THEN 60 ELSE a * 4 + 1 END", HEADER)
    assert "failed and was rolled back" in await failure(sqlite_place, ini)
    assert counted(sqlite_place) == [210, 0, 0, 0]
    await run_request(sqlite_place, history(tmp_path, extra=HEADER))
    assert counted(sqlite_place) == [210, 210, 210, 1]


async def test_a_revision_that_may_not_run_again_is_refused(postgresql_place: PostgresPlace, tmp_path: Path) -> None:
    """A revision without `idempotent = True` fails before its first batch, with the remedy."""
    message = await failure(postgresql_place, history(tmp_path, extra=HEADER))
    assert "failed and was rolled back" in message
    assert "To fix: add idempotent = True to its file" in message
    assert counted(postgresql_place)[1] == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ('"orders", key=(), set={"filled": "1"}, where="filled IS NULL"', "needs key"),
        ('"orders", key="shop", set={}, where="filled IS NULL"', "needs set"),
        ('"orders", key="shop", set={"filled": "1"}, where=" "', "needs where"),
        ('"orders", key=("shop", "number"), set={"shop": "1"}, where="shop = 2"', "cannot set shop of its own key"),
        ('"order", key="id", set={"filled": "1"}, where="filled IS NULL"', "table order does not exist"),
        ('"orders", key=("shop", "number"), set={"fill": "1"}, where="filled IS NULL"', "has no column fill; it has"),
        ('"orders", key="number", set={"filled": "1"}, where="filled IS NULL"', "its primary key (shop, number)"),
    ],
    ids=[
        "no key",
        "no column",
        "no condition",
        "a changed key",
        "an unknown table",
        "an unknown column",
        "a key that is not unique",
    ],
)
async def test_wrong_arguments_are_refused(sqlite_place: SqlitePlace, tmp_path: Path, call: str, words: str) -> None:
    """A backfill with wrong arguments fails before it changes a row, and the message says which one is wrong."""
    ini = tree(tmp_path, GROUND)
    revision(tmp_path, "r2", f"backfill({call})", after="r1", extra=IDEMPOTENT)
    assert words in await failure(sqlite_place, ini)
    assert counted(sqlite_place)[1] == 0


async def test_a_batch_waits_for_a_row_of_another_session(postgresql_place: PostgresPlace, tmp_path: Path) -> None:
    """Another session holds a row: only its batch is retried, the session is named, and the others stay committed."""
    url, heard = postgresql_place.url, BlockerReporter()
    ini = history(tmp_path)
    await run_request(postgresql_place, tree(tmp_path / "ground", GROUND))
    one_row = "UPDATE orders SET a = 0 WHERE shop = 2 AND number = 50"
    async with in_the_way(url, one_row, "lunch") as lunch, migrating(url, ini, heard, at="r2"):
        while not heard.blockers:
            await asyncio.wait_for(heard.attempts.get(), FOREVER_SECONDS)
        assert 100 <= (await fetch(url, "SELECT count(filled) FROM orders"))[0][0] < 121
        await lunch.execute("ROLLBACK")
    assert {blocker.application for blocker in heard.blockers} == {"lunch"}
    assert counted(postgresql_place) == [210, 210, 210, 1]
    assert outcomes(postgresql_place)[-1] == ("r2", "applied")


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "psycopg2"])
async def test_the_time_limit_ends_the_run_between_two_batches(database_url: str, tmp_path: Path, driver: str) -> None:
    """MIGRATION_RUN_SECONDS passes: the batches so far stay committed on each driver, and the message says so."""
    many = f"{GROUND}\nop.execute('INSERT INTO orders SELECT 9, g, g, NULL, 0 FROM generate_series(1, 30000) g')"
    ini = tree(tmp_path, many)
    revision(tmp_path, "r2", FILL.format(filled="1").replace("=20", "=1"), after="r1", extra=IDEMPOTENT)
    url = database_url.replace("postgresql://", f"postgresql+{driver}://")
    with pytest.raises(RevisionFailed) as raised:
        await assembled(url, ini, run_seconds=scaled(2), wait_seconds=60).coordinator().become_ready()
    assert "revision r2 was cancelled after it had committed a part of its work" in str(raised.value)
    assert str(raised.value).endswith(RUNS_AGAIN)
    rows, filled, *times = counted(PostgresPlace(database_url))
    assert 0 < filled < rows
    assert times == [filled, 1]
