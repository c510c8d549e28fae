"""Phases in which a test can hold a run and interrupt it, and what the database must contain afterwards."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from api.migrations.core.lock_key import LockKey
from tests.acceptance import holders
from tests.acceptance.wire import wire
from tests.support import evidence, project
from tests.support.fakes import in_the_way
from tests.support.pace import scaled
from tests.support.project import GATE, Revision
from tests.support.servers import fetch_sync

BUDGET_SECONDS = scaled(3)
"""The budget of a run that must time out; the run has to reach its phase before."""
KEY = LockKey.derive("fastapi", "alembic_version", None)
LOOKED = "query ~ 'LISTEN|pg_try_advisory_lock|pg_locks' AND application_name LIKE 'migrations:%:waiting:%'"
AT_COMMIT = """mark()
op.execute("CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
           "WHILE to_regclass('let_go') IS NULL LOOP PERFORM pg_sleep(0.05); END LOOP; RETURN NULL; END $$")
op.execute("CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON marks DEFERRABLE INITIALLY DEFERRED "
           "FOR EACH ROW EXECUTE FUNCTION at_commit()")
op.execute("INSERT INTO marks VALUES ('at commit')")
"""


@dataclass(frozen=True)
class Stage:
    """What a test starts a process on, and what it can do to the process in the phase.

    Attributes:
        url: the database as the process sees it.
        ini: the history that it migrates along.
        reached: returns whether the process is held in the phase now.
        lose: cuts the connection, and lets the process pass when it comes here again.
        late: is called when the budget has ended: what the process needs in order to notice.
    """

    url: str
    ini: Path
    reached: Callable[[], bool]
    lose: Callable[[], None]
    late: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Phase:
    """A phase, and what the database contains after a run was interrupted there.

    Attributes:
        revision: the revision that runs, or comes next.
        hold: makes the stage, and undoes its effects at the end.
        cancelled: outcomes of the attempts after a signal; equal ones in a row count once.
        late: outcomes after the end of the budget.
        late_code: the command's exit code after the end of the budget.
        regained: outcomes after a lost connection and a successful end.
        stays: whether the revision's work stays in the database.
    """

    revision: str
    hold: Callable[[str, Path], AbstractAsyncContextManager[Stage]]
    cancelled: tuple[str, ...] = ("running",)
    late: tuple[str, ...] = ("failed",)
    late_code: int = 1
    regained: tuple[str, ...] = ("interrupted", "applied")
    stays: bool = False


def holds(url: str, condition: str) -> bool:
    """Return whether a session in this database meets the condition."""
    sql = f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {condition}"
    return bool(fetch_sync(url, sql)[0][0])


def terminate(url: str, condition: str) -> None:
    """Terminate the one session that meets the condition."""
    sql = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND {condition}"
    assert [tuple(row) for row in fetch_sync(url, sql)] == [(True,)]


@asynccontextmanager
async def sent_away(url: str, folder: Path) -> AsyncIterator[Stage]:
    """Refuse every connection: the process has tried twice and keeps retrying."""
    with wire(url) as (server, through):
        server.shut = True

        def open_again() -> None:
            server.shut = False

        ini = project.make_history(folder, project.quick())
        yield Stage(through, ini, lambda: server.connections >= 2, open_again)


@asynccontextmanager
async def connecting(url: str, folder: Path) -> AsyncIterator[Stage]:
    """Accept the connection and never answer."""
    with wire(url) as (server, through):
        server.answers.clear()

        def lose() -> None:
            server.send_away()
            server.answers.set()

        ini = project.make_history(folder, project.quick())
        yield Stage(f"{through}&connect_timeout=1", ini, lambda: server.connections >= 1, lose)


@asynccontextmanager
async def waiting(url: str, folder: Path) -> AsyncIterator[Stage]:
    """Hold the lock in another session."""
    holder = await asyncpg.connect(url)
    assert await holder.fetchval("SELECT pg_try_advisory_lock($1)", KEY.value)

    def lose() -> None:
        terminate(url, LOOKED)
        fetch_sync(url, f"SELECT pg_terminate_backend({holder.get_server_pid()})")

    ini = project.make_history(folder, project.quick())
    try:
        yield Stage(url, ini, lambda: holds(url, f"state = 'idle' AND {LOOKED}"), lose)
    finally:
        await holder.close()


@asynccontextmanager
async def pausing(url: str, folder: Path) -> AsyncIterator[Stage]:
    """Block a table lock: the revision is rolled back, and its run pauses before the retry."""
    ini = project.make_history(folder, project.contended("held", pause_seconds=BUDGET_SECONDS + 1))
    async with in_the_way(url, "SELECT count(*) FROM accounts", "report") as blocker:

        def reached() -> bool:
            retried = evidence.outcomes(url, "held") == ["retried"]
            return retried and holds(url, f"state = 'idle' AND {holders.HOLDING}")

        def lose() -> None:
            terminate(url, holders.HOLDING)
            fetch_sync(url, f"SELECT pg_terminate_backend({blocker.get_server_pid()})")

        yield Stage(url, ini, reached, lose)


@asynccontextmanager
async def in_a_statement(url: str, folder: Path, revision: Revision | None = None) -> AsyncIterator[Stage]:
    """Hold the run in a long statement, in the revision's transaction or, with a `revision`, outside of any."""

    def lose() -> None:
        evidence.let_go(url)
        terminate(url, holders.MIGRATING)

    ini = project.make_history(folder, revision or holders.in_the_server("held"))
    yield Stage(url, ini, lambda: evidence.executing(url, "pg_sleep(300)"), lose)


