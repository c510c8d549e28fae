"""Runs the pending revisions in a clone of the schema, and records what each statement did."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...assembly import Assembly
from ...core.protocols import MigrationRequest
from ...databases.backend import Backend
from ...errors import MigrationError, NoClone
from ...urls.database_url import DatabaseURL
from .confinement import confined
from .recorder import Recorder

_OWN_CONNECTION = (
    "env.py opens a connection of its own, which would lead to the database itself. To fix: let env.py use the "
    "connection that it is given"
)


class _Silent:
    """A `ProgressListener` that reports nothing, because no instance migrates."""

    def _ignore(self, *_: Any) -> None:
        pass

    planned = started = finished = undone = contended = progressed = observed = invalid = dropped = _ignore

    async def between(self) -> None:
        """Go on."""


@dataclass
class Trial:
    """What was recorded, and why the rest was not."""

    recorder: Recorder = field(default_factory=Recorder)
    clone: str | None = None
    """The name of the temporary database, which is dropped again."""
    why_not: str | None = None
    """Why there was no clone, or why its run stopped."""
    leftovers: Sequence[str] = ()
    """The clones on the same server that were not dropped: of earlier commands, or this one."""


async def try_out(assembly: Assembly, request: MigrationRequest, at: frozenset[str], on: DatabaseURL | None) -> Trial:
    """Make a clone at the revisions `at`, run the request there, and drop the clone."""
    trial = Trial()
    try:
        if assembly.runner.own_connection:
            raise NoClone(_OWN_CONNECTION)
        async with assembly.database.clone(on, assembly.runner.tables[0], at) as (clone, name, leftovers):
            trial.clone, trial.leftovers = name, leftovers
            with confined(clone.url.dsn):
                await _run(assembly, clone, request, trial.recorder)
    except MigrationError as error:
        trial.why_not = str(error)
    except TimeoutError:
        trial.why_not = f"the run did not finish within MIGRATION_RUN_SECONDS={assembly.settings.run_seconds:g}"
    return trial


async def _run(assembly: Assembly, clone: Backend, request: MigrationRequest, recorder: Recorder) -> None:
    runner = assembly.runner.watched(recorder.watch)
    session = clone.session(runner, assembly.schedule, "waiting", create_file=False)
    try:
        await session.open()
        await session.try_lock()
        async with asyncio.timeout(assembly.settings.run_seconds):
            await session.run(request, _Silent())
    finally:
        await session.close()
