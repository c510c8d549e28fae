"""`backfill()` on real servers: each row is filled once, in batches, and an interrupted backfill continues."""

from pathlib import Path
from typing import Any

import pytest

from api.migrations.core.protocols import MigrationRequest
from tests.integration.sql_runs import failure, outcomes, run_request
from tests.support.fakes import revision, tree
from tests.support.places import Place, PostgresPlace

IDEMPOTENT = "from api.migrations.backfill import backfill\n\nidempotent = True"
TABLE = 'op.execute("CREATE TABLE \\"Order\\" (id bigint PRIMARY KEY, a int, filled int DEFAULT 0)")'


def history(folder: Path, ground: str, call: str, extra: str = IDEMPOTENT) -> Path:
    """Write a history of two revisions: the first executes `ground`, the second calls `backfill`."""
    ini = tree(folder, ground)
    revision(folder, "r2", call, after="r1", extra=extra)
    return ini


@pytest.fixture(params=["postgresql", "mariadb", "mysql", "sqlite"])
def anywhere(request: pytest.FixtureRequest) -> Place:
    """Return an empty database on each kind."""
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found


GROUND = """
op.execute("CREATE TABLE orders (shop int, number int, a int, filled int, counted int, PRIMARY KEY (shop, number))")
rows = [(shop, number) for shop in range(3) for number in range(70)]
for shop, number in rows:
    op.execute(f"INSERT INTO orders VALUES ({shop}, {number}, {number}, NULL, 0)")
"""
FILL = """
backfill(
    "orders", key=("shop", "number"), set={"filled": "a * 2", "counted": "counted + 1"}, where="filled IS NULL",
    batch_rows=20,
)
"""


async def test_each_row_is_filled_once(anywhere: Place, tmp_path: Path) -> None:
    """A backfill along a key of two columns fills every row once, on each kind of database."""
    ini = history(tmp_path, GROUND, FILL)
    await run_request(anywhere, ini)
    rows = anywhere.rows("SELECT count(*), sum(filled), sum(counted), max(counted) FROM orders")
    assert [tuple(map(int, row)) for row in rows] == [(210, 3 * 69 * 70, 210, 1)]
    assert outcomes(anywhere) == [("r1", "applied"), ("r2", "applied")]
