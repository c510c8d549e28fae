"""Three instances on MariaDB, MySQL or SQLite have only the database's own lock between them: one migrates."""

import math
import signal
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import portable
from tests.support import project
from tests.support.fleet import (
    MARK,
    Instance,
    alembic,
    finish,
    fleet,
    migrate,
    start_alembic,
    start_migrate,
    until_all_ready,
    until_one_migrates,
    until_phase,
)
from tests.support.pace import scaled
from tests.support.places import HISTORY, MariaDBPlace, Place, SqlitePlace, applied, history, marks, outcomes, versions
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

ON_SECONDS = math.ceil(scaled(4))
"""How many seconds a statement continues in MariaDB after its client was killed."""
POLL = {"MIGRATION_POLL_SECONDS": "0.3"}
BUDGETS = ("MIGRATION_RUN_SECONDS", "MIGRATION_WAIT_SECONDS")


@pytest.fixture(params=["mariadb", "sqlite"])
def place(request: pytest.FixtureRequest) -> Place:
    """Return an empty database of each kind; MySQL only if a test names it, because its fleets are slow."""
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found


def three(place: Place, ini: Path, **settings: str) -> AbstractContextManager[list[Instance]]:
    """Start three instances on the database."""
    return fleet(3, place.url, ini=ini, first=1, inside=(), **{**place.settings, **POLL, **settings})


def migrator(instances: list[Instance], ini: Path) -> tuple[Instance, list[Instance]]:
    """Wait until one instance is held in its revision; return it and the others."""
    first = until_one_migrates(instances)
    portable.until_reached(ini)
    return first, [instance for instance in instances if instance is not first]


def sleeps(place: MariaDBPlace) -> bool:
    """Return whether the server executes the statement of `portable.in_statement`."""
    return any("SLEEP" in statement for _, statement in place.sessions())


def assert_once(place: Place, ini: Path) -> None:
    """Assert that every revision was applied once and the lock is free."""
    assert applied(place) == project.revisions(ini)
    assert versions(place) == [project.head(ini)]
    assert marks(place) == sorted(set(marks(place)))
    wait_until(place.lock_is_free, "the lock free", seconds=10)


def test_one_of_three_instances_migrates(place: Place, tmp_path: Path) -> None:
    """One instance migrates: the waiters name it and are not ready; then all are, and one log says that it migrated."""
    ini = portable.make_history(tmp_path, portable.held(), portable.noted())
    with three(place, ini) as instances:
        first, others = migrator(instances, ini)
        until_phase(others, "waiting")
        named = f"{first.name} (pid "
        wait_until(lambda: all(named in i.message() for i in others), "its name", seconds=30)
        assert not any(instance.ready() for instance in instances)
        assert not place.lock_is_free()
        portable.let_go(ini)
        until_all_ready(instances)
        assert [instance.log().count(MARK) for instance in (first, *others)] == [1, 0, 0]
    assert_once(place, ini)
    assert {row[2] for row in history(place)} == {first.name}


KILLED = [("mariadb", "statement"), ("mariadb", "between"), ("sqlite", "statement"), ("sqlite", "between")]


@pytest.mark.parametrize(("place", "where"), [*KILLED, ("mysql", "statement")], indirect=["place"])
def test_a_waiter_takes_over_from_a_killed_lock_holder(place: Place, tmp_path: Path, where: str) -> None:
    """SIGKILL rolls the revision back; a waiter runs it again, but never beside the killed holder's statement."""
    revision = portable.in_statement(place, "held", seconds=ON_SECONDS) if where == "statement" else portable.held()
    ini = portable.make_history(tmp_path, revision, portable.noted())
    with three(place, ini) as instances:
        first, others = migrator(instances, ini)
        if where == "statement":
            if isinstance(place, MariaDBPlace):
                wait_until(partial(sleeps, place), "the statement in the server", seconds=60)
            portable.let_go(ini)
            portable.until_in_statement(place)
        first.kill(signal.SIGKILL)
        first.wait()
        portable.let_go(ini)
        until_all_ready(others)
    assert outcomes(place, "held") == ["interrupted", "applied"]
    assert marks(place) == ["ground", "held", "noted"]
    if isinstance(place, MariaDBPlace) and where == "statement":
        [[apart]] = place.rows(
            f"SELECT timestampdiff(SECOND, min(started_at), max(started_at)) FROM {HISTORY} WHERE revision = 'held'"
        )
        # the server checks every five seconds whether the client of a SLEEP still exists
        assert int(apart) >= 3
    assert_once(place, ini)