def in_autocommit(url: str, folder: Path, *, idempotent: bool = True) -> AbstractAsyncContextManager[Stage]:
    """Hold the run in a statement outside a transaction, after a part was committed."""
    body = f"""
        with op.get_context().autocommit_block():
            op.execute("DROP TABLE IF EXISTS marks")
            mark()
            if not op.get_bind().scalar({GATE}):
                op.execute("SELECT pg_sleep(300)")
    """
    return in_a_statement(url, folder, Revision("held", body, header=f"idempotent = {idempotent}"))


@asynccontextmanager
async def in_python(url: str, folder: Path) -> AsyncIterator[Stage]:
    """Hold the run in Python code, with the transaction open."""

    def late() -> None:
        (folder / "wake").touch()

    def lose() -> None:
        evidence.let_go(url)
        terminate(url, holders.MIGRATING)
        late()

    # it must not finish between the end of its budget and its cancellation
    held = holders.in_python(folder, "held")
    ini = project.make_history(folder, replace(held, upgrade=held.upgrade + project.WAIT_FOR_THE_TEST))
    yield Stage(url, ini, (folder / "asleep").exists, lose, late)


@asynccontextmanager
async def committing(url: str, folder: Path) -> AsyncIterator[Stage]:
    """Hold the run inside COMMIT, before the server has committed."""

    def lose() -> None:
        terminate(url, holders.MIGRATING)
        evidence.let_go(url)

    ini = project.make_history(folder, Revision("held", AT_COMMIT))
    yield Stage(url, ini, lambda: evidence.executing(url, "COMMIT"), lose)


@asynccontextmanager
async def committed(url: str, folder: Path) -> AsyncIterator[Stage]:
    """Hold the run inside COMMIT, after the commit: the server has not answered, and waits for a missing standby."""
    fetch_sync(url, f'ALTER DATABASE "{urlsplit(url).path[1:]}" SET synchronous_commit = off')
    ini = project.make_history(folder, Revision("held", 'mark()\nop.execute("SET LOCAL synchronous_commit = on")'))
    fetch_sync(url, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    fetch_sync(url, "SELECT pg_reload_conf()")
    held = f"wait_event = 'SyncRep' AND {holders.MIGRATING}"
    try:
        yield Stage(url, ini, lambda: holds(url, held), lambda: terminate(url, held))
    finally:
        fetch_sync(url, "ALTER SYSTEM RESET synchronous_standby_names")
        fetch_sync(url, "SELECT pg_reload_conf()")


@asynccontextmanager
async def verifying(url: str, folder: Path) -> AsyncIterator[Stage]:
    """Hold the run after its last commit, with the lock held, while it cannot connect to verify."""
    ini = project.make_history(folder, project.held())
    with wire(url) as (server, through):

        def reached() -> bool:
            if server.answers.is_set() and evidence.running(url) == ["held"]:
                server.answers.clear()
                server.connections = 0
                evidence.let_go(url)
            return evidence.versions(url) == ["held"] and server.connections > 0

        def lose() -> None:
            server.send_away()
            server.answers.set()

        yield Stage(f"{through}&connect_timeout=2", ini, reached, lose)


PHASES = {
    "sent away": Phase("quick", sent_away, (), (), 5, ("applied",)),
    "connecting": Phase("quick", connecting, (), (), 5, ("applied",)),
    "waiting": Phase("quick", waiting, (), (), 4, ("applied",)),
    "pausing": Phase("held", pausing, ("retried",), ("failed",), late_code=4, regained=("retried", "applied")),
    "statement": Phase("held", in_a_statement),
    "python": Phase("held", in_python),
    "autocommit": Phase("held", in_autocommit, ("half_applied",), ("half_applied",), stays=True),
    "committing": Phase("held", committing),
    "committed": Phase("held", committed, ("applied",), ("applied",), 0, ("applied",), stays=True),
    "verifying": Phase("held", verifying, ("applied",), ("applied",), 5, ("applied",), stays=True),
}
