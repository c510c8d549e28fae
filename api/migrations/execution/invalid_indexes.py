"""INVALID indexes: what a concurrent build leaves behind when it does not finish.

They slow down every write and serve no query, a unique one may still refuse rows, and `CREATE INDEX … IF NOT EXISTS`
takes them for the index that was wanted.
"""

from __future__ import annotations

import sqlalchemy as sa

INVALID_INDEXES = """
    SELECT i.indexrelid::regclass::text
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT i.indisvalid AND c.relkind = 'i' AND n.nspname NOT IN ('pg_catalog', 'pg_toast')
      AND NOT EXISTS (
        SELECT FROM pg_stat_progress_create_index p JOIN pg_locks l ON l.pid = p.pid
        WHERE p.datname = current_database() AND l.database = p.datid AND l.relation = i.indrelid
          AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted)
    ORDER BY 1
"""
"""Quoted names of those on whose table nobody builds now: a build in progress is invalid too, until it is done.

Any role sees who builds, and who has which table's lock, though not which index it is. A partitioned table's own index
(relkind I) is left out: it is invalid until every partition has its index.
"""


_QUERIES = {"postgresql": INVALID_INDEXES}


def invalid_indexes(connection: sa.Connection) -> frozenset[str]:
    """Those of the database, in the transaction that is open; none where the database has no such thing."""
    query = _QUERIES.get(connection.dialect.name)
    return frozenset(connection.exec_driver_sql(query).scalars()) if query else frozenset()


def drop_index(connection: sa.Connection, name: str) -> None:
    """Drop one of `invalid_indexes`, without a lock that readers or writers would notice."""
    level = connection.get_isolation_level()
    connection.commit()
    connection.execution_options(isolation_level="AUTOCOMMIT")
    connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    connection.commit()
    connection.execution_options(isolation_level=level)
