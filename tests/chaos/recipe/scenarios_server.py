"""The server is unreachable, restarts, has no free connection, or is busy."""

from __future__ import annotations

import time

from devtools.ports import HOST, free_port
from tests.chaos.lab import Lab, laboratory
from tests.chaos.recipe.crew import Crew, at_work, dead, holder_and_peer, holders, state, until
from tests.chaos.recipe.replica import REPLICATION, copy_of
from tests.chaos.recipe.scenario import scenario
from tests.chaos.recipe.trees import ADD_COLUMN, TABLE, long, tree
from tests.chaos.recipe.trouble import readers_of, reading
from tests.support.servers import embedded_postgres, fetch_sync


@scenario("27", "a standby beside the primary, one instance on each")
def standby(_: Lab, crew: Crew) -> str:
    """A standby grants the lock too, because advisory locks are not replicated."""
    ini = tree(crew.folder / "tree", TABLE, long(4))
    with embedded_postgres(REPLICATION) as primary, primary.database("replicated") as url, copy_of(primary) as copy:
        crew.start(ini, url=url)
        until(lambda: at_work(url) == 1, "one at work")
        member = crew.start(ini, url=copy.url("replicated"))
        code, first = member.code(), len(holders(url))
        return f"granted there too ({first} holder on the primary), then dead (exit {code}): {member.error()}"


@scenario("30", "40 instances, max_connections = 20")
def connections(_: Lab, crew: Crew) -> str:
    """Each waiter occupies a connection."""
    ini = tree(crew.folder / "tree", TABLE, long(5))
    with laboratory(max_connections="20") as small, small.server.database("crowd") as url:
        crowd = crew.start(ini, "--crowd", "40", url=url)
        return f"{crowd.code()} of 40 dead ({crowd.error()}), {state(url)}"


@scenario("31", "the database is not up yet")
def not_up_yet(_: Lab, crew: Crew) -> str:
    """The instance does not wait for a server that is still starting."""
    began = time.monotonic()
    member = crew.start(tree(crew.folder / "tree", TABLE), url=f"postgresql://postgres@{HOST}:{free_port()}/x")
    code = member.code()
    return f"dead (exit {code}) {time.monotonic() - began:.1f} s after its start: {member.error()}"


@scenario("32", "the server restarts while one migrates and one waits")
def restarted(lab: Lab, crew: Crew) -> str:
    """The instances do not retry after the restart."""
    both = holder_and_peer(crew, TABLE, long(20))
    lab.server.restart("fast")
    return f"{dead(both)} of 2 dead, {state(crew.url)}"


@scenario("36", "ALTER TABLE behind a report of 6 s")
def queued_readers(_: Lab, crew: Crew) -> str:
    """Readers queue behind an ALTER TABLE that waits for a report."""
    fetch_sync(crew.url, "CREATE TABLE hot (a int)")
    reading(crew.url, "hot", 6)
    with readers_of(crew.url, "hot") as readers:
        crew.start(tree(crew.folder / "tree", ADD_COLUMN)).code()
    return str(readers)


@scenario("38", "a URL as platforms hand it out: …?sslmode=require")
def sslmode(_: Lab, crew: Crew) -> str:
    """SQLAlchemy passes the URL's sslmode to asyncpg, which does not know the keyword."""
    member = crew.start(tree(crew.folder / "tree", TABLE), url=f"{crew.url}?sslmode=require")
    return f"dead (exit {member.code()}): {member.error()}"
