"""The Kubernetes API server is restarted while pods migrate and wait; at first it refuses everything."""

from pathlib import Path

import httpx
import pytest

from devtools.ports import HOST
from tests.acceptance import portable
from tests.acceptance.electing import Game, make_game, said
from tests.support.places import PostgresPlace, outcomes
from tests.support.referees import LeaseReferee
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

LONG = {"MIGRATION_LEASE_SECONDS": "30"}
"""The holder outlasts a restart of any length that a busy machine makes of it."""
ADVICE = "rbac.yaml"


@pytest.fixture
def game(kubernetes_referee: LeaseReferee, postgresql_place: PostgresPlace, tmp_path: Path) -> Game:
    """An election over a Lease, and revisions on PostgreSQL."""
    return make_game(kubernetes_referee, postgresql_place, tmp_path)


def test_nobody_is_lost_to_a_restart(game: Game, kubernetes_referee: LeaseReferee) -> None:
    """The waiters are refused, go on waiting and get ready; the one that migrates goes on."""
    api = kubernetes_referee.api

    def readyz() -> int:
        return httpx.get(f"http://{HOST}:{api.port}/readyz", trust_env=False).status_code

    with game.three(**LONG) as instances:
        first, others = game.begun(instances)
        api.stop()
        called = kubernetes_referee.called
        wait_until(lambda: all(called in i.message() for i in others), "an API that is away", seconds=30)
        api.start(refusing=403)
        assert readyz() == 403
        wait_until(lambda: api.count(403) > 2, "waiters that are refused", seconds=30)
        api.fault = None
        assert readyz() == 200
        portable.let_go(game.ini)
        game.until_ready(instances)
        assert said([first, *others]) == [1, 0, 0]
        assert [instance.name for instance in instances if ADVICE in instance.log()] == []
    assert outcomes(game.place, "held") == ["applied"]
    game.assert_done()
