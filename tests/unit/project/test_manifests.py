"""The deployment files: valid for their readers, complete, and without a variable that nobody reads."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from api.migrations.settings import MigrationSettings, Strategy
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
from tests.unit.project import app_spec

OLDEST = "1.31"
"""Where the Job's failure policy and the budget's eviction policy are stable."""

APP = read(APP_SPEC)
DEPLOYMENT, JOB = read(KUBERNETES / "deployment.yaml"), read(KUBERNETES / "job.yaml")
RBAC = KUBERNETES / "leader-election" / "rbac.yaml"

ENVIRONMENTS = dict(manifests.environments())


def known() -> set[str]:
    """The variables that are settings."""
    prefixed = {f"MIGRATION_{name}".upper() for name in MigrationSettings.model_fields}
    own = {"DATABASE_URL", "MIGRATION_DATABASE_URL"}
    return prefixed - {"MIGRATION_MIGRATION_DATABASE_URL"} | own


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.relative_to(KUBERNETES))
def test_every_manifest_is_valid(path: Path, version: str) -> None:
    """By the schemas of the oldest and the newest Kubernetes, which know every field and allow no other."""
    for manifest in documents(path):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_kustomizations_and_files_agree() -> None:
    """What they name is there, in comments too, and every manifest is named."""
    named_there = {
        path.parent / name for path in KUSTOMIZATIONS for name in re.findall(r"[\w/-]+\.yaml", path.read_text())
    }
    assert {path for path in named_there if not path.is_file()} == set()
    assert set(MANIFESTS) <= named_there


def test_the_job_is_named_by_the_release() -> None:
    """Its name ends in the piece that the kustomization replaces with the tag of the one image that all have."""
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
    """Those of the Deployment, the Service and the disruption budget; the Job's pod takes no request."""
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    service, budget = read(KUBERNETES / "service.yaml"), read(KUBERNETES / "pdb.yaml")
    selectors = [service["spec"]["selector"], *(m["spec"]["selector"]["matchLabels"] for m in (DEPLOYMENT, budget))]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= JOB["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("manifest", [DEPLOYMENT, JOB], ids=["deployment", "job"])
def test_pods_may_do_nothing_but_run(manifest: dict[str, Any]) -> None:
    """Not root, a root file system that is read-only, no privilege, no token; and no container before them."""
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
    """With strategy `job` the instances have the application's role."""
    assert "MIGRATION_DATABASE_URL" in manifests.values(container(JOB)["env"])
    assert "MIGRATION_DATABASE_URL" not in manifests.values(container(DEPLOYMENT)["env"])


def test_the_first_install_has_its_grants() -> None:
    """Whoever begins with the manifests finds the statements that the tests of two roles execute."""
    comment = (KUBERNETES / "kustomization.yaml").read_text()
    assert manifests.grants()
    assert [each for each in manifests.grants() if f"#   {each}\n" not in comment] == []


def test_by_hand_is_the_jobs_pod() -> None:
    """What the runbook adds to `kubectl run`: the Job's rights, limits and Secret, and the application's URL."""
    spec = json.loads((KUBERNETES / "by-hand.json").read_text())["spec"]
    (only,), job = spec.pop("containers"), container(JOB)
    assert spec.items() <= pod(JOB).items()
    assert (only["securityContext"], only["resources"]) == (job["securityContext"], job["resources"])
    theirs = [*job["env"], *container(DEPLOYMENT)["env"]]
    assert [each for each in only["env"] if each not in theirs] == []
    assert manifests.values(only["env"]).keys() == {"MIGRATION_STRATEGY", "DATABASE_URL", "MIGRATION_DATABASE_URL"}


def test_leaders_are_who_may_have_the_lease() -> None:
    """The pods run as the service account that is granted the Lease which they are told to use, and have its token."""
    granted = {manifest["kind"]: manifest for manifest in documents(RBAC)}
    leaders = read(KUBERNETES / "leader-election" / "deployment.yaml")
    account = pod(leaders)["serviceAccountName"]
    assert granted["ServiceAccount"]["metadata"]["name"] == account
    assert [subject["name"] for subject in granted["RoleBinding"]["subjects"]] == [account]
    leases = [name for rule in granted["Role"]["rules"] for name in rule.get("resourceNames", [])]
    assert leases == [manifests.values(container(leaders)["env"])["MIGRATION_LEASE_NAME"]]
    assert pod(leaders)["automountServiceAccountToken"] is True


def test_the_app_spec_is_valid() -> None:
    """By the platform's own schema, key by key; and it says what the documents say of it."""
    assert app_spec.problems(APP) == []
    job, service = named(APP["jobs"], "migrate"), named(APP["services"], "api")
    assert (job["kind"], job["run_command"]) == ("PRE_DEPLOY", "./migrate.sh upgrade head")
    assert service["instance_count"] == 3
    assert {"rule": "DEPLOYMENT_FAILED"} in APP["alerts"]
    for component in (job, service):
        assert manifests.app_values(component)["DATABASE_URL"] == f"${{{APP['databases'][0]['name']}.DATABASE_URL}}"


def test_what_the_platforms_schema_lacks_is_known() -> None:
    """Every key that it does not name is on the list with its reason, and the list has no other."""
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
def test_a_mistake_in_the_app_spec_is_noticed(where: list[str | int], key: str, value: Any) -> None:
    """Once, and in its place, however deep it is."""
    broken = copy.deepcopy(APP)
    part: Any = broken
    for step in where:
        part = part[step]
    part[key] = value
    (problem,) = app_spec.problems(broken)
    assert key in problem


@pytest.mark.parametrize("where", ENVIRONMENTS)
def test_every_variable_is_a_setting(where: str) -> None:
    """A misspelt one would be ignored, silently; and what a file gives must be accepted."""
    given = ENVIRONMENTS[where]
    assert given.keys() - known() == set()
    assert manifests.settings({name: given[name] for name in given.keys() & known()}).strategy in set(Strategy)


def test_nothing_was_overlooked() -> None:
    """The files that give variables: a Job, two Deployments, two components, and three services of compose."""
    assert len(ENVIRONMENTS) == 8, sorted(ENVIRONMENTS)
