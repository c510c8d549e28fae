"""Fetches a password with a function of the application: a cloud's tokens are valid for minutes only."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from ..errors import ConfigurationError, DatabaseUnreachable, foreign
from ..runtime.import_path import imported
from ..runtime.thread import start_blocking
from ..text.redaction import first_line

FetchPassword = Callable[[], str | Awaitable[str]]
"""A function or coroutine function. It may block: a function runs in a thread of its own."""


async def fetched(function: FetchPassword | str, limit_seconds: float) -> str:
    """Return the password that `function`, or the one at this import path, returns now.

    Raises:
        DatabaseUnreachable: it fails, or does not return within `limit_seconds`; may be retried.
        ConfigurationError: it cannot be imported, or returns something else than a text.
    """
    fetch = _imported(function) if isinstance(function, str) else function
    try:
        async with asyncio.timeout(limit_seconds):
            given = fetch() if inspect.iscoroutinefunction(fetch) else await start_blocking(fetch, "password")
            password = await given if inspect.isawaitable(given) else given
    except TimeoutError:
        raise DatabaseUnreachable(
            f"no password while connecting: fetch_password did not return within {limit_seconds:g} s. To fix: check "
            "the service that it calls, or raise connect_timeout in the database URL"
        ) from None
    except Exception as error:
        # without its text and its cause, which may contain the password
        raise DatabaseUnreachable(
            f"no password while connecting: fetch_password failed with {type(error).__name__}. To fix: check the "
            "function, and the service that it calls"
        ) from None
    if not isinstance(password, str) or not password:
        raise ConfigurationError(
            f"fetch_password returned {type(password).__name__ if password else 'nothing'}. To fix: let it return the "
            "password as text"
        )
    return password


def _imported(path: str) -> FetchPassword:
    try:
        return imported(path)
    except Exception as error:
        # the text of another error may contain what the module has fetched
        is_about_names = isinstance(error, ImportError | AttributeError | TypeError)
        why = f"{type(error).__name__}: {foreign(first_line(str(error)))}" if is_about_names else type(error).__name__
        raise ConfigurationError(
            f"MIGRATION_FETCH_PASSWORD={path!r} cannot be used: {why}. To fix: set it to package.module:function"
        ) from None
