"""A revision that ends the transaction it was given: work that it rolled back must not count as applied."""

from pathlib import Path

import pytest

from tests.integration.sql_runs import failure, outcomes, run_request
from tests.support.fakes import tree
from tests.support.places import Place, versions

EACH = pytest.mark.parametrize("place", ["postgresql", "mariadb", "sqlite"], indirect=True)
TABLE = 'op.execute("CREATE TABLE t (a int PRIMARY KEY)")'
SESSION = """
from sqlalchemy.orm import Session
session = Session(bind=op.get_bind(){options})
try:
    session.execute(sa.text("{first}"))
    session.execute(sa.text("SELECT * FROM nowhere"))
except Exception:
    session.rollback()
op.execute("INSERT INTO t VALUES (2)")
"""
INSERT = "INSERT INTO t VALUES (1)"
ON_THE_BIND = f'op.execute("{INSERT}")\nop.get_bind().rollback()'
AFTER_A_BLOCK = f"""
with op.get_context().autocommit_block():
    op.execute("{INSERT}")
op.execute("INSERT INTO t VALUES (2)")
op.get_bind().rollback()
"""
PAST_SQLALCHEMY = f'op.execute("{INSERT}")\nop.get_bind().connection.cursor().execute("{{}}")\nop.execute("SELECT 1")'
BLOCK_AT_THE_END = f"""
op.execute("{INSERT}")
with op.get_context().autocommit_block():
    op.execute("INSERT INTO t VALUES (2)")
"""


def rows(place: Place) -> list[str]:
    """Return the rows of the table."""
    return [row[0] for row in place.rows("SELECT a FROM t ORDER BY a")]


@EACH
@pytest.mark.parametrize("body", [SESSION.format(options="", first=INSERT), ON_THE_BIND], ids=["session", "bind"])
async def test_a_swallowed_rollback_fails_the_revision(place: Place, tmp_path: Path, body: str) -> None:
    """A revision rolls back its transaction and continues: it fails by name with the remedy, and no row is left."""
    message = await failure(place, tree(tmp_path, TABLE, body))
    assert "revision r2, Do r2 failed and was rolled back" in message
    assert "rolled back its own transaction" in message
    assert "To fix: roll back to a savepoint, with op.get_bind().begin_nested()" in message
    assert outcomes(place) == [("r1", "applied"), ("r2", "failed")]
    assert (rows(place), versions(place)) == ([], ["r1"])


@EACH
async def test_a_rollback_after_an_autocommit_block_is_half_applied(place: Place, tmp_path: Path) -> None:
    """A revision rolls back after an autocommit_block: the block's rows stay and it is half applied."""
    message = await failure(place, tree(tmp_path, TABLE, AFTER_A_BLOCK))
    assert "failed after it had committed a part of its work" in message
    assert outcomes(place) == [("r1", "applied"), ("r2", "half_applied")]
    assert (rows(place), versions(place)) == (["1"], ["r1"])


@pytest.mark.parametrize("place", ["postgresql", "sqlite"], indirect=True)
@pytest.mark.parametrize(("word", "left"), [("COMMIT", ["1"]), ("ROLLBACK", [])])
async def test_a_transaction_ended_on_the_driver_is_half_applied(
    place: Place, tmp_path: Path, word: str, left: list[str]
) -> None:
    """A revision ends its transaction on the driver's connection: it is half applied and no version is written."""
    message = await failure(place, tree(tmp_path, TABLE, PAST_SQLALCHEMY.format(word)))
    assert "ended its own transaction on the driver's connection" in message
    assert outcomes(place) == [("r1", "applied"), ("r2", "half_applied")]
    assert (rows(place), versions(place)) == (left, ["r1"])


@EACH
@pytest.mark.parametrize(
    ("body", "there"),
    [
        (SESSION.format(options="", first="SELECT 1"), ["2"]),
        (SESSION.format(options=", join_transaction_mode='create_savepoint'", first=INSERT), ["2"]),
        (BLOCK_AT_THE_END, ["1", "2"]),
    ],
    ids=["nothing was written", "savepoint", "block at the end"],
)
async def test_a_revision_that_loses_no_work_is_applied(
    place: Place, tmp_path: Path, body: str, there: list[str]
) -> None:
    """A revision rolls back only reads or a savepoint, or ends with an autocommit_block: it is applied."""
    await run_request(place, tree(tmp_path, TABLE, body))
    assert outcomes(place) == [("r1", "applied"), ("r2", "applied")]
    assert (rows(place), versions(place)) == (there, ["r2"])
