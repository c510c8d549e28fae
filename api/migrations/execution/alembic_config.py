"""Reads the configuration as Alembic's command line does: an ini file, `[tool.alembic]` in `pyproject.toml`."""

from __future__ import annotations

import tomllib
from configparser import ConfigParser, Error
from pathlib import Path

from alembic.config import Config

from ..errors import ConfigurationError, foreign
from .revision_files import TOML


def open_config(file: str, section: str = "alembic") -> Config:
    """Return the configuration in `file`, an ini or a `pyproject.toml`, and in a `pyproject.toml` beside an ini.

    Of an ini its `section` counts, as with `alembic -n`; `pyproject.toml` has only one.

    Raises:
        ConfigurationError: no file has a configuration of Alembic, or the ini lacks the section.
    """
    path = Path(file)
    toml = path if path.name == TOML else path.with_name(TOML)
    ini = path if path != toml and path.is_file() else None
    has_toml = toml.is_file() and "alembic" in _tools(toml)
    if ini is None and not has_toml:
        beside = "" if path == toml else f", and no [tool.alembic] in a {TOML} beside it"
        missing = (
            "has no [tool.alembic]" if toml == path and path.is_file() else f"not found in {Path.cwd()}, or no file"
        )
        raise ConfigurationError(
            f"{file} {missing}{beside}. To fix: start the service in the project's folder, or set "
            "MIGRATION_ALEMBIC_CONFIG"
        )
    if section != "alembic" and (ini is None or section not in _sections(ini)):
        raise ConfigurationError(
            f"{ini or toml} has no section [{section}]. To fix: correct MIGRATION_ALEMBIC_SECTION, or add the section"
        )
    return Config(ini, toml_file=toml if has_toml else None, ini_section=section)


def name_of(config: Config) -> Path:
    """Return the absolute path of the file that `config` was read from; of two files the ini."""
    return Path(str(config.config_file_name or config.toml_file_name)).absolute()


def _tools(toml: Path) -> dict[str, object]:
    try:
        tools: dict[str, object] = tomllib.loads(toml.read_text(encoding="utf-8")).get("tool", {})
        return tools
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{toml.absolute()} cannot be read: {foreign(str(error))}. To fix: correct the file"
        ) from error


def _sections(ini: Path) -> list[str]:
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(ini, encoding="utf-8")
    except Error:  # Alembic reports it
        return []
    return parser.sections()
