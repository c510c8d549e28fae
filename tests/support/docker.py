"""A Docker engine for the tests: its client, commands in the project's folder, and instances in containers."""

import json
import os
import shutil
import subprocess
import urllib.request
from functools import cache
from pathlib import Path

from tests.support.pace import scaled
from tests.support.project import ROOT
from tests.support.servers import optional
from tests.support.waiting import FOREVER_SECONDS

REMEDY = "start a Docker engine; apt-get install docker.io docker-compose"
COMMAND_SECONDS = scaled(600)
CLIENTS = ("/usr/bin/docker", shutil.which("docker"))
"""The system's own client comes first: it was installed with the engine, so it can build and has compose."""


def run(*command: str, timeout: float = COMMAND_SECONDS, profiles: str = "") -> "subprocess.CompletedProcess[str]":
    """Run a command in the project's folder with BuildKit and COMPOSE_PROFILES; return both outputs as one."""
    # compose 1.29 builds with the `docker` it finds on PATH
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "DOCKER_BUILDKIT": "1", "COMPOSE_DOCKER_CLI_BUILD": "1"}
    environment["COMPOSE_PROFILES"] = profiles
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


@cache
def docker_client() -> str:
    """Return the client that reaches an engine; skip the test without one."""
    installed = [client for client in CLIENTS if client and Path(client).exists()]
    answering = next((client for client in installed if run(client, "info").returncode == 0), None)
    return answering or optional("a Docker engine", REMEDY)


def exit_codes(client: str, *names: str) -> set[int]:
    """Return the exit codes of stopped containers; 137 is SIGKILL, which follows a SIGTERM that was ignored."""
    return set(map(int, run(client, "inspect", "--format={{.State.ExitCode}}", *names).stdout.split()))


def is_ready(port: str) -> bool:
    """Return whether the instance on `port` is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def strategy(port: str) -> str:
    """Return the strategy of the instance on `port`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/migrations", timeout=FOREVER_SECONDS) as answer:
        return str(json.load(answer)["strategy"])
