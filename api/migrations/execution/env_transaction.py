"""Judges the connection that `env.py` passes to `configure`: whose it is, and whether a transaction is open on it.

Each revision commits on its own, so no transaction of `env.py` may be open around it.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ..errors import ForeignConnection

PACKAGE = (__package__ or "").rpartition(".")[0]
"""A project that copied the package may have given it another name."""
REMEDY = (
    "use context.config.attributes['connection'] in alembic/env.py, or replace its content with these three lines: "
    f"from {PACKAGE}.environment import run_env | from your.models import Base | run_env(Base.metadata)"
)


_IDLE = 0
"""libpq's PQTRANS_IDLE: no transaction is open in the server."""


class OwnConnection(ForeignConnection):
    """`env.py` opens a connection of its own instead of using the one that it is given."""


def refuse_foreign(connection: Any, given: sa.Connection) -> None:
    """Raise `ForeignConnection` unless `configure` got the connection `given`, without an open transaction."""
    if connection is not given:
        raise OwnConnection(f"env.py migrates on a connection that does not hold the lock. To fix: {REMEDY}")
    refuse_open_transaction(given)


def refuse_open_transaction(connection: sa.Connection) -> None:
    """Raise `ForeignConnection` if a transaction is open when `env.py` calls `configure`."""
    if connection.in_transaction():
        raise ForeignConnection(
            "env.py begins a transaction around all revisions, so none could be committed on its own: a transaction is "
            "open when it calls context.configure. To fix: call connection.commit() before context.configure and "
            f"remove 'with connection.begin()'; or {REMEDY}"
        )


def refuse_unusable(connection: Any) -> None:
    """Raise `ForeignConnection` unless `configure` got a connection of SQLAlchemy, without an open transaction."""
    if not isinstance(connection, sa.Connection):
        raise ForeignConnection(f"env.py calls context.configure without a connection. To fix: {REMEDY}")
    refuse_open_transaction(connection)


def begun_explicitly(connection: sa.Connection) -> bool:
    """Whether a block `with connection.begin()` is open; a transaction that SQLAlchemy began by itself is none."""
    return connection._trans_context_manager is not None


def refuse_explicit_transaction(is_open: bool) -> None:
    """Raise `ForeignConnection` if `env.py` began a transaction around `run_migrations`."""
    if is_open:
        raise ForeignConnection(
            "env.py begins a transaction around context.run_migrations, so a revision could not be committed on "
            "its own. To fix: remove 'with connection.begin()'; keep 'with context.begin_transaction()'"
        )


def begun_and_unused(connection: Any) -> bool:
    """Whether `env.py` began a transaction on its connection and has executed nothing in it.

    Raises `ForeignConnection` for a two-phase transaction.
    """
    if not isinstance(connection, sa.Connection) or not connection.in_transaction():
        return False
    if isinstance(connection.get_transaction(), sa.TwoPhaseTransaction):
        raise ForeignConnection(
            "env.py begins a two-phase transaction around all revisions, so none could be committed on its own. To "
            "fix: set USE_TWOPHASE = False in env.py"
        )
    driver: Any = connection.connection.driver_connection
    if hasattr(driver, "is_in_transaction"):  # asyncpg
        return not driver.is_in_transaction()
    return getattr(getattr(driver, "info", None), "transaction_status", None) == _IDLE  # psycopg and psycopg2


def beside_its_transaction(connection: sa.Connection) -> sa.Connection:
    """Return another `Connection` to the same session, without the unused transaction that `env.py` began.

    `env.py` then commits or rolls back its own, in which nothing happened.
    """
    return sa.Connection(connection.engine, connection=connection.connection)
