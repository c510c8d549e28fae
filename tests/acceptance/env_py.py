"""env.py files as projects write them: Alembic's own shapes, options of their own, and loops over schemas."""

from pathlib import Path

from tests.support.fakes import tree

PLAIN = """
import asyncio, os
from alembic import context
from sqlalchemy import pool
from sqlalchemy.ext.asyncio import create_async_engine

def run(connection):
    context.configure(connection=connection, version_table="shop_version", version_table_schema="core")
    with context.begin_transaction():
        context.run_migrations()

async def run_alone():
    url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, poolclass=pool.NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()

given = context.config.attributes.get("connection")
if given is None:
    asyncio.run(run_alone())
else:
    run(given)
"""
"""It uses the given connection, and opens its own for a manual `alembic`."""

RUN_ENV = """
from sqlalchemy import MetaData
from api.migrations.environment import run_env

run_env(MetaData(), version_table="shop_version", version_table_schema="core")
"""

BY_VERSION_TABLE_SCHEMA = """
from alembic import context

connection = context.config.attributes["connection"]
for tenant in ("public", "tenant_a", "Tenant B"):
    context.configure(connection=connection, version_table_schema=tenant)
    context.config.attributes["tenant"] = tenant
    with context.begin_transaction():
        context.run_migrations()
"""

BY_SEARCH_PATH = """
import sqlalchemy as sa
from alembic import context

connection = context.config.attributes["connection"]
for tenant in ("public", "tenant_a", "Tenant B"):
    connection.execute(sa.text(f'CREATE SCHEMA IF NOT EXISTS "{tenant}"'))
    connection.execute(sa.text(f'SET search_path TO "{tenant}"'))
    connection.commit()
    connection.dialect.default_schema_name = tenant
    context.configure(connection=connection)
    context.config.attributes["tenant"] = tenant
    with context.begin_transaction():
        context.run_migrations()
"""

BY_RUN_ENV = """
from alembic import context
from api.migrations.environment import run_env

for tenant in ("public", "tenant_a", "Tenant B"):
    context.config.attributes["tenant"] = tenant
    run_env(version_table_schema=tenant)
"""

TENANTS = ["Tenant B", "public", "tenant_a"]

FOR_A_TENANT = """
from alembic import context
op.execute(f'INSERT INTO public.log VALUES (\\'{context.config.attributes["tenant"]}\\', \\'%s\\')')
"""


def shop(folder: Path, env: str) -> Path:
    """Create a history whose second revision multiplies each item's id by 100, so that a second run is visible."""
    create = 'op.execute("CREATE TABLE core.item (id int)")\nop.execute("INSERT INTO core.item VALUES (42)")'
    return tree(folder, create, 'op.execute("UPDATE core.item SET id = id * 100")', env=env)


def tenants(folder: Path, env: str) -> Path:
    """Create a history that records, for each tenant, which of its two revisions ran; the second takes 1 s."""
    return tree(folder, FOR_A_TENANT % "r1", 'op.execute("SELECT pg_sleep(1)")' + FOR_A_TENANT % "r2", env=env)
