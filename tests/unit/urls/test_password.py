"""The function of the application that returns the password may be of either kind, and its errors show no password."""

import asyncio
import threading
from pathlib import Path

import pytest

from api.migrations.errors import ConfigurationError, DatabaseUnreachable, MigrationError
from api.migrations.urls.password import FetchPassword, fetched

SECRET = "geh3im"


def by_thread() -> str:
    """Return the name of the thread that runs this function."""
    return threading.current_thread().name


async def by_loop() -> str:
    """Return the name of the thread whose loop runs this coroutine."""
    await asyncio.sleep(0)
    return threading.current_thread().name


@pytest.mark.parametrize("fetch", [by_loop, lambda: by_loop()], ids=["async", "returns a coroutine"])
async def test_a_coroutine_runs_on_the_loop(fetch: FetchPassword) -> None:
    """A coroutine function, and a function that returns a coroutine, are awaited on the loop of the connection."""
    assert await fetched(fetch, 5) == threading.current_thread().name


async def test_a_function_runs_in_a_thread_of_its_own() -> None:
    """A function may block, so it runs in a thread of its own."""
    assert await fetched(by_thread, 5) == "password"


async def test_a_function_is_found_by_its_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text names a function of a module: it is imported and called."""
    (tmp_path / "cloud.py").write_text("class Tokens:\n    token = staticmethod(lambda: 'word')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert await fetched("cloud:Tokens.token", 5) == "word"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nowhere:token", "ModuleNotFoundError: No module named 'nowhere'"),
        ("os:nothing", "AttributeError: module 'os' has no attribute 'nothing'"),
        ("os:sep", "TypeError: it is not a function"),
        ("failing:token", "ValueError"),
    ],
)
async def test_a_function_that_cannot_be_imported_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, why: str
) -> None:
    """The error names the setting, its value and the reason, without a text that may contain the password."""
    (tmp_path / "failing.py").write_text(f"raise ValueError('{SECRET}')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        await fetched(path, 5)
    assert str(refused.value) == (
        f"MIGRATION_FETCH_PASSWORD={path!r} cannot be used: {why}. To fix: set it to package.module:function"
    )


def fails() -> str:
    """Raise an error that contains the password."""
    raise ValueError(f"bad token {SECRET}")


async def never() -> str:
    """Never return."""
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(
    ("fetch", "error", "words"),
    [
        (fails, DatabaseUnreachable, "fetch_password failed with ValueError. To fix: "),
        (never, DatabaseUnreachable, "fetch_password did not return within 0.01 s. To fix: "),
        (lambda: SECRET.encode(), ConfigurationError, "fetch_password returned bytes. To fix: "),
        (lambda: "", ConfigurationError, "fetch_password returned nothing. To fix: "),
    ],
)
async def test_an_error_is_reported_without_the_password(
    fetch: FetchPassword, error: type[MigrationError], words: str
) -> None:
    """A function that fails, hangs, or returns no text is reported by name, without its text or a traceback of it."""
    with pytest.raises(error, match=words) as refused:
        await fetched(fetch, 0.01 if fetch is never else 60)
    assert type(refused.value) is error
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
