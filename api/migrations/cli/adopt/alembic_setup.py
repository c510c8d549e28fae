"""What `adopt` finds about Alembic's configuration, the database and the requirements."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser, Error
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from posixpath import normpath

from ...settings import MigrationSettings
from .project import Project
from .report import Fact, Need

_SCHEME = re.compile(r"\b(postgres(?:ql)?|mysql|mariadb|sqlite)(\+\w+)?://")
_EVERY = ("alembic", "asyncpg", "sqlalchemy[asyncio]", "pydantic-settings")
_INSTEAD = {
    "sqlalchemy[asyncio]": "(sqlalchemy|sqlmodel)",
    "pydantic-settings": r"(pydantic-settings|fastapi\[(all|standard)[\],])",
}
"""The pattern of those that other packages bring along."""
_ALSO = {"mysql": ("asyncmy", "cryptography"), "mariadb": ("asyncmy", "cryptography"), "sqlite": ("aiosqlite",)}


@dataclass(frozen=True)
class Setup:
    """Alembic's files: the configuration and env.py, if they were found."""

    config: str | None = None
    scripts: str | None = None
    urls: str = ""
    """The text in which the configuration may name a URL."""

    @property
    def env_py(self) -> str | None:
        """The path of env.py."""
        return f"{self.scripts}/env.py" if self.scripts else None


def find(project: Project) -> tuple[Setup, list[Fact]]:
    """Return Alembic's files and the facts about its configuration."""
    settings = MigrationSettings.load_partial("alembic_config", "alembic_section")
    name, section = settings.alembic_config, settings.alembic_section
    with suppress(ValueError):  # outside of the project
        name = (project.root / name).relative_to(project.root).as_posix()
    if (project.root / name).is_file() and PurePosixPath(name).suffix != ".toml":
        return _of_ini(project, name, section)
    toml = _table(project, "pyproject.toml").get("tool", {}).get("alembic")
    if toml is not None:
        setup = Setup("pyproject.toml", _folder(project, str(toml.get("script_location", "")), "."))
        return setup, [_described(project, setup, "tool.alembic")]
    deeper = project.own(project.named(r"alembic\.ini"))
    if not deeper:
        message = (
            f"no {name} and no [tool.alembic] in pyproject.toml. To fix: run adopt in the folder of Alembic's file"
        )
        return Setup(), [Fact("alembic", Need.DO, message)]
    setup, facts = _of_ini(project, deeper[0], section)
    where = f"start the service and the commands in {PurePosixPath(deeper[0]).parent}"
    others = f"; not looked at: {', '.join(deeper[1:])}" if deeper[1:] else ""
    facts.append(Fact("alembic", Need.DO, f"To fix: {where}, or set MIGRATION_ALEMBIC_CONFIG={deeper[0]}{others}"))
    return setup, facts


def driver(project: Project, setup: Setup) -> Iterator[Fact]:
    """Yield the databases that the project's files name, and the packages that its requirements lack."""
    settings = MigrationSettings.load_partial("database_url", "migration_database_url")
    url = settings.migration_database_url or settings.database_url
    texts = [project.text(path) for path in project.sources]
    named = sorted({"".join(m.groups(default="")) for text in [setup.urls, *texts] for m in _SCHEME.finditer(text)})
    given = _SCHEME.match(url.get_secret_value()) if url else None
    if given is not None:
        yield Fact(
            "database", Need.OK, f"DATABASE_URL names {given[0].removesuffix('://')}; revisions run on that driver"
        )
        named = [given[0].removesuffix("://")]
    else:
        seen = f"; the files name {', '.join(named)}" if named else ""
        yield Fact("database", Need.UNKNOWN, f"DATABASE_URL is not set{seen}. The service and the commands need it")
    yield from _requirements(project, named)


def _requirements(project: Project, databases: list[str]) -> Iterator[Fact]:
    files = project.own(project.named(r"requirements[\w.-]*\.(txt|in)|pyproject\.toml|Pipfile|setup\.(cfg|py)"))
    if not files:
        yield Fact("packages", Need.UNKNOWN, f"no requirements were found. Needed: {', '.join(_EVERY)}")
        return
    text = "\n".join(project.text(path) for path in files).lower().replace("_", "-")
    kinds = {re.split(r"\+", database)[0] for database in databases}
    needed = (
        [*_EVERY, *(name for kind in sorted(kinds) for name in _ALSO.get(kind, ()))] if len(kinds) == 1 else [*_EVERY]
    )
    patterns = {name: _INSTEAD.get(name, name) for name in needed}
    missing = [name for name, pattern in patterns.items() if not re.search(rf"(?<![\w-]){pattern}(?![\w-])", text)]
    where = ", ".join(files[:3])
    if missing:
        yield Fact("packages", Need.DO, f"not in {where}: {', '.join(missing)}. To fix: add them")
    else:
        yield Fact("packages", Need.OK, f"in {where}: {', '.join(needed)}")


def _of_ini(project: Project, name: str, section: str) -> tuple[Setup, list[Fact]]:
    parser = ConfigParser(interpolation=None)
    try:
        parser.read_string(project.text(name))
    except Error as error:
        return Setup(name), [Fact("alembic", Need.DO, f"{name} does not parse: {type(error).__name__}")]
    sections = [each for each in parser.sections() if parser.has_option(each, "script_location")]
    chosen = section if section in sections else next(iter(sections), section)
    scripts = _folder(project, parser.get(chosen, "script_location", fallback=""), str(PurePosixPath(name).parent))
    setup = Setup(name, scripts, parser.get(chosen, "sqlalchemy.url", fallback=""))
    facts = [_described(project, setup, chosen)]
    if len(sections) > 1 or chosen != section:
        several = (
            f"sections with a script_location: {', '.join(sections) or 'none'}; MIGRATION_ALEMBIC_SECTION is {section}"
        )
        need = Need.MAY if chosen == section else Need.DO
        facts.append(Fact("alembic", need, f"{several}. To fix: set it to the section that the service migrates"))
    return setup, facts


def _described(project: Project, setup: Setup, section: str) -> Fact:
    below = f"{setup.scripts}/versions/"
    files = sum(path.startswith(below) and path.endswith(".py") for path in project.paths)
    return Fact(
        "alembic", Need.OK, f"{setup.config} [{section}], scripts in {setup.scripts}, {files} files in versions/"
    )


def _folder(project: Project, location: str, here: str) -> str:
    """Return the path of `script_location`: relative to the current folder or to `here`, or in a package."""
    package, colon, folder = location.replace("%(here)s", here).strip().partition(":")
    located = f"{package.replace('.', '/')}/{folder}" if colon else package
    # Alembic imports the package from the current folder or from an installed source folder
    places = [normpath(f"{root}/{located}") for root in (".", here, "src", f"{here}/..")]
    return next((place for place in places if f"{place}/env.py" in project.paths), places[0])


def _table(project: Project, path: str) -> dict[str, dict[str, dict[str, object]]]:
    try:
        return tomllib.loads(project.text(path))
    except ValueError:
        return {}
