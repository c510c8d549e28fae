"""Redis or the Kubernetes API fails, forgets, refuses or elects another instance while one migrates."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance import portable
from tests.acceptance.electing import Game, make_game, said
from tests.support import project
from tests.support.fleet import MARK, finish, start_alembic, until_phase
from tests.support.pace import scaled
from tests.support.places import MariaDBPlace, Place, PostgresPlace, SqlitePlace, applied, history, marks, outcomes
from tests.support.project import Revision
from tests.support.redis_server import RedisServer
from tests.support.referees import TTL_SECONDS, LeaseReferee, RedisReferee, Referee
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

EACH = ["redis-mariadb", "redis-sqlite", "redis-postgresql", "kubernetes-postgresql"]
ONE_OF_EACH = ["redis-sqlite", "kubernetes-postgresql"]
LONG = {"MIGRATION_REDIS_TTL_SECONDS": "30", "MIGRATION_LEASE_SECONDS": "30"}
"""Much longer than any of these tests, so that no hold expires."""
SHORT = {"MIGRATION_WAIT_SECONDS": str(2 * TTL_SECONDS), "MIGRATION_RUN_SECONDS": str(2 * TTL_SECONDS)}


@pytest.fixture
def game(referee_and_place: tuple[Referee, Place], tmp_path: Path) -> Game:
    """Return a game with the referee and the database of the parameter."""
    return make_game(*referee_and_place, tmp_path)


@pytest.mark.parametrize("referee_and_place", ONE_OF_EACH, indirect=True)
def test_no_instance_migrates_while_the_elector_is_down(game: Game) -> None:
    """Without the elector no instance migrates; when it falls silent the leader exits, and another finishes later."""
    game.referee.stop()
    with game.three() as instances:
        until_phase(instances, "waiting")
        for instance in instances:
            health = instance.health()
            assert game.referee.called in health["message"], health
            assert health["database"]["reachable"]
            assert not instance.ready()
            assert "Waiting for the database" not in instance.log()
        wait_until(lambda: all(game.referee.called in i.log() for i in instances), "its name in the logs", seconds=10)
        assert said(instances) == [0, 0, 0]
        game.referee.start()
        first, others = game.begun(instances)
        game.referee.fall_silent()
        assert first.wait() == 143
        wait_until(lambda: game.place.writers() == 0, "nobody at work", seconds=10)
        assert said(others) == [0, 0]
        game.referee.speak()
        second = game.until_succeeded(first)
        portable.let_go(game.ini)
        game.until_ready(others)
    held = [row for row in history(game.place) if row[0] == "held"]
    assert held == [("held", "interrupted", first.name), ("held", "applied", second)]
    game.assert_done()


def test_the_leader_rolls_back_when_the_api_fails_for_20_seconds(
    kubernetes_referee: LeaseReferee, postgresql_place: PostgresPlace, tmp_path: Path
) -> None:
    """The API fails for 20 s with a 15 s Lease: the leader rolls back, no instance starts, then another finishes."""
    game = make_game(kubernetes_referee, postgresql_place, tmp_path)
    with game.three(MIGRATION_LEASE_SECONDS="15") as instances:
        first, others = game.begun(instances)
        game.referee.fall_silent()
        over = time.monotonic() + 20
        assert first.wait() == 143
        assert "the run was cancelled, and its uncommitted work is rolled back" in first.log()
        wait_until(lambda: time.monotonic() > over, "the end of 20 s", seconds=20)
        assert said(others) == [0, 0]
        assert not any(instance.ready() for instance in others)
        game.referee.speak()
        game.until_succeeded(first)
        portable.let_go(game.ini)
        game.until_ready(others)
    game.assert_done()


@pytest.mark.parametrize("referee_and_place", ["redis-postgresql"], indirect=True)
def test_a_leader_releases_its_hold_on_sigterm(game: Game) -> None:
    """SIGTERM reaches the leader: it releases its 30 s hold, and another instance takes over before that time."""
    with game.three(**LONG) as instances:
        first, others = game.begun(instances)
        first.kill(signal.SIGTERM)
        assert first.wait() == 143
        game.until_succeeded(first)
        portable.let_go(game.ini)
        game.until_ready(others)
    game.assert_done()


@pytest.mark.parametrize("referee_and_place", EACH, indirect=True)
def test_a_leader_that_lost_its_hold_commits_nothing(game: Game) -> None:
    """Another client takes the hold: the revision is rolled back, `upgrade` exits with 6, and the next one succeeds."""
    with game.at_work(**LONG) as upgrade:
        game.referee.rob("thief")
        portable.let_go(game.ini)
        code, output = finish(upgrade)
    assert code == 6, output
    assert "HoldLost: " in output
    assert marks(game.place) == ["ground"]
    assert outcomes(game.place, "held") == ["running"]
    code, output = game.migrate("upgrade")
    assert code == 0, output
    assert outcomes(game.place, "held") == ["interrupted", "applied"]
    game.assert_done()


@pytest.mark.parametrize("referee_and_place", ["redis-mariadb", "redis-sqlite", "kubernetes-postgresql"], indirect=True)
def test_a_leader_that_lost_its_hold_leaves_no_statement_behind(
    referee_and_place: tuple[Referee, Place], tmp_path: Path
) -> None:
    """The hold is lost during a long statement: `upgrade` exits with 6, and the statement and the lock are gone."""
    referee, place = referee_and_place
    game = make_game(referee, place, tmp_path, portable.in_statement(place))
    with game.at_work() as upgrade:
        wait_until(lambda: referee.leader() == "script", "its hold", seconds=10)
        referee.rob("thief")
        code, output = finish(upgrade)
    assert (code, "the run was cancelled, and its uncommitted work is rolled back" in output) == (6, True), output
    assert place.lock_is_free()
    portable.let_go(game.ini)
    code, output = game.migrate("upgrade")
    assert code == 0, output
    assert outcomes(place, "one_statement") == ["interrupted", "applied"]
    game.assert_done()


@pytest.mark.parametrize("keep", [True, False], ids=["with its data", "without"])
def test_a_redis_restart_ends_a_run_only_without_its_data(
    redis_referee: RedisReferee, sqlite_place: SqlitePlace, tmp_path: Path, keep: bool
) -> None:
    """Redis restarts during `upgrade`: with its data the run succeeds, without it the run exits with 6."""
    game = make_game(redis_referee, sqlite_place, tmp_path)
    with game.at_work(MIGRATION_REDIS_TTL_SECONDS=f"{scaled(10):g}") as upgrade:
        redis_referee.server.restart(keep=keep)
        if keep:
            portable.let_go(game.ini)
        code, output = finish(upgrade)
    assert code == (0 if keep else 6), output
    portable.let_go(game.ini)
    assert game.migrate("upgrade")[0] == 0
    assert outcomes(sqlite_place, "held") == ["interrupted"] * (not keep) + ["applied"]
    game.assert_done()


@pytest.mark.parametrize("keep", [True, False], ids=["with its data", "without"])
def test_a_redis_restart_replaces_the_leader_only_without_its_data(
    redis_referee: RedisReferee, mariadb_place: MariaDBPlace, tmp_path: Path, keep: bool
) -> None:
    """Redis restarts while a fleet migrates: with its data the leader finishes, without it another instance does."""
    game = make_game(redis_referee, mariadb_place, tmp_path)
    with game.three(MIGRATION_REDIS_TTL_SECONDS=f"{scaled(20):g}") as instances:
        first, others = game.begun(instances)
        game.referee.stop()
        wait_until(lambda: all(game.referee.called in i.message() for i in others), "its name", seconds=12)
        redis_referee.server.restart(keep=keep)
        if not keep:
            assert first.wait() == 143
            game.until_succeeded(first)
        portable.let_go(game.ini)
        game.until_ready(instances if keep else others)
        assert said([first]) == [1]
        assert sum(said(others)) == (0 if keep else 1)
    assert outcomes(mariadb_place, "held") == ["interrupted"] * (not keep) + ["applied"]
    game.assert_done()


def test_a_short_api_outage_does_not_stop_the_run(
    kubernetes_referee: LeaseReferee, sqlite_place: SqlitePlace, tmp_path: Path
) -> None:
    """The Kubernetes API fails for less than the Lease: the run commits while its hold is valid, and succeeds."""
    game = make_game(kubernetes_referee, sqlite_place, tmp_path)
    with game.at_work(**LONG) as upgrade:
        game.referee.fall_silent()
        portable.let_go(game.ini)
        code, output = finish(upgrade)
    assert code == 0, output
    assert kubernetes_referee.api.count(500) > 1
    game.referee.speak()
    assert (applied(sqlite_place), marks(sqlite_place)) == (project.revisions(game.ini), ["ground", "held", "noted"])


@pytest.mark.parametrize("referee_and_place", ONE_OF_EACH, indirect=True)
def test_upgrade_reports_the_error_of_its_revision(referee_and_place: tuple[Referee, Place], tmp_path: Path) -> None:
    """The elector is down when a revision fails: `upgrade` reports the revision's error and not that of the release."""
    failing = Revision(
        "failing", portable.held("failing").upgrade + "op.execute('SELECT * FROM nowhere')\n", header=portable.IMPORTS
    )
    game = make_game(*referee_and_place, tmp_path, failing)
    with game.at_work(**LONG) as upgrade:
        game.referee.stop()
        portable.let_go(game.ini)
        code, output = finish(upgrade)
    assert code == 1, output
    assert "RevisionFailed: revision failing" in output
    assert outcomes(game.place, "failing") == ["failed"]


