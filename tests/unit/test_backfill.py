"""`backfill()` where no batch can be committed: in a script of `--sql`, and under Alembic without this package."""

import io
import sqlite3
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from api.migrations.backfill import backfill

UPDATE = (
    "UPDATE /* './migrate.sh upgrade' runs this in batches of at most 5000 rows */ {table} SET filled=(a || '12:30') "
    "WHERE (filled IS NULL);"
)


def fill(batch_rows: int = 5_000) -> int:
    """Fill the table "Order"."""
    return backfill(
        "Order", key=("a", "b"), set={"filled": "a || '12:30'"}, where="filled IS NULL", batch_rows=batch_rows
    )


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        ("postgresql", ["COMMIT;", UPDATE.format(table='"Order"'), "BEGIN;"]),
        ("mysql", [UPDATE.format(table="`Order`")]),
        ("sqlite", [UPDATE.format(table='"Order"')]),
    ],
)
def test_a_script_has_one_update(dialect: str, expected: list[str]) -> None:
    """`--sql` writes one UPDATE with a comment, outside a transaction where the batches are."""
    script = io.StringIO()
    context = MigrationContext.configure(dialect_name=dialect, opts={"as_sql": True, "output_buffer": script})
    with Operations.context(context):
        assert fill() == 0
    assert [line for line in script.getvalue().splitlines() if line] == expected


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    """Yield a connection to a table of 1,000 rows; 30 at the end are not filled."""
    engine = sa.create_engine("sqlite://")
    with engine.connect() as opened:
        opened.exec_driver_sql('CREATE TABLE "Order" (a integer, b integer, filled text, PRIMARY KEY (a, b))')
        rows = [(n // 10, n % 10, None if n >= 970 else "before") for n in range(1_000)]
        opened.exec_driver_sql('INSERT INTO "Order" VALUES (?, ?, ?)', rows)
        yield opened
    engine.dispose()


@pytest.mark.parametrize("batch_rows", [1, 7, 1_000, 5_000])
def test_without_the_package_the_caller_s_transaction_has_all_batches(
    connection: sa.Connection, batch_rows: int
) -> None:
    """Under Alembic alone, all rows are filled in the open transaction, and those that are filled stay as they are."""
    with Operations.context(MigrationContext.configure(connection)):
        assert fill(batch_rows) == 30
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    assert driver.in_transaction
    counts = 'SELECT filled, count(*) FROM "Order" GROUP BY filled ORDER BY count(*) DESC'
    assert connection.exec_driver_sql(counts).all() == [
        ("before", 970),
        ("9912:30", 10),
        ("9812:30", 10),
        ("9712:30", 10),
    ]


def test_rows_that_need_no_change_are_skipped_in_larger_and_larger_steps(connection: sa.Connection) -> None:
    """970 rows that are filled cost few statements with batches of ten rows, and only one UPDATE that fills none."""
    statements: list[str] = []
    sa.event.listen(connection, "before_cursor_execute", lambda *event: statements.append(event[2].split()[0]))
    with Operations.context(MigrationContext.configure(connection)):
        assert fill(10) == 30
    assert statements.count("UPDATE") == 4
    assert len(statements) < 50


def test_a_batch_has_at_least_one_row() -> None:
    """A backfill with `batch_rows=0` is refused."""
    context = MigrationContext.configure(dialect_name="sqlite", opts={"as_sql": True})
    with Operations.context(context), pytest.raises(ValueError, match="batch_rows is 0"):
        fill(0)
