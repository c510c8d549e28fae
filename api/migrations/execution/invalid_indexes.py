"""Finds and drops INVALID indexes, which an unfinished concurrent build leaves behind.

They slow down writes and serve no query, a unique one may still refuse rows, and `CREATE INDEX … IF NOT EXISTS` skips
the build because of them.
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
"""Their quoted names, without tables on which a build is in progress, because its index is INVALID until it is done.

Any role sees builds and table locks, but not which index is built. A partitioned table's own index (relkind I) is left
out: it is INVALID until every partition has its index.
"""


def drop_index(connection: sa.Connection, name: str) -> None:
    """Drop an INVALID index without blocking readers or writers."""
    level = connection.get_isolation_level()
    connection.commit()
    connection.execution_options(isolation_level="AUTOCOMMIT")
    connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    connection.commit()
    connection.execution_options(isolation_level=level)
