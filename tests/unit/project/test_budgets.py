"""Time limits of the platforms against our own: the process has the whole of its budget, ends first, and says why."""

import re

import pytest

from api.migrations import startup_integration
from api.migrations.cli import signals
from api.migrations.errors import (
    ConfigurationError,
    DatabaseUnreachable,
    HoldLost,
    RevisionFailed,
    SchemaRefused,
    WaitTimeout,
)
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
"""From SIGTERM to the end of the process: the rollback's limit, and as much again for server and interpreter."""

HEALTH_CHECK_SECONDS = 9 * 10
"""What App Platform allows a new instance by default."""

LONGEST_JOB_SECONDS = 30 * 60
"""What App Platform allows a job by default."""


def one_try(own: MigrationSettings) -> float:
    """The longest that `./migrate.sh upgrade` lasts: the whole wait for the lock, and then the whole run."""
    return own.wait_seconds + own.run_seconds


def tolerated(probe: Document) -> int:
    """How long a probe may fail before it counts."""
    allowed: int = probe["periodSeconds"] * probe["failureThreshold"]
    return allowed


def of(manifest: Document) -> MigrationSettings:
    """The settings of the container of a Job or a Deployment."""
    return settings(values(container(manifest)["env"]))


def test_the_way_to_the_end_covers_our_own() -> None:
    """The figure that grace periods are compared with is more than what a rollback may take."""
    assert max(signals.CANCEL_SECONDS, startup_integration.CANCEL_SECONDS) * 2 < TO_END_SECONDS


@pytest.mark.parametrize("patch", [[], LEADERS["spec"]["template"]["spec"]["containers"][0]["env"]])
def test_kubernetes_pods_may_wait_for_as_long_as_they_want(patch: list[Document]) -> None:
    """Neither the start-up probe nor the rollout's deadline is over before a pod gives up by itself."""
    own = settings({**values(container(DEPLOYMENT)["env"]), **values(patch)})
    assert tolerated(container(DEPLOYMENT)["startupProbe"]) >= own.wait_seconds
    assert DEPLOYMENT["spec"]["progressDeadlineSeconds"] > own.wait_seconds + 60


def test_kubernetes_pods_wait_for_a_whole_try_of_the_job() -> None:
    """They are applied at once, so the pods must not give up on a Job that is still allowed to run; it starts first."""
    assert of(DEPLOYMENT).wait_seconds >= one_try(of(JOB)) + 60


def test_the_kubernetes_job_ends_by_itself() -> None:
    """All its tries fit into its deadline, with the pauses that double from 10 s, and a minute to start."""
    tries = JOB["spec"]["backoffLimit"] + 1
    pauses = sum(10 * 2**number for number in range(tries - 1))
    assert JOB["spec"]["activeDeadlineSeconds"] >= tries * one_try(of(JOB)) + pauses + 60


def test_the_kubernetes_job_tries_again_where_that_may_help() -> None:
    """It is given up for what would end alike, and not for a lock, a database or a hold."""
    (codes,) = (rule["onExitCodes"] for rule in JOB["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in rule)
    assert codes["containerName"] == container(JOB)["name"]
    assert {error.exit_code for error in (RevisionFailed, ConfigurationError, SchemaRefused)} == set(codes["values"])
    assert not {error.exit_code for error in (WaitTimeout, DatabaseUnreachable, HoldLost)} & set(codes["values"])


def test_helm_is_told_to_wait_for_the_job() -> None:
    """The timeout that the variant names is longer than the Job's deadline."""
    text = (KUBERNETES / "variants" / "helm-hook.yaml").read_text()
    (timeout,) = re.findall(r"--timeout (\w+)", text)
    assert seconds(timeout) > JOB["spec"]["activeDeadlineSeconds"]


def test_probes_ask_what_they_are_for() -> None:
    """Liveness never depends on the schema or the database; readiness does."""
    api = container(DEPLOYMENT)
    for probe, path in (("startup", "live"), ("liveness", "live"), ("readiness", "ready")):
        assert api[f"{probe}Probe"]["httpGet"]["path"] == f"/health/{path}"
        assert api[f"{probe}Probe"]["timeoutSeconds"] <= api[f"{probe}Probe"]["periodSeconds"]
    assert SERVICE["health_check"]["http_path"] == "/health/ready"
    assert SERVICE["liveness_health_check"]["http_path"] == "/health/live"


def test_app_platform_instances_say_why_they_give_up() -> None:
    """The health check outlasts their own budget, and is not longer than what the platform gives by default."""
    check = SERVICE["health_check"]
    allowed = check["initial_delay_seconds"] + check["period_seconds"] * check["failure_threshold"]
    assert settings(app_values(SERVICE)).wait_seconds + TO_END_SECONDS < allowed <= HEALTH_CHECK_SECONDS


def test_the_app_platform_job_ends_by_itself() -> None:
    """Its timeout covers both budgets and its start, and is not longer than what the platform gives by default."""
    timeout = seconds(APP_JOB["timeout"])
    assert one_try(settings(app_values(APP_JOB))) + 60 <= timeout <= LONGEST_JOB_SECONDS


def test_grace_periods_are_enough_to_roll_back() -> None:
    """Of Kubernetes after the preStop hook, of App Platform and of compose."""
    (_, pause) = container(DEPLOYMENT)["lifecycle"]["preStop"]["exec"]["command"]
    services = read(COMPOSE)["services"]
    periods = [
        pod(DEPLOYMENT)["terminationGracePeriodSeconds"] - int(pause),
        pod(JOB)["terminationGracePeriodSeconds"],
        APP_JOB["termination"]["grace_period_seconds"],
        SERVICE["termination"]["grace_period_seconds"],
        *(seconds(services[name]["stop_grace_period"]) for name in ("api", "migrate")),
    ]
    assert min(periods) >= 2 * TO_END_SECONDS


def test_the_image_is_not_unhealthy_while_it_may_wait() -> None:
    """Docker's start period covers the default budget."""
    (period,) = re.findall(r"--start-period=(\w+)", (ROOT / "Dockerfile").read_text())
    assert seconds(period) > MigrationSettings.model_fields["wait_seconds"].default
