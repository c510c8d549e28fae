"""The client finds the Kubernetes API as kubectl and client-go do, or the error says that it is missing."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from api.migrations.electors.kubernetes.cluster import cluster_config
from api.migrations.electors.kubernetes.elector import LeaseElection
from api.migrations.electors.registry import elector_of
from api.migrations.errors import ConfigurationError
from api.migrations.settings import MigrationSettings, Strategy
from tests.support.lease_api import NAMESPACE, LeaseApi

NOWHERE = "/nonexistent"
SECRET = "geh3im"


@pytest.fixture(autouse=True)
def _outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's own cluster."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Create the files that Kubernetes mounts into a pod."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    for name, text in {"token": SECRET, "namespace": "shop", "ca.crt": ""}.items():
        (folder / name).write_text(text)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return str(folder)


def test_a_pod_uses_its_service_account(account: str) -> None:
    """A pod uses its own namespace and its token file, which it reads again after a refusal."""
    config = cluster_config(account, NOWHERE)
    assert (config.namespace, config.cluster.server) == ("shop", "https://[fd00::1]:443")
    assert config.user is not None
    assert config.user.token_file == f"{account}/token"


def test_kubeconfig_wins_over_the_service_account(
    account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KUBECONFIG wins over a pod's service account, and without both the default file is used."""
    kubeconfig = str(LeaseApi(tmp_path).kubeconfig)
    assert cluster_config(NOWHERE, kubeconfig).namespace == NAMESPACE
    monkeypatch.setenv("KUBECONFIG", kubeconfig)
    assert cluster_config(account, NOWHERE).namespace == NAMESPACE


def test_the_error_without_a_cluster_says_what_to_set() -> None:
    """The error without a cluster says what to set in a pod and elsewhere."""
    with pytest.raises(ConfigurationError, match=r"no Kubernetes API.*serviceAccountName.*set KUBECONFIG.*STRATEGY"):
        cluster_config(NOWHERE, NOWHERE)


SPOILED: dict[str, Callable[[Path], object]] = {
    "no file": Path.unlink,
    "cut off": lambda file: file.write_text(f"users: [{SECRET}"),
    "not a map": lambda file: file.write_text(SECRET),
    "no current context": lambda file: file.write_text(file.read_text().replace("current-context: test\n", "")),
    "no user": lambda file: file.write_text(file.read_text().replace(", user: test", "")),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_an_unusable_kubeconfig_is_refused_without_its_content(
    spoil: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error about an unusable kubeconfig names its source on one line and quotes nothing of it."""
    file = LeaseApi(tmp_path).kubeconfig
    spoil(file)
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(ConfigurationError, match="cannot use the file of KUBECONFIG") as refused:
        cluster_config(NOWHERE, NOWHERE)
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_settings_name_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings name the Lease; without them it has the default name in the context's namespace."""
    monkeypatch.setenv("KUBECONFIG", str(LeaseApi(tmp_path).kubeconfig))
    election = LeaseElection.build(MigrationSettings.load(idle_seconds=0), "derived")
    assert (str(election.address), election.timings.lease_seconds) == (f"Lease {NAMESPACE}/derived", 15)
    assert election.idle_limit_seconds == float("inf")
    settings = MigrationSettings.load(lease_name="a.b-c", lease_namespace="shop", lease_seconds=30)
    election = LeaseElection.build(settings, "derived")
    assert (str(election.address), election.timings.lease_seconds) == ("Lease shop/a.b-c", 30)
    assert election.idle_limit_seconds == settings.idle_seconds


def test_the_error_without_the_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error without the client library names the package and the extra."""
    for name in [name for name in sys.modules if name.startswith("api.migrations.electors.kubernetes.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightkube", None)
    settings = MigrationSettings.load(database_url="postgresql://host/name")
    elector = elector_of(settings, Strategy.KUBERNETES, settings.url())
    assert elector is not None
    with pytest.raises(ConfigurationError, match=r"not installed. To fix: pip install lightkube .*\[kubernetes\]"):
        elector()
