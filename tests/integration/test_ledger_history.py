"""The ledger's own revisions on PostgreSQL: each upgrade and downgrade, with rows."""

import asyncio
import io
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from api.ledger import metadata
from tests.support.servers import fetch

ALEMBIC = Path(__file__).resolve().parents[2] / "alembic"

CREATED, INDEXED, ADDED, BACKFILLED = "bffaaced7e40", "bd60898a6f20", "5e0e7952ee90", "f46bc910ddb3"
CHECKED, VALIDATED, NOT_NULL = "6cf7366f0127", "c1e581bee4c1", "097ced08409f"
CONTRACTED, HEAD = "46974adbdbd6", "893b88217700"

INDEX, INDEX_BY_DAY = "ix_postings_account_id_amount", "ix_postings_account_id_booked_on_amount"

# Constraints, indexes and columns of the ledger's own tables.
SHAPE = """
SELECT format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
WHERE conrelid = ANY (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)
UNION ALL
SELECT format('%s valid=%s', pg_get_indexdef(indexrelid), indisvalid) FROM pg_index
WHERE indrelid = ANY (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)
UNION ALL
SELECT format('%s.%s %s %s default %s', attrelid::regclass, attname, format_type(atttypid, atttypmod),
              attnotnull, pg_get_expr(adbin, adrelid))
FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attrelid = ANY (SELECT to_regclass(name) FROM unnest($1::text[]) AS name) AND attnum > 0 AND NOT attisdropped
"""


def configuration(connection: Connection | None = None, output: io.StringIO | None = None) -> Config:
    """Return Alembic's configuration without an ini; `output` receives an offline script."""
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(ALEMBIC))
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def history() -> list[Script]:
    """Return the revisions from the oldest to the newest."""
    return list(ScriptDirectory.from_config(configuration()).walk_revisions())[::-1]


@dataclass(frozen=True)
class Migrated:
    """A database, empty at first, and Alembic's commands on it."""

    url: str
    engine: AsyncEngine

    async def run(self, action: Callable[[Config], None]) -> None:
        """Call one of Alembic's commands on a connection of its own."""
        async with self.engine.connect() as connection:
            await connection.run_sync(lambda sync: action(configuration(sync)))

    async def upgrade(self, revision: str) -> None:
        """Run `alembic upgrade`."""
        await self.run(lambda config: command.upgrade(config, revision))

    async def downgrade(self, revision: str) -> None:
        """Run `alembic downgrade`."""
        await self.run(lambda config: command.downgrade(config, revision))

    async def shape(self) -> set[str]:
        """Return columns, constraints and indexes of the ledger's tables, as PostgreSQL writes them."""
        return {row[0] for row in await fetch(self.url, SHAPE, list(metadata.tables))}

    async def add(self, key: str, columns: str = "", values: str = "") -> None:
        """Insert a transaction without booked_on, like the previous release, or with further columns."""
        named = f"idempotency_key, request_digest, description{columns}"
        await fetch(self.url, f"INSERT INTO transactions ({named}) VALUES ($1, '', ''{values})", key)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Migrated]:
    """Yield an empty database that a test can bring to any revision."""
    engine = create_async_engine(database_url.replace("postgresql:", "postgresql+asyncpg:", 1), poolclass=NullPool)
    yield Migrated(database_url, engine)
    await engine.dispose()


def test_the_revisions_are_linear_and_named_by_date() -> None:
    """The order of the file names is the order of the revisions, and the last one is the head."""
    revisions = history()
    names = [Path(script.path).name for script in revisions]
    assert names == sorted(names)
    assert revisions[-1].revision == HEAD
    for script, name in zip(revisions, names, strict=True):
        assert re.fullmatch(rf"2026_\d\d_\d\d_{script.revision}_[a-z0-9_]+\.py", name)
        assert script.doc
        assert script.longdoc != script.doc, f"{name} does not say why it is done this way"


def test_each_revision_that_commits_by_itself_can_run_again() -> None:
    """The concurrent indexes and the backfills in batches, and no other revision, declare themselves idempotent."""
    texts = {script.revision: Path(script.path).read_text() for script in history()}
    leaving = [revision for revision, text in texts.items() if "autocommit_block" in text or " backfill(" in text]
    repeatable = [s.revision for s in history() if getattr(s.module, "idempotent", False)]
    assert leaving == repeatable
    assert leaving[0] == INDEXED


def test_the_revisions_of_each_later_release_say_their_phase() -> None:
    """The second release only expands; the third contracts, and requires the last revision of the second."""
    later = history()[[script.revision for script in history()].index(NOT_NULL) + 1 :]
    expanding = [script for script in later if script.module.phase == "expand"]
    contracting = [script for script in later if script.module.phase == "contract"]
    assert later == expanding + contracting
    assert contracting[0].revision == CONTRACTED
    assert {script.module.requires for script in contracting} == {expanding[-1].revision}


async def test_each_downgrade_undoes_its_upgrade(database: Migrated) -> None:
    """From base to head, back and up again each revision has the same tables each time."""
    shapes = {"base": await database.shape()}
    steps = ["base"]
    for script in history():
        await database.upgrade(script.revision)
        shapes[script.revision] = await database.shape()
        steps.append(script.revision)
    for revision in reversed(steps[:-1]):
        await database.downgrade(revision)
        assert await database.shape() == shapes[revision], f"downgrade to {revision}"
    await database.upgrade("head")
    assert await database.shape() == shapes[HEAD]


async def test_alembic_check_finds_no_difference_at_head(database: Migrated) -> None:
    """At head `alembic check` finds no difference between the tables and the models."""
    await database.upgrade("head")
    await database.run(command.check)


