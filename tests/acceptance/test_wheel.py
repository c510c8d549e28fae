"""The wheel works in an environment without this repository, and with its plugin typed commands acquire the lock."""

import signal
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from textwrap import indent
from types import ModuleType
from typing import Any
from zipfile import ZipFile

import pytest

import alembic_fleet_plugin
from api.migrations.cli.adopt.copied import Copy
from devtools.wheel import build
from tests.acceptance.shop import REVISION, alone, fresh_project, python, shops
from tests.acceptance.test_several_databases import multidb
from tests.acceptance.test_templates import assert_migrated_once, kinds_of_locks, untouched
from tests.conftest import fresh_name
from tests.support import evidence
from tests.support.fleet import MARK, until_all_ready, until_one_migrates
from tests.support.project import ROOT
from tests.support.servers import Server, fetch_sync
from tests.support.waiting import FOREVER_SECONDS, wait_until
from tests.support.warm import run

pytestmark = pytest.mark.acceptance

PACKAGE = "alembic_fleet"

PLAIN = """\
import sys
from alembic.config import main
main(prog="alembic")
print(any(name.startswith("alembic_fleet.") for name in sys.modules))
"""


END = "-- end --\n"
EACH = f"""\
import sys
from alembic.config import main
for command in sys.argv[1:]:
    main(command.split(), prog="alembic")
    print({END!r}, end="", flush=True)
"""
"""Runs each argument as a command of Alembic, in one process because a start takes longer than a command."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def interpreter(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Install the wheel into an empty environment that finds the libraries of this one; return its Python."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    path = folder / "bin" / "python"
    libraries = sysconfig.get_path("purelib", vars={"base": str(folder)})
    (Path(libraries) / "libraries.pth").write_text("\n".join(one for one in sys.path if one.endswith("-packages")))
    pip = [sys.executable, "-m", "pip", "--python", str(path), "install", "--quiet", "--no-deps", "--no-index"]
    done = run([*pip, str(wheel)])
    assert done.returncode == 0, done.stderr
    return str(path)


def project_of(folder: Path, url: str, template: str = "generic", driver: str = "psycopg2") -> Path:
    """Create a project that uses the installed package, with an untouched template and `fleet = true`."""
    project = untouched(folder, template, driver, url, package=PACKAGE)
    for name, section in (("pyproject.toml", "[tool.alembic]"), ("alembic.ini", "[alembic]")):
        file = project / name
        if file.exists():
            file.write_text(file.read_text().replace(f"{section}\n", f"{section}\nfleet = true\n", 1))
            return project
    raise AssertionError(f"no configuration of Alembic in {project}")


@contextmanager
def by_hand(interpreter: str, project: Path, *words: str, url: str | None) -> Iterator["Popen[str]"]:
    """Start `alembic …` and end it with the block."""
    command = [interpreter, "-m", "alembic", *words]
    with Popen(command, cwd=project, env=alone(url), stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_wheel_has_every_file(wheel: Path) -> None:
    """The wheel has each file of the folder, the template of the status page and `py.typed` too."""
    folder = ROOT / "api" / "migrations"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    packed = {name for name in ZipFile(wheel).namelist() if name.startswith(f"{PACKAGE}/")}
    assert packed == {f"{PACKAGE}/{name}" for name in files if "__pycache__" not in name}


def test_an_unpacked_wheel_is_the_copied_folder_of_its_version(wheel: Path, tmp_path: Path, interpreter: str) -> None:
    """The unpacked wheel differs from a copy in no file; the installed package has no copied folder to update."""
    copy = fresh_project(tmp_path, "generic") / "shop" / "db_migrations"
    ZipFile(wheel).extractall(tmp_path / "unpacked")
    same = python(tmp_path, "-m", "shop.db_migrations", "adopt", "--update", "unpacked", "--write")
    assert (same.returncode, Copy.recorded(copy)) == (0, Copy.of(copy)), same.stderr
    assert wheel.name.split("-")[1] == Copy.of(copy).version
    installed = python(tmp_path, "-m", PACKAGE, "adopt", "--update", "unpacked", interpreter=interpreter)
    assert (installed.returncode, "pip install --upgrade alembic-fleet" in installed.stderr) == (2, True)


def test_alembic_1_18_can_load_the_plugin() -> None:
    """Alembic up to 1.19 iterates over what the entry point names, and a newer one accepts only a module."""
    plugin: Any = alembic_fleet_plugin
    assert isinstance(plugin, ModuleType)
    assert list(plugin) == [plugin]


def test_one_of_two_instances_migrates_with_the_wheel(database_url: str, tmp_path: Path, interpreter: str) -> None:
    """Two instances of a project that has only installed the package start: one migrates; `alembic-fleet` agrees."""
    project = untouched(tmp_path, "generic", "psycopg2", database_url, package=PACKAGE)
    evidence.let_go(database_url)
    command = str(Path(interpreter).with_name("alembic-fleet"))
    done = run([command, "check"], cwd=project, env=alone(database_url))
    assert (done.returncode, "To fix: run 'alembic-fleet upgrade'" in done.stderr) == (3, True), done.stderr
    done = run([command, "status"], cwd=project, env=alone(database_url))
    assert "  alembic-fleet upgrade" in done.stdout.splitlines(), done.stdout
    with shops(2, database_url, project, interpreter=interpreter) as both:
        holder = until_one_migrates(both)
        until_all_ready(both)
        assert [shop.log().count(MARK) for shop in both] == [int(shop is holder) for shop in both]
    assert_migrated_once(database_url)
    done = run([command, "status"], cwd=project, env=alone(database_url))
    assert (done.returncode, "at head" in done.stdout) == (0, True), done.stderr


def test_one_of_two_upgrades_by_hand_migrates(database_url: str, tmp_path: Path, interpreter: str) -> None:
    """Two `alembic upgrade head` start with an env.py left untouched: one migrates, the other waits; both succeed."""
    project = project_of(tmp_path, database_url, "pyproject_async", "asyncpg")
    words = ("upgrade", "head")
    with (
        by_hand(interpreter, project, *words, url=database_url) as one,
        by_hand(interpreter, project, *words, url=database_url) as other,
    ):
        wait_until(lambda: evidence.executing(database_url, "pg_sleep"), "the second revision runs")
        assert kinds_of_locks(database_url) == 2
        wait_until(lambda: len(evidence.sessions(database_url)) == 2, "the other one waits")
        evidence.let_go(database_url)
        outputs = [process.communicate(timeout=FOREVER_SECONDS)[1] for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0], outputs
    assert sorted(output.count(MARK) for output in outputs) == [0, 1]
    assert_migrated_once(database_url)


def test_each_command_works_with_the_plugin(database_url: str, tmp_path: Path, interpreter: str) -> None:
    """Those that change the database are recorded; the others print what they print without the plugin."""
    project = project_of(tmp_path, database_url)
    env = project / "alembic" / "env.py"
    models = "from shop.models import metadata as target_metadata"
    env.write_text(env.read_text().replace("target_metadata = None", models))
    evidence.let_go(database_url)

    def alembic(*commands: str, url: str | None = database_url) -> list[str]:
        done = python(project, "-c", EACH, *commands, url=url, interpreter=interpreter)
        assert done.returncode == 0, done.stderr
        return done.stdout.split(END)

    offline, current, _ = alembic("upgrade first --sql", "current")
    assert ("CREATE TABLE things" in offline, current) == (True, "")
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert [name for (name,) in fetch_sync(database_url, tables)] == ["let_go"]
    # with the URL of alembic.ini
    changes = ("upgrade head", "downgrade -1", "stamp --purge first", "stamp third")
    outputs = alembic(*(each for change in changes for each in (change, "current")), url=None)
    assert outputs[1:8:2] == ["third (head)\n", "second\n", "first\n", "third (head)\n"]
    alembic("revision --autogenerate -m new")
    assert len(list((project / "alembic" / "versions").glob("*_new.py"))) == 1
    recorded = [(row["revision"], row["direction"]) for row in evidence.history(database_url)]
    assert recorded[:5] == [
        ("first", "upgrade"),
        ("second", "upgrade"),
        ("third", "upgrade"),
        ("third", "downgrade"),
        ("first", "stamp"),
    ]
    assert {*recorded[5:]} == {("second", "stamp"), ("third", "stamp")}
    assert evidence.advisory_locks(database_url) == 0


def test_a_failure_by_hand_is_one_line(database_url: str, tmp_path: Path, interpreter: str) -> None:
    """A failing revision is rolled back, recorded and named in one line; so is a missing DATABASE_URL."""
    project = project_of(tmp_path, database_url)
    evidence.let_go(database_url)
    fourth = REVISION.format(id="fourth", below="third", body=indent("op.execute('SELECT 1 / 0')", "    "))
    (project / "alembic" / "versions" / "fourth.py").write_text(fourth)
    done = python(project, "-m", "alembic", "upgrade", "head", url=database_url, interpreter=interpreter)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert done.stderr.splitlines()[-1].startswith("RevisionFailed: revision fourth")
    assert evidence.outcomes(database_url, "fourth") == ["failed"]
    ini = project / "alembic.ini"
    ini.write_text("\n".join(line for line in ini.read_text().splitlines() if not line.startswith("sqlalchemy.url")))
    done = python(project, "-m", "alembic", "upgrade", "head", interpreter=interpreter)
    assert done.returncode == 1
    assert done.stderr.startswith("ConfigurationError: DATABASE_URL is not set. To fix: ")


@pytest.mark.parametrize(
    ("template", "driver", "number"),
    [("generic", "psycopg2", signal.SIGINT), ("pyproject_async", "asyncpg", signal.SIGTERM)],
)
def test_a_signal_stops_a_command_by_hand(
    database_url: str, tmp_path: Path, interpreter: str, template: str, driver: str, number: signal.Signals
) -> None:
    """A signal reaches `alembic upgrade head` in a statement: one line, exit code 128 + n, no lock left."""
    project = project_of(tmp_path, database_url, template, driver)
    with by_hand(interpreter, project, "upgrade", "head", url=database_url) as process:
        wait_until(lambda: evidence.executing(database_url, "pg_sleep"), "the second revision runs")
        process.send_signal(number)
        output = process.communicate(timeout=FOREVER_SECONDS)[1]
    assert (process.returncode, "Traceback" in output) == (128 + number, False), output
    assert output.splitlines()[-1].startswith(f"Cancelled: stopped by {number.name}; what was not committed is rolled")
    wait_until(lambda: evidence.sessions(database_url) == [], "every session gone")
    assert evidence.advisory_locks(database_url) == 0
    assert evidence.versions(database_url) == ["first"]


def test_a_typed_upgrade_migrates_several_databases(server: Server, tmp_path: Path, interpreter: str) -> None:
    """The template `multidb` with `fleet = true`: of two `alembic upgrade head` at once, one migrates each database."""
    with server.database(fresh_name()) as first, server.database(fresh_name()) as second:
        project = multidb(tmp_path, {"engine1": first, "engine2": second}, package=PACKAGE)
        ini = project / "alembic.ini"
        ini.write_text(ini.read_text().replace("[alembic]\n", "[alembic]\nfleet = true\n", 1))
        with by_hand(interpreter, project, "upgrade", "head", url=first) as one:
            wait_until(lambda: evidence.executing(first, "pg_sleep"), "the first database's second revision runs")
            with by_hand(interpreter, project, "upgrade", "head", url=first) as other:
                for url in (first, second):
                    evidence.let_go(url)
                assert [process.wait() for process in (one, other)] == [0, 0], (one, other)
        for url in (first, second):
            assert evidence.applied(url) == ["first", "second"]
            assert len(fetch_sync(url, "SELECT 1 FROM things")) == 1


def test_without_the_key_alembic_is_as_ever(database_url: str, tmp_path: Path, interpreter: str) -> None:
    """Without `fleet = true` a project in the same environment is migrated by plain Alembic; no history is written."""
    project = untouched(tmp_path, "generic", "psycopg2", database_url, package=PACKAGE)
    evidence.let_go(database_url)
    done = python(project, "-c", PLAIN, "upgrade", "head", url=database_url, interpreter=interpreter)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    assert evidence.versions(database_url) == ["third"]
    assert fetch_sync(database_url, "SELECT 1 FROM pg_tables WHERE tablename = 'alembic_version_history'") == []
