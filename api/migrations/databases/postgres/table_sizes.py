"""The sizes of tables, for `plan`: one query, which waits for a locked table no longer than a revision would."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from ...core.protocols import ANSWER_SECONDS
from ..backend import TableSize

_SIZES = """
    SELECT named.name, sum(pg_total_relation_size(c.oid))::bigint AS bytes,
           CASE WHEN min(c.reltuples) >= 0 THEN sum(c.reltuples)::bigint END AS rows
    FROM (SELECT name, to_regclass(quoted)::oid AS oid FROM unnest($1::text[], $2::text[]) AS n (name, quoted)) named
    CROSS JOIN LATERAL (SELECT named.oid UNION SELECT relid FROM pg_partition_tree(named.oid)) each
    JOIN pg_class c ON c.oid = each.oid AND c.relkind IN ('r', 'm')
    GROUP BY named.name
"""


async def table_sizes(connection: asyncpg.Connection, names: Sequence[str]) -> dict[str, TableSize]:
    """Return the sizes of those of the tables `names` that exist; empty if a table is locked for too long."""
    # a name with further dots is that of no table with a schema, and the server refuses it
    names = [name for name in names if name.count(".") < 2]
    quoted = [".".join(f'"{part}"' for part in name.replace('"', '""').split(".")) for name in names]
    try:
        rows = await connection.fetch(_SIZES, names, quoted, timeout=ANSWER_SECONDS)
    except (asyncpg.LockNotAvailableError, TimeoutError):
        return {}
    return {row["name"]: TableSize(row["bytes"], row["rows"]) for row in rows}
