"""What the doctor makes of what a server answers: of versions, clocks and standbys that no test has at hand."""

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
    """A connection to a server of that version, which answers each question with `row`."""

    row: tuple[Any, ...]
    version: str = "18.0"

    def get_server_version(self) -> asyncpg.ServerVersion:
        """As asyncpg reads it when it connects."""
        return split_server_version_string(self.version)

    async def fetch(self, sql: str, *arguments: Any, timeout: float) -> list[tuple[Any, ...]]:
        """One row."""
        return [self.row]


async def server(version: str, *, standby: bool = False, read_only: bool = False) -> Answer:
    """The check, by what the server says of itself."""
    return await server_checks.server(cast("asyncpg.Connection", Answers((standby, read_only), version)))


async def clock(seconds_off: float) -> Answer:
    """The check, by how far the server's clock is ahead."""
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
async def test_versions(version: str, verdict: Verdict, words: str) -> None:
    """What is too old is a failure; what corrupts indexes that are built concurrently is warned of."""
    found, message = await server(version)
    assert found is verdict
    assert message.startswith(words)


@pytest.mark.parametrize("version", ["13.22", "14.3", "18.0"])
@pytest.mark.parametrize(
    ("standby", "read_only", "what"),
    [(True, True, "a standby"), (False, True, "read-only"), (True, False, "a standby")],
)
async def test_what_cannot_be_written_to(version: str, *, standby: bool, read_only: bool, what: str) -> None:
    """A failure whatever its version, with the setting that names another server."""
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
async def test_clocks(seconds_off: float, verdict: Verdict, words: str) -> None:
    """Five seconds are no matter; more is told with its sign."""
    found, message = await clock(seconds_off)
    assert (found, words in message) == (verdict, True), message
