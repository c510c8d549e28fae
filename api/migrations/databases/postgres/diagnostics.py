"""The checks of the server for `./migrate.sh doctor`; each is one or two short queries in autocommit."""

from __future__ import annotations

import time
from typing import Any

import asyncpg

from ...core.protocols import ANSWER_SECONDS
from ...core.schema import invalid_index_advice
from ...execution.invalid_indexes import INVALID_INDEXES
from ...execution.limits import Limits
from ...settings import MigrationSettings
from ..backend import Answer, Verdict
from .connection import connect

OLD_SECONDS = 60.0
"""A transaction older than this blocks concurrent index builds, and perhaps other DDL."""
LAG_SECONDS = 10.0
CLOCK_SECONDS = 5.0


async def server(connection: asyncpg.Connection) -> Answer:
    """Check the version, and whether the server accepts writes."""
    version = release(connection.get_server_version())
    name = "PostgreSQL {}.{}".format(*version)
    ((standby, read_only),) = await _rows(
        connection, "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool"
    )
    if standby or read_only:
        what = "a standby" if standby else "read-only"
        return Verdict.FAIL, f"{name}, but {what}. To fix: point MIGRATION_DATABASE_URL at the primary"
    if version < (14, 0):
        return Verdict.FAIL, f"{name} is too old. To fix: update to 14 or newer"
    if version < (14, 4):
        return Verdict.WARN, f"{name}: concurrent index builds corrupt indexes before 14.4. To fix: update the server"
    return Verdict.OK, name


def release(version: asyncpg.ServerVersion) -> tuple[int, int]:
    """Return the major and minor version; since PostgreSQL 10, asyncpg has the minor version in `micro`."""
    return version.major, version.micro if version.major >= 10 else version.minor


async def pooler(connection: asyncpg.Connection) -> Answer:
    """Check whether a pooler is between this process and the server."""
    ((pid,),) = await _rows(connection, "SELECT pg_backend_pid()")
    if pid == connection.get_server_pid():
        return Verdict.OK, "a direct connection"
    return Verdict.WARN, (
        "a pooler is in between, so all revisions run in one transaction, and none may use autocommit_block. To fix: "
        "set MIGRATION_DATABASE_URL to the database's direct endpoint"
    )


async def timeouts(connection: asyncpg.Connection) -> Answer:
    """Check the timeouts of the role, the database or the server that this package's settings do not override."""
    rows = await _rows(
        connection,
        "SELECT name, setting || coalesce(unit, '') AS value FROM pg_settings WHERE setting <> '0' AND name = ANY($1)",
        ["idle_session_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"],
    )
    if not rows:
        return Verdict.OK, "no server timeout ends a waiting session"
    found = ", ".join(f"{row['name']} = {row['value']}" for row in rows)
    return Verdict.WARN, f"{found} would end a waiting session. To fix: ALTER ROLE … RESET it for the migration role"


async def transactions(connection: asyncpg.Connection) -> Answer:
    """Check for old transactions of other sessions."""
    rows = await _rows(
        connection,
        "SELECT pid, coalesce(nullif(application_name, ''), 'unnamed') AS name, usename, state, "
        "extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name NOT LIKE 'migrations:%' "
        "AND clock_timestamp() - xact_start > make_interval(secs => $1) ORDER BY xact_start LIMIT 5",
        OLD_SECONDS,
    )
    if not rows:
        return Verdict.OK, f"no transaction is older than {OLD_SECONDS:g} s"
    found = "; ".join(f"pid {r['pid']} ({r['name']}, {r['usename']}, {r['state']}, {r['seconds']:.0f} s)" for r in rows)
    return Verdict.WARN, f"{found}: concurrent builds wait for it. To fix: end it, or SELECT pg_terminate_backend(pid)"


async def prepared(connection: asyncpg.Connection) -> Answer:
    """Check for prepared transactions, which outlive their sessions."""
    rows = await _rows(
        connection, "SELECT quote_literal(gid) AS gid, owner FROM pg_prepared_xacts WHERE database = current_database()"
    )
    if not rows:
        return Verdict.OK, "no prepared transaction"
    found = ", ".join(f"{row['gid']} of {row['owner']}" for row in rows)
    return Verdict.WARN, f"prepared transactions hold locks. To fix: COMMIT PREPARED or ROLLBACK PREPARED {found}"


