"""What the Lease elector makes of an API server that refuses, fails, hangs or is cut off, and of who else writes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.migrations.errors import AccessRefused, ElectorUnreachable, HoldLost, MigrationError
from api.migrations.lease_lock import LeaseElector, Leases
from api.migrations.settings import MigrationSettings
from tests.elector_contract import FOREVER_SECONDS
from tests.lease_api import NAMESPACE, Fault, LeaseApi, lease_api
from tests.waiting import until

LEASE_SECONDS = 3
NAME = "ledger-migrations"
KEY = (NAMESPACE, NAME)
RBAC = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "leader-election" / "rbac.yaml"
UPDATES = frozenset({"update"})

Make = Callable[..., LeaseElector]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LeaseApi]:
    """A server of the test's own, whatever the environment says."""
    with lease_api(tmp_path) as started:
        monkeypatch.setenv("KUBECONFIG", str(started.kubeconfig))
        yield started


@pytest.fixture
async def make(api: LeaseApi) -> AsyncIterator[Make]:
    """Makes electors, and releases them at the end."""
    made = []

    def elector(instance: str = "first", **settings: Any) -> LeaseElector:
        values = {"lease_seconds": LEASE_SECONDS, "idle_seconds": 0, **settings}
        leases = Leases.build(MigrationSettings.load(instance=instance, **values), NAME)
        made.append(leases.elector())
        return made[-1]

    yield elector
    api.fault = None
    for each in made:
        await each.release()


async def renewed(api: LeaseApi) -> None:
    """Return after the next renewal that was answered."""
    before = len(api.requests)

    async def again() -> bool:
        return any((each.verb, each.status) == ("update", 200) for each in api.requests[before:])

    await until(again, "a renewal", seconds=FOREVER_SECONDS)


async def reason(elector: LeaseElector) -> str:
    """Why it lost its hold; `confirm` says the same."""
    lost = await asyncio.wait_for(elector.lost(), FOREVER_SECONDS)
    with pytest.raises(HoldLost) as raised:
        await elector.confirm()
    assert str(raised.value) == lost
    return lost


HICCUPS = {
    "500": Fault(status=500, times=1),
    "429": Fault(status=429, times=1),
    "no answer": Fault(delay_seconds=9, times=1),
    "cut off before": Fault(cut="before", times=1),
    "cut off after": Fault(cut="after", times=1),
    "half an answer": Fault(cut="halfway", times=1),
}


async def test_a_renewal_that_fails_once_loses_nothing(api: LeaseApi, make: Make) -> None:
    """Whichever way it fails: the next one comes before the deadline, and finds that an unheard one was done."""
    first = make()
    assert await first.try_acquire()
    taken = api.spec(NAME)
    for what, fault in HICCUPS.items():
        api.fault = Fault(fault.status, fault.delay_seconds, fault.cut, UPDATES, times=1)
        await until(lambda: asyncio.sleep(0, api.fault.times == 0), what, seconds=FOREVER_SECONDS)
        await renewed(api)
        await first.confirm()
    now = api.spec(NAME)
    assert [name for name in taken if taken[name] != now[name]] == ["renewTime"]


async def test_the_api_is_away_for_less_than_the_deadline(api: LeaseApi, make: Make) -> None:
    """All its answers are 500 for a while: the hold is kept, and can be confirmed meanwhile."""
    first = make(lease_seconds=6)
    assert await first.try_acquire()
    api.fault = Fault(status=500)

    async def failed_twice() -> bool:
        await first.confirm()
        return [each.status for each in api.requests if each.verb == "update"][:2] == [500, 500]

    await until(failed_twice, "two renewals that fail", seconds=FOREVER_SECONDS)
    api.fault = None
    await renewed(api)
    await first.confirm()


