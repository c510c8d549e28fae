"""`./migrate.sh doctor`: what around the migrations is not as it should be, and what to change. It changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import asyncpg

from ..assembly import Assembly, Session
from ..core.protocols import ANSWER_SECONDS, MigrationRequest
from ..core.schema import Schema, SchemaState, explain
from ..databases.postgres.connection import connect, quoted
from ..databases.postgres.diagnostics import SERVER_CHECKS, Answer, Verdict
from ..errors import MigrationError
from ..execution.error_translation import translate
from ..inspection import read_schema, read_session
from ..lock_manager import application_name
from ..settings.unread import unread_settings
from ..urls.database_url import DatabaseURL


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what to do where it is not as it should be."""

    check: str
    verdict: Verdict
    message: str


async def examine(assembly: Assembly) -> list[Finding]:
    """Look at everything, with the migration role, and with the service's own where that is another one.

    Raises:
        MigrationError: there is no connection to look from.
    """
    assembly, env = await _inspected(assembly)
    everywhere: dict[str, Callable[[], Awaitable[Answer]]] = {
        f"{check.__name__} {name}" if assembly.further else check.__name__: partial(check, one)
        for name, one in assembly.each.items()
        for check in (schema, version_ids)
    }
    everywhere |= {"strategy": partial(strategy, assembly), "env": partial(_known, env), "variables": variables}
    if assembly.url.dialect != "postgresql":
        return [await _made(name, check) for name, check in everywhere.items()]
    async with assembly.connection() as connection:
        checks = {check.__name__: partial(check, connection) for check in SERVER_CHECKS} | {
            check.__name__: partial(check, assembly, connection) for check in (privileges, service)
        }
        return [await _made(name, check) for name, check in (everywhere | checks).items()]


async def strategy(assembly: Assembly) -> Answer:
    """Which one it is, and whether what it needs answers and grants this instance the hold that it would ask for."""
    named = f"{assembly.choice.strategy}: {assembly.choice.why}"
    if assembly.elector is None:
        return Verdict.OK, named
    elector = assembly.elector()
    try:
        await elector.rehearse()
        leader = await elector.ask()
    finally:
        await elector.release()
    return Verdict.OK, f"{named}; it answers" + (f", and names {leader} as the leader" if leader else "")


async def schema(assembly: Assembly) -> Answer:
    """Where the database stands, whether this build knows where to, and whether the two tables are the right ones."""

    async def look(session: Session) -> Schema:
        await session.recognise()
        return await read_schema(assembly, session)

    found, ambiguous = await read_session(assembly, look), assembly.revisions.ambiguous
    bad = ambiguous or found.state in {SchemaState.DIRTY, SchemaState.DIVERGED}
    return Verdict.FAIL if bad else Verdict.OK, "; ".join(filter(None, (ambiguous, explain(found))))


async def version_ids(assembly: Assembly) -> Answer:
    """Whether the version table can hold the ids of the revisions that are pending."""

    async def look(session: Session) -> None:
        request = MigrationRequest("upgrade", assembly.policy.target)
        await session.check_ids(request, (await session.observe()).revisions)

    await read_session(assembly, look)
    return Verdict.OK, "the version table can hold the ids of all revisions that are pending"


async def privileges(assembly: Assembly, connection: asyncpg.Connection) -> Answer:
    """What the migration role may create, alter and see."""
    me, there, creates, sees = await connection.fetchrow(
        "SELECT quote_ident(current_user), quote_ident(s), has_schema_privilege(s, 'CREATE'), "
        "pg_has_role('pg_read_all_stats', 'USAGE') FROM coalesce($1, current_schema()) s",
        assembly.settings.version_table_schema,
        timeout=ANSWER_SECONDS,
    )
    if not creates:
        return Verdict.FAIL, f"{me} may not create tables: GRANT CREATE ON SCHEMA {there} TO {me};"
    foreign = await _not_owned(connection)
    if foreign:
        return Verdict.WARN, f"{me} does not own {foreign}, so no revision can alter it: ALTER TABLE … OWNER TO {me};"
    if not sees:
        return Verdict.WARN, f"{me} does not see what others do: GRANT pg_read_all_stats TO {me};"
    return Verdict.OK, f"{me} owns the tables, may create others and sees every session"


async def service(assembly: Assembly, _connection: asyncpg.Connection) -> Answer:
    """What the service's role may read, where the migrations have one of their own."""
    given = assembly.settings.database_url
    if given is None or assembly.settings.migration_database_url is None:
        return Verdict.OK, "the service uses the same URL"
    version, history = map(quoted, assembly.runner.tables)
    name = application_name(assembly.key, "reading", assembly.settings.instance)
    connection = await connect(DatabaseURL.parse(given.get_secret_value()), assembly.limits, name)
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
    return Verdict.WARN, f"the service's role cannot read the version: GRANT SELECT ON {version}, {history} TO {role};"


async def _inspected(assembly: Assembly) -> tuple[Assembly, Answer]:
    """What env.py says, and whether it would migrate on the session that holds the lock."""
    try:
        assembly = await assembly.inspect(ambiguous=True)
    except MigrationError as error:
        return assembly, (Verdict.FAIL, str(error))
    tables = ", ".join(str(one.runner.tables[0]) for one in assembly.each.values())
    return assembly, (Verdict.OK, f"env.py uses the connection that holds the lock; version table: {tables}")


async def _known(answer: Answer) -> Answer:
    return answer


async def variables() -> Answer:
    """Whether each variable that looks like a setting, and each line of `.env`, is read."""
    unread = unread_settings()
    return (Verdict.WARN, "; ".join(unread)) if unread else (Verdict.OK, "every MIGRATION_ variable is a setting")


async def _not_owned(connection: asyncpg.Connection) -> str:
    rows = await connection.fetch(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY(current_schemas(false)) "
        "AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1",
        timeout=ANSWER_SECONDS,
    )
    return ", ".join(row[0] for row in rows[:5]) + (" and more" if len(rows) > 5 else "")


async def _made(name: str, check: Callable[[], Awaitable[Answer]]) -> Finding:
    try:
        return Finding(name, *await check())
    except Exception as error:
        # a check that cannot be made is a finding too
        return Finding(name, Verdict.FAIL, str(translate(error, f"checking {name}")))
