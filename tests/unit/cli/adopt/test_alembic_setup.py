"""`adopt` finds the configuration, the scripts, the database and the requirements, and contacts nothing."""

from pathlib import Path

import pytest

from api.migrations.cli.adopt.report import Need
from tests.unit.cli.adopt.foreign_project import CONFIGURED, INI, RUN_ENV, adopted, said, write


def test_nothing_is_contacted_and_no_password_is_shown(folder: Path) -> None:
    """Without a URL the facts say what was not checked; passwords in files are in no output."""
    write(folder, "requirements.txt", "fastapi\nalembic\nsqlmodel\n")
    write(folder, "start.sh", "DATABASE_URL=postgresql://u:secret-word@h/d gunicorn --workers 4\n")
    result = adopted()
    assert "unknown DATABASE_URL is not set; the files name postgresql." in said(result, "database")
    assert "not in requirements.txt: asyncpg, pydantic-settings" in said(result, "packages")
    assert "unknown not contacted" in said(result, "server")
    assert "secret-word" not in "\n".join(result.lines())
    assert {fact.need for fact in result.facts} >= {Need.OK, Need.DO, Need.UNKNOWN}


def test_requirements_of_other_folders_do_not_count(folder: Path) -> None:
    """The root's requirements and those of `backend` count; a file of a tool somewhere below does not."""
    write(folder, "utils/telemetry/setup.py", "install_requires = ['asyncpg']\n")
    assert "no requirements were found" in said(adopted(), "packages")
    write(folder, "backend/pyproject.toml", "dependencies = ['alembic', 'sqlalchemy']\n")
    assert "not in backend/pyproject.toml: asyncpg, pydantic-settings" in said(adopted(), "packages")
    write(folder, "requirements.txt", "alembic\nasyncpg\nsqlmodel\npydantic-settings\n")
    assert "ok in requirements.txt: alembic, asyncpg" in said(adopted(), "packages")


@pytest.mark.usefixtures("installed")
def test_the_installed_package_needs_itself_in_the_requirements(folder: Path) -> None:
    """The distribution brings its dependencies; the requirements must name it, with the extra of the database."""
    write(folder, "requirements.txt", "fastapi\nalembic-fleet[metrics]\n")
    assert "ok in requirements.txt: alembic-fleet" in said(adopted(), "packages")
    write(folder, "alembic.ini", INI.replace("postgresql://", "mysql+asyncmy://"))
    assert "not in requirements.txt: alembic-fleet[mysql]" in said(adopted(), "packages")
    write(folder, "requirements.txt", "alembic-fleet[metrics,mysql]>=0.1\n")
    assert "ok in requirements.txt: alembic-fleet[mysql]" in said(adopted(), "packages")


def test_scripts_in_an_installed_package_are_found_without_importing_it(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`script_location = package:folder` names an installed package; without it adopt says that it read nothing."""
    write(folder, "alembic.ini", INI.replace("%(here)s/migrations", "depot.store:db/scripts"))
    result = adopted()
    assert "unknown alembic.ini [alembic]: no package for script_location depot.store:db/scripts" in said(
        result, "alembic"
    )
    assert said(result, "env.py") == ""
    site = tmp_path_factory.mktemp("site")
    write(site, "depot/__init__.py", "raise RuntimeError('imported')\n")
    write(site, "depot/store/db/scripts/env.py", CONFIGURED.format(before="lock('pg_advisory_lock')"))
    write(site, "depot/store/db/scripts/versions/a.py", "")
    monkeypatch.syspath_prepend(site)
    result = adopted(write=True)
    scripts = f"{site.as_posix()}/depot/store/db/scripts"
    assert f"scripts in {scripts}, 1 files in versions/" in said(result, "alembic")
    assert "may opens a connection of its own" in said(result, "env.py")
    assert [change.path for change in result.changes] == ["shop/main.py"]


def test_a_configuration_in_another_folder_or_section_is_named(folder: Path) -> None:
    """The ini is in a subfolder and has another section: the facts name the two settings."""
    (folder / "alembic.ini").unlink()
    write(folder, "backend/alembic.ini", INI.replace("[alembic]", "[core]"))
    write(folder, "backend/migrations/env.py", RUN_ENV)
    text = said(adopted(), "alembic")
    assert "backend/alembic.ini [core], scripts in backend/migrations" in text
    assert "MIGRATION_ALEMBIC_CONFIG=backend/alembic.ini" in text
    assert "MIGRATION_ALEMBIC_SECTION is alembic" in text
