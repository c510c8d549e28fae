"""Projects to migrate: an Alembic folder with a number of small revisions, as a team would have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TEMPLATE_ENV = '''\
"""Alembic's own template `async`, with the URL from the environment and a transaction for each revision."""

import asyncio
import os

from sqlalchemy import pool
from sqlalchemy.ext.asyncio import create_async_engine

from alembic import context


def do_run_migrations(connection):
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def run_async_migrations():
    url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(do_run_migrations)
    await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    do_run_migrations(given)
else:
    asyncio.run(run_async_migrations())
'''
"""Also takes a connection from `config.attributes`, as Alembic's cookbook shows and the usual recipe does."""

OUR_ENV = '''\
"""What docs/adopting.md tells a project to write."""

from api.migrations.environment import run_env

run_env()
'''

INI = """\
[alembic]
script_location = %(here)s
prepend_sys_path = .
path_separator = os
"""

REVISION = '''\
"""Revision {number}.

Revision ID: {id}
Revises: {below}
"""

import time

from alembic import op

revision = {id!r}
down_revision = {below!r}
branch_labels = None
depends_on = None


def upgrade():
    {body}


def downgrade():
    pass
'''

SMALL = 'op.execute("CREATE TABLE t{number} (id integer)")'
"""The body of a small revision; for the other tools it is the same statement in a file."""


@dataclass(frozen=True)
class Project:
    """One history twice, because a project that uses the package has another env.py.

    Attributes:
        ours: the alembic.ini for this project.
        plain: the alembic.ini for bare Alembic and for the usual recipe.
    """

    ours: Path
    plain: Path


def small_bodies(number: int) -> list[str]:
    """Return the bodies of `number` small revisions."""
    return [SMALL.format(number=each) for each in range(1, number + 1)]


def identifier(number: int) -> str:
    """Return a revision id of the length that Alembic's own have."""
    return f"{number:012x}"


def project(folder: Path, bodies: Sequence[str]) -> Project:
    """Write a history of revisions with the given bodies, oldest first, into `folder`."""
    return Project(_written(folder / "ours", OUR_ENV, bodies), _written(folder / "plain", TEMPLATE_ENV, bodies))


def _written(folder: Path, env: str, bodies: Sequence[str]) -> Path:
    versions = folder / "versions"
    versions.mkdir(parents=True)
    (folder / "env.py").write_text(env)
    for number, body in enumerate(bodies, 1):
        below = identifier(number - 1) if number > 1 else None
        text = REVISION.format(number=number, id=identifier(number), below=below, body=body)
        (versions / f"{identifier(number)}_revision_{number}.py").write_text(text)
    ini = folder / "alembic.ini"
    ini.write_text(INI)
    return ini
