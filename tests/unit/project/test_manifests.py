"""The deployment files are valid and complete, and every variable in them is a setting."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from api.migrations.settings import Strategy
from tests.support import manifests
from tests.support.manifests import (
    APP_SPEC,
    KUBERNETES,
    KUSTOMIZATIONS,
    MANIFESTS,
    container,
    documents,
    named,
    pod,
    read,
)
from tests.support.variables import variables
from tests.unit.project import app_spec

OLDEST = "1.31"
"""The first version in which the Job's failure policy and the budget's eviction policy are stable."""

APP = read(APP_SPEC)
DEPLOYMENT, JOB = read(KUBERNETES / "deployment.yaml"), read(KUBERNETES / "job.yaml")
RBAC = KUBERNETES / "leader-election" / "rbac.yaml"

ENVIRONMENTS = dict(manifests.environments())


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.relative_to(KUBERNETES))
def test_every_manifest_is_valid(path: Path, version: str) -> None:
    """Every manifest is valid by the strict schemas of the oldest and of the newest Kubernetes."""
    for manifest in documents(path):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_kustomizations_and_files_agree() -> None:
    """Every file that a kustomization names exists, and every manifest is named."""
    named_there = {
        path.parent / name for path in KUSTOMIZATIONS for name in re.findall(r"[\w/-]+\.yaml", path.read_text())
    }
    assert {path for path in named_there if not path.is_file()} == set()
    assert set(MANIFESTS) <= named_there


def test_the_job_is_named_by_the_release() -> None:
    """The Job's name ends in the part that the kustomization replaces with the tag of the common image."""
    (replacement,) = read(KUBERNETES / "kustomization.yaml")["replacements"]
    (target,) = replacement["targets"]
    pieces = JOB["metadata"]["name"].split(target["options"]["delimiter"])
    assert pieces[target["options"]["index"]] == pieces[-1] == "release"
    assert target["fieldPaths"] == ["metadata.name"]
    assert replacement["source"]["name"] == DEPLOYMENT["metadata"]["name"]
    assert f"[name={container(DEPLOYMENT)['name']}]" in replacement["source"]["fieldPath"]
    (image,) = read(KUBERNETES / "kustomization.yaml")["images"]
    # a release tool puts another hash between the quotes, perhaps one of digits only
    assert f'newTag: "{image["newTag"]}"' in (KUBERNETES / "kustomization.yaml").read_text()
    assert container(JOB)["image"] == container(DEPLOYMENT)["image"] == image["name"]
    for variant in (KUBERNETES / "variants").iterdir():
        assert read(variant)["metadata"]["name"] == JOB["metadata"]["name"]


