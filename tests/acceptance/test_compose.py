"""One of several instances migrates under `docker-compose up --scale api=3`, with compose 1.29, v2 and each profile."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.support.docker import REMEDY, docker_client, exit_codes, is_ready, run, strategy
from tests.support.servers import optional
from tests.support.waiting import FOREVER_SECONDS, wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.docker, pytest.mark.usefixtures("ports_from_8000")]

MARK = "Running migrations"
NEW = "docker compose"
OLD = "docker-compose"
BOTH = pytest.mark.parametrize("project", [NEW, OLD], indirect=True)
ONLY_NEW = pytest.mark.parametrize("project", [NEW], indirect=True)
"""For what the old command reads in another test: the variable in that of Redis, the option in that of the files."""
JOB_FILES = ("--file", "docker-compose.yml", "--file", "docker-compose.job.yml")


@pytest.fixture(scope="module")
def project(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Yield one of the two compose commands with a project name of its own; remove its stack and images at the end.

    The first `up` with a service builds its image.
    """
    client = docker_client()
    old = shutil.which(OLD)
    if request.param == OLD and old is None:
        optional(OLD, REMEDY)
    program = [client, "compose"] if request.param == NEW else [str(old)]
    command = [*program, "--project-name", f"migrations-test-{os.getpid()}"]
    yield command
    run(*command, "down", "--volumes", "--timeout", "1", "--rmi", "local", profiles="job,redis")


@pytest.fixture
def compose(project: list[str]) -> Iterator[list[str]]:
    """Yield the compose command; at the end empty the database, and remove every container except the database's."""
    yield project
    client = docker_client()
    database = containers(project, "db")
    others = [each for each in containers(project) if each not in database]
    removed = run(client, "rm", "--force", *others)
    psql = ["psql", "--username=ledger", "--dbname=postgres"]
    psql += ["--command=DROP DATABASE ledger WITH (FORCE)", "--command=CREATE DATABASE ledger"]
    emptied = run(client, "exec", *database, *psql)
    assert (removed.returncode, emptied.returncode) == (0, 0), removed.stdout + emptied.stdout


def start(compose: list[str], *options: str, scale: int = 2, profiles: str = "") -> list[str]:
    """Run `up` with `scale` instances and wait until all are ready; return their ports."""
    started = run(*compose, *options, "up", "--detach", "--scale", f"api={scale}", profiles=profiles)
    assert started.returncode == 0, started.stdout
    ports = published_ports(compose)
    assert len(set(ports)) == scale
    wait_until(lambda: all(map(is_ready, ports)), f"{scale} ready instances", seconds=2 * FOREVER_SECONDS)
    return ports


def published_ports(compose: list[str]) -> list[str]:
    """Return the published ports of the instances."""
    addresses = [
        run(docker_client(), "port", each, "8000").stdout.splitlines()[0] for each in containers(compose, "api")
    ]
    return [address.rpartition(":")[2] for address in addresses]


def containers(compose: list[str], service: str = "") -> list[str]:
    """Return the ids of the containers of a service, or of all, by the engine's own client: compose starts slowly."""
    labels = {"project": compose[-1], **({"service": service} if service else {})}
    wanted = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
    return run(docker_client(), "ps", "--all", "--quiet", *wanted).stdout.split()


def marks(compose: list[str], service: str = "") -> int:
    """Count the log lines of a service, or of the whole stack, that say that migrations run."""
    logs = [run(docker_client(), "logs", each).stdout for each in containers(compose, service)]
    return sum(MARK in line for log in logs for line in log.splitlines())


@BOTH
def test_three_instances_start_together_and_one_migrates(compose: list[str]) -> None:
    """`up` starts three instances as a non-root user: one migrates, all become ready, and all stop on SIGTERM."""
    start(compose, scale=3)
    logs = run(*compose, "logs").stdout
    assert logs.count(MARK) == 1, logs
    assert run(*compose, "exec", "-T", "api", "./migrate.sh", "check").returncode == 0
    assert run(*compose, "exec", "-T", "api", "id", "-u").stdout.strip() == "10001"
    assert run(*compose, "stop", "api").returncode == 0
    assert 137 not in exit_codes(docker_client(), *containers(compose, "api"))


@ONLY_NEW
def test_with_strategy_job_only_the_one_shot_migrates(compose: list[str]) -> None:
    """With strategy `job` the one-shot service migrates and the instances verify; a second `up` migrates nothing."""
    assert_the_job_migrates(compose, profiles="job")


@BOTH
def test_with_the_files_of_the_job_only_the_one_shot_migrates(compose: list[str]) -> None:
    """With the second file and the profile as an option it is the same."""
    assert_the_job_migrates(compose, "--profile", "job", *JOB_FILES)


def assert_the_job_migrates(compose: list[str], *options: str, profiles: str = "") -> None:
    """Run `up` twice and check that the one-shot service migrated once, and nothing else did."""
    for _ in range(2):
        ports = start(compose, *options, profiles=profiles)
        assert [strategy(port) for port in ports] == ["job"] * 2
        assert (marks(compose, "migrate"), marks(compose)) == (1, 1)


@ONLY_NEW
def test_profiles_without_their_strategy_still_migrate_once(compose: list[str]) -> None:
    """`--profile` as an option starts more services and keeps the strategy: still exactly one process migrates."""
    ports = start(compose, "--profile", "job", "--profile", "redis")
    assert [strategy(port) for port in ports] == ["advisory_lock"] * 2
    assert marks(compose) == 1


@BOTH
def test_with_strategy_redis_one_instance_migrates(compose: list[str]) -> None:
    """With the profile `redis` both instances use strategy `redis`, and one of them migrates."""
    ports = start(compose, profiles="redis")
    assert [strategy(port) for port in ports] == ["redis"] * 2
    assert (marks(compose, "api"), marks(compose)) == (1, 1)
