"""Without an optional folder the package imports, migrates PostgreSQL, and names the folder when it is needed."""

import json
import shutil
from pathlib import Path

import pytest

from tests.acceptance.shop import adopted, python, shops
from tests.support import evidence
from tests.support.fleet import MARK, until_phase

pytestmark = pytest.mark.acceptance

ASKED_FOR = {
    "databases/mysql": ("check", {"DATABASE_URL": "mysql://user:password@host/name"}),
    "databases/sqlite": ("check", {"DATABASE_URL": "sqlite:///shop.db"}),
    "databases/backups": ("backup", {}),
    "electors/redis": ("upgrade", {"MIGRATION_STRATEGY": "redis", "MIGRATION_REDIS_URL": "redis://host:6379"}),
    "electors/kubernetes": ("upgrade", {"MIGRATION_STRATEGY": "kubernetes"}),
}
"""A command, and settings, that need the folder."""
OPTIONAL = [*ASKED_FOR, "web/status_page"]

EVERY_MODULE = """
import importlib, pkgutil, warnings
warnings.simplefilter("error")
import shop.db_migrations as package
for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a project that has the whole package."""
    return adopted(tmp_path_factory.mktemp("whole"), "run_env")


def copied(whole: Path, project: Path, *without: str) -> Path:
    """Copy the project and delete some folders of its package."""
    shutil.copytree(whole, project)
    for folder in without:
        shutil.rmtree(project / "shop" / "db_migrations" / folder)
    return project


@pytest.mark.parametrize(
    "without", [*([folder] for folder in OPTIONAL), OPTIONAL], ids=lambda folders: "+".join(folders)
)
def test_an_instance_migrates_without_the_folder(
    whole: Path, database_url: str, tmp_path: Path, without: list[str]
) -> None:
    """Without the folder every other module imports, an instance migrates, and a browser gets an answer.

    Without all of them one of three instances migrates.
    """
    project = copied(whole, tmp_path / "project", *without)
    (project / "every_module.py").write_text(EVERY_MODULE)
    imported = python(project, "-m", "every_module")
    assert (imported.returncode, imported.stderr) == (0, "")
    evidence.let_go(database_url)
    count = 3 if without == OPTIONAL else 1
    with shops(count, database_url, project) as instances:
        until_phase(instances, "ready")
        assert sum(shop.log().count(MARK) for shop in instances) == 1
        browser = instances[0].get("/health/migrations", "text/html")
        kind = "application/json" if "web/status_page" in without else "text/html"
        assert browser.headers["content-type"].partition(";")[0] == kind
    assert evidence.applied(database_url) == ["first", "second"]


@pytest.mark.parametrize("folder", ASKED_FOR)
def test_a_folder_that_is_needed_is_named(whole: Path, database_url: str, tmp_path: Path, folder: str) -> None:
    """A command needs the missing folder: it exits with 2 before it connects, and names the folder."""
    project = copied(whole, tmp_path / "project", folder)
    command, settings = ASKED_FOR[folder]
    refused = python(project, "-m", "shop.db_migrations", command, url=database_url, **settings)
    assert (refused.returncode, f"folder {folder}" in refused.stderr) == (2, True), refused.stderr


def test_a_plan_without_the_backups_goes_by_rule(whole: Path, database_url: str, tmp_path: Path) -> None:
    """A clone needs what finds pg_dump: without that folder plan succeeds, and says why it measures nothing."""
    project = copied(whole, tmp_path / "project", "databases/backups")
    done = python(project, "-m", "shop.db_migrations", "plan", "--json", url=database_url)
    plan = json.loads(done.stdout)
    assert (done.returncode, [one["revision"] for one in plan["revisions"]]) == (0, ["first", "second"]), done.stderr
    assert "has no folder databases/backups" in plan["why_by_rule"]
