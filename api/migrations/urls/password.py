"""Fetches a password with a function of the application: a cloud's tokens are valid for minutes only."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from ..errors import ConfigurationError, DatabaseUnreachable
from ..runtime.thread import start_blocking

FetchPassword = Callable[[], str | Awaitable[str]]
"""A function or coroutine function. It may block: a function runs in a thread of its own."""


async def fetched(fetch: FetchPassword, limit_seconds: float) -> str:
    """Return the password that `fetch` returns now.

    Raises:
        DatabaseUnreachable: it fails, or does not return within `limit_seconds`; may be retried.
        ConfigurationError: it returns something else than a text.
    """
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
