"""The image runs under the limits of the Kubernetes manifests: their user, file system, memory and capabilities."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devtools.ports import free_port
from tests.support import evidence, project
from tests.support.docker import docker_client, exit_codes, is_ready, run, strategy
from tests.support.fleet import MARK, WAIT_SECONDS
from tests.support.manifests import KUBERNETES, Document, container, pod, read
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.docker]

NAME = f"ledger-test-{os.getpid()}"
DEPLOYMENT, JOB = read(KUBERNETES / "deployment.yaml"), read(KUBERNETES / "job.yaml")
HOSTILE = "import pathlib, sys; [pathlib.Path(p, 'x').touch() for p in sys.argv[1:]]"


@pytest.fixture(scope="module")
def docker() -> Iterator[str]:
    """Build the image and yield the docker client; remove the image at the end."""
    client = docker_client()
    built = run(client, "build", "--quiet", "--tag", NAME, ".")
    assert built.returncode == 0, built.stdout
    try:
        yield client
    finally:
        run(client, "image", "rm", "--force", NAME)


def limits(manifest: Document) -> list[str]:
    """Return the manifest's limits as options of `docker run`."""
    user, own = pod(manifest)["securityContext"], container(manifest)["securityContext"]
    return [
        f"--user={user['runAsUser']}:{user['runAsGroup']}",
        f"--read-only={str(own['readOnlyRootFilesystem']).lower()}",
        *(f"--cap-drop={name}" for name in own["capabilities"]["drop"]),
        f"--security-opt=no-new-privileges:{str(not own['allowPrivilegeEscalation']).lower()}",
        f"--memory={container(manifest)['resources']['limits']['memory'].removesuffix('i')}",
        # the test's database is on this machine
        "--network=host",
    ]


def run_job(docker: str, url: str) -> tuple[int, str]:
    """Run the Job's command under its limits and with its variables only; return exit code and output."""
    given = ["--env=MIGRATION_STRATEGY=job", f"--env=MIGRATION_DATABASE_URL={url}"]
    done = run(docker, "run", "--rm", *limits(JOB), *given, NAME, *container(JOB)["command"])
    return done.returncode, done.stdout


@contextmanager
def instance(docker: str, url: str) -> Iterator[str]:
    """Run a pod of the Deployment; yield its port."""
    port = str(free_port())
    given = ["--env=MIGRATION_STRATEGY=job", f"--env=DATABASE_URL={url}"]
    serve = ["uvicorn", "api.main:app", "--host", "127.0.0.1", "--port", port]
    started = run(docker, "run", "--detach", f"--name={NAME}", *limits(DEPLOYMENT), *given, NAME, *serve)
    assert started.returncode == 0, started.stdout
    try:
        yield port
    finally:
        run(docker, "rm", "--force", NAME)


def test_the_job_and_an_instance_run_within_the_manifests_limits(docker: str, database_url: str) -> None:
    """The Job migrates and an instance serves as non-root on a read-only file system; SIGTERM stops the instance."""
    code, output = run_job(docker, database_url)
    assert (code, output.count(MARK)) == (0, 1), output
    assert evidence.versions(database_url) == [project.head()]
    with instance(docker, database_url) as port:
        wait_until(lambda: is_ready(port), "a ready container", seconds=2 * WAIT_SECONDS)
        assert strategy(port) == "job"
        assert run(docker, "exec", NAME, "id", "-u").stdout.strip() == "10001"
        written = run(docker, "exec", NAME, "python", "-c", HOSTILE, "/tmp", "/app")
        assert (written.returncode, "Read-only file system" in written.stdout) == (1, True), written.stdout
        logs = run(docker, "logs", NAME).stdout
        assert (MARK in logs, "Traceback" in logs) == (False, False), logs
        assert run(docker, "stop", "--time", "30", NAME).returncode == 0
        assert 137 not in exit_codes(docker, NAME)


# without a database a start fails at once
COMPOSE = f"""
services:
  api:
    image: {NAME}
    container_name: {NAME}
    restart: on-failure:1
    network_mode: none
"""
STATE = "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}"


def test_docker_restarts_a_service_that_fails_to_start(docker: str, tmp_path: Path) -> None:
    """The service is process 1 and cannot start: it exits with 3, and `restart: on-failure` starts it again."""
    file = tmp_path / "compose.yml"
    file.write_text(COMPOSE)
    compose = [docker, "compose", "--project-name", NAME, "--file", str(file)]
    try:
        started = run(*compose, "up", "--detach")
        assert started.returncode == 0, started.stdout
        inspect = [docker, "inspect", "--format", STATE, NAME]
        ended = ["exited", "1", "3"]
        wait_until(lambda: run(*inspect).stdout.split() == ended, "the end after a restart", seconds=2 * WAIT_SECONDS)
        logs = run(docker, "logs", NAME).stdout
        assert [logs.count(words) for words in ("Not ready: ", "Application shutdown complete.")] == [2, 2], logs
    finally:
        run(*compose, "down", "--timeout", "1")
