"""A contract revision does not run while a session of a build that lacks what it requires is connected."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from api.migrations.build import session_name
from api.migrations.core.protocols import Kind, MigrationRequest
from api.migrations.core.status import Phase
from api.migrations.errors import OldInstances
from api.migrations.inspection import read_session, read_status
from api.migrations.settings import MigrationSettings
from tests.support.fakes import STOP, assembled, barrier, revision, tree
from tests.support.pooler import StartPooler, through
from tests.support.servers import fetch
from tests.support.waiting import until

HEAD = MigrationRequest("upgrade", "head")
CREATE, ADD, DROP = (
    f'op.execute("{sql}")'
    for sql in ("CREATE TABLE t (a int)", "ALTER TABLE t ADD COLUMN b int", "ALTER TABLE t DROP COLUMN a")
)


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    """Return a history of a table, an expand revision and a contract that requires it."""
    made = tree(tmp_path, CREATE)
    revision(tmp_path, "r2", ADD, after="r1", extra='phase = "expand"\n')
    revision(tmp_path, "r3", DROP, after="r2", extra='phase = "contract"\nrequires = "r2"\n')
    return made


@asynccontextmanager
async def connected(url: str, *names: str) -> AsyncIterator[list[asyncpg.Connection]]:
    """Hold sessions with these names."""
    opened = [await asyncpg.connect(url, server_settings={"application_name": name}) for name in names]
    try:
        yield opened
    finally:
        for each in opened:
            await each.close()


async def upgrade(url: str, ini: Path, request: MigrationRequest = HEAD, **settings: Any) -> None:
    """Run the request under the lock."""
    await assembled(url, ini, **settings).operator_coordinator().execute(request)


async def applied(url: str) -> list[tuple[str, str]]:
    """Return revision and outcome of each attempt, oldest first."""
    rows = await fetch(url, "SELECT revision, outcome FROM alembic_version_history ORDER BY id")
    return [(row["revision"], row["outcome"]) for row in rows]


@pytest.mark.parametrize("name", ["shop@r1", "shop@base"])
async def test_the_session_of_an_old_build_ends_the_wait_without_an_attempt(
    database_url: str, ini: Path, name: str
) -> None:
    """The build lacks the required revision: nothing runs, nothing is recorded, and the error names the sessions."""
    await upgrade(database_url, ini, MigrationRequest("upgrade", "r1"))
    async with connected(database_url, name, name):
        with pytest.raises(OldInstances) as refused:
            await upgrade(database_url, ini, wait_seconds=0.5, run_seconds=0.5)
    message = str(refused.value)
    assert "timed out after MIGRATION_WAIT_SECONDS=0.5: revision r3 drops what older builds need" in message
    assert f"builds without r2 are connected: {name} (2 sessions, such as pid " in message
    assert message.count("To fix: finish the deploy of a release that contains it, or stop those instances") == 1
    assert await applied(database_url) == [("r1", "applied")]


@pytest.mark.parametrize(
    "name", ["shop@r2", "shop@r3", "shop@r1,r2", "shop", "migrations:a:b@c", "billing@of_another_history"]
)
async def test_other_sessions_do_not_matter(database_url: str, ini: Path, name: str) -> None:
    """Builds that contain the required revision, builds of other histories and sessions of other names do not block."""
    async with connected(database_url, name):
        await upgrade(database_url, ini)
    assert [revision for revision, _ in await applied(database_url)] == ["r1", "r2", "r3"]


async def test_a_head_that_only_the_history_knows_is_followed(database_url: str, ini: Path) -> None:
    """A build's head that this build does not know counts by its recorded ancestors."""
    await upgrade(database_url, ini, MigrationRequest("upgrade", "r2"))
    columns = "(revision, parents, direction, outcome, instance)"
    for values in ("'elsewhere', 'r2'", "'aside', 'r1'"):
        await fetch(
            database_url, f"INSERT INTO alembic_version_history {columns} VALUES ({values}, 'upgrade', 'applied', 'x')"
        )
    async with connected(database_url, "shop@aside"):
        with pytest.raises(OldInstances):
            await upgrade(database_url, ini, wait_seconds=0.5, run_seconds=0.5)
    async with connected(database_url, "shop@elsewhere"):
        await upgrade(database_url, ini)