async def indexes(connection: asyncpg.Connection) -> Answer:
    """Check for INVALID indexes."""
    names = [row[0] for row in await _rows(connection, INVALID_INDEXES)]
    return (Verdict.WARN, invalid_index_advice(names)) if names else (Verdict.OK, "no INVALID index")


async def replication(connection: asyncpg.Connection) -> Answer:
    """Check how far standbys are behind."""
    rows = await _rows(
        connection,
        "SELECT application_name AS name, extract(epoch FROM replay_lag)::float8 AS seconds FROM pg_stat_replication "
        "WHERE replay_lag > make_interval(secs => $1)",
        LAG_SECONDS,
    )
    if not rows:
        return Verdict.OK, f"no standby that this role sees is more than {LAG_SECONDS:g} s behind"
    found = ", ".join(f"{row['name']} {row['seconds']:.0f} s" for row in rows)
    return Verdict.WARN, f"standbys are behind ({found}): a migration increases the lag, and a failover would lose it"


async def clock(connection: asyncpg.Connection) -> Answer:
    """Compare the server's clock with this machine's."""
    began = time.time()
    ((server_time,),) = await _rows(connection, "SELECT extract(epoch FROM clock_timestamp())::float8")
    off = server_time - (began + time.time()) / 2
    if abs(off) <= CLOCK_SECONDS:
        return Verdict.OK, "the server's clock agrees with this machine's"
    return Verdict.WARN, f"the server's clock is {off:+.0f} s off this machine's, so times in logs and history differ"


async def privileges(connection: asyncpg.Connection, schema: str | None) -> Answer:
    """Check what the migration role may create, alter and see."""
    me, target, creates, sees = await connection.fetchrow(
        "SELECT quote_ident(current_user), quote_ident(s), has_schema_privilege(s, 'CREATE'), "
        "pg_has_role('pg_read_all_stats', 'USAGE') FROM coalesce($1, current_schema()) s",
        schema,
        timeout=ANSWER_SECONDS,
    )
    if not creates:
        return Verdict.FAIL, f"{me} may not create tables. To fix: GRANT CREATE ON SCHEMA {target} TO {me};"
    foreign = await _not_owned(connection)
    if foreign:
        return (
            Verdict.WARN,
            f"{me} does not own {foreign}, so no revision can alter it. To fix: ALTER TABLE … OWNER TO {me};",
        )
    if not sees:
        return Verdict.WARN, f"{me} does not see other sessions' work. To fix: GRANT pg_read_all_stats TO {me};"
    return Verdict.OK, f"{me} owns the tables, may create others and sees every session"


async def service(
    settings: MigrationSettings, limits: Limits, application_name: str, tables: tuple[str, str]
) -> Answer:
    """Check what the service's role may read, if migrations use another role."""
    service_url = settings.service_url()
    if service_url is None or not settings.has_own_url:
        return Verdict.OK, "the service uses the same URL"
    version, history = tables
    connection = await connect(service_url, limits, application_name)
    try:
        role, reads = await connection.fetchrow(
            "SELECT quote_ident(current_user), coalesce(has_table_privilege(to_regclass($1), 'SELECT'), true) "
            "AND coalesce(has_table_privilege(to_regclass($2), 'SELECT'), true)",
            version,
            history,
            timeout=ANSWER_SECONDS,
        )
    finally:
        await connection.close()
    if reads:
        return Verdict.OK, f"the service's role {role} may read the version and history tables"
    return Verdict.WARN, (
        f"the service's role cannot read the version. To fix: GRANT SELECT ON {version}, {history} TO {role};"
    )


async def _not_owned(connection: asyncpg.Connection) -> str:
    rows = await connection.fetch(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY(current_schemas(false)) "
        "AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1",
        timeout=ANSWER_SECONDS,
    )
    return ", ".join(row[0] for row in rows[:5]) + (" and more" if len(rows) > 5 else "")


SERVER_CHECKS = (server, pooler, timeouts, transactions, prepared, indexes, replication, clock)


async def _rows(connection: asyncpg.Connection, sql: str, *arguments: Any) -> list[asyncpg.Record]:
    return list(await connection.fetch(sql, *arguments, timeout=ANSWER_SECONDS))
