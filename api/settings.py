"""The service's own settings; those of the migrations are `api.migrations.settings`."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from .migrations.settings import env_file


class Settings(BaseSettings):
    """The settings of the ledger."""

    model_config = SettingsConfigDict(
        env_file=env_file.ENV_FILE,
        env_file_encoding=env_file.ENCODING,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    database_url: SecretStr = SecretStr("")
    """The migrations check it before the service creates its pool."""
    database_url_file: Path | None = None
    """A file that contains the URL, such as a container's secret."""

    @classmethod
    def load(cls) -> Self:
        """Read the environment and `.env`. Raises `ConfigurationError` if the file cannot be read."""
        with env_file.checked():
            return cls()
