"""Real processes: instances of the service, `./migrate.sh` and `alembic`, started as people start them.

Every setting is an environment variable: `fleet(5, url, MIGRATION_ALEMBIC_CONFIG=str(ini), …)`.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Any

import httpx

from devtools.ports import HOST, free_port
from tests.support.pace import scaled
from tests.support.project import PLAIN, ROOT
from tests.support.vanishing import Namespace
from tests.support.waiting import FOREVER_SECONDS, wait_until
from tests.support.warm import Process

WAIT_SECONDS = FOREVER_SECONDS
"""The time limit of one event in seconds; no event takes that long."""

MARK = "Running migrations"
"""An instance that migrates logs this once; no other instance ever does."""


def environment(url: str | None, **settings: str) -> dict[str, str]:
    """Return this process's environment without its own settings, with the given ones."""
    kept = {k: v for k, v in os.environ.items() if k != "DATABASE_URL" and not k.startswith("MIGRATION_")}
    given = {"DATABASE_URL": on_driver(url)} if url is not None else {}
    # many tests create tables of their own before the first revision (`marks`, `let_go`)
    given["MIGRATION_BASELINE"] = "base"
    return {**kept, "PYTHONUNBUFFERED": "1", **given, **settings}


def on_driver(url: str) -> str:
    """Return a PostgreSQL URL with the driver of the variable TESTS_DRIVER, if it is set: psycopg or psycopg2."""
    driver = os.environ.get("TESTS_DRIVER")
    return re.sub("^postgres(ql)?://", f"postgresql+{driver}://", url) if driver else url


