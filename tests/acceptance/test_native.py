"""Three instances on MariaDB, MySQL and SQLite, with nothing but the database's own lock between them."""

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
"""How long a statement goes on in MariaDB whose client was killed."""
POLL = {"MIGRATION_POLL_SECONDS": "0.3"}
BUDGETS = ("MIGRATION_RUN_SECONDS", "MIGRATION_WAIT_SECONDS")


@pytest.fixture(params=["mariadb", "sqlite"])
def place(request: pytest.FixtureRequest) -> Place:
    """An empty database on each; on MySQL only where a test says so, because fleets take their time."""
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found


def three(place: Place, ini: Path, **settings: str) -> AbstractContextManager[list[Instance]]:
    """Three instances in the place."""
    return fleet(3, place.url, ini=ini, first=1, inside=(), **{**place.settings, **POLL, **settings})


def migrator(instances: list[Instance], ini: Path) -> tuple[Instance, list[Instance]]:
    """Wait until one is held in its revision; that one, and the others."""
    first = until_one_migrates(instances)
    portable.until_reached(ini)
    return first, [instance for instance in instances if instance is not first]


def sleeps(place: MariaDBPlace) -> bool:
    """Whether the server is in the statement of `portable.in_statement`."""
    return any("SLEEP" in statement for _, statement in place.sessions())


def assert_once(place: Place, ini: Path) -> None:
    """Every revision was applied once, and nobody has the lock."""
    assert applied(place) == project.revisions(ini)
    assert versions(place) == [project.head(ini)]
    assert marks(place) == sorted(set(marks(place)))
    wait_until(place.lock_is_free, "the lock free", seconds=10)


def test_one_migrates_and_the_others_see_it_finish(place: Place, tmp_path: Path) -> None:
    """None is ready before, those who wait say who is at it, and one line in three logs says "Running migrations"."""
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
def test_a_killed_one_is_succeeded(place: Place, tmp_path: Path, where: str) -> None:
    """SIGKILL takes back what the revision did; the next one begins it again, and never beside its statement."""
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
        # the server looks every five seconds whether the client of a SLEEP is still there
        assert int(apart) >= 3
    assert_once(place, ini)


@pytest.mark.parametrize("where", ["statement", "between"])
def test_one_that_is_told_to_go_leaves_nothing_behind(place: Place, tmp_path: Path, where: str) -> None:
    """SIGTERM ends its statement in the database too, so the next one begins at once."""
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


def test_a_budget_ends_a_statement_in_the_database(place: Place, tmp_path: Path) -> None:
    """The command fails, nothing of the revision is left, and neither its statement nor the lock."""
    ini = portable.make_history(tmp_path, portable.in_statement(place))
    limits = dict.fromkeys(BUDGETS, f"{scaled(2):g}")
    code, output = migrate("upgrade", url=place.url, ini=ini, **place.settings, **limits)
    assert code == 1, output
    assert "revision one_statement was cancelled and rolled back: the run did not finish within" in output
    assert place.lock_is_free()
    assert (outcomes(place, "one_statement"), marks(place)) == (["failed"], ["ground"])
    if isinstance(place, MariaDBPlace):
        assert place.sessions() == []


def test_what_people_type_takes_the_same_lock(place: Place, tmp_path: Path) -> None:
    """`alembic upgrade` waits for the instance that migrates; reading commands do not."""
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
        # the marks are no model's
        assert (code == 0) is (words != ["check"]), output
    assert versions(place) == ["ground"]


def test_somebody_in_the_way_is_waited_for(place: Place, tmp_path: Path) -> None:
    """The revision does not get its lock, is tried again, and is applied once he has gone."""
    ini = portable.make_history(tmp_path, portable.noted())
    assert migrate("upgrade", "ground", url=place.url, ini=ini, **place.settings)[0] == 0
    with start_migrate("upgrade", url=place.url, ini=ini, **place.settings) as upgrade:
        with portable.somebody_in_the_way(place):
            wait_for(upgrade, "did not get its lock (attempt 2)")
        code, output = finish(upgrade)
    assert code == 0, output
    assert_once(place, ini)


def test_somebody_in_the_way_for_too_long(place: Place, tmp_path: Path) -> None:
    """The budget ends the tries with a code of its own and says which revision it was."""
    ini = portable.make_history(tmp_path, portable.noted())
    assert migrate("upgrade", "ground", url=place.url, ini=ini, **place.settings)[0] == 0
    limits = dict.fromkeys(BUDGETS, f"{scaled(3):g}")
    with portable.somebody_in_the_way(place):
        code, output = migrate("upgrade", url=place.url, ini=ini, **place.settings, **limits)
        assert code == 4, output
        assert "revision noted was cancelled and rolled back" in output
        assert "noted did not get its lock" in output
        assert place.lock_is_free()
    assert marks(place) == ["ground"]
    assert migrate("upgrade", url=place.url, ini=ini, **place.settings)[0] == 0
    assert_once(place, ini)


def wait_for(process: Any, words: str) -> None:
    """Read what a command writes until it has said `words`."""
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"it never said {words!r}")


def test_a_stopped_one_keeps_a_file(sqlite_place: SqlitePlace, tmp_path: Path) -> None:
    """SIGSTOP: nobody takes over on SQLite, where nothing would keep it from going on; it finishes after SIGCONT."""
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


def test_a_stopped_one_is_succeeded(mariadb_place: MariaDBPlace, tmp_path: Path) -> None:
    """SIGSTOP between two statements: the server ends its session, and once it wakes up it writes nothing."""
    ini = portable.make_history(tmp_path, portable.held())
    with three(mariadb_place, ini, MIGRATION_IDLE_SECONDS=f"{scaled(2):g}") as instances:
        first, others = migrator(instances, ini)
        first.kill(signal.SIGSTOP)
        portable.let_go(ini)
        until_all_ready(others)
        rows = history(mariadb_place)
        first.kill(signal.SIGCONT)
        # it finds the schema done by somebody else
        until_all_ready([first])
    assert history(mariadb_place) == rows
    assert [row[1] for row in rows if row[0] == "held"] == ["interrupted", "applied"]
    assert_once(mariadb_place, ini)


@pytest.mark.parametrize("repair", ["--rerun", "--stamp"])
def test_what_is_half_applied_stops_everybody(mariadb_place: MariaDBPlace, tmp_path: Path, repair: str) -> None:
    """SIGKILL after DDL on MariaDB: nobody runs it again before a person has said how to go on."""
    place = mariadb_place
    ini = portable.make_history(tmp_path, portable.with_ddl(), portable.noted())
    with three(place, ini, MIGRATION_ON_FAILURE="hold") as instances:
        first, others = migrator(instances, ini)
        first.kill(signal.SIGKILL)
        first.wait()
        until_phase(others, "failed")
        for instance in others:
            assert instance.health()["state"] == "dirty"
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


def test_what_is_idempotent_is_simply_run_again(mariadb_place: MariaDBPlace, tmp_path: Path) -> None:
    """SIGKILL after DDL, in a revision that says it may be repeated: the next one does."""
    ini = portable.make_history(tmp_path, portable.with_ddl(header="idempotent = True\n"))
    with three(mariadb_place, ini) as instances:
        first, others = migrator(instances, ini)
        first.kill(signal.SIGKILL)
        first.wait()
        portable.let_go(ini)
        until_all_ready(others)
    assert outcomes(mariadb_place, "with_ddl") == ["interrupted", "applied"]
    assert_once(mariadb_place, ini)