async def test_an_operator_may_override(database_url: str, ini: Path) -> None:
    """With the flag of the command the contract runs although an old build is connected."""
    async with connected(database_url, "shop@r1"):
        await upgrade(database_url, ini, MigrationRequest("upgrade", "head", despite_instances=True))
    assert (await applied(database_url))[-1] == ("r3", "applied")


async def test_a_session_in_another_database_does_not_matter(database_url: str, ini: Path) -> None:
    """The database that is migrated counts, not the server."""
    async with connected(database_url.rpartition("/")[0] + "/postgres", "shop@r1"):
        await upgrade(database_url, ini)
    assert (await applied(database_url))[-1] == ("r3", "applied")


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
async def test_an_old_instance_that_starts_during_the_run_stops_it_before_the_contract(
    database_url: str, ini: Path, driver: str
) -> None:
    """The old build connects while an earlier revision runs: the contract waits, then runs when it has gone."""
    revision(ini.parent, "r2", f"{ADD}\nop.execute('{STOP}')", after="r1", extra='phase = "expand"\n')
    assembly = assembled(database_url.replace("postgresql", driver, 1), ini)
    run = asyncio.create_task(assembly.operator_coordinator().execute(HEAD))
    async with barrier(database_url) as held:
        await held()
        old = await asyncpg.connect(database_url, server_settings={"application_name": "shop@r1"})

    async def seen() -> bool:
        # the barrier blocks too, before that
        return any(one.lacks for one in assembly.tracker.status.lock_status.blocked_by)

    await until(seen, "the old build to be seen")
    assert (assembly.tracker.status.phase, await applied(database_url)) == (
        Phase.WAITING,
        [("r1", "applied"), ("r2", "applied")],
    )
    await old.close()
    await run
    assert (await applied(database_url))[2:] == [("r3", "applied")]


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
@pytest.mark.parametrize("kind", ["upgrade", "stamp"])
async def test_the_history_has_what_a_contract_requires(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, ini: Path, database: str, kind: Kind
) -> None:
    """After a contract and a further revision, applied or stamped, older builds read what the contract requires."""
    monkeypatch.setenv("MIGRATION_STRATEGY", "advisory_lock")  # in a container the default refuses the file
    revision(ini.parent, "r4", "pass", after="r3")
    url = request.getfixturevalue("database_url") if database == "postgresql" else f"sqlite:///{ini.parent}/shop.db"
    await upgrade(url, ini, MigrationRequest(kind, "head"))
    found = await read_session(assembled(url, ini), lambda session: session.store.contracts())
    assert found == {"r3": "r2"}


async def test_status_shows_the_old_instances(database_url: str, ini: Path) -> None:
    """The command `status` names the builds that block the next run, although no session holds the lock."""
    await upgrade(database_url, ini, MigrationRequest("upgrade", "r2"))
    assembly = assembled(database_url, ini)
    async with connected(database_url, "shop@r1"):
        status = await read_session(assembly, lambda session: read_status(assembly, session))
    assert [(one.application, one.lacks) for one in status.lock_status.blocked_by] == [("shop@r1", "r2")]


async def test_sessions_through_a_transaction_pooler_are_seen(
    database_url: str, ini: Path, pgbouncer: StartPooler
) -> None:
    """PgBouncer passes the name on, and a run behind it waits too."""
    url = through(pgbouncer(), database_url)
    await upgrade(url, ini, MigrationRequest("upgrade", "r2"))
    async with connected(url, "shop@r1") as [old]:
        await old.execute("BEGIN")  # now it has a connection of the server
        with pytest.raises(OldInstances):
            await upgrade(url, ini, wait_seconds=0.5, run_seconds=0.5)
        await old.execute("ROLLBACK")
    assert (await applied(database_url))[-1] == ("r2", "applied")


def test_the_name_of_the_pool_has_the_head_of_the_build(ini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name has the head of the build's files, from the settings of the environment or those that are given."""
    monkeypatch.setenv("MIGRATION_ALEMBIC_CONFIG", str(ini))
    assert session_name("shop") == "shop@r3"
    revision(ini.parent, "r4", "pass", after="r3")
    settings = MigrationSettings.load(alembic_config=str(ini), database_url="sqlite:///x.db")
    assert session_name("shop", settings) == "shop@r4"
