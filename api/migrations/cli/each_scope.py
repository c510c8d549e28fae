"""Runs a command for each version table that env.py names."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from functools import wraps

from ..assembly import Assembly
from ..errors import MigrationError
from .results import InEachScope, Result

Command = Callable[[Assembly, argparse.Namespace], Awaitable[Result]]


def in_each_scope(command: Command) -> Command:
    """Make `command` run for each version table that env.py names; most projects have one."""

    @wraps(command)
    async def each(assembly: Assembly, arguments: argparse.Namespace) -> Result:
        assembly = await assembly.inspect()
        if not assembly.further:
            return await command(assembly, arguments)
        results = {name: await _named(name, command(one, arguments)) for name, one in assembly.each.items()}
        message = "; ".join(f"{name}: {result.message}" for name, result in results.items() if result.message)
        return InEachScope(scopes=results, message=message)

    return each


async def _named(name: str, work: Awaitable[Result]) -> Result:
    try:
        return await work
    except MigrationError as error:
        error.name_scope(name)
        raise
