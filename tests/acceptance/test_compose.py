"""`docker-compose up --scale api=3` as the README says it, with compose 1.29 and with v2, on a real engine."""

import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.servers import optional
from tests.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.docker]

REMEDY = "start a Docker engine; apt-get install docker.io docker-compose"
COMMAND_SECONDS = 600
READY_SECONDS = 120
SCALE = 3


CLIENTS = ("/usr/bin/docker", shutil.which("docker"))
"""The system's own client first: it came with the engine, so it can build and has compose."""


def run(*command: str, timeout: float = COMMAND_SECONDS) -> "subprocess.CompletedProcess[str]":
    """Run a command in the project's folder with BuildKit on; its two outputs as one."""
    # compose 1.29 builds with the `docker` it finds on PATH
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "DOCKER_BUILDKIT": "1", "COMPOSE_DOCKER_CLI_BUILD": "1"}
    return subprocess.run(
        command,
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


def docker_client() -> str:
    """The client that reaches an engine and has compose."""
    installed = [client for client in CLIENTS if client and Path(client).exists()]
    answering = next((client for client in installed if run(client, "info").returncode == 0), None)
    return answering or optional("a Docker engine", REMEDY)


@pytest.fixture(params=["docker-compose", "docker compose"])
def compose(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Either compose with a project name of its own; what it started goes at the end, with its data."""
    client = docker_client()
    old = shutil.which("docker-compose")
    if request.param == "docker-compose" and old is None:
        optional("docker-compose", REMEDY)
    program = [client, "compose"] if request.param == "docker compose" else [str(old)]
    command = [*program, "--project-name", f"migrations-test-{os.getpid()}"]
    try:
        yield command
    finally:
        run(*command, "down", "--volumes", "--rmi", "local", "--timeout", "5")


def published_ports(compose: list[str]) -> list[str]:
    """Where the instances answer."""
    addresses = [run(*compose, "port", "--index", str(index), "api", "8000").stdout for index in range(1, SCALE + 1)]
    return [address.strip().rpartition(":")[2] for address in addresses]


def is_ready(port: str) -> bool:
    """Whether the instance on `port` takes traffic."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_three_instances_start_together_and_one_migrates(compose: list[str]) -> None:
    """All three become ready, and the logs of the whole stack, the database's included, say it once."""
    started = run(*compose, "up", "--detach", "--build", "--scale", f"api={SCALE}")
    assert started.returncode == 0, started.stdout
    ports = published_ports(compose)
    assert len(set(ports)) == SCALE
    wait_until(lambda: all(map(is_ready, ports)), "three ready instances", seconds=READY_SECONDS)
    logs = run(*compose, "logs").stdout
    assert sum("Running migrations" in line for line in logs.splitlines()) == 1, logs
    assert run(*compose, "exec", "-T", "api", "./migrate.sh", "check").returncode == 0
    assert run(*compose, "exec", "-T", "api", "id", "-u").stdout.strip() == "10001"
    stopped = time.monotonic()
    assert run(*compose, "stop").returncode == 0
    assert time.monotonic() - stopped < 15, "SIGTERM did not reach the service"
