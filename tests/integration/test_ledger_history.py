"""The ledger's own revisions: up and down one by one, with rows, on PostgreSQL."""

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
CHECKED, VALIDATED, HEAD = "6cf7366f0127", "c1e581bee4c1", "097ced08409f"

INDEX = "ix_postings_account_id_amount"

# The shape of the ledger's own tables; whatever else lives in the database is not this history's business.
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
    """Alembic's configuration without an ini; a script goes to `output`."""
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(ALEMBIC))
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def history() -> list[Script]:
    """The revisions from the oldest to the newest."""
    return list(ScriptDirectory.from_config(configuration()).walk_revisions())[::-1]


@dataclass(frozen=True)
class Migrated:
    """An empty database and Alembic's commands on it."""

    url: str
    engine: AsyncEngine

    async def run(self, action: Callable[[Config], None]) -> None:
        """Call one of Alembic's commands on a connection of its own."""
        async with self.engine.connect() as connection:
            await connection.run_sync(lambda sync: action(configuration(sync)))

    async def upgrade(self, revision: str) -> None:
        """As `alembic upgrade`."""
        await self.run(lambda config: command.upgrade(config, revision))

    async def downgrade(self, revision: str) -> None:
        """As `alembic downgrade`."""
        await self.run(lambda config: command.downgrade(config, revision))

    async def shape(self) -> set[str]:
        """Columns, constraints and indexes of the ledger's tables, as PostgreSQL writes them."""
        return {row[0] for row in await fetch(self.url, SHAPE, list(metadata.tables))}

    async def add(self, key: str, columns: str = "", values: str = "") -> None:
        """Insert a transaction as the release before booked_on does, or with more columns."""
        named = f"idempotency_key, request_digest, description{columns}"
        await fetch(self.url, f"INSERT INTO transactions ({named}) VALUES ($1, '', ''{values})", key)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Migrated]:
    """An empty database, to be brought to any revision."""
    engine = create_async_engine(database_url.replace("postgresql:", "postgresql+asyncpg:", 1), poolclass=NullPool)
    yield Migrated(database_url, engine)
    await engine.dispose()


def test_the_history_is_one_line_in_dated_files() -> None:
    """The order of the file names is the order of the revisions, and the last one is the head."""
    revisions = history()
    names = [Path(script.path).name for script in revisions]
    assert names == sorted(names)
    assert revisions[-1].revision == HEAD
    for script, name in zip(revisions, names, strict=True):
        assert re.fullmatch(rf"2026_\d\d_\d\d_{script.revision}_[a-z_]+\.py", name)
        assert script.doc
        assert script.longdoc != script.doc, f"{name} does not say why it is done this way"


def test_only_the_concurrent_index_leaves_the_transaction() -> None:
    """Every other revision is applied entirely or not at all; that one says that it may be run again."""
    leaving = [s.revision for s in history() if "autocommit_block" in Path(s.path).read_text()]
    repeatable = [s.revision for s in history() if getattr(s.module, "idempotent", False)]
    assert leaving == repeatable == [INDEXED]


async def test_every_step_down_undoes_its_step_up(database: Migrated) -> None:
    """Base to head, back to base and up again: at each revision the tables have the same shape each time."""
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


async def test_head_is_what_the_models_say(database: Migrated) -> None:
    """`alembic check` finds nothing to generate."""
    await database.upgrade("head")
    await database.run(command.check)


async def test_head_is_what_the_models_would_create(database: Migrated) -> None:
    """Check constraints, defaults and names included, which `alembic check` does not compare."""
    await database.upgrade("head")
    migrated = await database.shape()
    await database.downgrade("base")
    async with database.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    assert await database.shape() == migrated


async def test_no_index_is_invalid_at_head(database: Migrated) -> None:
    """CREATE INDEX CONCURRENTLY is the one statement that can leave half a result."""
    await database.upgrade("head")
    [row] = await fetch(database.url, "SELECT count(*) FILTER (WHERE NOT indisvalid), count(*) FROM pg_index")
    assert row[0] == 0
    assert await fetch(database.url, "SELECT 1 FROM pg_class WHERE relname = $1", INDEX)


async def test_the_backfill_takes_the_day_in_utc_in_several_batches(database: Migrated) -> None:
    """Rows with gaps between their ids, more than two batches hold, in a database that lives in another zone."""
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


async def test_the_backfill_leaves_given_days_alone(database: Migrated) -> None:
    """A new release may already have written its own day."""
    await database.upgrade(ADDED)
    await database.add("given", ", booked_on", ", '1999-12-31'")
    await database.add("missing", ", booked_on", ", NULL")
    await database.upgrade(BACKFILLED)
    days = await fetch(database.url, "SELECT booked_on::text = '1999-12-31' FROM transactions ORDER BY id")
    assert [row[0] for row in days] == [True, False]


async def test_the_previous_release_goes_on_writing_at_every_step(database: Migrated) -> None:
    """It does not know booked_on, and during a rolling deploy it is still running."""
    revisions = [script.revision for script in history()]
    for revision in revisions[revisions.index(CREATED) :]:
        await database.upgrade(revision)
        await database.add(revision)
    [row] = await fetch(database.url, "SELECT count(booked_on) FROM transactions")
    assert row[0] == len(revisions) - 1


@pytest.mark.parametrize(
    ("revision", "refusal"),
    [
        (CHECKED, asyncpg.CheckViolationError),
        (VALIDATED, asyncpg.CheckViolationError),
        (HEAD, asyncpg.NotNullViolationError),
    ],
)
async def test_a_missing_day_is_refused_from_the_check_on(
    database: Migrated, revision: str, refusal: type[Exception]
) -> None:
    """NOT VALID already binds new rows; NOT NULL takes over at head."""
    await database.upgrade(revision)
    with pytest.raises(refusal):
        await database.add("dayless", ", booked_on", ", NULL")


async def test_validation_finds_a_row_the_backfill_missed(database: Migrated) -> None:
    """The revision fails as a whole and the database stays where it was."""
    await database.upgrade(BACKFILLED)
    await database.add("dayless", ", booked_on", ", NULL")
    await database.upgrade(CHECKED)
    with pytest.raises(Exception, match="ck_transactions_booked_on_present"):
        await database.upgrade(VALIDATED)
    assert [row[0] for row in await fetch(database.url, "SELECT version_num FROM alembic_version")] == [CHECKED]


async def test_the_index_revision_replaces_what_an_interrupted_run_left(database: Migrated) -> None:
    """An INVALID index of the same name, and no version row: running it again makes a valid one."""
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
    """`alembic upgrade head --sql`, run statement by statement by somebody else, ends at the same shape."""
    script = io.StringIO()
    config = configuration(output=script)
    # in a thread, as it may start an event loop of its own
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
