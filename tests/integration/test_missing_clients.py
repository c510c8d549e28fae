"""A strategy or a database whose client is not installed: one line names the package to install."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fleet import environment
from tests.support.lease_api import LeaseApi
from tests.support.pace import scaled
from tests.support.waiting import FOREVER_SECONDS
from tests.support.warm import run

BROUGHT_BY = {"httpx2": "lightkube"}
PROJECT = Path(__file__).resolve().parents[2]

WITHOUT = """\
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] == {package!r}
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
from api.migrations.cli.main import main
code = main(["upgrade"])
{then}
sys.exit(code)
"""


PACKAGES = pytest.mark.parametrize(
    ("package", "extra", "url", "strategy"),
    [
        ("httpx2", "kubernetes", "postgresql://nobody@127.0.0.1:9/none", "kubernetes"),
        ("redis", "redis", "postgresql://nobody@127.0.0.1:9/none", "redis"),
        ("lightkube", "kubernetes", "postgresql://nobody@127.0.0.1:9/none", "kubernetes"),
        ("asyncmy", "mysql", "mysql://nobody@127.0.0.1:9/none", "advisory_lock"),
        ("aiosqlite", "sqlite", "sqlite:////nowhere/none.db", "advisory_lock"),
    ],
)


def hidden(package: str, then: str = "", **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run `upgrade`, and `then` a statement, in a process that cannot import `package`."""
    command = [sys.executable, "-c", WITHOUT.format(package=package, then=then)]
    return subprocess.run(command, cwd=PROJECT, env=settings, capture_output=True, text=True, timeout=FOREVER_SECONDS)


@PACKAGES
def test_a_missing_client_is_named(tmp_path: Path, package: str, extra: str, url: str, strategy: str) -> None:
    """A client is not installed: `upgrade` exits with 2 before it connects, and names the package and the extra."""
    settings = {
        "DATABASE_URL": url,
        "MIGRATION_STRATEGY": strategy,
        "MIGRATION_REDIS_URL": "redis://127.0.0.1:9/0",
        "KUBECONFIG": str(LeaseApi(tmp_path).kubeconfig),
        "PATH": "",
    }
    done = hidden(package, **settings)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ConfigurationError: "), done.stderr
    assert f"[{extra}]" in last
    assert f"pip install {BROUGHT_BY.get(package, package)}" in last
    assert "Traceback" not in done.stderr


def test_sqlite_is_refused_on_a_system_without_file_locks() -> None:
    """The operating system has no `fcntl`, such as Windows: a SQLite URL is refused in one line."""
    done = hidden("fcntl", DATABASE_URL="sqlite:////nowhere/none.db", MIGRATION_STRATEGY="advisory_lock")
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert "a lock that this operating system does not have" in line


def test_a_schema_setting_is_refused_on_sqlite() -> None:
    """A version table schema is set for SQLite: `upgrade` exits with 2 and says to unset it."""
    settings = {"MIGRATION_STRATEGY": "advisory_lock", "MIGRATION_VERSION_TABLE_SCHEMA": "shop"}
    own = environment("sqlite:////nowhere/none.db", **settings)
    done = run([sys.executable, "-m", "api.migrations", "upgrade"], cwd=PROJECT, env=own)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert "unset MIGRATION_VERSION_TABLE_SCHEMA" in line


@pytest.mark.parametrize("package", ["_sqlite3", "fcntl"])
def test_a_postgresql_service_needs_nothing_of_sqlite(package: str) -> None:
    """Python has no sqlite3 or fcntl: a PostgreSQL `upgrade` tries to connect and the service can be imported."""
    settings = {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none",
        "MIGRATION_WAIT_SECONDS": f"{scaled(0.5):g}",
        "MIGRATION_RUN_SECONDS": f"{scaled(0.5):g}",
    }
    done = hidden(package, "import api.main; print('imported')", **settings)
    # what is printed around a command goes to standard error
    assert (done.returncode, done.stderr.splitlines()[-1]) == (5, "imported"), done.stderr
