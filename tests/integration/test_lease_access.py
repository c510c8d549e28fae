"""Access of the Lease elector to the API server: tokens, verbs and certificates, and the error for each refusal."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml

from api.migrations.electors.kubernetes.client import LeaseAddress
from api.migrations.electors.kubernetes.cluster import cluster_config
from api.migrations.electors.kubernetes.elector import LeaseElection, LeaseElector
from api.migrations.electors.kubernetes.lease import LeaseTimings
from api.migrations.errors import AccessRefused
from tests.integration.lease_electors import LEASE_SECONDS, NAME, Make, assert_discreet, making, renewed, serving
from tests.support.elector_contract import FOREVER_SECONDS
from tests.support.lease_api import NAMESPACE, Fault, LeaseApi
from tests.support.servers import program, self_signed
from tests.support.waiting import until

RBAC = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "leader-election" / "rbac.yaml"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LeaseApi]:
    """Yield an API server for this test."""
    with serving(tmp_path, monkeypatch) as started:
        yield started


@pytest.fixture
async def make(api: LeaseApi) -> AsyncIterator[Make]:
    """Yield a function that makes electors, and release them at the end."""
    async with making(api) as elector:
        yield elector


async def test_a_rotated_token_is_read_again(api: LeaseApi, make: Make) -> None:
    """The kubelet replaces the token file and the old token expires: the lock holder keeps its hold."""
    first = make()
    assert await first.try_acquire()
    api.token_file.write_text("fresh")
    api.granted = {"fresh": api.granted["t0ken"]}
    await renewed(api)
    await first.confirm()


async def test_an_expired_token_is_retried_until_the_next_one_is_mounted(api: LeaseApi, make: Make) -> None:
    """The token expires before the next one is mounted: holder and waiter are refused, retry and continue."""
    first, second = make(lease_seconds=9), make("second", lease_seconds=30)
    assert await first.try_acquire()
    api.granted = {"fresh": api.granted["t0ken"]}
    waiting = asyncio.create_task(second.try_acquire())

    async def refused() -> bool:
        # each request twice, because the client reads the token file again by itself
        verbs = [each.verb for each in api.requests if each.status == 401]
        return min(verbs.count("get"), verbs.count("update")) >= 2

    await until(refused, "both refused", seconds=FOREVER_SECONDS)
    api.token_file.write_text("fresh")
    assert not await waiting
    await renewed(api)
    await first.confirm()


@pytest.mark.parametrize("verb", ["get", "create", "update"])
async def test_a_verb_that_is_not_granted_is_named(api: LeaseApi, make: Make, verb: str) -> None:
    """The Role lacks a verb: after a few attempts the elector fails and names the verb and the manifest."""
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
    assert api.count(403) > 2


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        ({}, 401, "cannot create Lease .* answers 401: it does not accept the credentials"),
        ({}, 422, "MIGRATION_LEASE_NAME"),
        ({}, 400, "MIGRATION_LEASE_NAME"),
        ({"lease_namespace": "elsewhere"}, None, "no namespace elsewhere.*MIGRATION_LEASE_NAMESPACE"),
    ],
)
async def test_a_lasting_refusal_names_what_to_correct(
    api: LeaseApi, make: Make, settings: dict[str, str], status: int | None, words: str
) -> None:
    """The API server refuses every request: the elector fails and names the credentials or the setting to correct."""
    api.fault = Fault(status=status, verbs=frozenset({"create"})) if status else None
    with pytest.raises(AccessRefused, match=words) as raised:
        await make(**settings).try_acquire()
    assert_discreet(raised.value, api)


async def test_the_role_grants_exactly_the_verbs_in_use(api: LeaseApi, make: Make) -> None:
    """An elector creates, renews, reads and releases a Lease: the manifest's Role grants just those verbs."""
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


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: LeaseApi) -> Path:
    """Start the API server again with TLS, and set the environment and files of a pod."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    certificate, key = self_signed(program("openssl", "apt-get install openssl"), tmp_path)
    for name, text in {"token": "t0ken", "namespace": NAMESPACE, "ca.crt": certificate.read_text()}.items():
        (folder / name).write_text(text)
    api.stop()
    api.start((certificate, key))
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "localhost")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    return folder


def in_pod(account: Path) -> LeaseElector:
    """Return the elector of a pod."""
    config, tempo = cluster_config(str(account)), LeaseTimings(LEASE_SECONDS)
    address = LeaseAddress(config, config.namespace, NAME, tempo.request_seconds, tempo.lease_seconds)
    return LeaseElection("pod", address, tempo).elector()


async def test_a_pod_acquires_the_lease_with_its_service_account(api: LeaseApi, account: Path) -> None:
    """A pod acquires the Lease over TLS in its own namespace, and renews it with the next token."""
    elector = in_pod(account)
    assert await elector.try_acquire()
    (account / "token").write_text("fresh")
    api.granted = {"fresh": api.granted["t0ken"]}
    await renewed(api)
    await elector.confirm()
    assert api.holder(NAME).startswith("pod_")
    await elector.release()


async def test_a_certificate_that_does_not_verify_is_refused(api: LeaseApi, account: Path, tmp_path: Path) -> None:
    """The server's certificate does not verify: the elector fails at once, because a retry cannot help."""
    (tmp_path / "other").mkdir()
    certificate, _ = self_signed(program("openssl", "apt-get install openssl"), tmp_path / "other")
    (account / "ca.crt").write_text(certificate.read_text())
    elector = in_pod(account)
    with pytest.raises(AccessRefused, match="certificate of the Kubernetes API does not verify") as raised:
        await elector.try_acquire()
    assert_discreet(raised.value, api)
    await elector.release()


async def test_no_request_is_logged(api: LeaseApi, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The elector logs no request, because each line would show the address of the API server."""
    caplog.set_level(logging.INFO)
    first = make()
    assert await first.try_acquire()
    await renewed(api)
    await first.release()
    assert str(api.port) not in caplog.text
