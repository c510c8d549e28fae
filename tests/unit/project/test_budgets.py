"""The time limits of the platforms are longer than the budgets of the process, which times out first."""

import re

import pytest

from api.migrations import startup_integration
from api.migrations.errors import (
    ConfigurationError,
    DatabaseUnreachable,
    HoldLost,
    RevisionFailed,
    SchemaRefused,
    WaitTimeout,
)
from api.migrations.runtime import signals
from api.migrations.settings import MigrationSettings
from tests.support.manifests import (
    APP_SPEC,
    COMPOSE,
    KUBERNETES,
    ROOT,
    Document,
    app_values,
    container,
    named,
    pod,
    read,
    seconds,
    settings,
    values,
)

DEPLOYMENT, JOB = read(KUBERNETES / "deployment.yaml"), read(KUBERNETES / "job.yaml")
LEADERS = read(KUBERNETES / "leader-election" / "deployment.yaml")
APP_JOB, SERVICE = named(read(APP_SPEC)["jobs"], "migrate"), named(read(APP_SPEC)["services"], "api")

TO_END_SECONDS = 5
"""The seconds from SIGTERM to the exit: twice the rollback's limit, to include server and interpreter."""

HEALTH_CHECK_SECONDS = 9 * 10
"""The seconds that App Platform allows a new instance by default."""

LONGEST_JOB_SECONDS = 30 * 60
"""The seconds that App Platform allows a job by default."""


def one_try(own: MigrationSettings) -> float:
    """Return the longest duration of `./migrate.sh upgrade` in seconds: the wait for the lock plus the run."""
    return own.wait_seconds + own.run_seconds


def tolerated(probe: Document) -> int:
    """Return for how many seconds a probe may fail before it counts."""
    allowed: int = probe["periodSeconds"] * probe["failureThreshold"]
    return allowed


def of(manifest: Document) -> MigrationSettings:
    """Return the settings of the container of a Job or a Deployment."""
    return settings(values(container(manifest)["env"]))


def test_the_grace_period_s_basis_covers_a_rollback() -> None:
    """The seconds that grace periods are compared with exceed twice the limit of a rollback."""
    assert max(signals.CANCEL_SECONDS, startup_integration.CANCEL_SECONDS) * 2 < TO_END_SECONDS


@pytest.mark.parametrize("patch", [[], LEADERS["spec"]["template"]["spec"]["containers"][0]["env"]])
def test_kubernetes_lets_pods_wait_for_their_whole_budget(patch: list[Document]) -> None:
    """The start-up probe and the rollout's deadline last longer than a pod's wait budget."""
    own = settings({**values(container(DEPLOYMENT)["env"]), **values(patch)})
    assert tolerated(container(DEPLOYMENT)["startupProbe"]) >= own.wait_seconds
    assert DEPLOYMENT["spec"]["progressDeadlineSeconds"] > own.wait_seconds + 60


def test_kubernetes_pods_wait_for_a_whole_attempt_of_the_job() -> None:
    """The pods' wait budget covers one whole attempt of the Job that is applied with them, and a minute to start it."""
    assert of(DEPLOYMENT).wait_seconds >= one_try(of(JOB)) + 60


def test_the_kubernetes_job_ends_within_its_deadline() -> None:
    """All attempts of the Job fit into its deadline, with the pauses that double from 10 s and a minute to start."""
    tries = JOB["spec"]["backoffLimit"] + 1
    pauses = sum(10 * 2**number for number in range(tries - 1))
    assert JOB["spec"]["activeDeadlineSeconds"] >= tries * one_try(of(JOB)) + pauses + 60


def test_the_kubernetes_job_retries_only_what_may_succeed() -> None:
    """The Job is retried after a lock timeout, an outage or a lost hold, and not after a failed revision."""
    (codes,) = (rule["onExitCodes"] for rule in JOB["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in rule)
    assert codes["containerName"] == container(JOB)["name"]
    assert {error.exit_code for error in (RevisionFailed, ConfigurationError, SchemaRefused)} == set(codes["values"])
    assert not {error.exit_code for error in (WaitTimeout, DatabaseUnreachable, HoldLost)} & set(codes["values"])


def test_helm_waits_longer_than_the_job_s_deadline() -> None:
    """The timeout in the Helm variant is longer than the Job's deadline."""
    text = (KUBERNETES / "variants" / "helm-hook.yaml").read_text()
    (timeout,) = re.findall(r"--timeout (\w+)", text)
    assert seconds(timeout) > JOB["spec"]["activeDeadlineSeconds"]


def test_each_probe_uses_its_own_endpoint() -> None:
    """The start-up and liveness probes use /health/live, and the readiness probe uses /health/ready."""
    api = container(DEPLOYMENT)
    for probe, path in (("startup", "live"), ("liveness", "live"), ("readiness", "ready")):
        assert api[f"{probe}Probe"]["httpGet"]["path"] == f"/health/{path}"
        assert api[f"{probe}Probe"]["timeoutSeconds"] <= api[f"{probe}Probe"]["periodSeconds"]
    assert SERVICE["health_check"]["http_path"] == "/health/ready"
    assert SERVICE["liveness_health_check"]["http_path"] == "/health/live"


def test_app_platform_s_health_check_outlasts_the_wait_budget() -> None:
    """App Platform's health check outlasts an instance's wait budget, within the platform's default."""
    check = SERVICE["health_check"]
    allowed = check["initial_delay_seconds"] + check["period_seconds"] * check["failure_threshold"]
    assert settings(app_values(SERVICE)).wait_seconds + TO_END_SECONDS < allowed <= HEALTH_CHECK_SECONDS


def test_the_app_platform_job_ends_within_its_timeout() -> None:
    """The App Platform job's timeout covers both budgets and a minute to start, within the platform's default."""
    timeout = seconds(APP_JOB["timeout"])
    assert one_try(settings(app_values(APP_JOB))) + 60 <= timeout <= LONGEST_JOB_SECONDS


def test_grace_periods_are_enough_to_roll_back() -> None:
    """The grace periods of Kubernetes, App Platform and compose are long enough for a drain and a rollback."""
    services = read(COMPOSE)["services"]
    periods = [
        pod(DEPLOYMENT)["terminationGracePeriodSeconds"] - of(DEPLOYMENT).drain_seconds,
        pod(JOB)["terminationGracePeriodSeconds"],
        APP_JOB["termination"]["grace_period_seconds"],
        SERVICE["termination"]["grace_period_seconds"],
        *(seconds(services[name]["stop_grace_period"]) for name in ("api", "migrate")),
    ]
    assert min(periods) >= 2 * TO_END_SECONDS


def test_kubernetes_pods_drain_until_the_readiness_probe_has_failed() -> None:
    """A pod that is stopped serves until its readiness probe has failed, without a second pause before SIGTERM."""
    assert of(DEPLOYMENT).drain_seconds >= tolerated(container(DEPLOYMENT)["readinessProbe"])
    assert "lifecycle" not in container(DEPLOYMENT)


def test_the_image_s_start_period_covers_the_wait_budget() -> None:
    """The start period of the Docker image's health check covers the default wait budget."""
    (period,) = re.findall(r"--start-period=(\w+)", (ROOT / "Dockerfile").read_text())
    assert seconds(period) > MigrationSettings.model_fields["wait_seconds"].default
