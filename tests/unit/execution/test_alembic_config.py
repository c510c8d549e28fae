"""Alembic's configuration is found in an ini file, in a pyproject.toml, or in both, as Alembic's command line does."""

from pathlib import Path

import pytest

from api.migrations.errors import ConfigurationError
from api.migrations.execution.alembic_config import name_of, open_config

TOML = '[tool.alembic]\nscript_location = "%(here)s/from_toml"\n'


def test_an_ini_file_alone_is_read(tmp_path: Path) -> None:
    """The configuration of an ini file without a pyproject.toml beside it is read from its section."""
    ini = tmp_path / "alembic.ini"
    ini.write_text("[alembic]\nscript_location = here\n[other]\nscript_location = there\n")
    assert open_config(str(ini)).get_alembic_option("script_location") == "here"
    assert open_config(str(ini), "other").get_alembic_option("script_location") == "there"


def test_a_pyproject_toml_is_read_alone_and_beside_an_ini(tmp_path: Path) -> None:
    """`[tool.alembic]` counts without an ini file, and beside an ini file that lacks the option."""
    toml, ini = tmp_path / "pyproject.toml", tmp_path / "alembic.ini"
    toml.write_text(TOML)
    for name in (toml, ini):
        config = open_config(str(name))
        assert config.get_alembic_option("script_location") == f"{tmp_path}/from_toml"
        assert name_of(config) == toml
    ini.write_text("[alembic]\nsqlalchemy.url = driver://\n")
    config = open_config(str(ini))
    assert config.get_alembic_option("script_location") == f"{tmp_path}/from_toml"
    assert name_of(config) == ini


@pytest.mark.parametrize(
    ("toml", "section", "words"),
    [
        (None, "alembic", "not found in"),
        ("[tool.other]\n", "alembic", r"no \[tool.alembic\]"),
        ("[tool", "alembic", "cannot be read"),
        (TOML, "tenants", r"has no section \[tenants\]"),
    ],
)
def test_a_missing_configuration_is_refused(tmp_path: Path, toml: str | None, section: str, words: str) -> None:
    """A missing file or section is refused with the setting that corrects it, or the file."""
    if toml is not None:
        (tmp_path / "pyproject.toml").write_text(toml)
    with pytest.raises(ConfigurationError, match=words) as refused:
        open_config(str(tmp_path / "alembic.ini"), section)
    assert "To fix: " in str(refused.value)
