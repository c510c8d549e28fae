"""Read-only questions: where the database stands, and which instance is elected to migrate it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from .assembly import Assembly
from .core.protocols import ANSWER_SECONDS, OperatorSession
from .core.schema import Schema, SchemaState, compare_with_build
from .core.status import Status
from .errors import MigrationError

T = TypeVar("T")


async def read_session(assembly: Assembly, look: Callable[[OperatorSession], Awaitable[T]]) -> T:
    """Return the result of `look` on a new session that only reads. Raises `MigrationError` if it cannot be opened."""
    session = assembly.session("reading")
    try:
        await session.open()
        return await look(session)
    finally:
        await session.close()


async def read_schema(assembly: Assembly, session: OperatorSession) -> Schema:
    """Compare the database with this build."""
    observed = await session.store.observe()
    if observed.half_applied and (await session.lock_status()).holder is not None:
        # the lock holder runs that revision now
        observed = replace(observed, half_applied=())
    code = assembly.revisions.code
    if observed.revisions <= code.parents.keys():
        return compare_with_build(observed, code, {})
    return compare_with_build(observed, code, await session.store.lineage(), await session.store.contracts())


async def read_status(assembly: Assembly, session: OperatorSession) -> Status:
    """Return the status of the database for a command: schema, lock, newest attempts and INVALID indexes."""
    schema = await read_schema(assembly, session)
    observed, lock_status = await session.store.observe(), await session.lock_status()
    if schema.state in {SchemaState.EMPTY, SchemaState.BEHIND} and not lock_status.blocked_by:
        refusal = await session.old_instances(assembly.policy.upgrade)
        lock_status = replace(lock_status, blocked_by=refusal.blockers if refusal else ())
    return replace(
        assembly.tracker.status,
        schema=schema,
        lock_status=lock_status,
        recent=observed.recent,
        invalid_indexes=tuple(await session.store.invalid_indexes()),
    )


async def leader(assembly: Assembly) -> str | None:
    """Return the elected instance; None if there is none, or Redis or Kubernetes does not answer in time."""
    if assembly.elector is None:
        return None
    with suppress(MigrationError, TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            elector = assembly.elector()
            try:
                return await elector.leader()
            finally:
                await elector.release()
    return None
