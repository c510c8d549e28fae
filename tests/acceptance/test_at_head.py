"""An instance that starts at head opens one connection, runs one query, acquires no lock and runs no revision."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.wire import wire
from tests.support import evidence
from tests.support.fleet import MARK, fleet, migrate, until_all_ready
from tests.support.pace import scaled
from tests.support.project import ROOT

pytestmark = pytest.mark.acceptance


def test_the_proxy_counts_connections_and_statements(ledger_url: str) -> None:
    """The proxy sees that `stamp head` opens two connections and tries the lock, so the counts below are real."""
    with wire(ledger_url) as (server, url):
        code, output = migrate("stamp", "head", url=url)
        assert code == 0, output
    assert server.connections == 2, "one for the lock and the work, one to verify"
    assert any("pg_try_advisory_lock" in statement for statement in server.statements)


def test_a_start_at_head_uses_one_connection_and_one_query(ledger_url: str) -> None:
    """An instance at head becomes ready with one connection and one query; its pool connects on the first request."""
    with wire(ledger_url) as (server, url), fleet(1, url) as instances:
        until_all_ready(instances)
        assert len(server.statements) == 1, server.statements
        assert "alembic_version" in server.statements[0]
        assert server.connections == 1
        assert evidence.sessions(ledger_url) == []
        assert instances[0].get("/accounts/1").status_code == 404
        assert server.connections == 2


IMPORTS = """
import asyncio, sys

from fastapi import FastAPI
import pydantic_settings, sqlalchemy.dialects.postgresql.asyncpg, sqlalchemy.ext.asyncio

before = set(sys.modules)

from api.migrations import lifespan_with_migrations


async def main() -> None:
    app = FastAPI(lifespan=lifespan_with_migrations)
    async with app.router.lifespan_context(app):
        pass


asyncio.run(main())
print("\\n".join(sorted(set(sys.modules) - before)))
"""
IMPORTED = Path(__file__).with_name("imported_at_head.txt")


def test_a_start_at_head_imports_only_what_it_needs(ledger_url: str) -> None:
    """A start at head imports the modules of the list, which may only become shorter: nothing of Alembic is in it."""
    environment = {**os.environ, "DATABASE_URL": ledger_url, "MIGRATION_STARTUP_MODE": "block"}
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=scaled(60))
    assert done.returncode == 0, done.stderr
    listed, imported = set(IMPORTED.read_text().split()), set(done.stdout.split())
    assert imported - listed == set(), "a start at head imports more: import it where it is needed"
    assert {name for name in listed - imported if name.startswith("api.")} == set(), "remove these lines"
    assert not any(name.startswith(("alembic", "mako", "prometheus_client")) for name in imported)


def test_a_function_after_the_revisions_adds_no_query_at_head(ledger_url: str) -> None:
    """With MIGRATION_AFTER, once it has run for this head, a start still uses one connection and one query."""
    after = "builtins:repr"
    assert migrate("upgrade", url=ledger_url, MIGRATION_AFTER=after)[0] == 0
    assert evidence.history(ledger_url)[-1]["direction"] == "after"
    with wire(ledger_url) as (server, url), fleet(1, url, MIGRATION_AFTER=after) as instances:
        until_all_ready(instances)
        assert (server.connections, len(server.statements)) == (1, 1)


def test_a_start_with_strategy_off_opens_no_connection(ledger_url: str) -> None:
    """With MIGRATION_STRATEGY=off, the baseline, an instance becomes ready and never connects to the database."""
    with wire(ledger_url) as (server, url), fleet(1, url, MIGRATION_STRATEGY="off") as instances:
        until_all_ready(instances)
        assert instances[0].health()["phase"] == "off"
        assert (server.connections, server.statements) == (0, [])


def test_no_instance_tries_the_lock_at_head(ledger_url: str) -> None:
    """Three instances start at head: each runs one query, none tries the advisory lock or writes to the history."""
    before = evidence.history(ledger_url)
    with wire(ledger_url) as (server, url), fleet(3, url) as instances:
        until_all_ready(instances)
        assert (server.connections, len(server.statements)) == (3, 3)
        assert "advisory" not in "".join(server.statements)
        assert MARK not in "".join(instance.log() for instance in instances)
        assert all("Ready: the database is at head" in instance.log() for instance in instances)
        assert {instance.health()["phase"] for instance in instances} == {"ready"}
    assert evidence.history(ledger_url) == before