def test_selectors_find_the_pods_of_the_deployment_and_no_other() -> None:
    """The selectors of Deployment, Service and disruption budget match the Deployment's pods, and not the Job's."""
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    service, budget = read(KUBERNETES / "service.yaml"), read(KUBERNETES / "pdb.yaml")
    selectors = [service["spec"]["selector"], *(m["spec"]["selector"]["matchLabels"] for m in (DEPLOYMENT, budget))]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= JOB["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("manifest", [DEPLOYMENT, JOB], ids=["deployment", "job"])
def test_pods_have_no_privileges(manifest: dict[str, Any]) -> None:
    """The pods run without root, write access to their file system, privileges, a token or init containers."""
    spec, own = pod(manifest), container(manifest)["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["runAsGroup"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert "initContainers" not in spec


def test_only_the_job_gets_the_owners_url() -> None:
    """The Job has the owner's URL, and the instances have only the application's."""
    assert "MIGRATION_DATABASE_URL" in manifests.values(container(JOB)["env"])
    assert "MIGRATION_DATABASE_URL" not in manifests.values(container(DEPLOYMENT)["env"])


def test_the_manifests_list_the_grants_of_the_first_install() -> None:
    """The kustomization's comment has every GRANT that the tests of two roles execute."""
    comment = (KUBERNETES / "kustomization.yaml").read_text()
    assert manifests.grants()
    assert [each for each in manifests.grants() if f"#   {each}\n" not in comment] == []


def test_the_manual_pod_equals_the_job_s_pod() -> None:
    """The pod that the runbook starts by hand has the Job's rights, limits and Secret, and the application's URL."""
    spec = json.loads((KUBERNETES / "by-hand.json").read_text())["spec"]
    (only,), job = spec.pop("containers"), container(JOB)
    assert spec.items() <= pod(JOB).items()
    assert (only["securityContext"], only["resources"]) == (job["securityContext"], job["resources"])
    theirs = [*job["env"], *container(DEPLOYMENT)["env"]]
    assert [each for each in only["env"] if each not in theirs] == []
    assert manifests.values(only["env"]).keys() == {"MIGRATION_STRATEGY", "DATABASE_URL", "MIGRATION_DATABASE_URL"}


def test_the_leaders_service_account_may_use_the_lease() -> None:
    """The leader-election pods run as the service account with access to their Lease, and have its token."""
    granted = {manifest["kind"]: manifest for manifest in documents(RBAC)}
    leaders = read(KUBERNETES / "leader-election" / "deployment.yaml")
    account = pod(leaders)["serviceAccountName"]
    assert granted["ServiceAccount"]["metadata"]["name"] == account
    assert [subject["name"] for subject in granted["RoleBinding"]["subjects"]] == [account]
    leases = [name for rule in granted["Role"]["rules"] for name in rule.get("resourceNames", [])]
    assert leases == [manifests.values(container(leaders)["env"])["MIGRATION_LEASE_NAME"]]
    assert pod(leaders)["automountServiceAccountToken"] is True


def test_the_app_spec_is_valid() -> None:
    """The app spec is valid by the platform's schema, and has the job, instances and alert that the documents name."""
    assert app_spec.problems(APP) == []
    job, service = named(APP["jobs"], "migrate"), named(APP["services"], "api")
    assert (job["kind"], job["run_command"]) == ("PRE_DEPLOY", "./migrate.sh upgrade head")
    assert service["instance_count"] == 3
    assert {"rule": "DEPLOYMENT_FAILED"} in APP["alerts"]
    for component in (job, service):
        assert manifests.app_values(component)["DATABASE_URL"] == f"${{{APP['databases'][0]['name']}.DATABASE_URL}}"


def test_every_key_missing_from_the_platform_s_schema_is_listed() -> None:
    """Every key of the app spec that the platform's schema lacks is listed with its reason, and no other."""
    assert {*app_spec.unknown(app_spec.PUBLISHED, APP)} == {*app_spec.LACKING}


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ([], "misspelt", 1),
        ([], "region", "nowhere"),
        (["envs", 0], "misspelt", 1),
        (["alerts", 0], "rule", "DEPLOYMENT_FALED"),
        (["jobs", 0], "misspelt", 1),
        (["jobs", 0], "kind", "BEFORE"),
        (["jobs", 0], "timeout", "half an hour"),
        (["jobs", 0], "instance_size_slug", "apps-s-9vcpu-1gb"),
        (["jobs", 0, "envs", 0], "misspelt", 1),
        (["services", 0], "timeout", "30m"),
        (["services", 0, "termination"], "drain_seconds", 111),
        (["services", 0, "health_check"], "failure_threshold", 51),
        (["services", 0, "liveness_health_check"], "success_threshold", 2),
        (["services", 0, "alerts", 0], "misspelt", 1),
        (["databases", 0], "engine", "POSTGRES"),
        (["ingress", "rules", 0, "match"], "misspelt", 1),
    ],
)
def test_a_mistake_in_the_app_spec_is_found(where: list[str | int], key: str, value: Any) -> None:
    """A misspelt key or a wrong value at any depth of the app spec is reported once."""
    broken = copy.deepcopy(APP)
    part: Any = broken
    for step in where:
        part = part[step]
    part[key] = value
    (problem,) = app_spec.problems(broken)
    assert key in problem


@pytest.mark.parametrize("where", ENVIRONMENTS)
def test_every_variable_is_a_setting(where: str) -> None:
    """Every variable in a deployment file is a setting with a valid value."""
    given = ENVIRONMENTS[where]
    assert given.keys() - variables() == set()
    assert manifests.settings({name: given[name] for name in given.keys() & variables()}).strategy in set(Strategy)


def test_the_variables_of_every_deployment_file_are_checked() -> None:
    """The variables of eight processes are checked: a Job, two Deployments, two components and three services."""
    assert len(ENVIRONMENTS) == 8, sorted(ENVIRONMENTS)
