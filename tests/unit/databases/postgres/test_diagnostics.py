"""The doctor's checks of PostgreSQL's version, clock and write access, with prepared answers of a server."""

import time
from dataclasses import dataclass
from typing import Any, cast

import asyncpg
import pytest
from asyncpg.serverversion import split_server_version_string

from api.migrations.databases.backend import Answer, Verdict
from api.migrations.databases.postgres import diagnostics as server_checks


@dataclass
class Answers:
    """A connection to a server of that version, which answers each query with `row`."""

    row: tuple[Any, ...]
    version: str = "18.0"

    def get_server_version(self) -> asyncpg.ServerVersion:
        """Return the version, parsed as asyncpg does."""
        return split_server_version_string(self.version)

    async def fetch(self, sql: str, *arguments: Any, timeout: float) -> list[tuple[Any, ...]]:
        """Return the row."""
        return [self.row]


async def server(version: str, *, standby: bool = False, read_only: bool = False) -> Answer:
    """Return the result of the server check."""
    return await server_checks.server(cast("asyncpg.Connection", Answers((standby, read_only), version)))


async def clock(seconds_off: float) -> Answer:
    """Return the result of the clock check for a server whose clock is `seconds_off` ahead."""
    return await server_checks.clock(cast("asyncpg.Connection", Answers((time.time() + seconds_off,))))


@pytest.mark.parametrize(
    ("version", "verdict", "words"),
    [
        ("9.6.24", Verdict.FAIL, "PostgreSQL 9.6 is too old"),
        ("13.22", Verdict.FAIL, "PostgreSQL 13.22 is too old"),
        ("14.0", Verdict.WARN, "PostgreSQL 14.0: concurrent index builds corrupt indexes before 14.4. To fix: update"),
        ("14.3", Verdict.WARN, "PostgreSQL 14.3: concurrent index builds corrupt indexes before 14.4. To fix: update"),
        ("14.4", Verdict.OK, "PostgreSQL 14.4"),
        ("14.19 (Ubuntu 14.19-1)", Verdict.OK, "PostgreSQL 14.19"),
        ("15.18 (Debian 15.18-1.pgdg12+1)", Verdict.OK, "PostgreSQL 15.18"),
        ("18.1", Verdict.OK, "PostgreSQL 18.1"),
        ("19beta1", Verdict.OK, "PostgreSQL 19.0"),
    ],
)
async def test_an_old_version_fails_and_a_faulty_one_warns(version: str, verdict: Verdict, words: str) -> None:
    """A version below 14 fails, and one that corrupts concurrently built indexes gives a warning."""
    found, message = await server(version)
    assert found is verdict
    assert message.startswith(words)


@pytest.mark.parametrize("version", ["13.22", "14.3", "18.0"])
@pytest.mark.parametrize(
    ("standby", "read_only", "what"),
    [(True, True, "a standby"), (False, True, "read-only"), (True, False, "a standby")],
)
async def test_a_server_without_write_access_fails(version: str, *, standby: bool, read_only: bool, what: str) -> None:
    """A standby or read-only server fails the check in every version, and the message names the setting to change."""
    verdict, message = await server(version, standby=standby, read_only=read_only)
    assert verdict is Verdict.FAIL
    assert f", but {what}. To fix: point MIGRATION_DATABASE_URL at the primary" in message


@pytest.mark.parametrize(
    ("seconds_off", "verdict", "words"),
    [
        (0, Verdict.OK, "agrees"),
        (4, Verdict.OK, "agrees"),
        (-4, Verdict.OK, "agrees"),
        (90, Verdict.WARN, "is +90 s off"),
        (-3600, Verdict.WARN, "is -3600 s off"),
    ],
)
async def test_a_clock_that_is_off_gives_a_warning(seconds_off: float, verdict: Verdict, words: str) -> None:
    """A clock that is off by up to 4 s is fine; 90 s or an hour gives a warning with the sign."""
    found, message = await clock(seconds_off)
    assert (found, words in message) == (verdict, True), message
