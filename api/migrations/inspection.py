"""What is asked without changing anything: where the database stands, and who is elected to migrate it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from .assembly import Assembly
from .core.protocols import ANSWER_SECONDS, OperatorSession
from .core.schema import Schema, compare_with_build
from .errors import MigrationError

T = TypeVar("T")


async def read_session(assembly: Assembly, look: Callable[[OperatorSession], Awaitable[T]]) -> T:
    """What `look` finds with a session of its own, which only reads.

    Raises:
        MigrationError: there is no such session, or `look` raised it.
    """
    session = assembly.session("reading")
    try:
        await session.open()
        return await look(session)
    finally:
        await session.close()


async def read_schema(assembly: Assembly, session: OperatorSession) -> Schema:
    """Where the database stands, seen from this build."""
    observed = await session.store.observe()
    if observed.half_applied and (await session.lock_status()).holder is not None:
        # somebody is at it right now: that is progress, not an accident
        observed = replace(observed, half_applied=())
    code = assembly.revisions.code
    lineage = await session.store.lineage() if observed.revisions - code.parents.keys() else {}
    return compare_with_build(observed, code, lineage)


async def leader(assembly: Assembly) -> str | None:
    """Who is elected to migrate, as far as it is known; who cannot be asked is no reason to fail."""
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
