"""The ledger's own revisions on MariaDB, MySQL and SQLite; `test_ledger_history` covers PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.ledger import metadata
from tests.integration.ledger_schema import REVISIONS, Schema, schema_of

CREATED, INDEXED, BACKFILLED, NOT_NULL = "bffaaced7e40", "bd60898a6f20", "f46bc910ddb3", "097ced08409f"
EXPANDED, HEAD = "df20da5ce722", "893b88217700"

INDEX = "ix_postings_account_id_amount"

JOINED = "FROM postings p JOIN transactions t ON t.id = p.transaction_id"


@pytest.fixture(params=["mariadb", "mysql", "sqlite"])
async def schema(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Schema]:
    """Yield an empty database that a test can bring to any revision."""
    on_file = request.param == "sqlite"
    place = None if on_file else request.getfixturevalue(f"{request.param}_place")
    schema = schema_of(place.url if place else f"sqlite:///{tmp_path}/ledger.db")
    yield schema
    await schema.engine.dispose()


async def fill(schema: Schema, id: int = 7, day: str | None = None, accounts: bool = True) -> None:
    """Insert a transaction, like the first release: without its `day` before the column exists; and two accounts."""
    if accounts:
        await schema.rows("INSERT INTO accounts (id, name, currency) VALUES (1, 'left', 'EUR'), (2, 'right', 'EUR')")
    columns, values = (", booked_on", f", '{day}'") if day else ("", "")
    await schema.rows(
        f"INSERT INTO transactions (id, idempotency_key, request_digest, description, created_at{columns})"
        f" VALUES ({id}, 'key-{id}', 'd{id}', 'rent', '2026-01-31 23:30:00'{values})"
    )
    await schema.rows(
        "INSERT INTO postings (transaction_id, position, account_id, currency, amount)"
        f" VALUES ({id}, 0, 1, 'EUR', -5), ({id}, 1, 2, 'EUR', 5)"
    )


async def test_each_downgrade_undoes_its_upgrade_and_keeps_the_rows(schema: Schema) -> None:
    """Each downgrade restores the earlier tables, and the rows with their foreign keys are kept."""
    shapes = {}
    for revision in REVISIONS:
        await schema.upgrade(revision)
        shapes[revision] = await schema.shape()
        if revision == CREATED:
            await fill(schema)
    for revision in reversed(REVISIONS[REVISIONS.index(CREATED) : -1]):
        await schema.downgrade(revision)
        assert await schema.shape() == shapes[revision], f"downgrade to {revision}"
    await schema.upgrade("head")
    assert await schema.shape() == shapes[HEAD]
    joined = "FROM postings p JOIN transactions t ON t.id = p.transaction_id JOIN accounts a ON a.id = p.account_id"
    rows = await schema.rows(f"SELECT a.name, p.amount, t.booked_on {joined} ORDER BY p.position")
    assert [f"{row[0]} {row[1]} {row[2]}" for row in rows] == ["left -5 2026-01-31", "right 5 2026-01-31"]
    await schema.downgrade("base")
    assert await schema.shape() == {}


async def test_rows_of_each_release_have_the_right_values_after_each_other_one(schema: Schema) -> None:
    """Rows of the first release, written before and after the expansion, are completed; the downgrade restores them."""
    await schema.upgrade(NOT_NULL)
    await fill(schema, id=7, day="2026-01-31")
    await schema.upgrade(EXPANDED)
    # the previous release names neither the day of a posting nor the new name of the digest
    await fill(schema, id=8, day="2026-02-28", accounts=False)
    found = await schema.rows(f"SELECT t.id, p.booked_on, request_sha256, request_digest {JOINED} ORDER BY t.id")
    assert [str(row[1]) == "2026-01-31" for row in found] == [True, True, False, False]
    assert [tuple(row[2:]) for row in found] == 2 * [("d7", "d7")] + 2 * [("", "d8")]
    await schema.upgrade("head")
    whole = f"SELECT t.id, p.booked_on, request_sha256 {JOINED} ORDER BY t.id"
    expected = [*2 * ["7 2026-01-31 d7"], *2 * ["8 2026-02-28 d8"]]
    assert [f"{row[0]} {row[1]} {row[2]}" for row in await schema.rows(whole)] == expected
    await schema.downgrade(EXPANDED)
    assert await schema.rows("SELECT request_digest FROM transactions ORDER BY id") == [("d7",), ("d8",)]
    # the next release names only the new one
    await schema.rows("UPDATE transactions SET request_digest = '' WHERE id = 8")
    await schema.downgrade(NOT_NULL)
    assert await schema.rows("SELECT request_digest FROM transactions ORDER BY id") == [("d7",), ("d8",)]
    await schema.upgrade("head")
    assert [f"{row[0]} {row[1]} {row[2]}" for row in await schema.rows(whole)] == expected


async def test_the_models_match_the_tables_at_head(schema: Schema) -> None:
    """At head autogenerate finds no difference, and the models create the same tables and names."""
    await schema.upgrade("head")
    assert await schema.differences() == []
    migrated = await schema.shape()
    await schema.downgrade("base")
    async with schema.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    assert await schema.shape() == migrated


async def test_the_backfill_sets_the_day_in_several_batches(schema: Schema) -> None:
    """The backfill sets the day of more rows than one batch holds, and keeps a day that was given."""
    await schema.upgrade(REVISIONS[REVISIONS.index(BACKFILLED) - 1])
    await schema.rows(
        "INSERT INTO transactions (id, idempotency_key, request_digest, description, created_at, booked_on)"
        " WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 71)"
        " SELECT (a.i * 72 + b.i + 1) * 1000003, a.i * 72 + b.i, '', '', '2026-01-31 23:30:00', NULL FROM n a, n b"
    )
    await schema.rows("UPDATE transactions SET booked_on = '1999-12-31' WHERE id = 1000003")
    await schema.upgrade(BACKFILLED)
    days = await schema.rows("SELECT booked_on, count(*) FROM transactions GROUP BY booked_on ORDER BY booked_on")
    assert [(str(row[0]), row[1]) for row in days] == [("1999-12-31", 1), ("2026-01-31", 5183)]


async def test_the_previous_release_can_write_at_each_revision(schema: Schema) -> None:
    """During a rolling deployment the previous release inserts rows without booked_on: each revision accepts them."""
    expanding = REVISIONS[REVISIONS.index(CREATED) : REVISIONS.index(EXPANDED) + 1]
    for revision in expanding:
        await schema.upgrade(revision)
        await schema.rows(
            "INSERT INTO transactions (idempotency_key, request_digest, description) VALUES (:key, '', '')",
            key=revision,
        )
    [row] = await schema.rows("SELECT count(booked_on) FROM transactions")
    assert row[0] == len(expanding)


async def test_a_row_that_the_backfill_missed_fails_not_null(schema: Schema) -> None:
    """A row has no day: NOT NULL fails, the tables and the version stay, and the row is not filled."""
    below = REVISIONS[REVISIONS.index(NOT_NULL) - 1]
    await schema.upgrade(below)
    await schema.rows(
        "INSERT INTO transactions (idempotency_key, request_digest, description, booked_on) VALUES ('x', '', '', NULL)"
    )
    before = await schema.shape()
    with pytest.raises(Exception, match="booked_on"):
        await schema.upgrade(NOT_NULL)
    assert await schema.shape() == before
    assert await schema.rows("SELECT version_num FROM alembic_version") == [(below,)]


async def test_the_index_revision_replaces_an_existing_index(schema: Schema) -> None:
    """A run stopped between the index and the version row: the revision replaces the index."""
    await schema.upgrade(CREATED)
    await schema.rows(f"CREATE INDEX {INDEX} ON postings (amount)")
    await schema.upgrade(INDEXED)
    assert any(INDEX in fact and "['account_id', 'amount']" in fact for fact in (await schema.shape())["postings"])