def test_upgrade_times_out_if_the_elector_never_answers(
    redis_referee: RedisReferee, kubernetes_referee: LeaseReferee, sqlite_place: SqlitePlace, tmp_path: Path
) -> None:
    """The elector is down past MIGRATION_WAIT_SECONDS: `upgrade` exits with 4 and says what does not answer."""
    games = [
        make_game(referee, sqlite_place, tmp_path / referee.kind) for referee in (redis_referee, kubernetes_referee)
    ]
    for game in games:
        game.referee.stop()
    with games[0].start("upgrade", **SHORT) as one, games[1].start("upgrade", **SHORT) as other:
        ended = [finish(one), finish(other)]
    for game, (code, output) in zip(games, ended, strict=True):
        assert code == 4, output
        assert game.referee.called in output.splitlines()[-1]
        assert f"WaitTimeout: timed out after MIGRATION_WAIT_SECONDS={2 * TTL_SECONDS}" in output
        assert "To fix: make sure that " in output
    assert not sqlite_place.has("marks")


def test_a_refusal_by_the_elector_ends_the_command(
    redis_servers: Callable[..., RedisServer],
    kubernetes_referee: LeaseReferee,
    sqlite_place: SqlitePlace,
    tmp_path: Path,
) -> None:
    """Redis refuses the password, or a Role lacks a verb: `upgrade` exits with 5 and says what to correct."""
    server = redis_servers(requirepass="correct")
    redis = RedisReferee(server)
    redis.settings["MIGRATION_REDIS_URL"] = server.url_with("horse-battery")
    kubernetes_referee.api.granted["t0ken"] = frozenset({"get", "update"})
    games = [make_game(referee, sqlite_place, tmp_path / referee.kind) for referee in (redis, kubernetes_referee)]
    for game, remedy in zip(games, ("correct MIGRATION_REDIS_URL", "grant the verb 'create'"), strict=True):
        code, output = game.migrate("upgrade")
        assert (code, remedy in output, "horse-battery" in output) == (5, True, False), output


@pytest.mark.parametrize("referee_and_place", ["redis-mariadb", "kubernetes-postgresql"], indirect=True)
def test_manual_commands_respect_the_election(game: Game) -> None:
    """While one process leads, `status`, `doctor` and `unlock` name it, and a manual `alembic upgrade` waits for it."""
    with game.at_work() as upgrade:
        by_hand = {**game.settings, "MIGRATION_INSTANCE": "by-hand"}
        with start_alembic("upgrade", "head", url=game.place.url, ini=game.ini, **by_hand) as typed:
            code, output = game.migrate("status")
            assert (code, "script" in output) == (0, True), output
            code, output = game.migrate("doctor")
            assert "it answers, and names script as the leader" in output, output
            assert f"{game.referee.kind}: set by MIGRATION_STRATEGY" in output
            code, output = game.migrate("unlock")
            assert (code, "LockHeld: script" in output) == (1, True), output
            portable.let_go(game.ini)
            ended = [finish(upgrade), finish(typed)]
    assert [code for code, _ in ended] == [0, 0], ended
    assert sum(output.count(MARK) for _, output in ended) == 1
    game.assert_done()
