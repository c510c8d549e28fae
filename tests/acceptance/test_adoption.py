"""api/migrations works as a copy in another FastAPI project, under another name, with that project's Alembic."""

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.shop import adopted, alone, fresh_project, python, shops
from tests.support import evidence
from tests.support.fleet import MARK, WAIT_SECONDS, until_all_ready, until_one_migrates, until_phase
from tests.support.project import ROOT
from tests.support.servers import fetch_sync
from tests.support.waiting import FOREVER_SECONDS, wait_until

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("how", ["run_env", "the cookbook's", "the asyncio cookbook's"])
def test_adding_one_line_lets_one_of_three_instances_migrate(database_url: str, tmp_path: Path, how: str) -> None:
    """Three instances of the copy start: all answer 503 and name the lock holder until it is done, then all serve."""
    project = adopted(tmp_path, how)
    with shops(3, database_url, project) as three:
        holder = until_one_migrates(three)
        runs = "the second revision runs"
        wait_until(lambda: evidence.executing(database_url, "pg_sleep"), runs, seconds=WAIT_SECONDS)
        until_phase([shop for shop in three if shop is not holder], "waiting")
        for shop in three:
            assert shop.get("/health/live").status_code == 200
            assert shop.get("/health/ready").status_code == 503
            assert shop.health()["lock"]["holder"]["instance"] == holder.name
            refused = shop.get("/things")
            assert (refused.status_code, refused.headers["Content-Type"]) == (503, "application/problem+json")
        evidence.let_go(database_url)
        until_all_ready(three)
        for shop in three:
            assert shop.get("/things").json() == ["a thing"]
            assert shop.health()["state"] == "at_head"
            assert shop.log().count("Ready: ") == 1
            assert '"GET /things HTTP/1.1" 200' in shop.log()
        assert [shop.log().count(MARK) for shop in three] == [int(shop is holder) for shop in three]
    assert evidence.applied(database_url) == ["first", "second"]
    assert len(fetch_sync(database_url, "SELECT 1 FROM things")) == 1
    assert evidence.advisory_locks(database_url) == 0


