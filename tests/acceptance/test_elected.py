"""Redis or a Kubernetes Lease elects one of three instances, on each database that the election is meant for."""

import signal
from pathlib import Path

import pytest

from tests.acceptance import portable
from tests.acceptance.electing import Game, make_game, said
from tests.support.pace import scaled
from tests.support.places import Place, history, outcomes
from tests.support.referees import Referee
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

PAIRS = ["redis-mariadb", "redis-sqlite", "redis-postgresql", "kubernetes-postgresql"]
STOPPED = ["redis-mariadb", "redis-sqlite", "kubernetes-postgresql"]
LOOKS = 4
AUTO = "Strategy redis: MIGRATION_REDIS_URL is set, and GET_LOCK holds on one server only"


@pytest.fixture
def game(referee_and_place: tuple[Referee, Place], tmp_path: Path) -> Game:
    """Return a game with the referee and the database of the parameter."""
    return make_game(*referee_and_place, tmp_path)


@pytest.mark.parametrize("referee_and_place", PAIRS, indirect=True)
def test_one_is_elected_and_replaced_when_it_is_killed(game: Game) -> None:
    """One of three instances is elected and migrates; it is killed, and one other finishes before any gets ready."""
    own = {"MIGRATION_STRATEGY": "auto"} if (game.referee.kind, game.place.kind) == ("redis", "mariadb") else {}
    with game.three(**own) as instances:
        first, others = game.begun(instances)
        assert game.referee.leader() == first.name
        assert not game.place.lock_is_free()
        wait_until(lambda: all(first.name in i.message() for i in others), "its name", seconds=30)
        for instance in instances:
            assert instance.health()["strategy"] == game.referee.kind
            assert not instance.ready()
            assert (AUTO in instance.log()) is bool(own)
        assert [instance.health()["lock"]["holder"]["instance"] for instance in others] == [first.name] * 2
        assert said([first, *others]) == [1, 0, 0]
        first.kill(signal.SIGKILL)
        first.wait()
        second = game.until_succeeded(first)
        assert not any(instance.ready() for instance in others)
        portable.let_go(game.ini)
        game.until_ready(others)
        assert sorted(said(others)) == [0, 1]
    assert history(game.place) == [
        ("ground", "applied", first.name),
        ("held", "interrupted", first.name),
        ("held", "applied", second),
        ("noted", "applied", second),
    ]
    game.assert_done()


@pytest.mark.parametrize("referee_and_place", STOPPED, indirect=True)
def test_a_stopped_leader_commits_nothing_after_it_lost_its_hold(game: Game) -> None:
    """SIGSTOP outlasts the leader's hold: a successor waits for the database's lock and the leader commits nothing."""
    idle = f"{scaled(8 if game.place.kind == 'postgresql' else 4):g}"
    with game.three(MIGRATION_IDLE_SECONDS=idle) as instances:
        first, others = game.begun(instances)
        game.stop(first)
        wait_until(lambda: game.referee.outlived(first.name), "the end of its hold", seconds=30)
        if game.place.kind != "mariadb":
            written = game.referee.writes()
            # the stopped leader still holds the database's lock
            assert not game.place.lock_is_free()
            assert outcomes(game.place, "held") == ["running"]
            assert said(others) == [0, 0]
            # so no waiter tries to acquire the hold, because it could not migrate with it
            looked = game.referee.reads()
            wait_until(lambda: game.referee.reads() >= looked + LOOKS, "a few more looks", seconds=30)
            assert game.referee.writes() == written
        if game.place.kind == "sqlite":  # it keeps the file lock until it runs again and detects the loss of its hold
            first.kill(signal.SIGCONT)
        second = game.until_succeeded(first)
        if game.place.kind != "sqlite":
            first.kill(signal.SIGCONT)
        portable.let_go(game.ini)
        game.until_ready(others)
        # if it misses its session before its hold, it reads the version again and is ready; otherwise it exits
        first.until(lambda: first.ready() or first.process.poll() is not None, "ready or gone")
        assert first.process.poll() is None or first.wait() == 143
        assert said([first]) == [1]
    assert history(game.place) == [
        ("ground", "applied", first.name),
        ("held", "interrupted", first.name),
        ("held", "applied", second),
        ("noted", "applied", second),
    ]
    game.assert_done()
