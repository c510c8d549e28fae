"""What `adopt` finds about Alembic's configuration, the database and the requirements, and the line `fleet`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser, Error
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from posixpath import normpath

from ...settings import MigrationSettings
from .project import IS_INSTALLED, Project
from .report import Change, Fact, Need

_SCHEME = re.compile(r"\b(postgres(?:ql)?|mysql|mariadb|sqlite)(\+\w+)?://")
_EVERY = ("alembic", "asyncpg", "sqlalchemy[asyncio]", "pydantic-settings")
_INSTEAD = {
    "sqlalchemy[asyncio]": "(sqlalchemy|sqlmodel)",
    **{f"alembic-fleet[{extra}]": rf"alembic-fleet\[[^\]]*\b{extra}\b" for extra in ("mysql", "sqlite")},
    "pydantic-settings": r"(pydantic-settings|fastapi\[(all|standard)[\],])",
}
"""The pattern of those that other packages bring along."""
_DISTRIBUTION = {"mysql": "alembic-fleet[mysql]", "mariadb": "alembic-fleet[mysql]", "sqlite": "alembic-fleet[sqlite]"}
"""What brings all of them, if it is installed."""
_TOML = "pyproject.toml"
_REQUIREMENTS = r"requirements[\w.-]*\.(txt|in)|pyproject\.toml|Pipfile|setup\.(cfg|py)"
_ALSO = {"mysql": ("asyncmy", "cryptography"), "mariadb": ("asyncmy", "cryptography"), "sqlite": ("aiosqlite",)}


@dataclass(frozen=True)
class Setup:
    """Alembic's files: the configuration and env.py, if they were found."""

    config: str | None = None
    scripts: str | None = None
    urls: str = ""
    """The text in which the configuration may name a URL."""
    section: str = "alembic"
    """The section of the configuration, as its header names it."""
    is_chosen: bool = True
    """Whether it is the only section, and the one that the settings name."""
    fleet: object = None
    """The value of the option `fleet`; None if it is not there."""

    @property
    def env_py(self) -> str | None:
        """The path of env.py."""
        return f"{self.scripts}/env.py" if self.scripts else None

    @property
    def has_fleet(self) -> bool:
        """Whether the plugin of the distribution is switched on."""
        return self.fleet is not None and str(self.fleet).lower() not in {"0", "false", "no", "off"}


def find(project: Project) -> tuple[Setup, list[Fact]]:
    """Return Alembic's files and the facts about its configuration."""
    settings = MigrationSettings.load_partial("alembic_config", "alembic_section")
    name, section = settings.alembic_config, settings.alembic_section
    with suppress(ValueError):  # outside of the project
        name = (project.root / name).relative_to(project.root).as_posix()
    if (project.root / name).is_file() and PurePosixPath(name).suffix != ".toml":
        return _of_ini(project, name, section)
    if "alembic" in _tools(project, _TOML):
        return _of_toml(project, _TOML, {})
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
    yield from _requirements(project, setup, named)


def fleet(project: Project, setup: Setup) -> Change | None:
    """Return the change that switches on the plugin, or None if the option is there or nothing can be inserted."""
    text = project.text(setup.config or "")
    header = re.search(rf"^\[{re.escape(setup.section)}\][ \t]*(\r?\n)", text, re.M)
    if setup.config is None or setup.fleet is not None or header is None:
        return None
    after = f"{text[: header.end()]}fleet = true{header[1]}{text[header.end() :]}"
    return Change(setup.config, text.encode(), after.encode(), "typed commands acquire the lock", setup.is_chosen)


def _requirements(project: Project, setup: Setup, databases: list[str]) -> Iterator[Fact]:
    files, needed = _requirement_files(project, setup), _needed(databases)
    if not files:
        yield Fact("packages", Need.UNKNOWN, f"no requirements were found. Needed: {', '.join(needed)}")
        return
    text = "\n".join(project.text(path) for path in files).lower().replace("_", "-")
    patterns = {name: _INSTEAD.get(name, re.escape(name)) for name in needed}
    missing = [name for name, pattern in patterns.items() if not re.search(rf"(?<![\w-]){pattern}(?![\w-])", text)]
    where = ", ".join(files[:3])
    if missing:
        yield Fact("packages", Need.DO, f"not in {where}: {', '.join(missing)}. To fix: add them")
    else:
        yield Fact("packages", Need.OK, f"in {where}: {', '.join(needed)}")


def _needed(databases: list[str]) -> list[str]:
    kinds = {database.partition("+")[0] for database in databases}
    kind = kinds.pop() if len(kinds) == 1 else ""
    if IS_INSTALLED:
        return [_DISTRIBUTION.get(kind, "alembic-fleet")]
    return [*_EVERY, *_ALSO.get(kind, ())]


