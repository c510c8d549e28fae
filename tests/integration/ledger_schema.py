"""The ledger's revisions on a connection of the test, on any of the three databases."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from api.ledger import metadata
from api.migrations.urls.database_url import DatabaseURL

T = TypeVar("T")

SCRIPTS = ScriptDirectory(str(Path(__file__).resolve().parents[2] / "alembic"))

REVISIONS = [script.revision for script in SCRIPTS.walk_revisions()][::-1]


@dataclass(frozen=True)
class Schema:
    """A database that a test can bring to any revision."""

    engine: AsyncEngine

    async def upgrade(self, revision: str) -> None:
        """Upgrade to `revision`, with one transaction for each step if the database has transactional DDL."""
        await self.run(lambda connection: _migrate(connection, SCRIPTS._upgrade_revs, revision))

    async def downgrade(self, revision: str) -> None:
        """Downgrade to `revision`."""
        await self.run(lambda connection: _migrate(connection, SCRIPTS._downgrade_revs, revision))

    async def differences(self) -> list[Any]:
        """Return what autogenerate would write into the next revision."""
        return await self.run(lambda connection: compare_metadata(MigrationContext.configure(connection), metadata))

    async def shape(self) -> dict[str, list[str]]:
        """Return columns, keys, indexes and checks of each of the ledger's tables, as SQLAlchemy reads them."""
        return await self.run(_shape)

    async def rows(self, sql: str, **parameters: object) -> Sequence[Any]:
        """Run one statement in a transaction of its own and return its rows, if it has any."""
        async with self.engine.begin() as connection:
            result = await connection.execute(sa.text(sql), parameters)
            return result.all() if result.returns_rows else []

    async def run(self, work: Callable[[sa.Connection], T]) -> T:
        """Call `work` with a connection that is outside any transaction."""
        async with self.engine.connect() as connection:
            return await connection.run_sync(work)


def schema_of(url: str) -> Schema:
    """Return the schema of `url`; on SQLite DDL is transactional and foreign keys are not checked."""
    parsed = DatabaseURL.parse(url)
    arguments = parsed.connect_args() | ({"isolation_level": None} if parsed.dialect == "sqlite" else {})
    engine = create_async_engine(parsed.sqlalchemy(), connect_args=arguments, poolclass=NullPool)
    if parsed.dialect == "sqlite":
        sa.event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return Schema(engine)


def _migrate(connection: sa.Connection, plan: Callable[..., Any], revision: str) -> None:
    def steps(heads: Any, _context: MigrationContext) -> Any:
        return plan(revision, heads)

    with EnvironmentContext(Config(), SCRIPTS, fn=steps) as environment:
        transactional = True if connection.dialect.name == "sqlite" else None
        environment.configure(connection, transactional_ddl=transactional, transaction_per_migration=True)
        with environment.begin_transaction():
            environment.run_migrations()


def _shape(connection: sa.Connection) -> dict[str, list[str]]:
    inspector = sa.inspect(connection)
    return {name: sorted(_facts(inspector, name)) for name in inspector.get_table_names() if name in metadata.tables}


def _facts(inspector: sa.Inspector, table: str) -> list[str]:
    columns = [
        f"{column['name']} {column['type']!r} null={column['nullable']} default={column['default']}"
        for column in inspector.get_columns(table)
    ]
    keys = [inspector.get_pk_constraint(table), *inspector.get_unique_constraints(table)]
    others = [
        *inspector.get_foreign_keys(table),
        *inspector.get_indexes(table),
        *inspector.get_check_constraints(table),
    ]
    return columns + [str(sorted(part.items())) for part in [*keys, *others]]