async def test_the_models_create_the_same_tables_as_the_revisions(database: Migrated) -> None:
    """The models create the tables of head, with the checks, defaults and names that `alembic check` ignores."""
    await database.upgrade("head")
    migrated = await database.shape()
    await database.downgrade("base")
    async with database.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    assert await database.shape() == migrated


async def test_no_index_is_invalid_at_head(database: Migrated) -> None:
    """At head no index is INVALID, and the one on the day has replaced the one without it."""
    await database.upgrade("head")
    [row] = await fetch(database.url, "SELECT count(*) FILTER (WHERE NOT indisvalid), count(*) FROM pg_index")
    assert row[0] == 0
    found = await fetch(database.url, "SELECT relname FROM pg_class WHERE relname IN ($1, $2)", INDEX, INDEX_BY_DAY)
    assert [row[0] for row in found] == [INDEX_BY_DAY]


async def test_the_backfill_sets_the_day_in_utc_in_several_batches(database: Migrated) -> None:
    """The database has another time zone and rows for several batches: the backfill sets each day in UTC."""
    await database.upgrade(CREATED)
    await fetch(database.url, f"ALTER DATABASE {database.url.rpartition('/')[2]} SET timezone = 'Pacific/Kiritimati'")
    await fetch(
        database.url,
        "INSERT INTO transactions (id, idempotency_key, request_digest, description, created_at)"
        " SELECT n::bigint * 1000003, n, '', '', timestamptz '2026-01-31 23:30:00+00'"
        " FROM generate_series(1, 11000) AS n",
    )
    await database.upgrade("head")
    days = await fetch(database.url, "SELECT booked_on::text, count(*) FROM transactions GROUP BY 1")
    assert [tuple(row) for row in days] == [("2026-01-31", 11000)]


async def test_the_backfill_keeps_given_days(database: Migrated) -> None:
    """A newer release has written a day: the backfill keeps it and fills only missing ones."""
    await database.upgrade(ADDED)
    await database.add("given", ", booked_on", ", '1999-12-31'")
    await database.add("missing", ", booked_on", ", NULL")
    await database.upgrade(BACKFILLED)
    days = await fetch(database.url, "SELECT booked_on::text = '1999-12-31' FROM transactions ORDER BY id")
    assert [row[0] for row in days] == [True, False]


async def test_the_previous_release_can_write_at_each_revision(database: Migrated) -> None:
    """During a rolling deployment the previous release inserts rows without booked_on: each revision accepts them."""
    revisions = [script.revision for script in history()]
    expanding = revisions[revisions.index(CREATED) : revisions.index(CONTRACTED)]
    for revision in expanding:
        await database.upgrade(revision)
        await database.add(revision)
    [row] = await fetch(database.url, "SELECT count(booked_on) FROM transactions")
    assert row[0] == len(expanding)


@pytest.mark.parametrize(
    ("revision", "refusal"),
    [
        (CHECKED, asyncpg.CheckViolationError),
        (VALIDATED, asyncpg.CheckViolationError),
        (NOT_NULL, asyncpg.NotNullViolationError),
    ],
)
async def test_a_missing_day_is_refused_from_the_check_on(
    database: Migrated, revision: str, refusal: type[Exception]
) -> None:
    """From the check constraint on, at each revision, a row without a day is refused."""
    await database.upgrade(revision)
    with pytest.raises(refusal):
        await database.add("dayless", ", booked_on", ", NULL")


async def test_validation_fails_on_a_row_that_the_backfill_missed(database: Migrated) -> None:
    """A row has no day: the validating revision fails and the version stays."""
    await database.upgrade(BACKFILLED)
    await database.add("dayless", ", booked_on", ", NULL")
    await database.upgrade(CHECKED)
    with pytest.raises(Exception, match="ck_transactions_booked_on_present"):
        await database.upgrade(VALIDATED)
    assert [row[0] for row in await fetch(database.url, "SELECT version_num FROM alembic_version")] == [CHECKED]


async def test_the_index_revision_replaces_an_invalid_index(database: Migrated) -> None:
    """An interrupted run left an INVALID index: the revision replaces it by a valid one."""
    await database.upgrade(CREATED)
    await database.add("once")
    await fetch(database.url, "INSERT INTO accounts (name, currency) VALUES ('cash', 'EUR')")
    await fetch(database.url, "INSERT INTO postings SELECT 1, n, 1, 'EUR', 7 FROM generate_series(1, 2) AS n")
    with pytest.raises(asyncpg.UniqueViolationError):
        await fetch(database.url, f"CREATE UNIQUE INDEX CONCURRENTLY {INDEX} ON postings (account_id, amount)")
    valid = "SELECT indisvalid, indisunique FROM pg_index WHERE indexrelid = to_regclass($1)"
    assert [tuple(row) for row in await fetch(database.url, valid, INDEX)] == [(False, True)]
    await database.upgrade(INDEXED)
    assert [tuple(row) for row in await fetch(database.url, valid, INDEX)] == [(True, False)]


async def test_the_offline_script_makes_the_same_schema(database: Migrated) -> None:
    """The output of `alembic upgrade head --sql` creates the same schema, statement by statement."""
    script = io.StringIO()
    config = configuration(output=script)
    # in a thread, because the command may start an event loop
    await asyncio.to_thread(command.upgrade, config, "head", sql=True)
    connection = await asyncpg.connect(database.url)
    try:
        for statement in filter(str.strip, script.getvalue().split(";\n")):
            await connection.execute(statement)
    finally:
        await connection.close()
    offline = await database.shape()
    await database.run(command.check)
    await database.downgrade("base")
    await database.upgrade("head")
    assert await database.shape() == offline
