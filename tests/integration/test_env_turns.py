"""Several starts in one process share `alembic.context`: each of them finds its own context there."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from api.migrations.assembly import Assembly
from tests.conftest import fresh_name
from tests.support.evidence import applied, running
from tests.support.fakes import assembled, tree
from tests.support.servers import Server
from tests.support.waiting import wait_until

USES_CONTEXT = """
from alembic import context
for _ in range(5):
    op.execute("SELECT pg_sleep(0.1)")
    assert context.config.attributes["whose"] == "{whose}"
op.execute("CREATE TABLE {whose} (a int)")
"""
ENV = """
from alembic import context
from api.migrations.environment import run_env
context.config.attributes["whose"] = "{whose}"
run_env()
assert context.config.attributes["whose"] == "{whose}"
"""


def start(url: str, folder: Path, whose: str) -> Assembly:
    """Return a start whose env.py and revision assert that Alembic's context is their own."""
    folder.mkdir()
    ini = tree(folder, USES_CONTEXT.format(whose=whose), env=ENV.format(whose=whose))
    return assembled(url, ini, whose)


async def test_two_databases_are_migrated_in_two_threads(server: Server, tmp_path: Path) -> None:
    """Two threads migrate two databases: each revision finds its own context, and both are applied once."""
    with server.database(fresh_name()) as one, server.database(fresh_name()) as two, ThreadPoolExecutor(2) as threads:
        starts = [start(one, tmp_path / "one", "one"), start(two, tmp_path / "two", "two")]
        each = [threads.submit(asyncio.run, begun.coordinator().become_ready()) for begun in starts]
        for done in each:
            await asyncio.wrap_future(done)
        assert (applied(one), applied(two)) == (["r1"], ["r1"])


async def test_env_py_is_inspected_while_a_revision_is_suspended(database_url: str, tmp_path: Path) -> None:
    """Five starts share an event loop: waiters inspect env.py in mid-run, and the run keeps its own context."""
    first, *others = [start(database_url, tmp_path / f"{number}", "one") for number in range(5)]
    run = asyncio.create_task(first.coordinator().become_ready())
    await asyncio.to_thread(wait_until, lambda: running(database_url) == ["r1"], "the run")
    await asyncio.gather(run, *(each.coordinator().become_ready() for each in others))
    assert applied(database_url) == ["r1"]