@pytest.mark.parametrize("down", [False, True], ids=["500", "refused"])
async def test_the_api_is_away_for_longer(api: LeaseApi, make: Make, down: bool) -> None:
    """The leader gives up by its own clock, and before anybody else gets in by theirs."""
    first, second = make(), make("second")
    assert await first.try_acquire()
    assert not await second.try_acquire()
    changed, seen = api.spec(NAME)["renewTime"], time.monotonic()
    if down:
        api.stop()
    else:
        api.fault = Fault(status=500)
    assert "was not renewed within 2 s" in await reason(first)
    if down:
        api.start()
    api.fault = None
    # a renewal may have come between that look and the fault
    assert not await second.try_acquire()
    seen = seen if api.spec(NAME)["renewTime"] == changed else time.monotonic()
    await until(second.try_acquire, "a successor", seconds=FOREVER_SECONDS)
    assert time.monotonic() - seen >= LEASE_SECONDS
    await first.release()
    assert api.holder(NAME).startswith("second_")


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_is_an_hour_wrong_is_not_robbed(api: LeaseApi, make: Make, hours: int) -> None:
    """As long as it renews; and when it does not, it is succeeded as soon as anybody else."""
    follower = make()

    def now() -> str:
        return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    spec = {"holderIdentity": "skewed", "leaseDurationSeconds": 1, "renewTime": now(), "leaseTransitions": 7}
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}, "spec": spec}
    api.store.create(KEY, body)
    end = time.monotonic() + 2

    async def outlasted() -> bool:
        api.store.edit(KEY, renewTime=now())
        assert not await follower.try_acquire()
        return time.monotonic() > end

    await until(outlasted, "two lease durations", seconds=FOREVER_SECONDS)
    await until(follower.try_acquire, "a successor", seconds=FOREVER_SECONDS)
    assert api.spec(NAME)["leaseTransitions"] == 8


def robbed(api: LeaseApi) -> None:
    """Somebody else was faster: the next renewal is answered with 409."""
    api.store.edit(KEY, holderIdentity="thief")


def cleared(api: LeaseApi) -> None:
    """A person has emptied it."""
    api.store.edit(KEY, holderIdentity="")


def deleted(api: LeaseApi) -> None:
    """A person has deleted it."""
    api.store.delete(KEY)


def recreated(api: LeaseApi) -> None:
    """Deleted and created by somebody else before we looked."""
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME}}
    api.store.delete(KEY)
    api.store.create(KEY, {**body, "spec": {"holderIdentity": "thief"}})


@pytest.mark.parametrize(
    ("change", "words"),
    [(robbed, "held by thief"), (recreated, "held by thief"), (cleared, "released"), (deleted, "deleted")],
)
async def test_what_others_do_to_it_is_a_loss(
    api: LeaseApi, make: Make, change: Callable[[LeaseApi], None], words: str
) -> None:
    """At once, with who or what it was; the loser writes nothing after it."""
    first = make()
    assert await first.try_acquire()
    change(api)
    before = api.spec(NAME)
    assert words in await reason(first)
    assert not await first.try_acquire()
    await first.release()
    assert api.spec(NAME) == before


async def test_what_others_add_to_it_is_kept(api: LeaseApi, make: Make) -> None:
    """An annotation makes the next renewal a 409, takes nothing away, and is still there afterwards."""
    first = make()
    assert await first.try_acquire()
    api.store.annotate(KEY, team="shop")
    await renewed(api)
    await first.confirm()
    assert api.count(409) == 1
    assert api.store.get(KEY)["metadata"]["annotations"] == {"team": "shop"}


async def test_a_token_that_is_rotated_is_read_again(api: LeaseApi, make: Make) -> None:
    """The kubelet replaces the file, the old token ends, and the hold goes on."""
    first = make()
    assert await first.try_acquire()
    api.token_file.write_text("fresh")
    api.granted = {"fresh": api.granted["t0ken"]}
    await renewed(api)
    await first.confirm()


AWAY = {
    "500": (Fault(status=500), "answers 500"),
    "503": (Fault(status=503), "answers 503"),
    "429": (Fault(status=429), "answers 429"),
    "no answer": (Fault(delay_seconds=9), "no answer within 0.5 s"),
    "cut off": (Fault(cut="before"), "was cut"),
    "half an answer": (Fault(cut="halfway"), "was cut"),
    "refused": (None, "no connection"),
}


