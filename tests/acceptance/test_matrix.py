"""Each template, each way to migrate, each driver, with the wheel and with a copied folder: one process migrates."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE
from zipfile import ZipFile

import pytest

from devtools.wheel import build
from tests.acceptance.shop import COPY, RUN_ENV, alone, python, shops
from tests.acceptance.test_templates import assert_migrated_once, untouched
from tests.conftest import fresh_name
from tests.support import evidence
from tests.support.fleet import until_all_ready
from tests.support.servers import Server, fetch_sync
from tests.support.waiting import FOREVER_SECONDS, wait_until
from tests.support.warm import Process

pytestmark = pytest.mark.acceptance

WHEEL = "alembic_fleet"
CELLS = [
    ("generic", "psycopg", "start-up", WHEEL),
    ("pyproject", "psycopg2", "start-up", WHEEL),
    ("async", "asyncpg", "start-up", WHEEL),
    ("pyproject_async", "psycopg", "start-up", WHEEL),
    ("generic", "psycopg", "migrate.sh", WHEEL),
    ("pyproject", "psycopg2", "migrate.sh", COPY),
    ("async", "psycopg", "migrate.sh", WHEEL),
    ("pyproject_async", "asyncpg", "migrate.sh", COPY),
    ("generic", "psycopg2", "by hand", COPY),
    ("pyproject", "psycopg", "by hand", COPY),
    ("async", "psycopg", "by hand", COPY),
    ("pyproject_async", "asyncpg", "by hand", COPY),
]
"""With those of `test_templates` (start-up, copied folder) and `test_wheel` (by hand), each pair of values occurs."""

SCHEMA = """
    SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name <> 'alembic_version_history'
    UNION ALL
    SELECT tablename, indexname, indexdef, NULL, NULL FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'alembic_version_history'
    ORDER BY 1, 2
"""

Projects = Callable[[str, str], Path]


def schema(url: str) -> list[tuple[str, ...]]:
    """Return the columns and indexes of all tables except the history table."""
    return [tuple(row) for row in fetch_sync(url, SCHEMA)]


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Projects:
    """Return a function that creates a project with a template and a package once; the cells share it."""
    made: dict[tuple[str, str], Path] = {}
    wheel = build(tmp_path_factory.mktemp("dist"))

    def project(template: str, package: str) -> Path:
        if (template, package) not in made:
            folder = untouched(tmp_path_factory.mktemp(template), template, "driver", "url", package=package)
            shutil.copy(folder / "alembic" / "env.py", folder / "env.template")
            if package == WHEEL:  # as installed, because its folder is on the path
                ZipFile(wheel).extractall(folder)
            made[template, package] = folder
        return made[template, package]

    return project


@pytest.fixture(scope="module")
def schema_of_plain_alembic(server: Server, projects: Projects) -> Iterator[list[tuple[str, ...]]]:
    """Yield the schema that Alembic makes without this package."""
    with server.database(fresh_name()) as url:
        project = prepared(projects("generic", COPY), "psycopg2", url)
        evidence.let_go(url)
        done = python(project, "-m", "alembic", "upgrade", "head", url=url)
        assert done.returncode == 0, done.stderr
        yield schema(url)


def prepared(project: Path, driver: str, url: str, *, run_env: bool = False) -> Path:
    """Write the URL into alembic.ini; `run_env` replaces env.py, so that a typed `alembic` acquires the lock."""
    ini, env = project / "alembic.ini", project / "alembic" / "env.py"
    own = url.replace("postgresql://", f"postgresql+{driver}://").replace("%", "%%")
    ini.write_text(re.sub(r"(?m)^sqlalchemy.url = .*", lambda _: f"sqlalchemy.url = {own}", ini.read_text()))
    if run_env:
        env.write_text(RUN_ENV)
    else:
        shutil.copy(project / "env.template", env)
    return project


@contextmanager
def commands(project: Path, url: str, *words: str) -> Iterator[list["subprocess.Popen[str]"]]:
    """Start the command twice at once and kill what still runs at the end of the block."""
    command = [sys.executable, "-m", *words]
    with ExitStack() as stack:
        started: list[subprocess.Popen[str]] = []
        for name in ("one", "other"):
            env = alone(url, MIGRATION_INSTANCE=name)
            process = Process(command, cwd=project, env=env, stderr=PIPE, stdout=DEVNULL, text=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
        yield started


def until_the_second_revision(url: str) -> None:
    """Wait until the second revision runs, then let it finish."""
    wait_until(lambda: evidence.executing(url, "pg_sleep"), "the second revision runs")
    evidence.let_go(url)


@pytest.mark.parametrize(("template", "driver", "way", "package"), CELLS, ids=lambda value: value)
def test_one_process_migrates(
    database_url: str,
    projects: Projects,
    schema_of_plain_alembic: list[tuple[str, ...]],
    template: str,
    driver: str,
    way: str,
    package: str,
) -> None:
    """Two instances or two commands start at once: one migrates, both succeed, and the schema is plain Alembic's."""
    url, by_hand = database_url, way == "by hand"
    project = prepared(projects(template, package), driver, url, run_env=by_hand)
    if way == "start-up":
        with shops(2, url, project) as started:
            until_the_second_revision(url)
            until_all_ready(started)
    else:
        words = ["alembic", "upgrade", "head"] if by_hand else [package, "upgrade"]
        with commands(project, url.replace("postgresql://", f"postgresql+{driver}://"), *words) as both:
            until_the_second_revision(url)
            outputs = [process.communicate(timeout=FOREVER_SECONDS)[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], outputs
    assert_migrated_once(url)
    assert len(evidence.appliers(url)) == 1
    assert schema(url) == schema_of_plain_alembic
