"""One of three instances migrates under `docker-compose up --scale api=3`, with compose 1.29, v2 and each profile."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.support.docker import REMEDY, docker_client, exit_codes, is_ready, run, strategy
from tests.support.servers import optional
from tests.support.waiting import FOREVER_SECONDS, wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.docker, pytest.mark.usefixtures("ports_from_8000")]

SCALE = 3
MARK = "Running migrations"
JOB_FILES = ("--file", "docker-compose.yml", "--file", "docker-compose.job.yml")


def down(compose: list[str], *options: str) -> None:
    """Stop and remove what the project started, with its database."""
    run(*compose, "down", "--volumes", "--timeout", "5", *options, profiles="job,redis")


@pytest.fixture(params=["docker-compose", "docker compose"], scope="module")
def images(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Yield one of the two compose commands with a project name of its own; remove its images at the end.

    The first `up` with a service builds its image.
    """
    client = docker_client()
    old = shutil.which("docker-compose")
    if request.param == "docker-compose" and old is None:
        optional("docker-compose", REMEDY)
    program = [client, "compose"] if request.param == "docker compose" else [str(old)]
    command = [*program, "--project-name", f"migrations-test-{os.getpid()}"]
    yield command
    down(command, "--rmi", "local")


@pytest.fixture
def compose(images: list[str]) -> Iterator[list[str]]:
    """Yield the compose command; remove what a test started at the end."""
    try:
        yield images
    finally:
        down(images)


def start(compose: list[str], *options: str, profiles: str = "") -> list[str]:
    """Run `up` with three instances and wait until all are ready; return their ports."""
    started = run(*compose, *options, "up", "--detach", "--scale", f"api={SCALE}", profiles=profiles)
    assert started.returncode == 0, started.stdout
    ports = published_ports(compose)
    assert len(set(ports)) == SCALE
    wait_until(lambda: all(map(is_ready, ports)), "three ready instances", seconds=2 * FOREVER_SECONDS)
    return ports


def published_ports(compose: list[str]) -> list[str]:
    """Return the published ports of the instances."""
    addresses = [run(docker_client(), "port", each, "8000").stdout.splitlines()[0] for each in containers(compose)]
    return [address.rpartition(":")[2] for address in addresses]


def containers(compose: list[str], *options: str) -> list[str]:
    """Return the ids of the instances' containers, by the engine's own client because it starts faster than compose."""
    labels = {"project": compose[-1], "service": "api"}
    wanted = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
    return run(docker_client(), "ps", "--quiet", *wanted, *options).stdout.split()


def marks(compose: list[str], *services: str) -> int:
    """Count the log lines of `services` that say that migrations run; without one, those of the whole stack."""
    # the logs of a service whose profile is off are not shown
    logs = run(*compose, "logs", *services, profiles="job,redis").stdout
    return sum(MARK in line for line in logs.splitlines())


def test_three_instances_start_together_and_one_migrates(compose: list[str]) -> None:
    """`up` starts three instances as a non-root user: one migrates, all become ready, and all stop on SIGTERM."""
    start(compose)
    assert marks(compose) == 1
    assert run(*compose, "exec", "-T", "api", "./migrate.sh", "check").returncode == 0
    assert run(*compose, "exec", "-T", "api", "id", "-u").stdout.strip() == "10001"
    assert run(*compose, "stop").returncode == 0
    assert 137 not in exit_codes(docker_client(), *containers(compose, "--all"))


@pytest.mark.parametrize("how", ["variable", "files"])
def test_with_strategy_job_only_the_one_shot_migrates(compose: list[str], how: str) -> None:
    """With strategy `job` the one-shot service migrates and the instances verify; a second `up` migrates nothing."""
    options = ("--profile", "job", *JOB_FILES) if how == "files" else ()
    profiles = "" if options else "job"
    for _ in range(2):
        ports = start(compose, *options, profiles=profiles)
        assert [strategy(port) for port in ports] == ["job"] * SCALE
        assert (marks(compose, "migrate"), marks(compose)) == (1, 1)


def test_profiles_without_their_strategy_still_migrate_once(compose: list[str]) -> None:
    """`--profile` as an option starts more services and keeps the strategy: still exactly one process migrates."""
    ports = start(compose, "--profile", "job", "--profile", "redis")
    assert [strategy(port) for port in ports] == ["advisory_lock"] * SCALE
    assert marks(compose) == 1


def test_with_strategy_redis_one_instance_migrates(compose: list[str]) -> None:
    """With the profile `redis` all three instances use strategy `redis`, and one of them migrates."""
    ports = start(compose, profiles="redis")
    assert [strategy(port) for port in ports] == ["redis"] * SCALE
    assert (marks(compose, "api"), marks(compose)) == (1, 1)