class Instance:
    """One `uvicorn api.main:app`, or another `app` in the words of uvicorn, started by the constructor.

    Attributes:
        name: its MIGRATION_INSTANCE.
        port: where it answers, once it does.
        host: the namespace in which it answers; None is this machine.
    """

    def __init__(
        self,
        name: str,
        environment: dict[str, str],
        folder: Path,
        inside: Sequence[str] = (),
        host: Namespace | None = None,
        app: Sequence[str] = ("api.main:app",),
        tree: Path = ROOT,
    ) -> None:
        self.name = name
        self.host = host
        self.port = free_port()
        self._log = folder / f"{name}.log"
        # without keep-alive, because an open connection could end in the middle of a test
        limits = httpx.Limits(max_keepalive_connections=0)
        address, inside = (host.address, host.inside()) if host else (HOST, inside)
        url = f"http://{address}:{self.port}"
        # without `verify=False` each client reads all certificate authorities, for TLS that no test uses
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=scaled(10), limits=limits, verify=False)
        uvicorn = [sys.executable, "-m", "uvicorn", *app, "--host", address, "--port", str(self.port)]
        with self._log.open("wb") as log:
            self.process: subprocess.Popen[bytes] = Process(
                [*inside, *uvicorn], cwd=tree, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def __repr__(self) -> str:
        return f"<{self.name} on {self.port}, exit code {self.process.poll()}>"

    def get(self, path: str, accept: str = "*/*") -> httpx.Response:
        """Send a GET request. Raises `httpx.TransportError` while the port is closed."""
        return self._client.get(path, headers={"Accept": accept})

    def url(self, path: str) -> str:
        """Return the URL of `path` for other clients."""
        return f"http://{HOST}:{self.port}{path}"

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """Send a POST request with a JSON body."""
        return self._client.post(path, json=body, headers=headers)

    def health(self) -> dict[str, Any]:
        """Return the answer of `/health/migrations`; empty while the port is closed."""
        try:
            body: dict[str, Any] = self.get("/health/migrations").json()
        except httpx.TransportError:
            return {}
        return body

    def message(self) -> str:
        """Return the message of `/health/migrations`; empty while it has none, or while the port is closed."""
        return self.health().get("message") or ""

    def phase(self) -> str | None:
        """Return the phase of `/health/migrations`; None while the port is closed."""
        return self.health().get("phase")

    def ready(self) -> bool:
        """Return whether it is ready to serve."""
        try:
            return self.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def log(self) -> str:
        """Return everything that it has written so far."""
        return self._log.read_text(errors="replace")

    def kill(self, number: Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; return the exit code as a shell shows it: 143 for SIGTERM."""
        self.until(lambda: self.process.poll() is not None, "ended")
        return shell_code(self.process)

    def until(self, condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until a condition of this instance holds."""
        wait_until(condition, f"{self!r} {what}", seconds=seconds)

    def close(self) -> None:
        """Kill the process if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(SIGKILL)
        self.process.wait()
        self._client.close()


def fleet(
    n: int, url: str | None, *, ini: Path = PLAIN, first: int = 1, inside: Sequence[str] = (), **settings: str
) -> AbstractContextManager[list[Instance]]:
    """Start `n` instances at once, named api-1, api-2, …; none outlives the block.

    `inside` is put before the command, to run it in a namespace. Their logs are printed when the block raises, for the
    report of the failed test.
    """
    names = [f"api-{number}" for number in range(first, first + n)]
    return _started(names, environment(url, **{"MIGRATION_ALEMBIC_CONFIG": str(ini), **settings}), inside)


@contextmanager
def one_of(app: Path, url: str | None, *, ini: Path, **settings: str) -> Iterator[Instance]:
    """Start an instance of `app` in the file of that name; everything else is as in a fleet of one."""
    own = environment(url, MIGRATION_ALEMBIC_CONFIG=str(ini), **settings)
    words = (f"{app.stem}:app", "--app-dir", str(app.parent))
    with _started([app.stem], own, app=words) as (instance,):
        yield instance


def one_on(host: Namespace, name: str, url: str, ini: Path, **settings: str) -> AbstractContextManager[list[Instance]]:
    """Start an instance inside `host`, reachable from here."""
    own = environment(host.there(url), MIGRATION_ALEMBIC_CONFIG=str(ini), **settings)
    return _started([name], own, host=host)


def one_in(tree: Path, url: str, name: str) -> AbstractContextManager[list[Instance]]:
    """Start an instance of the code in the folder `tree`, such as that of another release."""
    own = environment(url, MIGRATION_ALEMBIC_CONFIG=str(tree / "alembic.ini"))
    return _started([name], own, tree=tree)


@contextmanager
def _started(
    names: Sequence[str],
    own: dict[str, str],
    inside: Sequence[str] = (),
    host: Namespace | None = None,
    app: Sequence[str] = ("api.main:app",),
    tree: Path = ROOT,
) -> Iterator[list[Instance]]:
    instances: list[Instance] = []
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        try:
            for name in names:
                # a test may give all of its instances one name
                named = {"MIGRATION_INSTANCE": name, **own}
                instances.append(Instance(name, named, Path(folder), inside, host, app, tree))
            yield instances
        except BaseException:
            for instance in instances:
                sys.stdout.write(f"--- {instance!r}\n{instance.log()}\n")
            raise
        finally:
            for instance in instances:
                instance.close()


def until_all_ready(instances: Sequence[Instance], seconds: float = 2 * WAIT_SECONDS) -> None:
    """Wait until each instance is ready; fail at once if one ends instead."""

    def all_ready() -> bool:
        ended = [instance for instance in instances if instance.process.poll() is not None]
        assert not ended, f"ended instead of becoming ready: {ended}"
        return all(instance.ready() for instance in instances)

    wait_until(all_ready, f"{len(instances)} ready instances", seconds=seconds)


def marks_in_logs(instances: list[Instance]) -> int:
    """Return how often the instances have logged that they migrate."""
    return sum(instance.log().count(MARK) for instance in instances)


def roles(instance: Instance) -> list[tuple[str, str]]:
    """Return role and name of each member of the fleet, as an instance shows it."""
    return sorted((member["role"], member["instance"]) for member in instance.health().get("fleet", []))


def until_phase(instances: Sequence[Instance], phase: str, seconds: float = 2 * WAIT_SECONDS) -> None:
    """Wait until each instance says that it is in `phase`."""
    wait_until(lambda: all(i.phase() == phase for i in instances), f"{len(instances)} {phase}", seconds=seconds)


def until_one_migrates(instances: Sequence[Instance], seconds: float = 2 * WAIT_SECONDS) -> Instance:
    """Wait until an instance migrates, and return it."""
    found: list[Instance] = []

    def look() -> bool:
        found[:] = [instance for instance in instances if instance.phase() == "migrating"]
        return bool(found)

    wait_until(look, "an instance that migrates", seconds=seconds)
    return found[0]


@contextmanager
def command(words: Sequence[str], url: str | None, **settings: str) -> "Iterator[subprocess.Popen[str]]":
    """Start a command in the project's folder, its two outputs as one; it does not outlive the block."""
    process = Process(
        words,
        cwd=ROOT,
        # migrate.sh takes the active environment's Python: make it the one that runs the tests
        env=environment(url, VIRTUAL_ENV=sys.prefix, **settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def start_migrate(
    *arguments: str, url: str | None, ini: Path = PLAIN, **settings: str
) -> "AbstractContextManager[subprocess.Popen[str]]":
    """Start `./migrate.sh …` for a `with` block, as the Python process that the script becomes."""
    words = [sys.executable, "-m", "api.migrations", *arguments]
    return command(words, url, MIGRATION_ALEMBIC_CONFIG=str(ini), **settings)


def start_alembic(
    *arguments: str, url: str | None, ini: Path = PLAIN, **settings: str
) -> "AbstractContextManager[subprocess.Popen[str]]":
    """Start `alembic -c ini …` for a `with` block, as a person types it."""
    words = [sys.executable, "-m", "alembic", "-c", str(ini), *arguments]
    return command(words, url, MIGRATION_ALEMBIC_CONFIG=str(ini), **settings)


def migrate(*arguments: str, url: str | None, ini: Path = PLAIN, **settings: str) -> tuple[int, str]:
    """Run `./migrate.sh …` to its end; return exit code and output."""
    with start_migrate(*arguments, url=url, ini=ini, **settings) as process:
        return finish(process)


def alembic(*arguments: str, url: str | None, ini: Path = PLAIN, **settings: str) -> tuple[int, str]:
    """Run `alembic -c ini …` to its end; return exit code and output."""
    with start_alembic(*arguments, url=url, ini=ini, **settings) as process:
        return finish(process)


def finish(process: "subprocess.Popen[str]", seconds: float = 4 * WAIT_SECONDS) -> tuple[int, str]:
    """Wait for the end of a command; return its exit code as a shell shows it, and its output."""
    output, _ = process.communicate(timeout=seconds)
    return shell_code(process), output


def shell_code(process: "subprocess.Popen[Any]") -> int:
    """Return the exit code as a shell shows it: 128 + N for a process that signal N ended."""
    code: int = process.returncode
    return code if code >= 0 else 128 - code