def _requirement_files(project: Project, setup: Setup) -> list[str]:
    """Return those of the root, and of the nearest folder above Alembic's file or of `backend`."""
    found = {path: PurePosixPath(path).parent for path in project.own(project.named(_REQUIREMENTS))}
    above = [*PurePosixPath(setup.config or "").parents, PurePosixPath("backend")]
    nearest = next((place for place in above if place in found.values()), None)
    return [path for path, place in found.items() if place in {PurePosixPath(), nearest}]


def _of_toml(project: Project, name: str, of_ini: dict[str, object]) -> tuple[Setup, list[Fact]]:
    options = _tools(project, name).get("alembic", {}) | of_ini
    location = str(options.get("script_location", ""))
    scripts = _folder(project, location, str(PurePosixPath(name).parent))
    setup = Setup(name, scripts, str(of_ini.get("sqlalchemy.url", "")), "tool.alembic", fleet=options.get("fleet"))
    return setup, [_described(project, setup, location)]


def _of_ini(project: Project, name: str, section: str) -> tuple[Setup, list[Fact]]:
    parser = ConfigParser(interpolation=None)
    try:
        parser.read_string(project.text(name))
    except Error as error:
        return Setup(name), [Fact("alembic", Need.DO, f"{name} does not parse: {type(error).__name__}")]
    sections = [each for each in parser.sections() if parser.has_option(each, "script_location")]
    toml = str(PurePosixPath(name).with_name(_TOML))
    of_toml = _tools(project, toml).get("alembic", {})  # Alembic reads both, first the ini
    if not sections and of_toml:
        return _of_toml(project, toml, _options(parser, section))
    chosen = section if section in sections else next(iter(sections), section)
    options = of_toml | _options(parser, chosen)
    location, url = (str(options.get(name, "")) for name in ("script_location", "sqlalchemy.url"))
    scripts = _folder(project, location, str(PurePosixPath(name).parent))
    setup = Setup(name, scripts, url, chosen, chosen == section and len(sections) == 1, options.get("fleet"))
    facts = [_described(project, setup, location)]
    if len(sections) > 1 or chosen != section:
        several = (
            f"sections with a script_location: {', '.join(sections) or 'none'}; MIGRATION_ALEMBIC_SECTION is {section}"
        )
        need = Need.MAY if chosen == section else Need.DO
        facts.append(Fact("alembic", need, f"{several}. To fix: set it to the section that the service migrates"))
    return setup, facts


def _options(parser: ConfigParser, section: str) -> dict[str, object]:
    return dict(parser[section]) if section in parser else {}


def _described(project: Project, setup: Setup, location: str) -> Fact:
    where = f"{setup.config} [{setup.section}]"
    if setup.scripts is None:
        message = (
            f"{where}: no package for script_location {location} was found, so its env.py and revisions were not read. "
            "To fix: run adopt with the Python of the project"
        )
        return Fact("alembic", Need.UNKNOWN, message)
    files = len([*(project.root / setup.scripts / "versions").rglob("*.py")])
    return Fact("alembic", Need.OK, f"{where}, scripts in {setup.scripts}, {files} files in versions/")


def _folder(project: Project, location: str, here: str) -> str | None:
    """Return the path of `script_location`: relative to the current folder or to `here`, or in a package.

    None if it names a package that is neither in the project nor installed.
    """
    package, colon, folder = location.replace("%(here)s", here).strip().partition(":")
    located = f"{package.replace('.', '/')}/{folder}" if colon else package
    # Alembic imports the package from the current folder or from an installed source folder
    places = [normpath(f"{root}/{located}") for root in (".", here, "src", f"{here}/..")]
    found = next((place for place in places if f"{place}/env.py" in project.paths), None)
    return _installed(package, folder) if found is None and colon else found or places[0]


def _installed(package: str, folder: str) -> str | None:
    """Return the absolute path of a folder in an installed package, which is not imported."""
    top, *deeper = package.split(".")
    spec = None
    with suppress(ImportError, ValueError):
        spec = find_spec(top)
    roots = (spec.submodule_search_locations if spec else None) or ()
    folders = [Path(root, *deeper, folder) for root in roots]
    return next((each.as_posix() for each in folders if (each / "env.py").is_file()), None)


def _tools(project: Project, path: str) -> dict[str, dict[str, object]]:
    try:
        tools: dict[str, dict[str, object]] = tomllib.loads(project.text(path)).get("tool", {})
        return tools
    except ValueError:
        return {}
