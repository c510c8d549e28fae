"""Whom the API server lets do what: tokens, verbs, certificates, and what is said where it does not."""

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
    """A server of the test's own."""
    with serving(tmp_path, monkeypatch) as started:
        yield started


@pytest.fixture
async def make(api: LeaseApi) -> AsyncIterator[Make]:
    """Makes electors, and releases them at the end."""
    async with making(api) as elector:
        yield elector


async def test_a_token_that_is_rotated_is_read_again(api: LeaseApi, make: Make) -> None:
    """The kubelet replaces the file, the old token ends, and the hold goes on."""
    first = make()
    assert await first.try_acquire()
    api.token_file.write_text("fresh")
    api.granted = {"fresh": api.granted["t0ken"]}
    await renewed(api)
    await first.confirm()


async def test_a_token_that_ends_before_the_next_one_is_mounted(api: LeaseApi, make: Make) -> None:
    """The holder and an instance that waits are refused meanwhile; both go on with the file that was replaced."""
    first, second = make(lease_seconds=9), make("second", lease_seconds=30)
    assert await first.try_acquire()
    api.granted = {"fresh": api.granted["t0ken"]}
    waiting = asyncio.create_task(second.try_acquire())

    async def refused() -> bool:
        # each request twice: the client reads the file again by itself
        verbs = [each.verb for each in api.requests if each.status == 401]
        return min(verbs.count("get"), verbs.count("update")) >= 2

    await until(refused, "both refused", seconds=FOREVER_SECONDS)
    api.token_file.write_text("fresh")
    assert not await waiting
    await renewed(api)
    await first.confirm()


@pytest.mark.parametrize("verb", ["get", "create", "update"])
async def test_a_verb_that_is_not_granted_is_named(api: LeaseApi, make: Make, verb: str) -> None:
    """With the manifest that grants it, once it has been refused for a while."""
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
async def test_what_stays_refused(
    api: LeaseApi, make: Make, settings: dict[str, str], status: int | None, words: str
) -> None:
    """It is said what to correct."""
    api.fault = Fault(status=status, verbs=frozenset({"create"})) if status else None
    with pytest.raises(AccessRefused, match=words) as raised:
        await make(**settings).try_acquire()
    assert_discreet(raised.value, api)


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


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: LeaseApi) -> Path:
    """The same server with TLS, found as a pod finds it."""
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
    """An elector of a pod."""
    config, tempo = cluster_config(str(account)), LeaseTimings(LEASE_SECONDS)
    address = LeaseAddress(config, config.namespace, NAME, tempo.request_seconds, tempo.lease_seconds)
    return LeaseElection("pod", address, tempo).elector()


async def test_a_pod_leads_by_its_service_account(api: LeaseApi, account: Path) -> None:
    """By TLS, in its own namespace, and with the next token once that is mounted."""
    elector = in_pod(account)
    assert await elector.try_acquire()
    (account / "token").write_text("fresh")
    api.granted = {"fresh": api.granted["t0ken"]}
    await renewed(api)
    await elector.confirm()
    assert api.holder(NAME).startswith("pod_")
    await elector.release()


async def test_a_certificate_of_somebody_else(api: LeaseApi, account: Path, tmp_path: Path) -> None:
    """It is no server of ours, and trying again cannot help."""
    (tmp_path / "other").mkdir()
    certificate, _ = self_signed(program("openssl", "apt-get install openssl"), tmp_path / "other")
    (account / "ca.crt").write_text(certificate.read_text())
    elector = in_pod(account)
    with pytest.raises(AccessRefused, match="certificate of the Kubernetes API does not verify") as raised:
        await elector.try_acquire()
    assert_discreet(raised.value, api)
    await elector.release()


async def test_no_request_is_logged(api: LeaseApi, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Renewals go on for as long as a migration, and each line would show where the API server is."""
    caplog.set_level(logging.INFO)
    first = make()
    assert await first.try_acquire()
    await renewed(api)
    await first.release()
    assert str(api.port) not in caplog.text