def tables(url: str) -> list[str]:
    """Return the names of the tables in the schema `public`."""
    return [row[0] for row in fetch_sync(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]


@pytest.mark.parametrize(
    ("template", "own", "words"),
    [
        ("async", None, "Can't load plugin: sqlalchemy.dialects:driver"),
        ("generic", "sqlite", "opens the SQLite file"),
    ],
    ids=["without a URL", "with a URL"],
)
def test_an_env_that_connects_elsewhere_is_refused(
    database_url: str, tmp_path: Path, template: str, own: str | None, words: str
) -> None:
    """The template's env.py has no URL, or that of a SQLite file: a start fails before any DDL and says so."""
    project = fresh_project(tmp_path, template)
    other = tmp_path / "other.db"
    if own:
        ini = project / "alembic.ini"
        ini.write_text(ini.read_text().replace("driver://user:pass@localhost/dbname", f"{own}:///{other}"))
    with shops(1, database_url, project, MIGRATION_ON_FAILURE="hold", MIGRATION_SHOW_ERRORS="true") as (one,):
        until_phase([one], "failed")
        message = one.health()["message"]
        assert words in message
        assert "To fix: " in message
        assert MARK not in one.log()
        assert "Traceback" not in one.log()
    assert tables(database_url) == []
    assert not other.exists()


def test_the_copy_imports_nothing_of_this_project(tmp_path: Path) -> None:
    """Every module of the copied package imports without a warning, and none loads `api`, `tests` or `devtools`."""
    project = fresh_project(tmp_path, "generic")
    program = """
import importlib, pkgutil, sys
sys.path.insert(0, ".")
import shop.db_migrations as package
for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
print(sorted(name for name in sys.modules if name.partition(".")[0] in {"api", "tests", "devtools"}))
"""
    done = python(project, "-I", "-W", "error", "-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_adopt_writes_the_line_that_makes_the_application_start_its_migrations(tmp_path: Path) -> None:
    """Without a URL `adopt --write` adds the lifespan of the copied package to the application."""
    project = fresh_project(tmp_path, "generic")
    main = project / "shop" / "main.py"
    main.write_text("from fastapi import FastAPI\n\napp = FastAPI()\n")
    done = python(project, "-m", "shop.db_migrations", "adopt", "--write", "--json")
    assert done.returncode == 0, done.stderr
    [change] = json.loads(done.stdout)["changes"]
    assert (change["path"], change["written"]) == ("shop/main.py", True)
    assert "+from shop.db_migrations import lifespan_with_migrations\n" in change["diff"]
    program = "from shop.main import app; print(app.router.lifespan_context)"
    assert "shop.db_migrations" in python(project, "-c", program).stdout


def test_a_copied_folder_is_updated_and_keeps_what_was_changed(tmp_path: Path) -> None:
    """`adopt --write` records the copy; `--update` names changed files, refuses to lose them, leaves a folder out."""
    project = fresh_project(tmp_path, "generic")
    copy, newer = project / "shop" / "db_migrations", tmp_path / "newer"
    shutil.copytree(copy, newer)

    def adopt(*options: str) -> tuple[int, dict[str, Any]]:
        done = python(project, "-m", "shop.db_migrations", "adopt", "--json", *options)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    _, recorded = adopt("--write")
    assert "its files are now recorded in shop/db_migrations/copied.json" in str(recorded["facts"])
    shutil.rmtree(copy / "web" / "status_page")
    for file, text in {copy / "inspection.py": "# mine\n", newer / "logs.py": "# new\n"}.items():
        file.write_text(file.read_text() + text)
    code, shown = adopt("--update", str(newer))
    page = [("web/status_page/" + name, "leave out") for name in ("__init__.py", "page.html.mako", "page.py")]
    steps = [("inspection.py", "keep"), ("logs.py", "replace"), *page]
    assert (code, [(step["path"], step["action"]) for step in shown["steps"]]) == (0, steps)
    (newer / "inspection.py").write_text((newer / "inspection.py").read_text() + "# new\n")
    code, refused = adopt("--update", str(newer), "--write")
    assert (code, "would lose their changes: inspection.py" in refused["message"]) == (1, True)
    assert (copy / "logs.py").read_text() != (newer / "logs.py").read_text()
    assert adopt("--update", str(newer), "--write", "--overwrite")[0] == 0
    assert (copy / "inspection.py.orig").read_text().endswith("# mine\n")
    assert all((copy / name).read_text() == (newer / name).read_text() for name in ("inspection.py", "logs.py"))
    _, after = adopt()
    assert "changed since it was recorded in shop/db_migrations/copied.json: web/status_page/" in str(after["facts"])


def test_the_commands_run_under_the_new_package_name(database_url: str, tmp_path: Path) -> None:
    """`python -m shop.db_migrations` and a manual `alembic upgrade` apply revisions in turn, with one history."""
    project = adopted(tmp_path, "run_env")
    evidence.let_go(database_url)
    done = python(project, "-m", "shop.db_migrations", "status", url=database_url)
    assert (done.returncode, "2 pending" in done.stdout) == (0, True), done.stderr
    done = python(project, "-m", "alembic", "upgrade", "first", url=database_url)
    assert done.returncode == 0, done.stderr
    done = python(project, "-m", "shop.db_migrations", "upgrade", url=database_url)
    assert (done.returncode, done.stderr.count(MARK)) == (0, 1), done.stderr
    assert evidence.applied(database_url) == ["first", "second"]


def copied_script(project: Path, *arguments: str, path: str, url: str | None = None) -> tuple[int, str, str]:
    """Run a copy of migrate.sh with the new package name and this PATH; return exit code, standard output and error."""
    script = project / "migrate.sh"
    script.write_text((ROOT / "migrate.sh").read_text().replace("api.migrations", "shop.db_migrations"))
    script.chmod(0o755)
    without = {name: value for name, value in alone(url).items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        ["/bin/sh", str(script), *arguments],
        env=without | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=FOREVER_SECONDS,
    )
    return done.returncode, done.stdout, done.stderr


def without_rich(project: Path) -> None:
    """Create a `.venv` that links every library of this Python except rich."""
    venv.create(project / ".venv", symlinks=True)
    libraries = next((project / ".venv" / "lib").glob("python*")) / "site-packages"
    for place in {Path(entry) for entry in sys.path if entry.endswith("-packages")}:
        for one in place.iterdir():
            if one.name != "rich" and not (libraries / one.name).exists():
                (libraries / one.name).symlink_to(one)


def test_the_copied_migrate_sh_runs_without_rich(database_url: str, tmp_path: Path) -> None:
    """With a `.venv` that lacks rich, and without ./dev, the copied migrate.sh prints the status and exits with 0."""
    project = adopted(tmp_path, "run_env")
    without_rich(project)
    code, out, err = copied_script(project, "status", path="/usr/bin:/bin", url=database_url)
    assert (code, "2 pending" in out) == (0, True), err


def test_the_copied_migrate_sh_names_the_missing_libraries(tmp_path: Path) -> None:
    """No Python on PATH has the libraries: the copied migrate.sh exits with 2 and names them in one line."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "dirname").symlink_to(str(shutil.which("dirname")))
    code, out, err = copied_script(tmp_path, "status", path=str(tools))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "alembic" in err
    assert "asyncpg" in err
