"""`./migrate.sh doctor`: checks the environment of the migrations and says what to fix; changes nothing."""

from __future__ import annotations

from functools import partial

from ..assembly import Assembly
from ..core.protocols import MigrationRequest, OperatorSession
from ..core.schema import Schema, SchemaState, explain
from ..databases.backend import Answer, Check, Verdict
from ..errors import MigrationError
from ..execution.error_translation import translate
from ..inspection import read_schema, read_session
from ..settings.unread import unread_settings
from .results import Finding

_NOT_JUDGED = (
    Verdict.WARN,
    "not judged, because the check of env.py failed. To fix: correct what the check env names, and run doctor again",
)


async def examine(assembly: Assembly) -> list[Finding]:
    """Make all checks, with the migration role and, if it differs, with the service's role.

    Raises `MigrationError` if the database cannot be reached.
    """
    assembly, env = await _inspected(assembly)
    everywhere: dict[str, Check] = {
        f"{check.__name__} {name.partition(' ')[2]}".strip(): partial(check, one)
        for name, one in assembly.each.items()
        for check in (schema, version_ids)
    }
    if env[0] is Verdict.FAIL:
        # without env.py neither the version table nor the revisions are known
        everywhere = {"schema": partial(_known, _NOT_JUDGED)}
    everywhere |= {"strategy": partial(strategy, assembly), "env": partial(_known, env), "variables": variables}
    everywhere |= {"health": partial(health, assembly)}
    async with assembly.database.checks(*assembly.runner.tables) as of_the_database:
        return [await _finding(name, check) for name, check in (everywhere | of_the_database).items()]


async def strategy(assembly: Assembly) -> Answer:
    """Check that Redis or the Kubernetes API answers and permits this instance to acquire the hold."""
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
    """Check the state of the database, the heads of this build, and the version and history tables."""

    async def look(session: OperatorSession) -> Schema:
        await session.store.recognise()
        return await read_schema(assembly, session)

    found, ambiguous = await read_session(assembly, look), assembly.revisions.ambiguous
    bad = ambiguous or found.state in {SchemaState.DIRTY, SchemaState.DIVERGED}
    bad = bad or (found.state is SchemaState.UNVERSIONED and assembly.policy.baseline is None)
    return Verdict.FAIL if bad else Verdict.OK, "; ".join(filter(None, (ambiguous, explain(found))))


async def version_ids(assembly: Assembly) -> Answer:
    """Check that the version table can store the ids of the pending revisions."""

    async def look(session: OperatorSession) -> None:
        request = MigrationRequest("upgrade", assembly.policy.target)
        await session.store.check_ids(request, (await session.store.observe()).revisions)

    await read_session(assembly, look)
    return Verdict.OK, "the version table can store the ids of all pending revisions"


async def _inspected(assembly: Assembly) -> tuple[Assembly, Answer]:
    """Check that env.py migrates on a session that holds a lock."""
    try:
        assembly = await assembly.inspect(ambiguous=True)
    except MigrationError as error:
        return assembly, (Verdict.FAIL, str(error))
    tables = ", ".join(str(one.runner.tables[0]) for one in assembly.each.values())
    own = "opens a connection of its own, on which the revisions run while the lock is held"
    how = own if assembly.runner.own_connection else "uses the connection that holds the lock"
    return assembly, (Verdict.OK, f"env.py {how}; version table: {tables}")


async def _known(answer: Answer) -> Answer:
    return answer


async def variables() -> Answer:
    """Check that each variable that looks like a setting, and each line of `.env`, is read."""
    unread = unread_settings()
    return (Verdict.WARN, "; ".join(unread)) if unread else (Verdict.OK, "every MIGRATION_ variable is a setting")


async def health(assembly: Assembly) -> Answer:
    """Check the token of the health endpoints and the metrics."""
    from ..web.token import token_of  # no other command needs the web framework

    closed = "require a token" if token_of(assembly.settings) else "are open to every client that reaches the port"
    return Verdict.OK, f"/health/migrations and /metrics {closed} (MIGRATION_HEALTH_TOKEN)"


async def _finding(name: str, check: Check) -> Finding:
    try:
        return Finding(name, *await check())
    except Exception as error:
        return Finding(name, Verdict.FAIL, str(translate(error, f"checking {name}")))
