"""The Kubernetes API server restarts and refuses requests for a while; lock holder and waiters survive that."""

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
"""The Lease outlasts a restart of the API server, however long a busy machine takes for it."""
ADVICE = "rbac.yaml"


@pytest.fixture
def game(kubernetes_referee: LeaseReferee, postgresql_place: PostgresPlace, tmp_path: Path) -> Game:
    """Return an election over a Lease for revisions on PostgreSQL."""
    return make_game(kubernetes_referee, postgresql_place, tmp_path)


def test_a_restart_of_the_kubernetes_api_ends_no_instance(game: Game, kubernetes_referee: LeaseReferee) -> None:
    """The API stops, then answers 403, then works: the lock holder finishes its run and both waiters become ready."""
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