def assert_discreet(error: MigrationError, api: LeaseApi) -> None:
    """It shows neither where nor with what it asked."""
    assert [secret for secret in ("t0ken", str(api.port), "127.0.0.1", "http") if secret in str(error)] == []


@pytest.mark.parametrize(("fault", "words"), AWAY.values(), ids=AWAY)
async def test_who_gets_no_answer_tries_again(api: LeaseApi, make: Make, fault: Fault | None, words: str) -> None:
    """It is transient, one request long, and nothing is left to hinder the next try."""
    first = make()
    if fault is None:
        api.stop()
    else:
        api.fault = fault
    with pytest.raises(ElectorUnreachable, match=words) as raised:
        await first.try_acquire()
    assert_discreet(raised.value, api)
    assert api.count() <= 1
    if fault is None:
        api.start()
    api.fault = None
    assert await first.try_acquire()


async def test_a_grant_that_nobody_heard_of(api: LeaseApi, make: Make) -> None:
    """Its answer was cut off: it does not count, is not lost to the one that asked, and goes with a release."""
    first, second = make(), make("second")
    api.fault = Fault(cut="after", verbs=frozenset({"create"}), times=1)
    with pytest.raises(ElectorUnreachable):
        await first.try_acquire()
    assert api.holder(NAME).startswith("first_")
    with pytest.raises(HoldLost):
        await first.confirm()
    assert not await second.try_acquire()
    await first.release()
    api.fault = Fault(cut="after", verbs=UPDATES, times=1)
    with pytest.raises(ElectorUnreachable):
        await second.try_acquire()
    assert await second.try_acquire()
    await second.confirm()


@pytest.mark.parametrize("verb", ["get", "create", "update"])
async def test_a_verb_that_is_not_granted_is_named(api: LeaseApi, make: Make, verb: str) -> None:
    """With the manifest that grants it; trying again cannot help."""
    if verb == "update":
        other = make("other")
        assert await other.try_acquire()
        await other.release()
    api.granted = {"t0ken": api.granted["t0ken"] - {verb}}
    with pytest.raises(
        AccessRefused, match=rf"grant the verb '{verb}' .*-n {NAMESPACE} -f deploy/\S+rbac.yaml"
    ) as raised:
        await make().try_acquire()
    assert_discreet(raised.value, api)


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({}, 401, "does not accept the credentials"),
        ({}, 422, "MIGRATION_LEASE_NAME"),
        ({}, 400, "MIGRATION_LEASE_NAME"),
        ({"lease_namespace": "elsewhere"}, None, "no namespace elsewhere.*MIGRATION_LEASE_NAMESPACE"),
    ],
)
async def test_what_stays_refused(
    api: LeaseApi, make: Make, settings: dict[str, str], status: int | None, words: str
) -> None:
    """It is said what to correct."""
    api.fault = Fault(status=status, verbs=frozenset({"create"})) if status else None
    with pytest.raises(AccessRefused, match=words) as raised:
        await make(**settings).try_acquire()
    assert_discreet(raised.value, api)


async def test_a_release_without_an_answer_ends(api: LeaseApi, make: Make) -> None:
    """It raises nothing and leaves the Lease to run out."""
    first = make()
    assert await first.try_acquire()
    api.fault = Fault(delay_seconds=9)
    await asyncio.wait_for(first.release(), FOREVER_SECONDS)
    assert api.holder(NAME).startswith("first_")
    api.fault = None
    await first.release()


async def test_the_role_grants_what_is_used_and_no_more(api: LeaseApi, make: Make) -> None:
    """A whole life of a Lease, and the verbs of the Role; all but create for this one only."""
    first = make()
    assert await first.try_acquire()
    await renewed(api)
    await first.confirm()
    assert await first.leader() == "first"
    await first.release()
    (role,) = [each for each in yaml.safe_load_all(RBAC.read_text()) if each["kind"] == "Role"]
    granted = {verb: tuple(rule.get("resourceNames", ())) for rule in role["rules"] for verb in rule["verbs"]}
    assert granted == {verb: () if verb == "create" else (NAME,) for verb in api.verbs}
    assert {(*rule["apiGroups"], *rule["resources"]) for rule in role["rules"]} == {("coordination.k8s.io", "leases")}