@pytest.mark.parametrize("where", ["statement", "between"])
def test_a_lock_holder_ends_its_statement_on_sigterm(place: Place, tmp_path: Path, where: str) -> None:
    """SIGTERM reaches the lock holder: its statement ends in the database too, and a waiter finishes the revision."""
    revision = portable.in_statement(place, "held") if where == "statement" else portable.held()
    ini = portable.make_history(tmp_path, revision)
    with three(place, ini) as instances:
        first, others = migrator(instances, ini)
        if where == "statement":
            portable.let_go(ini)
            portable.until_in_statement(place)
        first.kill(signal.SIGTERM)
        assert first.wait() == 143
        assert "Traceback" not in first.log()
        portable.let_go(ini)
        until_all_ready(others)
    assert outcomes(place, "held") == ["interrupted", "applied"]
    assert_once(place, ini)


def test_a_timeout_ends_the_statement_in_the_database(place: Place, tmp_path: Path) -> None:
    """`upgrade` times out: its statement ends in the database, the revision is rolled back, and the lock is free."""
    ini = portable.make_history(tmp_path, portable.in_statement(place))
    limits = dict.fromkeys(BUDGETS, f"{scaled(2):g}")
    code, output = migrate("upgrade", url=place.url, ini=ini, **place.settings, **limits)
    assert code == 1, output
    assert "revision one_statement was cancelled and rolled back: the run did not finish within" in output
    assert place.lock_is_free()
    assert (outcomes(place, "one_statement"), marks(place)) == (["failed"], ["ground"])
    if isinstance(place, MariaDBPlace):
        assert place.sessions() == []


def test_a_manual_upgrade_waits_for_the_same_lock(place: Place, tmp_path: Path) -> None:
    """`alembic upgrade` waits while `./migrate.sh upgrade` migrates; reading commands do not wait."""
    ini = portable.make_history(tmp_path, portable.held())
    with (
        start_migrate("upgrade", url=place.url, ini=ini, **place.settings, MIGRATION_INSTANCE="script") as script,
        start_alembic("upgrade", "head", url=place.url, ini=ini, **place.settings) as by_hand,
    ):
        portable.until_reached(ini)
        code, output = alembic("current", url=place.url, ini=ini, **place.settings)
        assert (code, output.splitlines()[-1]) == (0, "ground"), output
        portable.let_go(ini)
        outputs = [finish(script), finish(by_hand)]
    assert [code for code, _ in outputs] == [0, 0], outputs
    assert sum(output.count(MARK) for _, output in outputs) == 1
    assert_once(place, ini)
    for words in (["history"], ["check"], ["downgrade", "ground"], ["current"]):
        code, output = alembic(*words, url=place.url, ini=ini, **place.settings)
        # no model has the table `marks`
        assert (code == 0) is (words != ["check"]), output
    assert versions(place) == ["ground"]


def test_a_blocked_revision_is_retried(place: Place, tmp_path: Path) -> None:
    """Another session locks the table: the revision is rolled back and retried, and applied once the session ends."""
    ini = portable.make_history(tmp_path, portable.noted())
    assert migrate("upgrade", "ground", url=place.url, ini=ini, **place.settings)[0] == 0
    with start_migrate("upgrade", url=place.url, ini=ini, **place.settings) as upgrade:
        with portable.another_session_blocks(place):
            wait_for(upgrade, "did not acquire its table lock (attempt 2)")
        code, output = finish(upgrade)
    assert code == 0, output
    assert_once(place, ini)


def test_a_blocked_revision_times_out(place: Place, tmp_path: Path) -> None:
    """The table stays locked past the budget: `upgrade` exits with 4 and names the revision; later it succeeds."""
    ini = portable.make_history(tmp_path, portable.noted())
    assert migrate("upgrade", "ground", url=place.url, ini=ini, **place.settings)[0] == 0
    limits = dict.fromkeys(BUDGETS, f"{scaled(3):g}")
    with portable.another_session_blocks(place):
        code, output = migrate("upgrade", url=place.url, ini=ini, **place.settings, **limits)
        assert code == 4, output
        assert "revision noted was cancelled and rolled back" in output
        assert "noted did not acquire its table lock" in output
        assert place.lock_is_free()
    assert marks(place) == ["ground"]
    assert migrate("upgrade", url=place.url, ini=ini, **place.settings)[0] == 0
    assert_once(place, ini)


