"""Another process holds the database's lock outside the election: waiters read it and do not try to be elected."""

import asyncio
from pathlib import Path

import pytest

from api.migrations.assembly import Assembly
from api.migrations.errors import AccessRefused
from tests.support.fakes import FOREVER_SECONDS, assembled, tree
from tests.support.places import Place, PostgresPlace, SqlitePlace
from tests.support.referees import LeaseReferee, Referee
from tests.support.waiting import until

WAITERS, LOOKS = 8, 5
CREATE = 'op.execute("CREATE TABLE t (a int)")'
PAIRS = ["kubernetes-postgresql", "redis-postgresql", "redis-mariadb", "redis-sqlite"]


def elected(referee: Referee, place: Place, ini: Path, instance: str) -> Assembly:
    """Return an instance that is elected and polls often."""
    settings = {
        name.removeprefix("MIGRATION_").lower(): value
        for name, value in referee.settings.items()
        if name.startswith("MIGRATION_")
    }
    return assembled(place.url, ini, instance, poll_seconds=0.1, **settings)


@pytest.mark.parametrize("referee_and_place", PAIRS, indirect=True)
async def test_waiters_do_not_elect_while_the_database_lock_is_held(
    referee_and_place: tuple[Referee, Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight waiters poll five times each and write nothing to the elector; once the lock is free, one migrates."""
    referee, place = referee_and_place
    if isinstance(referee, LeaseReferee):
        monkeypatch.setenv("KUBECONFIG", str(referee.api.kubeconfig))
    if isinstance(place, SqlitePlace):
        place.need_volume()
    ini = tree(tmp_path, CREATE)
    by_hand = assembled(place.url, ini, "by-hand", strategy="advisory_lock").session()
    await by_hand.open()
    assert await by_hand.try_lock()
    fleet = [elected(referee, place, ini, f"waits-{number}") for number in range(WAITERS)]
    starts = [asyncio.create_task(each.coordinator().become_ready()) for each in fleet]

    async def looked() -> bool:
        assert not any(start.done() for start in starts)
        return await asyncio.to_thread(referee.reads) >= WAITERS * LOOKS

    try:
        await until(looked, f"{WAITERS} instances that looked", seconds=FOREVER_SECONDS)
        assert (referee.writes(), referee.leader()) == (0, "")
        await by_hand.unlock()
        await asyncio.wait_for(asyncio.gather(*starts), 2 * FOREVER_SECONDS)
    finally:
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)
        await by_hand.close()
    assert place.rows("SELECT revision, outcome FROM alembic_version_history") == [["r1", "applied"]]
    assert referee.writes() > 0
    assert referee.leader() == ""


async def test_a_waiter_without_the_right_to_read_the_lease_fails(
    kubernetes_referee: LeaseReferee, postgresql_place: PostgresPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiter may not read the Lease: it fails and names the missing right before the lock is free."""
    api = kubernetes_referee.api
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
    ini = tree(tmp_path, CREATE)
    by_hand = assembled(postgresql_place.url, ini, "by-hand", strategy="advisory_lock").session()
    await by_hand.open()
    try:
        assert await by_hand.try_lock()
        api.granted["t0ken"] = frozenset({"create", "update"})
        waiter = elected(kubernetes_referee, postgresql_place, ini, "waits").coordinator()
        with pytest.raises(AccessRefused, match=r"grant the verb 'get' .*rbac\.yaml"):
            await asyncio.wait_for(waiter.become_ready(), FOREVER_SECONDS)
    finally:
        await by_hand.close()
    assert api.count(403) > 1
