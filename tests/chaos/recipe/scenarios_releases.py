"""Revisions fail, releases differ, or instances use no lock."""

from __future__ import annotations

from tests.chaos.lab import Lab
from tests.chaos.recipe.crew import Crew, at_work, state, until, waiting
from tests.chaos.recipe.scenario import scenario
from tests.chaos.recipe.trees import ADD_COLUMN, SLOW_TABLE, TABLE, add_revision, long, tree
from tests.chaos.recipe.trouble import readers_of
from tests.support.servers import fetch_sync

FAILS = f"""\
op.execute("SELECT nextval('attempts')")
{ADD_COLUMN}
time.sleep(0.4)
op.execute("SELECT 1/0")"""


@scenario("39, 40, 41", "a revision that fails, 6 replicas, each started 3 times")
def failing(_: Lab, crew: Crew) -> str:
    """Each replica runs the failing revision in turn, and acquires the table's lock each time."""
    fetch_sync(crew.url, "CREATE SEQUENCE attempts")
    fetch_sync(crew.url, "CREATE TABLE hot (a int)")
    ini = tree(crew.folder / "tree", TABLE, FAILS)
    with readers_of(crew.url, "hot") as readers:
        for _again in range(3):
            crew.start(ini, "--crowd", "6").code()
    attempts = fetch_sync(crew.url, "SELECT last_value FROM attempts")[0][0]
    return f"{attempts} attempts; {readers}"


@scenario("42, 43", "an older release waits while a newer one migrates, and starts again afterwards")
def older_release(_: Lab, crew: Crew) -> str:
    """An older release reports a newer revision as unknown."""
    new, old = tree(crew.folder / "new", TABLE, long(3)), tree(crew.folder / "old", TABLE)
    crew.start(new)
    until(lambda: at_work(crew.url) == 1, "the newer at work")
    waits = crew.start(old)
    until(lambda: waiting(crew.url) == 1, "the older waiting")
    codes = [waits.code(), crew.start(old).code()]
    return f"{sum(map(bool, codes))} of 2 starts dead: {waits.error()}"


@scenario("44", "two heads in one tree")
def two_heads(_: Lab, crew: Crew) -> str:
    """Two heads are found only at the start in production, with the lock held."""
    ini = tree(crew.folder / "tree", TABLE)
    add_revision(crew.folder / "tree", "other", TABLE, None)
    member = crew.start(ini)
    return f"dead under the lock (exit {member.code()}): {member.error()}"


@scenario("45", "no lock at all, 30 instances")
def no_lock(_: Lab, crew: Crew) -> str:
    """Alembic has no lock of its own: many instances migrate at once."""
    ini = tree(crew.folder / "tree", SLOW_TABLE, TABLE.replace("TABLE t", "TABLE u"))
    failed = crew.start(ini, "--lock", "none", "--crowd", "30").code()
    return f"{failed} of 30 dead, {state(crew.url)}"
