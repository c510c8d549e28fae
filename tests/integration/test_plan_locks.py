"""`plan` gives for each kind of statement the lock modes of PostgreSQL's documentation, measured and by rule."""

import asyncio
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import asyncpg
import pytest

from api.migrations.cli import commands
from api.migrations.cli.plan.lock_modes import LockMode
from api.migrations.cli.plan.report import PlannedStatement, PlanReport
from tests.conftest import fresh_name
from tests.support import backups
from tests.support.documented_locks import DOCUMENTED, Documented, history
from tests.support.fakes import assembled, eventually, tree
from tests.support.servers import Server, fetch

NAMES = [each.name for each in DOCUMENTED]


async def planned(url: str, ini: Path, **options: object) -> PlanReport:
    """Return the plan of all pending revisions."""
    arguments = Namespace(**{"revision": "head", "on": None, "rules": False, "sql": False, **options})
    return cast(PlanReport, await commands.plan(assembled(url, ini), arguments))


@pytest.fixture(scope="module")
def reports(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PlanReport]:
    """Plan one history with a pending revision for each kind, once measured and once by rule."""
    first, others = history()
    with pytest.MonkeyPatch.context() as patch, server.database(fresh_name()) as url:
        patch.setenv("PATH", backups.path())
        ini = tree(tmp_path_factory.mktemp("kinds"), first, *others)

        async def both() -> dict[str, PlanReport]:
            return {"measured": await planned(url, ini), "by rule": await planned(url, ini, rules=True)}

        return asyncio.run(both())


def the_statement(report: PlanReport, name: str) -> PlannedStatement:
    """Return the planned statement of one kind."""
    [statement] = report.revisions[1 + NAMES.index(name)].statements
    return statement


def locks_of(statement: PlannedStatement, tables: set[str]) -> dict[str, str]:
    """Return the modes on `tables` by name."""
    return {lock.on: str(lock.mode) for lock in statement.locks if lock.on in tables}


@pytest.mark.parametrize("how", ["measured", "by rule"])
@pytest.mark.parametrize("kind", DOCUMENTED, ids=NAMES)
def test_the_lock_modes_are_those_of_the_documentation(
    reports: dict[str, PlanReport], kind: Documented, how: str
) -> None:
    """Each kind locks what its page says, rewrites and reads what it should, and says how that is known."""
    assert reports["measured"].why_by_rule is None
    statement = the_statement(reports[how], kind.name)
    assert statement.how == ("by rule" if kind.autocommit else how)
    assert locks_of(statement, set(kind.expected)) == kind.expected, f"{kind.page}: {kind.words}"
    first = next(iter(kind.expected))
    assert (first in statement.rewrites, first in statement.reads) == (kind.rewrites, kind.reads)
    others = {lock.on for lock in statement.locks if lock.mode > LockMode.ACCESS_SHARE and not lock.is_index}
    assert others <= set(kind.expected), "locks nothing else in a mode that matters"


@asynccontextmanager
async def held(url: str, table: str) -> AsyncIterator[None]:
    """Hold the weakest lock that lets SHARE UPDATE EXCLUSIVE and stronger modes wait."""
    connection = await asyncpg.connect(url)
    await connection.execute(f"BEGIN; LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")
    try:
        yield
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", [each for each in DOCUMENTED if each.autocommit], ids=lambda kind: kind.name)
async def test_the_server_asks_for_the_lock_of_the_rule_where_nothing_can_be_measured(
    database_url: str, kind: Documented
) -> None:
    """A statement that cannot run in a transaction waits for the table in the mode that the documentation gives."""
    working = await asyncpg.connect(database_url)
    for sql in (kind.setup, *kind.more):
        await working.execute(sql.format(t=kind.table))
    asked = (
        "SELECT mode FROM pg_locks WHERE NOT granted AND locktype = 'relation' "
        f"AND relation = '{kind.table}'::regclass AND pid = {working.get_server_pid()}"
    )
    async with held(database_url, kind.table):
        task = asyncio.create_task(working.execute(kind.statement))
        await eventually(database_url, f"SELECT EXISTS ({asked})", "the statement at the table")
        [row] = await fetch(database_url, asked)
    await task
    await working.close()
    assert str(LockMode.named(row["mode"])) == kind.expected[kind.table]
