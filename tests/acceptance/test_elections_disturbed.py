"""What elects goes away, forgets, refuses or changes its mind while somebody migrates."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance import portable, project
from tests.acceptance.electing import Game, make_game, said
from tests.acceptance.fleet import MARK, finish, start_alembic, until_phase
from tests.acceptance.project import Revision
from tests.pace import scaled
from tests.places import MariaDBPlace, Place, PostgresPlace, SqlitePlace, applied, history, marks, outcomes
from tests.redis_server import RedisServer
from tests.referees import TTL_SECONDS, LeaseReferee, RedisReferee, Referee
from tests.waiting import wait_until

pytestmark = pytest.mark.acceptance

EACH = ["redis-mariadb", "redis-sqlite", "redis-postgresql", "kubernetes-postgresql"]
ONE_OF_EACH = ["redis-sqlite", "kubernetes-postgresql"]
LONG = {"MIGRATION_REDIS_TTL_SECONDS": "30", "MIGRATION_LEASE_SECONDS": "30"}
"""Much longer than any of these tests, so that nobody is succeeded because time went by."""
SHORT = {"MIGRATION_WAIT_SECONDS": str(2 * TTL_SECONDS), "MIGRATION_RUN_SECONDS": str(2 * TTL_SECONDS)}


@pytest.fixture
def game(referee_and_place: tuple[Referee, Place], tmp_path: Path) -> Game:
    """Of what the parameter names."""
    return make_game(*referee_and_place, tmp_path)


@pytest.mark.parametrize("referee_and_place", ONE_OF_EACH, indirect=True)
def test_it_is_away_at_first_and_silent_later(game: Game) -> None:
    """Nobody migrates without it; who leads gives up in time, and another one finishes once it answers."""
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


def test_the_api_fails_for_twenty_seconds(
    kubernetes_referee: LeaseReferee, postgresql_place: PostgresPlace, tmp_path: Path
) -> None:
    """With client-go's 15, 10 and 2 s: who leads ends its run, nobody begins meanwhile, and then another finishes."""
    game = make_game(kubernetes_referee, postgresql_place, tmp_path)
    with game.three(MIGRATION_LEASE_SECONDS="15") as instances:
        first, others = game.begun(instances)
        game.referee.fall_silent()
        over = time.monotonic() + 20
        assert first.wait() == 143
        assert "the run was stopped, and what was not committed is rolled back" in first.log()
        wait_until(lambda: time.monotonic() > over, "the end of 20 s", seconds=20)
        assert said(others) == [0, 0]
        assert not any(instance.ready() for instance in others)
        game.referee.speak()
        game.until_succeeded(first)
        portable.let_go(game.ini)
        game.until_ready(others)
    game.assert_done()


@pytest.mark.parametrize("referee_and_place", ["redis-postgresql"], indirect=True)
def test_one_that_is_told_to_go_gives_its_hold_back(game: Game) -> None:
    """SIGTERM: the others need not wait for the end of the hold."""
    with game.three(**LONG) as instances:
        first, others = game.begun(instances)
        first.kill(signal.SIGTERM)
        assert first.wait() == 143
        game.until_succeeded(first)
        portable.let_go(game.ini)
        game.until_ready(others)
    game.assert_done()


@pytest.mark.parametrize("referee_and_place", EACH, indirect=True)
def test_one_that_was_robbed_commits_nothing(game: Game) -> None:
    """Somebody else leads: the revision under way is rolled back, the command says so, and the next one finishes."""
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
def test_one_that_is_robbed_leaves_no_statement_behind(
    referee_and_place: tuple[Referee, Place], tmp_path: Path
) -> None:
    """In the middle of one long statement: that is ended in the database too, and its lock is free."""
    referee, place = referee_and_place
    game = make_game(referee, place, tmp_path, portable.in_statement(place))
    with game.at_work() as upgrade:
        wait_until(lambda: referee.leader() == "script", "its hold", seconds=10)
        referee.rob("thief")
        code, output = finish(upgrade)
    assert (code, "the run was stopped, and what was not committed is rolled back" in output) == (6, True), output
    assert place.lock_is_free()
    portable.let_go(game.ini)
    code, output = game.migrate("upgrade")
    assert code == 0, output
    assert outcomes(place, "one_statement") == ["interrupted", "applied"]
    game.assert_done()


@pytest.mark.parametrize("keep", [True, False], ids=["with its data", "without"])
def test_redis_is_restarted(redis_referee: RedisReferee, sqlite_place: SqlitePlace, tmp_path: Path, keep: bool) -> None:
    """Where it remembers, the run goes on; where it has forgotten, the run ends, and another one finishes."""
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
def test_redis_is_restarted_under_a_fleet(
    redis_referee: RedisReferee, mariadb_place: MariaDBPlace, tmp_path: Path, keep: bool
) -> None:
    """Killed in mid-run: where it remembers, who leads goes on; else that one ends, and one of the others finishes."""
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


def test_a_short_silence_changes_nothing(
    kubernetes_referee: LeaseReferee, sqlite_place: SqlitePlace, tmp_path: Path
) -> None:
    """The hold outlasts it, and what is sure by the clock is committed."""
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
def test_the_error_of_a_revision_is_what_is_told(referee_and_place: tuple[Referee, Place], tmp_path: Path) -> None:
    """Not that of giving the hold back, which fails as well."""
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


def test_a_budget_ends_before_it_answers(
    redis_referee: RedisReferee, kubernetes_referee: LeaseReferee, sqlite_place: SqlitePlace, tmp_path: Path
) -> None:
    """The command says who did not answer, and what to look at."""
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
        assert f"WaitTimeout: gave up after MIGRATION_WAIT_SECONDS={2 * TTL_SECONDS}" in output
        assert "To fix: make sure that " in output
    assert not sqlite_place.has("marks")


def test_a_refusal_is_final(
    redis_servers: Callable[..., RedisServer],
    kubernetes_referee: LeaseReferee,
    sqlite_place: SqlitePlace,
    tmp_path: Path,
) -> None:
    """A wrong password, or a Role that lacks a verb: at once, with what to do."""
    server = redis_servers(requirepass="correct")
    redis = RedisReferee(server)
    redis.settings["MIGRATION_REDIS_URL"] = server.url_with("horse-battery")
    kubernetes_referee.api.granted["t0ken"] = frozenset({"get", "update"})
    games = [make_game(referee, sqlite_place, tmp_path / referee.kind) for referee in (redis, kubernetes_referee)]
    for game, remedy in zip(games, ("correct MIGRATION_REDIS_URL", "grant the verb 'create'"), strict=True):
        code, output = game.migrate("upgrade")
        assert (code, remedy in output, "horse-battery" in output) == (5, True, False), output


@pytest.mark.parametrize("referee_and_place", ["redis-mariadb", "kubernetes-postgresql"], indirect=True)
def test_what_people_type_is_elected_too(game: Game) -> None:
    """`status`, `doctor` and `unlock` tell who is at it; `alembic upgrade` by hand waits for it."""
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