def wait_for(process: Any, words: str) -> None:
    """Read the command's output until a line contains `words`."""
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"it never said {words!r}")


def test_a_stopped_lock_holder_keeps_a_sqlite_file(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """SIGSTOP on SQLite: the waiters name the holder and none takes over; after SIGCONT it finishes its run."""
    ini = portable.make_history(tmp_path, portable.held())
    with three(sqlite_place, ini) as instances:
        first, others = migrator(instances, ini)
        first.kill(signal.SIGSTOP)
        portable.let_go(ini)
        named = f"{first.name} (pid {first.process.pid}) holds the lock"
        wait_until(lambda: all(named in i.message() for i in others), "its name", seconds=30)
        assert not any(instance.ready() for instance in others)
        first.kill(signal.SIGCONT)
        until_all_ready(instances)
    assert {row[2] for row in history(sqlite_place)} == {first.name}
    assert_once(sqlite_place, ini)


def test_a_stopped_lock_holder_is_replaced_on_mariadb(mariadb_place: MariaDBPlace, tmp_path: Path) -> None:
    """SIGSTOP on MariaDB: the server ends the session and a waiter finishes; after SIGCONT nothing is written."""
    ini = portable.make_history(tmp_path, portable.held())
    with three(mariadb_place, ini, MIGRATION_IDLE_SECONDS=f"{scaled(2):g}") as instances:
        first, others = migrator(instances, ini)
        first.kill(signal.SIGSTOP)
        portable.let_go(ini)
        until_all_ready(others)
        rows = history(mariadb_place)
        first.kill(signal.SIGCONT)
        # it finds the schema migrated by another instance
        until_all_ready([first])
    assert history(mariadb_place) == rows
    assert [row[1] for row in rows if row[0] == "held"] == ["interrupted", "applied"]
    assert_once(mariadb_place, ini)


@pytest.mark.parametrize("repair", ["--rerun", "--stamp"])
def test_a_half_applied_revision_waits_for_a_repair(mariadb_place: MariaDBPlace, tmp_path: Path, repair: str) -> None:
    """SIGKILL after DDL on MariaDB: all instances and `upgrade` refuse to run the revision again until `repair`."""
    place = mariadb_place
    ini = portable.make_history(tmp_path, portable.with_ddl(), portable.noted())
    with three(place, ini, MIGRATION_ON_FAILURE="hold") as instances:
        first, others = migrator(instances, ini)
        first.kill(signal.SIGKILL)
        first.wait()
        until_phase(others, "failed")
        # an instance that looks while the other one holds the lock does not know whether the revision runs
        wait_until(lambda: {one.health()["state"] for one in others} == {"dirty"}, "both dirty", seconds=60)
        for instance in others:
            assert "revision with_ddl committed a part of its work" in instance.health()["message"]
            assert MARK not in instance.log()
    code, output = migrate("upgrade", url=place.url, ini=ini)
    assert (code, "SchemaRefused: revision with_ddl" in output) == (7, True), output
    portable.let_go(ini)
    for command in (["repair", repair], ["upgrade"], ["check"]):
        code, output = migrate(*command, url=place.url, ini=ini)
        assert code == 0, output
    again = repair == "--rerun"
    assert outcomes(place, "with_ddl") == ["interrupted", "applied" if again else "stamped"]
    assert marks(place) == sorted(["ground", "noted"] + ["with_ddl"] * again)


def test_an_idempotent_revision_is_run_again(mariadb_place: MariaDBPlace, tmp_path: Path) -> None:
    """SIGKILL after DDL in a revision that declares itself idempotent: a waiter runs it again and it is applied."""
    ini = portable.make_history(tmp_path, portable.with_ddl(header="idempotent = True\n"))
    with three(mariadb_place, ini) as instances:
        first, others = migrator(instances, ini)
        first.kill(signal.SIGKILL)
        first.wait()
        portable.let_go(ini)
        until_all_ready(others)
    assert outcomes(mariadb_place, "with_ddl") == ["interrupted", "applied"]
    assert_once(mariadb_place, ini)
